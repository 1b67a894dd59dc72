//! Few queries with many rows: bound by memory, so rows are read where they lie, one after another, once.

use super::{Product, SquaredDifference, Sums, Term, Totals};
use crate::backend::cpu::lined::{Line, Lined, TOGETHER};
use crate::backend::cpu::simd::{Isa, Kernel, LANES, Vector};
use half::{bf16, f16};
use std::marker::PhantomData;
use std::ops::Range;

/// How rows are held; halves are widened on their way into a register, exactly.
pub trait Number: Copy + Sync {
    /// Sixteen consecutive numbers.
    fn load<V: Vector>(from: &[Self; LANES]) -> V;
    /// As an f32.
    fn widen(self) -> f32;
}

impl Number for f32 {
    #[inline(always)]
    fn load<V: Vector>(from: &[Self; LANES]) -> V {
        V::load(from)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Number for f16 {
    #[inline(always)]
    fn load<V: Vector>(from: &[Self; LANES]) -> V {
        V::load_f16(from)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn load<V: Vector>(from: &[Self; LANES]) -> V {
        V::load_bf16(from)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// Pairs to score: all `rows`, with the queries `asked`.
#[derive(Clone, Debug)]
pub struct Stream<'a, N = f32> {
    /// `[.., E]`
    pub queries: &'a Lined,
    /// Which of them.
    pub asked: Range<usize>,
    /// `[rows, E]`
    pub rows: &'a [N],
}

/// [`dot`](super::dot) of every asked query with every row: `out [asked, rows]`.
///
/// # Panics
/// If there is no whole number of rows, or `out` is not of that size.
pub fn dot_stream<N: Number>(out: &mut [f32], stream: Stream<'_, N>) {
    dot_stream_on(Isa::best(), out, stream);
}

/// [`squared_distance`](super::squared_distance) of every asked query from every row, laid out as in [`dot_stream`].
///
/// # Panics
/// As [`dot_stream`].
pub fn squared_distance_stream<N: Number>(out: &mut [f32], stream: Stream<'_, N>) {
    squared_distance_stream_on(Isa::best(), out, stream);
}

/// [`dot_stream`] on a given instruction set (the bits are the same).
pub fn dot_stream_on<N: Number>(isa: Isa, out: &mut [f32], stream: Stream<'_, N>) {
    run::<Product, N>(isa, out, stream);
}

/// [`squared_distance_stream`] on a given instruction set (the bits are the same).
pub fn squared_distance_stream_on<N: Number>(isa: Isa, out: &mut [f32], stream: Stream<'_, N>) {
    run::<SquaredDifference, N>(isa, out, stream);
}

fn run<T: Term, N: Number>(isa: Isa, out: &mut [f32], stream: Stream<'_, N>) {
    let Stream { queries, asked, rows } = stream;
    let n_rows = out.len().checked_div(asked.len()).unwrap_or(0);
    assert_eq!(out.len(), n_rows * asked.len(), "scores of no whole number of rows");
    assert!(asked.end <= queries.len(), "queries {asked:?} of {}", queries.len());
    if !asked.is_empty() {
        assert_eq!(rows.len(), n_rows * queries.width(), "scores do not fill their tile");
    }
    isa.run(Passes::<T, N> { out, queries, asked, rows, n_rows, term: PhantomData });
}

/// All queries pass over so many rows while they are in the first-level cache.
const ROWS: usize = TOGETHER;

/// Every query with every row.
struct Passes<'a, T, N> {
    out: &'a mut [f32],
    queries: &'a Lined,
    asked: Range<usize>,
    rows: &'a [N],
    n_rows: usize,
    term: PhantomData<T>,
}

impl<T: Term, N: Number> Kernel for Passes<'_, T, N> {
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

impl<T: Term, N: Number> Passes<'_, T, N> {
    /// `Q` queries over eight rows; gives back Q.
    #[inline(always)]
    fn pass<V: Vector, const Q: usize>(&mut self, query: usize, row: usize) -> usize {
        let width = self.queries.width();
        let rows = row..self.n_rows.min(row + ROWS);
        let mut sums = [[Line::ZERO; ROWS]; Q];
        V::call(Sum::<T, N, Q> {
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
struct Sum<'a, T, N, const Q: usize> {
    sums: &'a mut [Sums; Q],
    queries: &'a Lined,
    /// The first query's number.
    first: usize,
    rows: &'a [N],
    term: PhantomData<T>,
}

impl<T: Term, N: Number, const Q: usize> Kernel for Sum<'_, T, N, Q> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for (r, row) in self.rows.chunks_exact(self.queries.width().max(1)).enumerate() {
            let mut sums = [V::zero(); Q];
            for part in self.queries.parts() {
                let queries = part.vectors(self.first, Q);
                add_row::<T, V, N, Q>(&mut sums, &row[part.numbers.clone()], queries, part.depth);
            }
            for q in 0..Q {
                sums[q].store(&mut self.sums[q][r].0);
            }
        }
    }
}

/// The innermost loop: a row, or a part of it, with every query.
#[inline(always)]
fn add_row<T: Term, V: Vector, N: Number, const Q: usize>(
    sums: &mut [V; Q],
    row: &[N],
    queries: &[Line],
    depth: usize,
) {
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut heads: [&[Line]; Q] = [&[]; Q];
    for q in 0..Q {
        heads[q] = &queries[q * depth..][..whole.len()];
    }
    for (k, numbers) in whole.iter().enumerate() {
        let x = N::load::<V>(numbers);
        for q in 0..Q {
            sums[q] = T::add(sums[q], V::load(&heads[q][k].0), x);
        }
    }
    if !rest.is_empty() {
        let mut last = [0.0; LANES];
        last.iter_mut().zip(rest).for_each(|(last, x)| *last = x.widen());
        let x = V::load(&last);
        for q in 0..Q {
            sums[q] = T::add(sums[q], V::load(&queries[q * depth + whole.len()].0), x);
        }
    }
}
