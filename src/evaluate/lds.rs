//! The linear datamodelling score (Park et al. 2023): whether a rule says what a model trained on other records would
//! have said.
//!
//! J subsets of a share of the training records are drawn, and a model is trained on each. For a query q, a rule's
//! prediction of subset S is the sum of its scores, `Σ_{i ∈ S} s(i, q)`; what it is held against is the margin of q's
//! label under the model trained on S, its mean over seeds. The score is Spearman's correlation of the two over the
//! subsets, and its mean over queries.

use serde::Serialize;

use super::contender::{behind, verdict};
use super::retraining::{RetrainingPlan, Subset};
use super::table::{Table, cell};
use super::units::{count, first, order};
use super::{Contender, Judgement, Measure, OpenQueries, Trainings, spearman};
use crate::error::{Error, Result};
use crate::pipeline::Settings;
use crate::random::{Purpose, Stream, uniform};

/// How the score is measured.
#[derive(Clone, Debug)]
pub struct LdsOptions {
    /// Subsets J of each share.
    pub subsets: usize,
    /// Shares of the training records.
    pub fractions: Vec<f64>,
    /// Trainings of each subset, whose margins are averaged: 1 for heads, whose optimum has no seed.
    pub seeds: usize,
    /// Of the subsets, and of the bootstrap.
    pub seed: u64,
}

/// How well one rule predicts what subsets of one share teach.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lds {
    /// `lds`
    pub yardstick: &'static str,
    /// The rule.
    #[serde(flatten)]
    pub judged: Judgement,
    /// The mean over queries of Spearman's correlation over subsets; queries whose scores do not vary count 0.
    pub lds: Option<Measure>,
    /// By how much the rule of the best mean is better, query by query: where the interval is above 0, it is so for
    /// more than these queries.
    pub behind_best: Option<Measure>,
    /// Queries.
    pub queries: u64,
    /// Subsets J.
    pub subsets: u64,
    /// Their share of the training records.
    pub fraction: f64,
    /// Trainings of each.
    pub seeds: u64,
}

impl Lds {
    /// All rules side by side, the best first, share by share.
    pub fn table(list: &[Self]) -> Table {
        let mut sorted: Vec<&Self> = list.iter().collect();
        let mean = |row: &Self| row.lds.map_or(f64::NEG_INFINITY, |lds| lds.mean);
        sorted.sort_by(|a, b| a.fraction.total_cmp(&b.fraction).then(mean(b).total_cmp(&mean(a))));
        let mut table = Table::new(&["rule", "share", "LDS ↑", "behind the best", "seconds", "bytes/record"]);
        for row in &sorted {
            let [seconds, bytes] = row.judged.cost();
            let fraction = row.fraction.to_string();
            table.push(vec![row.judged.name(), fraction, cell(row.lds), cell(row.behind_best), seconds, bytes]);
        }
        if let Some(Self { queries, subsets, seeds, .. }) = list.first() {
            table.note(format!(
                "{queries} queries, {subsets} subsets of each share, {seeds} training{} of each; ± is half a 95 % interval over queries",
                if *seeds == 1 { "" } else { "s" }
            ));
        }
        let first = |row: &&Self| row.fraction == list[0].fraction;
        if let Some(verdict) = verdict(list.iter().filter(first).map(|row| (&row.judged, row.behind_best))) {
            table.note(verdict);
        }
        table
    }
}

