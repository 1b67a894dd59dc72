//! The whole matrix where there are fewer records than numbers, by Woodbury's identity:
//!
//! ```text
//! (XᵀX + λI)⁻¹ v = (v − Xᵀ (XXᵀ + λI)⁻¹ X v) / λ        X = W^½ Φ [N, d]
//! ```
//!
//! N² numbers are kept in the place of d², and the gradients themselves are read where they lie.

use faer::Mat;
use rayon::prelude::*;

use super::deletion::Roots;
use super::{Counted, FactorRows, KeepGoing, left_out, not_positive};
use crate::error::{Error, Result};
use crate::factors::dense::{Cholesky, add_product, slice, slice_mut};

pub(super) struct Dual<'a> {
    rows: Rows<'a>,
    /// The square root of what each record counts, `[N]`.
    roots: Vec<f64>,
    /// Of `XXᵀ + λI`.
    cholesky: Cholesky,
    damping: f64,
    /// λ over the mean diagonal of the matrix of numbers.
    pub(super) share: f64,
}

/// Records of a tile of the matrix.
const TILE: usize = 64;
/// Numbers of each that are multiplied at a time.
const DEPTH: usize = 512;
/// Others that a tile of records is multiplied with at a time.
const GIVEN: usize = 8;

impl<'a> Dual<'a> {
    /// How many times [`Self::fit`] asks whether to go on.
    pub(super) fn steps(rows: usize, width: usize) -> usize {
        rows.div_ceil(TILE) * width.div_ceil(DEPTH) + 1
    }

    pub(super) fn fit(
        pieces: Vec<FactorRows<'a>>,
        counted: &Counted,
        damping: Option<f64>,
        keep_going: KeepGoing<'_>,
    ) -> Result<Self> {
        let rows = Rows::new(pieces);
        let count = rows.places.len();
        let (roots, aims): (Vec<f64>, Vec<f64>) = (0..count).map(|row| counted.root(row)).unzip();
        let mut matrix = rows.gram(keep_going)?;
        for (j, root) in roots.iter().enumerate() {
            slice_mut(&mut matrix, j).iter_mut().zip(&roots).for_each(|(entry, other)| *entry *= root * other);
        }
        let mean = (0..count).map(|i| matrix[(i, i)]).sum::<f64>() / rows.width as f64;
        if mean == 0.0 {
            return Err(Error::usage("the second moments of the gradients are all 0"));
        }
        let factor = |share: f64| {
            if !keep_going() {
                return Err(Error::Interrupted);
            }
            let mut damped = matrix.clone();
            (0..count).for_each(|i| damped[(i, i)] += share * mean);
            if share * mean > 0.0 { Cholesky::factor(damped).map_err(|_| not_positive()) } else { Err(not_positive()) }
        };
        let share = match damping {
            Some(share) => share,
            None => left_out::least(|share| Ok(left_out_error(&factor(share)?, &aims)))?,
        };
        let cholesky = factor(share)?;
        Ok(Self { rows, roots, cholesky, damping: share * mean, share })
    }

    /// What records tell of the numbers at these places, and what that leaves is of: `M⁻¹ = (I − Xᵀ (XXᵀ + λI)⁻¹ X) /
    /// λ`.
    pub(super) fn inverse_roots(&self, places: &[usize]) -> Roots {
        let mut columns = Mat::zeros(self.roots.len(), places.len());
        let (Some(&first), Some(&last)) = (places.iter().min(), places.iter().max()) else {
            return Roots { columns, left_of: Some(self.damping) };
        };
        let mut row = vec![0.0; last - first + 1];
        for (i, root) in self.roots.iter().enumerate() {
            self.rows.decode(i, first, &mut row);
            places.iter().enumerate().for_each(|(j, &place)| columns[(i, j)] = root * row[place - first]);
        }
        self.cholesky.half_solve(columns.as_mut());
        Roots { columns, left_of: Some(self.damping) }
    }

    pub(super) fn solve(&self, given: &[f64], out: &mut [f64]) {
        let count = self.roots.len();
        let mut row = vec![0.0; self.rows.width];
        let mut inner = Mat::zeros(count, 1);
        for (i, root) in self.roots.iter().enumerate() {
            self.rows.decode(i, 0, &mut row);
            inner[(i, 0)] = root * row.iter().zip(given).map(|(x, v)| x * v).sum::<f64>();
        }
        self.cholesky.solve(inner.as_mut());
        out.copy_from_slice(given);
        for (i, root) in self.roots.iter().enumerate() {
            self.rows.decode(i, 0, &mut row);
            let factor = root * inner[(i, 0)];
            out.iter_mut().zip(&row).for_each(|(out, x)| *out -= factor * x);
        }
        for out in &mut *out {
            *out /= self.damping;
        }
    }
}

