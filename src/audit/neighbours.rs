//! The nearest other training records of each record, by the cosine of their features; or the nearest words of each
//! word.

use crate::error::Result;
use crate::search::{self, EachFactor, FactorSet, Form, Hit, Options, Query, Source};
use crate::store::Store;

/// Queries taken at a time.
const BATCH: usize = 4096;
/// How many times as many words are looked for as are wanted of other records.
const OF_OTHERS: usize = 3;

/// The `k` nearest of each unit of a store, nearest first: of what other texts say, as the words of one have seen each
/// other; but where a record is one unit, a copy with another label is asked, as only those with the same vouch for
/// each other. `sayings` tells by unit what its record says and `labels` how it is labelled. There may be fewer.
///
/// # Errors
/// Where the search is interrupted.
pub(super) fn nearest(
    units: &EachFactor<'_>,
    (sayings, labels): (&[usize], &[Option<usize>]),
    k: usize,
    options: &Options<'_>,
) -> Result<Vec<Vec<Hit>>> {
    let mut all = if units.are_parts() {
        let features = |unit: usize| units.features(unit);
        let queries: Vec<usize> = (0..units.count()).collect();
        search_for(units, &Form::feature_cos(), (&queries, &features), OF_OTHERS * k, options)?
    } else {
        nearest_of_all(units.store(), k + most_copies(sayings).min(k), options)?
    };
    for (hits, own) in all.iter_mut().zip(sayings.iter().zip(labels)) {
        let (saying, label) = own;
        let contradicts = |other: usize| !units.are_parts() && labels[other] != *label;
        hits.retain(|hit| sayings[hit.row as usize] != *saying || contradicts(hit.row as usize));
        hits.truncate(k);
    }
    Ok(all)
}

/// How many others say the same as any one.
fn most_copies(sayings: &[usize]) -> usize {
    let mut counts = vec![0_usize; sayings.iter().max().map_or(0, |last| last + 1)];
    for &saying in sayings {
        counts[saying] += 1;
    }
    counts.into_iter().max().unwrap_or(1) - 1
}

/// The `k` nearest of every row of a store, itself left out: each pair is scored once, where that can be done.
fn nearest_of_all(store: &Store, k: usize, options: &Options<'_>) -> Result<Vec<Vec<Hit>>> {
    let once = k > 0 && store.settings().tokens.is_none();
    let mutual = if once { search::search_mutual(store, &Form::feature_cos(), 1.0, k + 1, options)? } else { None };
    match mutual {
        Some(found) => Ok((0..store.rows()).map(|row| others(found.of(row).proponents, row, k)).collect()),
        None => nearest_of(store, &(0..store.rows()).collect::<Vec<_>>(), k, options),
    }
}

/// The `k` nearest of some rows of a store, themselves left out.
pub(super) fn nearest_of(store: &Store, rows: &[usize], k: usize, options: &Options<'_>) -> Result<Vec<Vec<Hit>>> {
    let form = Form::feature_cos();
    let form = if store.settings().tokens.is_some() { form.over_means() } else { form };
    search_for(store, &form, (rows, &|row| features(store, row)), k, options)
}

fn search_for<S: Source + ?Sized>(
    source: &S,
    form: &Form<'_>,
    (rows, features): (&[usize], &dyn Fn(usize) -> Vec<f32>),
    k: usize,
    options: &Options<'_>,
) -> Result<Vec<Vec<Hit>>> {
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
        let queries: Vec<Query> = rows.iter().map(|&row| Query::feature(features(row))).collect();
        let hits = search::search(source, form, &queries, k + 1, options)?;
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

/// What rules over features compare of a row: `h`, or the mean of several.
pub(crate) fn features(store: &Store, row: usize) -> Vec<f32> {
    let (shard, at) = store.locate(row);
    let set = if store.settings().tokens.is_some() { FactorSet::Mean } else { FactorSet::Final };
    let Some(factors) = store.factors(shard, set) else { return Vec::new() };
    factors.features.slice(at * factors.width..(at + 1) * factors.width).to_f32()
}
