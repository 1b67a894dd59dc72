//! Weighted Gram matrices `Σ_i w_i h̃_i h̃_iᵀ [E + 1, E + 1]`, many weightings in one pass over the training factors:
//! what exact Hessians and Kronecker factors are put together from.
//!
//! The work is shared out by tiles of the results, each summed over all records in order by one thread at a time; only
//! tiles on and below the diagonal are computed.

use std::ops::Range;

use faer::{Mat, MatMut};
use rayon::prelude::*;

use super::block::{Block, Blocks};
use super::dense::{add_product, slice};
use crate::error::Result;

/// Rows of a tile of the result.
const TILE: usize = 96;

/// One Gram matrix: of which of the inputs, and by which of the weightings.
pub(super) struct Wanted {
    pub(super) rows: Range<usize>,
    pub(super) weighting: usize,
}

/// The Gram matrices of all inputs by `count` weightings: `weights(block)` gives `[count, R]`. Only lower triangles are
/// meant to be read.
pub(super) fn weighted_grams(
    blocks: &Blocks<'_>,
    count: usize,
    weights: impl Fn(&Block) -> Mat<f64> + Sync,
) -> Result<Vec<Mat<f64>>> {
    let wanted: Vec<Wanted> = (0..count).map(|weighting| Wanted { rows: 0..blocks.inputs(), weighting }).collect();
    grams(blocks, &wanted, weights)
}

/// The Gram matrices that are wanted. Only lower triangles are meant to be read.
pub(super) fn grams(
    blocks: &Blocks<'_>,
    wanted: &[Wanted],
    weights: impl Fn(&Block) -> Mat<f64> + Sync,
) -> Result<Vec<Mat<f64>>> {
    let mut tiles = tiles(wanted);
    blocks.several(weights, |wave| {
        tiles.par_iter_mut().for_each(|tile| {
            for (block, weights) in wave {
                tile.add(&block.inputs, weights);
            }
        });
    })?;
    Ok(assemble(tiles, wanted))
}

/// Rows `first ..` of Gram matrix `gram`, up to the diagonal.
struct Tile {
    gram: usize,
    /// Its first input, and its weighting.
    of: (usize, usize),
    first: usize,
    /// `[≤ TILE, first + ≤ TILE]`
    sum: Mat<f64>,
}

fn tiles(wanted: &[Wanted]) -> Vec<Tile> {
    let of_gram = |(gram, Wanted { rows, weighting }): (usize, &Wanted)| {
        let (width, of) = (rows.len(), (rows.start, *weighting));
        (0..width).step_by(TILE).map(move |first| {
            let rows = TILE.min(width - first);
            Tile { gram, of, first, sum: Mat::zeros(rows, first + rows) }
        })
    };
    wanted.iter().enumerate().flat_map(of_gram).collect()
}

impl Tile {
    fn add(&mut self, inputs: &Mat<f64>, weights: &Mat<f64>) {
        let (rows, columns, (start, weighting)) = (self.sum.nrows(), self.sum.ncols(), self.of);
        let mut weighted = Mat::zeros(rows, inputs.ncols());
        for r in 0..inputs.ncols() {
            let (weight, input) = (weights[(weighting, r)], &slice(inputs, r)[start + self.first..]);
            weighted.col_as_slice_mut(r).iter_mut().zip(input).for_each(|(out, x)| *out = weight * x);
        }
        let others = inputs.as_ref().subrows(start, columns);
        add_product(self.sum.as_mut(), weighted.as_ref(), others.transpose());
    }
}

fn assemble(tiles: Vec<Tile>, wanted: &[Wanted]) -> Vec<Mat<f64>> {
    let mut grams: Vec<Mat<f64>> = wanted.iter().map(|one| Mat::zeros(one.rows.len(), one.rows.len())).collect();
    for Tile { gram, first, sum, .. } in tiles {
        let out: MatMut<'_, f64> = grams[gram].as_mut();
        out.submatrix_mut(first, 0, sum.nrows(), sum.ncols()).copy_from(&sum);
    }
    grams
}
