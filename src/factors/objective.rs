//! The objective of every refit, `F(W) = (1/N) Σ loss(W h̃_i, t_i) + (λ/2) ‖W‖²` over `W = [w; b]` (the bias is
//! penalised like the rest): its value, gradient and products with its Hessian, each by one pass over the training
//! factors. Where a source has weights, each loss is taken times its own.

use faer::{Mat, MatRef};

use super::block::{Block, Blocks};
use super::dense::{add_product, add_scaled, inner, product, slice, slice_mut};
use crate::error::Result;
use crate::model::Problem;
use crate::numeric::{sigmoid, softmax_in_place, softplus};

/// The targets a head is refitted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefitTargets {
    /// The labels that δ was taken against: what the head was trained on.
    #[default]
    Gold,
    /// What the model itself puts out, as probabilities (a regression: values).
    Soft,
}

/// The head whose outputs decide a Hessian.
#[derive(Clone, Copy)]
pub(super) enum Point<'a> {
    /// The model's own: outputs as stored.
    Stored,
    /// These parameters, `[E + 1, K]`.
    At(&'a Mat<f64>),
}

impl Point<'_> {
    /// Probabilities of a classifier, values of a regression: `[K, R]`.
    pub(super) fn outputs(self, problem: Problem, block: &Block) -> Mat<f64> {
        match self {
            Self::Stored => block.stored_outputs(problem),
            Self::At(parameters) => {
                let mut outputs = logits(block, parameters.as_ref());
                (0..block.rows).for_each(|r| link(problem, slice_mut(&mut outputs, r)));
                outputs
            }
        }
    }
}

/// `z [K, R]`.
fn logits(block: &Block, parameters: MatRef<'_, f64>) -> Mat<f64> {
    let mut z = Mat::zeros(parameters.ncols(), block.inputs.ncols());
    product(z.as_mut(), parameters.transpose(), block.inputs.as_ref());
    z
}

/// From logits to what the model puts out.
fn link(problem: Problem, z: &mut [f64]) {
    match problem {
        Problem::SingleLabel => {
            softmax_in_place(z);
        }
        Problem::MultiLabel => z.iter_mut().for_each(|z| *z = sigmoid(*z)),
        Problem::Regression | Problem::Headless => {}
    }
}

/// The loss of one record whose logits are `z`, which become δ.
fn loss_to_delta(problem: Problem, z: &mut [f64], target: &[f64]) -> f64 {
    let linear: f64 = z.iter().zip(target).map(|(z, t)| z * t).sum();
    let loss = match problem {
        Problem::SingleLabel => softmax_in_place(z) - linear,
        Problem::MultiLabel => z.iter_mut().map(|z| softplus(std::mem::replace(z, sigmoid(*z)))).sum::<f64>() - linear,
        Problem::Regression | Problem::Headless => z.iter().zip(target).map(|(z, t)| (z - t) * (z - t)).sum(),
    };
    let scale = if problem == Problem::Regression { 2.0 } else { 1.0 };
    z.iter_mut().zip(target).for_each(|(z, t)| *z = scale * (*z - t));
    loss
}

/// `v = A u`, A the Hessian of the loss with respect to the logits at outputs `p`:
/// `diag(p) − p pᵀ`, `diag(p (1 − p))`, or `2 I`.
fn output_curvature(problem: Problem, u: &mut [f64], p: &[f64]) {
    match problem {
        Problem::SingleLabel => {
            let mean: f64 = u.iter().zip(p).map(|(u, p)| u * p).sum();
            u.iter_mut().zip(p).for_each(|(u, p)| *u = p * (*u - mean));
        }
        Problem::MultiLabel => u.iter_mut().zip(p).for_each(|(u, p)| *u *= p * (1.0 - p)),
        Problem::Regression | Problem::Headless => u.iter_mut().for_each(|u| *u *= 2.0),
    }
}

/// A refit's objective over some training factors.
pub(super) struct Objective<'a> {
    pub(super) blocks: &'a Blocks<'a>,
    pub(super) targets: RefitTargets,
    /// λ
    pub(super) penalty: f64,
}

