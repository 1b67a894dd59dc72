//! Many pairs together: some consecutive records of a shard against a block of queries, with the bits of [`super::score`].

use super::form::{Deltas, Form, Measure, Prepared, RowNorm};
use super::pair::{decode, finish, gradient_norm, quotient, unit_columns};
use super::query::Weight;
use super::source::Source;
use super::term::AddTerm;
use super::topk::Hit;
use crate::backend::cpu::simd::Isa;
use crate::backend::cpu::{dot_tile, squared_distance_tile};
use crate::factors::{FactorRows, Floats};

/// Queries laid out for the scan: pass by pass, so that those of one pass are the rows of one matrix.
pub(super) struct PackedQueries {
    passes: Vec<PackedPass>,
    norms: Vec<f32>,
    width: usize,
}

struct PackedPass {
    /// `[Q, E]`
    features: Vec<f32>,
    biases: Vec<f32>,
    weights: Vec<Weight>,
}

impl PackedQueries {
    /// Queries that belong to `form`, of features of `width`.
    pub(super) fn new(form: &Form<'_>, queries: Vec<Prepared>, width: usize) -> Self {
        let empty = || PackedPass { features: Vec::new(), biases: Vec::new(), weights: Vec::new() };
        let mut passes: Vec<PackedPass> = form.passes.iter().map(|_| empty()).collect();
        let mut norms = Vec::with_capacity(queries.len());
        for query in queries {
            norms.push(query.norm);
            for (pass, term) in passes.iter_mut().zip(query.terms) {
                pass.features.extend_from_slice(&term.features);
                pass.biases.push(term.bias);
                pass.weights.push(term.weight);
            }
        }
        Self { passes, norms, width }
    }

    /// Q.
    pub(super) fn len(&self) -> usize {
        self.norms.len()
    }
}

/// Some consecutive records of a shard, and room for their scores. One a worker, used again for each tile.
pub(super) struct RowTile<'a> {
    form: &'a Form<'a>,
    rows: usize,
    sets: Vec<SetTile<'a>>,
    /// `norm_i [rows]`
    norms: Vec<f32>,
    /// Products of a block's queries with the rows, `[queries, rows]`.
    products: Vec<f32>,
    /// Their scores, `[queries, rows]`.
    scores: Vec<f32>,
}

/// One factor set's part of a tile.
#[derive(Default)]
struct SetTile<'a> {
    /// Where the features are f32 in the source.
    mapped: &'a [f32],
    /// Where they are not.
    decoded: Vec<f32>,
    /// δ transposed, `[K, rows]`, so that a vector holds one class of many records.
    deltas: Vec<f32>,
}

impl SetTile<'_> {
    fn features(&self) -> &[f32] {
        if self.decoded.is_empty() { self.mapped } else { &self.decoded }
    }
}

/// Where a tile lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) shard: usize,
    /// First row within the shard.
    pub(super) start: usize,
    /// First row over all shards.
    pub(super) global: usize,
    pub(super) rows: usize,
}

impl Span {
    /// The hit of row `row` of this span.
    pub(super) fn hit<S: Source + ?Sized>(&self, source: &S, row: usize, score: f32) -> Hit {
        Hit { row: (self.global + row) as u64, index: source.index(self.shard, self.start + row), score }
    }
}

impl<'a> RowTile<'a> {
    pub(super) fn new(form: &'a Form<'a>) -> Self {
        let sets = form.sets.iter().map(|_| SetTile::default()).collect();
        Self { form, rows: 0, sets, norms: Vec::new(), products: Vec::new(), scores: Vec::new() }
    }

    /// Makes the records of `span` ready.
    pub(super) fn load<S: Source + ?Sized>(&mut self, source: &'a S, span: Span) {
        self.rows = span.rows;
        for i in 0..self.sets.len() {
            let factors = source.factors(span.shard, self.form.sets[i]).expect("checked before the scan");
            self.sets[i].load(self.form, &factors, span);
            if i == 0 {
                self.load_norms(&factors, span);
            }
        }
    }

