//! Sums of outer products, record by record: what a layer's projected gradient is contracted to.

use rayon::prelude::*;

use super::linear;
use crate::backend::cpu::Cpu;
use crate::backend::training::{Products, Shape};

/// [`crate::backend::training::Training::outer_products`]: the gradient of a layer's weights, of each sequence's rows
/// by themselves.
pub(super) fn products(cpu: Cpu, out: &mut [f32], dy: &[f32], x: &[f32], products: &Products<'_, Cpu>) {
    let &Products { batch, rows, inputs, outputs, stride, offset } = products;
    out[..batch.sequences() * stride].par_chunks_mut(stride).enumerate().for_each(|(sequence, out)| {
        let rows = rows.range(batch, sequence);
        let (dy, x) = (&dy[rows.start * outputs..rows.end * outputs], &x[rows.start * inputs..rows.end * inputs]);
        let (weight, mut unread) = (&mut out[offset..offset + inputs * outputs], vec![0.0; outputs]);
        linear::backward(cpu, weight, &mut unread, dy, x, Shape { rows: rows.len(), inputs, outputs });
    });
}
