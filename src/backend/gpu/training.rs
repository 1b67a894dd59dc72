//! What training asks of a GPU, in exact f32, where every gradient is one chain over the tokens, as on the CPU; or in
//! bf16 on tensor cores, where it is one over pieces of sequences.

use std::ops::Range;

use super::sums::Sums;
use super::tensor::Number;
use super::{
    Batch, Gpu, Linear, Sketch, Tensor, attention, attention_backward, columns, dropout, embed_sum, gradients, losses,
    optimizer, projected,
};
use crate::backend::training::{
    self, AdamStep, AdaptedStep, CrossEntropy, Dropout, Loss, Named, NormProducts, Pair, Passed, Place, Products,
    Shape, Sketch as HostSketch, Stepped, Tables, Training,
};
use crate::backend::{Attended, AttentionGradients, Backend};
use crate::error::Result;

impl Training for Gpu {
    type Sums = Sums;
    type Sketch = Sketch;

    fn clear(&self, tensor: &mut Tensor) -> Result<()> {
        self.device.clear(tensor)
    }

    fn add(&self, sum: &mut Tensor, x: &Tensor, len: usize) -> Result<()> {
        optimizer::add(&self.device, sum, x, len)
    }

    fn repack_linear(
        &self,
        linear: &mut Linear,
        parameters: Pair<&Tensor>,
        outputs: Range<usize>,
        inputs: usize,
    ) -> Result<()> {
        linear.repack(&self.device, parameters, outputs, inputs)
    }

    fn copy(&self, out: &mut Tensor, x: &Tensor, len: usize) -> Result<()> {
        optimizer::copy(&self.device, out, x, len)
    }

    fn embed_sum(&self, out: &mut Tensor, tables: Tables<&Tensor>, batch: &Batch, width: usize) -> Result<()> {
        embed_sum::sum(&self.device, out, tables, batch, width)
    }

    /// Tokens are put in the order of the rows they name, so that each row is added to by one block.
    fn embed_sum_backward(
        &self,
        gradients: Tables<&mut Tensor>,
        d_sum: &Tensor,
        batch: &Batch,
        width: usize,
    ) -> Result<()> {
        columns::rows(&self.device, self.number(), gradients, d_sum, &batch.host, width)
    }

    fn linear_parameters_backward(
        &self,
        gradients: Pair<&mut Tensor>,
        first: usize,
        dy: &Tensor,
        x: &Tensor,
        passed: Passed<'_, Self>,
    ) -> Result<()> {
        gradients::linear(&self.device, (self.number(), self.gradients), gradients, first, dy, x, &passed)
    }

    fn outer_products(&self, out: &mut Tensor, dy: &Tensor, x: &Tensor, products: Products<'_, Self>) -> Result<()> {
        gradients::outer_products(&self.device, self.number(), out, dy, x, &products)
    }

    fn pack_sketch(&self, sketch: HostSketch) -> Result<Sketch> {
        Sketch::upload(&self.device, &sketch)
    }

    fn sketch(&self, out: &mut Tensor, x: &Tensor, sketch: &Sketch, rows: usize) -> Result<()> {
        sketch.apply(&self.device, out, x, rows)
    }

    fn norm_products(&self, out: &mut Tensor, dy: &Tensor, x: &Tensor, products: NormProducts<'_, Self>) -> Result<()> {
        projected::norm(&self.device, self.number(), out, dy, x, &products)
    }

    fn look_up(&self, out: &mut Tensor, table: &Tensor, named: Named, batch: &Batch, width: usize) -> Result<()> {
        projected::look_up(&self.device, out, table, named, batch, width)
    }

    fn adapt(&self, out: &mut Tensor, x: &Tensor, step: AdaptedStep<'_, Tensor>) -> Result<()> {
        projected::adapt(&self.device, out, x, &step)
    }

    fn sums(&self, values: &[f64]) -> Result<Sums> {
        Sums::upload(&self.device, values)
    }

    fn read_sums(&self, sums: &Sums) -> Result<Vec<f64>> {
        sums.download(&self.device)
    }

    fn add_to_sums(&self, sums: &mut Sums, x: &Tensor) -> Result<()> {
        sums.add(&self.device, x)
    }

    fn add_squares(&self, sums: &mut Sums, x: &Tensor, rows: usize) -> Result<()> {
        sums.add_squares(&self.device, x, rows)
    }

    fn weighted_squares(&self, weights: &Sums, x: &Tensor, rows: usize) -> Result<Vec<f64>> {
        weights.weighted_squares(&self.device, x, rows)
    }

    fn layer_norm_parameters_backward(
        &self,
        gradients: Pair<&mut Tensor>,
        dy: &Tensor,
        x: &Tensor,
        epsilon: f32,
        shape: Shape,
    ) -> Result<()> {
        columns::norm(&self.device, self.number(), gradients, dy, x, epsilon, shape)
    }

    fn dropout(
        &self,
        out: &mut Tensor,
        x: &Tensor,
        residual: Option<&Tensor>,
        dropout: &Dropout<'_>,
        place: Place<'_, Self>,
    ) -> Result<()> {
        dropout::dropout(&self.device, out, x, residual, dropout, &place)
    }

    fn attention_dropout(&self, out: &mut Tensor, attended: &Attended<'_, Self>, dropout: &Dropout<'_>) -> Result<()> {
        attention::attention(&self.device, out, attended, Some(dropout))
    }

    fn attention_dropout_backward(
        &self,
        gradients: AttentionGradients<'_, Tensor>,
        d_out: &Tensor,
        attended: &Attended<'_, Self>,
        dropout: &Dropout<'_>,
    ) -> Result<()> {
        attention_backward::backward(&self.device, gradients, d_out, attended, Some(dropout))
    }

    /// On the host, in f64, as everywhere: a loss goes there anyway.
    fn loss_gradient(
        &self,
        dz: &mut Tensor,
        z: &Tensor,
        losses: &[(Loss<'_>, f64)],
        classes: usize,
    ) -> Result<Vec<f64>> {
        let mut logits = vec![0.0; losses.len() * classes];
        self.download(&mut logits, z)?;
        let mut values = Vec::with_capacity(losses.len());
        for (z, (loss, share)) in logits.chunks_exact_mut(classes.max(1)).zip(losses) {
            let mut row: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
            values.push(loss.to_gradient(&mut row));
            z.iter_mut().zip(row).for_each(|(dz, slope)| *dz = (slope * share) as f32);
        }
        optimizer::copy(&self.device, dz, &self.upload(&logits)?, logits.len())?;
        Ok(values)
    }

    fn cross_entropies(&self, dz: &mut Tensor, z: &Tensor, len: usize, terms: &[CrossEntropy]) -> Result<Vec<f64>> {
        match losses::Terms::of(terms).filter(|_| dz.number != Number::F16) {
            Some(terms) => terms.to_gradient(&self.device, dz, z, len),
            None => training::cross_entropies(self, dz, z, len, terms),
        }
    }

    fn squared_norms(&self, tensors: &[(&Tensor, usize)]) -> Result<Vec<f64>> {
        optimizer::squared_norms(&self.device, tensors)
    }

    fn adam_steps(&self, parameters: Vec<Stepped<'_, Tensor>>, step: &AdamStep) -> Result<()> {
        optimizer::adam_steps(&self.device, &parameters, step)
    }
}
