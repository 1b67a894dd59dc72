//! What this machine could do at most, measured: the yardsticks of `bench`.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use super::simd::{ByRegisters, Isa, Kernel, LANES, Vector};

/// The largest rates of this machine, all threads of the current pool together.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Ceilings {
    /// Multiply-adds in registers, two operations each, in GFLOP/s.
    pub gflops: f64,
    /// Reading memory far larger than the caches, in GB/s.
    pub read_gbs: f64,
}

/// Measures for about half a second.
pub fn measure(isa: Isa) -> Ceilings {
    Ceilings { gflops: arithmetic(isa), read_gbs: read(isa) }
}

/// Multiply-adds of vectors that [`Chains`] does: a tenth of a second or so.
const STEPS: usize = 60_000_000;

fn arithmetic(isa: Isa) -> f64 {
    let threads = rayon::current_num_threads();
    best_of(3, || {
        let spent = time(|| {
            (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
                black_box(isa.run(Chains));
            });
        });
        (threads * STEPS * LANES * 2) as f64 / spent / 1e9
    })
}

/// Independent chains of multiply-adds, more than latency × units of any core: eight registers at the least, and all in
/// registers.
struct Chains;

impl Kernel for Chains {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector>(self) -> f32 {
        V::by_registers(self)
    }
}

impl ByRegisters for Chains {
    type Output = f32;

    #[inline(always)]
    fn with_sixteen<V: Vector>(self) -> f32 {
        chains::<V, 6>()
    }

    #[inline(always)]
    fn with_thirty_two<V: Vector>(self) -> f32 {
        chains::<V, 12>()
    }
}

#[inline(always)]
fn chains<V: Vector, const N: usize>() -> f32 {
    let (factor, term) = (V::splat(black_box(0.999)), V::splat(black_box(1e-3)));
    let mut chains = [V::zero(); N];
    for _ in 0..STEPS / N {
        for chain in &mut chains {
            *chain = chain.fma(factor, term);
        }
    }
    chains.iter().fold(V::zero(), |all, chain| all.add(*chain)).sum()
}

fn read(isa: Isa) -> f64 {
    let memory = vec![1.0_f32; 64 << 20];
    best_of(3, || {
        let spent = time(|| {
            let sum: f32 = memory.par_chunks(1 << 20).map(|part| isa.run(Sum(part))).sum();
            black_box(sum);
        });
        size_of_val(memory.as_slice()) as f64 / spent / 1e9
    })
}

struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector>(self) -> f32 {
        let mut sums = [V::zero(); 4];
        let (lines, _) = self.0.as_chunks::<16>();
        for four in lines.chunks_exact(4) {
            for (sum, line) in sums.iter_mut().zip(four) {
                *sum = sum.add(V::load(line));
            }
        }
        sums.iter().fold(V::zero(), |all, sum| all.add(*sum)).sum()
    }
}

fn time(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

fn best_of(times: usize, mut rate: impl FnMut() -> f64) -> f64 {
    (0..times).map(|_| rate()).fold(0.0, f64::max)
}
