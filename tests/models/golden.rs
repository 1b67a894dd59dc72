//! Every family against PyTorch in float64.

use serde_json::Value;
use wherefore::backend::Backend;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::Reference;
use wherefore::model::{LoadOptions, Model, Outputs, Problem};
use wherefore::tokens::Encoding;

use super::cases;
use wherefore::backend::reference::Plain;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().map_or(Vec::new(), |row| row.iter().map(|x| x.as_f64().unwrap()).collect())
}

/// Features and logits of a case's records, in one window, from the ids that PyTorch had.
fn run(model: &Model, expected: &[Value]) -> Outputs {
    let ids = |value: &Value| value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let encoding = |record: &Value| Encoding {
        ids: ids(&record["ids"]),
        type_ids: ids(&record["type_ids"]),
        ..Encoding::default()
    };
    let window: Vec<_> = expected.iter().map(encoding).collect();
    model.run(&window, Some(64), &|_| true).unwrap()
}

pub(super) fn outputs<B: Backend>(backend: B, name: &str, expected: &[Value]) -> Outputs {
    run(&cases::open(backend, name), expected)
}

pub(super) fn wanted(expected: &[Value]) -> [Vec<f64>; 2] {
    ["features", "logits"].map(|field| expected.iter().flat_map(|record| numbers(&record[field])).collect())
}

pub(super) fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(f64::abs).fold(0.0, f64::max)
}

pub(super) fn error(found: &[f32], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    largest(found.iter().zip(wanted).map(|(found, wanted)| f64::from(*found) - wanted))
}

/// From text to ids as the model's own directory says. A tokenizer may tell segments apart for a model that does not:
/// then all are 0.
#[test]
fn texts_become_the_ids_pytorch_had() {
    for name in cases::all() {
        let model = cases::open(Reference, &name);
        let expected = cases::expected(&name);
        for (record, expected) in cases::records(&expected).iter().zip(&expected) {
            let encoding = model.encode(record).unwrap();
            let segments = if model.config().token_types > 1 {
                expected["type_ids"].clone()
            } else {
                Value::from(vec![0; encoding.ids.len()])
            };
            let found = [Value::from(encoding.ids), Value::from(encoding.type_ids), encoding.truncated.into()];
            let wanted = [expected["ids"].clone(), segments, expected["truncated"].clone()];
            assert_eq!(found, wanted, "{name}: {}", record.text);
        }
    }
}

/// In f64 the only difference left is rounding to f32 on the way out, twice where vectors are normalised (2 × 2⁻²⁴ of
/// each number), and that ε is kept in f32: it moves a hidden state by at most ε·2⁻²⁵/σ², below 10⁻⁹ for embeddings of
/// any size.
#[test]
fn the_reference_equals_float64() {
    for name in cases::all() {
        let expected = cases::expected(&name);
        let found = outputs(Reference, &name, &expected);
        for (found, wanted) in [found.features, found.logits].iter().zip(wanted(&expected)) {
            let floor = 1e-9 * largest(wanted.iter().copied());
            assert_eq!(found.len(), wanted.len(), "{name}");
            for (found, wanted) in found.iter().zip(wanted) {
                let difference = (f64::from(*found) - wanted).abs();
                assert!(difference <= wanted.abs() * 2f64.powi(-23) + floor, "{name}: {found} is not {wanted}");
            }
        }
    }
}

/// The project's rule: an error against f64 at most twice that of plain f32 loops, plus the rounding of the largest
/// number itself.
#[test]
fn the_cpu_is_as_exact_as_plain_f32() {
    for name in cases::all() {
        let expected = cases::expected(&name);
        let cpu = outputs(Cpu::new(), &name, &expected);
        let plain = outputs(Plain, &name, &expected);
        let [features, logits] = wanted(&expected);
        for (cpu, plain, wanted) in [(cpu.features, plain.features, features), (cpu.logits, plain.logits, logits)] {
            let floor = largest(wanted.iter().copied()) * f64::from(f32::EPSILON);
            let (cpu, plain) = (error(&cpu, &wanted), error(&plain, &wanted));
            assert!(cpu <= 2.0 * plain + floor, "{name}: error {cpu:e}, of plain loops {plain:e}");
        }
    }
}

#[test]
fn the_problem_is_told_from_the_directory() {
    for name in cases::all() {
        let model = cases::open(Reference, &name);
        let wanted = cases::json(&cases::path(&name).join("golden.json"));
        let kind = serde_json::to_value(model.problem()).unwrap();
        assert_eq!(kind, wanted["kind"], "{name}");
        assert_eq!(model.classes() == 0, model.problem() == Problem::Headless);
        let head = model.head().map_or((0, 0), |head| (head.classes(), head.width()));
        assert_eq!(head, if model.classes() == 0 { (0, 0) } else { (model.classes(), model.width()) });
    }
}

/// `z = W h + b` over the features that came out, by the host's copy of the head.
#[test]
fn the_host_head_gives_the_logits() {
    for name in cases::all() {
        let model = cases::open(Reference, &name);
        let Some(head) = model.head() else { continue };
        let expected = cases::expected(&name);
        let found = run(&model, &expected);
        let logits = head.logits(wherefore::factors::Floats::F32(&found.features));
        let scale: f32 = head.weight.iter().map(|w| w.abs()).sum();
        for (from_head, logit) in logits.iter().zip(&found.logits) {
            assert!((from_head - f64::from(*logit)).abs() <= f64::from(scale * f32::EPSILON), "{name}");
        }
    }
}

/// A trained model of full size, where `scripts/fetch_minilm.py` has put it.
#[test]
fn minilm_equals_pytorch() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/models/minilm");
    if !dir.join("model.safetensors").is_file() {
        return crate::lacking("no target/models/minilm (scripts/fetch_minilm.py fetches it)");
    }
    let expected = cases::json(&cases::path("minilm.json"))["records"].as_array().unwrap().clone();
    let model = Model::open_with(Cpu::new(), &dir, &LoadOptions::default()).unwrap();
    let found = run(&model, &expected).features;
    let wanted = wanted(&expected)[0].clone();
    let plain = run(&Model::open_with(Plain, &dir, &LoadOptions::default()).unwrap(), &expected[..2]).features;
    let plain = error(&plain, &wanted[..plain.len()]);
    let found = error(&found, &wanted);
    assert!(found <= 2.0 * plain + f64::from(f32::EPSILON), "error {found:e}, of plain loops on two texts {plain:e}");
}
