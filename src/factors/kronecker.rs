//! The Kronecker form of the last layer's curvature, `H ≈ A ⊗ B`: A the mean of the losses' Hessians with respect to
//! the logits, `E[A_i] [K, K]`, and B the mean of `h̃ h̃ᵀ [E + 1, E + 1]` (Martens and Grosse 2015, "Optimizing neural
//! networks with Kronecker-factored approximate curvature"; Grosse et al. 2023, "Studying large language model
//! generalization with influence functions", §2.2).
//!
//! `(A ⊗ B + λI)⁻¹` is taken exactly, in the eigenvectors of A and B: λ is never split between them, so a score differs
//! from the exact Hessian's by the approximation of H alone. K² + (E + 1)² numbers instead of their product, at any
//! number of classes.
//!
//! Where A acts on every δ as one number a (a squared error; two classes of a softmax, whose δ are all multiples of (1,
//! −1); a single sigmoid) it maps a gradient `δ h̃ᵀ` to another outer product, `δ [(a B + λI)⁻¹ h̃]ᵀ`: a query is
//! transformed once and then scored by the gradient rule.

use std::sync::Arc;

use faer::{Mat, Side};

use super::block::{Block, Blocks};
use super::dense::{add_product, decompose, product, slice, slice_mut};
use super::gram::weighted_grams;
use super::objective::Point;
use crate::error::{Error, Result};
use crate::model::Problem;

/// B: it depends on the features alone. Only the lower triangle is meant to be read.
pub(super) fn input_factor(blocks: &Blocks<'_>) -> Result<Mat<f64>> {
    let mut grams = weighted_grams(blocks, 1, |block| Mat::full(1, block.rows, 1.0))?;
    Ok(grams.swap_remove(0) * faer::Scale(1.0 / blocks.rows() as f64))
}

/// A, in its eigenvectors.
pub(super) enum Output {
    /// Of a softmax, which couples every class with every other.
    Coupled(Eigen),
    /// Of sigmoids and squared errors, which couple none; `[K]`.
    Diagonal(Vec<f64>),
}

impl Output {
    /// Classes of a softmax that a preconditioner takes together at most: eigenvectors take K³.
    const FEW: usize = 512;

    /// At `point`.
    pub(super) fn new(blocks: &Blocks<'_>, point: Point<'_>) -> Result<Self> {
        match blocks.problem() {
            Problem::SingleLabel => Ok(Self::Coupled(Eigen::new(coupled(blocks, point)?)?)),
            _ => Ok(Self::Diagonal(diagonal(blocks, point)?)),
        }
    }

    /// What stands for it in a preconditioner, of which nothing but speed depends: of many classes its diagonal.
    pub(super) fn near(blocks: &Blocks<'_>, point: Point<'_>) -> Result<Self> {
        if blocks.classes() > Self::FEW {
            Ok(Self::Diagonal(diagonal(blocks, point)?))
        } else {
            Self::new(blocks, point)
        }
    }

    fn values(&self) -> &[f64] {
        match self {
            Self::Coupled(eigen) => &eigen.values,
            Self::Diagonal(values) => values,
        }
    }

    /// The coordinates of each column of `x [K, ..]`.
    fn rotate(&self, x: Mat<f64>) -> Mat<f64> {
        match self {
            Self::Coupled(eigen) => eigen.rotate(&x),
            Self::Diagonal(_) => x,
        }
    }

    /// The columns that have these coordinates.
    fn rotate_back(&self, coordinates: Mat<f64>) -> Mat<f64> {
        match self {
            Self::Coupled(eigen) => eigen.rotate_back(&coordinates),
            Self::Diagonal(_) => coordinates,
        }
    }
}

/// A of a softmax at `point`, `[K, K]`; of boundaries of answers the mean of `δ δᵀ`: which share of them is of which
/// output.
fn coupled(blocks: &Blocks<'_>, point: Point<'_>) -> Result<Mat<f64>> {
    let (of_boundaries, classes) = (blocks.is_of_boundaries(), blocks.classes());
    let mut sum: Mat<f64> = Mat::zeros(classes, classes);
    blocks.fold(
        |block| {
            let mut sum = Mat::zeros(classes, classes);
            if of_boundaries {
                add_product(sum.as_mut(), block.deltas.as_ref(), block.deltas.transpose());
                return sum;
            }
            let p = point.outputs(Problem::SingleLabel, block);
            add_product(sum.as_mut(), p.as_ref(), p.transpose());
            sum = -sum;
            (0..classes).for_each(|c| sum[(c, c)] += p.row(c).iter().sum::<f64>());
            sum
        },
        |part| sum += &part,
    )?;
    sum *= 1.0 / blocks.rows() as f64;
    Ok(sum)
}

/// A's diagonal at `point`, `[K]`.
fn diagonal(blocks: &Blocks<'_>, point: Point<'_>) -> Result<Vec<f64>> {
    let problem = blocks.problem();
    let curvature = |p: &f64| if problem == Problem::Regression { 2.0 } else { p * (1.0 - p) };
    let mut sum = vec![0.0; blocks.classes()];
    blocks.fold(
        |block| {
            let outputs = point.outputs(problem, block);
            let mut sum = vec![0.0; outputs.nrows()];
            for r in 0..block.rows {
                sum.iter_mut().zip(slice(&outputs, r)).for_each(|(sum, p)| *sum += curvature(p));
            }
            sum
        },
        |part| sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part),
    )?;
    // Rounding may push what is zero below it.
    Ok(sum.into_iter().map(|sum| (sum / blocks.rows() as f64).max(0.0)).collect())
}

