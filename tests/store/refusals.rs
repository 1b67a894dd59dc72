//! What is asked of a store and cannot be, each with one clear line.

use std::fs;
use std::path::Path;

use wherefore::dataset::Label;
use wherefore::factors::{Head, LabelVec};
use wherefore::model::Problem;
use wherefore::store::{Block, Dtype, Part, Settings, Store, StoreWriter, info, verify};

use super::{block, build, contents, create, head, plain, settings, told};

/// What the message must hold, and what is changed.
type Change<T> = (&'static str, fn(&mut T));

#[test]
fn two_writers_cannot_have_one_store() {
    let directory = tempfile::tempdir().unwrap();
    let first = create(directory.path(), &plain(), Part::WHOLE, false).unwrap();
    let message = told(create(directory.path(), &plain(), Part::WHOLE, true));
    assert!(message.contains("another process is writing to this store"), "{message}");
    drop(first);
    create(directory.path(), &plain(), Part::WHOLE, true).expect("the lock was given back");
}

#[test]
fn a_directory_with_something_in_it_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("thesis.tex"), b"precious").unwrap();
    assert!(told(create(directory.path(), &plain(), Part::WHOLE, false)).contains("not empty"));
    assert!(told(create(directory.path(), &plain(), Part::WHOLE, true)).contains("something else than a store"));
    let before = [("thesis.tex".to_owned(), b"precious".to_vec())];
    assert_eq!(contents(directory.path()), before.into(), "nothing was added either");

    let directory = tempfile::tempdir().unwrap();
    build(directory.path(), &plain(), Part::WHOLE, 6);
    let manifest = fs::read(directory.path().join("manifest.json")).unwrap();
    fs::remove_file(directory.path().join("manifest.json")).unwrap();
    assert!(told(create(directory.path(), &plain(), Part::WHOLE, true)).contains("shards, but no manifest.json"));
    fs::write(directory.path().join("manifest.json"), manifest).unwrap();
    let before = contents(directory.path());
    assert!(told(create(directory.path(), &plain(), Part::WHOLE, false)).contains("--resume"));
    assert_eq!(contents(directory.path()), before);
}

#[test]
fn a_store_that_is_not_there_or_not_finished_says_so() {
    let directory = tempfile::tempdir().unwrap();
    assert!(told(Store::open(directory.path())).contains("no manifest.json"));
    let message = told(Store::open(directory.path().join("nowhere")));
    assert!(message.contains("nowhere"), "{message}");
    let mut writer = create(directory.path(), &plain(), Part::WHOLE, false).unwrap();
    writer.write(&block(&plain(), 0, 9, &[])).unwrap();
    let message = told(Store::open(directory.path()));
    assert!(message.contains("not finished: 1 blocks so far") && message.contains("--resume"), "{message}");
    assert!(verify(directory.path()).unwrap().to_string().contains("not finished, 1 blocks, 4 records"));
    assert!(!info(directory.path()).unwrap().complete);
    assert!(told(writer.finish(9)).contains("block 1 is missing"));
}

#[test]
fn other_settings_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    drop(create(directory.path(), &plain(), Part::WHOLE, false).unwrap());
    let changes: [Change<Settings>; 6] = [
        ("model_fingerprint", |settings| settings.model_fingerprint = "ff".into()),
        ("max_length", |settings| settings.max_length = 64),
        ("dtype", |settings| settings.dtype = Dtype::F16),
        ("block_records", |settings| settings.block_records = 8),
        ("target", |settings| settings.target = wherefore::factors::LabelUsed::Predicted),
        ("checkpoints", |settings| settings.checkpoints = vec![super::checkpoint(0)]),
    ];
    for (name, change) in changes {
        let mut settings = plain();
        change(&mut settings);
        let message = told(create(directory.path(), &settings, Part::WHOLE, true));
        assert!(message.contains(&format!("{name}: ")), "{message}");
    }
    let message = told(create(directory.path(), &plain(), Part { index: 0, count: 2 }, true));
    assert!(message.contains("part: 0/1 in one, 0/2 in the other"), "{message}");
}

#[test]
fn another_model_is_refused_with_both_fingerprints() {
    let directory = tempfile::tempdir().unwrap();
    build(directory.path(), &plain(), Part::WHOLE, 6);
    let store = Store::open(directory.path()).unwrap();
    store.check_model("aa", "bb", "cc", 128).unwrap();
    for (model, head, tokenizer, named) in [
        ("xx", "bb", "cc", ["model", "aa", "xx"]),
        ("aa", "yy", "cc", ["head", "bb", "yy"]),
        ("aa", "bb", "zz", ["tokenizer", "cc", "zz"]),
    ] {
        let message = told(store.check_model(model, head, tokenizer, 128));
        assert!(named.iter().all(|word| message.contains(word)), "{message}");
    }
    assert!(told(store.check_model("aa", "bb", "cc", 64)).contains("max_length 128, this is 64"));
}

/// What writing a changed block says.
fn refused(settings: &Settings, change: impl FnOnce(&mut Block)) -> String {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = create(directory.path(), settings, Part::WHOLE, false).unwrap();
    let before = contents(directory.path());
    let mut block = block(settings, 1, 20, &[]);
    change(&mut block);
    let message = told(writer.write(&block));
    assert_eq!(contents(directory.path()), before, "nothing half-written");
    message
}

