//! The store: what goes in comes out, equal work gives equal bytes, and nothing damaged is taken for sound.

mod damage;
mod disk;
mod keeping;
mod lies;
mod parts;
mod refusals;
mod resume;
mod round_trip;
mod torture;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use wherefore::dataset::{Label, Record};
use wherefore::factors::{Head, LabelUsed, LabelVec};
use wherefore::model::Problem;
use wherefore::store::{Block, Checkpoint, Dtype, Part, Settings, StoreWriter, StoredRecord, data_fingerprint};

/// E, K and R of the stores made here: small, so that every byte of one can be damaged in turn.
const WIDTH: usize = 5;
const CLASSES: usize = 3;
const BLOCK_RECORDS: u64 = 4;

fn settings(problem: Problem, dtype: Dtype, checkpoints: usize) -> Settings {
    let classes = if problem == Problem::Headless { 0 } else { CLASSES };
    Settings {
        model: "models/tiny".into(),
        model_fingerprint: "aa".into(),
        head_fingerprint: if classes == 0 { String::new() } else { "bb".into() },
        tokenizer_fingerprint: "cc".into(),
        max_length: 128,
        problem,
        width: WIDTH,
        classes,
        label_names: (0..classes).map(|k| format!("LABEL_{k}")).collect(),
        target: LabelUsed::Gold,
        dtype,
        block_records: BLOCK_RECORDS,
        checkpoints: (0..checkpoints).map(checkpoint).collect(),
        scan: None,
        gradients: None,
        gradient_layers: Vec::new(),
        tokens: None,
        columns: vec![],
        precision: None,
    }
}

fn checkpoint(c: usize) -> Checkpoint {
    Checkpoint {
        path: format!("checkpoint-{c}"),
        fingerprint: format!("dd{c}"),
        learning_rate: 1e-5 * (c + 1) as f64,
        moments: None,
    }
}

fn plain() -> Settings {
    settings(Problem::SingleLabel, Dtype::F32, 0)
}

fn head(settings: &Settings) -> Option<Head> {
    let (k, e) = (settings.classes, settings.width);
    (k > 0).then(|| Head { weight: noise(7, k * e), bias: noise(8, k) })
}

/// Numbers between −1 and 1 that depend on the seed alone (the steps of a linear congruential generator).
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let step = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((*state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    std::iter::repeat_n((), count).scan(seed.wrapping_add(1), |state, ()| step(state)).collect()
}

/// The record of a number: some with a pair, some without a label, Chinese, quotes and line breaks.
fn record(index: u64) -> Record {
    Record {
        index,
        id: format!("id-{index}"),
        text: format!("第{index}条 \"record\"\nof many"),
        pair: index.is_multiple_of(3).then(|| format!("pair\u{2028}{index}")),
        label: (!index.is_multiple_of(5)).then_some(Label::Integer(index as i64 % CLASSES as i64)),
        ..Record::default()
    }
}

/// Block `number` of `total` input records, of which `skipped` have no factors.
fn block(settings: &Settings, number: u64, total: u64, skipped: &[u64]) -> Block {
    let (first, end) = (number * settings.block_records, ((number + 1) * settings.block_records).min(total));
    let all: Vec<Record> = (first..end).map(record).collect();
    let fingerprint = data_fingerprint(&all);
    let kept: Vec<Record> = all.into_iter().filter(|record| !skipped.contains(&record.index)).collect();
    let rows = |seed: u64, width: usize| -> Vec<f32> {
        kept.iter().flat_map(|record| noise(seed * 1_000_003 + record.index, width)).collect()
    };
    let (e, k) = (settings.width, settings.classes);
    Block {
        number,
        indices: kept.iter().map(|record| record.index).collect(),
        features: rows(1, e),
        deltas: rows(2, k),
        bundles: None,
        labels: labels(settings, &kept, true),
        predictions: labels(settings, &kept, false),
        losses: rows(3, 1),
        checkpoints: (0..settings.checkpoints.len() as u64).map(|c| (rows(10 + c, e), rows(20 + c, k))).collect(),
        records: kept.into_iter().map(StoredRecord::from).collect(),
        stored: wherefore::store::Stored::default(),
        nearest: None,
        data_fingerprint: fingerprint,
    }
}

fn labels(settings: &Settings, records: &[Record], may_lack: bool) -> LabelVec {
    let k = settings.classes as u64;
    let lacks = |record: &Record| may_lack && record.label.is_none();
    let row = |record: &Record| -> Vec<f32> {
        match settings.problem {
            _ if lacks(record) => vec![f32::NAN; k as usize],
            Problem::MultiLabel => (0..k).map(|class| f32::from((record.index + class).is_multiple_of(2))).collect(),
            _ => noise(record.index, k as usize),
        }
    };
    match settings.problem {
        Problem::SingleLabel => {
            let class = |record: &Record| if lacks(record) { -1 } else { (record.index % k) as i64 };
            LabelVec::Classes(records.iter().map(class).collect())
        }
        _ => LabelVec::Rows(records.iter().flat_map(row).collect()),
    }
}

fn create(directory: &Path, settings: &Settings, part: Part, resume: bool) -> wherefore::Result<StoreWriter> {
    StoreWriter::create(directory, settings.clone(), part, head(settings).as_ref(), resume)
}

/// Writes the part's blocks that are not there yet, at most `most` of them, and tells whether that was all.
fn write_blocks(writer: &mut StoreWriter, settings: &Settings, part: Part, total: u64, most: usize) -> bool {
    let mut written = 0;
    for number in part.blocks(total, settings.block_records) {
        let block = block(settings, number, total, &[2]);
        if writer.has(number, &block.data_fingerprint).unwrap() {
            continue;
        }
        if written == most {
            return false;
        }
        writer.write(&block).unwrap();
        written += 1;
    }
    true
}

/// A whole job, without a break.
fn build(directory: &Path, settings: &Settings, part: Part, total: u64) {
    let mut writer = create(directory, settings, part, false).unwrap();
    assert!(write_blocks(&mut writer, settings, part, total, usize::MAX));
    writer.finish(total).unwrap();
}

/// Every file of a directory, by name.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    fs::read_dir(directory).unwrap().map(|entry| file(entry.unwrap())).collect()
}

/// What an error says, hint included.
fn told<T>(outcome: wherefore::Result<T>) -> String {
    let Err(error) = outcome else { panic!("expected an error") };
    assert!(!error.to_string().contains('\n'), "one line: {error}");
    format!("{error} | {}", error.hint().unwrap_or_default())
}
