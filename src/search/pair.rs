//! The definition of a score, one pair at a time, in f32 operations of a stated order.
//!
//! The scan computes many pairs together and must give these very bits: whatever is not a plain loop over [`score`] is
//! an optimisation.

use std::borrow::Cow;

use super::form::{Deltas, Form, Measure, Prepared, RowNorm};
use super::query::{Query, Weight};
use super::source::{FactorSet, Source};
use crate::backend::cpu::{dot, squared_distance};
use crate::factors::{FactorRows, Floats};

/// The score of row `row` of shard `shard` for `query`.
///
/// 1. For each term t in order, with h_i decoded to f32 (exact from f16 and bf16; from integers as
///    [`crate::factors::Int8Rows`] says): a = [`dot`]`(h_q, h_i)`; weight = 1, `δ_i[c]`, or a chain `b ← fma(δ_q[k],
///    δ_i[k], b)` over ascending k from 0; `sum ← fma(rate, weight · (a + s), sum)` from 0. (For distances: `sum =
///    −√`[`squared_distance`]`(h_q, h_i)`.) Where records have several factors, a is plus s times the factor's own
///    coordinate (1 where it has none), and the sums of a record's factors are added up in their order, from 0.
/// 2. Unless the form divides by nothing, `sum ← sum / (norm_q · norm_i)`, and 0 where that divisor is 0.
/// 3. A NaN (an overflow of both signs, or times 0) becomes 0, and −0 becomes 0: scores have a total order.
///
/// A form that is [`Form::scored`] gives what its scorer says, 0 where that fails.
///
/// # Panics
/// Where query, form and source do not belong together, which [`super::search`] refuses with an error.
pub fn score<S: Source + ?Sized>(source: &S, form: &Form<'_>, query: &Query, shard: usize, row: usize) -> f32 {
    if let Some(scorer) = form.scorer {
        let mut score = [0.0];
        let told = scorer.score(shard, row..row + 1, &[query.number], &mut score);
        return told.map_or(0.0, |()| score[0]);
    }
    let prepared = form.prepare(query);
    let global = (0..shard).map(|s| source.rows(s)).sum::<usize>() + row;
    score_prepared(source, form, &prepared, (shard, row), global)
}

/// [`score`] of the `global`th row of the source, for a query made ready.
pub(super) fn score_prepared<S: Source + ?Sized>(
    source: &S,
    form: &Form<'_>,
    prepared: &Prepared,
    (shard, row): (usize, usize),
    global: usize,
) -> f32 {
    let offsets = form.sets.first().and_then(|&set| source.factor_offsets(shard, set));
    let sum = match offsets {
        None => sum_of_row(source, form, prepared, (shard, row), global, None),
        Some(offsets) => {
            let before = first_factor(source, form, shard);
            let own = offsets[row] as usize..offsets[row + 1] as usize;
            own.map(|f| sum_of_row(source, form, prepared, (shard, f), before + f, Some(row)))
                .fold(0.0, |sum, s| sum + s)
        }
    };
    match form.norm {
        RowNorm::One => finish(sum),
        RowNorm::Given(norms) => finish(quotient(sum, prepared.norm * norms[global])),
        RowNorm::Feature | RowNorm::Gradient => {
            let norms = source.factors(shard, form.sets[0]).expect("the form's factors").feature_norms;
            let norm = if form.norm == RowNorm::Feature { norms[row] } else { gradient_norm(norms[row]) };
            finish(quotient(sum, prepared.norm * norm))
        }
    }
}

/// What each factor of row `row` of shard `shard` adds to its score for `query`, where records have several; nothing
/// where they have one, or the form is over something else. The parts of a score add up to it but for rounding.
///
/// # Panics
/// As [`score`].
pub fn score_parts<S: Source + ?Sized>(
    source: &S,
    form: &Form<'_>,
    query: &Query,
    shard: usize,
    row: usize,
) -> Vec<f32> {
    if let Some(scorer) = form.scorer {
        return scorer.parts(shard, row, query.number);
    }
    let Some(offsets) = form.sets.first().and_then(|&set| source.factor_offsets(shard, set)) else { return Vec::new() };
    let prepared = form.prepare(query);
    let before = first_factor(source, form, shard);
    let divisor = match form.norm {
        RowNorm::Given(norms) => norms[(0..shard).map(|s| source.rows(s)).sum::<usize>() + row],
        _ => 1.0,
    };
    let own = offsets[row] as usize..offsets[row + 1] as usize;
    let part = |f| sum_of_row(source, form, &prepared, (shard, f), before + f, Some(row));
    own.map(|f| finish(quotient(part(f), divisor))).collect()
}

/// Rows of factors in the shards before `shard`.
pub(super) fn first_factor<S: Source + ?Sized>(source: &S, form: &Form<'_>, shard: usize) -> usize {
    let set = form.sets.first().copied().unwrap_or(FactorSet::Final);
    (0..shard).map(|before| source.factors(before, set).map_or(0, |factors| factors.rows)).sum()
}