/// The mean of squared errors of records left out: C⁻¹ times what they are to rise by over C⁻¹'s diagonal, C the damped
/// matrix of records.
fn left_out_error(cholesky: &Cholesky, aims: &[f64]) -> f64 {
    let mut taught = Mat::from_fn(aims.len(), 1, |i, _| aims[i]);
    cholesky.solve(taught.as_mut());
    let errors = slice(&taught, 0).iter().zip(cholesky.own()).map(|(x, own)| (x * own).powi(2));
    errors.sum::<f64>() / aims.len() as f64
}

/// The products of all features with all, of which the lower triangle is there.
///
/// # Errors
/// [`Error::Interrupted`].
pub(in crate::factors) fn gram_of(pieces: Vec<FactorRows<'_>>, keep_going: KeepGoing<'_>) -> Result<Mat<f64>> {
    Rows::new(pieces).gram(keep_going)
}

/// The products of all features with `given`, whose bits do not depend on each other, `[N, given]`.
///
/// # Errors
/// [`Error::Interrupted`].
pub(in crate::factors) fn products_of(
    pieces: Vec<FactorRows<'_>>,
    given: &[&[f32]],
    keep_going: KeepGoing<'_>,
) -> Result<Mat<f64>> {
    Rows::new(pieces).products(given, keep_going)
}

/// Gradients by their number.
struct Rows<'a> {
    pieces: Vec<FactorRows<'a>>,
    /// Each record's piece, and its row there.
    places: Vec<(usize, usize)>,
    width: usize,
}

impl<'a> Rows<'a> {
    fn new(pieces: Vec<FactorRows<'a>>) -> Self {
        let of_piece = |(piece, rows): (usize, &FactorRows<'_>)| (0..rows.rows).map(move |row| (piece, row));
        let places = pieces.iter().enumerate().flat_map(of_piece).collect();
        let width = pieces.first().map_or(0, |piece| piece.width);
        Self { pieces, places, width }
    }

    /// The numbers from `start` on.
    fn decode(&self, row: usize, start: usize, out: &mut [f64]) {
        let (piece, row) = self.places[row];
        self.pieces[piece].features.decode(row * self.width + start, out);
    }

    /// `[N, N]`, of which the lower triangle is there.
    fn gram(&self, keep_going: KeepGoing<'_>) -> Result<Mat<f64>> {
        let count = self.places.len();
        let firsts: Vec<usize> = (0..count).step_by(TILE).collect();
        let tile = |&first: &usize| {
            let mut sum = Mat::zeros(TILE.min(count - first), count.min(first + TILE));
            for start in (0..self.width).step_by(DEPTH) {
                if !keep_going() {
                    return Err(Error::Interrupted);
                }
                let before = self.columns(0..sum.ncols(), start);
                let own = before.as_ref().subcols(first, sum.nrows());
                add_product(sum.as_mut(), own.transpose(), before.as_ref());
            }
            Ok(sum)
        };
        let tiles: Vec<Mat<f64>> = firsts.par_iter().map(tile).collect::<Result<_>>()?;
        Ok(Mat::from_fn(count, count, |i, j| if j > i { 0.0 } else { tiles[i / TILE][(i % TILE, j)] }))
    }

    /// `[N, given]`
    fn products(&self, given: &[&[f32]], keep_going: KeepGoing<'_>) -> Result<Mat<f64>> {
        let count = self.places.len();
        let firsts: Vec<usize> = (0..count).step_by(TILE).collect();
        let tile = |&first: &usize| {
            let rows = first..count.min(first + TILE);
            // In groups of one size, the last one filled up with zeros.
            let mut sums = vec![Mat::zeros(rows.len(), GIVEN); given.len().div_ceil(GIVEN)];
            for start in (0..self.width).step_by(DEPTH) {
                if !keep_going() {
                    return Err(Error::Interrupted);
                }
                let own = self.columns(rows.clone(), start);
                for (sum, some) in sums.iter_mut().zip(given.chunks(GIVEN)) {
                    let number = |i, j| some.get(j).map_or(0.0, |numbers: &&[f32]| f64::from(numbers[start + i]));
                    add_product(sum.as_mut(), own.transpose(), Mat::from_fn(own.nrows(), GIVEN, number).as_ref());
                }
            }
            Ok(sums)
        };
        let tiles: Vec<Vec<Mat<f64>>> = firsts.par_iter().map(tile).collect::<Result<_>>()?;
        Ok(Mat::from_fn(count, given.len(), |i, j| tiles[i / TILE][j / GIVEN][(i % TILE, j % GIVEN)]))
    }

    /// Some numbers of some records, one record a column.
    fn columns(&self, rows: std::ops::Range<usize>, start: usize) -> Mat<f64> {
        let mut columns = Mat::zeros(DEPTH.min(self.width - start), rows.len());
        for (j, row) in rows.enumerate() {
            self.decode(row, start, slice_mut(&mut columns, j));
        }
        columns
    }
}
