//! The last step of many records' scores for one query, sixteen records at a time.

#![allow(clippy::inline_always)] // what runs on vectors must be inlined where the instruction set is switched on

use crate::backend::cpu::simd::{Kernel, LANES, Vector};

/// `sums ← sums / (norm_q · norms_i)` where there are norms, 0 where that divisor is 0; and no NaN, no −0.
pub(super) struct Finish<'t> {
    pub(super) sums: &'t mut [f32],
    /// The query's norm, and those of the rows.
    pub(super) norms: Option<(f32, &'t [f32])>,
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let (sums, last) = self.sums.as_chunks_mut::<LANES>();
        match self.norms {
            None => {
                for sum in &mut *sums {
                    finish(V::load(sum)).store(sum);
                }
                finish(V::load_partial(last)).store_partial(last);
            }
            Some((query, norms)) => {
                let query = V::splat(query);
                let (norms, last_norms) = norms.as_chunks();
                for (sum, norm) in sums.iter_mut().zip(norms) {
                    finish(quotient(V::load(sum), query.mul(V::load(norm)))).store(sum);
                }
                finish(quotient(V::load_partial(last), query.mul(V::load_partial(last_norms)))).store_partial(last);
            }
        }
    }
}

/// `super::pair::quotient` of each lane; where the divisor is NaN, 0, which is what the score will be.
#[inline(always)]
fn quotient<V: Vector>(sum: V, divisor: V) -> V {
    let (zero, quotient) = (V::zero(), sum.div(divisor));
    V::select_lt(zero, divisor, quotient, V::select_lt(divisor, zero, quotient, zero))
}

/// `super::pair::finish` of each lane: of the two, the one that is not of x's sign is 0, and both are where x is NaN.
#[inline(always)]
fn finish<V: Vector>(x: V) -> V {
    x.max(V::zero()).add(x.min(V::zero()))
}
