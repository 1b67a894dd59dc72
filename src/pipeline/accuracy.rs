//! How far a model in some precision is from the same in another: in its factors, its integrated gradients, and the
//! searches made with them.
//!
//! An error is a distance over the length of what is right, `‖x − x*‖ / ‖x*‖`, a record at a time. What is ranked
//! (tokens by their scores, training records by theirs) is also compared as a ranking: Spearman's correlation, and how
//! much of the right first k is among the found.

use crate::backend::Objective;
use crate::dataset::Record;
use crate::error::{Error, Result};
use crate::explain::{self, Method, Subject, Words, explain};
use crate::factors::{self, FactorRows, Floats, Target};
use crate::interrupt;
use crate::model::{Model, Problem};
use crate::numeric::ranks;
use crate::search::{Form, Query, score};
use crate::tokens::Encoding;

/// What is measured, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct AccuracyOptions {
    /// How many of the records are explained, the first ones.
    pub explained: usize,
    /// Steps of integrated gradients.
    pub steps: usize,
    /// How many of a ranking's first are compared.
    pub top: usize,
    /// Tokens in one packed batch; the device's own choice where `None`.
    pub batch_tokens: Option<usize>,
}

impl Default for AccuracyOptions {
    fn default() -> Self {
        Self { explained: 4, steps: 8, top: 10, batch_tokens: None }
    }
}

/// What one model says of some records.
pub struct Measured {
    /// `h`, a record each.
    features: Vec<Vec<f32>>,
    /// `δ`, a record each; none without a head.
    deltas: Vec<Vec<f32>>,
    /// Integrated gradients' score of each token, of the records explained.
    gradients: Vec<Vec<f32>>,
    /// The score of every record for each that asks, by rule.
    searches: Vec<(&'static str, Vec<Vec<f32>>)>,
    /// What is explained: the class of each record.
    targets: Vec<Target>,
}

/// How far apart two measurements are in one thing.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Apart {
    /// `features`, `deltas`, `integrated-gradients`, or a search by a rule.
    pub what: String,
    /// How many were compared.
    pub records: usize,
    /// The mean and the greatest relative error.
    pub error: [f64; 2],
    /// Spearman's correlation, the mean and the least, of what is ranked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spearman: Option<[f64; 2]>,
    /// Which part of the right first ones is among the found, the mean and the least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<[f64; 2]>,
}

/// Runs a model over records. Targets are those `like` had, where there is one to be compared with, else what the model
/// itself predicts.
///
/// # Errors
/// Where a record cannot be run; what the device fails at; [`Error::Interrupted`].
pub fn measure(
    model: &Model,
    records: &[Record],
    options: &AccuracyOptions,
    like: Option<&Measured>,
) -> Result<Measured> {
    let encodings = records.iter().map(|record| model.encode(record)).collect::<Result<Vec<Encoding>>>()?;
    let outputs = model.run(&encodings, options.batch_tokens, &|_| !interrupt::asked())?;
    let (problem, classes) = (model.problem(), model.classes());
    let logits: Vec<&[f32]> = outputs.logits.chunks_exact(classes.max(1)).collect();
    let targets = match like {
        Some(like) => like.targets.clone(),
        None => logits.iter().map(|z| factors::predict(problem, z)).collect(),
    };
    let delta = |(z, target): (&&[f32], &Target)| {
        let mut delta = vec![0.0; classes];
        factors::loss_and_delta(problem, z, target, &mut delta);
        delta
    };
    let features: Vec<Vec<f32>> = outputs.features.chunks_exact(model.width()).map(<[f32]>::to_vec).collect();
    let deltas: Vec<Vec<f32>> = logits.iter().zip(&targets).map(delta).collect();
    let gradients = if problem == Problem::Headless {
        Vec::new()
    } else {
        let some = encodings.len().min(options.explained);
        integrated(model, &encodings[..some], &logits[..some], &targets[..some], options)?
    };
    let searches = searches(&features, &deltas);
    Ok(Measured { features, deltas, gradients, searches, targets })
}

/// Integrated gradients of each record's target.
fn integrated(
    model: &Model,
    encodings: &[Encoding],
    logits: &[&[f32]],
    targets: &[Target],
    options: &AccuracyOptions,
) -> Result<Vec<Vec<f32>>> {
    let words = Words::default();
    let subject = |(index, encoding): (usize, _)| Subject {
        index: index as u64,
        draw: explain::place_among_draws(encoding),
        encoding,
        words: &words,
        objectives: vec![Objective::Logit(if let Target::Class(class) = targets[index] { class } else { 0 })],
        logits: logits[index].to_vec(),
        reads: None,
    };
    let subjects: Vec<Subject<'_>> = encodings.iter().enumerate().map(subject).collect();
    let (method, options_of) =
        (Method::IntegratedGradients, explain::Options { steps: options.steps, ..explain::Options::default() });
    method.check(model, &options_of)?;
    let scores = explain(model, &subjects, method, &options_of, options.batch_tokens, &|_| !interrupt::asked())?;
    Ok(scores.into_iter().flatten().map(|scores| scores.tokens).collect())
}

