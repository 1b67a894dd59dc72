//! Exact answers from bounds: one pass keeps every record that might belong to either end, by bounds on its score from
//! faster products, or from scan copies; the scores of those few are then computed as [`super::score`] defines them,
//! from the features themselves.
//!
//! A record is left out only where k others are sure to come before it, so what is found is what a scan by every score
//! finds, ties and bits included. Where the features themselves are rounded, the same pass has bounds on what scores
//! were before, and tells how many of the hits are certain whatever the rounding did. Where bounds tell too little
//! (candidates take more memory than is given, or more time than they save), that scan is made instead.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};

use rayon::prelude::*;

use super::bounds::{applies, tells_of_rounding};
use super::certificate::{Bounded, Certainty, Certificate};
use super::form::Form;
use super::pair::score_prepared;
use super::query::Query;
use super::scan::{Progress, Sink, scan};
use super::shape::Shape;
use super::source::{FactorSet, Source};
use super::tile::{PANEL_QUERIES, Purpose, Span};
use super::topk::{Hit, Hits, TwoEnded};
use super::{Bounds, pack};
use crate::backend::cpu::simd::{Isa, Kernel, Vector};
use crate::error::Result;
use crate::factors::Floats;

/// What bounds are computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// Scan copies: there are fewer bytes to read.
    Copies,
    /// The features themselves: products of many queries are faster in another order of sums.
    Features,
    /// Features that were rounded: their bounds are on scores by what they were before.
    Rounded,
}

impl Basis {
    /// What there is to gain for these queries, if anything: where k is small enough for bounds to leave anything out,
    /// or to say what is certain.
    pub(super) fn of<S: Source + ?Sized>(
        source: &S,
        form: &Form<'_>,
        shape: Shape,
        k: usize,
        queries: &[Query],
    ) -> Option<Self> {
        let rounded = || (0..source.shards()).all(|shard| source.residuals(shard).is_some());
        let copies = || (0..source.shards()).all(|shard| source.scan(shard).is_some());
        let none = || (0..source.shards()).all(|shard| source.scan(shard).is_none());
        match applies(form) && !shape.several {
            true if k <= shape.selected / 4 && copies() => Some(Self::Copies),
            true if tells_of_rounding(form, queries) && rounded() => Some(Self::Rounded),
            true if k <= shape.selected / 64 && queries.len() >= PANEL_QUERIES && none() => Some(Self::Features),
            _ => None,
        }
    }

    /// What queries are packed for, one after another while candidates are too many: where bounds tell what is certain,
    /// wider ones would tell less.
    pub(super) fn attempts<S: Source + ?Sized>(self, source: &S, bounds: Bounds) -> &'static [Purpose] {
        let integers = |shard| match source.scan(shard) {
            Some(copy) => matches!(copy.values, Floats::Int8(_)),
            None => source.factors(shard, FactorSet::Final).is_some_and(|own| matches!(own.features, Floats::Int8(_))),
        };
        let are_integers = (0..source.shards()).all(integers);
        match (bounds, self) {
            (Bounds::Unused, _) => &[],
            _ if are_integers => &[Purpose::IntegerBounds],
            (Bounds::Single, _) | (_, Self::Rounded) => &[Purpose::Bounds],
            (Bounds::Half, _) => &[Purpose::WideBounds, Purpose::Bounds],
        }
    }

    /// How many pairs must be looked at for each candidate held, beyond those that every search begins with.
    fn pairs_a_candidate(self) -> usize {
        match self {
            Self::Copies | Self::Rounded => 0,
            // The scores of that many pairs take about the time of one candidate's, far away in memory.
            Self::Features => 128,
        }
    }
}

/// About what one query's candidates take in all workers' memory.
pub(super) fn query_bytes(k: usize) -> usize {
    rayon::current_num_threads() * 2 * prune_at(k, 0).next_power_of_two() * size_of::<Candidate>()
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
    queries: &[Query],
    k: usize,
    (basis, purpose): (Basis, Purpose),
    progress: &Progress<'_>,
) -> Result<Option<Vec<Hits>>> {
    let packed = pack(form, queries, shape, purpose);
    if purpose == Purpose::WideBounds && packed.halved().is_none() {
        return Ok(None);
    }
    let limits = Limits {
        held: progress.options.memory / size_of::<Candidate>() / rayon::current_num_threads() / 2,
        begun_with: queries.len() * 2 * prune_at(k, 0),
        pairs_a_candidate: basis.pairs_a_candidate(),
    };
    let too_many = AtomicBool::new(false);
    let new_sink = || Candidates {
        of: (0..queries.len()).map(|_| [End::new(k), End::new(k)]).collect(),
        held: 0,
        pairs: 0,
        limits,
        basis,
        too_many: &too_many,
    };
    let before = progress.done();
    let workers = scan(source, form, shape, &packed, progress, new_sink)?;
    if too_many.load(Atomic::Relaxed) {
        progress.go_back(before);
        return Ok(None);
    }
    let ends = merge(workers, queries.len());
    let hits = queries.par_iter().zip(ends).map(|(query, ends)| rescore(source, form, query, k, ends, basis));
    Ok(Some(hits.collect()))
}

/// A record that may belong to an end.
#[derive(Clone, Copy)]
struct Candidate {
    /// Over all shards.
    row: u64,
    /// The best its score can be, for this end, and the worst.
    most: f32,
    least: f32,
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

