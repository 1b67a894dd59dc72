//! A finished store that is added to and taken from: always the bytes of a store made of those data at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use wherefore::dataset::Digest;
use wherefore::model::Problem;
use wherefore::store::{Block, Dtype, Part, Removal, Removed, Settings, Store, StoreWriter, info, remove, verify};

use super::{BLOCK_RECORDS, block, build, contents, create, plain, record, settings, told, write_blocks};

const TOTAL: u64 = 22;

/// The records of block `number` from `first` on, as an appending run has them.
pub(super) fn later(settings: &Settings, number: u64, first: u64, total: u64, before: Digest) -> Block {
    let mut digest = if first > number * BLOCK_RECORDS { before } else { Digest::default() };
    let from = first.max(number * BLOCK_RECORDS);
    (from..total.min((number + 1) * BLOCK_RECORDS)).for_each(|index| digest.push(&record(index)));
    let skipped: Vec<u64> = (0..from).chain([2, 13]).collect();
    Block { data_fingerprint: digest.to_string(), ..block(settings, number, total, &skipped) }
}

/// Adds the records from `first` on, at most `most` blocks of them; whether that was all.
fn add(directory: &Path, settings: &Settings, part: Part, first: u64, total: u64, most: usize) -> bool {
    let mut writer = StoreWriter::append(directory, settings, part).unwrap();
    let (begins, before) = writer.begins_at().unwrap();
    assert_eq!(begins, first);
    let mut written = 0;
    for number in part.blocks(total, BLOCK_RECORDS).filter(|number| (number + 1) * BLOCK_RECORDS > first) {
        let block = later(settings, number, first, total, before);
        if writer.has(number, &block.data_fingerprint).unwrap() {
            continue;
        }
        if written == most {
            return false;
        }
        writer.write(&block).unwrap();
        written += 1;
    }
    writer.finish(total).unwrap();
    true
}

/// A store of the first `total` records, without those numbered 2 and 13.
fn first(directory: &Path, settings: &Settings, part: Part, total: u64) {
    let mut writer = create(directory, settings, part, false).unwrap();
    for number in part.blocks(total, BLOCK_RECORDS) {
        writer.write(&block(settings, number, total, &[2, 13])).unwrap();
    }
    writer.finish(total).unwrap();
}

#[test]
fn data_added_at_any_point_give_the_bytes_of_one_go() {
    let root = tempfile::tempdir().unwrap();
    for (problem, dtype, checkpoints) in [
        (Problem::SingleLabel, Dtype::F32, 1),
        (Problem::MultiLabel, Dtype::F16, 0),
        (Problem::Headless, Dtype::Bf16, 0),
        (Problem::Regression, Dtype::Int8, 1),
    ] {
        let settings = settings(problem, dtype, checkpoints);
        for part in [Part::WHOLE, Part { index: 1, count: 2 }] {
            let whole = root.path().join(format!("whole-{problem:?}-{}", part.count));
            first(&whole, &settings, part, TOTAL);
            for n in [1, 3, 4, 6, 7, 8, 13, 14, 21] {
                let grown = root.path().join(format!("grown-{problem:?}-{}-{n}", part.count));
                first(&grown, &settings, part, n);
                assert!(add(&grown, &settings, part, n, TOTAL, usize::MAX));
                assert_eq!(contents(&grown), contents(&whole), "{n} first, part {part}");
            }
        }
    }
}

#[test]
fn an_addition_that_ends_after_any_block_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let whole = root.path().join("whole");
    first(&whole, &plain(), Part::WHOLE, TOTAL);
    for most in 0..=4 {
        let grown = root.path().join(format!("grown-{most}"));
        first(&grown, &plain(), Part::WHOLE, 6);
        let before = contents(&grown);
        assert!(!add(&grown, &plain(), Part::WHOLE, 6, TOTAL, most));
        if most == 0 {
            assert_eq!(contents(&grown), before, "nothing changes before there is something to add");
        } else {
            assert!(told(Store::open(&grown)).contains("data are being added"));
            assert!(told(create(&grown, &plain(), Part::WHOLE, true)).contains("--append"));
            assert!(verify(&grown).unwrap().is_sound());
        }
        assert!(add(&grown, &plain(), Part::WHOLE, 6, TOTAL, usize::MAX));
        assert_eq!(contents(&grown), contents(&whole), "ended after {most} blocks");
    }
}

