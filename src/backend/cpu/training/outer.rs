//! Sums of outer products, record by record: what a layer's projected gradient is contracted to.

use rayon::prelude::*;

use crate::backend::Rows;
use crate::backend::cpu::Cpu;
use crate::backend::training::Products;

/// [`crate::backend::training::Training::outer_products`]: a sequence a task, its rows in their order.
pub(super) fn products(out: &mut [f32], dy: &[f32], x: &[f32], products: &Products<'_, Cpu>) {
    let &Products { batch, rows, inputs, outputs, stride, offset } = products;
    out[..batch.sequences() * stride].par_chunks_mut(stride).enumerate().for_each(|(sequence, out)| {
        let out = &mut out[offset..offset + inputs * outputs];
        let rows = match rows {
            Rows::All => batch.range(sequence),
            Rows::First => sequence..sequence + 1,
        };
        for row in rows {
            let x = &x[row * inputs..][..inputs];
            for (out, &dy) in out.chunks_exact_mut(inputs).zip(&dy[row * outputs..][..outputs]) {
                out.iter_mut().zip(x).for_each(|(out, &x)| *out += dy * x);
            }
        }
    });
}
