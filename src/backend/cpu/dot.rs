//! The f32 dot product of the whole project, and the squared distance beside it.
//!
//! One definition of the bits, so that norms, scans and rescoring agree to the last one: lane i of sixteen sums the elements
//! `i, i + 16, i + 32, …` in one chain of fused multiply-adds, a last incomplete sixteen is completed with zeros, and the lanes
//! are added by halving ([`Vector::sum`]). The error is at most `γ_n Σ|a b|` with `n = ⌈width/16⌉ + 4`
//! (Higham, *Accuracy and Stability of Numerical Algorithms*, §3.1).
//!
//! The tile functions give every pair those same bits; they only go through memory in a better order, several rows and
//! queries at a time in registers. They are single-threaded: callers split rows over threads.

use super::simd::{Isa, Kernel, LANES, Vector};
use std::cell::RefCell;
use std::marker::PhantomData;

/// `Σ a_i b_i`.
///
/// # Panics
/// If the lengths differ.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_on(Isa::best(), a, b)
}

/// [`dot`] on a given instruction set (the bits are the same).
pub fn dot_on(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    isa.run(Pair::<Product>::new(a, b))
}

/// `Σ (a_i − b_i)²`, by the differences themselves: no cancellation between near-duplicates.
///
/// # Panics
/// If the lengths differ.
pub fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    squared_distance_on(Isa::best(), a, b)
}

/// [`squared_distance`] on a given instruction set (the bits are the same).
pub fn squared_distance_on(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    isa.run(Pair::<SquaredDifference>::new(a, b))
}

/// [`dot`] of every query with every row: `out [n_queries, n_rows]` from `queries [n_queries, width]` and `rows [n_rows, width]`.
///
/// # Panics
/// If a buffer's length is not the product of its sizes.
pub fn dot_tile(out: &mut [f32], queries: &[f32], rows: &[f32], n_queries: usize, n_rows: usize, width: usize) {
    dot_tile_on(Isa::best(), out, queries, rows, Tile { n_queries, n_rows, width });
}

/// [`squared_distance`] of every query from every row, laid out as in [`dot_tile`].
///
/// # Panics
/// If a buffer's length is not the product of its sizes.
pub fn squared_distance_tile(
    out: &mut [f32],
    queries: &[f32],
    rows: &[f32],
    n_queries: usize,
    n_rows: usize,
    width: usize,
) {
    squared_distance_tile_on(Isa::best(), out, queries, rows, Tile { n_queries, n_rows, width });
}

/// The sizes of a tile of pairs.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    /// Q.
    pub n_queries: usize,
    /// Rows.
    pub n_rows: usize,
    /// E.
    pub width: usize,
}

/// [`dot_tile`] on a given instruction set (the bits are the same).
pub fn dot_tile_on(isa: Isa, out: &mut [f32], queries: &[f32], rows: &[f32], tile: Tile) {
    score::<Product>(isa, out, queries, rows, tile);
}

/// [`squared_distance_tile`] on a given instruction set (the bits are the same).
pub fn squared_distance_tile_on(isa: Isa, out: &mut [f32], queries: &[f32], rows: &[f32], tile: Tile) {
    score::<SquaredDifference>(isa, out, queries, rows, tile);
}

/// What is summed over the elements of a pair. It must be zero for a pair of zeros.
trait Term {
    /// `sum + term(a, b)`
    fn add<V: Vector>(sum: V, a: V, b: V) -> V;
}

struct Product;
impl Term for Product {
    #[inline(always)]
    fn add<V: Vector>(sum: V, a: V, b: V) -> V {
        a.fma(b, sum)
    }
}

struct SquaredDifference;
impl Term for SquaredDifference {
    #[inline(always)]
    fn add<V: Vector>(sum: V, a: V, b: V) -> V {
        let difference = a.sub(b);
        difference.fma(difference, sum)
    }
}

/// One pair.
struct Pair<'a, T> {
    a: &'a [f32],
    b: &'a [f32],
    term: PhantomData<T>,
}

impl<'a, T> Pair<'a, T> {
    fn new(a: &'a [f32], b: &'a [f32]) -> Self {
        assert_eq!(a.len(), b.len(), "vectors of different widths");
        Self { a, b, term: PhantomData }
    }
}

impl<T: Term> Kernel for Pair<'_, T> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector>(self) -> f32 {
        lane_sums::<V, T, 1, 1>([self.a], [self.b])[0][0].sum()
    }
}

