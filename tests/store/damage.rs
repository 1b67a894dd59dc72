//! Every file cut at every byte, and every byte flipped: refused, or found by `verify`; never a panic.

use std::fs;
use std::path::Path;

use wherefore::factors::{Floats, Labels};
use wherefore::model::Problem;
use wherefore::store::{Dtype, Part, Settings, Store, verify};

use super::{CLASSES, build, contents, create, settings};

fn store() -> (tempfile::TempDir, Settings) {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(Problem::SingleLabel, Dtype::F16, 1);
    build(directory.path(), &settings, Part::WHOLE, 6);
    (directory, settings)
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let (directory, settings) = store();
    for (name, bytes) in contents(directory.path()) {
        for end in 0..bytes.len() {
            replace(&directory.path().join(&name), &bytes[..end]);
            assert!(Store::open(directory.path()).is_err(), "{name} cut at {end} was opened");
            // These read every other file first: some of the places will do.
            if end % 16 == 0 {
                assert!(is_unsound(directory.path()), "{name} cut at {end} was verified");
                let resumed = create(directory.path(), &settings, Part::WHOLE, true);
                assert!(resumed.is_err(), "{name} cut at {end} was resumed");
            }
        }
        fs::write(directory.path().join(&name), &bytes).unwrap();
    }
    Store::open(directory.path()).unwrap();
}

#[test]
fn a_flipped_bit_is_refused_or_found() {
    let (directory, _) = store();
    for (name, bytes) in contents(directory.path()) {
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            replace(&directory.path().join(&name), &flipped);
            match Store::open(directory.path()) {
                Err(error) => assert!(!error.to_string().contains('\n'), "one line: {error}"),
                Ok(_) if name == "manifest.json" => panic!("manifest with byte {at} flipped was opened"),
                Ok(store) => touch(&store),
            }
            assert!(is_unsound(directory.path()), "{name} with byte {at} flipped was verified");
        }
        fs::write(directory.path().join(&name), &bytes).unwrap();
    }
    assert!(!is_unsound(directory.path()));
}

#[test]
fn bytes_after_the_end_are_refused() {
    let (directory, _) = store();
    for (name, mut bytes) in contents(directory.path()).into_iter().filter(|(name, _)| name != ".lock") {
        let whole = bytes.clone();
        bytes.push(b'\n');
        fs::write(directory.path().join(&name), bytes).unwrap();
        assert!(Store::open(directory.path()).is_err(), "{name} with a byte more was opened");
        fs::write(directory.path().join(&name), whole).unwrap();
    }
}

#[test]
fn a_missing_file_is_named() {
    let (directory, _) = store();
    for (name, bytes) in contents(directory.path()).into_iter().filter(|(name, _)| name != ".lock") {
        let path = directory.path().join(&name);
        fs::remove_file(&path).unwrap();
        let message = super::told(Store::open(directory.path()));
        assert!(message.contains(&name), "{message}");
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn verify_lists_all_that_is_wrong() {
    let (directory, _) = store();
    for name in ["head.safetensors", "shard-00000.jsonl", "shard-00001.safetensors"] {
        let path = directory.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let found = verify(directory.path()).unwrap();
    assert_eq!(found.problems.len(), 3, "{found}");
    let report = found.to_string();
    assert!(report.contains("head.safetensors") && report.contains("damaged: 3 problems"), "{report}");
}

/// A new file of the name: some file systems write through to the disk where an old one is cut and written again.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Uses everything a store gives; what comes back may be wrong, but nothing may panic.
fn touch(store: &Store) {
    for (number, shard) in store.shards().iter().enumerate() {
        let factors = shard.factors();
        assert!(matches!(factors.features, Floats::F16(values) if values.len() == factors.rows * factors.width));
        assert_eq!(shard.losses().len(), shard.rows());
        for (labels, least) in [(shard.labels(), -1), (shard.predictions(), 0)] {
            let Labels::Classes(classes) = labels else { panic!("ids of classes") };
            assert!(
                classes.iter().all(|class| (least..CLASSES as i64).contains(class)),
                "{classes:?} are looked up by"
            );
        }
        (0..shard.rows()).for_each(|row| drop(shard.record(row)));
        assert_eq!(store.locate(store.first_row(number)), (number, 0));
    }
    (0..8).for_each(|index| assert!(store.find(index).is_none_or(|row| row < store.rows())));
}

fn is_unsound(directory: &Path) -> bool {
    !verify(directory).is_ok_and(|found| found.is_sound())
}
