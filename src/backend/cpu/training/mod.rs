//! What training asks of the CPU: every operation shared out among the pool's threads, every gradient one chain over
//! the tokens.

mod adam;
mod dropout;
mod embed;
mod layer_norm;
mod linear;
mod outer;
mod squares;

use std::ops::Range;

use rayon::prelude::*;

use super::attention;
use super::{Cpu, Linear, dot_on};
use crate::backend::training::{
    AdamStep, AdaptedStep, Dropout, Loss, Named, NormProducts, Pair, Passed, Place, Products, Shape, Sketch, Stepped,
    Tables, Training,
};
use crate::backend::{Attended, AttentionGradients};
use crate::error::Result;
use crate::tokens::PackedBatch;

/// Numbers a thread takes at a time where each is by itself.
const CHUNK: usize = 1 << 15;
/// Numbers whose squares are summed in f32.
const NORM_BLOCK: usize = 4096;

impl Training for Cpu {
    type Sums = Vec<f64>;
    type Sketch = Sketch;

    fn clear(&self, tensor: &mut Vec<f32>) -> Result<()> {
        tensor.par_chunks_mut(CHUNK).for_each(|chunk| chunk.fill(0.0));
        Ok(())
    }

    fn add(&self, sum: &mut Vec<f32>, x: &Vec<f32>, len: usize) -> Result<()> {
        let chunks = sum[..len].par_chunks_mut(CHUNK).zip(x[..len].par_chunks(CHUNK));
        chunks.for_each(|(sum, x)| sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x));
        Ok(())
    }

    fn repack_linear(
        &self,
        linear: &mut Linear,
        parameters: Pair<&Vec<f32>>,
        outputs: Range<usize>,
        inputs: usize,
    ) -> Result<()> {
        let weight = &parameters.weight[outputs.start * inputs..outputs.end * inputs];
        linear.repack(weight, &parameters.bias[outputs]);
        Ok(())
    }

    fn copy(&self, out: &mut Vec<f32>, x: &Vec<f32>, len: usize) -> Result<()> {
        out[..len].copy_from_slice(&x[..len]);
        Ok(())
    }

    fn embed_sum(
        &self,
        out: &mut Vec<f32>,
        tables: Tables<&Vec<f32>>,
        batch: &PackedBatch,
        width: usize,
    ) -> Result<()> {
        embed::sum(out, tables, batch, width)
    }

    fn embed_sum_backward(
        &self,
        gradients: Tables<&mut Vec<f32>>,
        d_sum: &Vec<f32>,
        batch: &PackedBatch,
        width: usize,
    ) -> Result<()> {
        embed::backward(gradients, d_sum, batch, width);
        Ok(())
    }

    fn linear_parameters_backward(
        &self,
        gradients: Pair<&mut Vec<f32>>,
        first: usize,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        passed: Passed<'_, Self>,
    ) -> Result<()> {
        let Passed { batch, rows, inputs, outputs } = passed;
        let shape = Shape { rows: rows.of(batch), inputs, outputs };
        let (weight, bias) = (
            &mut gradients.weight[first * inputs..(first + outputs) * inputs],
            &mut gradients.bias[first..first + outputs],
        );
        linear::backward(*self, weight, bias, dy, x, shape);
        Ok(())
    }

    fn outer_products(
        &self,
        out: &mut Vec<f32>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        products: Products<'_, Self>,
    ) -> Result<()> {
        outer::products(*self, out, dy, x, &products);
        Ok(())
    }

    fn norm_products(
        &self,
        out: &mut Vec<f32>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        products: NormProducts<'_, Self>,
    ) -> Result<()> {
        layer_norm::products(*self, out, dy, x, &products);
        Ok(())
    }

    fn look_up(
        &self,
        out: &mut Vec<f32>,
        table: &Vec<f32>,
        named: Named,
        batch: &PackedBatch,
        width: usize,
    ) -> Result<()> {
        let rows = named.rows(batch);
        for (token, out) in out.chunks_exact_mut(width).take(batch.tokens()).enumerate() {
            let row = rows.map_or(0, |rows| rows[token] as usize);
            out.copy_from_slice(&table[row * width..][..width]);
        }
        Ok(())
    }

    fn adapt(&self, out: &mut Vec<f32>, x: &Vec<f32>, step: AdaptedStep<'_, Vec<f32>>) -> Result<()> {
        adam::adapt(out, x, &step);
        Ok(())
    }

    fn pack_sketch(&self, sketch: Sketch) -> Result<Sketch> {
        Ok(sketch)
    }

    fn sketch(&self, out: &mut Vec<f32>, x: &Vec<f32>, sketch: &Sketch, rows: usize) -> Result<()> {
        let (inputs, outputs) = (sketch.inputs(), sketch.outputs());
        let together = rows.div_ceil(4 * rayon::current_num_threads()).max(16);
        let chunks = out[..rows * outputs].par_chunks_mut(together * outputs).zip(x.par_chunks(together * inputs));
        chunks.for_each(|(out, x)| sketch.apply(out, x, inputs));
        Ok(())
    }

    fn sums(&self, values: &[f64]) -> Result<Vec<f64>> {
        Ok(values.to_vec())
    }

    fn read_sums(&self, sums: &Vec<f64>) -> Result<Vec<f64>> {
        Ok(sums.clone())
    }

    fn add_to_sums(&self, sums: &mut Vec<f64>, x: &Vec<f32>) -> Result<()> {
        squares::add_once(sums, x);
        Ok(())
    }

    fn add_squares(&self, sums: &mut Vec<f64>, x: &Vec<f32>, rows: usize) -> Result<()> {
        squares::add(sums, x, rows);
        Ok(())
    }

    fn weighted_squares(&self, weights: &Vec<f64>, x: &Vec<f32>, rows: usize) -> Result<Vec<f64>> {
        Ok(squares::weighted(weights, x, rows))
    }

    fn layer_norm_parameters_backward(
        &self,
        gradients: Pair<&mut Vec<f32>>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        epsilon: f32,
        shape: Shape,
    ) -> Result<()> {
        let Pair { weight, bias } = gradients;
        layer_norm::backward(*self, Pair { weight, bias }, dy, x, epsilon, shape);
        Ok(())
    }

    fn dropout(
        &self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        residual: Option<&Vec<f32>>,
        dropout: &Dropout<'_>,
        place: Place<'_, Self>,
    ) -> Result<()> {
        dropout::dropout(*self, out, x, residual.map(Vec::as_slice), dropout, &place);
        Ok(())
    }

    fn attention_dropout(
        &self,
        out: &mut Vec<f32>,
        attended: &Attended<'_, Self>,
        dropout: &Dropout<'_>,
    ) -> Result<()> {
        attention::attention(*self, out, attended, Some(dropout));
        Ok(())
    }

    fn attention_dropout_backward(
        &self,
        gradients: AttentionGradients<'_, Vec<f32>>,
        d_out: &Vec<f32>,
        attended: &Attended<'_, Self>,
        dropout: &Dropout<'_>,
    ) -> Result<()> {
        attention::backward(*self, gradients, d_out, attended, Some(dropout));
        Ok(())
    }

    fn loss_gradient(
        &self,
        dz: &mut Vec<f32>,
        z: &Vec<f32>,
        losses: &[(Loss<'_>, f64)],
        classes: usize,
    ) -> Result<Vec<f64>> {
        let rows = dz.chunks_exact_mut(classes.max(1)).zip(z.chunks_exact(classes.max(1)));
        let mut values = Vec::with_capacity(losses.len());
        for ((dz, z), (loss, share)) in rows.zip(losses) {
            let mut row: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
            values.push(loss.to_gradient(&mut row));
            dz.iter_mut().zip(row).for_each(|(dz, slope)| *dz = (slope * share) as f32);
        }
        Ok(values)
    }

    fn squared_norms(&self, tensors: &[(&Vec<f32>, usize)]) -> Result<Vec<f64>> {
        let of = |&(tensor, len): &(&Vec<f32>, usize)| {
            let blocks = tensor[..len].par_chunks(NORM_BLOCK);
            let sums: Vec<f32> = blocks.map(|block| dot_on(self.isa, block, block)).collect();
            sums.into_iter().map(f64::from).sum()
        };
        Ok(tensors.iter().map(of).collect())
    }

    fn adam_steps(&self, parameters: Vec<Stepped<'_, Vec<f32>>>, step: &AdamStep) -> Result<()> {
        for parameter in parameters {
            adam::step(parameter, step);
        }
        Ok(())
    }
}
