//! Few queries with many rows: bound by memory, so rows are read where they lie, one after another, once.

use super::{Product, SquaredDifference, Sums, Term, Totals};
use crate::backend::cpu::Int8Rows;
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

/// Rows of one width, one after another.
pub trait Rows: Copy + Sync {
    /// One of them.
    type Row: Row;
    /// How many numbers there are.
    fn numbers(self) -> usize;
    /// Row `r`, of rows of this width.
    fn row(self, r: usize, width: usize) -> Self::Row;
}

/// A row as it is held.
pub trait Row: Copy {
    /// Sixteen of its numbers.
    type Sixteen;
    /// Some of them.
    #[must_use]
    fn part(self, numbers: Range<usize>) -> Self;
    /// All of them by sixteens, and those that are left over.
    fn sixteens(self) -> (impl Iterator<Item = Self::Sixteen>, Self);
    /// As f32.
    fn load<V: Vector>(self, sixteen: Self::Sixteen) -> V;
    /// Fewer than sixteen, and zeros after them; `None` where there are none.
    fn last<V: Vector>(self) -> Option<V>;
}

impl<'a, N: Number> Rows for &'a [N] {
    type Row = &'a [N];

    #[inline(always)]
    fn numbers(self) -> usize {
        self.len()
    }

    #[inline(always)]
    fn row(self, r: usize, width: usize) -> &'a [N] {
        &self[r * width..(r + 1) * width]
    }
}

impl<'a, N: Number> Row for &'a [N] {
    type Sixteen = &'a [N; LANES];

    #[inline(always)]
    fn part(self, numbers: Range<usize>) -> Self {
        &self[numbers]
    }

    #[inline(always)]
    fn sixteens(self) -> (impl Iterator<Item = Self::Sixteen>, Self) {
        let (whole, rest) = self.as_chunks();
        (whole.iter(), rest)
    }

    #[inline(always)]
    fn load<V: Vector>(self, sixteen: Self::Sixteen) -> V {
        N::load(sixteen)
    }

    #[inline(always)]
    fn last<V: Vector>(self) -> Option<V> {
        let mut last = [0.0; LANES];
        last.iter_mut().zip(self).for_each(|(last, x)| *last = x.widen());
        (!self.is_empty()).then(|| V::load(&last))
    }
}

/// Integers become numbers in a register, by the operations that define what those are.
impl<'a> Rows for Int8Rows<'a> {
    type Row = Int8Row<'a>;

    #[inline(always)]
    fn numbers(self) -> usize {
        self.values.len()
    }

    #[inline(always)]
    fn row(self, r: usize, width: usize) -> Int8Row<'a> {
        let values = &self.values[r * width..(r + 1) * width];
        Int8Row { values, scale: self.scales[r], share: self.shares[r], center: self.center }
    }
}

/// One of [`Int8Rows`], or a part of it.
#[derive(Clone, Copy, Debug)]
pub struct Int8Row<'a> {
    values: &'a [i8],
    scale: f32,
    share: f32,
    center: &'a [f32],
}

impl<'a> Row for Int8Row<'a> {
    type Sixteen = (&'a [i8; LANES], &'a [f32; LANES]);

    #[inline(always)]
    fn part(self, numbers: Range<usize>) -> Self {
        Self { values: &self.values[numbers.clone()], center: &self.center[numbers], ..self }
    }

    #[inline(always)]
    fn sixteens(self) -> (impl Iterator<Item = Self::Sixteen>, Self) {
        let ((values, last), (center, of_last)) = (self.values.as_chunks(), self.center.as_chunks::<LANES>());
        (values.iter().zip(center), Self { values: last, center: of_last, ..self })
    }

    #[inline(always)]
    fn load<V: Vector>(self, (values, center): Self::Sixteen) -> V {
        V::load_i8(values).fma(V::splat(self.scale), V::splat(self.share).mul(V::load(center)))
    }

    #[inline(always)]
    fn last<V: Vector>(self) -> Option<V> {
        let (mut values, mut center) = ([0; LANES], [0.0; LANES]);
        values[..self.values.len()].copy_from_slice(self.values);
        center[..self.center.len()].copy_from_slice(self.center);
        (!self.values.is_empty()).then(|| self.load((&values, &center)))
    }
}

/// Pairs to score: all `rows`, with the queries `asked`.
#[derive(Clone, Debug)]
pub struct Stream<'a, R = &'a [f32]> {
    /// `[.., E]`
    pub queries: &'a Lined,
    /// Which of them.
    pub asked: Range<usize>,
    /// `[rows, E]`
    pub rows: R,
}

