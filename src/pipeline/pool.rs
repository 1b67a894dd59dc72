//! What of a pool without labels is worth one: the model's place for every record, and a rule that chooses.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;

use super::{Rejections, SearchJob, SearchOptions, Settings, TopK};
use crate::audit::{self, Candidates, SelectionOptions};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::factors::{LabelUsed, Target};
use crate::model::{Model, Problem, Task};
use crate::random::{Purpose, Stream};
use crate::report::{Neighbour, SearchResult, SelectedRecord};
use crate::search::Rule;
use crate::store::Store;

/// How records are chosen from a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// Those that raise the targets' coverage most, by greedy steps.
    #[default]
    Coverage,
    /// Each target's nearest in turn, as `TrustAI` does.
    RoundRobin,
    /// Those that the model is least sure of.
    Unsure,
    /// Any.
    Random,
}

impl Choice {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Coverage, Self::RoundRobin, Self::Unsure, Self::Random];

    /// As `--choose` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Coverage => "coverage",
            Self::RoundRobin => "round-robin",
            Self::Unsure => "unsure",
            Self::Random => "random",
        }
    }

    /// Whether it chooses for targets.
    pub const fn has_targets(self) -> bool {
        matches!(self, Self::Coverage | Self::RoundRobin)
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|choice| choice.name() == name);
        found.ok_or_else(|| format!("expected one of {}, found {name:?}", Self::ALL.map(Self::name).join(", ")))
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is asked of a pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoolOptions {
    /// How records are chosen.
    pub choice: Choice,
    /// How many at most.
    pub most: usize,
    /// How near to a target a chosen record must be.
    pub threshold: f32,
    /// Of two records of the pool that are nearer to each other than this, one is enough, as long as there are others.
    pub spread: f32,
    /// How many nearest training records a target's coverage is the mean of.
    pub nearest: usize,
    /// Of what is drawn.
    pub seed: u64,
    /// Bytes that a search may take.
    pub memory: usize,
}

impl Default for PoolOptions {
    /// `TrustAI`'s numbers; of records as alike as copies, one is taken.
    fn default() -> Self {
        Self {
            choice: Choice::Coverage,
            most: 1000,
            threshold: 0.7,
            spread: 0.98,
            nearest: 3,
            seed: 0,
            memory: 1 << 30,
        }
    }
}

/// The records of a data set, each with its `k` nearest in a store by the cosine of their features.
///
/// # Errors
/// As [`SearchJob::run`].
pub fn nearest_records(
    model: &Model,
    store: &Store,
    dataset: Dataset,
    k: usize,
    memory: usize,
    settings: &Settings,
    rejections: &mut Rejections,
) -> Result<Vec<SearchResult>> {
    let options = SearchOptions { rule: Rule::FeatureCos, top_k: TopK::Count(k), memory, ..SearchOptions::default() };
    let mut results = Vec::new();
    let job = SearchJob { model, checkpoints: &[], store, options: &options };
    job.run(dataset, settings, rejections, &mut results)?;
    Ok(results)
}

/// How many of the pool's nearest are looked at for one target.
pub fn candidates_per_target(most: usize, targets: usize, pool: usize) -> usize {
    (4 * most.div_ceil(targets.max(1)) + 10).min(pool.max(1))
}

/// Chooses from the store of a pool. Targets are given as (their nearest training records, their nearest of the pool);
/// choices without targets need none.
///
/// # Errors
/// Where the pool's store is damaged.
pub fn select_from_pool(
    pool: &Store,
    targets: &[(&SearchResult, &SearchResult)],
    options: &PoolOptions,
) -> Result<Vec<SelectedRecord>> {
    match options.choice {
        Choice::Coverage | Choice::RoundRobin => Ok(for_targets(pool, targets, options)),
        Choice::Random => without_targets(pool, &shuffled(pool.rows(), options.seed), options),
        Choice::Unsure => without_targets(pool, &unsure(pool)?, options),
    }
}

