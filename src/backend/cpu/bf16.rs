//! Matrix products of bf16 operands: weights and inputs rounded to eight bits, sums in f32.
//!
//! An element is one chain of fused multiply-adds over pairs of inputs, the second of a pair first, as `VDPBF16PS` sums. A machine without that
//! instruction multiplies the rounded numbers as f32 in that order, and has the same bits, but for sums below the smallest normal f32, which the
//! instruction takes for zero.

use super::gemm::{Target, shares};
use super::simd::{Isa, LANES};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_storeu_ps, _mm512_storeu_si512,
};
use std::array;

/// Sixteen columns' numbers at inputs 2s (low half) and 2s + 1, as bf16.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct PairLine([u32; LANES]);

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

/// `x [rows, inputs]`, rounded, the second of each pair first: `[rows, inputs]` of an even number of inputs, the last zero where there is none.
pub(super) fn turn_pairs(out: &mut Vec<f32>, x: &[f32], inputs: usize) {
    out.clear();
    for row in x.chunks_exact(inputs.max(1)) {
        for pair in row.chunks(2) {
            out.push(pair.get(1).map_or(0.0, |&x| round(x)));
            out.push(round(pair[0]));
        }
    }
}

/// The instructions on pairs of bf16: there is one where the machine has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instructions(());

#[cfg(not(target_arch = "x86_64"))]
impl Instructions {
    pub(super) fn of(_: Isa) -> Option<Self> {
        None
    }

    pub(super) fn pair_up(self, _: &mut Vec<u32>, _: &[f32], _: usize) {
        unreachable!("there are no such instructions")
    }

    pub(super) fn product(self, _: &mut Target<'_>, _: LeftPairs<'_>, _: &[PairLine]) {
        unreachable!("there are no such instructions")
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
const LINES: usize = 2;
/// Rows in the register tile.
const TILE_ROWS: usize = 14;
/// Pairs of a panel taken at a time: 24 KiB, which stay in the first-level cache.
const INNER_BLOCK: usize = 192;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)] // intrinsics
#[allow(clippy::unused_self)] // the proof that they are there
impl Instructions {
    /// Those that go with the widest vectors.
    pub(super) fn of(isa: Isa) -> Option<Self> {
        (isa.name() == "avx512" && is_x86_feature_detected!("avx512bf16")).then_some(Self(()))
    }

    /// `x [rows, inputs]` as pairs, a last single input with a zero.
    pub(super) fn pair_up(self, out: &mut Vec<u32>, x: &[f32], inputs: usize) {
        let inputs = inputs.max(1);
        out.resize(x.len() / inputs * inputs.div_ceil(2), 0);
        for (out, row) in out.chunks_exact_mut(inputs.div_ceil(2)).zip(x.chunks_exact(inputs)) {
            // SAFETY: the instructions were detected: there is no other way to `self`.
            unsafe { pair_up(out, row) }
        }
    }

    /// `target = left · panel`, for the panel that `panel` begins with.
    pub(super) fn product(self, target: &mut Target<'_>, left: LeftPairs<'_>, panel: &[PairLine]) {
        for part in shares(left.inner, INNER_BLOCK) {
            let (steps, _) = panel[part.start * LINES..part.end * LINES].as_chunks::<LINES>();
            for rows in shares(left.rows, TILE_ROWS) {
                let tile = Tile { left, first: (rows.start, part.start), steps };
                macro_rules! of_height {
                    ($($height:literal)*) => {
                        match rows.len() {
                            // SAFETY: as above.
                            $($height => unsafe { multiply::<$height>(target, tile) },)*
                            _ => {}
                        }
                    };
                }
                of_height!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            }
        }
    }
}

/// Some rows of the left, from one of their pairs on, and as many steps of a panel.
#[derive(Clone, Copy)]
struct Tile<'a> {
    left: LeftPairs<'a>,
    /// The first row, and its first pair.
    first: (usize, usize),
    steps: &'a [[PairLine; LINES]],
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pair_up(out: &mut [u32], row: &[f32]) {
    let convert = |numbers: &[f32; 2 * LANES]| -> [u32; LANES] {
        let mut pairs = [0; LANES];
        // SAFETY: thirty-two numbers are there, and room for sixteen pairs.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(numbers.as_ptr()), _mm512_loadu_ps(numbers[LANES..].as_ptr()));
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(pairs.as_mut_ptr().cast(), both);
        }
        pairs
    };
    let (whole, rest) = row.as_chunks();
    let (out, last) = out.split_at_mut(whole.len() * LANES);
    for (out, numbers) in out.as_chunks_mut().0.iter_mut().zip(whole) {
        *out = convert(numbers);
    }
    let mut numbers = [0.0; 2 * LANES];
    numbers[..rest.len()].copy_from_slice(rest);
    last.copy_from_slice(&convert(&numbers)[..last.len()]);
}

/// The micro-kernel: `R` rows by [`LINES`] vectors of sums, all in registers while the steps run.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply<const R: usize>(target: &mut Target<'_>, tile: Tile<'_>) {
    let Tile { left, first: (first_row, first_pair), steps } = tile;
    let rows: [&[u32]; R] =
        array::from_fn(|r| &left.values[(first_row + r) * left.inner + first_pair..][..steps.len()]);
    let mut sums = [[_mm512_setzero_ps(); LINES]; R];
    let resume = first_pair > 0;
    if resume {
        for r in 0..R {
            for c in 0..LINES {
                // SAFETY: a target holds whole vectors.
                sums[r][c] = unsafe { _mm512_loadu_ps(target.vector(first_row + r, c).as_ptr()) };
            }
        }
    }
    for (s, lines) in steps.iter().enumerate() {
        let mut columns = [_mm512_set1_epi32(0); LINES];
        for c in 0..LINES {
            // SAFETY: a line is sixteen pairs.
            columns[c] = unsafe { _mm512_loadu_si512(lines[c].0.as_ptr().cast()) };
        }
        for r in 0..R {
            // SAFETY: every row has as many pairs as there are steps; vectors of bits are as good as any.
            unsafe {
                let pair =
                    std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(rows[r].get_unchecked(s).cast_signed()));
                for c in 0..LINES {
                    let column = std::mem::transmute::<__m512i, __m512bh>(columns[c]);
                    sums[r][c] = _mm512_dpbf16_ps(sums[r][c], pair, column);
                }
            }
        }
    }
    for r in 0..R {
        for c in 0..LINES {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(target.vector(first_row + r, c).as_mut_ptr(), sums[r][c]) }
        }
    }
}
