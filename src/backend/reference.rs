//! The judge: every operation as plain loops in f64, to be read beside the formula, never to be fast.

use super::{Activation, AttentionShape, Backend, Columns, Embeddings, Norm, Pooling, Rows, table_row};
use crate::error::Result;
use crate::tokens::PackedBatch;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// The backend in f64. Weights and inputs come as f32 and are exact in f64; results are within a few ulps of f64.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// A linear layer in f64.
pub struct Linear {
    /// `[outputs, inputs]`
    weight: Vec<f64>,
    /// `[outputs]`
    bias: Vec<f64>,
    inputs: usize,
    outputs: usize,
}

impl Backend for Reference {
    type Tensor = Vec<f64>;
    type Linear = Linear;
    type Batch = PackedBatch;

    fn workers(&self) -> usize {
        rayon::current_num_threads()
    }

    fn batch_tokens(&self) -> usize {
        256
    }

    fn tensor(&self, len: usize) -> Result<Vec<f64>> {
        Ok(vec![f64::NAN; len])
    }

    fn upload(&self, values: &[f32]) -> Result<Vec<f64>> {
        Ok(widen(values))
    }

    fn download(&self, out: &mut [f32], tensor: &Vec<f64>) -> Result<()> {
        for (out, &x) in out.iter_mut().zip(&tensor[..]) {
            *out = x as f32;
        }
        Ok(())
    }

    fn stage(&self, batch: PackedBatch) -> Result<PackedBatch> {
        Ok(batch)
    }

    fn pack_linear(&self, weight: &[f32], bias: &[f32], inputs: usize, outputs: usize) -> Result<Linear> {
        Ok(Linear { weight: widen(weight), bias: widen(bias), inputs, outputs })
    }

    fn embed(&self, out: &mut Vec<f64>, embeddings: &Embeddings<Self>, batch: &PackedBatch) -> Result<()> {
        let width = embeddings.norm.width;
        for token in 0..batch.tokens() {
            let mut sum = table_row(&embeddings.word, batch.ids[token], width, "token id")?.to_vec();
            if let Some(table) = &embeddings.position {
                add(&mut sum, table_row(table, batch.positions[token], width, "position")?);
            }
            if let Some(table) = &embeddings.token_type {
                add(&mut sum, table_row(table, batch.type_ids[token], width, "segment")?);
            }
            if let Some(task) = &embeddings.task {
                add(&mut sum, task);
            }
            normalise(&mut out[token * width..][..width], &sum, &embeddings.norm);
        }
        Ok(())
    }

    fn layer_norm(&self, out: &mut Vec<f64>, x: &Vec<f64>, norm: &Norm<Self>, rows: usize) -> Result<()> {
        for row in 0..rows {
            let at = row * norm.width..(row + 1) * norm.width;
            normalise(&mut out[at.clone()], &x[at], norm);
        }
        Ok(())
    }

    fn linear(
        &self,
        out: &mut Vec<f64>,
        x: &Vec<f64>,
        weights: &Linear,
        activation: Activation,
        residual: Option<&Vec<f64>>,
        rows: usize,
    ) -> Result<()> {
        for row in 0..rows {
            let x = &x[row * weights.inputs..][..weights.inputs];
            for output in 0..weights.outputs {
                let weight = &weights.weight[output * weights.inputs..][..weights.inputs];
                let at = row * weights.outputs + output;
                out[at] =
                    activate(activation, inner(x, weight) + weights.bias[output]) + residual.map_or(0.0, |r| r[at]);
            }
        }
        Ok(())
    }

