//! The gradients of a normalisation's scale and shift: a chain down each column.

use rayon::prelude::*;

use super::super::layer_norm::statistics;
use super::super::simd::{Kernel, LANES, Vector};
use crate::backend::cpu::Cpu;
use crate::backend::training::{NormProducts, Pair, Shape};

/// [`crate::backend::training::Training::layer_norm_parameters_backward`]
pub(super) fn backward(cpu: Cpu, gradients: Pair<&mut Vec<f32>>, dy: &[f32], x: &[f32], epsilon: f32, shape: Shape) {
    let Pair { weight, bias } = gradients;
    cpu.isa.run(Columns { gradients: Pair { weight, bias }, dy, x, epsilon, shape });
}

/// [`crate::backend::training::Training::norm_products`]
pub(super) fn products(cpu: Cpu, out: &mut [f32], dy: &[f32], x: &[f32], products: &NormProducts<'_, Cpu>) {
    let &NormProducts { batch, rows, epsilon, width } = products;
    out[..2 * width * batch.sequences()].par_chunks_mut(2 * width.max(1)).enumerate().for_each(|(sequence, out)| {
        let own = rows.range(batch, sequence);
        let (dy, x) = (&dy[own.start * width..own.end * width], &x[own.start * width..own.end * width]);
        out.fill(0.0);
        let (weight, bias) = out.split_at_mut(width);
        let shape = Shape { rows: own.len(), inputs: width, outputs: width };
        cpu.isa.run(Columns { gradients: Pair { weight, bias }, dy, x, epsilon, shape });
    });
}

struct Columns<'a> {
    gradients: Pair<&'a mut [f32]>,
    dy: &'a [f32],
    x: &'a [f32],
    epsilon: f32,
    shape: Shape,
}

impl Kernel for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let width = self.shape.inputs.max(1);
        let rows = self.dy.chunks_exact(width).zip(self.x.chunks_exact(width)).take(self.shape.rows);
        let (scales, last_scales) = self.gradients.weight[..width].as_chunks_mut::<LANES>();
        let (shifts, last_shifts) = self.gradients.bias[..width].as_chunks_mut::<LANES>();
        for (dy, x) in rows {
            let (mean, inverse) = statistics::<V>(x, self.epsilon);
            let (mean, inverse) = (V::splat(mean), V::splat(inverse));
            let (dy, last_dy) = dy.as_chunks::<LANES>();
            let (x, last_x) = x.as_chunks::<LANES>();
            for (((scale, shift), dy), x) in scales.iter_mut().zip(&mut *shifts).zip(dy).zip(x) {
                let (dy, normalised) = (V::load(dy), V::load(x).sub(mean).mul(inverse));
                dy.fma(normalised, V::load(scale)).store(scale);
                V::load(shift).add(dy).store(shift);
            }
            if !last_dy.is_empty() {
                let (dy, normalised) = (V::load_partial(last_dy), V::load_partial(last_x).sub(mean).mul(inverse));
                dy.fma(normalised, V::load_partial(last_scales)).store_partial(last_scales);
                V::load_partial(last_shifts).add(dy).store_partial(last_shifts);
            }
        }
    }
}
