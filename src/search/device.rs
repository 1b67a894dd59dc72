//! The same search on a GPU: rows stream to the device, which scores them and keeps both ends of each query's ranking.
//!
//! The device computes [`super::score`] operation by operation, so results are the CPU's, bit for bit. Longer ends than it keeps, selections of
//! rows, scores that are not made of factors, and factor sets of several types are left to the CPU.

use super::form::{Deltas, Form, Measure, Prepared, RowNorm};
use super::pair::{gradient_norm, unit_columns};
use super::query::{Query, Weight};
use super::scan::Progress;
use super::shape::Shape;
use super::source::Source;
use super::topk::{Hit, Hits};
use super::{Options, batch_size};
use crate::backend::gpu::{Asked, Chunk, Entry, Gpu, MOST_KEPT, Weights};
use crate::error::Result;
use crate::factors::{FactorRows, Floats};

/// Bytes of features that are copied to the device at a time.
const CHUNK_BYTES: usize = 64 << 20;
/// Bytes on the device for each query, beside its features: two ends of entries.
const QUERY_BYTES: usize = 2 * 4096 * 16;
/// Queries of one pass: what their kept records take of the device.
const MOST_QUERIES: usize = 2048;

/// Whether the device can search this source for the `k` best.
pub(super) fn can<S: Source + ?Sized>(source: &S, form: &Form<'_>, shape: Shape, k: usize) -> bool {
    let mut kinds = (0..source.shards()).flat_map(|shard| {
        form.sets.iter().filter_map(move |&set| source.factors(shard, set)).map(|factors| kind(factors.features))
    });
    let first = kinds.next();
    form.scorer.is_none()
        && source.selection().is_none()
        && k <= MOST_KEPT
        && u32::try_from(shape.rows).is_ok_and(|rows| rows < u32::MAX)
        && kinds.all(|kind| Some(kind) == first)
}

fn kind(features: Floats<'_>) -> u8 {
    match features {
        Floats::F32(_) => 0,
        Floats::F16(_) => 1,
        Floats::Bf16(_) => 2,
    }
}

/// [`super::search`] on a device, of what was checked already.
pub(super) fn search<S: Source + ?Sized>(
    gpu: &Gpu,
    source: &S,
    form: &Form<'_>,
    queries: &[Query],
    shape: Shape,
    k: usize,
    options: &Options<'_>,
) -> Result<Vec<Hits>> {
    let batch = batch_size(options.memory, QUERY_BYTES).min(MOST_QUERIES);
    let progress = Progress::new(options, shape.rows, queries.len().div_ceil(batch));
    let mut hits = Vec::with_capacity(queries.len());
    for queries in queries.chunks(batch) {
        let prepared: Vec<Prepared> = queries.iter().map(|query| form.prepare(query)).collect();
        let mut running = gpu.search(asked(form, &prepared, shape), k)?;
        let mut first = 0;
        for shard in 0..source.shards() {
            let (rows, mut start) = (source.rows(shard), 0);
            while start < rows {
                let most = CHUNK_BYTES / (shape.width.max(1) * form.sets.len() * size_of::<f32>());
                let span = Span { shard, start, rows: running.next_rows().min(most.max(1)).min(rows - start), first };
                running.take(&chunk(source, form, span))?;
                progress.advance(span.rows)?;
                start += span.rows;
                first += span.rows;
            }
            if shape.bytes > options.memory {
                source.release(shard);
            }
        }
        hits.extend(running.finish()?.into_iter().map(hits_of));
    }
    Ok(hits)
}

fn hits_of([proponents, opponents]: [Vec<Entry>; 2]) -> Hits {
    let hit = |entry: Entry| Hit { row: u64::from(entry.row), index: entry.index, score: entry.score };
    let all = |entries: Vec<Entry>| entries.into_iter().map(hit).collect();
    Hits { proponents: all(proponents), opponents: all(opponents), certificate: None }
}

