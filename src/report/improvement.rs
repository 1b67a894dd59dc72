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
    /// The mean over seeds of what is gained over the same seed before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain: Option<f64>,
    /// The standard deviation of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain_deviation: Option<f64>,
}

impl Spread {
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
    (mean, (squares / (n - 1.0).max(1.0)).sqrt())
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
}
