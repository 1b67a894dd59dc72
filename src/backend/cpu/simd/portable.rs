//! Sixteen lanes as an array: what the others must equal, and what compilers turn into NEON.
//!
//! On x86-64 without AVX2 a fused multiply-add or a rounding is a call of the C library for each lane. Sixteen such
//! calls, inlined wherever a kernel has one, are more than a tenth of the machine code and of the time to compile it:
//! there they are functions.

use super::{ByRegisters, Kernel, LANES, Lanes, Register, Vector};
use half::{bf16, f16};

#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

impl Portable {
    /// By a loop: `array::from_fn` would be four functions for each closure.
    #[inline(always)]
    fn lanes(mut f: impl FnMut(usize) -> f32) -> Self {
        let mut lanes = [0.0; LANES];
        for i in 0..LANES {
            lanes[i] = f(i);
        }
        Self(lanes)
    }

    /// Folds lane i with i + 8, i + 4, i + 2, i + 1.
    #[inline(always)]
    fn halve(self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = self.0;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] = f(lanes[i], lanes[i + half]);
            }
        }
        lanes[0]
    }
}

impl Lanes for Portable {
    #[inline(always)]
    fn zero() -> Self {
        Self([0.0; LANES])
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self::lanes(|i| self.0[i] - other.0[i])
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn fma(self, factor: Self, term: Self) -> Self {
        Self::lanes(|i| self.0[i].mul_add(factor.0[i], term.0[i]))
    }
}

/// What one NEON or SSE register holds.
#[derive(Clone, Copy)]
pub(super) struct Quarter([f32; 4]);

impl Lanes for Quarter {
    #[inline(always)]
    fn zero() -> Self {
        Self([0.0; 4])
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        let mut lanes = self.0;
        for i in 0..4 {
            lanes[i] -= other.0[i];
        }
        Self(lanes)
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn fma(self, factor: Self, term: Self) -> Self {
        let mut lanes = self.0;
        for i in 0..4 {
            lanes[i] = lanes[i].mul_add(factor.0[i], term.0[i]);
        }
        Self(lanes)
    }
}

impl Register for Quarter {
    const PER_VECTOR: usize = 4;

    #[inline(always)]
    fn load(from: &[f32; LANES], i: usize) -> Self {
        Self(from.as_chunks().0[i])
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], i: usize) {
        to.as_chunks_mut().0[i] = self.0;
    }
}

impl Vector for Portable {
    const REGISTERS: usize = 8;
    type Register = Quarter;

    #[inline(never)]
    fn call<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Self>()
    }

    #[inline(always)]
    fn by_registers<K: ByRegisters>(kernel: K) -> K::Output {
        kernel.with_sixteen::<Self>()
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        Self(*from)
    }

    #[inline(always)]
    fn load_partial(from: &[f32]) -> Self {
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        Self(lanes)
    }

    #[inline(always)]
    fn load_f16(from: &[f16; LANES]) -> Self {
        Self(from.map(f16::to_f32))
    }

    #[inline(always)]
    fn load_i8(from: &[i8; LANES]) -> Self {
        Self(from.map(f32::from))
    }

    #[inline(always)]
    fn load_bf16(from: &[bf16; LANES]) -> Self {
        Self(from.map(bf16::to_f32))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }

    #[inline(always)]
    fn store_partial(self, to: &mut [f32]) {
        to.copy_from_slice(&self.0[..to.len()]);
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self::lanes(|i| self.0[i] + other.0[i])
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self::lanes(|i| self.0[i] * other.0[i])
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self::lanes(|i| self.0[i] / other.0[i])
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self::lanes(|i| self.0[i].sqrt())
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self::lanes(|i| if self.0[i] > other.0[i] { self.0[i] } else { other.0[i] })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self::lanes(|i| if self.0[i] < other.0[i] { self.0[i] } else { other.0[i] })
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn round(self) -> Self {
        Self::lanes(|i| self.0[i].round_ties_even())
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn scale(self, n: Self) -> Self {
        let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
        Self::lanes(|i| {
            let n = n.0[i] as i32;
            self.0[i] * power(n >> 1) * power(n - (n >> 1))
        })
    }

    #[inline(always)]
    fn select_lt(a: Self, b: Self, yes: Self, no: Self) -> Self {
        Self::lanes(|i| if a.0[i] < b.0[i] { yes.0[i] } else { no.0[i] })
    }

    #[inline(always)]
    fn any_not_less(a: Self, b: Self) -> bool {
        let mut all_less = true;
        for i in 0..LANES {
            all_less &= a.0[i] < b.0[i];
        }
        !all_less
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        self.halve(|a, b| a + b)
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        self.halve(|a, b| if a > b { a } else { b })
    }
}
