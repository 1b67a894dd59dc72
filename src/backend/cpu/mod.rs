//! The CPU: single-threaded arithmetic on vectors of sixteen f32, one micro-batch a worker.
//!
//! Every operation gives the same bits on every instruction set ([`simd`]) and for every batch: a sum's order is set by
//! its own length. Several workers may call at the same time; what an operation needs beside its arguments is kept for
//! each thread.

// A kernel generic over vectors must be inlined into the function that has its instruction set switched on, and reads
// best with its indices spelled as in its formula.
#![allow(clippy::inline_always, clippy::needless_range_loop)]

mod activation;
mod attention;
mod bf16;
mod ceilings;
mod dot;
mod embed;
mod follow;
mod gemm;
mod int8;
mod layer_norm;
mod linear;
mod lined;
mod objective;
mod pool;
mod share;
pub mod simd;
mod training;
mod weights;

pub use activation::activate_on;
pub use ceilings::{Ceilings, measure};
pub use dot::{
    HalvedQueries, HalvedRows, IntegerQueries, Number, Panels, Stream, Tile, dot, dot_on, dot_stream, dot_stream_on,
    dot_tile, dot_tile_on, halved_products, integer_products, integer_products_on, panel_products, squared_distance,
    squared_distance_on, squared_distance_stream, squared_distance_stream_on, squared_distance_tile,
    squared_distance_tile_on,
};
pub use int8::Int8Rows;
pub use linear::Linear;
pub use lined::Lined;
pub use simd::Isa;

use std::ops::Range;

use rayon::prelude::*;

use self::embed::OnPath;
use self::linear::Finish;
use self::share::split;
use super::{
    Activation, Attended, AttentionGradients, AttentionMap, Backend, Embeddings, Fold, Norm, Objective, Path, Pooling,
    Precision, Step,
};
use crate::error::{Error, Result};
use crate::tokens::PackedBatch;

/// The CPU backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    isa: Isa,
    /// Whether each operation is shared out among the pool's threads, rather than each thread running a batch of its
    /// own.
    shared: bool,
    /// What the operands of linear layers are rounded to: nothing, or bf16.
    precision: Precision,
}

impl Cpu {
    /// On the best instruction set of this machine.
    pub fn new() -> Self {
        Self::default()
    }

    /// On this instruction set; the results are the same.
    pub fn with_isa(isa: Isa) -> Self {
        Self { isa, ..Self::default() }
    }

    /// With each operation shared out among the threads of the current pool: for one large batch at a time, as in
    /// training.
    #[must_use]
    pub fn shared_out(self) -> Self {
        Self { shared: true, ..self }
    }

    /// With the operands of linear layers rounded to bf16, or to nothing.
    ///
    /// # Errors
    /// [`Error::Usage`] for what the CPU does not compute in.
    pub fn in_precision(self, precision: Precision) -> Result<Self> {
        match precision {
            Precision::Auto | Precision::F32 | Precision::Bf16 => Ok(Self { precision, ..self }),
            other => Err(Error::usage(format!("--precision {other}: the CPU computes in f32 or bf16"))
                .with_hint("leave --precision out, use --precision f32 or bf16, or --device cuda")),
        }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Runs `work` on each share of `rows` rows, with its part of `out [rows, width]`.
    fn each_share(
        self,
        out: &mut [f32],
        width: usize,
        rows: usize,
        work: impl Fn(Range<usize>, &mut [f32]) + Send + Sync,
    ) {
        let shares = self.row_shares(rows);
        let parts = split(out, shares.iter().map(|share| share.len() * width));
        match shares.len() {
            1 => shares.into_iter().zip(parts).for_each(|(share, out)| work(share, out)),
            _ => shares.into_par_iter().zip(parts).for_each(|(share, out)| work(share, out)),
        }
    }
}

impl Backend for Cpu {
    type Tensor = Vec<f32>;
    type Linear = Linear;
    type Batch = PackedBatch;
    type Path = Path;

    fn name(&self) -> String {
        "cpu".to_owned()
    }

    fn precision(&self) -> Precision {
        if self.precision == Precision::Bf16 { Precision::Bf16 } else { Precision::F32 }
    }

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

    fn stage_path(&self, path: Path) -> Result<Path> {
        Ok(path)
    }

    fn pack_linear(&self, weight: &[f32], bias: &[f32], inputs: usize, outputs: usize) -> Result<Linear> {
        Ok(Linear::pack(self.isa, self.precision, weight, bias, inputs, outputs))
    }

    fn embed(&self, out: &mut Vec<f32>, embeddings: &Embeddings<Self>, batch: &PackedBatch) -> Result<()> {
        embed::embed(*self, out, embeddings, batch)
    }

    fn layer_norm(&self, out: &mut Vec<f32>, x: &Vec<f32>, norm: &Norm<Self>, rows: usize) -> Result<()> {
        self.each_share(out, norm.width, rows, |share, out| {
            out.copy_from_slice(&x[share.start * norm.width..share.end * norm.width]);
            layer_norm::layer_norm(self.isa, out, norm.into());
        });
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
        let (inputs, outputs) = weights.widths();
        self.each_share(out, outputs, rows, |share, out| {
            let residual = residual.map(|residual| &residual[share.start * outputs..]);
            weights.forward(out, &x[share.start * inputs..], Finish::Activate(activation), residual, share.len());
        });
        Ok(())
    }

