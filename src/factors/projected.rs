//! The second moments of projected gradients, damped and factored: what TRAK and the projected Gauss-Newton matrix precondition a query by.
//!
//! ```text
//! TRAK            ΦᵀΦ + λI                       Park et al. 2023, *TRAK: Attributing Model Behavior at Scale*
//! Gauss-Newton    (1/N) Σ p(1 − p) φφᵀ + λI      the loss's second derivative in the margin; exact for two classes
//! ```
//!
//! λ is a share of the matrix's mean diagonal, so that one number suits gradients of any size.

use faer::Mat;

use super::block::{Block, Blocks, KeepGoing, ROWS};
use super::dense::{Cholesky, slice, slice_mut};
use super::gram::weighted_grams;
use super::{FactorRows, FactorSource, LabelUsed, LabelledRows, Labels};
use crate::error::{Error, Result};
use crate::model::Problem;

/// What each record counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighting {
    /// 1.
    Even,
    /// `p(1 − p)/N`, by its slope `−(1 − p)`.
    Curvature,
}

/// A damped second moment, ready to be solved with.
pub struct DampedGram {
    cholesky: Cholesky,
    width: usize,
}

impl DampedGram {
    /// Over all rows of `pieces`, in f64 and in one order whatever the pieces and threads.
    ///
    /// # Errors
    /// [`Error::Usage`] where the matrix is not positive definite, or the damping is no share; [`Error::Interrupted`].
    pub fn fit(
        pieces: Vec<FactorRows<'_>>,
        weighting: Weighting,
        damping: f64,
        keep_going: KeepGoing<'_>,
    ) -> Result<Self> {
        if !(damping.is_finite() && damping >= 0.0) {
            return Err(Error::usage(format!("--lambda: expected a number from 0 on, found {damping}")));
        }
        let width = pieces.first().map_or(0, |piece| piece.width);
        let gradients = Gradients::new(pieces);
        let blocks = Blocks::new(&gradients, keep_going)?;
        let rows = blocks.rows() as f64;
        let weigh = |block: &Block| {
            let weight = |_, r: usize| match weighting {
                Weighting::Even => 1.0,
                Weighting::Curvature => -block.deltas[(0, r)] * (1.0 + block.deltas[(0, r)]) / rows,
            };
            Mat::from_fn(1, ROWS, weight)
        };
        let gram = weighted_grams(&blocks, 1, weigh)?.swap_remove(0);
        // A factor source's inputs end in a 1, which gradients have no use for.
        let mut matrix = Mat::from_fn(width, width, |i, j| if i >= j { gram[(i, j)] } else { 0.0 });
        let mean = (0..width).map(|i| matrix[(i, i)]).sum::<f64>() / width.max(1) as f64;
        (0..width).for_each(|i| matrix[(i, i)] += damping * mean);
        // The padding of a projection that its layers could not use up is zero for every record.
        (0..width).filter(|&i| gram[(i, i)] == 0.0).for_each(|i| matrix[(i, i)] += if mean > 0.0 { mean } else { 1.0 });
        let cholesky = Cholesky::factor(matrix).map_err(|_| {
            Error::usage("the second moments of the gradients are not positive definite to double precision")
                .with_hint("a larger --lambda makes them so")
        })?;
        Ok(Self { cholesky, width })
    }

    /// The inverse times each of these vectors.
    ///
    /// # Panics
    /// Where one is of another width.
    pub fn solve(&self, queries: &[&[f32]]) -> Vec<Vec<f32>> {
        let mut columns = Mat::zeros(self.width, queries.len());
        for (j, query) in queries.iter().enumerate() {
            assert_eq!(query.len(), self.width, "a query of the gradients' width");
            slice_mut(&mut columns, j).iter_mut().zip(*query).for_each(|(out, &x)| *out = f64::from(x));
        }
        self.cholesky.solve(columns.as_mut());
        (0..queries.len()).map(|j| slice(&columns, j).iter().map(|&x| x as f32).collect()).collect()
    }
}

/// Projected gradients as a source of factors with one output.
struct Gradients<'a> {
    pieces: Vec<FactorRows<'a>>,
    /// What no target is asked of.
    zeros: Vec<f32>,
}

impl<'a> Gradients<'a> {
    fn new(pieces: Vec<FactorRows<'a>>) -> Self {
        let most = pieces.iter().map(|piece| piece.rows).max().unwrap_or_default();
        Self { pieces, zeros: vec![0.0; most] }
    }
}

impl FactorSource for Gradients<'_> {
    fn problem(&self) -> Problem {
        Problem::Regression
    }

    fn width(&self) -> usize {
        self.pieces.first().map_or(0, |piece| piece.width)
    }

    fn classes(&self) -> usize {
        1
    }

    fn piece_rows(&self) -> Vec<usize> {
        self.pieces.iter().map(|piece| piece.rows).collect()
    }

    fn piece(&self, i: usize) -> LabelledRows<'_> {
        let FactorRows { rows, features, deltas, .. } = self.pieces[i];
        let targets = Labels::Rows(&self.zeros[..rows]);
        LabelledRows { features, deltas, labels: targets, predictions: targets, used: LabelUsed::Predicted }
    }
}
