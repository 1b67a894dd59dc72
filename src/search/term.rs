//! One term of many records' scores for one query, sixteen records at a time.

#![allow(clippy::inline_always)] // what runs on vectors must be inlined where the instruction set is switched on

use super::query::Weight;
use crate::backend::cpu::simd::{Kernel, Vector};

/// `sums ← fma(rate, weight · (products + bias), sums)` over rows, the weight taken from `deltas [K, rows]`.
pub(super) struct AddTerm<'t> {
    pub(super) sums: &'t mut [f32],
    pub(super) products: &'t [f32],
    pub(super) deltas: &'t [f32],
    pub(super) weight: &'t Weight,
    pub(super) bias: f32,
    pub(super) rate: f32,
}

impl Kernel for AddTerm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let rows = self.sums.len();
        let (sums, last) = self.sums.as_chunks_mut();
        let (products, last_products) = self.products.as_chunks();
        let (bias, rate) = (V::splat(self.bias), V::splat(self.rate));
        for (i, (sum, product)) in sums.iter_mut().zip(products).enumerate() {
            let weight = weight_of::<V>(self.weight, self.deltas, rows, i * product.len());
            let term = weight.mul(V::load(product).add(bias));
            rate.fma(term, V::load(sum)).store(sum);
        }
        if !last.is_empty() {
            let weight = weight_of::<V>(self.weight, self.deltas, rows, rows - last.len());
            let term = weight.mul(V::load_partial(last_products).add(bias));
            rate.fma(term, V::load_partial(last)).store_partial(last);
        }
    }
}

/// The weights of the (up to sixteen) rows from `start` on.
#[inline(always)]
pub(super) fn weight_of<V: Vector>(weight: &Weight, deltas: &[f32], rows: usize, start: usize) -> V {
    match weight {
        Weight::One => V::splat(1.0),
        Weight::Class(k) => deltas_of(&deltas[k * rows + start..(k + 1) * rows]),
        Weight::Delta(query) => {
            let mut b = V::zero();
            for (&q, class) in query.iter().zip(deltas.chunks_exact(rows)) {
                b = V::splat(q).fma(deltas_of(&class[start..]), b);
            }
            b
        }
    }
}

/// The first sixteen of one class's deltas, or all where there are fewer.
#[inline(always)]
fn deltas_of<V: Vector>(class: &[f32]) -> V {
    match class.first_chunk() {
        Some(whole) => V::load(whole),
        None => V::load_partial(class),
    }
}
