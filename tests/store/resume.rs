//! A run that ended anywhere goes on, to the same bytes.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use wherefore::backend::Precision;
use wherefore::model::Problem;
use wherefore::store::{Dtype, Part, Store, merge};

use super::{build, contents, create, plain, settings, told, write_blocks};

const TOTAL: u64 = 30;

#[test]
fn a_run_that_ends_after_any_block_goes_on_to_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let settings = settings(Problem::SingleLabel, Dtype::Bf16, 1);
    for part in [Part::WHOLE, Part { index: 1, count: 2 }] {
        let whole = root.path().join(format!("whole-{}", part.count));
        build(&whole, &settings, part, TOTAL);
        for first in 0..=8 {
            let broken = root.path().join(format!("broken-{first}-{}", part.count));
            let mut writer = create(&broken, &settings, part, false).unwrap();
            write_blocks(&mut writer, &settings, part, TOTAL, first);
            drop(writer);
            finish(&broken, &settings, part);
            assert_eq!(contents(&broken), contents(&whole), "ended after {first} blocks");
            finish(&broken, &settings, part);
            assert_eq!(contents(&broken), contents(&whole), "a finished run resumed does nothing");
        }
    }
}

fn finish(directory: &Path, settings: &wherefore::store::Settings, part: Part) {
    let mut writer = create(directory, settings, part, true).unwrap();
    assert!(write_blocks(&mut writer, settings, part, TOTAL, usize::MAX));
    writer.finish(TOTAL).unwrap();
}

/// Set where this test's own executable is called again, as the process to be killed.
const VICTIM: &str = "WHEREFORE_TEST_STORE_VICTIM";

