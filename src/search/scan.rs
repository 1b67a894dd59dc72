//! One pass over a source: every pair of a batch of queries and a record scored once, by all workers of the thread
//! pool.
//!
//! A worker takes the next chunk of rows, scores it tile by tile against one block of queries after another, and hands
//! the scores to its own [`Sink`]. Which worker gets which chunk is chance; sinks therefore keep what doesn't depend on
//! it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rayon::prelude::*;

use super::Options;
use super::certified::Basis;
use super::form::Form;
use super::shape::Shape;
use super::source::Source;
use super::tile::{BoundsTaker, PackedQueries, RowTile, Span};
use crate::backend::cpu::{HalvedRows, Panels};
use crate::error::{Error, Result};

/// Rows that a worker takes at a time: a few milliseconds' work for a block of queries, and small enough that no worker
/// waits long at the end.
const CHUNK_ROWS: usize = 1024;

/// Bytes of a tile's features, and of a block's queries: both stay in a core's second-level cache with the scores and
/// the next tile.
const TILE_BYTES: usize = 96 * 1024;
const BLOCK_BYTES: usize = 160 * 1024;

/// Up to so many queries, reading records takes longer than scoring them: they are scored where they lie, in tiles
/// bounded by what else there is to do for each.
const FEW_QUERIES: usize = 6;
const STREAMED_ROWS: usize = 256;

/// Records bounded together: what is computed for a tile beside its products is little to a panel of queries.
const BOUNDED_ROWS: usize = 168;
const HALVED_ROWS: usize = 5 * HalvedRows::STEP;
/// Queries that records are bounded for together: whole panels.
pub(super) const BOUNDED_QUERIES: usize = 2 * Panels::QUERIES;

/// What becomes of the scores.
pub(super) trait Sink: Send {
    /// Whether it takes bounds on scores in place of the scores.
    const BOUNDS: bool = false;

    /// What its bounds are computed from.
    fn basis(&self) -> Basis {
        Basis::Features
    }

    /// Whether it wants no more.
    fn has_given_up(&self) -> bool {
        false
    }

    /// The scores of query `query` of the batch for consecutive records.
    fn take<S: Source + ?Sized>(&mut self, source: &S, query: usize, span: Span, scores: &[f32]) -> Result<()>;

    /// What bounds on a query's scores must reach to matter, as scores and turned around; it may only rise.
    fn limits(&self, _query: usize) -> [f32; 2] {
        [f32::NEG_INFINITY; 2]
    }

    /// The least and the greatest that the scores can be, where it takes those; rows that can reach no limit may be
    /// left out.
    fn take_bounds<S: Source + ?Sized>(&mut self, _: &S, _query: usize, _: Span, _low: &[f32], _high: &[f32]) {}

    /// So many pairs were looked at, whether or not their bounds were handed over.
    fn passed(&mut self, _pairs: usize) {}
}

/// How far all passes of a search have come.
pub(super) struct Progress<'a> {
    pub(super) options: &'a Options<'a>,
    done: AtomicU64,
    total: u64,
}

impl<'a> Progress<'a> {
    /// For `passes` over `rows` records.
    pub(super) fn new(options: &'a Options<'a>, rows: usize, passes: usize) -> Self {
        Self { options, done: AtomicU64::new(0), total: rows as u64 * passes as u64 }
    }

    /// How many records have been passed over.
    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Goes back to where it was, for a pass that is begun again.
    pub(super) fn go_back(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    pub(super) fn advance(&self, rows: usize) -> Result<()> {
        let done = self.done.fetch_add(rows as u64, Ordering::Relaxed) + rows as u64;
        match self.options.progress {
            Some(go_on) if !go_on(done, self.total) => Err(Error::Interrupted),
            _ => Ok(()),
        }
    }
}

/// Scores every record against `queries`; one sink of `new_sink` for each worker comes back.
pub(super) fn scan<S: Source + ?Sized, K: Sink>(
    source: &S,
    form: &Form<'_>,
    shape: Shape,
    queries: &PackedQueries,
    progress: &Progress<'_>,
    new_sink: impl Fn() -> K + Sync,
) -> Result<Vec<K>> {
    let chunks = chunks(source);
    let few = queries.len() <= FEW_QUERIES;
    let tile_rows = match K::BOUNDS {
        true => bounded_rows(queries),
        false if few => STREAMED_ROWS,
        false => fitting(TILE_BYTES, shape.width, 16, 256),
    };
    let work = Work {
        source,
        form,
        queries,
        progress,
        width: shape.width,
        few,
        tile_rows: progress.options.tile_rows.unwrap_or(tile_rows).max(1),
        block: if K::BOUNDS { BOUNDED_QUERIES } else { fitting(BLOCK_BYTES, shape.width, 12, 252) },
        releasing: (shape.bytes > progress.options.memory).then(|| Releasing::new(source, &chunks)),
        chunks,
        next: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
    };
    (0..rayon::current_num_threads()).into_par_iter().with_max_len(1).map(|_| work.run(new_sink())).collect()
}

/// Records bounded together for these queries.
pub(super) fn bounded_rows(queries: &PackedQueries) -> usize {
    if queries.halved().is_some() { HALVED_ROWS } else { BOUNDED_ROWS }
}

/// How many vectors of `width` fit into `bytes`, within limits and a multiple of the least.
fn fitting(bytes: usize, width: usize, least: usize, most: usize) -> usize {
    (bytes / (width.max(1) * size_of::<f32>()) / least * least).clamp(least, most)
}

/// Every row of the source, in order, a shard's own at a time; those parts that nothing is selected from are never
/// read.
fn chunks<S: Source + ?Sized>(source: &S) -> Vec<Span> {
    let selection = source.selection();
    let is_wanted = |span: Span| selection.is_none_or(|rows| rows.count_in(span.global..span.global + span.rows) > 0);
    let mut chunks = Vec::new();
    let mut first = 0;
    for shard in 0..source.shards() {
        let rows = source.rows(shard);
        let spans = (0..rows).step_by(CHUNK_ROWS).map(|start| Span {
            shard,
            start,
            global: first + start,
            rows: CHUNK_ROWS.min(rows - start),
        });
        chunks.extend(spans.filter(|span| is_wanted(*span)));
        first += rows;
    }
    chunks
}

/// One pass, shared by its workers.
struct Work<'a, S: ?Sized> {
    source: &'a S,
    form: &'a Form<'a>,
    queries: &'a PackedQueries,
    progress: &'a Progress<'a>,
    /// E.
    width: usize,
    few: bool,
    tile_rows: usize,
    /// Queries scored together.
    block: usize,
    chunks: Vec<Span>,
    next: AtomicUsize,
    stopped: AtomicBool,
    releasing: Option<Releasing>,
}

