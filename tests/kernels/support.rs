//! Numbers to compute on, and ways to compare.

use wherefore::backend::cpu::{Cpu, Isa};
use wherefore::tokens::PackedBatch;

/// A small deterministic generator (splitmix64), so that a failure repeats.
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [−1, 1).
    pub(super) fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// An integer below `n`.
    pub(super) fn below(&mut self, n: u32) -> u32 {
        (self.next() % u64::from(n)) as u32
    }

    /// `len` numbers in [−scale, scale).
    pub(super) fn vector(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.uniform() * scale).collect()
    }
}

/// The bit patterns, to compare exactly (and see NaN).
pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Every number in f64.
pub(super) fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// The largest distance from the truth; infinite where one is NaN and the other is not.
fn worst(values: &[f32], exact: &[f64]) -> f64 {
    let distance = |(&x, &y): (&f32, &f64)| match (f64::from(x) - y).abs() {
        _ if x.is_nan() != y.is_nan() => f64::INFINITY,
        d if d.is_nan() => 0.0,
        d => d,
    };
    values.iter().zip(exact).map(distance).fold(0.0, f64::max)
}

/// The rule of every operation: an error of at most twice that of plain f32 loops, and a floor of one unit in the last
/// place of the largest value (a plain loop may be exact by luck).
pub(super) fn assert_accurate(what: &str, values: &[f32], plain: &[f32], exact: &[f64]) {
    assert_accurate_to(f64::from(f32::EPSILON), what, values, plain, exact);
}

/// [`assert_accurate`] where numbers are stored with this unit in the last place (of 1), and `plain` is in that
/// precision too.
pub(crate) fn assert_accurate_to(unit: f64, what: &str, values: &[f32], plain: &[f32], exact: &[f64]) {
    assert_eq!((values.len(), plain.len()), (exact.len(), exact.len()), "{what}: sizes");
    let largest = exact.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let floor = unit * largest + f64::from(f32::MIN_POSITIVE);
    let (error, allowed) = (worst(values, exact), 2.0 * worst(plain, exact) + floor);
    assert!(error <= allowed, "{what}: error {error:e}, allowed {allowed:e}");
}

/// A batch of sequences of these lengths, ids below `vocabulary`.
pub(super) fn batch(lengths: &[u32], vocabulary: u32, numbers: &mut Numbers) -> PackedBatch {
    let mut batch = PackedBatch { cu_seqlens: vec![0], ..PackedBatch::default() };
    for &length in lengths {
        for position in 0..length {
            batch.ids.push(numbers.below(vocabulary));
            batch.type_ids.push(u32::from(position > length / 2));
            batch.positions.push(position);
        }
        batch.cu_seqlens.push(batch.ids.len() as u32);
    }
    batch
}

/// The CPU on every instruction set of this machine.
pub(super) fn cpus() -> Vec<Cpu> {
    Isa::all().into_iter().map(Cpu::with_isa).collect()
}