/// [`dot`](super::dot) of every asked query with every row: `out [asked, rows]`.
///
/// # Panics
/// If there is no whole number of rows, or `out` is not of that size.
pub fn dot_stream<R: Rows>(out: &mut [f32], stream: Stream<'_, R>) {
    dot_stream_on(Isa::best(), out, stream);
}

/// [`squared_distance`](super::squared_distance) of every asked query from every row, laid out as in [`dot_stream`].
///
/// # Panics
/// As [`dot_stream`].
pub fn squared_distance_stream<R: Rows>(out: &mut [f32], stream: Stream<'_, R>) {
    squared_distance_stream_on(Isa::best(), out, stream);
}

/// [`dot_stream`] on a given instruction set (the bits are the same).
pub fn dot_stream_on<R: Rows>(isa: Isa, out: &mut [f32], stream: Stream<'_, R>) {
    run::<Product, R>(isa, out, stream);
}

/// [`squared_distance_stream`] on a given instruction set (the bits are the same).
pub fn squared_distance_stream_on<R: Rows>(isa: Isa, out: &mut [f32], stream: Stream<'_, R>) {
    run::<SquaredDifference, R>(isa, out, stream);
}

fn run<T: Term, R: Rows>(isa: Isa, out: &mut [f32], stream: Stream<'_, R>) {
    let Stream { queries, asked, rows } = stream;
    let n_rows = out.len().checked_div(asked.len()).unwrap_or(0);
    assert_eq!(out.len(), n_rows * asked.len(), "scores of no whole number of rows");
    assert!(asked.end <= queries.len(), "queries {asked:?} of {}", queries.len());
    if !asked.is_empty() {
        assert_eq!(rows.numbers(), n_rows * queries.width(), "scores do not fill their tile");
    }
    isa.run(Passes::<T, R> { out, queries, asked, rows, n_rows, term: PhantomData });
}

/// All queries pass over so many rows while they are in the first-level cache.
const ROWS: usize = TOGETHER;

/// Every query with every row.
struct Passes<'a, T, R> {
    out: &'a mut [f32],
    queries: &'a Lined,
    asked: Range<usize>,
    rows: R,
    n_rows: usize,
    term: PhantomData<T>,
}

impl<T: Term, R: Rows> Kernel for Passes<'_, T, R> {
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

impl<T: Term, R: Rows> Passes<'_, T, R> {
    /// `Q` queries over eight rows; gives back Q.
    #[inline(always)]
    fn pass<V: Vector, const Q: usize>(&mut self, query: usize, row: usize) -> usize {
        let rows = row..self.n_rows.min(row + ROWS);
        let mut sums = [[Line::ZERO; ROWS]; Q];
        V::call(Sum::<T, R, Q> {
            sums: &mut sums,
            queries: self.queries,
            first: self.asked.start + query,
            rows: self.rows,
            which: rows.clone(),
            term: PhantomData,
        });
        let out = &mut self.out[query * self.n_rows + row..];
        V::call(Totals { out, stride: self.n_rows, sums: &sums, rows: rows.len() });
        Q
    }
}

/// The lane sums of at most [`ROWS`] rows with `Q` queries, a row at a time.
struct Sum<'a, T, R, const Q: usize> {
    sums: &'a mut [Sums; Q],
    queries: &'a Lined,
    /// The first query's number.
    first: usize,
    rows: R,
    /// Which of them.
    which: Range<usize>,
    term: PhantomData<T>,
}

impl<T: Term, R: Rows, const Q: usize> Kernel for Sum<'_, T, R, Q> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for (r, row) in self.which.enumerate() {
            let row = self.rows.row(row, self.queries.width());
            let mut sums = [V::zero(); Q];
            for part in self.queries.parts() {
                let queries = part.vectors(self.first, Q);
                add_row::<T, V, R::Row, Q>(&mut sums, row.part(part.numbers.clone()), queries, part.depth);
            }
            for q in 0..Q {
                sums[q].store(&mut self.sums[q][r].0);
            }
        }
    }
}

/// The innermost loop: a row, or a part of it, with every query.
#[inline(always)]
fn add_row<T: Term, V: Vector, R: Row, const Q: usize>(sums: &mut [V; Q], row: R, queries: &[Line], depth: usize) {
    let (whole, rest) = row.sixteens();
    let mut heads: [&[Line]; Q] = [&[]; Q];
    for q in 0..Q {
        heads[q] = &queries[q * depth..][..depth];
    }
    let mut k = 0;
    for sixteen in whole {
        let x = row.load::<V>(sixteen);
        for q in 0..Q {
            sums[q] = T::add(sums[q], V::load(&heads[q][k].0), x);
        }
        k += 1;
    }
    if let Some(x) = rest.last::<V>() {
        for q in 0..Q {
            sums[q] = T::add(sums[q], V::load(&heads[q][k].0), x);
        }
    }
}