/// Every record asks, and every record answers.
fn searches(features: &[Vec<f32>], deltas: &[Vec<f32>]) -> Vec<(&'static str, Vec<Vec<f32>>)> {
    let norm = |row: &Vec<f32>| crate::backend::cpu::dot(row, row).sqrt();
    let (all_features, all_deltas) = (features.concat(), deltas.concat());
    let source = FactorRows {
        rows: features.len(),
        width: features.first().map_or(0, Vec::len),
        classes: deltas.first().map_or(0, Vec::len),
        features: Floats::F32(&all_features),
        deltas: &all_deltas,
        feature_norms: &features.iter().map(norm).collect::<Vec<_>>(),
        delta_norms: &features.iter().enumerate().map(|(i, _)| deltas.get(i).map_or(0.0, norm)).collect::<Vec<_>>(),
    };
    let all =
        |form: &Form<'_>, query: &Query| (0..source.rows).map(|row| score(&source, form, query, 0, row)).collect();
    let by_features = Form::feature_cos();
    let alike = features.iter().map(|h| all(&by_features, &Query::feature(h.clone()))).collect();
    let mut searches = vec![("feature-cos", alike)];
    if !deltas.is_empty() {
        let by_gradients = Form::grad_dot();
        let asked = features.iter().zip(deltas).map(|(h, delta)| Query::gradient(h.clone(), delta.clone()));
        searches.push(("grad-dot", asked.map(|query| all(&by_gradients, &query)).collect()));
    }
    searches
}

impl Measured {
    /// How far this is from `right`.
    ///
    /// # Errors
    /// Where they are not of the same records.
    pub fn against(&self, right: &Self, options: &AccuracyOptions) -> Result<Vec<Apart>> {
        if self.features.len() != right.features.len() || self.gradients.len() != right.gradients.len() {
            return Err(Error::usage("accuracy: expected measurements of the same records"));
        }
        let mut all = vec![apart("features".into(), &self.features, &right.features, None)];
        if !self.deltas.is_empty() {
            all.push(apart("deltas".into(), &self.deltas, &right.deltas, None));
        }
        if !self.gradients.is_empty() {
            all.push(apart("integrated-gradients".into(), &self.gradients, &right.gradients, Some(options.top)));
        }
        for ((rule, found), (_, expected)) in self.searches.iter().zip(&right.searches) {
            all.push(apart(format!("search {rule}"), found, expected, Some(options.top)));
        }
        Ok(all)
    }
}

/// Compares vectors one by one, as rankings too where so many of their first matter.
fn apart(what: String, found: &[Vec<f32>], right: &[Vec<f32>], top: Option<usize>) -> Apart {
    let each = |measure: &dyn Fn(&[f32], &[f32]) -> f64| -> Vec<f64> {
        found.iter().zip(right).map(|(found, right)| measure(found, right)).collect()
    };
    let errors = each(&relative_error);
    let least = |values: Vec<f64>| [mean(&values), values.iter().copied().fold(f64::INFINITY, f64::min)];
    Apart {
        what,
        records: errors.len(),
        error: [mean(&errors), errors.iter().copied().fold(0.0, f64::max)],
        spearman: top.map(|_| least(each(&spearman))),
        overlap: top.map(|top| least(each(&|found, right| overlap(found, right, top)))),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// `‖x − x*‖ / ‖x*‖`; 0 where both are nothing.
fn relative_error(found: &[f32], right: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let distance = square(&mut found.iter().zip(right).map(|(&x, &y)| f64::from(x) - f64::from(y)));
    let length = square(&mut right.iter().map(|&y| f64::from(y)));
    if distance == 0.0 { 0.0 } else { distance / length }
}

/// Spearman's rank correlation: Pearson's of the ranks, equal values sharing theirs. 1 where nothing is ranked.
fn spearman(found: &[f32], right: &[f32]) -> f64 {
    let centre = f64::midpoint(found.len() as f64, 1.0);
    let of = |values: &[f32]| ranks(&values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>());
    let (found, right) = (of(found), of(right));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - centre) * (b - centre)).sum::<f64>();
    let scale = (product(&found, &found) * product(&right, &right)).sqrt();
    if scale == 0.0 { 1.0 } else { product(&found, &right) / scale }
}

/// Which part of the right greatest `top` is among the found greatest.
fn overlap(found: &[f32], right: &[f32], top: usize) -> f64 {
    let first = |values: &[f32]| {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
        order.truncate(top);
        order
    };
    let (found, right) = (first(found), first(right));
    right.iter().filter(|i| found.contains(i)).count() as f64 / right.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::{overlap, relative_error, spearman};

    #[test]
    fn agreement_of_rankings() {
        let right = [0.1, 0.2, 0.3, 0.4];
        assert_eq!(spearman(&[1.0, 2.0, 3.0, 40.0], &right), 1.0);
        assert_eq!(spearman(&[4.0, 3.0, 2.0, 1.0], &right), -1.0);
        // Of scipy.stats.spearmanr([1, 3, 2, 4], [1, 2, 3, 4]).
        assert!((spearman(&[1.0, 3.0, 2.0, 4.0], &right) - 0.8).abs() < 1e-12);
        assert_eq!(spearman(&[1.0, 1.0], &[2.0, 2.0]), 1.0);
        assert_eq!(overlap(&[4.0, 1.0, 2.0, 3.0], &right, 2), 0.5);
        assert_eq!(overlap(&[4.0], &[1.0], 10), 1.0);
    }

    #[test]
    fn errors_are_relative() {
        assert_eq!(relative_error(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(relative_error(&[3.0, 5.0], &[3.0, 4.0]), 0.2);
    }
}
