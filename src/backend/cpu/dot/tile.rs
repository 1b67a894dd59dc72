//! Many queries with many rows: bound by arithmetic, so everything is arranged for the registers.
//!
//! Eight rows stay in the first-level cache while all queries pass them, two or three at a time. The innermost loop
//! sums one *register's* lanes of four rows (eight, where there are registers for it) with those queries, so that every
//! register is a sum or an operand of a sum; the lanes of a vector that other registers hold take another turn.
//! Meanwhile the queries that come next are fetched from wherever they are, a line a step, which such a loop has room
//! for. Vectors too long for the cache are summed in parts, the chains parked between them, which is exact.

use super::{Product, SquaredDifference, Sums, Term, Totals};
use crate::backend::cpu::lined::{Line, Lined, TOGETHER};
use crate::backend::cpu::simd::{ByRegisters, Isa, Kernel, LANES, Lanes, Register, Vector};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

/// Pairs to score: all `rows`, with the queries `asked`.
#[derive(Clone, Debug)]
pub struct Tile<'a> {
    /// `[.., E]`
    pub queries: &'a Lined,
    /// Which of them.
    pub asked: Range<usize>,
    /// `[rows, E]`
    pub rows: &'a Lined,
    /// What the next tile's rows will be made from, to be brought nearer meanwhile: on a machine that is kept busy,
    /// that costs nothing.
    pub next: &'a [f32],
}

/// [`dot`](super::dot) of every asked query with every row: `out [asked, rows]`.
///
/// # Panics
/// If queries and rows are not of one width, or `out` is not of that size.
pub fn dot_tile(out: &mut [f32], tile: Tile<'_>) {
    dot_tile_on(Isa::best(), out, tile);
}

/// [`squared_distance`](super::squared_distance) of every asked query from every row, laid out as in [`dot_tile`].
///
/// # Panics
/// As [`dot_tile`].
pub fn squared_distance_tile(out: &mut [f32], tile: Tile<'_>) {
    squared_distance_tile_on(Isa::best(), out, tile);
}

/// [`dot_tile`] on a given instruction set (the bits are the same).
pub fn dot_tile_on(isa: Isa, out: &mut [f32], tile: Tile<'_>) {
    run::<Product>(isa, out, tile);
}

/// [`squared_distance_tile`] on a given instruction set (the bits are the same).
pub fn squared_distance_tile_on(isa: Isa, out: &mut [f32], tile: Tile<'_>) {
    run::<SquaredDifference>(isa, out, tile);
}

/// Rows in the first-level cache: as many as are totalled together.
const ROWS: usize = TOGETHER;

thread_local! {
    /// Lane sums on their way.
    static SUMS: RefCell<Vec<Sums>> = const { RefCell::new(Vec::new()) };
}

fn run<T: Term>(isa: Isa, out: &mut [f32], tile: Tile<'_>) {
    let Tile { queries, asked, rows, next } = tile;
    assert_eq!(queries.width(), rows.width(), "queries and rows of different widths");
    assert!(asked.end <= queries.len(), "queries {asked:?} of {}", queries.len());
    assert_eq!(out.len(), asked.len() * rows.len(), "scores do not fill their tile");
    SUMS.with_borrow_mut(|sums| {
        sums.resize(asked.len().max(sums.len()), [Line::ZERO; ROWS]);
        isa.run(Strips::<T> { out, queries, asked, rows, sums, next: next.as_chunks().0, term: PhantomData });
    });
}

/// Every query with every row.
struct Strips<'a, T> {
    out: &'a mut [f32],
    queries: &'a Lined,
    asked: Range<usize>,
    rows: &'a Lined,
    /// Room for those of every query asked.
    sums: &'a mut [Sums],
    next: &'a [[f32; LANES]],
    term: PhantomData<T>,
}

impl<T: Term> Kernel for Strips<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        let parts = self.rows.parts().len();
        let strips = self.rows.len().div_ceil(ROWS) * parts * self.asked.len().div_ceil(T::QUERIES);
        let mut next = self.next.chunks(self.next.len().div_ceil(strips.max(1)).max(1));
        for row in (0..self.rows.len()).step_by(ROWS) {
            for part in 0..parts {
                let mut query = 0;
                while query < self.asked.len() {
                    for line in next.next().unwrap_or_default() {
                        V::prefetch(line);
                    }
                    query += self.strip::<V>(query, row, part);
                }
            }
        }
    }
}

