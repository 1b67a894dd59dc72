//! Every method against PyTorch in float64, on a model of each family.
//!
//! The golden numbers have nine digits, and even the reference hands its gradients and logits over as f32: it is
//! allowed a few units in the last place of f32, of the largest number at hand. The CPU's largest error over a model's
//! cases may be twice that of plain f32 loops beside that.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::{Plain, Reference};
use wherefore::backend::{Backend, Objective, Stage};
use wherefore::explain::{Baseline, Method, Options, Quadrature, Replacement, Scores, Subject, Words, explain};
use wherefore::model::{LoadOptions, Model};
use wherefore::tokens::Encoding;

#[derive(Deserialize)]
pub(super) struct Golden {
    pub(super) kind: String,
    pub(super) texts: Vec<Text>,
    pub(super) cases: Vec<Case>,
}

#[derive(Deserialize)]
pub(super) struct Text {
    pub(super) ids: Vec<u32>,
    pub(super) type_ids: Vec<u32>,
    pub(super) special: Vec<usize>,
    pub(super) logits: Vec<f32>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct Case {
    pub(super) text: usize,
    pub(super) method: String,
    pub(super) quadrature: Option<String>,
    pub(super) steps: Option<usize>,
    pub(super) layer: Option<String>,
    pub(super) baseline: Option<String>,
    #[serde(rename = "baseline_ids")]
    pub(super) baseline_ids: serde_json::Value,
    pub(super) output: Option<String>,
    pub(super) target: Option<usize>,
    pub(super) against: Option<usize>,
    pub(super) value: Option<f64>,
    #[serde(rename = "baseline_value")]
    pub(super) baseline_value: Option<f64>,
    pub(super) samples: Option<usize>,
    pub(super) sigma: Option<f32>,
    pub(super) seed: Option<u64>,
    pub(super) record: Option<u64>,
    pub(super) occlude: Option<String>,
    pub(super) form: Option<String>,
    #[serde(rename = "start_layer")]
    pub(super) start_layer: Option<usize>,
    pub(super) scores: Vec<f64>,
}

impl Text {
    pub(super) fn encoding(&self) -> Encoding {
        let length = self.ids.len();
        let segment = |token: usize| (!self.special.contains(&token)).then_some(0);
        Encoding {
            ids: self.ids.clone(),
            type_ids: self.type_ids.clone(),
            tokens: vec![String::new(); length],
            offsets: vec![None; length],
            segments: (0..length).map(segment).collect(),
            ..Encoding::default()
        }
    }
}

impl Case {
    pub(super) fn objective(&self, kind: &str) -> Objective {
        let target = self.target.unwrap_or(0);
        match (self.against, self.output.as_deref(), kind) {
            (Some(against), ..) => Objective::Difference(target, against),
            (None, Some("probability"), "multi-label") => Objective::Sigmoid(target),
            (None, Some("probability"), _) => Objective::Softmax(target),
            _ => Objective::Logit(target),
        }
    }

    /// The method, where it is one of those tested here with settings that can be given.
    pub(super) fn method(&self) -> Option<Method> {
        let given_draws = self.method == "gradient-shap" && self.baseline.as_deref() == Some("given");
        self.method.parse().ok().filter(|_| !given_draws && !matches!(&*self.method, "lime" | "kernel-shap"))
    }

    fn options(&self, model: &Model, text: &Text) -> Options {
        let defaults = Options::default();
        let baseline = match self.baseline.as_deref() {
            Some("zero") => Baseline::Zero,
            Some("mask") => Baseline::Mask,
            Some("given") => Baseline::text(&Encoding { ids: self.given(), ..text.encoding() }),
            _ => Baseline::Pad,
        };
        Options {
            steps: self.steps.unwrap_or(defaults.steps),
            quadrature: self.quadrature.as_deref().map_or(Quadrature::default(), |rule| rule.parse().unwrap()),
            baseline,
            stage: if self.layer.as_deref() == Some("embeddings") { Stage::Output } else { Stage::Word },
            samples: Some(self.samples.unwrap_or(1)),
            noise: Some(self.sigma.unwrap_or(0.0) / model.embedding_deviation()),
            replacement: self.occlude.as_deref().map_or(Replacement::Mask, |word| word.parse().unwrap()),
            raw_attention: self.form.as_deref() == Some("scores"),
            start_layer: self.start_layer.unwrap_or(0),
            seed: self.seed.unwrap_or(0),
            ..defaults
        }
    }

