//! The nearest other training records of each record, by the cosine of their features.

use crate::error::Result;
use crate::search::{self, Form, Hit, Options, Query};
use crate::store::Store;

/// Queries taken at a time.
const BATCH: usize = 4096;

/// The `k` nearest of each row of a store, nearest first, itself left out.
///
/// # Errors
/// Where the search is interrupted.
pub(super) fn nearest(store: &Store, k: usize, options: &Options<'_>) -> Result<Vec<Vec<Hit>>> {
    let mutual = if k > 0 { search::search_mutual(store, &Form::feature_cos(), 1.0, k + 1, options)? } else { None };
    match mutual {
        Some(found) => Ok((0..store.rows()).map(|row| others(found.of(row).proponents, row, k)).collect()),
        None => nearest_of(store, &(0..store.rows()).collect::<Vec<_>>(), k, options),
    }
}

/// The same of some rows.
pub(super) fn nearest_of(store: &Store, rows: &[usize], k: usize, options: &Options<'_>) -> Result<Vec<Vec<Hit>>> {
    if k == 0 {
        return Ok(vec![Vec::new(); rows.len()]);
    }
    let mut all = Vec::with_capacity(rows.len());
    let of_all = rows.len() as u64;
    for (first, rows) in (0..).step_by(BATCH).zip(rows.chunks(BATCH)) {
        let told = |done: u64, total: u64| {
            let records = first + done * rows.len() as u64 / total.max(1);
            options.progress.is_none_or(|go_on| go_on(records, of_all))
        };
        let options = &Options { progress: Some(&told), ..*options };
        let queries: Vec<Query> = rows.iter().map(|&row| Query::feature(features(store, row))).collect();
        let hits = search::search(store, &Form::feature_cos(), &queries, k + 1, options)?;
        all.extend(rows.iter().zip(hits).map(|(&row, hits)| others(hits.proponents, row, k)));
    }
    Ok(all)
}

/// The first `k` that are not `row` itself.
fn others(mut hits: Vec<Hit>, row: usize, k: usize) -> Vec<Hit> {
    hits.retain(|hit| hit.row != row as u64);
    hits.truncate(k);
    hits
}

/// `h` of a row.
pub(crate) fn features(store: &Store, row: usize) -> Vec<f32> {
    let (shard, at) = store.locate(row);
    let factors = store.shards()[shard].factors();
    factors.features.slice(at * factors.width..(at + 1) * factors.width).to_f32()
}
