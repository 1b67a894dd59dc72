//! What trainings of several seeds are worth, beside those of the same seeds before.

use std::collections::BTreeMap;

use super::plan::Plan;
use super::trial::TrialResult;
use crate::model::Problem;
use crate::report::{ChangeRecord, ComparedArm, ComparedSet, Spread};
use crate::train::{Metric, Metrics};

/// The metric that the gate looks at. Of one class a record, F1 over all decisions is accuracy, which results have.
pub(super) fn watched(plan: &Plan, problem: Problem) -> Metric {
    let default = if problem == Problem::Regression { Metric::Loss } else { Metric::Accuracy };
    match plan.train.metric.unwrap_or(default) {
        Metric::F1Micro if problem == Problem::SingleLabel => Metric::Accuracy,
        metric => metric,
    }
}

fn numbers(metrics: &Metrics) -> Vec<(&'static str, f64)> {
    let is_told = |metric: &Metric| *metric != Metric::F1Micro || metrics.confusion.is_none();
    let named = Metric::ALL.into_iter().filter(is_told).map(|metric| (metric.name(), metrics.get(metric)));
    named.chain([("pearson", metrics.pearson)]).filter_map(|(name, value)| Some((name, value?))).collect()
}

/// Each set's numbers over seeds, and what is gained over those before.
pub(super) fn sets(plan: &Plan, results: &[TrialResult], before: Option<&[ComparedSet]>) -> Vec<ComparedSet> {
    let set = |(name, _): (&str, &[String])| {
        let metrics: Vec<&Metrics> = results.iter().filter_map(|result| result.sets.get(name)).collect();
        let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (metric, value) in metrics.iter().flat_map(|metrics| numbers(metrics)) {
            values.entry(metric.to_owned()).or_default().push(value);
        }
        let before = before.and_then(|sets| sets.iter().find(|set| set.set == name));
        let spread = |(metric, values): (String, Vec<f64>)| {
            let spread = Spread::of(values, before.and_then(|set| set.metrics.get(&metric)));
            (metric, spread)
        };
        ComparedSet {
            set: name.to_owned(),
            records: metrics.first().map_or(0, |metrics| metrics.records as u64),
            metrics: values.into_iter().map(spread).collect(),
        }
    };
    plan.judged_on().into_iter().map(set).collect()
}

/// What is gained on the first set in the metric watched; greater is better, whichever it is.
pub(super) fn gained(sets: &[ComparedSet], metric: Metric) -> Option<f64> {
    let gain = sets.first()?.metrics.get(metric.name())?.gain?;
    Some(if metric == Metric::Loss { -gain } else { gain })
}

/// An arm as results have it.
pub(super) fn arm(
    plan: &Plan,
    name: &str,
    results: &[TrialResult],
    changes: &[ChangeRecord],
    before: Option<&ComparedArm>,
    metric: Metric,
) -> ComparedArm {
    let sets = sets(plan, results, before.map(|before| before.sets.as_slice()));
    let passed = before.and_then(|_| gained(&sets, metric)).map(|gain| gain >= -plan.tolerance);
    ComparedArm {
        name: name.to_owned(),
        records: results.first().map_or(0, |result| result.records),
        changes: counted(changes),
        sets,
        passed,
    }
}

/// How often what was done.
pub(super) fn counted(changes: &[ChangeRecord]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for change in changes {
        *counts.entry(change.change.clone()).or_default() += 1;
    }
    counts
}
