//! Sixteen f32 lanes, whatever the machine has: AVX-512, AVX2 with FMA, or plain arrays.
//!
//! A kernel is written once, as a [`Kernel`] generic over [`Vector`], and [`Isa::run`] compiles it for each instruction
//! set and picks one at run time. All three do the same operations on the same lanes in the same order, and a sum over
//! lanes is one fixed tree, so **the bits are the same on every instruction set**. What this module refuses:
//! approximate instructions (reciprocals), whose results differ between makers, and horizontal operations in an order
//! of the compiler's choosing.
//!
//! Soundness: the vector types are private, so the only way to a `V` is [`Isa::run`], and the only way to an [`Isa`] is
//! detection.

mod portable;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)] // intrinsics; see each file's safety note
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512;

use half::{bf16, f16};
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
pub(super) use self::avx512::{lanes, transpose};

/// Lanes of a [`Vector`].
pub const LANES: usize = 16;

/// Some f32 beside each other: what the sums of innermost loops need.
#[allow(clippy::return_self_not_must_use)] // arithmetic, all of it
pub trait Lanes: Copy {
    /// All lanes zero.
    fn zero() -> Self;
    /// `self − other`
    fn sub(self, other: Self) -> Self;
    /// `self · factor + term`, rounded once.
    fn fma(self, factor: Self, term: Self) -> Self;
}

/// The lanes of a [`Vector`] that one register holds: loops over these have every register for sums, however many make
/// a vector.
pub trait Register: Lanes {
    /// Registers a vector.
    const PER_VECTOR: usize;
    /// Register `i` of a vector in memory.
    fn load(from: &[f32; LANES], i: usize) -> Self;
    /// To register `i` of a vector in memory.
    fn store(self, to: &mut [f32; LANES], i: usize);
}

/// Sixteen f32 and what can be done with them.
///
/// Comparisons follow x86: `a.max(b)` is `a > b ? a : b`, so a NaN in `a` gives `b` and a NaN in `b` gives `b`. Kernels
/// that must let NaN through put the possibly-NaN operand second.
#[allow(clippy::return_self_not_must_use)] // arithmetic, all of it
pub trait Vector: Lanes {
    /// How many vectors the register file holds: chooses register tiles, never the order of a sum.
    const REGISTERS: usize;
    /// One register's part.
    type Register: Register;

    /// Runs a kernel as a function of its own, with a register file of its own: for innermost loops, whose accumulators
    /// must not compete with what surrounds them.
    fn call<K: Kernel>(kernel: K) -> K::Output;

    /// The way that suits this register file.
    fn by_registers<K: ByRegisters>(kernel: K) -> K::Output;

    /// Says that these lanes will be wanted soon, in the second-level cache.
    fn prefetch(_soon: &[f32; LANES]) {}

    /// Says that what is at this address, if anything, will be wanted in a moment, in the first-level cache.
    fn prefetch_near(_soon: *const f32) {}

    /// All lanes `x`.
    fn splat(x: f32) -> Self;
    /// Sixteen consecutive numbers.
    fn load(from: &[f32; LANES]) -> Self;
    /// Fewer than sixteen numbers, the lanes after them zero.
    fn load_partial(from: &[f32]) -> Self;
    /// Sixteen consecutive numbers of half precision.
    fn load_f16(from: &[f16; LANES]) -> Self;
    /// Sixteen consecutive numbers of the upper half of an f32.
    fn load_bf16(from: &[bf16; LANES]) -> Self;
    /// Sixteen consecutive integers.
    fn load_i8(from: &[i8; LANES]) -> Self;
    /// All lanes to memory.
    fn store(self, to: &mut [f32; LANES]);
    /// The first `to.len() < 16` lanes to memory.
    fn store_partial(self, to: &mut [f32]);

    /// `self + other`
    fn add(self, other: Self) -> Self;
    /// `self · other`
    fn mul(self, other: Self) -> Self;
    /// `self / other`, correctly rounded.
    fn div(self, other: Self) -> Self;
    /// The square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// `self > other ? self : other`
    fn max(self, other: Self) -> Self;
    /// `self < other ? self : other`
    fn min(self, other: Self) -> Self;
    /// The nearest integer, ties to even.
    fn round(self) -> Self;
    /// `self · 2^n` for integral `n` of magnitude at most 252, rounded once (subnormals included).
    fn scale(self, n: Self) -> Self;
    /// Lane by lane, `a < b ? yes : no`.
    fn select_lt(a: Self, b: Self, yes: Self, no: Self) -> Self;