fn for_targets(pool: &Store, targets: &[(&SearchResult, &SearchResult)], options: &PoolOptions) -> Vec<SelectedRecord> {
    let candidates: Vec<Candidates> =
        targets.iter().map(|(_, near)| near.proponents.iter().map(|near| (near.index, near.score)).collect()).collect();
    let likeness = Likeness::new(pool);
    let alike = |a, b| likeness.cosine(a, b) > options.spread;
    let rules = SelectionOptions { most: options.most, threshold: options.threshold, alike: &alike };
    let chosen = if options.choice == Choice::RoundRobin {
        audit::round_robin(&candidates, &rules)
    } else {
        let covered: Vec<Vec<f32>> = targets.iter().map(|(train, _)| top(train, options.nearest)).collect();
        let greedy = audit::greedy_coverage(&candidates, &covered, &vec![1.0; targets.len()], &rules);
        // What is left to choose when nothing covers more, in turns.
        let mut rest = audit::round_robin(&candidates, &SelectionOptions { most: usize::MAX, ..rules });
        let index = |&(target, place): &(usize, usize)| candidates[target][place].0;
        let taken: HashSet<u64> = greedy.iter().map(index).collect();
        rest.retain(|choice| !taken.contains(&index(choice)));
        let (new, alike): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|choice| taken.iter().all(|&other| !alike(index(choice), other)));
        greedy.into_iter().chain(new).chain(alike).take(options.most).collect()
    };
    let record = |(rank, (target, place)): (usize, (usize, usize))| {
        let result = targets[target].1;
        let Neighbour { index, id, score, text, text_pair, .. } = result.proponents[place].clone();
        SelectedRecord { rank: rank as u64 + 1, index, id, score, target: Some(result.id.clone()), text, text_pair }
    };
    chosen.into_iter().enumerate().map(record).collect()
}

/// A target's largest similarities to the training data, as many as its coverage is of.
fn top(train: &SearchResult, nearest: usize) -> Vec<f32> {
    let mut scores: Vec<f32> = train.proponents.iter().map(|near| near.score).take(nearest).collect();
    // Fewer training records than that: nothing is as far as can be.
    scores.resize(nearest.max(1), -1.0);
    scores
}

fn without_targets(pool: &Store, order: &[(usize, f32)], options: &PoolOptions) -> Result<Vec<SelectedRecord>> {
    let likeness = Likeness::new(pool);
    let (mut chosen, mut passed_over) = (Vec::new(), Vec::new());
    for &(row, score) in order {
        if chosen.len() == options.most {
            break;
        }
        let (shard, at) = pool.locate(row);
        let index = pool.shards()[shard].indices()[at];
        // What is drawn is drawn from all.
        let alike = |&(_, other, _): &(usize, u64, f32)| likeness.cosine(index, other) > options.spread;
        if options.choice != Choice::Random && chosen.iter().any(alike) {
            passed_over.push((row, index, score));
        } else {
            chosen.push((row, index, score));
        }
    }
    chosen.extend(passed_over);
    chosen.truncate(options.most);
    let record = |(rank, (row, index, score)): (usize, (usize, u64, f32))| {
        let record = pool.record(row)?;
        let (id, text, text_pair) = (record.id, record.text, record.pair);
        Ok(SelectedRecord { rank: rank as u64 + 1, index, id, score, target: None, text, text_pair })
    };
    chosen.into_iter().enumerate().map(record).collect()
}

/// Rows of a store by how unsure the model is of them: 1 less what the most likely class is ahead of the next (Scheffer
/// et al. 2001); where each class is a decision of its own, of the least sure one.
fn unsure(pool: &Store) -> Result<Vec<(usize, f32)>> {
    let settings = pool.settings();
    let has_classes = matches!(settings.problem, Problem::SingleLabel | Problem::MultiLabel);
    if settings.task() != Task::Record || settings.gradients.is_some() || !has_classes {
        return Err(Error::usage("unsure: expected a pool's store with probabilities of each record's classes")
            .with_hint("choose by coverage, or index the pool by the last layer of a classifier"));
    }
    let mut order: Vec<(usize, f32)> = (0..pool.rows()).map(|row| (row, doubt(pool, row))).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    Ok(order)
}