impl<T: Term> Strips<'_, T> {
    /// As many queries as go together, from number `query` of those asked on; gives back how many those were.
    #[inline(always)]
    fn strip<V: Vector>(&mut self, query: usize, row: usize, part: usize) -> usize {
        match T::QUERIES.min(self.asked.len() - query) {
            1 => self.strip_of::<V, 1>(query, row, part),
            2 => self.strip_of::<V, 2>(query, row, part),
            _ => self.strip_of::<V, 3>(query, row, part),
        }
    }

    #[inline(always)]
    fn strip_of<V: Vector, const Q: usize>(&mut self, query: usize, row: usize, part: usize) -> usize {
        let (rows, queries) = (&self.rows.parts()[part], &self.queries.parts()[part]);
        let parts = self.rows.parts().len();
        // Sums that are not parked stay where the cache has them.
        let place = if parts == 1 { 0 } else { query };
        let sums = self.sums[place..].first_chunk_mut::<Q>().expect("room for every query's sums");
        let operands = Operands {
            rows: rows.vectors(row, ROWS),
            queries: queries.vectors(self.asked.start + query, Q),
            depth: rows.depth,
            resume: part > 0,
        };
        V::by_registers(LaneSums::<T, Q> { sums, operands, term: PhantomData });
        if part + 1 == parts {
            let rows = ROWS.min(self.rows.len() - row);
            let out = &mut self.out[query * self.rows.len() + row..];
            V::call(Totals { out, stride: self.rows.len(), sums, rows });
        }
        Q
    }
}

/// What a register tile reads.
struct Operands<'a> {
    /// [`ROWS`] of them.
    rows: &'a [Line],
    queries: &'a [Line],
    /// Lines of each.
    depth: usize,
    /// Whether the sums go on from what they are, rather than from zero.
    resume: bool,
}

/// The lane sums of [`ROWS`] rows with `Q` queries.
struct LaneSums<'a, T, const Q: usize> {
    sums: &'a mut [Sums; Q],
    operands: Operands<'a>,
    term: PhantomData<T>,
}

impl<T: Term, const Q: usize> ByRegisters for LaneSums<'_, T, Q> {
    type Output = ();

    #[inline(always)]
    fn with_sixteen<V: Vector>(self) {
        let Self { sums, operands, term } = self;
        if Q == 1 {
            // Eight sums hide each other's latency; four would not.
            V::call(Sum::<T, 8, Q, 1> { sums, operands, term });
        } else {
            V::call(Sum::<T, 4, Q, 1> { sums, operands, term });
        }
    }

    #[inline(always)]
    fn with_thirty_two<V: Vector>(self) {
        let Self { sums, operands, term } = self;
        V::call(Sum::<T, 8, Q, 3> { sums, operands, term });
    }
}

/// [`LaneSums`], `R` rows and one register's lanes at a time: a turn. Each turn fetches `A` of the next
/// queries.
struct Sum<'a, T, const R: usize, const Q: usize, const A: usize> {
    sums: &'a mut [Sums; Q],
    operands: Operands<'a>,
    term: PhantomData<T>,
}

impl<T: Term, const R: usize, const Q: usize, const A: usize> Kernel for Sum<'_, T, R, Q, A> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Operands { rows, queries, depth, resume } = self.operands;
        let mut ahead = queries.as_ptr_range().end;
        let queries = vectors::<Q>(queries, depth);
        for first in (0..ROWS).step_by(R) {
            let rows = vectors::<R>(&rows[first * depth..], depth);
            for register in 0..V::Register::PER_VECTOR {
                let mut sums = [[V::Register::zero(); R]; Q];
                if resume {
                    for q in 0..Q {
                        for r in 0..R {
                            sums[q][r] = V::Register::load(&self.sums[q][first + r].0, register);
                        }
                    }
                }
                add_lines::<T, V, R, Q, A>(&mut sums, rows, queries, ahead, register);
                for q in 0..Q {
                    for r in 0..R {
                        sums[q][r].store(&mut self.sums[q][first + r].0, register);
                    }
                }
                ahead = ahead.wrapping_add(A * depth);
            }
        }
    }
}

/// The first `N` vectors.
#[inline(always)]
fn vectors<const N: usize>(lines: &[Line], depth: usize) -> [&[Line]; N] {
    let mut vectors: [&[Line]; N] = [&[]; N];
    for i in 0..N {
        vectors[i] = &lines[i * depth..][..depth];
    }
    vectors
}

/// The innermost loop: one register's lanes of every row with those of every query. What lies `ahead` is fetched: the
/// queries after these, or whatever is there.
#[inline(always)]
fn add_lines<T: Term, V: Vector, const R: usize, const Q: usize, const A: usize>(
    sums: &mut [[V::Register; R]; Q],
    rows: [&[Line]; R],
    queries: [&[Line]; Q],
    ahead: *const Line,
    register: usize,
) {
    let depth = rows[0].len();
    for k in 0..depth {
        for a in 0..A {
            V::prefetch_near(ahead.wrapping_add(a * depth + k).cast());
        }
        let mut y = [V::Register::zero(); Q];
        for q in 0..Q {
            y[q] = V::Register::load(&queries[q][k].0, register);
        }
        for r in 0..R {
            let x = V::Register::load(&rows[r][k].0, register);
            for q in 0..Q {
                sums[q][r] = T::add(sums[q][r], y[q], x);
            }
        }
    }
}
