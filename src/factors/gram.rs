//! Weighted Gram matrices `Σ_i w_i h̃_i h̃_iᵀ [E + 1, E + 1]`, many weightings in one pass over the training factors: what exact Hessians
//! and Kronecker factors are put together from.
//!
//! The work is shared out by tiles of the results, each summed over all records in order by one thread at a time; only tiles on and
//! below the diagonal are computed.

use faer::{Mat, MatMut};
use rayon::prelude::*;

use super::block::{Block, Blocks, ROWS};
use super::dense::{add_product, slice};
use crate::error::Result;

/// Rows of a tile of the result.
const TILE: usize = 96;

/// The Gram matrices of `count` weightings: `weights(block)` gives `[count, ROWS]`. Only lower triangles are meant to be read.
pub(super) fn weighted_grams(
    blocks: &Blocks<'_>,
    count: usize,
    weights: impl Fn(&Block) -> Mat<f64> + Sync,
) -> Result<Vec<Mat<f64>>> {
    let width = blocks.inputs();
    let mut tiles = tiles(width, count);
    blocks.several(weights, |wave| {
        tiles.par_iter_mut().for_each(|tile| {
            for (block, weights) in &wave {
                tile.add(&block.inputs, weights);
            }
        });
    })?;
    Ok(assemble(tiles, width, count))
}

/// Rows `first ..` of Gram matrix `gram`, up to the diagonal.
struct Tile {
    gram: usize,
    first: usize,
    /// `[≤ TILE, first + ≤ TILE]`
    sum: Mat<f64>,
}

fn tiles(width: usize, count: usize) -> Vec<Tile> {
    let of_gram = |gram| {
        (0..width).step_by(TILE).map(move |first| {
            let rows = TILE.min(width - first);
            Tile { gram, first, sum: Mat::zeros(rows, first + rows) }
        })
    };
    (0..count).flat_map(of_gram).collect()
}

impl Tile {
    fn add(&mut self, inputs: &Mat<f64>, weights: &Mat<f64>) {
        let (rows, columns) = (self.sum.nrows(), self.sum.ncols());
        let mut weighted = Mat::zeros(rows, ROWS);
        for r in 0..ROWS {
            let (weight, input) = (weights[(self.gram, r)], &slice(inputs, r)[self.first..]);
            weighted.col_as_slice_mut(r).iter_mut().zip(input).for_each(|(out, x)| *out = weight * x);
        }
        add_product(self.sum.as_mut(), weighted.as_ref(), inputs.as_ref().subrows(0, columns).transpose());
    }
}

fn assemble(tiles: Vec<Tile>, width: usize, count: usize) -> Vec<Mat<f64>> {
    let mut grams: Vec<Mat<f64>> = (0..count).map(|_| Mat::zeros(width, width)).collect();
    for Tile { gram, first, sum } in tiles {
        let out: MatMut<'_, f64> = grams[gram].as_mut();
        out.submatrix_mut(first, 0, sum.nrows(), sum.ncols()).copy_from(&sum);
    }
    grams
}
