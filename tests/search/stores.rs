//! A search over a store gives what a search over the same factors in memory gives.

use std::path::Path;

use wherefore::factors::{Head, LabelUsed, LabelVec};
use wherefore::model::Problem;
use wherefore::search::{Form, Options, Query, search};
use wherefore::store::{Block, Checkpoint, Dtype as Stored, Part, Settings, Store, StoreWriter, StoredRecord};

use super::data::{Data, Dtype, Factors, RATES, Random, Sizes, bits};

const ROWS: usize = 50;
const BLOCK: usize = 20;

fn settings(sizes: &Sizes) -> Settings {
    let checkpoint = |&rate: &f32| Checkpoint {
        path: "checkpoint".into(),
        fingerprint: format!("c{rate}"),
        learning_rate: rate.into(),
        moments: None,
    };
    Settings {
        model: "model".into(),
        model_fingerprint: "m".into(),
        head_fingerprint: "h".into(),
        tokenizer_fingerprint: "t".into(),
        max_length: 16,
        problem: Problem::SingleLabel,
        width: sizes.width,
        classes: sizes.classes,
        label_names: (0..sizes.classes).map(|c| format!("LABEL_{c}")).collect(),
        target: LabelUsed::Gold,
        dtype: Stored::F16,
        block_records: BLOCK as u64,
        checkpoints: RATES.iter().map(checkpoint).collect(),
        scan: None,
        gradients: None,
        gradient_layers: Vec::new(),
        tokens: None,
        columns: vec![],
        precision: None,
    }
}

/// Records `from..to` of one shard of data.
fn block(data: &Data, from: usize, to: usize) -> Block {
    let (width, classes, sets) = (data.sizes.width, data.sizes.classes, &data.shards[0]);
    let features = |factors: &Factors| factors.values[from * width..to * width].to_vec();
    let deltas = |factors: &Factors| factors.deltas[from * classes..to * classes].to_vec();
    Block {
        number: (from / BLOCK) as u64,
        indices: (from as u64..to as u64).collect(),
        features: features(&sets[0]),
        deltas: deltas(&sets[0]),
        bundles: None,
        labels: LabelVec::Classes(vec![0; to - from]),
        predictions: LabelVec::Classes(vec![1; to - from]),
        losses: vec![0.5; to - from],
        checkpoints: sets[1..].iter().map(|factors| (features(factors), deltas(factors))).collect(),
        records: vec![StoredRecord::default(); to - from],
        stored: wherefore::store::Stored::default(),
        nearest: None,
        data_fingerprint: format!("d{from}"),
    }
}

fn write(directory: &Path, data: &Data) {
    let (sizes, mut random) = (&data.sizes, Random(1));
    let head =
        Head { weight: random.numbers(sizes.classes * sizes.width, false), bias: random.numbers(sizes.classes, false) };
    let part = Part { index: 0, count: 1 };
    let mut writer = StoreWriter::create(directory, settings(sizes), part, Some(&head), false).expect("a store");
    for from in (0..ROWS).step_by(BLOCK) {
        writer.write(&block(data, from, (from + BLOCK).min(ROWS))).expect("a block");
    }
    writer.finish(ROWS as u64).expect("the end");
}

#[test]
fn searching_a_store_is_searching_its_factors() {
    let sizes = Sizes {
        seed: 11,
        rows: ROWS,
        width: 21,
        classes: 3,
        shards: 1,
        dtype: Dtype::F16,
        coarse: false,
        backwards: false,
    };
    let mut data = Data::new(&sizes);
    data.indices = vec![(0..ROWS as u64).collect()];
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder.path().join("store"), &data);
    let store = Store::open(folder.path().join("store")).expect("the store");
    for memory in [0, 1 << 30] {
        let options = Options { memory, ..Options::default() };
        for (rule, form) in data.forms() {
            let queries = data.queries(rule, 3);
            let found = search(&store, &form, &queries, 10, &options).expect("a search");
            let expected = search(data.views().as_slice(), &form, &queries, 10, &options).expect("a search");
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(bits(&found.proponents), bits(&expected.proponents), "{rule}");
                assert_eq!(bits(&found.opponents), bits(&expected.opponents), "{rule}");
            }
        }
    }
    let form = Form::tracin(&[1.0; 3]);
    let query = Query::checkpoints(vec![(vec![0.0; sizes.width], vec![0.0; sizes.classes]); 3]);
    let error = search(&store, &form, &[query], 1, &Options::default()).expect_err("a refusal");
    assert_eq!(error.to_string(), "shard 0: no factors of checkpoint 2");
}
