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
    isa.run(Tiles::<Product>::new(out, queries, rows, tile));
}

/// [`squared_distance_tile`] on a given instruction set (the bits are the same).
pub fn squared_distance_tile_on(isa: Isa, out: &mut [f32], queries: &[f32], rows: &[f32], tile: Tile) {
    isa.run(Tiles::<SquaredDifference>::new(out, queries, rows, tile));
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
    term: std::marker::PhantomData<T>,
}

impl<'a, T> Pair<'a, T> {
    fn new(a: &'a [f32], b: &'a [f32]) -> Self {
        assert_eq!(a.len(), b.len(), "vectors of different widths");
        Self { a, b, term: std::marker::PhantomData }
    }
}

impl<T: Term> Kernel for Pair<'_, T> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector>(self) -> f32 {
        lane_sums::<V, T, 1, 1>([self.a], [self.b])[0][0].sum()
    }
}

/// Every query with every row.
struct Tiles<'a, T> {
    out: &'a mut [f32],
    queries: &'a [f32],
    rows: &'a [f32],
    tile: Tile,
    term: std::marker::PhantomData<T>,
}

impl<'a, T> Tiles<'a, T> {
    fn new(out: &'a mut [f32], queries: &'a [f32], rows: &'a [f32], tile: Tile) -> Self {
        assert_eq!(queries.len(), tile.n_queries * tile.width, "queries do not fill their tile");
        assert_eq!(rows.len(), tile.n_rows * tile.width, "rows do not fill their tile");
        assert_eq!(out.len(), tile.n_queries * tile.n_rows, "scores do not fill their tile");
        Self { out, queries, rows, tile, term: std::marker::PhantomData }
    }
}

/// Bytes of rows that stay in the first-level cache while every query passes over them.
const ROW_BLOCK_BYTES: usize = 16 * 1024;

impl<T: Term> Kernel for Tiles<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        let block = (ROW_BLOCK_BYTES / (4 * self.tile.width.max(1))).next_multiple_of(4).max(4);
        for start in (0..self.tile.n_rows).step_by(block) {
            let end = (start + block).min(self.tile.n_rows);
            if V::REGISTERS >= 32 {
                self.block::<V, 4, 6>(start, end);
            } else {
                self.block::<V, 2, 3>(start, end);
            }
        }
    }
}

impl<T: Term> Tiles<'_, T> {
    /// Rows `start..end` against all queries, `Q` queries and `R` rows at a time.
    #[inline(always)]
    fn block<V: Vector, const R: usize, const Q: usize>(&mut self, start: usize, end: usize) {
        let mut query = 0;
        while query + Q <= self.tile.n_queries {
            self.strip::<V, R, Q>(query, start, end);
            query += Q;
        }
        while query + 2 <= self.tile.n_queries {
            self.strip::<V, 2, 2>(query, start, end);
            query += 2;
        }
        if query < self.tile.n_queries {
            self.strip::<V, 4, 1>(query, start, end);
        }
    }

    /// Rows `start..end` against `Q` queries.
    #[inline(always)]
    fn strip<V: Vector, const R: usize, const Q: usize>(&mut self, query: usize, start: usize, end: usize) {
        let mut row = start;
        while row + R <= end {
            self.tile::<V, R, Q>(query, row);
            row += R;
        }
        while row < end {
            self.tile::<V, 1, Q>(query, row);
            row += 1;
        }
    }

    /// `R` rows against `Q` queries.
    #[inline(always)]
    fn tile<V: Vector, const R: usize, const Q: usize>(&mut self, query: usize, row: usize) {
        let width = self.tile.width;
        let queries = std::array::from_fn(|q| &self.queries[(query + q) * width..][..width]);
        let rows = std::array::from_fn(|r| &self.rows[(row + r) * width..][..width]);
        let sums = lane_sums::<V, T, R, Q>(rows, queries);
        for group in (0..R * Q).step_by(8) {
            let pair = |i: usize| if group + i < R * Q { sums[(group + i) / R][(group + i) % R] } else { V::zero() };
            let totals = V::sum8(std::array::from_fn(pair));
            for i in 0..(R * Q - group).min(8) {
                let (q, r) = ((group + i) / R, (group + i) % R);
                self.out[(query + q) * self.tile.n_rows + row + r] = totals[i];
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
    let row_chunks = rows.map(|row| row.as_chunks::<LANES>());
    let query_chunks = queries.map(|query| query.as_chunks::<LANES>());
    let mut sums = [[V::zero(); R]; Q];
    let chunks = row_chunks[0].0.len();
    let row_parts = row_chunks.map(|(whole, _)| &whole[..chunks]);
    let query_parts = query_chunks.map(|(whole, _)| &whole[..chunks]);
    for chunk in 0..chunks {
        let q: [V; Q] = std::array::from_fn(|i| V::load(&query_parts[i][chunk]));
        add_terms::<V, T, R, Q>(&mut sums, |r| V::load(&row_parts[r][chunk]), q);
    }
    if !row_chunks[0].1.is_empty() {
        let q: [V; Q] = std::array::from_fn(|i| V::load_partial(query_chunks[i].1));
        add_terms::<V, T, R, Q>(&mut sums, |r| V::load_partial(row_chunks[r].1), q);
    }
    sums
}

/// One vector of each row against one of each query.
#[inline(always)]
fn add_terms<V: Vector, T: Term, const R: usize, const Q: usize>(
    sums: &mut [[V; R]; Q],
    row: impl Fn(usize) -> V,
    queries: [V; Q],
) {
    for r in 0..R {
        let x = row(r);
        for q in 0..Q {
            sums[q][r] = T::add(sums[q][r], queries[q], x);
        }
    }
}
