//! Against PyTorch in float64: representers, influence and RelatIF of the golden models (see `tests/golden/README.md`).

use std::path::PathBuf;

use serde_json::Value;
use wherefore::factors::{
    Curvature, CurvatureOptions, HessianForm, InMemory, Preconditioned, QueryFactors, RefitOptions, RepresenterCompat,
    Target, representer,
};
use wherefore::model::Problem;

use super::{go_on, with_labels};

const CASES: [&str; 7] =
    ["bert-cls2", "bert-cls5", "ernie-cls3", "bert-multilabel", "bert-regression", "albert-cls2", "distilbert-cls2"];

/// A golden case: training factors made from its features and logits, and its queries.
struct Case {
    golden: Value,
    train: InMemory,
    queries: Vec<Query>,
}

struct Query {
    features: Vec<f32>,
    gold: Vec<f32>,
    predicted: Vec<f32>,
    predicted_class: Option<usize>,
    gold_class: Option<usize>,
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().map(|values| values.iter().map(|x| x.as_f64().expect("a number")).collect()).unwrap_or_default()
}

fn rounded(value: &Value) -> Vec<f32> {
    floats(value).into_iter().map(|x| x as f32).collect()
}

fn target(problem: Problem, label: &Value, classes: usize) -> Target {
    match problem {
        Problem::SingleLabel => Target::Class(label.as_u64().expect("a class") as usize),
        Problem::MultiLabel => {
            let mut row = vec![0.0; classes];
            for id in floats(label) {
                row[id as usize] = 1.0;
            }
            Target::Classes(row)
        }
        _ => Target::Values(vec![label.as_f64().expect("a value") as f32]),
    }
}

impl Case {
    /// None, and a word about it, where the case is not there.
    #[allow(clippy::print_stderr)]
    fn load(name: &str) -> Option<Self> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).join("golden.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!("not tested: {} is not there", path.display());
            return None;
        };
        let golden: Value = serde_json::from_str(&text).expect("golden.json is JSON");
        let problem = match golden["kind"].as_str() {
            Some("multi-label") => Problem::MultiLabel,
            Some("regression") => Problem::Regression,
            _ => Problem::SingleLabel,
        };
        let records = golden["records"].as_array().expect("records");
        let (train, queries) = records.split_at(golden["train"].as_u64().expect("a number") as usize);
        let (width, classes) = (floats(&train[0]["features"]).len(), floats(&train[0]["logits"]).len());
        let join = |field: &str| train.iter().flat_map(|record| rounded(&record[field])).collect::<Vec<_>>();
        let targets = train.iter().map(|record| target(problem, &record["label"], classes)).collect();
        let train = with_labels(problem, width, classes, join("features"), &join("logits"), targets);
        let class = |value: &Value| value.as_u64().map(|class| class as usize);
        let query = |record: &Value| Query {
            features: rounded(&record["features"]),
            gold: rounded(&record["delta"]),
            predicted: rounded(&record["predicted_delta"]),
            predicted_class: class(&record["predicted"]),
            gold_class: class(&record["label"]),
        };
        let queries = queries.iter().map(query).collect();
        Some(Self { golden, train, queries })
    }

    fn rows(&self) -> usize {
        self.train.rows()
    }

    fn delta(&self, i: usize) -> &[f32] {
        &self.train.deltas[i * self.train.classes..][..self.train.classes]
    }

    fn features(&self, i: usize) -> &[f32] {
        &self.train.features[i * self.train.width..][..self.train.width]
    }
}

fn dot(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

fn score(query: &Preconditioned, delta: &[f32], features: &[f32]) -> f64 {
    let width = features.len();
    let with_bias = |v: &[f32]| dot(&v[..width], features) + f64::from(v[width]);
    match query {
        Preconditioned::Full(v) => {
            v.chunks_exact(width + 1).zip(delta).map(|(v, &d)| with_bias(v) * f64::from(d)).sum()
        }
        Preconditioned::RankOne { delta: query, input } => dot(query, delta) * with_bias(input),
    }
}

/// Features, logits and preconditioned queries are each rounded to f32, and a solution of `H + λI` may magnify a
/// relative change of H by its condition number, ‖H + λI‖ / λ.
fn assert_scores(found: &[f64], expected: &[f64], condition: f64, what: &str) {
    let largest = expected.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        let tolerance = f64::from(f32::EPSILON) * condition * largest;
        assert!((found - expected).abs() <= tolerance, "{what}: {found} {expected}");
    }
}

