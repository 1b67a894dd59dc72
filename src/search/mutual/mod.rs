//! A source's own records as the queries, where the score of i for j is that of j for i: every pair is bounded once,
//! and looked at for both.
//!
//! Rows go in blocks, which meet in rounds ([`rounds`]): two blocks' bounds come of one product, as in a certified
//! scan, and what may belong to an end of either side's rows gets its score at once, by the definition, so that limits
//! are always scores. A block's ends are with one worker at a time, so there is nothing to lock and nothing to merge;
//! what is found depends on what was offered, never on when. All rows' ends are held from the beginning to the end,
//! which is what this takes in memory.

mod ends;
mod rounds;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::bounds;
use super::certified::Basis;
use super::form::{Deltas, Form, Prepared, RowNorm};
use super::pair::{gradient_norm, score_prepared};
use super::query::Query;
use super::scan::{BOUNDED_QUERIES, bounded_rows};
use super::shape::Shape;
use super::source::{FactorSet, Source};
use super::tile::{BoundsTaker, PackedQueries, Purpose, RowTile, Span};
use super::topk::Hits;
use super::{Bounds, Options};
use crate::backend::cpu::simd::{Isa, Kernel, Vector};
use crate::error::{Error, Result};
use ends::Ends;
use rounds::{Meeting, rounds};

/// Rows of a block at most: making two ready to meet is then little to their products.
const BLOCK_ROWS: usize = 2048;

/// Scores computed by themselves: this share of all pairs costs less than bounding the pairs once more...
const COMPUTED_SHARE: u64 = 64;
/// ... beside so many times those of rows that come in any order.
const COMPUTED_TIMES: f64 = 4.0;

/// What [`search_mutual`] found.
pub struct MutualHits {
    /// The rows' numbers in the whole input.
    indices: Vec<u64>,
    /// By block, in the source's order.
    ends: Vec<Ends>,
}

impl MutualHits {
    /// The ends of row `row`, over all shards.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn of(&self, row: usize) -> Hits {
        let block = self.ends.partition_point(|ends| ends.first <= row) - 1;
        let ends = &self.ends[block];
        let [proponents, opponents] = ends.sorted(row - ends.first, &self.indices);
        Hits { proponents, opponents, certificate: None }
    }
}

/// What [`super::search`] finds for each row of `source` as a query of its own, [`Query::feature`], or where the form
/// reads δ [`Query::transformed`] with this `bias`: the row itself is among the records, and where only some are
/// searched, all ask.
///
/// `None` where that is not possible: a score is not the same both ways round, all rows' ends, `2k` entries of 8 bytes
/// each and 24 bytes more, do not fit half of [`Options::memory`], bounds would leave too little out or tell more than
/// the ends (of scan copies how many candidates there were), or there are [`Options::devices`].
///
/// # Errors
/// As [`super::search`].
pub fn search_mutual<S: Source + ?Sized>(
    source: &S,
    form: &Form<'_>,
    bias: f32,
    k: usize,
    options: &Options<'_>,
) -> Result<Option<MutualHits>> {
    let shape = Shape::of(source, form, &[])?;
    let k = shape.top_k(k)?;
    let mut search = Search { source, form, bias, shape, k, options, firsts: Vec::new(), indices: Vec::new() };
    if !search.is_possible() {
        return Ok(None);
    }
    for shard in 0..source.shards() {
        search.firsts.push(search.indices.len());
        search.indices.extend((0..source.rows(shard)).map(|row| source.index(shard, row)));
    }
    let purposes: &[Purpose] = match options.bounds {
        Bounds::Half => &[Purpose::WideBounds, Purpose::Bounds],
        Bounds::Single => &[Purpose::Bounds],
        Bounds::Unused => &[],
    };
    for &purpose in purposes {
        if let Some(ends) = search.attempt(purpose)? {
            return Ok(Some(MutualHits { indices: search.indices, ends }));
        }
    }
    Ok(None)
}

/// Some consecutive rows, and the ends of their rankings.
struct Block {
    spans: Vec<Span>,
    rows: Range<usize>,
    ends: Ends,
}

/// Two blocks in one worker's hands, or one.
struct Pair {
    one: Block,
    other: Option<Block>,
}

struct Search<'a, S: ?Sized> {
    source: &'a S,
    form: &'a Form<'a>,
    bias: f32,
    shape: Shape,
    k: usize,
    options: &'a Options<'a>,
    /// The first row of each shard, over all of them.
    firsts: Vec<usize>,
    /// The rows' numbers in the whole input: what ties are ordered by.
    indices: Vec<u64>,
}

