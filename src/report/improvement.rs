//! What `improve` writes: what was done to each record, and what that was worth.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema::{Kind, columns};
use crate::dataset::Record;

/// Something that was done to a record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// The number of the plan's step, from 1.
    pub step: usize,
    /// What was done: drop, relabel, correct, reweight, copy, add or augment.
    pub change: String,
    /// The record's number in the data it was in: for one that was added, in the pool's.
    pub index: u64,
    /// Its id; of a new record, the new one.
    pub id: String,
    /// The label it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// The label it has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
    /// The weight it has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// The audit's score of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Why.
    pub reason: String,
    /// Its first segment.
    pub text: String,
}

impl ChangeRecord {
    /// The Parquet columns.
    pub fn columns() -> Vec<(String, Kind)> {
        columns([
            ("step", Kind::Integer),
            ("change", Kind::Text),
            ("index", Kind::Integer),
            ("id", Kind::Text),
            ("from", Kind::Text),
            ("to", Kind::Text),
            ("weight", Kind::Number),
            ("score", Kind::Number),
            ("reason", Kind::Text),
            ("text", Kind::Text),
        ])
    }

    /// Of a record, before anything else is said.
    pub fn of(step: usize, change: &str, record: &Record, reason: String) -> Self {
        Self {
            step,
            change: change.to_owned(),
            index: record.index,
            id: record.id.clone(),
            reason,
            text: record.text.clone(),
            ..Self::default()
        }
    }
}

/// What a plan did for a model: one line of JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The seeds of the trainings of each arm.
    pub seeds: Vec<u64>,
    /// The metric that the gate looks at, on dev where there is one.
    pub metric: String,
    /// Training from the data as they were, then each way to change them.
    pub arms: Vec<ComparedArm>,
}

/// One way to change the data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ComparedArm {
    /// Its name; `before` is of no change.
    pub name: String,
    /// Training records.
    pub records: u64,
    /// How often what was done.
    pub changes: BTreeMap<String, u64>,
    /// What its models are worth on each set.
    pub sets: Vec<ComparedSet>,
    /// Whether its models are no worse than those before, on the set and metric that the gate looks at. Nothing of
    /// those before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed: Option<bool>,
}

impl Comparison {
    /// What became of an arm by the metric and on the set (the first) that the gate looks at. Nothing of those before.
    pub(super) fn turn(&self, arm: &ComparedArm) -> Option<Turn> {
        arm.sets.first()?.metrics.get(&self.metric)?.turn(&self.metric)
    }
}

impl Turn {
    /// In words.
    pub(super) fn told(self) -> &'static str {
        match self {
            Self::Better => "better than before",
            Self::Worse => "worse than before",
            Self::Untold => "cannot be told apart from the seeds",
        }
    }
}

impl ComparedArm {
    /// What the plan's gate said of it, which goes by the mean and the plan's tolerance alone. Nothing of those before.
    pub(super) fn gate(&self) -> Option<&'static str> {
        self.passed.map(|passed| if passed { "passed the plan's gate" } else { "did not pass the plan's gate" })
    }
}

/// What an arm's models are worth on one set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ComparedSet {
    /// Its name.
    pub set: String,
    /// Its records.
    pub records: u64,
    /// By metric.
    pub metrics: BTreeMap<String, Spread>,
}

/// A number over seeds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// One a seed.
    pub values: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation (over n − 1).
    pub deviation: f64,
    /// The mean over seeds of the value less that of the same seed before: of a loss a rise, which is no gain, is
    /// positive as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain: Option<f64>,
    /// The standard deviation of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain_deviation: Option<f64>,
}

/// The share of the largest value that a deviation of equal ones may be.
const ROUNDING: f64 = 1e-12;

/// What a change did to a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Better,
    Worse,
    /// No more than what seeds differ by.
    Untold,
}

/// Whether less of a metric is better.
fn is_loss(metric: &str) -> bool {
    metric == "loss"
}

/// Whether a metric is a share, which is told in percent.
pub(super) fn is_share(metric: &str) -> bool {
    !is_loss(metric) && metric != "pearson"
}

