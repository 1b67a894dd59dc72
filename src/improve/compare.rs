//! What trainings of several seeds are worth, beside those of the same seeds before.

use std::collections::BTreeMap;

use super::plan::Plan;
use super::trial::TrialResult;
use crate::model::Problem;
use crate::report::{ChangeRecord, ComparedArm, ComparedSet, Spread};
use crate::train::{Metric, Metrics};

/// The name under which results have a metric.
pub(super) fn name(metric: Metric) -> &'static str {
    match metric {
        Metric::Accuracy => "accuracy",
        Metric::F1Macro => "f1-macro",
        Metric::F1Micro => "f1-micro",
        Metric::ExactMatch => "exact-match",
        Metric::F1 => "f1",
        Metric::Selection => "selection",
        Metric::Loss => "loss",
    }
}

/// The metric that the gate looks at.
pub(super) fn watched(plan: &Plan, problem: Problem) -> Metric {
    let default = if problem == Problem::Regression { Metric::Loss } else { Metric::Accuracy };
    plan.train.metric.unwrap_or(default)
}

fn numbers(metrics: &Metrics) -> Vec<(&'static str, f64)> {
    let named = [
        ("accuracy", metrics.accuracy),
        ("f1-macro", metrics.f1_macro),
        ("f1-micro", metrics.f1_micro.filter(|_| metrics.confusion.is_none())),
        ("pearson", metrics.pearson),
        ("loss", Some(metrics.loss)),
    ];
    named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
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
    let gain = sets.first()?.metrics.get(name(metric))?.gain?;
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
