//! Removal curves: what becomes of a query when the records that a rule ranks first for it are taken out of the
//! training data.
//!
//! For each query and amount, a model is trained without the top of the query's own ranking, and the rise of its loss
//! over the model trained on all is told; less what draws of the same number do, it is what the rule knows. (The
//! brittleness of Ilyas et al. 2022; EleutherAI's QLD.) Jointly, one ranking by the sum of all queries' scores is
//! removed for all of them: fewer trainings, and a question about a set of queries.

use serde::Serialize;

use super::contender::{behind, verdict};
use super::retraining::{Retraining, RetrainingPlan, Subset, loss};
use super::table::{Table, cell};
use super::units::top;
use super::{Amount, Chosen, Contender, GreedySet, Judgement, Measure, OpenQueries, Trainings};
use crate::error::{Error, Result};
use crate::pipeline::Settings;
use crate::train::Example;

/// How removal is measured.
#[derive(Clone, Debug)]
pub struct RemovalOptions {
    /// How many records are removed, ascending.
    pub amounts: Vec<Amount>,
    /// One ranking for all queries.
    pub jointly: bool,
    /// Also judge sets chosen record by record, each by what it does once those before it are gone
    /// ([`Trainings::greedy`]).
    pub greedy: bool,
    /// Of the draws, and of the bootstrap.
    pub seed: u64,
}

/// What removing what one rule ranks first does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Removal {
    /// `removal`
    pub yardstick: &'static str,
    /// The rule.
    #[serde(flatten)]
    pub judged: Judgement,
    /// How much the loss rises, the mean over amounts.
    pub loss_rise: Option<Measure>,
    /// By how much more than where draws are removed, query by query.
    pub over_chance: Option<Measure>,
    /// By how much the rule of the greatest rise does more, query by query.
    pub behind_best: Option<Measure>,
    /// Queries.
    pub queries: u64,
    /// Whether one ranking was removed for all queries.
    pub jointly: bool,
    /// At each amount.
    pub curve: Vec<AtAmount>,
    /// Of sets chosen record by record: those of each query.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<ChosenSet>,
}

/// At one amount.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AtAmount {
    /// Records removed.
    pub removed: u64,
    /// The same as a share of all.
    pub share: f64,
    /// How much the loss rises.
    pub loss_rise: Measure,
    /// Of the queries whose label was more likely than not, the share of which it is no longer.
    pub lost: Option<f64>,
}

impl Removal {
    /// All rules side by side, the best first.
    pub fn table(list: &[Self]) -> Table {
        let mut sorted: Vec<&Self> = list.iter().collect();
        let mean = |row: &Self| row.loss_rise.map_or(f64::NEG_INFINITY, |measure| measure.mean);
        sorted.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        let amounts = list.first().map(|row| row.curve.as_slice()).unwrap_or_default();
        let mut heading = vec!["rule".to_owned()];
        heading.extend(amounts.iter().map(|at| format!("−{}", at.removed)));
        heading.extend(["loss rises ↑", "over chance", "behind the best", "lost"].map(str::to_owned));
        let mut table = Table::new(&heading.iter().map(String::as_str).collect::<Vec<_>>());
        for row in sorted {
            let mut cells = vec![row.judged.name()];
            cells.extend(row.curve.iter().map(|at| format!("{:+.3}", at.loss_rise.mean)));
            cells.extend([row.loss_rise, row.over_chance, row.behind_best].map(cell));
            let lost = row.curve.last().and_then(|at| at.lost);
            cells.push(lost.map_or_else(|| "-".to_owned(), |lost| format!("{:.0} %", 100.0 * lost)));
            table.push(cells);
        }
        if let Some(row) = list.first() {
            let ranking =
                if row.jointly { "one ranking for all of them" } else { "each without the first of its own ranking" };
            table.note(format!(
                "{} queries, {ranking}; loss rises: the mean over amounts; lost: at the largest; ± is half a 95 % interval over queries",
                row.queries
            ));
        }
        if let Some(verdict) = verdict(list.iter().map(|row| (&row.judged, row.behind_best))) {
            table.note(verdict);
        }
        table
    }
}

