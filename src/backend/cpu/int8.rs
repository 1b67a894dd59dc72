//! Rows of eight-bit integers, and the numbers they stand for.

use super::simd::{Isa, Kernel, Vector};
use std::ops::Range;

/// x̂ is `fma(value, scale of its row, share of its row · number of the center)`, in f32: what features have in common
/// costs none of the 8 bits.
#[derive(Clone, Copy, Debug)]
pub struct Int8Rows<'a> {
    /// From −127 to 127, `[n, E]`
    pub values: &'a [i8],
    /// `[n]`
    pub scales: &'a [f32],
    /// How much of the center is in each row, `[n]`.
    pub shares: &'a [f32],
    /// `[E]`
    pub center: &'a [f32],
}

impl Int8Rows<'_> {
    /// Some of the rows.
    #[must_use]
    pub fn rows(self, rows: Range<usize>) -> Self {
        let width = self.center.len();
        Self {
            values: &self.values[rows.start * width..rows.end * width],
            scales: &self.scales[rows.clone()],
            shares: &self.shares[rows],
            center: self.center,
        }
    }

    /// The rows that numbers `range` are, of all of them one after another.
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> Self {
        let width = self.center.len().max(1);
        debug_assert!(range.start.is_multiple_of(width) && range.end.is_multiple_of(width), "parts of rows");
        self.rows(range.start / width..range.end / width)
    }

    /// All of x̂, in f32, into `out [n, E]`.
    pub fn decode(self, out: &mut [f32]) {
        Isa::best().run(Decode { rows: self, out });
    }

    /// The same.
    pub fn to_f32(self) -> Vec<f32> {
        let mut out = vec![0.0; self.values.len()];
        self.decode(&mut out);
        out
    }
}

/// Integers times their row's scale, from its share of the center.
struct Decode<'a> {
    rows: Int8Rows<'a>,
    out: &'a mut [f32],
}

impl Kernel for Decode<'_> {
    type Output = ();

    /// A plain loop, which compiles to the vectors of the instruction set it is inlined into.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Int8Rows { values, scales, shares, center } = self.rows;
        let width = center.len().max(1);
        let rows = values.chunks_exact(width).zip(self.out.chunks_exact_mut(width));
        for ((values, out), (&scale, &share)) in rows.zip(scales.iter().zip(shares)) {
            for ((out, &value), &center) in out.iter_mut().zip(values).zip(center) {
                *out = f32::from(value).mul_add(scale, share * center);
            }
        }
    }
}
