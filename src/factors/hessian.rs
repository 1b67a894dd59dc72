//! The exact Hessian of the last layer's mean loss, `H = (1/N) Σ_i A_i ⊗ h̃_i h̃_iᵀ`, damped and factored by Cholesky.
//!
//! What the loss makes of A_i is used: softmax couples every class with every other; sigmoids leave one matrix a class;
//! a squared error has `A_i = 2 I`, one matrix for all. Of boundaries of answers, whose softmax is over tokens that are
//! not kept, it is the empirical Fisher information `(1/F) Σ_f g_f g_fᵀ`: a matrix an output, as each boundary's
//! gradient is of one.

use faer::{Mat, Scale};

use super::block::{Block, Blocks};
use super::dense::{Cholesky, slice, slice_mut};
use super::gram::weighted_grams;
use super::objective::Point;
use crate::error::Result;
use crate::model::Problem;

/// `(H + λI)⁻¹`, ready to be applied.
pub(super) enum FactoredHessian {
    /// Softmax: all `K (E + 1)` parameters, class after class.
    Coupled(Cholesky),
    /// Sigmoids, and boundaries of answers: a matrix an output.
    PerClass(Vec<Cholesky>),
    /// Squared error: one matrix for every class.
    Shared(Cholesky),
}

impl FactoredHessian {
    /// One pass over the training factors, then the factorisation.
    pub(super) fn factor(blocks: &Blocks<'_>, point: Point<'_>, damping: f64) -> Result<Self> {
        let (problem, scale) = (blocks.problem(), 1.0 / blocks.rows() as f64);
        let damped = |mut matrix: Mat<f64>| {
            (0..matrix.nrows()).for_each(|i| matrix[(i, i)] += damping);
            Cholesky::factor(matrix)
        };
        if blocks.is_of_boundaries() {
            let grams = weighted_grams(blocks, blocks.classes(), squared_deltas)?;
            return Ok(Self::PerClass(
                grams.into_iter().map(|gram| damped(gram * Scale(scale))).collect::<Result<_>>()?,
            ));
        }
        let pairs = pairs(problem, blocks.classes());
        let mut grams = weighted_grams(blocks, pairs.len(), |block| pair_weights(problem, block, point, &pairs))?;
        for gram in &mut grams {
            *gram *= scale;
        }
        Ok(match problem {
            Problem::SingleLabel => Self::Coupled(damped(couple(&grams, &pairs, blocks.classes(), blocks.inputs()))?),
            Problem::MultiLabel => Self::PerClass(grams.into_iter().map(damped).collect::<Result<_>>()?),
            Problem::Regression | Problem::Headless => Self::Shared(damped(grams.swap_remove(0))?),
        })
    }

    /// `(H + λI)⁻¹ g` for each `g [E + 1, K]`.
    pub(super) fn solve(&self, gradients: &mut [Mat<f64>]) {
        match self {
            Self::Coupled(cholesky) => solve_flat(cholesky, gradients),
            Self::PerClass(choleskys) => {
                for gradient in gradients {
                    for (c, cholesky) in choleskys.iter().enumerate() {
                        cholesky.solve(gradient.as_mut().subcols_mut(c, 1));
                    }
                }
            }
            Self::Shared(cholesky) => gradients.iter_mut().for_each(|gradient| cholesky.solve(gradient.as_mut())),
        }
    }

    /// `g_iᵀ (H + λI)⁻¹ g_i` of each record of a block, `g_i = h̃_i δ_iᵀ` with δ as stored.
    pub(super) fn quadratic_forms(&self, block: &Block) -> Vec<f64> {
        match self {
            Self::Coupled(cholesky) => coupled_forms(cholesky, block),
            Self::PerClass(choleskys) => {
                let mut forms = vec![0.0; block.rows];
                for (c, cholesky) in choleskys.iter().enumerate() {
                    let norms = input_forms(cholesky, block);
                    forms.iter_mut().enumerate().for_each(|(r, form)| *form += block.deltas[(c, r)].powi(2) * norms[r]);
                }
                forms
            }
            Self::Shared(cholesky) => {
                let norms = input_forms(cholesky, block);
                (0..block.rows).map(|r| squared_norm(slice(&block.deltas, r)) * norms[r]).collect()
            }
        }
    }
}

