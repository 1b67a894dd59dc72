//! The golden cases of methods that leave parts of a text out.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use wherefore::backend::{Backend, Objective};
use wherefore::explain::{Fit, Masks, Method, Options, Regression, Scores, Subject, Words, explain};
use wherefore::model::{LoadOptions, Model};
use wherefore::tokens::Encoding;

/// A text as a golden file has it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct GoldenText {
    pub(super) ids: Vec<u32>,
    pub(super) type_ids: Vec<u32>,
    pub(super) special: Vec<usize>,
    pub(super) logits: Vec<f32>,
}

/// A case of `lime` or `kernel-shap`, with its text.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct GoldenCase {
    pub(super) method: String,
    pub(super) variant: Option<String>,
    pub(super) replace: String,
    pub(super) samples: Option<usize>,
    pub(super) keep: Option<usize>,
    pub(super) output: String,
    pub(super) target: usize,
    pub(super) value: f64,
    pub(super) baseline_value: Option<f64>,
    pub(super) masks: Vec<String>,
    pub(super) outputs: Vec<f64>,
    pub(super) weights: Vec<f64>,
    pub(super) intercept: Option<f64>,
    pub(super) r2: Option<f64>,
    pub(super) scores: Vec<f64>,
    #[serde(skip)]
    pub(super) golden: Option<(PathBuf, String, GoldenText)>,
}

impl GoldenText {
    pub(super) fn encoding(&self) -> Encoding {
        let length = self.ids.len();
        Encoding {
            ids: self.ids.clone(),
            type_ids: self.type_ids.clone(),
            tokens: self.ids.iter().map(ToString::to_string).collect(),
            offsets: vec![None; length],
            segments: (0..length).map(|token| (!self.special.contains(&token)).then_some(0)).collect(),
            ..Encoding::default()
        }
    }
}

impl GoldenCase {
    pub(super) fn folder(&self) -> &Path {
        &self.golden.as_ref().unwrap().0
    }

    pub(super) fn text(&self) -> &GoldenText {
        &self.golden.as_ref().unwrap().2
    }

    pub(super) fn objective(&self) -> Objective {
        match (&*self.output, &*self.golden.as_ref().unwrap().1) {
            ("logit", _) => Objective::Logit(self.target),
            (_, "multi-label") => Objective::Sigmoid(self.target),
            _ => Objective::Softmax(self.target),
        }
    }

    /// One row a sample.
    pub(super) fn rows(&self) -> Vec<Vec<bool>> {
        self.masks.iter().map(|mask| mask.chars().map(|kept| kept == '1').collect()).collect()
    }

    /// The different masks, and the output and summed weight of each.
    pub(super) fn merged(&self) -> (Masks, Vec<f64>, Vec<f64>) {
        let rows = self.rows();
        let masks = Masks::from_rows(rows[0].len(), rows.clone());
        let of = |mask: &[bool]| {
            rows.iter().enumerate().filter(|(_, row)| **row == mask).map(|(i, _)| i).collect::<Vec<_>>()
        };
        let samples: Vec<Vec<usize>> = masks.iter().map(of).collect();
        let outputs = samples.iter().map(|samples| self.outputs[samples[0]]).collect();
        let weights = samples.iter().map(|samples| samples.iter().map(|&i| self.weights[i]).sum()).collect();
        (masks, outputs, weights)
    }

    /// The model that the case's method fits to outputs, one for each of the different masks; features are chosen by
    /// the golden outputs.
    pub(super) fn fit(&self, outputs: &[f64]) -> Fit {
        let (masks, golden, weights) = self.merged();
        let regression = Regression::new(&masks, weights);
        if let Some(base) = self.baseline_value {
            return regression.shares().fit(outputs, base, self.value - base);
        }
        let chosen = regression.choose(&golden, self.keep.unwrap_or(usize::MAX));
        let ridge = if self.variant.as_deref() == Some("original") { 1.0 } else { 0.0 };
        regression.ridge(&chosen, ridge).fit(outputs)
    }

    /// How far the coefficients can move where every output moves by 1 at most, and so do the ends that Kernel SHAP's
    /// are tied to. They are linear in the outputs, so that moving each by itself tells.
    pub(super) fn sensitivity(&self) -> f64 {
        let (_, outputs, _) = self.merged();
        let plain = self.fit(&outputs).coefficients;
        let mut totals = vec![0.0; plain.len()];
        for i in 0..outputs.len() {
            let mut moved = outputs.clone();
            moved[i] += 1.0;
            let moved = self.fit(&moved).coefficients;
            totals.iter_mut().zip(moved.iter().zip(&plain)).for_each(|(total, (a, b))| *total += (a - b).abs());
        }
        let ends = if self.baseline_value.is_some() { 2.0 } else { 0.0 };
        ends + totals.into_iter().fold(0.0, f64::max)
    }
}

/// The golden file of a model.
pub(super) fn golden(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("explain.json")).unwrap()).unwrap()
}

/// A case of a golden file, by its number.
pub(super) fn case(folder: &Path, golden: &Value, number: usize) -> GoldenCase {
    let value = &golden["cases"][number];
    let text = serde_json::from_value(golden["texts"][value["text"].as_u64().unwrap() as usize].clone()).unwrap();
    let kind = golden["kind"].as_str().unwrap().to_owned();
    let case: GoldenCase = serde_json::from_value(value.clone()).unwrap();
    GoldenCase { golden: Some((folder.to_owned(), kind, text)), ..case }
}

/// Every case of these methods, each with words that say which it is.
pub(super) fn golden_cases() -> Vec<(String, GoldenCase)> {
    let entries = fs::read_dir(folder("")).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|folder| folder.join("explain.json").is_file()).collect();
    folders.sort();
    folders.iter().flat_map(|folder| cases_of(folder)).collect()
}

fn cases_of(folder: &Path) -> Vec<(String, GoldenCase)> {
    let golden = golden(folder);
    let count = golden["cases"].as_array().unwrap().len();
    let is_ours = |&number: &usize| matches!(golden["cases"][number]["method"].as_str(), Some("lime" | "kernel-shap"));
    let named = |number: usize| {
        let case = case(folder, &golden, number);
        (format!("{} case {number}: {}", folder.display(), case.method), case)
    };
    (0..count).filter(is_ours).map(named).collect()
}

/// One score a token, from one a feature.
pub(super) fn at_features(case: &GoldenCase, coefficients: &[f64]) -> Vec<f64> {
    let mut left = coefficients.iter();
    let special = &case.text().special;
    (0..case.scores.len()).map(|token| if special.contains(&token) { 0.0 } else { *left.next().unwrap() }).collect()
}

/// `tests/golden/NAME`.
pub(super) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(super) fn open<B: Backend>(backend: B, folder: &Path) -> Model {
    Model::open_with(backend, folder, &LoadOptions::default()).unwrap()
}

/// What a method says of one record.
pub(super) fn scores(model: &Model, subject: &Subject<'_>, method: Method, options: &Options) -> Vec<Scores> {
    explain(model, std::slice::from_ref(subject), method, options, None, &|_| true).unwrap().remove(0)
}

/// A record with the logits that the model gives it.
pub(super) fn subject<'a>(
    model: &Model,
    encoding: &'a Encoding,
    words: &'a Words,
    index: u64,
    objectives: Vec<Objective>,
) -> Subject<'a> {
    let logits = model.run(&[encoding], None, &|_| true).unwrap().logits;
    Subject { index, draw: index as u32, encoding, words, objectives, logits, reads: None }
}