impl Spread {
    /// What became of this metric since before: a change counts where it is more than its own deviation, which one seed
    /// has none of.
    pub(super) fn turn(&self, metric: &str) -> Option<Turn> {
        let gain = self.gain.map(|gain| if is_loss(metric) { -gain } else { gain })?;
        let tells = self.values.len() > 1 && gain.abs() > self.gain_deviation.unwrap_or_default();
        Some(match (tells, gain > 0.0) {
            (false, _) => Turn::Untold,
            (true, true) => Turn::Better,
            (true, false) => Turn::Worse,
        })
    }

    /// Of values, and of those of the same seeds before.
    pub fn of(values: Vec<f64>, before: Option<&Self>) -> Self {
        let (mean, deviation) = mean_and_deviation(&values);
        let gains: Option<Vec<f64>> =
            before.map(|before| values.iter().zip(&before.values).map(|(after, before)| after - before).collect());
        let gained = gains.as_deref().map(mean_and_deviation);
        Self { mean, deviation, gain: gained.map(|(mean, _)| mean), gain_deviation: gained.map(|(_, sd)| sd), values }
    }
}

fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let deviation = (squares / (n - 1.0).max(1.0)).sqrt();
    // Equal values are not told apart by how their mean was rounded.
    let largest = values.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    (mean, if deviation <= ROUNDING * largest { 0.0 } else { deviation })
}

/// What became of one round of a continual plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundRecord {
    /// From 1; round 0 is the training before the first batch.
    pub round: u64,
    /// Labels asked for in this round.
    pub asked: u64,
    /// Labels spent so far.
    pub labels: u64,
    /// Records waiting for a label after it.
    pub waiting: u64,
    /// Training records of the model in use after it.
    pub records: u64,
    /// What was done to the data, how often.
    pub changes: BTreeMap<String, u64>,
    /// The round's models, on each set.
    pub sets: Vec<ComparedSet>,
    /// Whether they took the place of those before.
    pub accepted: bool,
    /// Why.
    pub reason: String,
}

/// A record that a round asks a label for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AskedRecord {
    /// From 1.
    pub rank: u64,
    /// Its id.
    pub id: String,
    /// `new` to the training data, or `suspect` in them.
    pub kind: String,
    /// How much it is worth asking, by the rule that chose it.
    pub score: f64,
    /// The label it has, where that is what is doubted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Value>,
    /// Its first segment.
    pub text: String,
    /// Its second segment, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
}

impl AskedRecord {
    /// The Parquet columns.
    pub fn columns() -> Vec<(String, Kind)> {
        columns([
            ("rank", Kind::Integer),
            ("id", Kind::Text),
            ("kind", Kind::Text),
            ("score", Kind::Number),
            ("label", Kind::Text),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gains_are_of_the_same_seed() {
        let before = Spread::of(vec![0.8, 0.9], None);
        let after = Spread::of(vec![0.85, 0.93], Some(&before));
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(near(before.mean, 0.85) && near(before.deviation, 0.005_f64.sqrt()));
        assert!(near(after.gain.unwrap(), 0.04) && near(after.gain_deviation.unwrap(), 0.0002_f64.sqrt()));
        assert_eq!((before.gain, Spread::of(vec![0.5], None).deviation), (None, 0.0));
    }

    #[test]
    fn equal_values_have_no_deviation() {
        assert_eq!(Spread::of(vec![0.93; 3], None).deviation, 0.0);
        let before = Spread::of(vec![0.8, 0.9, 0.1], None);
        assert_eq!(Spread::of(vec![0.9, 1.0, 0.2], Some(&before)).gain_deviation, Some(0.0));
    }

    #[test]
    fn a_change_counts_where_it_is_more_than_its_deviation_and_a_loss_that_rises_is_worse() {
        let before = Spread::of(vec![0.5, 0.6], None);
        let turn = |values: [f64; 2], metric: &str| Spread::of(values.to_vec(), Some(&before)).turn(metric);
        assert_eq!(turn([0.6, 0.71], "accuracy"), Some(Turn::Better));
        assert_eq!(turn([0.6, 0.71], "loss"), Some(Turn::Worse));
        assert_eq!(turn([0.4, 0.49], "loss"), Some(Turn::Better));
        assert_eq!(turn([0.5, 0.7], "accuracy"), Some(Turn::Untold));
        let one = Spread::of(vec![0.5], None);
        assert_eq!(Spread::of(vec![0.9], Some(&one)).turn("accuracy"), Some(Turn::Untold), "one seed tells no spread");
        assert_eq!(before.turn("accuracy"), None);
    }
}