/// How far an attempt has come.
#[derive(Default)]
struct Tally {
    /// Pairs of rows that were looked at.
    pairs: AtomicU64,
    /// Those whose scores were computed.
    computed: AtomicU64,
}

impl<S: Source + ?Sized> Search<'_, S> {
    fn is_possible(&self) -> bool {
        let Self { source, form, shape, k, options, .. } = self;
        let no_copies = (0..source.shards()).all(|shard| source.scan(shard).is_none());
        options.devices.is_empty()
            && bounds::applies(form)
            && form.is_symmetric()
            && !shape.several
            && no_copies
            && *k <= shape.selected / 64
            && shape.rows <= Ends::MOST_ROWS
            && shape.rows * (Ends::bytes(*k) + size_of::<u64>()) <= options.memory / 2
            && (0..source.shards()).all(|shard| self.norms_are_own(shard))
    }

    /// Whether the norms that divide are those that the rows would have as queries, to the bit.
    fn norms_are_own(&self, shard: usize) -> bool {
        if self.form.norm == RowNorm::One {
            return true;
        }
        let factors = self.source.factors(shard, FactorSet::Final).expect("checked with the shape");
        let is_own = |row: usize| {
            let norm = factors.feature_norms[row];
            let norm = if self.form.norm == RowNorm::Gradient { gradient_norm(norm) } else { norm };
            norm.to_bits() == self.query(shard, row).norm.to_bits()
        };
        (0..factors.rows).into_par_iter().with_min_len(256).all(is_own)
    }

    /// A row as a query.
    fn query(&self, shard: usize, row: usize) -> Prepared {
        let factors = self.source.factors(shard, FactorSet::Final).expect("checked with the shape");
        let mut features = vec![0.0; factors.width];
        factors.features.decode_f32(row * factors.width, &mut features);
        let query = if self.form.deltas == Deltas::Unread {
            Query::feature(features)
        } else {
            let delta = factors.deltas[row * factors.classes..][..factors.classes].to_vec();
            Query::transformed(features, self.bias, delta)
        };
        self.form.prepare(&query)
    }

    /// All rows' ends; `None` where bounds for this `purpose` cannot be had, or leave too little out.
    fn attempt(&self, purpose: Purpose) -> Result<Option<Vec<Ends>>> {
        let (mut blocks, bands) = self.blocks();
        let tally = Tally::default();
        for rounds in rounds(&bands) {
            let bands = rounds.bands.clone();
            for round in rounds {
                let mut pairs: Vec<Pair> = round.iter().map(|&meeting| Pair::take(meeting, &mut blocks)).collect();
                let met: Result<Vec<bool>> =
                    pairs.par_iter_mut().with_max_len(1).map(|pair| self.meet(pair, purpose, &tally)).collect();
                let met = met?;
                round.iter().zip(pairs).for_each(|(&meeting, pair)| pair.put_back(meeting, &mut blocks));
                if met.contains(&false) || self.leaves_too_little_out(&tally) {
                    return Ok(None);
                }
            }
            self.release(&blocks, bands);
        }
        Ok(Some(blocks.into_iter().flatten().map(|block| block.ends).collect()))
    }

    /// Blocks of rows, as many for each worker, in bands that are in memory two at a time.
    fn blocks(&self) -> (Vec<Option<Block>>, Vec<Range<usize>>) {
        let Self { shape, k, options, .. } = *self;
        let is_larger = shape.bytes > options.memory;
        let in_memory = (options.memory / 4).checked_div(shape.bytes / shape.rows).unwrap_or(shape.rows);
        let band_rows = if is_larger { in_memory.clamp(1, shape.rows) } else { shape.rows };
        // In a round a band's blocks are in pairs, as many for each worker.
        let seats = 2 * rayon::current_num_threads();
        let block_rows = band_rows.div_ceil(seats * band_rows.div_ceil(seats * BLOCK_ROWS)).next_multiple_of(32);
        let block_rows = options.tile_rows.map_or(block_rows, |rows| block_rows.min(3 * rows.max(1)));
        let block = |first: usize| {
            let rows = first..shape.rows.min(first + block_rows);
            Some(Block { spans: self.spans(rows.clone()), ends: Ends::new(first, rows.len(), k), rows })
        };
        let blocks: Vec<_> = (0..shape.rows).step_by(block_rows).map(block).collect();
        let band = band_rows.div_ceil(block_rows);
        let bands = (0..blocks.len()).step_by(band).map(|first| first..blocks.len().min(first + band)).collect();
        (blocks, bands)
    }

    /// Where some consecutive rows lie, a shard's own at a time.
    fn spans(&self, rows: Range<usize>) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut global = rows.start;
        while global < rows.end {
            let shard = self.firsts.partition_point(|&first| first <= global) - 1;
            let start = global - self.firsts[shard];
            let count = (self.source.rows(shard) - start).min(rows.end - global);
            spans.push(Span { shard, start, global, rows: count });
            global += count;
        }
        spans
    }

    /// Bounds every score of two blocks' rows, and gives what may belong to an end its score; `false` where there are
    /// no such bounds.
    fn meet(&self, pair: &mut Pair, purpose: Purpose, tally: &Tally) -> Result<bool> {
        let Self { source, form, shape, options, .. } = *self;
        let Pair { one, other } = pair;
        let rows = one.spans.iter().flat_map(|span| (span.start..span.start + span.rows).map(|row| (span.shard, row)));
        let queries: Vec<Prepared> = rows.map(|(shard, row)| self.query(shard, row)).collect();
        let packed = PackedQueries::new(form, &queries, shape.width, purpose);
        if purpose == Purpose::WideBounds && packed.halved().is_none() {
            return Ok(false);
        }
        let tile_rows = options.tile_rows.unwrap_or(bounded_rows(&packed)).max(1);
        let met = other.as_ref().unwrap_or(one);
        let (spans, looked_at) = (met.spans.clone(), (one.rows.len() * met.rows.len()) as u64);
        let mut tile = RowTile::new(form, shape.width, false, &packed);
        let mut sides = Sides {
            search: self,
            queries: &queries,
            one: &mut one.ends,
            other: other.as_mut().map(|other| &mut other.ends),
            computed: 0,
        };
        for span in spans.iter().flat_map(|span| span.tiles(tile_rows)) {
            tile.load_bounded(source, span, Basis::Features);
            for first in (0..queries.len()).step_by(BOUNDED_QUERIES) {
                let asked = first..queries.len().min(first + BOUNDED_QUERIES);
                tile.bounds(&packed, asked, &mut OfSpan { sides: &mut sides, span });
            }
        }
        tally.computed.fetch_add(sides.computed, Ordering::Relaxed);
        let pairs = tally.pairs.fetch_add(looked_at, Ordering::Relaxed) + looked_at;
        self.tell(pairs)?;
        Ok(true)
    }

    /// Tells how far it has come, in rows of those that there are.
    fn tell(&self, pairs: u64) -> Result<()> {
        let rows = self.shape.rows as f64;
        let done = pairs as f64 / (rows / 2.0);
        match self.options.progress {
            Some(go_on) if !go_on((done as u64).min(self.shape.rows as u64), self.shape.rows as u64) => {
                Err(Error::Interrupted)
            }
            _ => Ok(()),
        }
    }

    /// Whether so many scores were computed that bounds cost more than they save. Of m rows in any order, `k (1 +
    /// ln(m/k))` are among the best k so far when they come.
    fn leaves_too_little_out(&self, tally: &Tally) -> bool {
        let (pairs, computed) = (tally.pairs.load(Ordering::Relaxed), tally.computed.load(Ordering::Relaxed));
        let (rows, k) = (self.shape.rows as f64, self.k as f64);
        let seen = 2.0 * pairs as f64 / rows;
        let in_any_order = 2.0 * rows * k.min(seen) * (1.0 + (seen / k).max(1.0).ln());
        computed as f64 > COMPUTED_TIMES * in_any_order + (pairs / COMPUTED_SHARE) as f64
    }

    /// Gives back the memory of two bands' shards, but for those that the first needs again.
    fn release(&self, blocks: &[Option<Block>], [one, other]: [Range<usize>; 2]) {
        if self.shape.bytes <= self.options.memory {
            return;
        }
        let shards = |band: &Range<usize>| {
            let spans = blocks[band.clone()].iter().flatten().flat_map(|block| &block.spans);
            spans.map(|span| span.shard).collect::<Vec<_>>()
        };
        let (kept, mut others) = (shards(&one), shards(&other));
        others.dedup();
        let is_last = other.end == blocks.len();
        let done_with = others.iter().filter(|shard| is_last || !kept.contains(shard));
        for &shard in done_with.chain(kept.iter().filter(|_| is_last)) {
            self.source.release(shard);
        }
    }
}