#[test]
fn numbers_that_cannot_be_searched_name_their_record() {
    let with_checkpoint = settings(Problem::SingleLabel, Dtype::F32, 1);
    let record = "record 6 (id `id-6`): ";
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let row = 2;
        let message = refused(&plain(), |block| block.features[row * super::WIDTH + 3] = value);
        assert!(message.contains(&format!("{record}feature 3 is {value}")), "{message}");
        let message = refused(&plain(), |block| block.deltas[row * super::CLASSES + 1] = value);
        assert!(message.contains(&format!("{record}delta 1 is {value}")), "{message}");
        let message = refused(&plain(), |block| block.losses[row] = value);
        assert!(message.contains(&format!("{record}loss 0 is {value}")), "{message}");
        let message = refused(&with_checkpoint, |block| block.checkpoints[0].0[row * super::WIDTH] = value);
        assert!(message.contains(&format!("{record}checkpoint feature 0 is {value}")), "{message}");
    }
    let f16 = settings(Problem::SingleLabel, Dtype::F16, 0);
    let message = refused(&f16, |block| block.features[2 * super::WIDTH] = 70_000.0);
    assert!(message.contains(record) && message.contains("too large"), "{message}");
    let message = refused(&plain(), |block| block.features[2 * super::WIDTH] = 1e30);
    assert!(message.contains(record) && message.contains("too large"), "{message}");
}

#[test]
fn labels_the_model_cannot_have_name_their_record() {
    let set_class = |class: i64, predicted: bool| {
        refused(&plain(), |block| {
            let column = if predicted { &mut block.predictions } else { &mut block.labels };
            let LabelVec::Classes(classes) = column else { unreachable!() };
            classes[1] = class;
        })
    };
    for message in [set_class(3, false), set_class(-2, false), set_class(3, true), set_class(-1, true)] {
        assert!(message.contains("record 5 (id `id-5`)"), "{message}");
    }
    let set_value = |problem: Problem, value: f32| {
        refused(&settings(problem, Dtype::F32, 0), |block| {
            let LabelVec::Rows(values) = &mut block.labels else { unreachable!() };
            values[4] = value;
        })
    };
    for (problem, value) in
        [(Problem::MultiLabel, 0.5), (Problem::MultiLabel, f32::INFINITY), (Problem::Regression, f32::INFINITY)]
    {
        assert!(set_value(problem, value).contains("record 5"));
    }
    let message = refused(&plain(), |block| block.records[3].label = Some(Label::Number(f64::NAN)));
    assert!(message.contains("record 7") && message.contains("not finite"), "{message}");
}

#[test]
fn blocks_of_another_shape_are_refused() {
    let changes: [Change<Block>; 9] = [
        ("features: expected 20, found 19", |block| block.features.truncate(19)),
        ("deltas: expected 12, found 13", |block| block.deltas.push(0.0)),
        ("losses: expected 4, found 0", |block| block.losses.clear()),
        ("records: expected 4, found 3", |block| block.records.truncate(3)),
        ("checkpoints: expected 0, found 1", |block| block.checkpoints.push((vec![], vec![]))),
        ("labels: wrong kind", |block| block.labels = LabelVec::Rows(vec![0.0; 12])),
        ("predictions: wrong kind", |block| block.predictions = LabelVec::Classes(vec![])),
        ("must ascend", |block| block.indices.swap(0, 1)),
        ("must ascend", |block| block.indices[3] = 8),
    ];
    for (expected, change) in changes {
        let message = refused(&plain(), change);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn blocks_that_come_twice_or_belong_elsewhere_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = create(directory.path(), &plain(), Part { index: 1, count: 2 }, false).unwrap();
    writer.write(&block(&plain(), 1, 20, &[])).unwrap();
    assert!(told(writer.write(&block(&plain(), 1, 20, &[]))).contains("already"));
    assert!(told(writer.write(&block(&plain(), 2, 20, &[]))).contains("does not belong to part 1/2"));
}

#[test]
fn requests_that_make_no_sense_are_refused_before_anything_is_made() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let request = |settings: Settings, part, head: Option<&Head>| {
        told(StoreWriter::create(&directory, settings, part, head, false))
    };
    let ours = head(&plain()).unwrap();
    let small = Head { weight: vec![0.0; 4], bias: vec![0.0; 3] };
    assert!(request(plain(), Part::WHOLE, Some(&small)).contains("expected weight [3, 5] and bias [3]"));
    assert!(request(settings(Problem::Headless, Dtype::F32, 0), Part::WHOLE, Some(&ours)).contains("headless"));
    assert!(request(plain(), Part { index: 2, count: 2 }, Some(&ours)).contains("part 2/2"));
    assert!(!directory.exists());
    assert_eq!("1/4".parse::<Part>().unwrap(), Part { index: 1, count: 4 });
    for text in ["4/4", "1", "/", "-1/2", "a/b", "0/0"] {
        assert!(told(text.parse::<Part>()).contains("expected I/N with I from 0"));
    }
}

#[test]
fn an_unwritable_place_is_named() {
    // Not even root can make a directory here.
    let message = told(create(Path::new("/proc/store"), &plain(), Part::WHOLE, false));
    assert!(message.contains("/proc/store"), "{message}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let message = told(create(&file.path().join("store"), &plain(), Part::WHOLE, false));
    assert!(message.contains("store"), "{message}");
}

#[test]
fn info_reads_like_a_card() {
    let directory = tempfile::tempdir().unwrap();
    build(directory.path(), &settings(Problem::SingleLabel, Dtype::Bf16, 1), Part::WHOLE, 10);
    let card = info(directory.path()).unwrap().to_string();
    for line in ["(finished)", "9 in 3 blocks of 4", "models/tiny (aa)", "bf16", "checkpoint-0 (learning rate 0.00001)"]
    {
        assert!(card.contains(line), "{line} is not in:\n{card}");
    }
}