/// δ is what the probabilities are beside the label explained, which is added again: no label has a part in this.
fn doubt(pool: &Store, row: usize) -> f32 {
    let (settings, (shard, at)) = (pool.settings(), pool.locate(row));
    let shard = &pool.shards()[shard];
    let classes = settings.classes;
    let mut p = shard.factors().deltas[at * classes..][..classes].to_vec();
    let gold = shard.labels().target(at, classes, settings.problem).filter(|_| settings.target == LabelUsed::Gold);
    match gold.or_else(|| shard.predictions().target(at, classes, settings.problem)) {
        Some(Target::Class(class)) => p[class] += 1.0,
        Some(Target::Classes(shares)) => p.iter_mut().zip(shares).for_each(|(p, share)| *p += share),
        Some(Target::Values(_)) | None => {}
    }
    if settings.problem == Problem::MultiLabel {
        return p.iter().map(|p| 1.0 - (2.0 * p - 1.0).abs()).fold(0.0, f32::max);
    }
    p.sort_by(|a, b| b.total_cmp(a));
    match p[..] {
        [first, second, ..] => 1.0 - (first - second),
        _ => 0.0,
    }
}

fn shuffled(rows: usize, seed: u64) -> Vec<(usize, f32)> {
    let mut order: Vec<(usize, f32)> = (0..rows).map(|row| (row, 0.0)).collect();
    Stream::new(seed, Purpose::Shuffle).shuffle(&mut order, |last| (1, last as u32));
    order
}

/// How alike records of a store are.
struct Likeness<'a> {
    store: &'a Store,
    rows: HashMap<u64, usize>,
    /// `h / ‖h‖` of those that have been asked about.
    units: RefCell<HashMap<u64, Rc<[f32]>>>,
}

impl<'a> Likeness<'a> {
    fn new(store: &'a Store) -> Self {
        let indices = store.shards().iter().flat_map(|shard| shard.indices().iter().copied());
        Self { store, rows: indices.enumerate().map(|(row, index)| (index, row)).collect(), units: RefCell::default() }
    }

    fn cosine(&self, a: u64, b: u64) -> f32 {
        self.unit(a).iter().zip(&*self.unit(b)).map(|(a, b)| a * b).sum()
    }

    /// Nothing of a record that is not there, or has no length.
    fn unit(&self, index: u64) -> Rc<[f32]> {
        if let Some(unit) = self.units.borrow().get(&index) {
            return Rc::clone(unit);
        }
        let features = self.rows.get(&index).map(|&row| audit::features(self.store, row)).unwrap_or_default();
        let norm = features.iter().map(|x| x * x).sum::<f32>().sqrt();
        let unit: Rc<[f32]> = features.iter().filter(|_| norm > 0.0).map(|x| x / norm).collect();
        self.units.borrow_mut().insert(index, Rc::clone(&unit));
        unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for choice in Choice::ALL {
            assert_eq!(choice.name().parse(), Ok(choice));
            assert_eq!(serde_json::to_value(choice).unwrap(), choice.name());
        }
        assert!("nearest".parse::<Choice>().unwrap_err().contains("round-robin"));
    }

    #[test]
    fn a_shuffle_keeps_every_row() {
        let mut rows: Vec<usize> = shuffled(50, 3).into_iter().map(|(row, _)| row).collect();
        assert_ne!(rows, (0..50).collect::<Vec<_>>());
        rows.sort_unstable();
        assert_eq!(rows, (0..50).collect::<Vec<_>>());
    }
}
