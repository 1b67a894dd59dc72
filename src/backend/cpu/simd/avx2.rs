//! Sixteen lanes as two AVX registers.
//!
//! Safety: every method needs AVX2, FMA and F16C. The type is private to [`super`], whose only use of it is [`run`],
//! reached only through an [`super::Isa`] that detection made. Loads and stores go through arrays and slices, so
//! lengths are checked.

use super::{ByRegisters, Kernel, LANES, Lanes, Register, Vector};
use half::{bf16, f16};
#[allow(clippy::wildcard_imports)] // thirty names of one family
use std::arch::x86_64::*;

/// Runs a kernel with AVX2, FMA and F16C switched on.
///
/// A function of its own, always: that is said here, as the compiler does not hear it beside `target_feature`.
#[inline(never)]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn inner<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx2>()
    }
    // SAFETY: an `Isa` naming AVX2 exists only where it was detected.
    unsafe { inner(kernel) }
}

#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256, __m256);

/// Applies an intrinsic to both halves.
macro_rules! halves {
    ($intrinsic:path, $($x:expr),+) => {
        // SAFETY: the module's: AVX2, FMA and F16C are there.
        unsafe { Avx2($intrinsic($($x.0),+), $intrinsic($($x.1),+)) }
    };
}

/// Masks whose sign bits are set in the first `n` of sixteen lanes.
#[inline(always)]
fn first(n: usize) -> (__m256i, __m256i) {
    // SAFETY: the module's.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let below = |n: i32| _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes);
        (below(n as i32), below(n as i32 - 8))
    }
}

/// `2^n` in each lane, for n within the exponents of normal numbers.
#[inline(always)]
fn power(n: __m256i) -> __m256 {
    // SAFETY: the module's.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)))) }
}

/// `x · 2^n`, in two exact steps and one rounding.
#[inline(always)]
fn scale(x: __m256, n: __m256) -> __m256 {
    // SAFETY: the module's.
    unsafe {
        let n = _mm256_cvtps_epi32(n);
        let half = _mm256_srai_epi32::<1>(n);
        _mm256_mul_ps(_mm256_mul_ps(x, power(half)), power(_mm256_sub_epi32(n, half)))
    }
}

