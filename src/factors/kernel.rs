//! Influence where a head has too many outputs for any matrix over its numbers, such as a vocabulary: by a matrix over
//! the factors.
//!
//! The curvature is the empirical Fisher information, as of answers ([`super::Curvature`] says what that means), `F̂ =
//! (1/F) Σ_f g_f g_fᵀ = G Gᵀ / F`. What stands between two gradients of training factors is then a matrix of as many
//! rows as there are of those, by the push-through identity
//!
//! ```text
//! g_qᵀ (F̂ + λI)⁻¹ G = F · g_qᵀ G (GᵀG + FλI)⁻¹
//! ```
//!
//! so that a query brings its products with all of them, and gets its scores by one system of equations. `GᵀG` has the
//! entry `(δ_f·δ_g)(h_f·h_g + 1)`: no gradient is ever held. What rounding does to products the system makes larger, as
//! much as λ is small, so that those are in f64, of queries too.

use std::ops::Range;

use faer::Mat;

use super::dense::{Cholesky, slice};
use super::projected::{gram_of, products_of};
use super::refit::check_positive;
use super::{Bundle, FactorRows, FactorSource, Floats, KeepGoing};
use crate::error::{Error, Result};
use crate::model::Task;

/// Outputs of a head whose curvature is taken over its own numbers, where they are the pieces of a vocabulary.
pub(crate) const MOST_PIECES: usize = 1024;

/// `(F̂ + λI)⁻¹` among the factors of a source.
pub struct FactorKernel {
    /// F.
    count: usize,
    /// `GᵀG`, of which the lower triangle is there.
    gram: Mat<f64>,
    /// Of `GᵀG + FλI`.
    cholesky: Cholesky,
}

impl FactorKernel {
    /// Most factors whose matrices are held: 2 GiB each.
    pub const MOST_FACTORS: usize = 16_384;

    /// Whether influence over a head of so many outputs is by the factors.
    pub fn is_for(task: Task, classes: usize) -> bool {
        task == Task::Masks && classes > MOST_PIECES
    }

    /// Of all factors of a source, whose bias coordinates are 1.
    ///
    /// # Errors
    /// [`Error::Usage`]: a damping that is not positive, no factors, or more than 16,384; [`Error::Interrupted`].
    pub fn fit(source: &dyn FactorSource, damping: f64, keep_going: KeepGoing<'_>) -> Result<Self> {
        check_positive("the damping λ", damping)?;
        let (classes, count) = (source.classes(), source.piece_rows().iter().sum());
        if count == 0 || count > Self::MOST_FACTORS {
            return Err(Error::usage(format!(
                "influence over a head of {classes} outputs is by a matrix over the training factors: expected 1 to {}, found {count}",
                Self::MOST_FACTORS
            ))
            .with_hint("index fewer records, or use grad-cos, grad-dot or tracin"));
        }
        let inputs = gram_of(pieces(source, Side::Features), keep_going)?;
        let mut gram = gram_of(pieces(source, Side::Deltas), keep_going)?;
        for j in 0..count {
            for i in j..count {
                gram[(i, j)] *= inputs[(i, j)] + 1.0;
            }
        }
        drop(inputs);
        let mut damped = gram.clone();
        (0..count).for_each(|i| damped[(i, i)] += damping * count as f64);
        Ok(Self { count, gram, cholesky: Cholesky::factor(damped)? })
    }

    /// F.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The products of queries' gradients with those of all factors of `source`, `[F]` each: a query's do not depend on
    /// the others.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn products(source: &dyn FactorSource, asking: &[Bundle], keep_going: KeepGoing<'_>) -> Result<Vec<Vec<f64>>> {
        let (width, classes) = (source.width(), source.classes());
        let features: Vec<&[f32]> = asking.iter().flat_map(|bundle| bundle.features.chunks_exact(width)).collect();
        let deltas: Vec<&[f32]> = asking.iter().flat_map(|bundle| bundle.deltas.chunks_exact(classes)).collect();
        let inputs = products_of(pieces(source, Side::Features), &features, keep_going)?;
        let outputs = products_of(pieces(source, Side::Deltas), &deltas, keep_going)?;
        let mut first = 0;
        let of_query = |bundle: &Bundle| {
            let mut sums = vec![0.0; outputs.nrows()];
            for (j, &bias) in (first..).zip(&bundle.biases) {
                let own = slice(&outputs, j).iter().zip(slice(&inputs, j));
                sums.iter_mut().zip(own).for_each(|(sum, (delta, h))| *sum += delta * (h + f64::from(bias)));
            }
            first += bundle.len();
            sums
        };
        Ok(asking.iter().map(of_query).collect())
    }

    /// The scores of all training factors for a query whose gradient has these products with theirs, `[F]`.
    pub fn influence(&self, products: &[f64]) -> Vec<f32> {
        let mut solved = Mat::from_fn(self.count, 1, |i, _| products[i]);
        self.cholesky.solve(solved.as_mut());
        (0..self.count).map(|i| (self.count as f64 * solved[(i, 0)]) as f32).collect()
    }

    /// `g_iᵀ (F̂ + λI)⁻¹ g_i` of records whose factors are these.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn self_influence(&self, records: &[Range<usize>], keep_going: KeepGoing<'_>) -> Result<Vec<f32>> {
        /// Records solved for at a time.
        const TOGETHER: usize = 64;
        let entry = |i: usize, j: usize| self.gram[(i.max(j), i.min(j))];
        let mut all = Vec::with_capacity(records.len());
        for some in records.chunks(TOGETHER) {
            if !keep_going() {
                return Err(Error::Interrupted);
            }
            let mut solved = Mat::from_fn(self.count, some.len(), |i, r| {
                some[r].clone().map(|factor| entry(i, factor)).sum::<f64>()
            });
            self.cholesky.solve(solved.as_mut());
            all.extend(some.iter().enumerate().map(|(r, record)| {
                let sum: f64 = record.clone().map(|factor| solved[(factor, r)]).sum();
                (self.count as f64 * sum).max(0.0) as f32
            }));
        }
        Ok(all)
    }
}

/// A factor's two vectors.
#[derive(Clone, Copy)]
enum Side {
    Features,
    Deltas,
}

/// One side of all factors.
fn pieces(source: &dyn FactorSource, side: Side) -> Vec<FactorRows<'_>> {
    let piece = |(number, rows): (usize, usize)| {
        let piece = source.piece(number);
        let (width, features) = match side {
            Side::Features => (source.width(), piece.features),
            Side::Deltas => (source.classes(), Floats::F32(piece.deltas)),
        };
        FactorRows { rows, width, classes: 0, features, deltas: &[], feature_norms: &[], delta_norms: &[] }
    };
    source.piece_rows().into_iter().enumerate().map(piece).collect()
}
