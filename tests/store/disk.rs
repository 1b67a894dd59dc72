//! A full disk: an error that names the file, nothing half-written, and a store that goes on once there is room.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use wherefore::Error;
use wherefore::store::Part;

use super::{block, build, contents, create, plain, write_blocks};

const TOTAL: u64 = 30;

/// Writing to `/dev/full` is what writing to a full disk is; a link there under the sibling's name needs no privilege.
#[cfg(target_os = "linux")]
#[test]
fn each_file_that_does_not_fit_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let (whole, full) = (root.path().join("whole"), root.path().join("full"));
    build(&whole, &plain(), Part::WHOLE, TOTAL);
    let mut writer = create(&full, &plain(), Part::WHOLE, false).unwrap();
    write_blocks(&mut writer, &plain(), Part::WHOLE, TOTAL, 2);
    let before = contents(&full);
    for name in ["shard-00002.jsonl", "shard-00002.safetensors", "manifest.json"] {
        std::os::unix::fs::symlink("/dev/full", full.join(format!("{name}.tmp"))).unwrap();
        let error = writer.write(&block(&plain(), 2, TOTAL, &[2])).unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if path.ends_with(name)), "{error}");
        assert!(error.to_string().contains("No space left"), "{error}");
        let mut after = contents(&full);
        if name == "manifest.json" {
            // The shard's files are whole; they stay for the resume to remove or write again, and no manifest names
            // them.
            after.retain(|name, _| !name.starts_with("shard-00002"));
        }
        assert_eq!(after, before, "{name}");
    }
    write_blocks(&mut writer, &plain(), Part::WHOLE, TOTAL, usize::MAX);
    writer.finish(TOTAL).unwrap();
    assert_eq!(contents(&full), contents(&whole));
}

/// Set where this test's own executable is called again, inside a namespace with a small disk of its own.
const INSIDE: &str = "WHEREFORE_TEST_STORE_SMALL_DISK";

#[cfg(target_os = "linux")]
#[test]
fn a_small_disk_that_fills_up_keeps_the_finished_blocks() {
    if let Some(disk) = env::var_os(INSIDE) {
        return fill(Path::new(&disk));
    }
    let root = tempfile::tempdir().unwrap();
    let test = "store::disk::a_small_disk_that_fills_up_keeps_the_finished_blocks";
    let script = r#"mount -t tmpfs -o size=128k none "$1" || exit 77; exec "$2" --exact "$3" --nocapture"#;
    let outcome = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .args([root.path().as_os_str(), env::current_exe().unwrap().as_os_str(), test.as_ref()])
        .env(INSIDE, root.path())
        .output();
    match outcome {
        Ok(output) if output.status.success() => {
            assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the test did not run inside");
        }
        Ok(output) if output.status.code() == Some(101) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        // No namespaces here: the test above is what is left.
        _ => {}
    }
}

/// Writes until the disk is full, makes room, and goes on.
#[cfg(target_os = "linux")]
fn fill(disk: &Path) {
    const RECORDS: u64 = 40 * super::BLOCK_RECORDS;
    let store = disk.join("store");
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![0; 40 << 10]).unwrap();
    let mut writer = create(&store, &plain(), Part::WHOLE, false).unwrap();
    let failed = (0..40).find_map(|number| writer.write(&block(&plain(), number, RECORDS, &[2])).err());
    let error = failed.expect("the disk has no room for all blocks");
    assert!(matches!(&error, Error::Io { path, .. } if path.starts_with(&store)), "{error}");
    let finished = writer.finished().count();
    assert!(finished > 0, "some blocks had room");
    assert!(!contents(&store).keys().any(|name| name.contains(".tmp")));
    drop(writer);

    fs::remove_file(ballast).unwrap();
    let writer = create(&store, &plain(), Part::WHOLE, true).unwrap();
    assert_eq!(writer.finished().count(), finished, "what was finished stays");
}
