//! What rounding features costs, measured while both are at hand: the nearest records by the stored features against those by the computed.

use crate::backend::cpu::dot;
use crate::error::Result;
use crate::factors::{FactorRows, Floats};
use crate::interrupt;
use crate::search::{Form, Hits, Options, Query, search};
use crate::store::{Block, Dtype, Recall};

/// Records of a block that ask, spread evenly over it.
const QUERIES: usize = 1_000;
/// Nearest others of each.
const NEAREST: usize = 10;

/// How well the features of `block` `[n, width]`, kept as `dtype`, find what they find as they are; `None` where they are kept so.
pub(super) fn recall(block: &Block, width: usize, dtype: Dtype) -> Result<Option<Recall>> {
    let n = block.rows();
    if dtype == Dtype::F32 || width == 0 {
        return Ok(None);
    }
    let asking: Vec<usize> = (0..n.min(QUERIES)).map(|i| i * n / n.min(QUERIES)).collect();
    let query = |&row: &usize| Query::feature(block.features[row * width..(row + 1) * width].to_vec());
    let queries: Vec<Query> = asking.iter().map(query).collect();
    let exact = nearest(&block.features, width, &queries)?;
    let rounded = nearest(&dtype.rounded(&block.features), width, &queries)?;
    let mut recall = Recall { queries: asking.len() as u64, ..Recall::default() };
    for ((row, exact), rounded) in asking.into_iter().zip(&exact).zip(&rounded) {
        let (exact, rounded) = (others(exact, row), others(rounded, row));
        recall.wanted += exact.len() as u64;
        recall.found += exact.iter().filter(|row| rounded.contains(row)).count() as u64;
    }
    Ok(Some(recall))
}

/// The records nearest to each query, itself among them.
fn nearest(features: &[f32], width: usize, queries: &[Query]) -> Result<Vec<Hits>> {
    let norms: Vec<f32> = features.chunks_exact(width).map(|row| dot(row, row).sqrt()).collect();
    let rows = FactorRows {
        rows: norms.len(),
        width,
        classes: 0,
        features: Floats::F32(features),
        deltas: &[],
        feature_norms: &norms,
        delta_norms: &[],
    };
    let go_on = |_, _| !interrupt::asked();
    search(&rows, &Form::feature_cos(), queries, NEAREST + 1, &Options { progress: Some(&go_on), ..Options::default() })
}

/// The nearest but the one that asked.
fn others(hits: &Hits, row: usize) -> Vec<u64> {
    hits.proponents.iter().map(|hit| hit.row).filter(|&hit| hit != row as u64).take(NEAREST).collect()
}