/// What one row of factors, the `global`th, gives: of record `record` where records have several.
fn sum_of_row<S: Source + ?Sized>(
    source: &S,
    form: &Form<'_>,
    prepared: &Prepared,
    (shard, row): (usize, usize),
    global: usize,
    record: Option<usize>,
) -> f32 {
    let rows = sides(source, form, (shard, row), global, record);
    match form.measure {
        Measure::Product => sum_of_terms(form, prepared, &rows),
        Measure::Distance => -squared_distance(&prepared.terms[0].features, &rows[0].features).sqrt(),
    }
}

/// A row's side of a score in each set of the form, of record `record` where records have several factors.
pub(super) fn sides<'a, S: Source + ?Sized>(
    source: &'a S,
    form: &'a Form<'_>,
    (shard, row): (usize, usize),
    global: usize,
    record: Option<usize>,
) -> Vec<Row<'a>> {
    let bias = record.and_then(|_| source.factor_biases(shard)).map_or(1.0, |biases| biases[row]);
    let length = record.zip(source.gradient_norms(shard)).map_or(1.0, |(record, norms)| norms[record]);
    let sets = form.sets.iter().map(|&set| source.factors(shard, set).expect("the form's factors"));
    sets.map(|factors| Row::new(form, &factors, (row, global), bias, length)).collect()
}

fn sum_of_terms(form: &Form<'_>, query: &Prepared, rows: &[Row<'_>]) -> f32 {
    let mut sum = 0.0;
    for (pass, term) in form.passes.iter().zip(&query.terms) {
        let row = &rows[pass.set];
        let product = dot(&term.features, &row.features) + term.bias * row.bias;
        sum = pass.rate.mul_add(row.weight(&term.weight) * product, sum);
    }
    sum
}

/// One record's side of a score.
pub(super) struct Row<'a> {
    pub(super) features: Cow<'a, [f32]>,
    pub(super) delta: Cow<'a, [f32]>,
    bias: f32,
}

impl<'a> Row<'a> {
    fn new(form: &Form<'a>, factors: &FactorRows<'a>, (row, global): (usize, usize), bias: f32, length: f32) -> Self {
        let (width, classes) = (factors.width, factors.classes);
        let features = match factors.features {
            Floats::F32(features) => Cow::Borrowed(&features[row * width..][..width]),
            stored => {
                let mut features = vec![0.0; width];
                stored.decode_f32(row * width, &mut features);
                Cow::Owned(features)
            }
        };
        let stored = || &factors.deltas[row * classes..][..classes];
        let delta = match form.deltas {
            Deltas::Unread => Cow::Borrowed([].as_slice()),
            Deltas::Stored => Cow::Borrowed(stored()),
            Deltas::Given(given) => Cow::Borrowed(&given[global * classes..][..classes]),
            Deltas::Unit => {
                let mut delta = stored().to_vec();
                unit_columns(&mut delta, 1);
                Cow::Owned(delta)
            }
            Deltas::Scaled => stored().iter().map(|d| quotient(*d, length)).collect(),
        };
        Self { features, delta, bias }
    }

    /// How much it weighs for a query's term.
    pub(super) fn weight(&self, of: &Weight) -> f32 {
        match of {
            Weight::One => 1.0,
            Weight::Class(class) => self.delta[*class],
            Weight::Delta(delta) => delta.iter().zip(&*self.delta).fold(0.0, |b, (q, i)| q.mul_add(*i, b)),
        }
    }
}

/// The length of `[h; 1]`, from that of h. No fused multiply-add: this is a plain loop over rows, on any machine.
#[inline]
pub(super) fn gradient_norm(feature_norm: f32) -> f32 {
    (feature_norm * feature_norm + 1.0).sqrt()
}

/// `sum / divisor`: a record or query with no length is similar to nothing, so its score is 0. The one place where that
/// is decided.
#[inline]
pub(super) fn quotient(sum: f32, divisor: f32) -> f32 {
    if divisor == 0.0 { 0.0 } else { sum / divisor }
}

/// Neither NaN nor −0.
#[inline]
pub(super) fn finish(sum: f32) -> f32 {
    if sum.is_nan() { 0.0 } else { sum + 0.0 }
}

/// Scales each column of `deltas [K, rows]` to unit length; columns of zeros stay.
///
/// Each is first divided by its largest magnitude: the δ of a confident record is so small that its squares underflow.
pub(super) fn unit_columns(deltas: &mut [f32], rows: usize) {
    let mut largest = vec![0.0_f32; rows];
    for class in deltas.chunks_exact(rows) {
        largest.iter_mut().zip(class).for_each(|(most, d)| *most = most.max(d.abs()));
    }
    let mut squares = vec![0.0_f32; rows];
    for class in deltas.chunks_exact_mut(rows) {
        for ((d, most), squares) in class.iter_mut().zip(&largest).zip(&mut squares) {
            *d = quotient(*d, *most);
            *squares += *d * *d;
        }
    }
    let lengths = squares.into_iter().map(f32::sqrt).collect::<Vec<_>>();
    for class in deltas.chunks_exact_mut(rows) {
        class.iter_mut().zip(&lengths).for_each(|(d, length)| *d = quotient(*d, *length));
    }
}
