//! The f32 dot product of the whole project, and the squared distance beside it.
//!
//! One definition of the bits, so that norms, scans and rescoring agree to the last one: lane i of sixteen sums the
//! elements `i, i + 16, i + 32, …` in one chain of fused multiply-adds, a last incomplete sixteen is completed with
//! zeros, and the lanes are added by halving ([`Vector::sum`]). The error is at most `γ_n Σ|a b|` with
//! `n = ⌈width/16⌉ + 4` (Higham, *Accuracy and Stability of Numerical Algorithms*, §3.1).
//!
//! Many pairs together have those same bits; they only go through memory in a better order. [`dot_tile`] is for many
//! queries, bound by arithmetic; [`dot_stream`] for few, bound by memory. [`panel_products`] is faster than either, and
//! has other bits, [`halved_products`] of rounded numbers faster still, and [`integer_products`] are for rows of
//! integers, where they lie: for scans that only ask what might matter. All are single-threaded: callers split rows
//! over threads.

mod halves;
mod integers;
mod panels;
mod stream;
mod tile;

pub use halves::{HalvedQueries, HalvedRows, halved_products};
pub use integers::{IntegerQueries, integer_products, integer_products_on};
pub use panels::{Panels, panel_products};
pub use stream::{Number, Stream, dot_stream, dot_stream_on, squared_distance_stream, squared_distance_stream_on};
pub use tile::{Tile, dot_tile, dot_tile_on, squared_distance_tile, squared_distance_tile_on};

use super::lined::{Line, TOGETHER};
use super::simd::{Isa, Kernel, LANES, Lanes, Vector};
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

/// What is summed over the elements of a pair. It must be zero for a pair of zeros, and the same for (a, b) and (b, a).
trait Term {
    /// Queries that a register tile takes together: all of a tile's sums, its queries, a row and what the term needs
    /// beside them must fit sixteen registers of a tile of four rows, or thirty-two of one of eight.
    const QUERIES: usize;

    /// `sum + term(a, b)`
    fn add<L: Lanes>(sum: L, a: L, b: L) -> L;
}

struct Product;
impl Term for Product {
    const QUERIES: usize = 3;

    #[inline(always)]
    fn add<L: Lanes>(sum: L, a: L, b: L) -> L {
        a.fma(b, sum)
    }
}

struct SquaredDifference;
impl Term for SquaredDifference {
    const QUERIES: usize = 2;

    #[inline(always)]
    fn add<L: Lanes>(sum: L, a: L, b: L) -> L {
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
        let (a, last_a) = self.a.as_chunks::<LANES>();
        let (b, last_b) = self.b.as_chunks::<LANES>();
        let mut sum = V::zero();
        for (a, b) in a.iter().zip(b) {
            sum = T::add(sum, V::load(a), V::load(b));
        }
        if !last_a.is_empty() {
            sum = T::add(sum, V::load_partial(last_a), V::load_partial(last_b));
        }
        sum.sum()
    }
}

/// One query's lane sums with some rows, which are totalled together.
type Sums = [Line; TOGETHER];

/// `out[q * stride + r]` is [`Vector::sum`] of `sums[q][r]`, for the first `rows` r.
struct Totals<'a> {
    out: &'a mut [f32],
    stride: usize,
    sums: &'a [Sums],
    rows: usize,
}

impl Kernel for Totals<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for (q, lines) in self.sums.iter().enumerate() {
            let mut sums = [V::zero(); TOGETHER];
            for r in 0..TOGETHER {
                sums[r] = V::load(&lines[r].0);
            }
            let (out, totals) = (&mut self.out[q * self.stride..][..self.rows], V::sum8(sums));
            match out.first_chunk_mut() {
                Some(eight) => *eight = totals,
                None => out.copy_from_slice(&totals[..out.len()]),
            }
        }
    }
}