/// The sum of eight lanes, by halving.
#[inline(always)]
pub(super) fn sum(x: __m256) -> f32 {
    // SAFETY: the module's.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// The largest of eight lanes, by halving.
#[inline(always)]
pub(super) fn largest(x: __m256) -> f32 {
    // SAFETY: the module's.
    unsafe {
        let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// [`sum`] of eight registers: each step halves the lanes of two registers into one, so seven additions do for all.
#[inline(always)]
pub(super) fn sum8(x: [__m256; 8]) -> [f32; 8] {
    // SAFETY: the module's.
    unsafe {
        // [a_i + a_{i+4} | b_i + b_{i+4}]
        let fours = |a, b| _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
        let (x04, x15) = (fours(x[0], x[4]), fours(x[1], x[5]));
        let (x26, x37) = (fours(x[2], x[6]), fours(x[3], x[7]));
        // In each half: two lanes of a, two of b.
        let twos = |a, b| _mm256_add_ps(_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xEE>(a, b));
        let (low, high) = (twos(x04, x15), twos(x26, x37));
        let ones = _mm256_add_ps(_mm256_shuffle_ps::<0x88>(low, high), _mm256_shuffle_ps::<0xDD>(low, high));
        let mut sums = [0.0; 8];
        _mm256_storeu_ps(sums.as_mut_ptr(), ones);
        sums
    }
}

impl Lanes for Avx2 {
    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        halves!(_mm256_sub_ps, self, other)
    }

    #[inline(always)]
    fn fma(self, factor: Self, term: Self) -> Self {
        halves!(_mm256_fmadd_ps, self, factor, term)
    }
}

/// One register.
#[derive(Clone, Copy)]
pub(super) struct Half(__m256);

impl Lanes for Half {
    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: the module's, here and below.
        Self(unsafe { _mm256_setzero_ps() })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn fma(self, factor: Self, term: Self) -> Self {
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
    }
}

impl Register for Half {
    const PER_VECTOR: usize = 2;

    #[inline(always)]
    fn load(from: &[f32; LANES], i: usize) -> Self {
        // SAFETY: eight numbers are there.
        Self(unsafe { _mm256_loadu_ps(from.as_chunks::<8>().0[i].as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], i: usize) {
        // SAFETY: there is room for eight numbers.
        unsafe { _mm256_storeu_ps(to.as_chunks_mut::<8>().0[i].as_mut_ptr(), self.0) }
    }
}

impl Vector for Avx2 {
    const REGISTERS: usize = 8;
    type Register = Half;

    #[inline(always)]
    fn call<K: Kernel>(kernel: K) -> K::Output {
        run(kernel)
    }

    #[inline(always)]
    fn by_registers<K: ByRegisters>(kernel: K) -> K::Output {
        kernel.with_sixteen::<Self>()
    }

    #[inline(always)]
    fn prefetch(soon: &[f32; LANES]) {
        // SAFETY: a hint, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(soon.as_ptr().cast()) }
    }

    #[inline(always)]
    fn prefetch_near(soon: *const f32) {
        // SAFETY: a hint, which reads nothing, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(soon.cast()) }
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: the module's.
        unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        // SAFETY: sixteen numbers are there.
        unsafe { Self(_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))) }
    }

    #[inline(always)]
    fn load_partial(from: &[f32]) -> Self {
        let (low, high) = first(from.len());
        // SAFETY: lanes beyond the slice are masked, and masked lanes are not read; the pointer is only moved, never
        // past use.
        unsafe { Self(_mm256_maskload_ps(from.as_ptr(), low), _mm256_maskload_ps(from.as_ptr().wrapping_add(8), high)) }
    }

    #[inline(always)]
    fn load_f16(from: &[f16; LANES]) -> Self {
        let half = |from: &f16| {
            // SAFETY: eight numbers are there, from either half's first on.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(std::ptr::from_ref(from).cast())) }
        };
        Self(half(&from[0]), half(&from[8]))
    }

    #[inline(always)]
    fn load_i8(from: &[i8; LANES]) -> Self {
        let half = |from: &i8| {
            // SAFETY: eight numbers are there, from the first on and from the ninth on.
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(std::ptr::from_ref(from).cast()))) }
        };
        Self(half(&from[0]), half(&from[8]))
    }

    #[inline(always)]
    fn load_bf16(from: &[bf16; LANES]) -> Self {
        let half = |from: &bf16| {
            // SAFETY: as above; vectors of bits are as good as any.
            unsafe {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(std::ptr::from_ref(from).cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            }
        };
        Self(half(&from[0]), half(&from[8]))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: there is room for sixteen numbers.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), self.0);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), self.1);
        }
    }

    #[inline(always)]
    fn store_partial(self, to: &mut [f32]) {
        let (low, high) = first(to.len());
        // SAFETY: as in `load_partial`.
        unsafe {
            _mm256_maskstore_ps(to.as_mut_ptr(), low, self.0);
            _mm256_maskstore_ps(to.as_mut_ptr().wrapping_add(8), high, self.1);
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        halves!(_mm256_add_ps, self, other)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        halves!(_mm256_mul_ps, self, other)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        halves!(_mm256_div_ps, self, other)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        halves!(_mm256_sqrt_ps, self)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        halves!(_mm256_max_ps, self, other)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        halves!(_mm256_min_ps, self, other)
    }

    #[inline(always)]
    fn round(self) -> Self {
        halves!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>, self)
    }

    #[inline(always)]
    fn scale(self, n: Self) -> Self {
        Self(scale(self.0, n.0), scale(self.1, n.1))
    }

    #[inline(always)]
    fn select_lt(a: Self, b: Self, yes: Self, no: Self) -> Self {
        let below = halves!(_mm256_cmp_ps::<_CMP_LT_OQ>, a, b);
        halves!(_mm256_blendv_ps, no, yes, below)
    }

    #[inline(always)]
    fn any_not_less(a: Self, b: Self) -> bool {
        // SAFETY: the module's.
        unsafe {
            let (low, high) = (_mm256_cmp_ps::<_CMP_NLT_UQ>(a.0, b.0), _mm256_cmp_ps::<_CMP_NLT_UQ>(a.1, b.1));
            _mm256_movemask_ps(_mm256_or_ps(low, high)) != 0
        }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: the module's.
        sum(unsafe { _mm256_add_ps(self.0, self.1) })
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: the module's.
        largest(unsafe { _mm256_max_ps(self.0, self.1) })
    }

    #[inline(always)]
    fn sum8(vectors: [Self; 8]) -> [f32; 8] {
        // By a loop: what `array::map` calls is not always inlined, and then has no AVX2.
        let mut eights = [Self::zero().0; 8];
        for i in 0..8 {
            // SAFETY: the module's.
            eights[i] = unsafe { _mm256_add_ps(vectors[i].0, vectors[i].1) };
        }
        sum8(eights)
    }
}
