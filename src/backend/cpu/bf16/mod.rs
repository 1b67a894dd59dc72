//! Matrix products of bf16 operands: weights and inputs rounded to eight bits, sums in f32.
//!
//! An element is one chain of fused multiply-adds over pairs of inputs, the second of a pair first, as `VDPBF16PS`
//! sums. A machine without that instruction multiplies the rounded numbers as f32 in that order, and has the same bits,
//! but for sums below the smallest normal f32, which the instruction takes for zero.

mod instructions;

pub(super) use instructions::Instructions;

use super::simd::LANES;

/// Sixteen columns' numbers at inputs 2s (low half) and 2s + 1, as bf16.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct PairLine(pub(super) [u32; LANES]);

impl PairLine {
    pub(super) const ZERO: Self = Self([0; LANES]);

    pub(super) fn set(&mut self, lane: usize, half: usize, x: f32) {
        let shift = 16 * half as u32;
        self.0[lane] = self.0[lane] & !(0xFFFF << shift) | u32::from(to_bits(x)) << shift;
    }

    pub(super) fn get(&self, lane: usize, half: usize) -> f32 {
        from_bits((self.0[lane] >> (16 * half)) as u16)
    }
}

/// The nearest bf16, ties to even; what is below the smallest normal f32 is zero, as the instruction has it.
fn to_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = match x {
        x if x.is_nan() => bits >> 16 | 0x40,
        x if x.abs() < f32::MIN_POSITIVE => bits >> 16 & 0x8000,
        _ => (bits + 0x7FFF + (bits >> 16 & 1)) >> 16,
    };
    rounded as u16
}

fn from_bits(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// `x` as bf16 stores it.
pub(super) fn round(x: f32) -> f32 {
    from_bits(to_bits(x))
}

/// `x [rows, inputs]`, rounded, the second of each pair first: `[rows, inputs]` of an even number of inputs, the last
/// zero where there is none.
pub(super) fn turn_pairs(out: &mut Vec<f32>, x: &[f32], inputs: usize) {
    out.clear();
    for row in x.chunks_exact(inputs.max(1)) {
        for pair in row.chunks(2) {
            out.push(pair.get(1).map_or(0.0, |&x| round(x)));
            out.push(round(pair[0]));
        }
    }
}

/// Rows of pairs, `inner` of each.
#[derive(Clone, Copy)]
pub(super) struct LeftPairs<'a> {
    /// `[rows, inner]`
    pub(super) values: &'a [u32],
    pub(super) inner: usize,
    pub(super) rows: usize,
}

/// Vectors side by side in a panel.
pub(super) const LINES: usize = 2;
