//! The Kronecker form of the last layer's curvature, `H ≈ A ⊗ B`: A the mean of the losses' Hessians with respect to the logits,
//! `E[A_i] [K, K]`, and B the mean of `h̃ h̃ᵀ [E + 1, E + 1]`.
//!
//! Its damped inverse maps a gradient `δ h̃ᵀ` to one of the same form, so a query is transformed once and then scored like any other.
//! The price is that the damping must be a product too. Where A acts on every δ as one number a (a squared error; two classes of a
//! softmax, whose δ are all multiples of (1, −1)) it is exact: `(a B + λ I)⁻¹`. Elsewhere it is split as `(A + π√λ I) ⊗ (B + √λ/π I)`, π² the
//! ratio of the mean eigenvalues of A and B (Martens and Grosse 2015, "Optimizing neural networks with Kronecker-factored approximate
//! curvature", §6.3), A's over the space that δ can be in.

use faer::Mat;

use super::block::{Block, Blocks};
use super::dense::{Cholesky, add_product, slice, slice_mut};
use super::gram::weighted_grams;
use super::hessian::input_forms;
use super::objective::Point;
use crate::error::Result;
use crate::model::Problem;

/// B, as the sum's lower triangle over N: it depends on the features alone.
pub(super) fn input_factor(blocks: &Blocks<'_>) -> Result<Mat<f64>> {
    let mut grams = weighted_grams(blocks, 1, |_| Mat::full(1, super::block::ROWS, 1.0))?;
    Ok(grams.swap_remove(0) * faer::Scale(1.0 / blocks.rows() as f64))
}

/// A at `point`.
pub(super) fn output_factor(blocks: &Blocks<'_>, point: Point<'_>) -> Result<Mat<f64>> {
    let (problem, classes) = (blocks.problem(), blocks.classes());
    let mut sum: Mat<f64> = Mat::zeros(classes, classes);
    blocks.fold(
        |block| {
            let p = point.outputs(problem, block);
            summed_output_curvature(problem, &p, block.rows)
        },
        |part| sum += &part,
    )?;
    sum *= 1.0 / blocks.rows() as f64;
    Ok(sum)
}

/// `Σ A_i` over the records of a block with outputs `p [K, ROWS]`.
fn summed_output_curvature(problem: Problem, p: &Mat<f64>, rows: usize) -> Mat<f64> {
    let classes = p.nrows();
    let p = p.as_ref().subcols(0, rows);
    let mut sum = Mat::zeros(classes, classes);
    if problem == Problem::SingleLabel {
        add_product(sum.as_mut(), p, p.transpose());
        sum = -sum;
    }
    for c in 0..classes {
        sum[(c, c)] += match problem {
            Problem::SingleLabel => p.row(c).iter().sum::<f64>(),
            Problem::MultiLabel => p.row(c).iter().map(|p| p * (1.0 - p)).sum::<f64>(),
            Problem::Regression | Problem::Headless => 2.0 * rows as f64,
        };
    }
    sum
}

/// The damped inverse of `A ⊗ B`.
pub(super) struct Kronecker {
    /// Damped A; none where its part is a number that went into the other factor.
    output: Option<Cholesky>,
    /// Damped B.
    input: Cholesky,
}

impl Kronecker {
    /// From A, B and λ.
    pub(super) fn new(problem: Problem, output: &Mat<f64>, input: &Mat<f64>, damping: f64) -> Result<Self> {
        let trace = |matrix: &Mat<f64>| (0..matrix.nrows()).map(|i| matrix[(i, i)]).sum::<f64>();
        let rank = match problem {
            Problem::SingleLabel => output.nrows() - 1,
            _ => output.nrows(),
        };
        let (mean_output, mean_input) = (trace(output) / rank as f64, trace(input) / input.nrows() as f64);
        let isotropic = rank == 1 || problem == Problem::Regression || mean_output <= 0.0;
        if isotropic {
            return Ok(Self { output: None, input: Cholesky::factor(shifted(input, mean_output, damping))? });
        }
        let split = (mean_output / mean_input).sqrt();
        Ok(Self {
            output: Some(Cholesky::factor(shifted(output, 1.0, split * damping.sqrt()))?),
            input: Cholesky::factor(shifted(input, 1.0, damping.sqrt() / split))?,
        })
    }

    /// `δ'` and `h̃'`, one column each: the damped inverse's part for either side of a gradient.
    pub(super) fn transform(&self, delta: &mut Mat<f64>, input: &mut Mat<f64>) {
        if let Some(output) = &self.output {
            output.solve(delta.as_mut());
        }
        self.input.solve(input.as_mut());
    }

    /// The damped inverse applied to any `g [E + 1, K]`.
    pub(super) fn solve(&self, gradient: &mut Mat<f64>) {
        self.input.solve(gradient.as_mut());
        if let Some(output) = &self.output {
            let mut transposed = gradient.transpose().to_owned();
            output.solve(transposed.as_mut());
            gradient.copy_from(transposed.transpose());
        }
    }

    /// `g_iᵀ (A ⊗ B)⁻¹ g_i` (damped) of each record of a block.
    pub(super) fn quadratic_forms(&self, block: &Block) -> Vec<f64> {
        let mut deltas = block.deltas.clone();
        if let Some(output) = &self.output {
            output.half_solve(deltas.as_mut());
        }
        let of_delta = |r| slice(&deltas, r).iter().map(|x| x * x).sum::<f64>();
        input_forms(&self.input, block).into_iter().enumerate().map(|(r, of_input)| of_delta(r) * of_input).collect()
    }
}

/// `scale · matrix + shift · I`.
fn shifted(matrix: &Mat<f64>, scale: f64, shift: f64) -> Mat<f64> {
    let mut out = matrix * faer::Scale(scale);
    for i in 0..out.nrows() {
        slice_mut(&mut out, i)[i] += shift;
    }
    out
}