    fn offer(&mut self, candidate: Candidate) {
        self.bound(candidate.least);
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

/// How many candidates a worker holds at most.
#[derive(Clone, Copy)]
struct Limits {
    held: usize,
    begun_with: usize,
    pairs_a_candidate: usize,
}

impl Limits {
    fn are_exceeded(self, held: usize, pairs: usize) -> bool {
        held > self.held || held.saturating_sub(self.begun_with) * self.pairs_a_candidate > pairs
    }
}

/// One worker's candidates of each query: proponents and opponents.
struct Candidates<'a> {
    of: Vec<[End; 2]>,
    held: usize,
    /// Pairs looked at.
    pairs: usize,
    limits: Limits,
    basis: Basis,
    too_many: &'a AtomicBool,
}

impl Sink for Candidates<'_> {
    const BOUNDS: bool = true;

    fn basis(&self) -> Basis {
        self.basis
    }

    /// What is certain is told by all bounds that reach an end; those that reach none tell nothing.
    fn limits(&self, query: usize) -> [f32; 2] {
        self.of[query].each_ref().map(End::threshold)
    }

    fn passed(&mut self, pairs: usize) {
        self.pairs += pairs;
        if self.limits.are_exceeded(self.held, self.pairs) {
            self.too_many.store(true, Atomic::Relaxed);
        }
    }

    /// There are no scores yet.
    fn take<S: Source + ?Sized>(&mut self, _: &S, _: usize, _: Span, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn take_bounds<S: Source + ?Sized>(&mut self, source: &S, query: usize, span: Span, low: &[f32], high: &[f32]) {
        let selection = source.selection();
        let [proponents, opponents] = &mut self.of[query];
        let before = proponents.candidates.len() + opponents.candidates.len();
        let (mut best, mut worst) = (proponents.threshold(), opponents.threshold());
        let mut seen = 0;
        while let Some(group) = next_reaching(&low[seen..], &high[seen..], best, worst) {
            let group = seen + group.start..seen + group.end;
            seen = group.end;
            for row in group {
                let (low, high) = (low[row], high[row]);
                if high < best && -low < worst || selection.is_some_and(|rows| !rows.contains(span.global + row)) {
                    continue;
                }
                let row = (span.global + row) as u64;
                if high >= best {
                    proponents.offer(Candidate { row, most: high, least: low });
                    best = proponents.threshold();
                }
                if -low >= worst {
                    opponents.offer(Candidate { row, most: -low, least: -high });
                    worst = opponents.threshold();
                }
            }
        }
        self.held = self.held + proponents.candidates.len() + opponents.candidates.len() - before;
    }

    fn has_given_up(&self) -> bool {
        self.too_many.load(Atomic::Relaxed)
    }
}

/// The first few records of which one may belong to an end.
fn next_reaching(low: &[f32], high: &[f32], best: f32, worst: f32) -> Option<Range<usize>> {
    Isa::best().run(Reaching { low, high, best, worst })
}

/// Looks for upper bounds of `best` and above, or lower ones whose negation is `worst` and above.
struct Reaching<'a> {
    low: &'a [f32],
    high: &'a [f32],
    best: f32,
    worst: f32,
}

impl Kernel for Reaching<'_> {
    type Output = Option<Range<usize>>;

    /// `|`, not `||`: no branch, so that the loop compiles to vector compares.
    #[allow(clippy::inline_always, clippy::needless_bitwise_bool)]
    #[inline(always)]
    fn run<V: Vector>(self) -> Self::Output {
        /// Looked at together: long enough to be compared as vectors, short enough that most are passed over whole.
        const GROUP: usize = 32;
        let Self { low, high, best, worst } = self;
        for (group, (low, high)) in low.chunks(GROUP).zip(high.chunks(GROUP)).enumerate() {
            let mut any = false;
            for i in 0..low.len() {
                any |= (high[i] >= best) | (-low[i] >= worst);
            }
            if any {
                return Some(group * GROUP..group * GROUP + low.len());
            }
        }
        None
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
    basis: Basis,
) -> Hits {
    let prepared = form.prepare(query);
    let mut kept = TwoEnded::new(k);
    let certain = (basis == Basis::Rounded).then(|| ends.each_ref().map(|end| certainty(&end.candidates, k)));
    let mut candidates: Vec<Candidate> = ends.into_iter().flat_map(|end| end.candidates).collect();
    candidates.sort_unstable_by_key(|candidate| candidate.row);
    candidates.dedup_by_key(|candidate| candidate.row);
    let certificate = Certificate { candidates: candidates.len() as u64, certain };
    // Both ascend: the shard that a row is in is never before that of the row before it.
    let (mut shard, mut first) = (0, 0);
    for Candidate { row, .. } in candidates {
        let global = row as usize;
        while global >= first + source.rows(shard) {
            first += source.rows(shard);
            shard += 1;
        }
        let score = score_prepared(source, form, &prepared, (shard, global - first), global);
        kept.offer(Hit { row, index: source.index(shard, global - first), score });
    }
    Hits { certificate: Some(certificate), ..kept.into_hits() }
}

fn certainty(candidates: &[Candidate], k: usize) -> Certainty {
    let bounded = |&Candidate { row, least, most }: &Candidate| Bounded { row, least, most };
    Certainty::new(candidates.iter().map(bounded).collect(), k)
}
