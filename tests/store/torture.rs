//! A store's whole life (made, added to twice, taken from) killed at many instants, torn, and run by two processes at
//! once: always the bytes of a life without accidents.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use wherefore::dataset::Digest;
use wherefore::store::{Part, Removal, Store, StoreWriter, info, remove, verify};

use super::keeping::later;
use super::{BLOCK_RECORDS, contents, create, plain, write_blocks};

/// Records after each step of the life.
const STEPS: [u64; 3] = [10, 27, 42];
const REMOVED: [u64; 5] = [3, 9, 10, 26, 41];
/// Does what is left to do, from whatever state.
fn live(directory: &Path) -> wherefore::Result<()> {
    let state = || info(directory).ok().filter(|info| info.complete).and_then(|info| info.records);
    if state().is_none() && !is_being_added_to(directory) {
        let mut writer = create(directory, &plain(), Part::WHOLE, true)?;
        write_blocks(&mut writer, &plain(), Part::WHOLE, STEPS[0], usize::MAX);
        writer.finish(STEPS[0])?;
    }
    for (from, to) in STEPS.into_iter().zip(STEPS.into_iter().skip(1)) {
        if state().is_none_or(|records| records == from) {
            add(directory, to)?;
        }
    }
    remove(directory, &Removal { indices: REMOVED.into(), ..Removal::default() }).map(drop)
}

fn is_being_added_to(directory: &Path) -> bool {
    Store::open(directory).is_err_and(|error| error.to_string().contains("data are being added"))
}

/// Adds the records up to `total`, or goes on with that.
fn add(directory: &Path, total: u64) -> wherefore::Result<()> {
    let mut writer = StoreWriter::append(directory, &plain(), Part::WHOLE)?;
    let (first, before): (u64, Digest) = writer.begins_at()?;
    if first >= total || !STEPS.windows(2).any(|step| step == [first, total]) {
        return Ok(());
    }
    for number in first / BLOCK_RECORDS..total.div_ceil(BLOCK_RECORDS) {
        let block = later(&plain(), number, first, total, before);
        if !writer.has(number, &block.data_fingerprint)? {
            writer.write(&block)?;
        }
    }
    writer.finish(total)
}

/// Set where this test's own executable is called again.
const VICTIM: &str = "WHEREFORE_TEST_STORE_LIFE";

fn spawn(test: &str, directory: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", &format!("store::torture::{test}")])
        .env(VICTIM, directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// How often a process is begun and killed: `WHEREFORE_TORTURE` for more.
fn instants() -> u64 {
    env::var("WHEREFORE_TORTURE").ok().and_then(|instants| instants.parse().ok()).unwrap_or(120)
}

#[test]
fn a_life_killed_at_many_instants_ends_in_the_same_bytes() {
    if let Some(directory) = env::var_os(VICTIM) {
        return live(Path::new(&directory)).unwrap();
    }
    let root = tempfile::tempdir().unwrap();
    let (whole, killed) = (root.path().join("whole"), root.path().join("killed"));
    live(&whole).unwrap();
    let (mut kills, mut lives) = (0, 0);
    // Steps that share no divisor with what the process does by the clock; a life that came to its end begins anew.
    for instant in 0..instants() {
        let mut victim = spawn("a_life_killed_at_many_instants_ends_in_the_same_bytes", &killed);
        std::thread::sleep(Duration::from_micros(1_500 + instant * 7_919 % 23_000));
        kills += u32::from(victim.try_wait().unwrap().is_none());
        victim.kill().unwrap();
        if victim.wait().unwrap().success() {
            assert_eq!(contents(&killed), contents(&whole), "a life that ended by itself");
            fs::remove_dir_all(&killed).unwrap();
            lives += 1;
        } else if info(&killed).is_ok() {
            let verified = verify(&killed).unwrap();
            assert!(verified.is_sound(), "{:?}", verified.problems);
        }
    }
    assert!(kills >= 40, "only {kills} processes lived long enough to be killed, {lives} came to their end");
    live(&killed).unwrap();
    assert_eq!(contents(&killed), contents(&whole));
}

#[test]
fn two_processes_at_once_make_one_store() {
    if let Some(directory) = env::var_os(VICTIM) {
        let busy = |outcome: &wherefore::Result<()>| {
            outcome.as_ref().is_err_and(|error| error.to_string().contains("another process is writing"))
        };
        while busy(&live(Path::new(&directory))) {}
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (whole, shared) = (root.path().join("whole"), root.path().join("shared"));
    live(&whole).unwrap();
    let both = [0, 1].map(|_| spawn("two_processes_at_once_make_one_store", &shared));
    for mut process in both {
        assert!(process.wait().unwrap().code().is_some(), "it came to its end");
    }
    // Whatever one refused to do to what the other had half done, it broke nothing.
    live(&shared).unwrap();
    assert_eq!(contents(&shared), contents(&whole));
}

#[test]
fn torn_files_that_no_manifest_names_leave_no_trace() {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    live(&whole).unwrap();
    let names = [
        "manifest.json.tmp",
        "shard-00002.next.safetensors",
        "shard-00002.next.jsonl.tmp",
        "shard-00020.safetensors",
        "shard-00020.jsonl",
    ];
    for torn in [0, 1, 64, 700] {
        let directory = root.path().join(format!("torn-{torn}"));
        let mut writer = create(&directory, &plain(), Part::WHOLE, false).unwrap();
        write_blocks(&mut writer, &plain(), Part::WHOLE, STEPS[0], usize::MAX);
        writer.finish(STEPS[0]).unwrap();
        for to in &STEPS[1..] {
            for name in names {
                fs::write(directory.join(name), vec![0x5A; torn]).unwrap();
            }
            add(&directory, *to).unwrap();
        }
        remove(&directory, &Removal { indices: REMOVED.into(), ..Removal::default() }).unwrap();
        assert_eq!(contents(&directory), contents(&whole), "{torn} bytes");
    }
}
