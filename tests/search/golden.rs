//! Rules by explicit gradients in float64 (tests/golden) against searches over the same factors.

use std::path::{Path, PathBuf};

use serde_json::Value;
use wherefore::search::{Form, Query, Source, View};

use super::data::{Dtype, Factors, all_hits};
use super::reference::{self, Exact, Side};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn golden(case: &Path) -> Option<Value> {
    let text = std::fs::read_to_string(case.join("golden.json")).ok()?;
    Some(serde_json::from_str(&text).expect("JSON"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().map(|x| x.as_f64().expect("a number")).collect()
}

/// Factors of records, `δ` by its field's name.
fn sides(golden: &Value, delta: &str) -> Vec<Side> {
    let side = |record: &Value| Side { h: numbers(&record["features"]), delta: numbers(&record[delta]) };
    golden["records"].as_array().expect("records").iter().map(side).collect()
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

fn stored(sides: &[Side]) -> Factors {
    let all = |part: fn(&Side) -> &[f64]| sides.iter().flat_map(|side| single(part(side))).collect();
    Factors::new(sides[0].h.len(), all(|side| &side.h), all(|side| &side.delta), Dtype::F32)
}

type Judge = fn(&Side, &Side) -> Exact;

fn rules() -> Vec<(&'static str, Form<'static>, Judge)> {
    vec![
        ("feature-dot", Form::feature_dot(), reference::feature_dot),
        ("feature-cos", Form::feature_cos(), reference::feature_cos),
        ("feature-euc", Form::feature_euc(), reference::feature_euc),
        ("grad-dot", Form::grad_dot(), |q, i| reference::gradient(q, 1.0, i)),
        ("grad-cos", Form::grad_cos(), reference::grad_cos),
    ]
}

/// Compares the scores of one query with the golden ones; inputs are rounded to f32 first, which may be twice as far
/// off as one rounding of each factor of a product.
fn check<S: Source + ?Sized>(
    source: &S,
    form: &Form<'_>,
    query: &Query,
    expected: &[f64],
    bound: impl Fn(usize) -> Exact,
    what: &str,
) {
    let hits = all_hits(source, form, query);
    assert_eq!(hits.len(), expected.len(), "{what}");
    for (row, (hit, &value)) in hits.iter().zip(expected).enumerate() {
        Exact { value, ..bound(row) }.assert_close(hit.score, 8, what);
    }
}

fn check_case(case: &Path, golden: &Value) -> usize {
    let train = golden["train"].as_u64().expect("a count") as usize;
    let mut compared = 0;
    for (target, delta) in [("features", "none"), ("gold", "delta"), ("predicted", "predicted_delta")] {
        let (training, asked) = (sides(golden, "delta"), sides(golden, delta));
        let source = stored(&training[..train]);
        for (rule, form, judge) in rules() {
            let Some(scores) = golden["scores"][target][rule].as_array() else { continue };
            for (query, expected) in asked[train..].iter().zip(scores) {
                let (h, d) = (single(&query.h), single(&query.delta));
                let ask = if rule.starts_with("grad") { Query::gradient(h, d) } else { Query::feature(h) };
                let what = format!("{} {target} {rule}", case.display());
                let bound = |row: usize| judge(query, &training[row]);
                check(&source.view(), &form, &ask, &numbers(expected), bound, &what);
                compared += 1;
            }
        }
    }
    compared
}

#[test]
fn feature_and_gradient_rules_are_those_of_explicit_gradients() {
    let cases = std::fs::read_dir(folder()).expect("tests/golden").map(|entry| entry.expect("an entry").path());
    let compared: usize = cases.filter_map(|case| golden(&case).map(|golden| check_case(&case, &golden))).sum();
    assert!(compared > 500, "only {compared} queries were compared");
}

#[test]
fn tracin_is_the_sum_over_checkpoints_of_explicit_gradients() {
    let golden_case = golden(&folder().join("bert-cls2")).expect("a golden file");
    let checkpoints = golden_case["tracin"]["checkpoints"].as_array().expect("checkpoints");
    let rates: Vec<f32> = checkpoints.iter().map(|c| c["rate"].as_f64().expect("a rate") as f32).collect();
    let sets: Vec<Vec<Side>> = checkpoints
        .iter()
        .map(|c| folder().join(c["directory"].as_str().expect("a directory")))
        .map(|case| sides(&golden(&case).expect("a checkpoint's golden file"), "delta"))
        .collect();
    let train = golden_case["train"].as_u64().expect("a count") as usize;
    let factors: Vec<Factors> = sets.iter().map(|sides| stored(&sides[..train])).collect();
    let indices: Vec<u64> = (0..train as u64).collect();
    let view = View {
        factors: factors[0].view(),
        checkpoints: factors.iter().map(Factors::view).collect(),
        indices: &indices,
    };
    let scores = golden_case["tracin"]["scores"]["gold"].as_array().expect("scores");
    for (q, expected) in scores.iter().enumerate() {
        let of = |row: usize| -> Vec<Side> {
            let copy = |side: &Side| Side { h: side.h.clone(), delta: side.delta.clone() };
            sets.iter().map(|sides| copy(&sides[row])).collect()
        };
        let query =
            Query::checkpoints(of(train + q).iter().map(|side| (single(&side.h), single(&side.delta))).collect());
        let bound = |row| reference::tracin(&rates, &of(train + q), &of(row));
        check([view.clone()].as_slice(), &Form::tracin(&rates), &query, &numbers(expected), bound, "tracin");
    }
}
