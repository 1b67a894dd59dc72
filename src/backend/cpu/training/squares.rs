//! Sums in f64, of numbers and of squares: what curvature is the mean of.

use rayon::prelude::*;

/// Numbers of a row that a thread takes at a time.
const SPAN: usize = 1 << 14;

/// [`crate::backend::training::Training::add_to_sums`]
pub(super) fn add_once(sums: &mut [f64], x: &[f32]) {
    let spans = sums.par_chunks_mut(SPAN).zip(x.par_chunks(SPAN));
    spans.for_each(|(sums, x)| sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += f64::from(x)));
}

/// [`crate::backend::training::Training::add_squares`]
pub(super) fn add(sums: &mut [f64], x: &[f32], rows: usize) {
    let len = sums.len();
    sums.par_chunks_mut(SPAN).enumerate().for_each(|(span, sums)| {
        for row in x.chunks_exact(len).take(rows) {
            let row = &row[span * SPAN..][..sums.len()];
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
        }
    });
}

/// [`crate::backend::training::Training::weighted_squares`]
pub(super) fn weighted(weights: &[f64], x: &[f32], rows: usize) -> Vec<f64> {
    let of_row = |row: &[f32]| row.iter().zip(weights).map(|(&x, w)| w * f64::from(x) * f64::from(x)).sum();
    x.par_chunks_exact(weights.len()).take(rows).map(of_row).collect()
}