impl<S: Source + ?Sized> Work<'_, S> {
    fn run<K: Sink>(&self, mut sink: K) -> Result<K> {
        let mut tile = RowTile::new(self.form, self.width, self.few, self.queries);
        while let Some(chunk) = self.next_chunk() {
            let done = self.chunk(chunk, &mut tile, &mut sink).and_then(|()| self.progress.advance(chunk.rows));
            if let Err(error) = done {
                self.stopped.store(true, Ordering::Relaxed);
                return Err(error);
            }
            if sink.has_given_up() {
                break;
            }
        }
        Ok(sink)
    }

    fn next_chunk(&self) -> Option<Span> {
        let stopped = self.stopped.load(Ordering::Relaxed);
        if stopped { None } else { self.chunks.get(self.next.fetch_add(1, Ordering::Relaxed)).copied() }
    }

    fn chunk<'a, K: Sink>(&'a self, chunk: Span, tile: &mut RowTile<'a>, sink: &mut K) -> Result<()> {
        let mut offset = 0;
        while offset < chunk.rows {
            let (start, global) = (chunk.start + offset, chunk.global + offset);
            let span = Span { start, global, rows: self.records(chunk.shard, start, chunk.rows - offset), ..chunk };
            let left = chunk.rows - offset - span.rows;
            if K::BOUNDS {
                tile.load_bounded(self.source, span, sink.basis());
            } else {
                tile.load(self.source, span, left.min(self.tile_rows));
            }
            self.blocks(span, tile, sink)?;
            offset += span.rows;
        }
        if let Some(releasing) = &self.releasing {
            releasing.chunk_done(self.source, chunk.shard);
        }
        Ok(())
    }

    /// How many of `left` records from `start` on make a tile: by their factors, where they have several.
    fn records(&self, shard: usize, start: usize, left: usize) -> usize {
        let offsets = self.form.sets.first().and_then(|&set| self.source.factor_offsets(shard, set));
        let Some(offsets) = offsets else { return self.tile_rows.min(left) };
        let most = offsets[start] + self.tile_rows as u64;
        offsets[start + 1..=start + left].partition_point(|&end| end <= most).max(1)
    }

    fn blocks<K: Sink>(&self, span: Span, tile: &mut RowTile<'_>, sink: &mut K) -> Result<()> {
        for first in (0..self.queries.len()).step_by(self.block) {
            let count = self.block.min(self.queries.len() - first);
            if K::BOUNDS {
                tile.bounds(self.queries, first..first + count, &mut OfSpan { source: self.source, span, sink });
                continue;
            }
            let scores = tile.score(self.queries, first..first + count)?;
            for (i, scores) in scores.chunks_exact(span.rows).enumerate() {
                sink.take(self.source, first + i, span, scores)?;
            }
        }
        Ok(())
    }
}

/// What takes a tile's bounds.
struct OfSpan<'t, S: ?Sized, K> {
    source: &'t S,
    span: Span,
    sink: &'t mut K,
}

impl<S: Source + ?Sized, K: Sink> BoundsTaker for OfSpan<'_, S, K> {
    fn limits(&self, query: usize) -> [f32; 2] {
        self.sink.limits(query)
    }

    fn take(&mut self, query: usize, first: usize, low: &[f32], high: &[f32]) {
        let Span { start, global, .. } = self.span;
        let span = Span { start: start + first, global: global + first, rows: low.len(), ..self.span };
        self.sink.take_bounds(self.source, query, span, low, high);
    }

    fn passed(&mut self, rows: usize) {
        self.sink.passed(rows);
    }
}

/// Gives a shard's memory back once its last chunk is done.
struct Releasing {
    chunks_left: Vec<AtomicUsize>,
}

impl Releasing {
    fn new<S: Source + ?Sized>(source: &S, chunks: &[Span]) -> Self {
        let chunks_left: Vec<_> = (0..source.shards()).map(|_| AtomicUsize::new(0)).collect();
        for chunk in chunks {
            chunks_left[chunk.shard].fetch_add(1, Ordering::Relaxed);
        }
        Self { chunks_left }
    }

    fn chunk_done<S: Source + ?Sized>(&self, source: &S, shard: usize) {
        if self.chunks_left[shard].fetch_sub(1, Ordering::AcqRel) == 1 {
            source.release(shard);
        }
    }
}