#[test]
fn a_killed_process_leaves_a_store_that_goes_on() {
    const RECORDS: u64 = 60 * super::BLOCK_RECORDS;
    let finish = |directory: &Path| {
        let mut writer = create(directory, &plain(), Part::WHOLE, true).unwrap();
        write_blocks(&mut writer, &plain(), Part::WHOLE, RECORDS, usize::MAX);
        writer.finish(RECORDS).unwrap();
    };
    if let Some(directory) = env::var_os(VICTIM) {
        finish(Path::new(&directory));
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (whole, killed) = (root.path().join("whole"), root.path().join("killed"));
    finish(&whole);
    let mut kills = 0;
    for milliseconds in [5, 10, 20, 40, 60, 80] {
        let mut victim = Command::new(env::current_exe().unwrap())
            .args(["--exact", "store::resume::a_killed_process_leaves_a_store_that_goes_on"])
            .env(VICTIM, &killed)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        kills += u32::from(victim.try_wait().unwrap().is_none());
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    assert!(kills > 0, "no process lived long enough to be killed");
    finish(&killed);
    assert_eq!(contents(&killed), contents(&whole));
}

#[test]
fn leftovers_of_a_killed_run_are_removed() {
    let root = tempfile::tempdir().unwrap();
    let (whole, broken) = (root.path().join("whole"), root.path().join("broken"));
    build(&whole, &plain(), Part::WHOLE, TOTAL);
    let mut writer = create(&broken, &plain(), Part::WHOLE, false).unwrap();
    write_blocks(&mut writer, &plain(), Part::WHOLE, TOTAL, 2);
    drop(writer);
    // Renamed but not yet in the manifest, and half written.
    for name in ["shard-00002.jsonl", "shard-00002.safetensors.tmp", "manifest.json.tmp"] {
        fs::write(broken.join(name), b"leftover").unwrap();
    }
    finish(&broken, &plain(), Part::WHOLE);
    assert_eq!(contents(&broken), contents(&whole));
}

#[test]
fn a_run_killed_before_its_first_manifest_is_begun_again() {
    let root = tempfile::tempdir().unwrap();
    let (whole, broken) = (root.path().join("whole"), root.path().join("broken"));
    build(&whole, &plain(), Part::WHOLE, TOTAL);
    fs::create_dir(&broken).unwrap();
    for name in [".lock", "head.safetensors", "manifest.json.tmp"] {
        fs::write(broken.join(name), b"").unwrap();
    }
    assert!(told(create(&broken, &plain(), Part::WHOLE, false)).contains("--resume"));
    finish(&broken, &plain(), Part::WHOLE);
    assert_eq!(contents(&broken), contents(&whole));
}

#[test]
fn data_that_changed_are_noticed() {
    let root = tempfile::tempdir().unwrap();
    let mut writer = create(root.path(), &plain(), Part::WHOLE, false).unwrap();
    write_blocks(&mut writer, &plain(), Part::WHOLE, TOTAL, 3);
    assert!(!writer.has(3, "anything").unwrap());
    let message = told(writer.has(1, "changed"));
    assert!(message.contains("block 1 (records from 4 on)") && message.contains("changed now"), "{message}");
    let message = told(writer.finish(8));
    assert!(message.contains("has block 2, but the data end at 8 records"), "{message}");
}

#[test]
fn a_finished_store_takes_no_more() {
    let root = tempfile::tempdir().unwrap();
    build(root.path(), &plain(), Part::WHOLE, TOTAL);
    let before = contents(root.path());
    let mut writer = create(root.path(), &plain(), Part::WHOLE, true).unwrap();
    let message = told(writer.write(&super::block(&plain(), 8, 40, &[])));
    assert!(message.contains("finished with 30 records"), "{message}");
    let message = told(writer.finish(31));
    assert!(message.contains("finished with 30 records, and the data now have 31"), "{message}");
    assert_eq!(contents(root.path()), before);
    Store::open(root.path()).unwrap();
}

/// Stores made before precisions were noted have none, and so have factors that were given.
#[test]
fn precisions_are_compared_where_both_are_known() {
    let root = tempfile::tempdir().unwrap();
    let of = |precision| wherefore::store::Settings { precision, ..plain() };
    let [none, f32, bf16] = [None, Some(Precision::F32), Some(Precision::Bf16)].map(of);
    let parts: Vec<_> = [&f32, &none, &bf16].into_iter().enumerate().collect();
    let part = |(index, settings): &(usize, &wherefore::store::Settings)| {
        let directory = root.path().join(format!("part-{index}"));
        build(&directory, settings, Part { index: *index as u64, count: 3 }, TOTAL);
        directory
    };
    let made: Vec<_> = parts.iter().map(part).collect();
    for (directory, own) in made.iter().zip([&f32, &none, &bf16]) {
        let part = Part { index: made.iter().position(|one| one == directory).unwrap() as u64, count: 3 };
        for other in [&none, &f32, &bf16] {
            let gone_on = create(directory, other, part, true);
            let mixed = own.precision.is_some() && other.precision.is_some() && own.precision != other.precision;
            assert_eq!(gone_on.is_err(), mixed, "{:?} {:?}", own.precision, other.precision);
        }
    }
    // Whichever of them comes first.
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
        let message = told(merge(root.path().join("merged"), &order.map(|i| &made[i])));
        assert!(message.contains("precision: ") && message.contains("--precision "), "{message}");
    }
    std::fs::remove_dir_all(&made[2]).unwrap();
    build(&made[2], &f32, Part { index: 2, count: 3 }, TOTAL);
    let merged = root.path().join("merged");
    merge(&merged, &made).unwrap();
    let settings = Store::open(&merged).unwrap().settings().clone();
    assert_eq!(settings.precision, None, "what is known of two is not known of the third");
}

#[test]
fn a_resume_verifies_what_it_goes_on_from() {
    let root = tempfile::tempdir().unwrap();
    let mut writer = create(root.path(), &plain(), Part::WHOLE, false).unwrap();
    write_blocks(&mut writer, &plain(), Part::WHOLE, TOTAL, 3);
    drop(writer);
    let victim = root.path().join("shard-00001.jsonl");
    let mut bytes = fs::read(&victim).unwrap();
    bytes[9] ^= 4;
    fs::write(&victim, bytes).unwrap();
    let message = told(create(root.path(), &plain(), Part::WHOLE, true));
    assert!(message.contains("shard-00001.jsonl") && message.contains("checksum"), "{message}");
}