    fn given(&self) -> Vec<u32> {
        serde_json::from_value(self.baseline_ids.clone()).unwrap()
    }
}

pub(super) fn golden_models() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folders = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = folders.filter(|folder| folder.join("explain.json").exists()).collect();
    folders.sort();
    folders
}

pub(super) fn read(folder: &Path) -> Golden {
    serde_json::from_str(&fs::read_to_string(folder.join("explain.json")).unwrap()).unwrap()
}

pub(super) fn open<B: Backend>(backend: B, folder: &Path) -> Model {
    Model::open_with(backend, folder, &LoadOptions::default()).unwrap()
}

pub(super) fn scores_of(model: &Model, golden: &Golden, case: &Case, method: Method) -> Scores {
    let text = &golden.texts[case.text];
    let (encoding, words) = (text.encoding(), Words::default());
    let subject = Subject {
        index: 0,
        draw: case.record.unwrap_or(0) as u32,
        encoding: &encoding,
        words: &words,
        objectives: vec![case.objective(&golden.kind)],
        logits: text.logits.clone(),
        reads: None,
    };
    let done = |_| true;
    let mut scores = explain(model, &[subject], method, &case.options(model, text), None, &done).unwrap();
    scores.remove(0).remove(0)
}

pub(super) fn worst(scores: &Scores, case: &Case) -> f64 {
    let pairs = scores.tokens.iter().zip(&case.scores);
    let tokens = pairs.map(|(&found, &expected)| (f64::from(found) - expected).abs()).fold(0.0, f64::max);
    let output = case.value.map_or(0.0, |value| (scores.output - value).abs());
    let baseline = case.baseline_value.zip(scores.baseline_output).map_or(0.0, |(e, f)| (e - f).abs());
    tokens.max(output).max(baseline)
}

/// Units in the last place of f32, over the largest number: numbers handed over, and the nodes' places.
pub(super) const FLOOR: f64 = 8.0 * f32::EPSILON as f64 + 1e-8;

#[test]
fn every_method_gives_pytorchs_scores_on_every_family() {
    let folders = golden_models();
    assert!(folders.len() >= 15, "{folders:?}");
    let mut methods = std::collections::BTreeSet::new();
    for folder in folders {
        let golden = read(&folder);
        let [reference, plain, cpu] = [open(Reference, &folder), open(Plain, &folder), open(Cpu::new(), &folder)];
        let [mut plain_error, mut cpu_error] = [0.0_f64; 2];
        for (number, case) in golden.cases.iter().enumerate() {
            let Some(method) = case.method() else { continue };
            methods.insert(method.name());
            let scale = case.scores.iter().chain(&case.value).fold(0.0, |most: f64, x| most.max(x.abs()));
            let error = |model| worst(&scores_of(model, &golden, case, method), case) / scale;
            let off = error(&reference);
            assert!(off <= FLOOR, "{} case {number}: {method} is off by {off:e}", folder.display());
            (plain_error, cpu_error) = (plain_error.max(error(&plain)), cpu_error.max(error(&cpu)));
        }
        let allowed = 2.0 * plain_error + FLOOR;
        assert!(cpu_error <= allowed, "{}: off by {cpu_error:e}, allowed {allowed:e}", folder.display());
    }
    assert_eq!(methods.len(), 10, "{methods:?}");
}
