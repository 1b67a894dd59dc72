//! The golden models, to be trained.

use std::path::{Path, PathBuf};

use serde_json::Value;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::training::{AdamStep, Training};
use wherefore::dataset::{Dataset, DatasetOptions, Label, Record};
use wherefore::factors::Target;
use wherefore::model::{Blueprint, DropoutPass, Learn, Lesson, NamedTensor, Studied, Trainee};
use wherefore::pipeline::Rejections;
use wherefore::tokens::{Encoding, pack};
use wherefore::train::{Example, Labelled, TrainOptions, TrainPlan, plan_head};

pub(super) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(super) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A golden model in training on a device.
pub(super) fn trainee<B: Training>(backend: B, name: &str) -> Trainee {
    let length = json(&path(name).join("golden.json"))["max_length"].as_u64().map(|length| length as usize);
    let blueprint = Blueprint::read(path(name).to_str().unwrap(), false).unwrap();
    let head = blueprint.head().unwrap().clone();
    blueprint.build(backend, head, 0, length).unwrap()
}

/// Some of a golden model's records, encoded, with their targets.
pub(super) fn lessons(trainee: &Trainee, name: &str, numbers: &[usize]) -> Vec<(Encoding, Target)> {
    let golden = json(&path(name).join("golden.json"));
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let lesson = |number: &usize| {
        let record = &golden["records"][*number];
        let label = trainee.resolve_label(&label(&record["label"])).unwrap();
        let (text, pair) = (text(&record["text"]).unwrap(), text(&record["pair"]));
        (trainee.encode(&Record { text, pair, ..Record::default() }).unwrap(), label)
    };
    numbers.iter().map(lesson).collect()
}

fn label(value: &Value) -> Label {
    match value {
        Value::Array(items) => Label::Many(items.iter().map(label).collect()),
        Value::Number(number) if number.is_i64() => Label::Integer(number.as_i64().unwrap()),
        other => Label::Number(other.as_f64().unwrap()),
    }
}

/// Gradients of some records, in micro-batches of at most `budget` tokens; losses in the records' order. Shares are
/// weights over their sum.
pub(super) fn study(
    trainee: &mut Trainee,
    lessons: &[(Encoding, Target)],
    weights: &[f64],
    budget: usize,
    dropout: Option<DropoutPass>,
) -> Vec<f64> {
    let window: Vec<&Encoding> = lessons.iter().map(|(encoding, _)| encoding).collect();
    let total: f64 = weights.iter().sum();
    let mut losses = vec![0.0; lessons.len()];
    for micro in pack(&window, trainee.positions(), budget) {
        let taught: Vec<Lesson<'_>> = micro
            .rows
            .iter()
            .map(|&row| Lesson { target: &lessons[row].1, share: weights[row] / total, record: row as u32 })
            .collect();
        let Studied { losses: some, .. } = trainee.learner().study(micro.batch, &taught, dropout).unwrap();
        micro.rows.iter().zip(some).for_each(|(&row, loss)| losses[row] = loss);
    }
    losses
}

pub(super) fn adam(rate: f64, number: u64) -> AdamStep {
    AdamStep { rate, decay: 0.1, betas: [0.9, 0.999], epsilon: 1e-8, number, scale: 1.0 }
}

/// Every number of some tensors.
pub(super) fn flat(tensors: &[NamedTensor]) -> Vec<f32> {
    tensors.iter().flat_map(|tensor| tensor.values.iter().copied()).collect()
}

/// The bits of a learner's gradients.
pub(super) fn gradient_bits(learner: &mut dyn Learn) -> Vec<u32> {
    flat(&learner.gradients().unwrap()).iter().map(|x| x.to_bits()).collect()
}

/// Records of two kinds that a word tells apart, `n` of them; and the other way round where `flipped`.
pub(super) fn separable(n: usize, flipped: impl Fn(usize) -> bool) -> String {
    let (subjects, fillers) =
        (["the movie", "the book", "the hotel", "this room"], ["was", "was very", "and service was"]);
    let line = |i: usize| {
        let good = (i * 7 + i / 5).is_multiple_of(2);
        let text = format!("{} {} {}", subjects[i % 4], fillers[i / 4 % 3], if good { "good" } else { "bad" });
        let label = if good == flipped(i) { "bad" } else { "good" };
        format!(
            "{{\"id\":\"r{i}\",\"text\":\"{text}\",\"label\":\"{label}\",\"weight\":{}}}\n",
            if flipped(i) { 0.0 } else { 2.0 }
        )
    };
    (0..n).map(line).collect()
}

/// A bert to fine-tune with a new head, and its examples.
pub(super) fn beginner(data: &str, weights: Option<&str>, seed: u64) -> (Trainee, Vec<Example>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data.jsonl");
    std::fs::write(&file, data).unwrap();
    let options = DatasetOptions {
        files: vec![file.to_str().unwrap().to_owned()],
        keep_columns: weights.iter().map(|&name| name.to_owned()).collect(),
        ..DatasetOptions::default()
    };
    let mut rejections = Rejections::new(false, None);
    let labelled = Labelled::read(Dataset::open(options).unwrap(), weights, &mut rejections).unwrap();
    let blueprint = Blueprint::read(path("bert-cls2").to_str().unwrap(), false).unwrap();
    let head = plan_head(&labelled, None, None, blueprint.head()).unwrap();
    let trainee = blueprint.build(Cpu::new().shared_out(), head, seed, None).unwrap();
    let examples = labelled.examples(&trainee, &mut rejections).unwrap();
    (trainee, examples)
}

/// Enough to learn them.
pub(super) fn options(epochs: u32) -> TrainOptions {
    TrainOptions { epochs, learning_rate: 5e-3, batch_size: 8, ..TrainOptions::default() }
}

/// Nothing on the screen.
pub(super) fn plan() -> TrainPlan {
    TrainPlan { quiet: true, ..TrainPlan::default() }
}
