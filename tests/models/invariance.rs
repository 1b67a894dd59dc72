//! A record's numbers do not depend on its batch, its neighbours or the number of workers; and a run can be stopped.

use std::sync::atomic::{AtomicUsize, Ordering};

use wherefore::Error;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::{Backend, Precision};
use wherefore::model::{Model, Outputs};
use wherefore::tokens::{Encoding, PackedBatch};

use super::cases;

/// One model for each way through the encoder and heads.
pub(super) const CASES: [&str; 5] = ["bert-cls2", "roberta-cls2", "albert-groups-cls3", "electra-cls3", "minilm-mean"];

fn case(name: &str) -> (Model, Vec<Encoding>) {
    case_on(Cpu::new(), name)
}

/// A model on a device, and the records of its golden.
pub(super) fn case_on<B: Backend>(backend: B, name: &str) -> (Model, Vec<Encoding>) {
    let model = cases::open(backend, name);
    let records = cases::records(&cases::expected(name));
    let encodings = records.iter().map(|record| model.encode(record).unwrap()).collect();
    (model, encodings)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

pub(super) fn assert_same(found: &Outputs, wanted: &Outputs, what: &str) {
    assert_eq!(bits(&found.features), bits(&wanted.features), "{what}: features");
    assert_eq!(bits(&found.logits), bits(&wanted.logits), "{what}: logits");
}

pub(super) fn run(model: &Model, window: &[Encoding], budget: usize) -> Outputs {
    model.run(window, Some(budget), &|_| true).unwrap()
}

#[test]
fn batches_do_not_matter() {
    for name in CASES {
        let (model, window) = case(name);
        let alone = run(&model, &window, 1);
        for budget in [17, 64, 100_000] {
            assert_same(&run(&model, &window, budget), &alone, &format!("{name}, {budget} tokens a batch"));
        }
    }
}

#[test]
fn batches_do_not_matter_in_bf16() {
    for name in CASES {
        let (model, window) = case_on(Cpu::new().in_precision(Precision::Bf16).unwrap(), name);
        let alone = run(&model, &window, 1);
        assert_same(&run(&model, &window, 100_000), &alone, name);
    }
}

#[test]
fn neighbours_do_not_matter() {
    for name in CASES {
        let (model, window) = case(name);
        let all = run(&model, &window, 64);
        for (row, encoding) in window.iter().enumerate() {
            let one = run(&model, std::slice::from_ref(encoding), 64);
            let (width, classes) = (model.width(), model.classes());
            let wanted = Outputs {
                features: all.features[row * width..][..width].to_vec(),
                logits: all.logits[row * classes..][..classes].to_vec(),
            };
            assert_same(&one, &wanted, &format!("{name}, record {row}"));
        }
    }
}

#[test]
fn workers_do_not_matter() {
    for name in CASES {
        let (model, window) = case(name);
        let wanted = run(&model, &window, 32);
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_same(&pool.install(|| run(&model, &window, 32)), &wanted, &format!("{name}, {threads} threads"));
        }
    }
}

#[test]
fn progress_counts_every_record() {
    let (model, window) = case("bert-cls2");
    let counted = AtomicUsize::new(0);
    let count = |records| {
        counted.fetch_add(records, Ordering::Relaxed);
        true
    };
    model.run(&window, Some(20), &count).unwrap();
    assert_eq!(counted.into_inner(), window.len());
}

#[test]
fn a_run_is_stopped_between_batches() {
    let (model, window) = case("bert-cls2");
    let begun = AtomicUsize::new(0);
    let stop = |_| {
        begun.fetch_add(1, Ordering::Relaxed);
        false
    };
    assert!(matches!(model.run(&window, Some(1), &stop), Err(Error::Interrupted)));
    let begun = begun.into_inner();
    assert!((1..=model.network().workers()).contains(&begun), "{begun} batches were run");
}

#[test]
fn nothing_in_gives_nothing_out() {
    let (model, _) = case("bert-cls2");
    assert_eq!(run(&model, &[], 64), Outputs::default());
    let outputs = model.network().forward(vec![PackedBatch::default()], &|_| true).unwrap();
    assert_eq!(outputs, [Outputs::default()]);
}

/// What another packer or tokenizer may hand over.
#[test]
fn batches_that_would_look_outside_a_table_are_refused() {
    let (model, _) = case("bert-cls2");
    let good =
        PackedBatch { ids: vec![2, 5, 3], type_ids: vec![0, 0, 1], positions: vec![0, 1, 2], cu_seqlens: vec![0, 3] };
    let bad = [
        (PackedBatch { ids: vec![2, 199, 3], ..good.clone() }, "token id 199: expected below 199"),
        (PackedBatch { positions: vec![0, 1, 48], ..good.clone() }, "position 48: expected below 48"),
        (PackedBatch { type_ids: vec![0, 0, 2], ..good.clone() }, "segment 2: expected below 2"),
        (PackedBatch { type_ids: vec![0, 0], ..good.clone() }, "batch: expected"),
        (PackedBatch { cu_seqlens: vec![0, 3, 3], ..good.clone() }, "batch: expected"),
        (PackedBatch { cu_seqlens: vec![1, 3], ..good.clone() }, "batch: expected"),
        (PackedBatch { cu_seqlens: vec![0, 4], ..good.clone() }, "batch: expected"),
    ];
    assert!(model.network().forward(vec![good], &|_| true).is_ok());
    for (batch, reason) in bad {
        let error = model.network().forward(vec![batch], &|_| true).unwrap_err();
        assert!(error.to_string().starts_with(reason), "{error}");
    }
}
