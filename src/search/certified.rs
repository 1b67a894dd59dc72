//! Exact answers from scan copies: one pass over the copies keeps every record that might belong to either end, by bounds on its score;
//! the scores of those few are then computed as [`super::score`] defines them, from the features themselves.
//!
//! A record is left out only where k others are sure to come before it, so what is found is what a scan of all features finds, ties and
//! bits included. Where bounds tell too little (more candidates than fit the memory given), that scan is made instead.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};

use rayon::prelude::*;

use super::Options;
use super::bounds::applies;
use super::form::Form;
use super::pair::score_prepared;
use super::query::Query;
use super::scan::{Progress, Sink, scan};
use super::shape::Shape;
use super::source::Source;
use super::tile::{PackedQueries, Span};
use super::topk::{Hits, TwoEnded};
use crate::error::Result;

/// Whether every shard has a scan copy that this form can be bounded by, and k is small enough for bounds to leave anything out.
pub(super) fn applies_to<S: Source + ?Sized>(source: &S, form: &Form<'_>, shape: Shape, k: usize) -> bool {
    applies(form) && k <= shape.selected / 4 && (0..source.shards()).all(|shard| source.scan(shard).is_some())
}

/// About what one query's candidates take in all workers' memory.
pub(super) fn query_bytes(k: usize) -> usize {
    rayon::current_num_threads() * 2 * prune_at(k, 0) * size_of::<Candidate>() * 2
}

/// How many candidates of an end are looked through again, after `kept` were.
fn prune_at(k: usize, kept: usize) -> usize {
    (2 * kept).max(4 * k + 64)
}

/// Both ends for each query of a batch; `None` where there are too many candidates.
pub(super) fn search<S: Source + ?Sized>(
    source: &S,
    form: &Form<'_>,
    shape: Shape,
    (queries, packed): (&[Query], &PackedQueries),
    k: usize,
    progress: &Progress<'_>,
) -> Result<Option<Vec<Hits>>> {
    let limit = progress.options.memory / size_of::<Candidate>() / rayon::current_num_threads() / 2;
    let too_many = AtomicBool::new(false);
    let new_sink = || Candidates {
        of: (0..queries.len()).map(|_| [End::new(k), End::new(k)]).collect(),
        held: 0,
        limit,
        too_many: &too_many,
    };
    let workers = scan(source, form, shape, packed, progress, new_sink)?;
    if too_many.load(Atomic::Relaxed) {
        return Ok(None);
    }
    let ends = merge(workers, queries.len());
    let hits =
        queries.par_iter().zip(ends).map(|(query, ends)| rescore(source, form, query, k, ends, progress.options));
    Ok(Some(hits.collect()))
}

/// A record that may belong to an end.
#[derive(Clone, Copy)]
struct Candidate {
    span: Span,
    row: usize,
    /// The best its score can be, for this end.
    most: f32,
}

/// One end of one query: greater is better (opponents have their signs turned).
struct End {
    k: usize,
    /// The k greatest lower bounds so far, the least of them first.
    least: BinaryHeap<Least>,
    candidates: Vec<Candidate>,
    /// When to look through the candidates again.
    prune_at: usize,
}

/// A lower bound; a heap gives the greatest first, so "greater" is "less".
#[derive(PartialEq)]
struct Least(f32);

impl Eq for Least {}

impl Ord for Least {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.total_cmp(&self.0)
    }
}

impl PartialOrd for Least {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl End {
    fn new(k: usize) -> Self {
        Self { k, least: BinaryHeap::with_capacity(k + 1), candidates: Vec::new(), prune_at: prune_at(k, 0) }
    }

    /// What k records are sure to reach: a record that cannot is out.
    #[inline]
    fn threshold(&self) -> f32 {
        if self.least.len() < self.k {
            f32::NEG_INFINITY
        } else {
            self.least.peek().map_or(f32::NEG_INFINITY, |least| least.0)
        }
    }

