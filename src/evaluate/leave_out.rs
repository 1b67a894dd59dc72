//! Leave-one-out, leave-k-out, and groups: whether the sum of a set's scores says what its absence does to the loss.
//!
//! A model is trained on all records but a set, and the rise of each query's loss over the model trained on all is held
//! against the sum of the set's scores, which is greater the more the set supports the query's label. Sets are drawn
//! (disjoint, until the records are used up), or the user's own: files of ids, the classes, the sources of the data.
//! Koh et al. 2019, "On the accuracy of influence functions for measuring group effects".

use serde::Serialize;

use super::contender::{behind, verdict};
use super::lds::{MOST_TRAININGS, check_seeds};
use super::retraining::{RetrainingPlan, Subset, loss};
use super::table::{Table, cell};
use super::units::order;
use super::{Contender, Judgement, Measure, OpenQueries, Trainings, pearson, spearman};
use crate::error::{Error, Result};
use crate::pipeline::Settings;
use crate::random::{Purpose, Stream, uniform};

/// Which records are left out together.
#[derive(Clone, Debug, PartialEq)]
pub enum Sets {
    /// Draws.
    Drawn {
        /// How many sets: as many as are disjoint, where 0 (a remainder is in none).
        sets: usize,
        /// Records in each.
        records: usize,
    },
    /// A name each, and rows of the store.
    Named(Vec<(String, Vec<usize>)>),
}

/// How leaving out is measured.
#[derive(Clone, Debug)]
pub struct LeaveOutOptions {
    /// What is left out.
    pub sets: Sets,
    /// Trainings without each set, each beside one with it: 1 for heads.
    pub seeds: usize,
    /// Of draws, and of the bootstrap.
    pub seed: u64,
}

/// How well one rule says what the absence of sets does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeaveOut {
    /// `leave-out`
    pub yardstick: &'static str,
    /// The rule.
    #[serde(flatten)]
    pub judged: Judgement,
    /// The mean over queries of Spearman's correlation over sets; nothing of fewer than three.
    pub spearman: Option<Measure>,
    /// The same of Pearson's.
    pub pearson: Option<Measure>,
    /// By how much the rule of the best mean is better by Spearman's, query by query.
    pub behind_best: Option<Measure>,
    /// Queries.
    pub queries: u64,
    /// Sets.
    pub sets: u64,
    /// Records in a set, on average.
    pub records: f64,
    /// Trainings of each.
    pub seeds: u64,
    /// Of named sets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub of_sets: Vec<OfSet>,
}

/// What one rule says of one set, and what its absence does: means over queries.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OfSet {
    /// Its name.
    pub set: String,
    /// Its records.
    pub records: u64,
    /// The sum of its scores.
    pub predicted: f64,
    /// How much the loss rises without it.
    pub actual: Measure,
    /// Spearman's correlation of the two over queries.
    pub over_queries: Option<f64>,
}

impl LeaveOut {
    /// All rules side by side, the best first; of named sets, each set below its rule.
    pub fn table(list: &[Self]) -> Table {
        let mut sorted: Vec<&Self> = list.iter().collect();
        let mean = |row: &Self| row.spearman.map_or(f64::NEG_INFINITY, |measure| measure.mean);
        sorted.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        let mut table = Table::new(&["rule", "Spearman ↑", "Pearson ↑", "behind the best", "seconds", "bytes/record"]);
        for row in &sorted {
            let [seconds, bytes] = row.judged.cost();
            let measures = [row.spearman, row.pearson, row.behind_best].map(cell);
            table.push([vec![row.judged.name()], measures.to_vec(), vec![seconds, bytes]].concat());
            for set in &row.of_sets {
                let correlation = set.over_queries.map_or_else(|| "-".to_owned(), |rho| format!("{rho:.3}"));
                let loss = format!("loss {:+.4}", set.actual.mean);
                let sum = format!("sum {:+.4}", set.predicted);
                table.push(vec![format!("  {} ({})", set.set, set.records), correlation, sum, loss]);
            }
        }
        if let Some(Self { queries, sets, records, seeds, .. }) = list.first() {
            table.note(format!(
                "{queries} queries, {sets} sets of {records} records left out, {seeds} training{} of each; ± is half a 95 % interval over queries",
                if *seeds == 1 { "" } else { "s" }
            ));
        }
        if let Some(verdict) = verdict(list.iter().map(|row| (&row.judged, row.behind_best))) {
            table.note(verdict);
        }
        table
    }
}