#[test]
fn other_data_than_those_begun_with_are_noticed() {
    let root = tempfile::tempdir().unwrap();
    first(root.path(), &plain(), Part::WHOLE, 6);
    assert!(!add(root.path(), &plain(), Part::WHOLE, 6, TOTAL, 2));
    let writer = StoreWriter::append(root.path(), &plain(), Part::WHOLE).unwrap();
    for number in [1, 2] {
        assert!(told(writer.has(number, "changed")).contains("the data changed"));
    }
}

#[test]
fn nothing_is_added_to_what_is_no_finished_store() {
    let root = tempfile::tempdir().unwrap();
    let append = |directory: &Path| told(StoreWriter::append(directory, &plain(), Part::WHOLE));
    assert!(append(root.path()).contains("not a store"));
    assert_eq!(contents(root.path()).len(), 0);
    let begun = root.path().join("begun");
    let mut writer = create(&begun, &plain(), Part::WHOLE, false).unwrap();
    write_blocks(&mut writer, &plain(), Part::WHOLE, TOTAL, 2);
    assert!(append(&begun).contains("another process is writing"));
    drop(writer);
    assert!(append(&begun).contains("not finished"));
    let other = Settings { max_length: 64, ..plain() };
    assert!(told(StoreWriter::append(&begun, &other, Part::WHOLE)).contains("max_length"));
}

fn take(directory: &Path, ids: &[&str], indices: &[u64]) -> Removed {
    let ids = ids.iter().map(|&id| id.to_owned()).collect();
    remove(directory, &Removal { ids, indices: indices.iter().copied().collect() }).unwrap()
}

/// The files of a store, its manifest apart, whose records of removed numbers no other store has.
fn shards(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = contents(directory);
    files.remove("manifest.json");
    files
}

#[test]
fn a_store_with_records_removed_is_one_that_had_skipped_them() {
    let root = tempfile::tempdir().unwrap();
    for (problem, dtype, checkpoints) in [
        (Problem::SingleLabel, Dtype::F32, 1),
        (Problem::Regression, Dtype::F16, 0),
        (Problem::Headless, Dtype::Bf16, 0),
        (Problem::MultiLabel, Dtype::Int8, 1),
    ] {
        let settings = settings(problem, dtype, checkpoints);
        let (less, skipped) =
            (root.path().join(format!("less-{problem:?}")), root.path().join(format!("skip-{problem:?}")));
        first(&less, &settings, Part::WHOLE, TOTAL);
        let removed = take(&less, &["id-5", "id-20", "id-13", "nobody"], &[8, 9, 10, 11, 99]);
        assert_eq!(removed.removed, [5, 8, 9, 10, 11, 20]);
        assert_eq!(removed.not_found, ["id `id-13`", "id `nobody`", "number 99"]);
        assert_eq!((removed.rows, removed.blocks), (14, 3));

        let mut writer = create(&skipped, &settings, Part::WHOLE, false).unwrap();
        for number in 0..6 {
            writer.write(&block(&settings, number, TOTAL, &[2, 13, 5, 8, 9, 10, 11, 20])).unwrap();
        }
        writer.finish(TOTAL).unwrap();
        assert_eq!(shards(&less), shards(&skipped));

        let store = Store::open(&less).unwrap();
        assert_eq!((store.find(8), store.rows(), store.records_total()), (None, 14, TOTAL));
        assert_eq!(store.record(store.find(12).unwrap()).unwrap().id, "id-12");
        let (verified, info) = (verify(&less).unwrap(), info(&less).unwrap());
        assert!(verified.is_sound());
        assert_eq!((verified.removed, info.removed, info.rows), (6, 6, 14));
    }
}

#[test]
fn the_order_and_number_of_removals_leave_no_trace() {
    let root = tempfile::tempdir().unwrap();
    let (once, thrice) = (root.path().join("once"), root.path().join("thrice"));
    for directory in [&once, &thrice] {
        first(directory, &plain(), Part::WHOLE, TOTAL);
    }
    take(&once, &[], &[0, 1, 3, 17]);
    for indices in [&[17, 1][..], &[0], &[3, 1]] {
        take(&thrice, &[], indices);
    }
    assert_eq!(contents(&once), contents(&thrice));
    let before = contents(&once);
    assert_eq!(take(&once, &["id-1"], &[3]).blocks, 0);
    assert_eq!(contents(&once), before, "what is not there is not taken again");
}

