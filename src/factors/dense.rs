//! The few dense f64 operations that refits and curvature are made of, over `faer`.
//!
//! Everything here runs on one thread and in an order that the shapes alone decide; callers keep those fixed, and share
//! the work out among threads by whole results. Parameters of a head are a matrix `[E + 1, K]`: a column is one class's
//! `[w_c; b_c]`.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, Conj, Mat, MatMut, MatRef, Par};

use crate::error::{Error, Result};
use crate::interrupt;

/// Rows from which a decomposition takes so long that Ctrl-C is to be heard in the middle of it.
const LONG: usize = 512;

/// Right-hand sides solved for at a time. Groups are filled up with zeros, so that a solution's bits do not depend on
/// its neighbours.
const GROUP: usize = 8;

/// `out = lhs · rhs`.
pub(super) fn product(out: MatMut<'_, f64>, lhs: MatRef<'_, f64>, rhs: MatRef<'_, f64>) {
    matmul(out, Accum::Replace, lhs, rhs, 1.0, Par::Seq);
}

/// `out += lhs · rhs`.
pub(super) fn add_product(out: MatMut<'_, f64>, lhs: MatRef<'_, f64>, rhs: MatRef<'_, f64>) {
    matmul(out, Accum::Add, lhs, rhs, 1.0, Par::Seq);
}

/// `Σ x y`, column after column.
pub(super) fn inner(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    let column = |j| -> f64 { slice(x, j).iter().zip(slice(y, j)).map(|(x, y)| x * y).sum() };
    (0..x.ncols()).map(column).sum()
}

/// The Euclidean norm of all entries.
pub(super) fn norm(x: &Mat<f64>) -> f64 {
    inner(x, x).sqrt()
}

/// `x + t y`.
pub(super) fn step(x: &Mat<f64>, t: f64, y: &Mat<f64>) -> Mat<f64> {
    Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)] + t * y[(i, j)])
}

/// `x += t y`.
pub(super) fn add_scaled(x: &mut Mat<f64>, t: f64, y: &Mat<f64>) {
    for j in 0..x.ncols() {
        for (x, y) in slice_mut(x, j).iter_mut().zip(slice(y, j)) {
            *x += t * y;
        }
    }
}

/// Column `j`.
pub(super) fn slice(x: &Mat<f64>, j: usize) -> &[f64] {
    x.col_as_slice(j)
}

/// Column `j`.
pub(super) fn slice_mut(x: &mut Mat<f64>, j: usize) -> &mut [f64] {
    x.col_as_slice_mut(j)
}

/// A decomposition of `matrix`.
pub(super) fn decompose<T: Send + 'static>(
    matrix: Mat<f64>,
    by: impl FnOnce(Mat<f64>) -> T + Send + 'static,
) -> Result<T> {
    if matrix.nrows() < LONG { Ok(by(matrix)) } else { interrupt::apart(move || by(matrix)) }
}

/// A symmetric positive definite matrix as `L Lᵀ`.
pub(super) struct Cholesky {
    lower: Mat<f64>,
}

impl Cholesky {
    /// Factors `matrix` (its lower triangle is read) in place.
    ///
    /// # Errors
    /// Where it is not positive definite to f64's precision, or holds something that is not a number.
    pub(super) fn factor(matrix: Mat<f64>) -> Result<Self> {
        let lower = decompose(matrix, |mut matrix| {
            let scratch =
                llt::factor::cholesky_in_place_scratch::<f64>(matrix.nrows(), Par::Seq, faer::Spec::default());
            llt::factor::cholesky_in_place(
                matrix.as_mut(),
                llt::factor::LltRegularization::default(),
                Par::Seq,
                MemStack::new(&mut MemBuffer::new(scratch)),
                faer::Spec::default(),
            )
            .map(|_| matrix)
        })?;
        let finite = |lower: &Mat<f64>| (0..lower.nrows()).all(|i| lower[(i, i)].is_finite());
        lower.ok().filter(finite).map(|lower| Self { lower }).ok_or_else(not_positive_definite)
    }

    /// `1 / (A⁻¹)_rr` of the factored `A = L Lᵀ`.
    pub(super) fn own(&self) -> Vec<f64> {
        let width = self.lower.nrows();
        let mut own = Vec::with_capacity(width);
        for first in (0..width).step_by(8 * GROUP) {
            let mut units = Mat::zeros(width, (8 * GROUP).min(width - first));
            (0..units.ncols()).for_each(|j| units[(first + j, j)] = 1.0);
            self.half_solve(units.as_mut());
            own.extend((0..units.ncols()).map(|j| 1.0 / slice(&units, j).iter().map(|x| x * x).sum::<f64>()));
        }
        own
    }

    /// `x = (L Lᵀ)⁻¹ x`, for each column of `x`.
    pub(super) fn solve(&self, x: MatMut<'_, f64>) {
        in_groups::<GROUP>(x, |group| {
            llt::solve::solve_in_place_with_conj(
                self.lower.as_ref(),
                Conj::No,
                group,
                Par::Seq,
                MemStack::new(&mut MemBuffer::new(faer::dyn_stack::StackReq::EMPTY)),
            );
        });
    }

    /// `x = L⁻¹ x`, for each column of `x`: its squared norm is `xᵀ (L Lᵀ)⁻¹ x`. Made for thousands of columns.
    pub(super) fn half_solve(&self, x: MatMut<'_, f64>) {
        in_groups::<{ 8 * GROUP }>(x, |group| solve_lower_triangular_in_place(self.lower.as_ref(), group, Par::Seq));
    }
}

/// Applies `f` to copies of `WIDTH` columns at a time, the last ones filled up with zeros.
fn in_groups<const WIDTH: usize>(mut x: MatMut<'_, f64>, f: impl Fn(MatMut<'_, f64>)) {
    let mut group = Mat::zeros(x.nrows(), WIDTH);
    for start in (0..x.ncols()).step_by(WIDTH) {
        let columns = WIDTH.min(x.ncols() - start);
        group.fill(0.0);
        group.as_mut().subcols_mut(0, columns).copy_from(x.as_ref().subcols(start, columns));
        f(group.as_mut());
        x.as_mut().subcols_mut(start, columns).copy_from(group.as_ref().subcols(0, columns));
    }
}

fn not_positive_definite() -> Error {
    Error::usage("the curvature of the head is not positive definite to double precision")
        .with_hint("a larger damping λ makes it so, unless a feature is not a number")
}