    fn attention(
        &self,
        out: &mut Vec<f64>,
        q: Columns<'_, Vec<f64>>,
        k: Columns<'_, Vec<f64>>,
        v: Columns<'_, Vec<f64>>,
        batch: &PackedBatch,
        shape: AttentionShape,
    ) -> Result<()> {
        for sequence in 0..batch.sequences() {
            let tokens = batch.range(sequence);
            let asking = match shape.queries {
                Rows::All => tokens.clone(),
                Rows::First => sequence..sequence + 1,
            };
            for row in asking {
                for head in 0..shape.heads {
                    let columns = |m: &Columns<'_, Vec<f64>>, row| head_of(m, row, head, shape.head_width).to_vec();
                    let query = columns(&q, row);
                    let scores: Vec<f64> = tokens.clone().map(|token| inner(&query, &columns(&k, token))).collect();
                    let weights = softmax(&scores, (shape.head_width as f64).sqrt().recip());
                    let width = shape.heads * shape.head_width;
                    let out = &mut out[row * width + head * shape.head_width..][..shape.head_width];
                    out.fill(0.0);
                    for (weight, token) in weights.iter().zip(tokens.clone()) {
                        out.iter_mut().zip(columns(&v, token)).for_each(|(out, v)| *out += weight * v);
                    }
                }
            }
        }
        Ok(())
    }

    fn pool(
        &self,
        out: &mut Vec<f64>,
        x: &Vec<f64>,
        batch: &PackedBatch,
        pooling: Pooling,
        width: usize,
    ) -> Result<()> {
        for sequence in 0..batch.sequences() {
            for column in 0..width {
                let values = batch.range(sequence).map(|token| x[token * width + column]);
                let n = values.len() as f64;
                out[sequence * width + column] = match pooling {
                    Pooling::First => values.take(1).sum(),
                    Pooling::Mean => values.sum::<f64>() / n,
                    Pooling::Max => values.fold(f64::NEG_INFINITY, f64::max),
                    Pooling::MeanSqrtLength => values.sum::<f64>() / n.sqrt(),
                };
            }
        }
        Ok(())
    }
}

/// An activation at one point.
pub fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::Gelu => x * 0.5 * erfc(-x * FRAC_1_SQRT_2),
        Activation::GeluTanh => x * sigmoid(2.0 * (2.0 / PI).sqrt() * (x + 0.044_715 * x * x * x)),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Relu => x.max(0.0),
        Activation::Silu => x * sigmoid(x),
        Activation::Tanh => x.tanh(),
    }
}

/// `1/2 (1 + tanh(x/2))`, without cancellation.
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `erf(x) = 2/√π ∫₀ˣ exp(−t²) dt`, to a few ulps (Abramowitz & Stegun 7.1.6: a series of one sign, so nothing cancels).
pub fn erf(x: f64) -> f64 {
    if x.abs() >= FRACTION_FROM {
        return x.signum() * (1.0 - erfc(x.abs()));
    }
    let mut term = x;
    let mut sum = 0.0;
    let mut odd = 1.0;
    while sum + term != sum {
        sum += term;
        odd += 2.0;
        term *= 2.0 * x * x / odd;
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

/// `1 − erf(x)`, with small relative error also where it is tiny (Abramowitz & Stegun 7.1.14: a continued fraction).
pub fn erfc(x: f64) -> f64 {
    if x < FRACTION_FROM {
        return if x <= -FRACTION_FROM { 2.0 - erfc(-x) } else { 1.0 - erf(x) };
    }
    let tail = (1..=FRACTION_TERMS).rev().fold(x, |below, n| x + f64::from(n) / 2.0 / below);
    (-x * x).exp() / (PI.sqrt() * tail)
}

/// Where the continued fraction takes over from the series.
const FRACTION_FROM: f64 = 2.0;
/// Enough of it for 1e-16 from there on.
const FRACTION_TERMS: u32 = 120;

/// `out = (x − mean) / √(var + ε) · weight + bias`
fn normalise(out: &mut [f64], x: &[f64], norm: &Norm<Reference>) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    let deviation = (variance + f64::from(norm.epsilon)).sqrt();
    for (i, out) in out.iter_mut().enumerate() {
        *out = (x[i] - mean) / deviation * norm.weight[i] + norm.bias[i];
    }
}

/// `exp(scale · x) / Σ exp(scale · x)`
fn softmax(x: &[f64], scale: f64) -> Vec<f64> {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = x.iter().map(|x| ((x - largest) * scale).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|e| e / sum).collect()
}

/// One head's columns of one row.
fn head_of<'a>(matrix: &Columns<'a, Vec<f64>>, row: usize, head: usize, width: usize) -> &'a [f64] {
    &matrix.tensor[row * matrix.stride + matrix.offset + head * width..][..width]
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(sum: &mut [f64], row: &[f64]) {
    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}