/// Queries side by side, pass by pass.
fn asked(form: &Form<'_>, queries: &[Prepared], shape: Shape) -> Asked {
    let terms = || (0..form.passes.len()).flat_map(|pass| queries.iter().map(move |query| &query.terms[pass]));
    let weights = match terms().next().map(|term| &term.weight) {
        None | Some(Weight::One) => Weights::One,
        Some(Weight::Delta(_)) => Weights::Deltas(terms().flat_map(|term| delta(&term.weight)).copied().collect()),
        Some(Weight::Class(_)) => Weights::Classes(terms().map(|term| class(&term.weight)).collect()),
    };
    Asked {
        queries: queries.len(),
        width: shape.width,
        classes: shape.classes,
        features: terms().flat_map(|term| &term.features).copied().collect(),
        biases: terms().map(|term| term.bias).collect(),
        weights,
        norms: queries.iter().map(|query| query.norm).collect(),
        sets: form.passes.iter().map(|pass| pass.set as i32).collect(),
        rates: form.passes.iter().map(|pass| pass.rate).collect(),
        distance: form.measure == Measure::Distance,
    }
}

fn delta(weight: &Weight) -> &[f32] {
    if let Weight::Delta(delta) = weight { delta } else { &[] }
}

fn class(weight: &Weight) -> i32 {
    if let Weight::Class(class) = weight { *class as i32 } else { 0 }
}

/// Consecutive rows of a shard.
#[derive(Clone, Copy)]
struct Span {
    shard: usize,
    start: usize,
    rows: usize,
    /// The first over all shards.
    first: usize,
}

fn chunk<'a, S: Source + ?Sized>(source: &'a S, form: &Form<'_>, span: Span) -> Chunk<'a> {
    let Span { shard, start, rows, first } = span;
    let sets: Vec<FactorRows<'a>> =
        form.sets.iter().map(|&set| source.factors(shard, set).expect("checked before the search")).collect();
    Chunk {
        rows,
        first,
        features: sets.iter().map(|set| part(set.features, start * set.width..(start + rows) * set.width)).collect(),
        deltas: sets.iter().flat_map(|set| deltas(form, set, span)).collect(),
        norms: sets.first().and_then(|set| norms(form, set, span)),
        indices: (start..start + rows).map(|row| source.index(shard, row)).collect(),
    }
}

fn part(features: Floats<'_>, range: std::ops::Range<usize>) -> Floats<'_> {
    match features {
        Floats::F32(values) => Floats::F32(&values[range]),
        Floats::F16(values) => Floats::F16(&values[range]),
        Floats::Bf16(values) => Floats::Bf16(&values[range]),
    }
}

/// What stands for the rows' δ, `[rows, K]`.
fn deltas(form: &Form<'_>, set: &FactorRows<'_>, span: Span) -> Vec<f32> {
    let classes = set.classes;
    let range = |start: usize| start * classes..(start + span.rows) * classes;
    match form.deltas {
        Deltas::Unread => Vec::new(),
        Deltas::Stored => set.deltas[range(span.start)].to_vec(),
        Deltas::Given(given) => given[range(span.first)].to_vec(),
        Deltas::Unit => {
            let mut deltas = set.deltas[range(span.start)].to_vec();
            deltas.chunks_exact_mut(classes.max(1)).for_each(|delta| unit_columns(delta, 1));
            deltas
        }
    }
}

/// The rows' part of what sums are divided by.
fn norms(form: &Form<'_>, set: &FactorRows<'_>, span: Span) -> Option<Vec<f32>> {
    let stored = &set.feature_norms[span.start..span.start + span.rows];
    match form.norm {
        RowNorm::One => None,
        RowNorm::Feature => Some(stored.to_vec()),
        RowNorm::Gradient => Some(stored.iter().map(|&norm| gradient_norm(norm)).collect()),
        RowNorm::Given(norms) => Some(norms[span.first..span.first + span.rows].to_vec()),
    }
}
