//! What a search holds in memory is set by its budget, not by its store.

use std::fs;
use std::path::Path;

use serde_json::Value;
use wherefore::factors::LabelVec;
use wherefore::store::{Block, Part, Settings, Store, StoreWriter, StoredRecord};

use super::Bench;

/// Checkpoints: as their factors lie in every shard, a few records make a large store.
const CHECKPOINTS: usize = 40;
const BLOCK_RECORDS: u64 = 2_000;
const BLOCKS: u64 = 12;
const MIB: u64 = 1 << 20;

/// A store with the settings of one that was indexed, and factors that nothing computed.
fn enlarge(settings: &Settings, directory: &Path, like: &Store) {
    let mut writer = StoreWriter::create(directory, settings.clone(), Part::WHOLE, like.head(), false).unwrap();
    (0..BLOCKS).for_each(|number| writer.write(&block(settings, number)).unwrap());
    writer.finish(BLOCKS * BLOCK_RECORDS).unwrap();
}

fn block(settings: &Settings, number: u64) -> Block {
    let indices: Vec<u64> = (number * BLOCK_RECORDS..(number + 1) * BLOCK_RECORDS).collect();
    let n = indices.len();
    let record = |i: &u64| StoredRecord { id: i.to_string(), text: "text".into(), ..StoredRecord::default() };
    let factors = || (vec![0.25; n * settings.width], vec![0.5; n * settings.classes]);
    let (features, deltas) = factors();
    Block {
        number,
        features,
        deltas,
        bundles: None,
        labels: LabelVec::Classes(vec![0; n]),
        predictions: LabelVec::Classes(vec![0; n]),
        losses: vec![1.0; n],
        checkpoints: settings.checkpoints.iter().map(|_| factors()).collect(),
        records: indices.iter().map(record).collect(),
        indices,
        stored: wherefore::store::Stored::default(),
        nearest: None,
        data_fingerprint: format!("block {number}"),
    }
}

/// The peak that the search reports of itself.
fn peak(bench: &Bench, store: &str, memory: u64) -> u64 {
    let search = format!("search --store {store} --rule tracin --text good --threads 2 --memory {memory}");
    bench.ok(&format!("{search} --out r.jsonl --quiet"));
    let run: Value = serde_json::from_slice(&fs::read(bench.path("r.jsonl.run.json")).unwrap()).unwrap();
    run["peak_memory_bytes"].as_u64().unwrap()
}

#[test]
fn a_store_larger_than_the_budget_is_searched_within_it() {
    let bench = Bench::new();
    let model = bench.model("bert-cls2");
    bench.records("train.jsonl", 30);
    let checkpoints = format!(" --checkpoint {model}").repeat(CHECKPOINTS);
    let block = format!("--block-records {BLOCK_RECORDS}");
    bench.ok(&format!("index --model {model} --data train.jsonl --store small --quiet {block}{checkpoints}"));
    let small = Store::open(bench.path("small")).unwrap();
    enlarge(small.settings(), &bench.path("large"), &small);

    let bytes: u64 = bench.contents("large").iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let (budget, shard) = (16, bytes / BLOCKS);
    let base = peak(&bench, "small", budget);
    let within = peak(&bench, "large", budget);
    // Beside the budget, what the two threads are reading: at most a shard each, and one that is not done with.
    assert!(within < base + budget * MIB + 3 * shard, "{base} for nothing, {within} for {bytes} bytes");
    let without = peak(&bench, "large", 1024);
    assert!(without > base + bytes / 2, "the store would show: {base}, {without} for {bytes} bytes");
}
