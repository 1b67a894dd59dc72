//! Few queries with many rows: bound by memory, so rows are read where they lie, one after another, once.

use super::{Product, SquaredDifference, Sums, Term, Totals};
use crate::backend::cpu::lined::{Line, Lined, TOGETHER};
use crate::backend::cpu::simd::{Isa, Kernel, LANES, Vector};
use std::marker::PhantomData;
use std::ops::Range;

/// Pairs to score: all `rows`, with the queries `asked`.
#[derive(Clone, Debug)]
pub struct Stream<'a> {
    /// `[.., E]`
    pub queries: &'a Lined,
    /// Which of them.
    pub asked: Range<usize>,
    /// `[rows, E]`
    pub rows: &'a [f32],
}

/// [`dot`](super::dot) of every asked query with every row: `out [asked, rows]`.
///
/// # Panics
/// If there is no whole number of rows, or `out` is not of that size.
pub fn dot_stream(out: &mut [f32], stream: Stream<'_>) {
    dot_stream_on(Isa::best(), out, stream);
}

/// [`squared_distance`](super::squared_distance) of every asked query from every row, laid out as in [`dot_stream`].
///
/// # Panics
/// As [`dot_stream`].
pub fn squared_distance_stream(out: &mut [f32], stream: Stream<'_>) {
    squared_distance_stream_on(Isa::best(), out, stream);
}

/// [`dot_stream`] on a given instruction set (the bits are the same).
pub fn dot_stream_on(isa: Isa, out: &mut [f32], stream: Stream<'_>) {
    run::<Product>(isa, out, stream);
}

/// [`squared_distance_stream`] on a given instruction set (the bits are the same).
pub fn squared_distance_stream_on(isa: Isa, out: &mut [f32], stream: Stream<'_>) {
    run::<SquaredDifference>(isa, out, stream);
}

fn run<T: Term>(isa: Isa, out: &mut [f32], stream: Stream<'_>) {
    let Stream { queries, asked, rows } = stream;
    let n_rows = out.len().checked_div(asked.len()).unwrap_or(0);
    assert_eq!(out.len(), n_rows * asked.len(), "scores of no whole number of rows");
    assert!(asked.end <= queries.len(), "queries {asked:?} of {}", queries.len());
    if !asked.is_empty() {
        assert_eq!(rows.len(), n_rows * queries.width(), "scores do not fill their tile");
    }
    isa.run(Passes::<T> { out, queries, asked, rows, n_rows, term: PhantomData });
}

/// All queries pass over so many rows while they are in the first-level cache.
const ROWS: usize = TOGETHER;

/// Every query with every row.
struct Passes<'a, T> {
    out: &'a mut [f32],
    queries: &'a Lined,
    asked: Range<usize>,
    rows: &'a [f32],
    n_rows: usize,
    term: PhantomData<T>,
}

impl<T: Term> Kernel for Passes<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        for row in (0..self.n_rows).step_by(ROWS) {
            let mut query = 0;
            while query < self.asked.len() {
                query += match self.asked.len() - query {
                    1 => self.pass::<V, 1>(query, row),
                    2 => self.pass::<V, 2>(query, row),
                    _ => self.pass::<V, 3>(query, row),
                };
            }
        }
    }
}

impl<T: Term> Passes<'_, T> {
    /// `Q` queries over eight rows; gives back Q.
    #[inline(always)]
    fn pass<V: Vector, const Q: usize>(&mut self, query: usize, row: usize) -> usize {
        let width = self.queries.width();
        let rows = row..self.n_rows.min(row + ROWS);
        let mut sums = [[Line::ZERO; ROWS]; Q];
        V::call(Sum::<T, Q> {
            sums: &mut sums,
            queries: self.queries,
            first: self.asked.start + query,
            rows: &self.rows[rows.start * width..rows.end * width],
            term: PhantomData,
        });
        let out = &mut self.out[query * self.n_rows + row..];
        V::call(Totals { out, stride: self.n_rows, sums: &sums, rows: rows.len() });
        Q
    }
}

/// The lane sums of at most [`ROWS`] rows with `Q` queries, a row at a time.
struct Sum<'a, T, const Q: usize> {
    sums: &'a mut [Sums; Q],
    queries: &'a Lined,
    /// The first query's number.
    first: usize,
    rows: &'a [f32],
    term: PhantomData<T>,
}

impl<T: Term, const Q: usize> Kernel for Sum<'_, T, Q> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for (r, row) in self.rows.chunks_exact(self.queries.width().max(1)).enumerate() {
            let mut sums = [V::zero(); Q];
            for part in self.queries.parts() {
                let queries = part.vectors(self.first, Q);
                add_row::<T, V, Q>(&mut sums, &row[part.numbers.clone()], queries, part.depth);
            }
            for q in 0..Q {
                sums[q].store(&mut self.sums[q][r].0);
            }
        }
    }
}

/// The innermost loop: a row, or a part of it, with every query.
#[inline(always)]
fn add_row<T: Term, V: Vector, const Q: usize>(sums: &mut [V; Q], row: &[f32], queries: &[Line], depth: usize) {
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut heads: [&[Line]; Q] = [&[]; Q];
    for q in 0..Q {
        heads[q] = &queries[q * depth..][..whole.len()];
    }
    for (k, numbers) in whole.iter().enumerate() {
        let x = V::load(numbers);
        for q in 0..Q {
            sums[q] = T::add(sums[q], V::load(&heads[q][k].0), x);
        }
    }
    if !rest.is_empty() {
        let x = V::load_partial(rest);
        for q in 0..Q {
            sums[q] = T::add(sums[q], V::load(&queries[q * depth + whole.len()].0), x);
        }
    }
}