    fn attention(&self, out: &mut Vec<f32>, attended: &Attended<'_, Self>) -> Result<()> {
        attention::attention(*self, out, attended, None);
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

    fn embed_path(
        &self,
        out: &mut Vec<f32>,
        embeddings: &Embeddings<Self>,
        batch: &PackedBatch,
        path: &Path,
    ) -> Result<()> {
        OnPath { cpu: *self, embeddings, batch, path }.embed(out)
    }

    fn linear_with_slope(
        &self,
        out: &mut Vec<f32>,
        slope: &mut Vec<f32>,
        x: &Vec<f32>,
        weights: &Linear,
        activation: Activation,
        rows: usize,
    ) -> Result<()> {
        let (inputs, outputs) = weights.widths();
        let shares = self.row_shares(rows);
        let lengths = || shares.iter().map(|share| share.len() * outputs);
        let parts: Vec<_> = split(out, lengths()).into_iter().zip(split(slope, lengths())).collect();
        let run = |(share, (out, slope)): (&Range<usize>, (&mut [f32], &mut [f32]))| {
            let finish = Finish::ActivateWithSlope(activation, slope);
            weights.forward(out, &x[share.start * inputs..], finish, None, share.len());
        };
        match shares.len() {
            1 => shares.iter().zip(parts).for_each(run),
            _ => shares.par_iter().zip(parts).for_each(run),
        }
        Ok(())
    }

    fn linear_backward(
        &self,
        dx: &mut Vec<f32>,
        dy: &Vec<f32>,
        weights: &Linear,
        slope: Option<&Vec<f32>>,
        residual: Option<&Vec<f32>>,
        rows: usize,
    ) -> Result<()> {
        let (inputs, outputs) = weights.widths();
        self.each_share(dx, inputs, rows, |share, dx| {
            let from = share.start * inputs;
            let finish = slope.map_or(Finish::Activate(Activation::Identity), |slope| Finish::Scale(&slope[from..]));
            let residual = residual.map(|residual| &residual[from..]);
            weights.backward(dx, &dy[share.start * outputs..], finish, residual, share.len());
        });
        Ok(())
    }

    fn layer_norm_backward(
        &self,
        dx: &mut Vec<f32>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        norm: &Norm<Self>,
        rows: usize,
    ) -> Result<()> {
        self.each_share(dx, norm.width, rows, |share, dx| {
            let here = share.start * norm.width..share.end * norm.width;
            dx.copy_from_slice(&dy[here.clone()]);
            layer_norm::backward(self.isa, dx, &x[here], norm.into());
        });
        Ok(())
    }

    fn attention_backward(
        &self,
        gradients: AttentionGradients<'_, Vec<f32>>,
        d_out: &Vec<f32>,
        attended: &Attended<'_, Self>,
    ) -> Result<()> {
        attention::backward(*self, gradients, d_out, attended, None);
        Ok(())
    }

    fn attention_map(
        &self,
        out: &mut Vec<f32>,
        attended: &Attended<'_, Self>,
        map: AttentionMap<'_, Self>,
    ) -> Result<()> {
        attention::map(self.isa, out, attended, &map);
        Ok(())
    }

    fn follow(
        &self,
        out: &mut Vec<f32>,
        row: &Vec<f32>,
        map: &Vec<f32>,
        batch: &PackedBatch,
        step: Step<'_>,
    ) -> Result<()> {
        follow::follow(out, row, map, batch, &step);
        Ok(())
    }

    fn add_to_first(&self, x: &mut Vec<f32>, rows: &Vec<f32>, batch: &PackedBatch, width: usize) -> Result<()> {
        pool::add_to_first(x, rows, batch, width);
        Ok(())
    }

    fn objective_gradient(
        &self,
        dz: &mut Vec<f32>,
        z: &Vec<f32>,
        objectives: &[Objective],
        _: &PackedBatch,
        classes: usize,
    ) -> Result<()> {
        objective::gradient(dz, z, objectives, classes);
        Ok(())
    }

    fn embed_backward(
        &self,
        gradient: &mut Vec<f32>,
        embeddings: &Embeddings<Self>,
        batch: &PackedBatch,
        path: &Path,
    ) -> Result<()> {
        OnPath { cpu: *self, embeddings, batch, path }.backward(gradient)
    }

    fn fold(
        &self,
        out: &mut Vec<f32>,
        gradient: &Vec<f32>,
        embeddings: &Embeddings<Self>,
        batch: &PackedBatch,
        path: &Path,
        fold: Fold,
    ) -> Result<()> {
        OnPath { cpu: *self, embeddings, batch, path }.fold(out, gradient, fold)
    }
}

impl<'a> From<&'a Norm<Cpu>> for layer_norm::Parameters<'a> {
    fn from(norm: &'a Norm<Cpu>) -> Self {
        let (weight, bias) = (&norm.weight[..norm.width], &norm.bias[..norm.width]);
        Self { weight, bias, epsilon: norm.epsilon }
    }
}
