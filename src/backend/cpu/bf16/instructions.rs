//! The instructions on pairs of bf16: there is one where the machine has them.

use super::{LINES, LeftPairs, PairLine};
use crate::backend::cpu::gemm::{Target, shares};
use crate::backend::cpu::simd::{Isa, LANES};
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd::{lanes, transpose};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_and_si512, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_permutex2var_epi32, _mm512_reduce_add_ps, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_slli_epi32,
    _mm512_storeu_ps, _mm512_storeu_si512, _mm512_sub_ps,
};
use std::array;

/// That they are there.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cpu) struct Instructions(());

#[cfg(not(target_arch = "x86_64"))]
impl Instructions {
    pub(in crate::backend::cpu) fn of(_: Isa) -> Option<Self> {
        None
    }

    pub(in crate::backend::cpu) fn pair_up(self, _: &mut Vec<u32>, _: &[f32], _: usize) {
        unreachable!("there are no such instructions")
    }

    pub(in crate::backend::cpu) fn pair_up_measured(self, _: &mut [u32], _: &[f32]) -> f32 {
        unreachable!("there are no such instructions")
    }

    pub(in crate::backend::cpu) fn product(self, _: &mut Target<'_>, _: LeftPairs<'_>, _: &[PairLine]) {
        unreachable!("there are no such instructions")
    }

    pub(in crate::backend::cpu) fn pack(self, _: &mut [PairLine], _: &mut [f32], _: &[f32], _: usize) {
        unreachable!("there are no such instructions")
    }
}

/// Rows in the register tile.
const TILE_ROWS: usize = 14;
/// Pairs of a panel taken at a time: 24 KiB, which stay in the first-level cache.
const INNER_BLOCK: usize = 192;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)] // intrinsics
#[allow(clippy::unused_self)] // the proof that they are there
impl Instructions {
    /// Those that go with the widest vectors.
    pub(in crate::backend::cpu) fn of(isa: Isa) -> Option<Self> {
        (isa.name() == "avx512" && is_x86_feature_detected!("avx512bf16")).then_some(Self(()))
    }

    /// `x [rows, inputs]` as pairs, a last single input with a zero.
    pub(in crate::backend::cpu) fn pair_up(self, out: &mut Vec<u32>, x: &[f32], inputs: usize) {
        let inputs = inputs.max(1);
        out.resize(x.len() / inputs * inputs.div_ceil(2), 0);
        for (out, row) in out.chunks_exact_mut(inputs.div_ceil(2)).zip(x.chunks_exact(inputs)) {
            // SAFETY: the instructions were detected: there is no other way to `self`.
            unsafe { pair_up::<false>(out, row) };
        }
    }

    /// One vector as pairs, and the square of how far rounding took it, in f32.
    pub(in crate::backend::cpu) fn pair_up_measured(self, out: &mut [u32], x: &[f32]) -> f32 {
        assert_eq!(out.len(), x.len().div_ceil(2), "pairs of another width");
        // SAFETY: as above.
        unsafe { pair_up::<true>(out, x) }
    }

    /// `rows [.., width]` as the columns of panels, and the squares of how far rounding took each, in f32; columns
    /// beyond the last stay as they are.
    pub(in crate::backend::cpu) fn pack(
        self,
        panels: &mut [PairLine],
        squares: &mut [f32],
        rows: &[f32],
        width: usize,
    ) {
        let panel_lines = width.div_ceil(2) * LINES;
        for (line, squares) in squares.chunks_mut(LANES).enumerate() {
            let panel = &mut panels[line / LINES * panel_lines..][..panel_lines];
            let rows = &rows[line * LANES * width..];
            let (rows, next) = rows.split_at(rows.len().min(LANES * width));
            // SAFETY: as above.
            unsafe { pack_line(&mut panel[line % LINES..], squares, (rows, next), width) }
        }
    }