impl Pair {
    fn take(meeting: Meeting, blocks: &mut [Option<Block>]) -> Self {
        let mut take = |number: usize| blocks[number].take().expect("in one place at a time");
        match meeting {
            Meeting::Alone(one) => Self { one: take(one), other: None },
            Meeting::Of(one, other) => Self { one: take(one), other: Some(take(other)) },
        }
    }

    fn put_back(self, meeting: Meeting, blocks: &mut [Option<Block>]) {
        match meeting {
            Meeting::Alone(one) => blocks[one] = Some(self.one),
            Meeting::Of(one, other) => (blocks[one], blocks[other]) = (Some(self.one), self.other),
        }
    }
}

/// What is kept of a pair of blocks: `one` asks, and where there is an `other`, what it is told is an answer to both.
struct Sides<'m, 'a, S: ?Sized> {
    search: &'m Search<'a, S>,
    queries: &'m [Prepared],
    one: &'m mut Ends,
    other: Option<&'m mut Ends>,
    computed: u64,
}

impl<S: Source + ?Sized> Sides<'_, '_, S> {
    /// The least and the greatest that the scores of a query with a tile's rows can be.
    fn take(&mut self, query: usize, span: Span, low: &[f32], high: &[f32]) {
        let Search { source, form, indices, .. } = self.search;
        let selection = source.selection();
        let is_wanted = |row: usize| selection.is_none_or(|rows| rows.contains(row));
        let own = self.one.first + query;
        let mut other = self.other.as_deref_mut().filter(|_| is_wanted(own));
        let mut seen = 0;
        loop {
            let at = other.as_ref().map_or(0, |other| span.global - other.first);
            let limits = self.one.limits(query);
            let theirs = other.as_ref().map(|other| other.limits_of(at + seen, span.rows - seen));
            let reaching = Reaching { low: &low[seen..], high: &high[seen..], limits, theirs };
            let Some(group) = Isa::best().run(reaching) else { return };
            for i in seen + group.start..seen + group.end {
                let row = span.global + i;
                let reaches = |[best, worst]: [f32; 2]| high[i] >= best || -low[i] >= worst;
                let for_one = is_wanted(row) && reaches(self.one.limits(query));
                let for_other = other.as_ref().is_some_and(|other| reaches(other.limits(at + i)));
                if !for_one && !for_other {
                    continue;
                }
                let score = score_prepared(*source, form, &self.queries[query], (span.shard, span.start + i), row);
                self.computed += 1;
                if for_one {
                    self.one.offer(query, row, score, indices);
                }
                if let Some(other) = other.as_mut().filter(|_| for_other) {
                    other.offer(at + i, own, score, indices);
                }
            }
            seen += group.end;
        }
    }
}