    /// Whether some lane of a is not less than b's: where either is NaN it is not.
    fn any_not_less(a: Self, b: Self) -> bool;

    /// The sum over lanes by halving: lane i and i + 8, then i + 4, i + 2, i + 1.
    fn sum(self) -> f32;
    /// The largest lane, by the same halving.
    fn largest(self) -> f32;
    /// Lane `c` of vector `r` changes places with lane `r` of vector `c`.
    #[inline(always)]
    fn transpose(block: &mut [Self; LANES]) {
        let mut lanes = [[0.0; LANES]; LANES];
        for r in 0..LANES {
            block[r].store(&mut lanes[r]);
        }
        for c in 0..LANES {
            let mut column = [0.0; LANES];
            for r in 0..LANES {
                column[r] = lanes[r][c];
            }
            block[c] = Self::load(&column);
        }
    }
    /// [`Vector::sum`] of eight vectors, cheaper together and with the same bits.
    #[inline(always)]
    fn sum8(vectors: [Self; 8]) -> [f32; 8] {
        let mut sums = [0.0; 8];
        for i in 0..8 {
            sums[i] = vectors[i].sum();
        }
        sums
    }
}

/// A computation over vectors, in loops rather than `array::map` or `from_fn`, which may not be inlined. `run` must be
/// `#[inline(always)]`, and so must what it calls with a `V`: it is compiled inside a function that has the instruction
/// set switched on.
pub trait Kernel {
    /// What it gives back.
    type Output;
    /// The computation.
    fn run<V: Vector>(self) -> Self::Output;
}

/// A computation that has a way for each size of register file: another register tile, never another order of a sum.
/// Only the way that is taken is compiled.
pub trait ByRegisters {
    /// What it gives back.
    type Output;
    /// Where there are sixteen, or they are shorter than a [`Vector`].
    fn with_sixteen<V: Vector>(self) -> Self::Output;
    /// Where there are thirty-two, each a whole [`Vector`].
    fn with_thirty_two<V: Vector>(self) -> Self::Output;
}

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// All that this machine has, the fastest last.
    pub fn all() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut sets = vec![Self(Set::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                sets.push(Self(Set::Avx2));
                if is_x86_feature_detected!("avx512f") {
                    sets.push(Self(Set::Avx512));
                }
            }
        }
        sets
    }

    /// The fastest, or what the environment variable `WHEREFORE_ISA` names if this machine has it. Decided once.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let sets = Self::all();
            let wanted = std::env::var("WHEREFORE_ISA").ok();
            let named = sets.iter().find(|isa| Some(isa.name()) == wanted.as_deref());
            *named.unwrap_or(&sets[sets.len() - 1])
        })
    }

    /// `portable`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Portable => kernel.run::<portable::Portable>(),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => avx2::run(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => avx512::run(kernel),
        }
    }
}

impl Default for Isa {
    fn default() -> Self {
        Self::best()
    }
}

#[cfg(test)]
mod tests {
    use super::{Isa, Kernel, LANES, Vector};

    struct Turned([[f32; LANES]; LANES]);

    impl Kernel for Turned {
        type Output = [[f32; LANES]; LANES];

        #[inline(always)]
        fn run<V: Vector>(mut self) -> Self::Output {
            let mut block = [V::zero(); LANES];
            for r in 0..LANES {
                block[r] = V::load(&self.0[r]);
            }
            V::transpose(&mut block);
            for r in 0..LANES {
                block[r].store(&mut self.0[r]);
            }
            self.0
        }
    }

    #[test]
    fn lanes_and_vectors_change_places() {
        let number = |r: usize, c: usize| (LANES * r + c) as f32;
        for isa in Isa::all() {
            let rows = std::array::from_fn(|r| std::array::from_fn(|c| number(r, c)));
            let columns: [[f32; LANES]; LANES] = std::array::from_fn(|r| std::array::from_fn(|c| number(c, r)));
            assert_eq!(isa.run(Turned(rows)), columns, "{}", isa.name());
        }
    }
}