    /// `target = left · panel`, for the panel that `panel` begins with.
    pub(in crate::backend::cpu) fn product(self, target: &mut Target<'_>, left: LeftPairs<'_>, panel: &[PairLine]) {
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
fn pair_up<const MEASURED: bool>(out: &mut [u32], row: &[f32]) -> f32 {
    let mut squares = _mm512_setzero_ps();
    let mut convert = |numbers: &[f32; 2 * LANES]| -> [u32; LANES] {
        let (mut pairs, numbers) = ([0; LANES], load(numbers));
        let rounded = pairs_of(numbers);
        // SAFETY: there is room for sixteen pairs.
        unsafe { _mm512_storeu_si512(pairs.as_mut_ptr().cast(), rounded) }
        if MEASURED {
            squares = add_squares(squares, numbers, rounded);
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
    _mm512_reduce_add_ps(squares)
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f")]
fn load(numbers: &[f32; 2 * LANES]) -> [__m512; 2] {
    // SAFETY: thirty-two numbers are there.
    unsafe { [_mm512_loadu_ps(numbers.as_ptr()), _mm512_loadu_ps(numbers[LANES..].as_ptr())] }
}

/// Thirty-two numbers, rounded, in their order.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs_of([low, high]: [__m512; 2]) -> __m512i {
    // SAFETY: vectors of bits are as good as any.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Up to sixteen rows as the lanes of every [`LINES`]-th line of a panel; those that come next are brought nearer
/// meanwhile, which sixteen streams at once are too many for the machine to do by itself.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pack_line(lines: &mut [PairLine], squares: &mut [f32], (rows, next): (&[f32], &[f32]), width: usize) {
    let mut next = next[..next.len().min(rows.len())].chunks(LANES);
    let mut lines = lines.iter_mut().step_by(LINES);
    let mut sums = [_mm512_setzero_ps(); LANES];
    for start in (0..width).step_by(2 * LANES) {
        let mut block = [_mm512_set1_epi32(0); LANES];
        for (r, row) in rows.chunks_exact(width).enumerate() {
            for ahead in (&mut next).take(2) {
                _mm_prefetch::<_MM_HINT_T0>(ahead.as_ptr().cast());
            }
            let numbers = if let Some(whole) = row[start..].first_chunk() {
                load(whole)
            } else {
                let mut numbers = [0.0; 2 * LANES];
                numbers[..width - start].copy_from_slice(&row[start..]);
                load(&numbers)
            };
            block[r] = pairs_of(numbers);
            sums[r] = add_squares(sums[r], numbers, block[r]);
        }
        transpose(&mut block);
        for (pairs, line) in block.into_iter().zip(&mut lines) {
            // SAFETY: a line is sixteen pairs.
            unsafe { _mm512_storeu_si512(line.0.as_mut_ptr().cast(), pairs) }
        }
    }
    squares.iter_mut().zip(sums).for_each(|(square, sum)| *square = _mm512_reduce_add_ps(sum));
}

/// Adds the squared distances of numbers from their `pairs`: the differences themselves are exact.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn add_squares(sum: __m512, [low, high]: [__m512; 2], pairs: __m512i) -> __m512 {
    let lanes = |first: usize| lanes(array::from_fn(|i| (2 * i + first) as i32));
    let (low, high) = (_mm512_castps_si512(low), _mm512_castps_si512(high));
    let ones = _mm512_castsi512_ps(_mm512_permutex2var_epi32(low, lanes(0), high));
    let others = _mm512_castsi512_ps(_mm512_permutex2var_epi32(low, lanes(1), high));
    let from_ones = _mm512_sub_ps(ones, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)));
    let rounded = _mm512_and_si512(pairs, _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed()));
    let from_others = _mm512_sub_ps(others, _mm512_castsi512_ps(rounded));
    _mm512_fmadd_ps(from_others, from_others, _mm512_fmadd_ps(from_ones, from_ones, sum))
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