/// Rows of the store from the first on, one list a query, or one for all.
type Rankings = Vec<Vec<usize>>;

/// What was chosen for one query.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChosenSet {
    /// Its id.
    pub query: String,
    /// The records, in the order of their choice.
    pub records: Vec<ChosenRecord>,
}

/// A record of a set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChosenRecord {
    /// Its id.
    pub id: String,
    /// Its number in the input.
    pub index: u64,
    /// How much the query's loss rises without it, once those before it are gone: to first order.
    pub marginal: f64,
    /// How much it rises without the set up to it, the last layer fitted again.
    pub joint: f64,
}

impl Trainings<'_> {
    /// Trains without what each rule, and chance, ranks first, and tells what that did.
    ///
    /// # Errors
    /// As [`Trainings::margins`] and [`crate::pipeline::SearchJob::run`]; [`Error::Usage`] for amounts that leave
    /// nothing.
    pub fn removal(
        &self,
        contenders: &[Contender<'_>],
        open: OpenQueries<'_>,
        options: &RemovalOptions,
        plan: &RetrainingPlan,
        settings: &Settings,
    ) -> Result<Vec<Removal>> {
        let amounts = self.amounts(options)?;
        let longest = amounts.last().copied().unwrap_or_default();
        let mut rankings: Vec<Rankings> = vec![Vec::new(); contenders.len() + 1];
        let mut sums = vec![vec![0.0_f32; if options.jointly { self.training.len() } else { 0 }]; rankings.len()];
        let mut judged = self.each_scores(contenders, open, options.seed, settings, &mut |number, _, scores| {
            if options.jointly {
                sums[number].iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
            } else {
                rankings[number].push(top(scores, longest));
            }
            Ok(())
        })?;
        if options.jointly {
            rankings = sums.iter().map(|sums| vec![top(sums, longest)]).collect();
        }
        let mut sets = Vec::new();
        if options.greedy {
            let chosen = self.greedy_sets(longest, options, plan, settings)?;
            // Chance stays the last.
            let at = judged.len() - 1;
            judged.insert(at, Judgement { rule: "greedy".to_owned(), ..Judgement::default() });
            rankings.insert(at, chosen.iter().map(GreedySet::rows).collect());
            sets = self.queries.iter().zip(&chosen).map(|(query, set)| self.told(&query.id, set)).collect();
        }
        let rises = self.rises_without(&rankings, &amounts, plan, settings)?;
        let mut rows = self.sum_up(judged, &rises, &amounts, options);
        if let Some(row) = rows.iter_mut().find(|row| row.judged.rule == "greedy") {
            row.sets = sets;
        }
        Ok(rows)
    }

    fn amounts(&self, options: &RemovalOptions) -> Result<Vec<usize>> {
        let rows = self.training.len();
        // As given: an amount is never of more than there are.
        if let Some(all) = options.amounts.iter().find(|amount| amount.of(rows) >= rows) {
            return Err(Error::usage(format!("--remove: expected less than the {rows} training records, found {all}")));
        }
        let mut amounts: Vec<usize> = options.amounts.iter().map(|amount| amount.of(rows)).collect();
        amounts.sort_unstable();
        amounts.dedup();
        if amounts.is_empty() {
            return Err(Error::usage("--remove: expected how many records, found nothing"));
        }
        Ok(amounts)
    }

    fn told(&self, query: &str, set: &GreedySet) -> ChosenSet {
        let record = |one: &Chosen| {
            let Example { id, index, .. } = &self.training[one.row];
            ChosenRecord { id: id.clone(), index: *index, marginal: one.marginal, joint: one.joint }
        };
        ChosenSet { query: query.to_owned(), records: set.chosen.iter().map(record).collect() }
    }

    fn greedy_sets(
        &self,
        longest: usize,
        options: &RemovalOptions,
        plan: &RetrainingPlan,
        settings: &Settings,
    ) -> Result<Vec<GreedySet>> {
        let Retraining::Head(penalty) = plan.retraining else {
            return Err(Error::usage("--greedy: chooses by last layers fitted again, and whole models are trained")
                .with_hint("use --retrain head"));
        };
        if options.jointly {
            return Err(Error::usage("--greedy: chooses for each query, and --jointly is for all of them"));
        }
        let features = self.features(settings)?;
        (0..self.queries.len()).map(|query| self.greedy(query, longest, penalty, &features)).collect()
    }

    /// `[judged][amounts][Q]`: how much the loss rises, and the margin before and after.
    fn rises_without(
        &self,
        rankings: &[Rankings],
        amounts: &[usize],
        plan: &RetrainingPlan,
        settings: &Settings,
    ) -> Result<Vec<Vec<Vec<[f64; 2]>>>> {
        let mut asked = vec![Subset::without([])];
        for rankings in rankings {
            for &amount in amounts {
                asked.extend(rankings.iter().map(|ranking| Subset::without(ranking[..amount].iter().copied())));
            }
        }
        let margins = self.margins(&asked, plan, settings)?;
        let (before, after) = (&margins[0], &margins[1..]);
        let mut after = after.iter();
        let mut at_amount = |trained: usize| -> Vec<[f64; 2]> {
            let of_query = |query: usize, margins: &Vec<f64>| [before[query], margins[query]];
            if trained == 1 {
                // One ranking for all queries; or a single query, which is the same.
                let margins = after.next();
                return (0..before.len()).filter_map(|query| Some(of_query(query, margins?))).collect();
            }
            (0..trained).zip(after.by_ref()).map(|(query, margins)| of_query(query, margins)).collect()
        };
        Ok(rankings.iter().map(|of| amounts.iter().map(|_| at_amount(of.len())).collect()).collect())
    }

    fn sum_up(
        &self,
        judged: Vec<Judgement>,
        margins: &[Vec<Vec<[f64; 2]>>],
        amounts: &[usize],
        options: &RemovalOptions,
    ) -> Vec<Removal> {
        let rise = |[before, after]: &[f64; 2]| loss(*after) - loss(*before);
        let means = |of: &Vec<Vec<[f64; 2]>>| -> Vec<f64> {
            let of_query = |query: usize| of.iter().map(|at| rise(&at[query])).sum::<f64>() / of.len() as f64;
            (0..self.queries.len()).map(of_query).collect()
        };
        let values: Vec<Vec<f64>> = margins.iter().map(means).collect();
        let behind = behind(&judged, &values, options.seed);
        let measure = |values: &[f64]| Measure::of(values, options.seed);
        let chance = values.last().cloned().unwrap_or_default();
        let at = |(&removed, margins): (&usize, &Vec<[f64; 2]>)| {
            let were: Vec<&[f64; 2]> = margins.iter().filter(|[before, _]| *before > 0.0).collect();
            let lost = were.iter().filter(|[_, after]| *after <= 0.0).count() as f64;
            AtAmount {
                removed: removed as u64,
                share: removed as f64 / self.training.len() as f64,
                loss_rise: measure(&margins.iter().map(rise).collect::<Vec<_>>()).unwrap_or_default(),
                lost: (!were.is_empty()).then(|| lost / were.len() as f64),
            }
        };
        let row = |(number, judged): (usize, Judgement)| {
            let over: Vec<f64> = values[number].iter().zip(&chance).map(|(value, chance)| value - chance).collect();
            let is_chance = judged.is_chance();
            Removal {
                yardstick: "removal",
                judged,
                loss_rise: measure(&values[number]),
                over_chance: measure(&over).filter(|_| !is_chance),
                behind_best: behind[number].filter(|_| !is_chance),
                queries: self.queries.len() as u64,
                jointly: options.jointly,
                curve: amounts.iter().zip(&margins[number]).map(at).collect(),
                sets: Vec::new(),
            }
        };
        judged.into_iter().enumerate().map(row).collect()
    }
}
