//! `--shard I/N`, `merge`, and several parts open as one.

use std::fs;
use std::path::{Path, PathBuf};

use wherefore::model::Problem;
use wherefore::store::{Dtype, Part, Removal, Settings, Store, merge, remove, verify};

use super::{build, contents, plain, settings, told};

const TOTAL: u64 = 23;

/// The parts of `count` jobs.
fn parts(root: &tempfile::TempDir, settings: &Settings, count: u64, total: u64) -> Vec<PathBuf> {
    let parts = (0..count).map(|index| {
        let directory = root.path().join(format!("part-{index}-of-{count}"));
        build(&directory, settings, Part { index, count }, total);
        directory
    });
    parts.collect()
}

#[test]
fn merged_parts_are_one_runs_bytes() {
    let root = tempfile::tempdir().unwrap();
    for (settings, total) in [(settings(Problem::MultiLabel, Dtype::F16, 2), TOTAL), (plain(), 8), (plain(), 0)] {
        let whole = root.path().join(format!("whole-{total}"));
        build(&whole, &settings, Part::WHOLE, total);
        for count in [1, 2, 3, 9] {
            let mut parts = parts(&root, &settings, count, total);
            parts.reverse();
            let merged = root.path().join(format!("merged-{count}-{total}"));
            merge(&merged, &parts).unwrap();
            assert_eq!(contents(&merged), contents(&whole), "{count} parts");
            merge(&merged, &parts).expect("merging again changes nothing");
            assert_eq!(contents(&merged), contents(&whole), "{count} parts, twice");
            for part in &parts {
                fs::remove_dir_all(part).unwrap();
            }
            assert!(verify(&merged).unwrap().is_sound(), "a merged store stands without its parts");
        }
    }
}

#[test]
fn a_merge_across_file_systems_copies() {
    // Where there is no second file system to be had, the first test's links are all there is to see.
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return crate::lacking("no folder in /dev/shm") };
    let root = tempfile::tempdir().unwrap();
    let parts = parts(&root, &plain(), 2, TOTAL);
    let (merged, whole) = (other.path().join("merged"), root.path().join("whole"));
    build(&whole, &plain(), Part::WHOLE, TOTAL);
    merge(&merged, &parts).unwrap();
    assert_eq!(contents(&merged), contents(&whole));
}

#[test]
fn a_killed_merge_is_done_again() {
    let root = tempfile::tempdir().unwrap();
    let parts = parts(&root, &plain(), 2, TOTAL);
    let (merged, whole) = (root.path().join("merged"), root.path().join("whole"));
    build(&whole, &plain(), Part::WHOLE, TOTAL);
    // As a merge that was killed half way leaves it: an empty manifest, some files linked, one half copied.
    drop(super::create(&merged, &plain(), Part::WHOLE, false).unwrap());
    fs::hard_link(parts[0].join("shard-00000.jsonl"), merged.join("shard-00000.jsonl")).unwrap();
    fs::write(merged.join("shard-00001.safetensors.tmp"), b"half").unwrap();
    merge(&merged, &parts).unwrap();
    assert_eq!(contents(&merged), contents(&whole));
}

#[test]
fn parts_open_as_one_in_any_order() {
    let root = tempfile::tempdir().unwrap();
    let parts = parts(&root, &plain(), 3, TOTAL);
    let whole = root.path().join("whole");
    build(&whole, &plain(), Part::WHOLE, TOTAL);
    let (whole, together) =
        (Store::open(&whole).unwrap(), Store::open_many(&[&parts[2], &parts[0], &parts[1]]).unwrap());
    assert_eq!(together.rows(), whole.rows());
    assert_eq!(together.data_fingerprint(), whole.data_fingerprint());
    for (ours, theirs) in together.shards().iter().zip(whole.shards()) {
        assert_eq!(ours.indices(), theirs.indices());
        assert_eq!(ours.factors().deltas, theirs.factors().deltas);
    }
    let one = Store::open(&parts[1]).unwrap();
    let blocks: Vec<u64> = one.shards().iter().map(wherefore::store::Shard::number).collect();
    assert_eq!(blocks, [1, 4], "a part alone can be searched");
    assert_eq!(one.find(0), None);
}