    fn load_norms(&mut self, factors: &FactorRows<'_>, span: Span) {
        let stored = &factors.feature_norms[span.start..][..span.rows];
        self.norms.clear();
        match self.form.norm {
            RowNorm::One => {}
            RowNorm::Feature => self.norms.extend_from_slice(stored),
            RowNorm::Gradient => self.norms.extend(stored.iter().map(|&n| gradient_norm(n))),
            RowNorm::Given(norms) => self.norms.extend_from_slice(&norms[span.global..][..span.rows]),
        }
    }

    /// Scores of queries `start .. start + count`: `[count, rows]`.
    pub(super) fn score(&mut self, queries: &PackedQueries, start: usize, count: usize) -> &[f32] {
        let pairs = count * self.rows;
        self.scores.clear();
        self.scores.resize(pairs, 0.0);
        self.products.resize(pairs.max(self.products.len()), 0.0);
        match self.form.measure {
            Measure::Product => {
                for pass in 0..queries.passes.len() {
                    self.add_pass(queries, pass, start, count);
                }
            }
            Measure::Distance => self.distances(queries, start, count),
        }
        self.finish(&queries.norms[start..start + count]);
        &self.scores
    }

    fn add_pass(&mut self, queries: &PackedQueries, number: usize, start: usize, count: usize) {
        let (pass, rows) = (&queries.passes[number], self.rows);
        let set = &self.sets[self.form.passes[number].set];
        let products = &mut self.products[..count * rows];
        let features = &pass.features[start * queries.width..(start + count) * queries.width];
        dot_tile(products, features, set.features(), count, rows, queries.width);
        for (q, (sums, products)) in self.scores.chunks_exact_mut(rows).zip(products.chunks_exact(rows)).enumerate() {
            let (bias, rate) = (pass.biases[start + q], self.form.passes[number].rate);
            let weight = &pass.weights[start + q];
            Isa::best().run(AddTerm { sums, products, deltas: &set.deltas, weight, bias, rate });
        }
    }

    fn distances(&mut self, queries: &PackedQueries, start: usize, count: usize) {
        let features = &queries.passes[0].features[start * queries.width..(start + count) * queries.width];
        squared_distance_tile(&mut self.scores, features, self.sets[0].features(), count, self.rows, queries.width);
        self.scores.iter_mut().for_each(|square| *square = -square.sqrt());
    }

    fn finish(&mut self, query_norms: &[f32]) {
        if self.form.norm == RowNorm::One {
            self.scores.iter_mut().for_each(|sum| *sum = finish(*sum));
            return;
        }
        for (sums, &query) in self.scores.chunks_exact_mut(self.rows).zip(query_norms) {
            sums.iter_mut().zip(&self.norms).for_each(|(sum, &row)| *sum = finish(quotient(*sum, query * row)));
        }
    }
}

impl<'a> SetTile<'a> {
    fn load(&mut self, form: &Form<'_>, factors: &FactorRows<'a>, span: Span) {
        let (start, width) = (span.start, factors.width);
        self.decoded.clear();
        if let Floats::F32(features) = factors.features {
            self.mapped = &features[start * width..(start + span.rows) * width];
        } else {
            self.decoded.resize(span.rows * width, 0.0);
            decode(factors.features, start * width, &mut self.decoded);
        }
        let classes = factors.classes;
        match form.deltas {
            Deltas::Unread => {}
            Deltas::Stored => self.transpose(&factors.deltas[start * classes..], classes, span.rows),
            Deltas::Given(given) => self.transpose(&given[span.global * classes..], classes, span.rows),
            Deltas::Unit => {
                self.transpose(&factors.deltas[start * classes..], classes, span.rows);
                unit_columns(&mut self.deltas, span.rows);
            }
        }
    }

    /// The first `rows` rows of `deltas [.., K]` to `[K, rows]`.
    fn transpose(&mut self, deltas: &[f32], classes: usize, rows: usize) {
        self.deltas.clear();
        for class in 0..classes {
            self.deltas.extend((0..rows).map(|row| deltas[row * classes + class]));
        }
    }
}