impl Trainings<'_> {
    /// Trains without each set, and judges every rule, and draws, by what that does.
    ///
    /// # Errors
    /// As [`Trainings::margins`] and [`crate::pipeline::SearchJob::run`]; [`Error::Usage`] for sets that are empty or
    /// all there is.
    pub fn leave_out(
        &self,
        contenders: &[Contender<'_>],
        open: OpenQueries<'_>,
        options: &LeaveOutOptions,
        plan: &RetrainingPlan,
        settings: &Settings,
    ) -> Result<Vec<LeaveOut>> {
        check_seeds(options.seeds, plan)?;
        let sets = self.sets(options)?;
        let rises = self.rises(&sets, options, plan, settings)?;
        let mut all: Vec<Vec<Of>> = vec![Vec::new(); contenders.len() + 1];
        let judged = self.each_scores(contenders, open, options.seed, settings, &mut |number, query, scores| {
            // What is left out takes its scores along.
            let sums: Vec<f64> = sets.iter().map(|set| -set.sum(scores)).collect();
            let rises: Vec<f64> = rises.iter().map(|of_set| of_set[query]).collect();
            let correlations = (sets.len() > 2)
                .then(|| [spearman(&sums, &rises).unwrap_or(0.0), pearson(&sums, &rises).unwrap_or(0.0)]);
            all[number].push(Of { correlations, sums: if options.sets.is_named() { sums } else { Vec::new() } });
            Ok(())
        })?;
        let values = |which: usize| -> Vec<Vec<f64>> {
            let of = |of: &Of| of.correlations.map(|both| both[which]);
            all.iter().map(|queries| queries.iter().filter_map(of).collect()).collect()
        };
        let [spearmans, pearsons] = [values(0), values(1)];
        let behind = behind(&judged, &spearmans, options.seed);
        let records = sets.iter().map(|set| set.named().len()).sum::<usize>() as f64 / sets.len() as f64;
        let row = |number: usize| LeaveOut {
            yardstick: "leave-out",
            judged: judged[number].clone(),
            spearman: Measure::of(&spearmans[number], options.seed),
            pearson: Measure::of(&pearsons[number], options.seed),
            behind_best: behind[number].filter(|_| !judged[number].is_chance()),
            queries: self.queries.len() as u64,
            sets: sets.len() as u64,
            records,
            seeds: options.seeds as u64,
            of_sets: options.sets.of_sets(&all[number], &rises, options.seed),
        };
        Ok((0..judged.len()).map(row).collect())
    }

    fn sets(&self, options: &LeaveOutOptions) -> Result<Vec<Subset>> {
        let rows = self.training.len();
        let drawn = |sets: usize, records: usize| -> Result<Vec<Subset>> {
            if records == 0 || records >= rows {
                let message =
                    format!("--leave: expected from 1 to less than the {rows} training records, found {records}");
                return Err(Error::usage(message));
            }
            if sets > MOST_TRAININGS {
                return Err(Error::usage(format!("--sets: expected at most {MOST_TRAININGS}, found {sets}")));
            }
            // Sets that one shuffling is cut into.
            let disjoint = rows / records;
            let sets = if sets == 0 { disjoint } else { sets };
            let stream = Stream::new(options.seed, Purpose::Subsets);
            let shuffled = |number: usize| {
                let key = |row| f64::from(uniform(stream.block([row as u32, 3, number as u32, u32::MAX])[0]));
                order(&(0..rows).map(key).collect::<Vec<f64>>())
            };
            let of_shuffling = |number: usize| {
                let order = shuffled(number);
                let wanted = disjoint.min(sets - number * disjoint);
                let sets = order.chunks_exact(records).take(wanted);
                sets.map(|set| Subset::without(set.iter().copied())).collect::<Vec<_>>()
            };
            Ok((0..sets.div_ceil(disjoint)).flat_map(of_shuffling).collect())
        };
        match &options.sets {
            Sets::Drawn { sets, records } => drawn(*sets, *records),
            Sets::Named(sets) => sets.iter().map(|(name, set)| self.named(name, set)).collect(),
        }
    }

    fn named(&self, name: &str, rows: &[usize]) -> Result<Subset> {
        let set = Subset::without(rows.iter().copied());
        if set.named().is_empty() || set.named().len() == self.training.len() {
            return Err(Error::usage(format!(
                "set {name}: expected some of the {} training records, and not all, found {}",
                self.training.len(),
                set.named().len()
            )));
        }
        Ok(set)
    }

    /// How much each query's loss rises without each set: `[sets][Q]`, means over seeds, each beside the same seed's
    /// training on all.
    fn rises(
        &self,
        sets: &[Subset],
        options: &LeaveOutOptions,
        plan: &RetrainingPlan,
        settings: &Settings,
    ) -> Result<Vec<Vec<f64>>> {
        let with_all = std::iter::once(Subset::without([]));
        let each = |set: Subset| (0..options.seeds as u64).map(move |seed| set.clone().seeded(seed));
        let asked: Vec<Subset> = with_all.chain(sets.iter().cloned()).flat_map(each).collect();
        let margins = self.margins(&asked, plan, settings)?;
        let (before, after) = margins.split_at(options.seeds);
        let rise = |of_set: &[Vec<f64>]| {
            let of_query = |query: usize| {
                let pairs = of_set.iter().zip(before);
                pairs.map(|(after, before)| loss(after[query]) - loss(before[query])).sum::<f64>() / of_set.len() as f64
            };
            (0..self.queries.len()).map(of_query).collect()
        };
        Ok(after.chunks(options.seeds).map(rise).collect())
    }
}

/// What one rule says of one query.
#[derive(Clone)]
struct Of {
    /// Spearman's and Pearson's over sets.
    correlations: Option<[f64; 2]>,
    /// Of each set, where they are told one by one.
    sums: Vec<f64>,
}

impl Sets {
    fn is_named(&self) -> bool {
        matches!(self, Self::Named(_))
    }

    fn of_sets(&self, queries: &[Of], rises: &[Vec<f64>], seed: u64) -> Vec<OfSet> {
        let Self::Named(sets) = self else { return Vec::new() };
        let one = |(number, (name, rows)): (usize, &(String, Vec<usize>))| {
            let sums: Vec<f64> = queries.iter().map(|query| query.sums[number]).collect();
            OfSet {
                set: name.clone(),
                records: rows.len() as u64,
                predicted: sums.iter().sum::<f64>() / sums.len().max(1) as f64,
                actual: Measure::of(&rises[number], seed).unwrap_or_default(),
                over_queries: spearman(&sums, &rises[number]),
            }
        };
        sets.iter().enumerate().map(one).collect()
    }
}