impl Objective<'_> {
    /// `F` and `∇F [E + 1, K]`.
    pub(super) fn evaluate(&self, parameters: &Mat<f64>) -> Result<(f64, Mat<f64>)> {
        let scale = 1.0 / self.blocks.rows() as f64;
        let mut gradient = Mat::zeros(parameters.nrows(), parameters.ncols());
        let mut total = 0.0;
        self.blocks.fold(
            |block| {
                let (losses, deltas) = self.deltas(block, parameters);
                let mut gradient = Mat::zeros(parameters.nrows(), parameters.ncols());
                product(gradient.as_mut(), block.inputs.as_ref(), deltas.transpose());
                (losses.iter().sum::<f64>(), gradient)
            },
            |(loss, part)| {
                total += loss;
                add_scaled(&mut gradient, scale, &part);
            },
        )?;
        add_scaled(&mut gradient, self.penalty, parameters);
        Ok((total * scale + 0.5 * self.penalty * inner(parameters, parameters), gradient))
    }

    /// The loss of each record of a block, weighted, and its δ `[K, R]` at `parameters`; of several heads side by side,
    /// `[E + 1, heads · K]`, a loss for each record and head, and their δ below one another.
    pub(super) fn deltas(&self, block: &Block, parameters: &Mat<f64>) -> (Vec<f64>, Mat<f64>) {
        let problem = self.blocks.problem();
        let soft = (self.targets == RefitTargets::Soft).then(|| block.stored_outputs(problem));
        let targets = soft.as_ref().unwrap_or(&block.targets);
        let mut deltas = logits(block, parameters.as_ref());
        let classes = self.blocks.classes();
        let mut losses = Vec::with_capacity(block.rows * deltas.nrows() / classes);
        for r in 0..block.rows {
            let heads = slice_mut(&mut deltas, r).chunks_exact_mut(classes);
            let weight = block.weight(r);
            losses.extend(heads.map(|z| {
                let loss = loss_to_delta(problem, z, slice(targets, r));
                for delta in z {
                    *delta *= weight;
                }
                weight * loss
            }));
        }
        (losses, deltas)
    }
}

/// `(H + λI) v` for several `v [E + 1, K]` at once, `H = (1/N) Σ A_i ⊗ h̃_i h̃_iᵀ` at `point`. Each product is computed
/// by itself.
pub(super) fn hessian_products(
    blocks: &Blocks<'_>,
    point: Point<'_>,
    penalty: f64,
    vectors: &[&Mat<f64>],
) -> Result<Vec<Mat<f64>>> {
    let scale = 1.0 / blocks.rows() as f64;
    let mut products: Vec<Mat<f64>> = vectors.iter().map(|v| Mat::zeros(v.nrows(), v.ncols())).collect();
    blocks.fold(
        |block| {
            let outputs = point.outputs(blocks.problem(), block);
            vectors.iter().map(|v| block_product(blocks.problem(), block, &outputs, v)).collect::<Vec<_>>()
        },
        |parts| products.iter_mut().zip(&parts).for_each(|(sum, part)| add_scaled(sum, scale, part)),
    )?;
    products.iter_mut().zip(vectors).for_each(|(product, v)| add_scaled(product, penalty, v));
    Ok(products)
}

/// `Σ_i h̃_i (A_i Vᵀ h̃_i)ᵀ` over a block.
fn block_product(problem: Problem, block: &Block, outputs: &Mat<f64>, v: &Mat<f64>) -> Mat<f64> {
    let mut u = logits(block, v.as_ref());
    for r in 0..block.rows {
        let u = slice_mut(&mut u, r);
        output_curvature(problem, u, slice(outputs, r));
        for u in u {
            *u *= block.weight(r);
        }
    }
    let mut sum = Mat::zeros(v.nrows(), v.ncols());
    add_product(sum.as_mut(), block.inputs.as_ref(), u.transpose());
    sum
}