/// A bound on `‖H + λI‖ / λ`: the largest `‖h̃‖²`, times what the loss can curve.
fn condition(train: &InMemory, damping: f64) -> f64 {
    let inputs = train.features.chunks_exact(train.width).map(|h| dot(h, h) + 1.0);
    2.0 * inputs.fold(0.0, f64::max) / damping
}

fn check_influence(case: &Case, name: &str, form: HessianForm, suffix: &str) {
    let damping = case.golden["damping"].as_f64().expect("a damping");
    let options = CurvatureOptions { form, damping, ..CurvatureOptions::default() };
    let curvature = Curvature::fit(&case.train, options, &go_on).expect("a curvature");
    let own = curvature.self_influence(&go_on).expect("self-influence");
    let condition = condition(&case.train, damping);
    for (q, query) in case.queries.iter().enumerate() {
        for (side, delta) in [("gold", &query.gold), ("predicted", &query.predicted)] {
            let factors = QueryFactors { delta, features: &query.features };
            let v = curvature.precondition(&[factors], &go_on).expect("a query").swap_remove(0);
            let influence: Vec<f64> = (0..case.rows()).map(|i| score(&v, case.delta(i), case.features(i))).collect();
            let relatif: Vec<f64> = influence.iter().zip(&own).map(|(s, &own)| s / f64::from(own).sqrt()).collect();
            let expected = |rule: &str| floats(&case.golden["scores"][side][format!("{rule}{suffix}")][q]);
            assert_scores(
                &influence,
                &expected("influence"),
                condition,
                &format!("{name} {side} influence{suffix} {q}"),
            );
            assert_scores(&relatif, &expected("relatif"), condition, &format!("{name} {side} relatif{suffix} {q}"));
        }
    }
}

#[test]
fn influence_and_relatif_are_pytorchs() {
    for name in CASES {
        let Some(case) = Case::load(name) else { continue };
        check_influence(&case, name, HessianForm::Exact, "");
        check_influence(&case, name, HessianForm::Kronecker, "-kronecker");
    }
}

#[test]
fn representers_are_pytorchs() {
    for name in ["bert-cls2", "bert-cls5"] {
        let Some(case) = Case::load(name) else { continue };
        for (compat, field) in [(RepresenterCompat::Exact, "gold"), (RepresenterCompat::TrustAi, "trustai")] {
            let expected = &case.golden["refit"][field];
            let penalty = case.golden["refit"]["decay"].as_f64().expect("a penalty");
            let options = RefitOptions { penalty, ..RefitOptions::default() };
            let found = representer(&case.train, &options, compat, &go_on).expect("representers");
            assert!(found.refit.converged);
            let condition = condition(&case.train, penalty);
            let rows =
                |field: &str| expected[field].as_array().expect("rows").iter().flat_map(floats).collect::<Vec<_>>();
            assert_scores(&found.refit.weight, &rows("weight"), condition, name);
            assert_scores(&found.refit.bias, &floats(&expected["bias"]), condition, name);
            let alpha: Vec<f64> = found.alpha.iter().map(|&a| f64::from(a)).collect();
            assert_scores(&alpha, &rows("alpha"), condition, name);
            for (q, query) in case.queries.iter().enumerate() {
                for (side, class) in [("gold", query.gold_class), ("predicted", query.predicted_class)] {
                    let class = class.expect("a class");
                    let similarity = |i| dot(&query.features, case.features(i)) + f64::from(found.bias_coordinate);
                    let value = |i: usize| f64::from(found.alpha[i * case.train.classes + class]) * similarity(i);
                    let values: Vec<f64> = (0..case.rows()).map(value).collect();
                    assert_scores(
                        &values,
                        &floats(&expected["scores"][side][q]),
                        condition,
                        &format!("{name} {field} {side}"),
                    );
                }
            }
        }
    }
}