#[test]
fn a_store_that_lost_records_is_added_to_and_gone_on_with() {
    let root = tempfile::tempdir().unwrap();
    let (early, late) = (root.path().join("early"), root.path().join("late"));
    first(&early, &plain(), Part::WHOLE, 6);
    take(&early, &[], &[1, 5]);
    assert!(add(&early, &plain(), Part::WHOLE, 6, TOTAL, usize::MAX));
    first(&late, &plain(), Part::WHOLE, TOTAL);
    take(&late, &[], &[1, 5]);
    assert_eq!(contents(&early), contents(&late));
    // The job that made it, resumed, knows its data again and brings nothing back.
    let writer = create(&late, &plain(), Part::WHOLE, true).unwrap();
    for number in 0..6 {
        assert!(writer.has(number, &block(&plain(), number, TOTAL, &[]).data_fingerprint).unwrap());
    }
    writer.finish(TOTAL).unwrap();
    assert_eq!(contents(&early), contents(&late));
}

#[test]
fn a_reader_that_was_there_before_reads_on() {
    let root = tempfile::tempdir().unwrap();
    build(root.path(), &plain(), Part::WHOLE, TOTAL);
    let store = Store::open(root.path()).unwrap();
    take(root.path(), &[], &[0, 1]);
    assert_eq!(store.record(0).unwrap().id, "id-0");
    assert_eq!(Store::open(root.path()).unwrap().record(0).unwrap().id, "id-3");
}

#[test]
fn damage_is_not_written_anew() {
    let root = tempfile::tempdir().unwrap();
    build(root.path(), &plain(), Part::WHOLE, TOTAL);
    let victim = root.path().join("shard-00001.safetensors");
    let mut bytes = std::fs::read(&victim).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&victim, bytes).unwrap();
    let before = contents(root.path());
    let message = told(remove(root.path(), &Removal { indices: [4].into(), ..Removal::default() }));
    assert!(message.contains("shard-00001.safetensors") && message.contains("checksum"), "{message}");
    assert_eq!(contents(root.path()), before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_store_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    build(root.path(), &plain(), Part::WHOLE, TOTAL);
    let before = contents(root.path());
    for name in ["shard-00001.next.jsonl", "shard-00001.next.safetensors", "manifest.json"] {
        std::os::unix::fs::symlink("/dev/full", root.path().join(format!("{name}.tmp"))).unwrap();
        let message = told(remove(root.path(), &Removal { indices: [4].into(), ..Removal::default() }));
        assert!(message.contains("No space left"), "{message}");
        let after: BTreeMap<_, _> =
            contents(root.path()).into_iter().filter(|(name, _)| !name.contains(".next")).collect();
        assert_eq!(after, before, "{name}");
    }
    take(root.path(), &[], &[4]);
    assert!(contents(root.path()).keys().all(|name| !name.contains(".next") && !name.contains(".tmp")));
    assert!(verify(root.path()).unwrap().is_sound());
}

/// A reader takes no lock, and what it opens may be replaced between its manifest and its files.
#[test]
fn a_store_is_opened_while_records_are_removed() {
    const RECORDS: u64 = 160;
    let root = tempfile::tempdir().unwrap();
    build(root.path(), &plain(), Part::WHOLE, RECORDS);
    let removed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in (0..RECORDS).rev().step_by(2) {
                take(root.path(), &[], &[number]);
                removed.fetch_add(1, Ordering::SeqCst);
            }
        });
        while removed.load(Ordering::SeqCst) < RECORDS / 2 {
            let before = removed.load(Ordering::SeqCst);
            let store = Store::open(root.path()).unwrap();
            assert!(store.rows() as u64 <= RECORDS - before, "{} rows without {before}", store.rows());
            let report = verify(root.path()).unwrap();
            assert!(report.is_sound(), "{report}");
        }
    });
    assert_eq!(Store::open(root.path()).unwrap().rows() as u64, RECORDS / 2 - 1);
}