    fn offer(&mut self, least: f32, candidate: Candidate) {
        self.bound(least);
        self.candidates.push(candidate);
        if self.candidates.len() >= self.prune_at {
            self.prune();
            self.prune_at = prune_at(self.k, self.candidates.len());
        }
    }

    fn bound(&mut self, least: f32) {
        if self.least.len() < self.k || least > self.threshold() {
            self.least.push(Least(least));
            if self.least.len() > self.k {
                self.least.pop();
            }
        }
    }

    fn prune(&mut self) {
        let threshold = self.threshold();
        self.candidates.retain(|candidate| candidate.most >= threshold);
    }

    fn merge(&mut self, other: Self) {
        other.least.into_iter().for_each(|least| self.bound(least.0));
        self.candidates.extend(other.candidates);
    }
}

/// One worker's candidates of each query: proponents and opponents.
struct Candidates<'a> {
    of: Vec<[End; 2]>,
    held: usize,
    limit: usize,
    too_many: &'a AtomicBool,
}

impl Sink for Candidates<'_> {
    const BOUNDS: bool = true;

    /// There are no scores yet.
    fn take<S: Source + ?Sized>(&mut self, _: &S, _: usize, _: Span, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn take_bounds<S: Source + ?Sized>(&mut self, source: &S, query: usize, span: Span, low: &[f32], high: &[f32]) {
        if self.too_many.load(Atomic::Relaxed) {
            return;
        }
        let selection = source.selection();
        let [proponents, opponents] = &mut self.of[query];
        let before = proponents.candidates.len() + opponents.candidates.len();
        let (mut best, mut worst) = (proponents.threshold(), opponents.threshold());
        for (row, (&low, &high)) in low.iter().zip(high).enumerate() {
            if high < best && -low < worst || selection.is_some_and(|rows| !rows.contains(span.global + row)) {
                continue;
            }
            if high >= best {
                proponents.offer(low, Candidate { span, row, most: high });
                best = proponents.threshold();
            }
            if -low >= worst {
                opponents.offer(-high, Candidate { span, row, most: -low });
                worst = opponents.threshold();
            }
        }
        self.held = self.held + proponents.candidates.len() + opponents.candidates.len() - before;
        if self.held > self.limit {
            self.too_many.store(true, Atomic::Relaxed);
        }
    }
}

/// The workers' candidates, query by query, without those that all bounds together leave out.
fn merge(workers: Vec<Candidates<'_>>, queries: usize) -> Vec<[End; 2]> {
    let merged = workers.into_iter().map(|worker| worker.of).reduce(|mut all, worker| {
        for (all, one) in all.iter_mut().zip(worker) {
            all.iter_mut().zip(one).for_each(|(all, one)| all.merge(one));
        }
        all
    });
    let mut merged = merged.unwrap_or_default();
    debug_assert_eq!(merged.len(), queries);
    merged.iter_mut().flatten().for_each(End::prune);
    merged
}

/// The candidates' own scores, and what of them belongs to the ends.
fn rescore<S: Source + ?Sized>(
    source: &S,
    form: &Form<'_>,
    query: &Query,
    k: usize,
    ends: [End; 2],
    options: &Options<'_>,
) -> Hits {
    let prepared = form.prepare(query);
    let mut kept = TwoEnded::new(k);
    let mut candidates: Vec<Candidate> = ends.into_iter().flat_map(|end| end.candidates).collect();
    candidates.sort_unstable_by_key(|candidate| candidate.span.global + candidate.row);
    candidates.dedup_by_key(|candidate| candidate.span.global + candidate.row);
    if let Some(count) = options.candidates {
        count.fetch_add(candidates.len() as u64, Atomic::Relaxed);
    }
    for Candidate { span, row, .. } in candidates {
        let score = score_prepared(source, form, &prepared, (span.shard, span.start + row), span.global + row);
        kept.offer(span.hit(source, row, score));
    }
    kept.into_hits()
}