#[test]
fn parts_that_are_not_all_or_not_of_one_kind_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let mine = parts(&root, &plain(), 3, TOTAL);
    let merged = root.path().join("merged");
    let message = told(merge(&merged, &mine[..2]));
    assert!(message.contains("block 2 ") && message.contains("part 2/3 is missing"), "{message}");
    let message = told(merge(&merged, &[&mine[0], &mine[1], &mine[1], &mine[2]]));
    assert!(message.contains("block 1 is in both"), "{message}");
    assert!(told(Store::open_many(&[&mine[0], &mine[0]])).contains("block 0 is in both"));

    let mut settings = plain();
    settings.tokenizer_fingerprint = "other".into();
    let theirs = parts(&root, &settings, 4, TOTAL);
    let message = told(merge(&merged, &[&mine[0], &theirs[1]]));
    assert!(message.contains("tokenizer_fingerprint") && message.contains("\"other\""), "{message}");

    let shorter = parts(&root, &plain(), 2, 8);
    let message = told(Store::open_many(&[&mine[0], &shorter[1]]));
    assert!(message.contains("23 input records") && message.contains("8 in the other"), "{message}");
    assert!(!merged.exists(), "nothing is begun that cannot be done");
    assert!(told(merge(&merged, &[] as &[&str])).contains("no part"));
    assert!(told(Store::open_many(&[] as &[&str])).contains("no store"));
}

/// Parts of which records were removed since, or a merged store that has changed, are not passed over in silence.
#[test]
fn a_merge_into_what_the_parts_do_not_make_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let parts = parts(&root, &plain(), 2, TOTAL);
    let merged = root.path().join("merged");
    merge(&merged, &parts).unwrap();
    let before = contents(&merged);
    let without = |directory: &Path, index: u64| {
        remove(directory, &Removal { indices: [index].into(), ..Removal::default() }).unwrap();
    };
    without(&parts[1], 5);
    let message = told(merge(&merged, &parts));
    assert!(message.contains("block 1: expected 3 records, found 4 records"), "{message}");
    assert!(message.ends_with("merge into a new directory"), "{message}");
    assert_eq!(contents(&merged), before);
    without(&merged, 6);
    let message = told(merge(&merged, &parts));
    assert!(message.contains("block 1: expected 3 records, found others"), "{message}");
    let again = root.path().join("again");
    merge(&again, &parts).unwrap();
    let before = contents(&again);
    merge(&again, &parts).expect("what is there and equal stays");
    assert_eq!(contents(&again), before);

    // A store of more, or of less, than the parts.
    for total in [TOTAL + 2, TOTAL - 4] {
        let other = root.path().join(format!("of-{total}"));
        build(&other, &plain(), Part::WHOLE, total);
        let before = contents(&other);
        let message = told(merge(&other, &parts));
        assert!(message.contains(&format!("expected 23 input records, found {total}")), "{message}");
        assert_eq!(contents(&other), before);
    }
}

#[test]
fn a_merge_verifies_what_it_takes() {
    let root = tempfile::tempdir().unwrap();
    let parts = parts(&root, &plain(), 2, TOTAL);
    let victim = parts[1].join("shard-00003.safetensors");
    let mut bytes = fs::read(&victim).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&victim, bytes).unwrap();
    let merged = root.path().join("merged");
    let message = told(merge(&merged, &parts));
    assert!(message.contains("shard-00003.safetensors") && message.contains("checksum"), "{message}");
    assert!(told(Store::open(&merged)).contains("not finished"));
}

#[test]
fn paths_may_differ_between_parts() {
    let root = tempfile::tempdir().unwrap();
    let mut elsewhere = plain();
    elsewhere.model = "/other/place".into();
    let (one, other) = (root.path().join("one"), root.path().join("other"));
    build(&one, &plain(), Part { index: 0, count: 2 }, TOTAL);
    build(&other, &elsewhere, Part { index: 1, count: 2 }, TOTAL);
    merge(root.path().join("merged"), &[one, other]).unwrap();
}