/// What takes a tile's bounds. (A row has limits of its own, so that all are looked at.)
struct OfSpan<'t, 'm, 'a, S: ?Sized> {
    sides: &'t mut Sides<'m, 'a, S>,
    span: Span,
}

impl<S: Source + ?Sized> BoundsTaker for OfSpan<'_, '_, '_, S> {
    fn limits(&self, _: usize) -> [f32; 2] {
        [f32::NEG_INFINITY; 2]
    }

    fn take(&mut self, query: usize, first: usize, low: &[f32], high: &[f32]) {
        let Span { start, global, .. } = self.span;
        let span = Span { start: start + first, global: global + first, rows: low.len(), ..self.span };
        self.sides.take(query, span, low, high);
    }

    fn passed(&mut self, _: usize) {}
}

/// Looks for the first few bounds of which one reaches a limit: the query's own (proponents', opponents'), or the
/// row's.
struct Reaching<'t> {
    low: &'t [f32],
    high: &'t [f32],
    limits: [f32; 2],
    theirs: Option<[&'t [f32]; 2]>,
}

impl Kernel for Reaching<'_> {
    type Output = Option<Range<usize>>;

    /// `|`, not `||`: no branch, so that the loop compiles to vector compares.
    #[allow(clippy::inline_always, clippy::needless_bitwise_bool)]
    #[inline(always)]
    fn run<V: Vector>(self) -> Self::Output {
        /// Looked at together: long enough to be compared as vectors, short enough that most are passed over whole.
        const GROUP: usize = 32;
        let Self { low, high, limits: [best, worst], theirs } = self;
        for start in (0..low.len()).step_by(GROUP) {
            let group = start..low.len().min(start + GROUP);
            let (low, high) = (&low[group.clone()], &high[group.clone()]);
            let mut any = false;
            match theirs {
                None => {
                    for (low, high) in low.iter().zip(high) {
                        any |= (*high >= best) | (-*low >= worst);
                    }
                }
                Some([bests, worsts]) => {
                    let (bests, worsts) = (&bests[group.clone()], &worsts[group.clone()]);
                    for ((low, high), (their_best, their_worst)) in low.iter().zip(high).zip(bests.iter().zip(worsts)) {
                        any |= (*high >= best) | (-*low >= worst) | (*high >= *their_best) | (-*low >= *their_worst);
                    }
                }
            }
            if any {
                return Some(group);
            }
        }
        None
    }
}