thread_local! {
    /// Where [`score`] lines its operands up.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Queries from which on a copy of the operands, in whole cache lines, costs less than loads that straddle them.
const COPY_FROM: usize = 8;

/// Bytes of rows that stay in the first-level cache while every query passes over them.
const ROW_BLOCK_BYTES: usize = 16 * 1024;

/// Every query with every row, a block of rows at a time.
fn score<T: Term>(isa: Isa, out: &mut [f32], queries: &[f32], rows: &[f32], tile: Tile) {
    let Tile { n_queries, n_rows, width } = tile;
    assert_eq!(queries.len(), n_queries * width, "queries do not fill their tile");
    assert_eq!(rows.len(), n_rows * width, "rows do not fill their tile");
    assert_eq!(out.len(), n_queries * n_rows, "scores do not fill their tile");
    let block = (ROW_BLOCK_BYTES / (4 * width.max(1))).next_multiple_of(4).max(4);
    let copied = n_queries >= COPY_FROM && n_rows >= COPY_FROM;
    let whole = if copied { width.next_multiple_of(LANES) } else { width };
    ROOM.with_borrow_mut(|room| {
        let room = if copied { aligned(room, (n_queries + block) * whole) } else { &mut [] };
        let (query_room, row_room) = room.split_at_mut(if copied { n_queries * whole } else { 0 });
        let queries = if copied { line_up(query_room, queries, width) } else { queries };
        for start in (0..n_rows).step_by(block) {
            let count = block.min(n_rows - start);
            let rows = &rows[start * width..][..count * width];
            let rows = if copied { line_up(row_room, rows, width) } else { rows };
            let out = &mut out[start..];
            isa.run(Block {
                out,
                stride: n_rows,
                queries,
                n_queries,
                rows,
                n_rows: count,
                width: whole,
                term: PhantomData::<T>,
            });
        }
    });
}

/// The first `len` numbers of a buffer from a cache line's start on.
fn aligned(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len + LANES {
        buffer.resize(len + LANES, 0.0);
    }
    let start = buffer.as_ptr().align_offset(4 * LANES).min(LANES);
    &mut buffer[start..start + len]
}

/// Copies rows of `width`, each completed with zeros to whole vectors.
fn line_up<'a>(room: &'a mut [f32], rows: &[f32], width: usize) -> &'a [f32] {
    let whole = width.next_multiple_of(LANES);
    let count = rows.len().checked_div(width).unwrap_or(0);
    for (to, from) in room.chunks_exact_mut(whole.max(1)).zip(rows.chunks_exact(width.max(1))) {
        to[..width].copy_from_slice(from);
        to[width..].fill(0.0);
    }
    &room[..count * whole]
}

/// Every query with some rows.
struct Block<'a, T> {
    /// Row r's score for query q at `q * stride + r`.
    out: &'a mut [f32],
    stride: usize,
    queries: &'a [f32],
    n_queries: usize,
    rows: &'a [f32],
    n_rows: usize,
    width: usize,
    term: PhantomData<T>,
}

impl<T: Term> Kernel for Block<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        if V::REGISTERS >= 32 {
            self.block::<V, 4, 6>();
        } else {
            self.block::<V, 2, 3>();
        }
    }
}

impl<T: Term> Block<'_, T> {
    /// `Q` queries and `R` rows at a time.
    #[inline(always)]
    fn block<V: Vector, const R: usize, const Q: usize>(&mut self) {
        let mut query = 0;
        while query + Q <= self.n_queries {
            self.strip::<V, R, Q>(query);
            query += Q;
        }
        while query + 2 <= self.n_queries {
            self.strip::<V, 2, 2>(query);
            query += 2;
        }
        if query < self.n_queries {
            self.strip::<V, 4, 1>(query);
        }
    }

    /// All rows against `Q` queries.
    #[inline(always)]
    fn strip<V: Vector, const R: usize, const Q: usize>(&mut self, query: usize) {
        let mut row = 0;
        while row + R <= self.n_rows {
            self.tile::<V, R, Q>(query, row);
            row += R;
        }
        while row < self.n_rows {
            self.tile::<V, 1, Q>(query, row);
            row += 1;
        }
    }

    /// `R` rows against `Q` queries.
    #[inline(always)]
    fn tile<V: Vector, const R: usize, const Q: usize>(&mut self, query: usize, row: usize) {
        let width = self.width;
        let queries = std::array::from_fn(|q| &self.queries[(query + q) * width..][..width]);
        let rows = std::array::from_fn(|r| &self.rows[(row + r) * width..][..width]);
        let sums = lane_sums::<V, T, R, Q>(rows, queries);
        for group in (0..R * Q).step_by(8) {
            let pairs = 8.min(R * Q - group);
            let mut eight = [V::zero(); 8];
            for i in 0..pairs {
                eight[i] = sums[(group + i) / R][(group + i) % R];
            }
            let totals = V::sum8(eight);
            for i in 0..pairs {
                let (q, r) = ((group + i) / R, (group + i) % R);
                self.out[(query + q) * self.stride + row + r] = totals[i];
            }
        }
    }
}

/// The sixteen lane sums of each query with each row, `[Q][R]`. All slices have the same length.
#[inline(always)]
fn lane_sums<V: Vector, T: Term, const R: usize, const Q: usize>(
    rows: [&[f32]; R],
    queries: [&[f32]; Q],
) -> [[V; R]; Q] {
    let width = rows[0].len();
    let chunks = width / LANES;
    let whole_rows = rows.map(|row| &row.as_chunks::<LANES>().0[..chunks]);
    let whole_queries = queries.map(|query| &query.as_chunks::<LANES>().0[..chunks]);
    let mut sums = [[V::zero(); R]; Q];
    for chunk in 0..chunks {
        let mut x = [V::zero(); R];
        let mut y = [V::zero(); Q];
        for r in 0..R {
            x[r] = V::load(&whole_rows[r][chunk]);
        }
        for q in 0..Q {
            y[q] = V::load(&whole_queries[q][chunk]);
        }
        add_terms::<V, T, R, Q>(&mut sums, x, y);
    }
    let tail = chunks * LANES;
    if tail < width {
        let mut x = [V::zero(); R];
        let mut y = [V::zero(); Q];
        for r in 0..R {
            x[r] = V::load_partial(&rows[r][tail..]);
        }
        for q in 0..Q {
            y[q] = V::load_partial(&queries[q][tail..]);
        }
        add_terms::<V, T, R, Q>(&mut sums, x, y);
    }
    sums
}

/// One vector of each row against one of each query.
#[inline(always)]
fn add_terms<V: Vector, T: Term, const R: usize, const Q: usize>(sums: &mut [[V; R]; Q], x: [V; R], y: [V; Q]) {
    for r in 0..R {
        for q in 0..Q {
            sums[q][r] = T::add(sums[q][r], y[q], x[r]);
        }
    }
}