/// `(A ⊗ B + λI)⁻¹`, ready to be applied.
pub(super) struct Kronecker {
    output: Output,
    input: Arc<Eigen>,
    damping: f64,
    /// a, where A acts on every δ as this number.
    isotropic: Option<f64>,
}

impl Kronecker {
    /// Of the curvature of `blocks`. B's eigenvectors are given, so that they can serve several A.
    pub(super) fn new(blocks: &Blocks<'_>, output: Output, input: Arc<Eigen>, damping: f64) -> Self {
        let problem = blocks.problem();
        let rank = blocks.classes() - usize::from(problem == Problem::SingleLabel && !blocks.is_of_boundaries());
        let trace: f64 = output.values().iter().sum();
        let isotropic = (rank == 1 || problem == Problem::Regression).then(|| trace / rank as f64);
        Self { output, input, damping, isotropic }
    }

    /// Whether A acts on every δ as one number.
    pub(super) const fn is_isotropic(&self) -> bool {
        self.isotropic.is_some()
    }

    /// The inverse applied to any `g [E + 1, K]`.
    pub(super) fn solve(&self, gradient: &Mat<f64>) -> Mat<f64> {
        let mut rotated = self.output.rotate(self.input.rotate(gradient).transpose().to_owned());
        for (b, &input) in self.input.values.iter().enumerate() {
            for (x, &output) in slice_mut(&mut rotated, b).iter_mut().zip(self.output.values()) {
                *x /= output * input + self.damping;
            }
        }
        self.input.rotate_back(&self.output.rotate_back(rotated).transpose().to_owned())
    }

    /// `h̃' [E + 1, 1]` such that the inverse maps `δ h̃ᵀ` to `δ h̃'ᵀ`, for every δ; none where it does not.
    pub(super) fn transform(&self, input: &Mat<f64>) -> Option<Mat<f64>> {
        let scale = self.isotropic?;
        let mut rotated = self.input.rotate(input);
        let coordinates = slice_mut(&mut rotated, 0).iter_mut().zip(&self.input.values);
        coordinates.for_each(|(x, value)| *x /= scale * value + self.damping);
        Some(self.input.rotate_back(&rotated))
    }

    /// `g_iᵀ (A ⊗ B + λI)⁻¹ g_i` of each record of a block, with δ as stored.
    pub(super) fn quadratic_forms(&self, block: &Block) -> Vec<f64> {
        let squared = |mut x: Mat<f64>| {
            (0..x.ncols()).for_each(|r| slice_mut(&mut x, r).iter_mut().for_each(|x| *x *= *x));
            x
        };
        let inputs = squared(self.input.rotate(&block.inputs));
        let deltas = squared(self.output.rotate(block.deltas.clone()));
        let (outputs, damping) = (self.output.values(), self.damping);
        let weights = Mat::from_fn(outputs.len(), self.input.values.len(), |a, b| {
            1.0 / (outputs[a] * self.input.values[b] + damping)
        });
        let mut weighted = Mat::zeros(outputs.len(), block.rows);
        product(weighted.as_mut(), weights.as_ref(), inputs.as_ref());
        let form = |r| slice(&deltas, r).iter().zip(slice(&weighted, r)).map(|(d, w)| d * w).sum();
        (0..block.rows).map(form).collect()
    }
}

/// A positive semidefinite matrix in its eigenvectors.
pub(super) struct Eigen {
    /// One eigenvector a column.
    pub(super) vectors: Mat<f64>,
    pub(super) values: Vec<f64>,
}

impl Eigen {
    /// Of `matrix`, whose lower triangle is read.
    pub(super) fn new(matrix: Mat<f64>) -> Result<Self> {
        let hint = "a feature or a δ is not a number, or too large for one";
        let failed = || Error::usage("the factors of the curvature have no eigenvectors").with_hint(hint);
        if !(0..matrix.nrows()).all(|i| matrix[(i, i)].is_finite()) {
            return Err(failed());
        }
        let eigen = decompose(matrix, |matrix| matrix.self_adjoint_eigen(Side::Lower))?.map_err(|_| failed())?;
        // Rounding may push what is zero below it.
        let values = eigen.S().column_vector().iter().map(|value| value.max(0.0)).collect();
        Ok(Self { vectors: eigen.U().to_owned(), values })
    }

    /// The coordinates of each column of `x`.
    fn rotate(&self, x: &Mat<f64>) -> Mat<f64> {
        let mut out = Mat::zeros(x.nrows(), x.ncols());
        product(out.as_mut(), self.vectors.transpose(), x.as_ref());
        out
    }

    /// The columns that have these coordinates.
    fn rotate_back(&self, coordinates: &Mat<f64>) -> Mat<f64> {
        let mut out = Mat::zeros(coordinates.nrows(), coordinates.ncols());
        product(out.as_mut(), self.vectors.as_ref(), coordinates.as_ref());
        out
    }
}