impl Trainings<'_> {
    /// Trains on subsets, and judges every rule, and draws, by what they teach.
    ///
    /// # Errors
    /// As [`Trainings::margins`] and [`crate::pipeline::SearchJob::run`]; [`Error::Usage`] for options without a
    /// meaning; [`Error::Mismatch`] where a store is of other records.
    pub fn lds(
        &self,
        contenders: &[Contender<'_>],
        open: OpenQueries<'_>,
        options: &LdsOptions,
        plan: &RetrainingPlan,
        settings: &Settings,
    ) -> Result<Vec<Lds>> {
        check(options, plan, self.training.len())?;
        let shares: Vec<Share> = options
            .fractions
            .iter()
            .map(|&fraction| self.share(fraction, options, plan, settings))
            .collect::<Result<_>>()?;
        // [shares][judged][queries]
        let mut correlations = vec![vec![Vec::new(); contenders.len() + 1]; shares.len()];
        let judged = self.each_scores(contenders, open, options.seed, settings, &mut |number, query, scores| {
            for (share, correlations) in shares.iter().zip(&mut correlations) {
                correlations[number].push(share.correlation(query, scores));
            }
            Ok(())
        })?;
        let rows = options.fractions.iter().zip(&correlations).flat_map(|(&fraction, of_share)| {
            let behind = behind(&judged, of_share, options.seed);
            judged.iter().zip(of_share).zip(behind).map(move |((judged, correlations), behind_best)| Lds {
                yardstick: "lds",
                judged: judged.clone(),
                lds: Measure::of(correlations, options.seed),
                behind_best: behind_best.filter(|_| !judged.is_chance()),
                queries: correlations.len() as u64,
                subsets: options.subsets as u64,
                fraction,
                seeds: options.seeds as u64,
            })
        });
        Ok(rows.collect())
    }

    fn share(&self, fraction: f64, options: &LdsOptions, plan: &RetrainingPlan, settings: &Settings) -> Result<Share> {
        let subsets: Vec<Subset> = (0..options.subsets).map(|j| self.draw(fraction, j, options.seed)).collect();
        // A seed of its own for each: what is common to all subsets would be taken for what records teach.
        let seeded = |(j, subset): (usize, &Subset)| {
            let subset = subset.clone();
            (0..options.seeds).map(move |r| subset.clone().seeded(j as u64 + ((r as u64) << 32))).collect::<Vec<_>>()
        };
        let trained: Vec<Subset> = if plan.retraining.has_seeds() {
            subsets.iter().enumerate().flat_map(seeded).collect()
        } else {
            subsets.clone()
        };
        let margins = self.margins(&trained, plan, settings)?;
        let mean = |of_subset: &[Vec<f64>]| {
            let sum = |query: usize| of_subset.iter().map(|margins| margins[query]).sum::<f64>();
            (0..self.queries.len()).map(|query| sum(query) / of_subset.len() as f64).collect()
        };
        Ok(Share { subsets, margins: margins.chunks(options.seeds).map(mean).collect() })
    }

    /// The records with the greatest of their draws.
    pub fn draw(&self, fraction: f64, subset: usize, seed: u64) -> Subset {
        let stream = Stream::new(seed, Purpose::Subsets);
        let draw = |row: usize| f64::from(uniform(stream.block([row as u32, 0, subset as u32, u32::MAX])[0]));
        let keys: Vec<f64> = (0..self.training.len()).map(draw).collect();
        let members = first(&order(&keys), count(fraction, keys.len()));
        Subset::of((0..members.len()).filter(|&row| members[row]))
    }
}

/// The subsets of one share, and what each taught: `[J][Q]`.
struct Share {
    subsets: Vec<Subset>,
    margins: Vec<Vec<f64>>,
}

impl Share {
    fn correlation(&self, query: usize, scores: &[f32]) -> f64 {
        let sums: Vec<f64> = self.subsets.iter().map(|subset| subset.sum(scores)).collect();
        let margins: Vec<f64> = self.margins.iter().map(|margins| margins[query]).collect();
        spearman(&sums, &margins).unwrap_or(0.0)
    }
}

/// Subsets, or sets left out: each is a training, or a refit, and is held in memory.
pub(super) const MOST_TRAININGS: usize = 100_000;
const MOST_SEEDS: usize = 1_000;

fn check(options: &LdsOptions, plan: &RetrainingPlan, records: usize) -> Result<()> {
    if !(3..=MOST_TRAININGS).contains(&options.subsets) {
        return Err(Error::usage(format!("--subsets: expected 3 to {MOST_TRAININGS}, found {}", options.subsets)));
    }
    if let Some(fraction) = options.fractions.iter().find(|fraction| !(**fraction > 0.0 && **fraction < 1.0)) {
        return Err(Error::usage(format!("--fraction: expected between 0 and 1, found {fraction}")));
    }
    let draws_some = |fraction: f64| fraction * records as f64 >= 1.0 - 1e-9 && count(fraction, records) < records;
    if let Some(fraction) = options.fractions.iter().find(|fraction| !draws_some(**fraction)) {
        return Err(Error::usage(format!(
            "--fraction: expected one of the {records} records at least, and not all, found {fraction} of them"
        )));
    }
    check_seeds(options.seeds, plan)
}

/// Refuses seeds that would change nothing.
pub(super) fn check_seeds(seeds: usize, plan: &RetrainingPlan) -> Result<()> {
    match seeds {
        0 => Err(Error::usage("--seeds: expected at least 1, found 0")),
        1 => Ok(()),
        MOST_SEEDS.. => Err(Error::usage(format!("--seeds: expected less than {MOST_SEEDS}, found {seeds}"))),
        _ if plan.retraining.has_seeds() => Ok(()),
        _ => Err(Error::usage("--seeds: a last layer's optimum is the same whatever the seed")
            .with_hint("train whole models: --retrain full")),
    }
}