/// The pairs of classes whose weighted Gram matrices make up H.
///
/// For softmax only pairs of different classes: `A_i` has rows that sum to zero, so the diagonal blocks follow from the
/// others.
fn pairs(problem: Problem, classes: usize) -> Vec<(usize, usize)> {
    match problem {
        Problem::SingleLabel => (0..classes).flat_map(|c| (0..c).map(move |d| (c, d))).collect(),
        Problem::MultiLabel => (0..classes).map(|c| (c, c)).collect(),
        Problem::Regression | Problem::Headless => vec![(0, 0)],
    }
}

/// `|A_i|` at each pair, times the record's weight: `[pairs, R]`.
fn pair_weights(problem: Problem, block: &Block, point: Point<'_>, pairs: &[(usize, usize)]) -> Mat<f64> {
    if problem == Problem::Regression {
        return Mat::from_fn(1, block.rows, |_, r| 2.0 * block.weight(r));
    }
    let p = point.outputs(problem, block);
    Mat::from_fn(pairs.len(), block.rows, |pair, r| match pairs[pair] {
        (c, d) if c == d => block.weight(r) * (p[(c, r)] * (1.0 - p[(c, r)])),
        (c, d) => block.weight(r) * (p[(c, r)] * p[(d, r)]),
    })
}

/// `δ²`, of which one output's alone is not 0: the weights of a boundary's own gradient, `[K, R]`.
fn squared_deltas(block: &Block) -> Mat<f64> {
    Mat::from_fn(block.deltas.nrows(), block.rows, |c, r| block.deltas[(c, r)].powi(2))
}

/// The softmax Hessian's lower triangle from the Gram matrices of its pairs: `−G_cd` off the diagonal, `Σ_{d ≠ c} G_cd`
/// on it.
fn couple(grams: &[Mat<f64>], pairs: &[(usize, usize)], classes: usize, inputs: usize) -> Mat<f64> {
    let mut hessian: Mat<f64> = Mat::zeros(classes * inputs, classes * inputs);
    for (gram, &(c, d)) in grams.iter().zip(pairs) {
        for j in 0..inputs {
            for i in 0..inputs {
                let value = gram[(i.max(j), i.min(j))];
                hessian[(c * inputs + i, d * inputs + j)] = -value;
                hessian[(c * inputs + i, c * inputs + j)] += value;
                hessian[(d * inputs + i, d * inputs + j)] += value;
            }
        }
    }
    hessian
}

/// Solves for gradients laid out class after class, one a column.
fn solve_flat(cholesky: &Cholesky, gradients: &mut [Mat<f64>]) {
    let Some(inputs) = gradients.first().map(Mat::nrows) else { return };
    let mut flat = Mat::zeros(inputs * gradients[0].ncols(), gradients.len());
    for (q, gradient) in gradients.iter().enumerate() {
        for (c, out) in slice_mut(&mut flat, q).chunks_exact_mut(inputs).enumerate() {
            out.copy_from_slice(slice(gradient, c));
        }
    }
    cholesky.solve(flat.as_mut());
    for (q, gradient) in gradients.iter_mut().enumerate() {
        for (c, solved) in slice(&flat, q).chunks_exact(inputs).enumerate() {
            slice_mut(gradient, c).copy_from_slice(solved);
        }
    }
}

/// Records whose gradients are held at a time.
const GRADIENTS: usize = 64;

fn coupled_forms(cholesky: &Cholesky, block: &Block) -> Vec<f64> {
    let (inputs, classes) = (block.inputs.nrows(), block.deltas.nrows());
    let mut forms = Vec::with_capacity(block.rows);
    for start in (0..block.rows).step_by(GRADIENTS) {
        let rows = GRADIENTS.min(block.rows - start);
        let mut gradients = Mat::zeros(classes * inputs, rows);
        for r in 0..rows {
            let h = slice(&block.inputs, start + r);
            let delta = slice(&block.deltas, start + r);
            for (gradient, delta) in slice_mut(&mut gradients, r).chunks_exact_mut(inputs).zip(delta) {
                gradient.iter_mut().zip(h).for_each(|(gradient, h)| *gradient = delta * h);
            }
        }
        cholesky.half_solve(gradients.as_mut());
        forms.extend((0..rows).map(|r| squared_norm(slice(&gradients, r))));
    }
    forms
}

/// `h̃_iᵀ (L Lᵀ)⁻¹ h̃_i` of each record.
pub(super) fn input_forms(cholesky: &Cholesky, block: &Block) -> Vec<f64> {
    let mut solved = block.inputs.clone();
    cholesky.half_solve(solved.as_mut());
    (0..block.rows).map(|r| squared_norm(slice(&solved, r))).collect()
}

fn squared_norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum()
}
