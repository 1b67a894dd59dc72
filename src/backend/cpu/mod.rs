//! The CPU: single-threaded arithmetic on vectors of sixteen f32, one micro-batch a worker.
//!
//! Every operation gives the same bits on every instruction set ([`simd`]) and for every batch: a sum's order is set by its own
//! length. Several workers may call at the same time; what an operation needs beside its arguments is kept for each thread.

// A kernel generic over vectors must be inlined into the function that has its instruction set switched on, and reads best with
// its indices spelled as in its formula.
#![allow(clippy::inline_always, clippy::needless_range_loop)]

mod activation;
mod attention;
mod ceilings;
mod dot;
mod embed;
mod gemm;
mod layer_norm;
mod linear;
mod pool;
pub mod simd;

pub use activation::activate_on;
pub use ceilings::{Ceilings, measure};
pub use dot::{
    Tile, dot, dot_on, dot_tile, dot_tile_on, squared_distance, squared_distance_on, squared_distance_tile,
    squared_distance_tile_on,
};
pub use linear::Linear;
pub use simd::Isa;

use super::{Activation, AttentionShape, Backend, Columns, Embeddings, Norm, Pooling};
use crate::error::Result;
use crate::tokens::PackedBatch;

/// The CPU backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    isa: Isa,
}

impl Cpu {
    /// On the best instruction set of this machine.
    pub fn new() -> Self {
        Self::default()
    }

    /// On this instruction set; the results are the same.
    pub fn with_isa(isa: Isa) -> Self {
        Self { isa }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

impl Backend for Cpu {
    type Tensor = Vec<f32>;
    type Linear = Linear;
    type Batch = PackedBatch;

    /// The threads of the current rayon pool.
    fn workers(&self) -> usize {
        rayon::current_num_threads()
    }

    /// As many as fill the register tiles, and no more: wider activations only leave the caches.
    fn batch_tokens(&self) -> usize {
        256
    }

    fn tensor(&self, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
    }

    fn upload(&self, values: &[f32]) -> Result<Vec<f32>> {
        Ok(values.to_vec())
    }

    fn download(&self, out: &mut [f32], tensor: &Vec<f32>) -> Result<()> {
        out.copy_from_slice(&tensor[..out.len()]);
        Ok(())
    }

    fn stage(&self, batch: PackedBatch) -> Result<PackedBatch> {
        Ok(batch)
    }

    fn pack_linear(&self, weight: &[f32], bias: &[f32], inputs: usize, outputs: usize) -> Result<Linear> {
        Ok(Linear::pack(self.isa, weight, bias, inputs, outputs))
    }

    fn embed(&self, out: &mut Vec<f32>, embeddings: &Embeddings<Self>, batch: &PackedBatch) -> Result<()> {
        embed::embed(*self, out, embeddings, batch)
    }

    fn layer_norm(&self, out: &mut Vec<f32>, x: &Vec<f32>, norm: &Norm<Self>, rows: usize) -> Result<()> {
        let out = &mut out[..rows * norm.width];
        out.copy_from_slice(&x[..rows * norm.width]);
        layer_norm::layer_norm(self.isa, out, norm.into());
        Ok(())
    }

    fn linear(
        &self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        weights: &Linear,
        activation: Activation,
        residual: Option<&Vec<f32>>,
        rows: usize,
    ) -> Result<()> {
        weights.forward(out, x, activation, residual.map(Vec::as_slice), rows);
        Ok(())
    }

    fn attention(
        &self,
        out: &mut Vec<f32>,
        q: Columns<'_, Vec<f32>>,
        k: Columns<'_, Vec<f32>>,
        v: Columns<'_, Vec<f32>>,
        batch: &PackedBatch,
        shape: AttentionShape,
    ) -> Result<()> {
        attention::attention(self.isa, out, &attention::Inputs { q, k, v, batch, shape });
        Ok(())
    }

    fn pool(
        &self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        batch: &PackedBatch,
        pooling: Pooling,
        width: usize,
    ) -> Result<()> {
        pool::pool(out, x, batch, pooling, width);
        Ok(())
    }
}

impl<'a> From<&'a Norm<Cpu>> for layer_norm::Parameters<'a> {
    fn from(norm: &'a Norm<Cpu>) -> Self {
        let (weight, bias) = (&norm.weight[..norm.width], &norm.bias[..norm.width]);
        Self { weight, bias, epsilon: norm.epsilon }
    }
}
