//! Sixteen lanes as one AVX-512 register.
//!
//! Safety: every method needs AVX-512F (and so AVX2 and FMA). The type is private to [`super`], whose only use of it is
//! [`run`], reached only through an [`super::Isa`] that detection made.

use super::{ByRegisters, Kernel, LANES, Lanes, Register, Vector, avx2};
use half::{bf16, f16};
#[allow(clippy::wildcard_imports)] // thirty names of one family
use std::arch::x86_64::*;
use std::array;

/// Runs a kernel with AVX-512 switched on.
///
/// A function of its own, always: that is said here, as the compiler does not hear it beside `target_feature`.
#[inline(never)]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    #[target_feature(enable = "avx512f,avx2,fma")]
    fn inner<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx512>()
    }
    // SAFETY: an `Isa` naming AVX-512 exists only where it was detected.
    unsafe { inner(kernel) }
}

#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

/// A mask of the first `n < 16` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    debug_assert!(n < LANES);
    (1 << n) - 1
}

/// The two halves.
#[inline(always)]
fn halves(x: __m512) -> (__m256, __m256) {
    // SAFETY: the module's.
    unsafe {
        let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x));
        (_mm512_castps512_ps256(x), _mm256_castpd_ps(high))
    }
}

/// The two halves added: the first step of every sum.
#[inline(always)]
fn halve(x: __m512) -> __m256 {
    let (low, high) = halves(x);
    // SAFETY: the module's.
    unsafe { _mm256_add_ps(low, high) }
}

/// `block[r]` lane `c` changes places with `block[c]` lane `r`: the four bits of their numbers, one after another.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::backend::cpu) fn transpose(block: &mut [__m512i; LANES]) {
    for bit in [1, 2, 4, 8] {
        let one = lanes(array::from_fn(|i| if i & bit == 0 { i } else { LANES + (i ^ bit) } as i32));
        let other = lanes(array::from_fn(|i| if i & bit == 0 { i | bit } else { LANES + i } as i32));
        for r in (0..LANES).filter(|r| r & bit == 0) {
            let (a, b) = (block[r], block[r | bit]);
            block[r] = _mm512_permutex2var_epi32(a, one, b);
            block[r | bit] = _mm512_permutex2var_epi32(a, other, b);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::backend::cpu) fn lanes(numbers: [i32; LANES]) -> __m512i {
    // SAFETY: sixteen numbers are there.
    unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) }
}

impl Lanes for Avx512 {
    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: the module's, here and below.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn fma(self, factor: Self, term: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }
}

/// A vector is one register.
impl Register for Avx512 {
    const PER_VECTOR: usize = 1;

    #[inline(always)]
    fn load(from: &[f32; LANES], _: usize) -> Self {
        Vector::load(from)
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], _: usize) {
        Vector::store(self, to);
    }
}

impl Vector for Avx512 {
    const REGISTERS: usize = 32;
    type Register = Self;

    #[inline(always)]
    fn call<K: Kernel>(kernel: K) -> K::Output {
        run(kernel)
    }

    #[inline(always)]
    fn by_registers<K: ByRegisters>(kernel: K) -> K::Output {
        kernel.with_thirty_two::<Self>()
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
        Self(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        // SAFETY: sixteen numbers are there.
        Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn load_partial(from: &[f32]) -> Self {
        // SAFETY: lanes beyond the slice are masked, and masked lanes are not read.
        Self(unsafe { _mm512_maskz_loadu_ps(first(from.len()), from.as_ptr()) })
    }

    #[inline(always)]
    fn load_f16(from: &[f16; LANES]) -> Self {
        // SAFETY: sixteen numbers are there.
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) })
    }

    #[inline(always)]
    fn load_i8(from: &[i8; LANES]) -> Self {
        // SAFETY: sixteen numbers are there.
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) })
    }

    #[inline(always)]
    fn load_bf16(from: &[bf16; LANES]) -> Self {
        // SAFETY: sixteen numbers are there; vectors of bits are as good as any.
        Self(unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: there is room for sixteen numbers.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn store_partial(self, to: &mut [f32]) {
        // SAFETY: lanes beyond the slice are masked, and masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), first(to.len()), self.0) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: the module's, here and below.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(unsafe { _mm512_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn round(self) -> Self {
        Self(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    fn scale(self, n: Self) -> Self {
        Self(unsafe { _mm512_scalef_ps(self.0, n.0) })
    }

    #[inline(always)]
    fn select_lt(a: Self, b: Self, yes: Self, no: Self) -> Self {
        Self(unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a.0, b.0), no.0, yes.0) })
    }

    #[inline(always)]
    fn any_not_less(a: Self, b: Self) -> bool {
        // SAFETY: the module's.
        unsafe { _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(a.0, b.0) != 0 }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        avx2::sum(halve(self.0))
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        let (low, high) = halves(self.0);
        avx2::largest(unsafe { _mm256_max_ps(low, high) })
    }

    #[inline(always)]
    fn transpose(block: &mut [Self; LANES]) {
        // SAFETY: the module's.
        unsafe {
            let mut bits = [_mm512_setzero_si512(); LANES];
            for r in 0..LANES {
                bits[r] = _mm512_castps_si512(block[r].0);
            }
            transpose(&mut bits);
            for r in 0..LANES {
                block[r] = Self(_mm512_castsi512_ps(bits[r]));
            }
        }
    }

    #[inline(always)]
    fn sum8(vectors: [Self; 8]) -> [f32; 8] {
        // By a loop: see the same in AVX2.
        let mut eights = [halve(vectors[0].0); 8];
        for i in 1..8 {
            eights[i] = halve(vectors[i].0);
        }
        avx2::sum8(eights)
    }
}
