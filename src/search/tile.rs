//! Many pairs together: some consecutive records of a shard against a block of queries, with the bits of
//! [`super::score`].

use super::bounds::{Length, Radii, Rounding, Side, Widen};
use super::certified::Basis;
use super::finish::Finish;
use super::form::{Deltas, Form, Measure, Pass, Prepared, RowNorm};
use super::pair::{first_factor, gradient_norm, quotient, unit_columns};
use super::query::Weight;
use super::source::Source;
use super::term::{AddTerm, Transpose, Weigh, WeighStored};
use super::topk::Hit;
use crate::backend::cpu::dot;
use crate::backend::cpu::simd::{Isa, LANES};
use crate::backend::cpu::{
    HalvedQueries, HalvedRows, IntegerQueries, Lined, Panels, Stream, Tile, dot_stream, dot_tile, halved_products,
    integer_products, panel_products, squared_distance_stream, squared_distance_tile,
};
use crate::error::Result;
use crate::factors::{FactorRows, Floats, Int8Rows, ScanRows};
use std::ops::Range;

/// Queries laid out for the scan: pass by pass, so that those of one pass are the rows of one matrix.
pub(super) struct PackedQueries {
    passes: Vec<PackedPass>,
    norms: Vec<f32>,
    /// Which of a scorer's queries they are.
    numbers: Vec<usize>,
}

struct PackedPass {
    /// `[Q, E]`
    features: Operand,
    biases: Vec<f32>,
    weights: Vec<Weight>,
    lengths: Vec<Length>,
}

/// What becomes of bounds.
pub(super) trait BoundsTaker {
    /// What a query's bounds must reach to matter, as scores and turned around.
    fn limits(&self, query: usize) -> [f32; 2];
    /// Bounds on consecutive rows of the tile, from number `first` on.
    fn take(&mut self, query: usize, first: usize, low: &[f32], high: &[f32]);
    /// A query has been through with so many rows.
    fn passed(&mut self, rows: usize);
}

/// What queries are packed for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// [`RowTile::score`]
    Scores,
    /// [`RowTile::bounds`]
    Bounds,
    /// The same, from rounded numbers where the machine is faster with those.
    WideBounds,
    /// The same, of rows of integers.
    IntegerBounds,
}

/// So many queries fill most of a panel.
pub(super) const PANEL_QUERIES: usize = 24;

/// The queries' features, laid out for what they are multiplied by.
enum Operand {
    /// For the bits of a score, and for few.
    Lined(Lined),
    /// For speed.
    Panels(Panels),
    /// For more.
    Halved(HalvedQueries),
    /// For rows of integers.
    Integers(IntegerQueries),
}

impl Operand {
    /// For so many queries of `width`.
    fn new(width: usize, queries: usize, purpose: Purpose) -> Self {
        let many = purpose != Purpose::Scores && queries >= PANEL_QUERIES;
        let integers = IntegerQueries::new(width).filter(|_| purpose == Purpose::IntegerBounds);
        if let Some(queries) = integers {
            return Self::Integers(queries);
        }
        let halved = HalvedQueries::new(width).filter(|_| many && purpose == Purpose::WideBounds);
        match halved {
            Some(queries) => Self::Halved(queries),
            None if many => Self::Panels(Panels::new(width)),
            None => Self::Lined(Lined::new(width)),
        }
    }

    /// One more query; at least how far it was rounded.
    fn push(&mut self, features: &[f32]) -> f32 {
        match self {
            Self::Lined(queries) => queries.push(features),
            Self::Panels(queries) => queries.push(features),
            Self::Halved(queries) => return queries.push(features),
            Self::Integers(queries) => return queries.push(features),
        }
        0.0
    }
}

impl PackedQueries {
    /// Queries that belong to `form`, of features of `width`.
    pub(super) fn new(form: &Form<'_>, queries: &[Prepared], width: usize, purpose: Purpose) -> Self {
        let empty = || PackedPass {
            features: Operand::new(width, queries.len(), purpose),
            biases: Vec::new(),
            weights: Vec::new(),
            lengths: Vec::new(),
        };
        let mut passes: Vec<PackedPass> = form.passes.iter().map(|_| empty()).collect();
        let mut norms = Vec::with_capacity(queries.len());
        let numbers = queries.iter().map(|query| query.number).collect();
        for query in queries {
            norms.push(query.norm);
            for (pass, term) in passes.iter_mut().zip(&query.terms) {
                let residual = pass.features.push(&term.features);
                pass.lengths.push(Length { norm: dot(&term.features, &term.features).sqrt(), residual });
                pass.biases.push(term.bias);
                pass.weights.push(term.weight.clone());
            }
        }
        Self { passes, norms, numbers }
    }

    /// Where they are rounded: those of the first pass.
    pub(super) fn halved(&self) -> Option<&HalvedQueries> {
        match &self.passes.first()?.features {
            Operand::Halved(queries) => Some(queries),
            _ => None,
        }
    }

    /// Whether they are for rows of integers.
    fn are_integers(&self) -> bool {
        self.passes.iter().all(|pass| matches!(pass.features, Operand::Integers(_)))
    }

    /// Q.
    pub(super) fn len(&self) -> usize {
        self.norms.len()
    }
}

/// Some consecutive records of a shard, and room for their scores. One a worker, used again for each tile.
pub(super) struct RowTile<'a> {
    form: &'a Form<'a>,
    /// The shard, and where in it.
    place: (usize, usize),
    /// Rows of factors.
    rows: usize,
    /// Whether rows go by one after another, in whatever they are held; whether that is integers.
    streams: bool,
    integers: bool,
    /// Where each record's factors end among them, where records have several.
    ends: Vec<usize>,
    /// The coordinates of those that meet a query's bias, where they are not all 1.
    biases: Vec<f32>,
    /// Scores of records with several factors, `[queries, records]`.
    totals: Vec<f32>,
    sets: Vec<SetTile<'a>>,
    /// `norm_i [rows]`
    norms: Vec<f32>,
    /// Products of a block's queries with the rows, `[queries, stride]`.
    products: Vec<f32>,
    /// What the rows weigh for each query, `[queries, rows]`.
    weights: Vec<f32>,
    /// Their scores, `[queries, rows]`; where the rows are a scan copy's, the least they can be.
    scores: Vec<f32>,
    /// The greatest they can be, and how far products are off.
    most: Vec<f32>,
    radii: Radii,
    /// What divides sums, as [`Radii::screen`] has it.
    divisors: Vec<f32>,
}

/// One factor set's part of a tile.
struct SetTile<'a> {
    features: Features<'a>,
    /// Features that are not f32 in the source, on their way.
    decoded: Vec<f32>,
    /// What is wanted after this tile, in the source's own numbers.
    next: &'a [f32],
    /// The features as rounded queries are multiplied with them.
    halved: Option<HalvedRows>,
    /// The same of integers, where they lie.
    integers: Option<Int8Rows<'a>>,
    /// δ transposed, `[K, rows]`, so that a vector holds one class of many records.
    deltas: Vec<f32>,
    /// δ where it lies, `[.., K]`, and K, where one query passes only once.
    stored: Option<(&'a [f32], usize)>,
    /// Whether one does.
    one: bool,
}

/// A tile's features.
enum Features<'a> {
    /// Where they lie in the source: few queries pass only once, and panels read f32 as they are.
    Mapped(Floats<'a>),
    /// In [`SetTile::decoded`].
    Decoded,
    /// Laid out for many queries.
    Lined(Lined),
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
    /// The same rows, at most `rows` at a time.
    pub(super) fn tiles(self, rows: usize) -> impl Iterator<Item = Self> {
        let tile = move |first: usize| Self {
            start: self.start + first,
            global: self.global + first,
            rows: rows.min(self.rows - first),
            ..self
        };
        (0..self.rows).step_by(rows).map(tile)
    }

    /// The hit of row `row` of this span.
    pub(super) fn hit<S: Source + ?Sized>(&self, source: &S, row: usize, score: f32) -> Hit {
        Hit { row: (self.global + row) as u64, index: source.index(self.shard, self.start + row), score }
    }
}

impl<'a> RowTile<'a> {
    /// Room for features of `width`, to be scored against few queries or many of these.
    pub(super) fn new(form: &'a Form<'a>, width: usize, few: bool, queries: &PackedQueries) -> Self {
        let sets = form.sets.iter().map(|_| SetTile::new(width, few, queries)).collect();
        Self {
            form,
            place: (0, 0),
            rows: 0,
            streams: queries.passes.iter().all(|pass| matches!(pass.features, Operand::Lined(_))),
            integers: queries.are_integers(),
            ends: Vec::new(),
            biases: Vec::new(),
            totals: Vec::new(),
            sets,
            norms: Vec::new(),
            products: Vec::new(),
            weights: Vec::new(),
            scores: Vec::new(),
            most: Vec::new(),
            radii: Radii::default(),
            divisors: Vec::new(),
        }
    }

    /// Makes the records of `span` ready; this worker will go on with the `then` records after them.
    pub(super) fn load<S: Source + ?Sized>(&mut self, source: &'a S, span: Span, then: usize) {
        let own = self.load_ends(source, span);
        (self.place, self.rows) = ((span.shard, span.start), own.rows);
        let then = if self.ends.is_empty() { then } else { 0 };
        for i in 0..self.sets.len() {
            let factors = source.factors(span.shard, self.form.sets[i]).expect("checked before the scan");
            self.sets[i].load(self.form, &factors, own, then);
            if i == 0 {
                self.load_norms(&factors, span);
            }
        }
        if self.form.deltas == Deltas::Scaled {
            let lengths = &source.gradient_norms(span.shard).expect("checked before the scan")[span.start..];
            self.sets.iter_mut().for_each(|set| set.scale_deltas(&self.ends, lengths));
        }
    }

    /// The rows of factors that the records of `span` have, and whose each is.
    fn load_ends<S: Source + ?Sized>(&mut self, source: &'a S, span: Span) -> Span {
        self.ends.clear();
        self.biases.clear();
        let offsets = self.form.sets.first().and_then(|&set| source.factor_offsets(span.shard, set));
        let Some(offsets) = offsets.map(|offsets| &offsets[span.start..=span.start + span.rows]) else { return span };
        let (start, end) = (offsets[0] as usize, offsets[span.rows] as usize);
        self.ends.extend(offsets[1..].iter().map(|&end| end as usize - start));
        if let Some(biases) = source.factor_biases(span.shard) {
            self.biases.extend_from_slice(&biases[start..end]);
        }
        let before =
            if matches!(self.form.deltas, Deltas::Given(_)) { first_factor(source, self.form, span.shard) } else { 0 };
        Span { start, rows: end - start, global: before + start, ..span }
    }

    /// Makes the records of `span` ready for [`RowTile::bounds`], from their scan copy where the source has one.
    pub(super) fn load_bounded<S: Source + ?Sized>(&mut self, source: &'a S, span: Span, basis: Basis) {
        (self.place, self.rows) = ((span.shard, span.start), span.rows);
        let factors = source.factors(span.shard, self.form.sets[0]).expect("checked before the scan");
        let copy = source.scan(span.shard);
        let rows = span.start..span.start + span.rows;
        // Of a distance to a copy, how long the rows are is asked beside their products.
        let measured = self.form.measure == Measure::Distance && (basis == Basis::Copies || !self.integers);
        let as_they_lie = (self.streams || self.integers) && !measured;
        self.sets[0].load_bounded(self.form, &factors, copy.as_ref(), span, as_they_lie);
        self.load_norms(&factors, span);
        let residuals = match basis {
            Basis::Copies | Basis::Features => copy.map(|copy| copy.residuals),
            Basis::Rounded => source.residuals(span.shard),
        };
        let residuals = residuals.map(|residuals| &residuals[rows.clone()]);
        let features = if as_they_lie { &[] } else { self.sets[0].in_f32() };
        let norms = &factors.feature_norms[rows];
        let halved = self.sets[0].halved.as_ref().map(HalvedRows::residuals);
        let rounding = Rounding { residuals, halved, queries: self.integers || halved.is_some() };
        self.radii.load(self.form.measure, features, factors.width, norms, rounding);
        if let (Basis::Rounded, Some(residuals)) = (basis, residuals) {
            self.radii.load_norms(self.form, norms, residuals);
        }
    }

    fn load_norms(&mut self, factors: &FactorRows<'_>, span: Span) {
        let stored = || &factors.feature_norms[span.start..][..span.rows];
        self.norms.clear();
        match self.form.norm {
            RowNorm::One => {}
            RowNorm::Feature => self.norms.extend_from_slice(stored()),
            RowNorm::Gradient => self.norms.extend(stored().iter().map(|&n| gradient_norm(n))),
            RowNorm::Given(norms) => self.norms.extend_from_slice(&norms[span.global..][..span.rows]),
        }
    }

    /// Scores of the queries `asked`: `[asked, rows]`.
    ///
    /// # Errors
    /// Those of a form's scorer.
    pub(super) fn score(&mut self, queries: &PackedQueries, asked: Range<usize>) -> Result<&[f32]> {
        let pairs = asked.len() * self.rows;
        self.scores.resize(pairs, 0.0);
        if let Some(scorer) = self.form.scorer {
            let (shard, start) = self.place;
            scorer.score(shard, start..start + self.rows, &queries.numbers[asked], &mut self.scores)?;
            return Ok(&self.scores);
        }
        if self.rows == 0 {
            // Records that have no factors have no gradient.
            self.totals.clear();
            self.totals.resize(asked.len() * self.ends.len(), 0.0);
            return Ok(&self.totals);
        }
        match (self.form.measure, self.form.deltas) {
            (Measure::Distance, _) => self.distances(queries, asked.clone()),
            // Every weight and rate is 1, every bias 0, and there is one pass: the products are the sums.
            (Measure::Product, Deltas::Unread) => {
                self.sets[0].products(&mut self.scores, &queries.passes[0], asked.clone());
            }
            (Measure::Product, _) => {
                self.scores.fill(0.0);
                self.products.resize(pairs, 0.0);
                for pass in 0..queries.passes.len() {
                    self.add_pass(queries, pass, asked.clone());
                }
            }
        }
        if !self.ends.is_empty() {
            self.add_up();
        }
        let scores = if self.ends.is_empty() { &mut self.scores } else { &mut self.totals };
        let records = scores.len() / asked.len().max(1);
        for (sums, &query) in scores.chunks_exact_mut(records.max(1)).zip(&queries.norms[asked]) {
            let norms = (self.form.norm != RowNorm::One).then_some((query, self.norms.as_slice()));
            Isa::best().run(Finish { sums, norms });
        }
        Ok(scores)
    }

    /// From the sums of factors to those of records.
    fn add_up(&mut self) {
        self.totals.clear();
        for sums in self.scores.chunks_exact(self.rows) {
            let mut start = 0;
            self.totals.extend(self.ends.iter().map(|&end| {
                let own = &sums[start..end];
                start = end;
                own.iter().fold(0.0, |sum, s| sum + s)
            }));
        }
    }

    /// The least and the greatest that scores of the queries `asked` can be, one query after another, of rows that may
    /// reach its limits: of all, or of some sixteens.
    pub(super) fn bounds(&mut self, queries: &PackedQueries, asked: Range<usize>, taker: &mut impl BoundsTaker) {
        let (rows, stride) = (self.rows, self.stride());
        self.scores.resize(asked.len() * rows, 0.0);
        self.most.resize(asked.len() * rows, 0.0);
        self.products.resize(asked.len() * stride, 0.0);
        let last = queries.passes.len() - 1;
        let sums = self.form.measure == Measure::Product && self.form.deltas != Deltas::Unread;
        // Of one term most are told at a glance to reach nothing. (Norms that are intervals are not looked at so.)
        let screened = sums && last == 0 && !self.radii.has_norms();
        if screened {
            self.load_divisors();
        } else if sums {
            self.scores.fill(0.0);
            self.most.fill(0.0);
        }
        for pass in 0..=last {
            let set = self.form.passes[pass].set;
            self.sets[set].products(&mut self.products, &queries.passes[pass], asked.clone());
            if sums {
                self.weigh(set, &queries.passes[pass].weights[asked.clone()]);
            }
            for (q, query) in asked.clone().enumerate() {
                if screened {
                    self.bounds_of_some(queries, q, query, taker);
                    taker.passed(rows);
                    continue;
                }
                let place = q * rows..(q + 1) * rows;
                let (length, products) = (queries.passes[pass].lengths[query], &self.products[q * stride..][..rows]);
                let (least, most) = (&mut self.scores[place.clone()], &mut self.most[place.clone()]);
                match self.form.measure {
                    Measure::Distance => self.radii.distances(length, products, least, most),
                    Measure::Product if sums => {
                        let (weights, bias) = (&self.weights[place.clone()], queries.passes[pass].biases[query]);
                        self.radii.add_terms(&Side { length, bias, weights }, 0, products, least, most);
                    }
                    Measure::Product => self.radii.products(length, products, least, most),
                }
                // Finished and looked at while it is hot.
                if pass == last {
                    self.finish_bounds(queries.norms[query], q, 0..rows);
                    taker.take(query, 0, &self.scores[place.clone()], &self.most[place]);
                    taker.passed(rows);
                }
            }
        }
    }

    /// Those of the `q`th query asked, of sixteens of rows that [`Radii::screen`] lets past.
    fn bounds_of_some(&mut self, queries: &PackedQueries, q: usize, query: usize, taker: &mut impl BoundsTaker) {
        let (rows, products) = (self.rows, q * self.stride());
        let packed = &queries.passes[0];
        let (length, bias) = (packed.lengths[query], packed.biases[query]);
        let some = self.radii.screen(
            &Side { length, bias, weights: &self.weights[q * rows..(q + 1) * rows] },
            &self.products[products..][..rows],
            &self.divisors,
            queries.norms[query],
            taker.limits(query),
        );
        let mut bits = some.unwrap_or(1);
        while bits != 0 {
            // Neighbours together.
            let number = bits.trailing_zeros();
            let run = (bits >> number).trailing_ones();
            bits = bits.checked_shr(number + run).map_or(0, |rest| rest << (number + run));
            let here = match some {
                Some(_) => number as usize * LANES..rows.min((number + run) as usize * LANES),
                None => 0..rows,
            };
            let place = q * rows + here.start..q * rows + here.end;
            let (least, most) = (&mut self.scores[place.clone()], &mut self.most[place.clone()]);
            least.fill(0.0);
            most.fill(0.0);
            let own = &self.products[products + here.start..products + here.end];
            let side = Side { length, bias, weights: &self.weights[place.clone()] };
            self.radii.add_terms(&side, here.start, own, least, most);
            self.finish_bounds(queries.norms[query], q, here.clone());
            taker.take(query, here.start, &self.scores[place.clone()], &self.most[place]);
        }
    }

    /// What divides each row's sum: 1 where nothing does.
    fn load_divisors(&mut self) {
        self.divisors.clear();
        if self.form.norm == RowNorm::One {
            self.divisors.resize(self.rows, 1.0);
        } else {
            self.divisors.extend(self.norms.iter().map(|&norm| Radii::divisor(norm)));
        }
    }

    /// From one query's products to the next's.
    fn stride(&self) -> usize {
        self.sets[0].halved.as_ref().map_or(self.rows, HalvedRows::stride)
    }

    /// Divides the bounds on sums of some rows of the `q`th query asked, whose norm this is.
    fn finish_bounds(&mut self, norm: f32, q: usize, rows: Range<usize>) {
        let place = q * self.rows + rows.start..q * self.rows + rows.end;
        let (low, high) = (&mut self.scores[place.clone()], &mut self.most[place]);
        Isa::best().run(Widen { low, high });
        if self.radii.divide(norm, low, high) || self.form.norm == RowNorm::One {
            return;
        }
        for sums in [low, high] {
            Isa::best().run(Finish { sums, norms: Some((norm, &self.norms[rows.clone()])) });
        }
    }

    fn add_pass(&mut self, queries: &PackedQueries, number: usize, asked: Range<usize>) {
        let (pass, rows) = (&queries.passes[number], self.rows);
        let Pass { set, rate } = self.form.passes[number];
        self.sets[set].products(&mut self.products, pass, asked.clone());
        self.weigh(set, &pass.weights[asked.clone()]);
        let sums = self.scores.chunks_exact_mut(rows).zip(self.products.chunks_exact_mut(rows));
        for ((q, (sums, products)), weights) in asked.zip(sums).zip(self.weights.chunks_exact(rows)) {
            let mut bias = pass.biases[q];
            if !self.biases.is_empty() {
                products.iter_mut().zip(&self.biases).for_each(|(product, s)| *product += bias * s);
                bias = 0.0;
            }
            Isa::best().run(AddTerm { sums, products, weights, bias, rate });
        }
    }

    /// Makes ready what the rows weigh for these queries.
    fn weigh(&mut self, set: usize, queries: &[Weight]) {
        let rows = self.rows;
        self.weights.resize(queries.len() * rows, 0.0);
        let (out, SetTile { stored, deltas, .. }) = (&mut self.weights[..], &self.sets[set]);
        if let ([query], &Some((deltas, classes))) = (queries, stored) {
            Isa::best().run(WeighStored { out, query, deltas, classes });
        } else {
            Isa::best().run(Weigh { out, queries, deltas, rows });
        }
    }

    fn distances(&mut self, queries: &PackedQueries, asked: Range<usize>) {
        self.sets[0].squared_distances(&mut self.scores, &queries.passes[0], asked);
        self.scores.iter_mut().for_each(|square| *square = -square.sqrt());
    }
}

impl SetTile<'_> {
    /// `h_q·h_i`: `[asked, rows]`, or `[asked, stride]` of the rounded.
    fn products(&mut self, out: &mut [f32], pass: &PackedPass, asked: Range<usize>) {
        let next = std::mem::take(&mut self.next);
        match (&pass.features, &self.features) {
            (Operand::Halved(queries), _) => {
                halved_products(out, queries, asked, self.halved.as_ref().expect("made for these queries"));
            }
            (Operand::Integers(queries), _) => {
                integer_products(out, queries, asked, self.integers.expect("made for these rows"));
            }
            (Operand::Lined(queries), Features::Lined(rows)) => dot_tile(out, Tile { queries, asked, rows, next }),
            (Operand::Lined(queries), _) => match self.as_they_lie() {
                Floats::F32(rows) => dot_stream(out, Stream { queries, asked, rows }),
                Floats::F16(rows) => dot_stream(out, Stream { queries, asked, rows }),
                Floats::Bf16(rows) => dot_stream(out, Stream { queries, asked, rows }),
                Floats::Int8(rows) => dot_stream(out, Stream { queries, asked, rows }),
            },
            (Operand::Panels(queries), _) => panel_products(out, queries, asked, self.in_f32()),
        }
    }

    /// `‖h_q − h_i‖²`: `[asked, rows]`.
    fn squared_distances(&mut self, out: &mut [f32], pass: &PackedPass, asked: Range<usize>) {
        let next = std::mem::take(&mut self.next);
        let Operand::Lined(queries) = &pass.features else { unreachable!("distances are scores") };
        match &self.features {
            Features::Lined(rows) => squared_distance_tile(out, Tile { queries, asked, rows, next }),
            _ => match self.as_they_lie() {
                Floats::F32(rows) => squared_distance_stream(out, Stream { queries, asked, rows }),
                Floats::F16(rows) => squared_distance_stream(out, Stream { queries, asked, rows }),
                Floats::Bf16(rows) => squared_distance_stream(out, Stream { queries, asked, rows }),
                Floats::Int8(rows) => squared_distance_stream(out, Stream { queries, asked, rows }),
            },
        }
    }
}

impl<'a> SetTile<'a> {
    fn new(width: usize, few: bool, queries: &PackedQueries) -> Self {
        let features = if few { Features::Mapped(Floats::F32(&[])) } else { Features::Lined(Lined::new(width)) };
        Self {
            features,
            decoded: Vec::new(),
            next: &[],
            halved: queries.halved().map(HalvedRows::new),
            integers: None,
            deltas: Vec::new(),
            stored: None,
            one: queries.len() == 1,
        }
    }

    fn load(&mut self, form: &Form<'_>, factors: &FactorRows<'a>, span: Span, then: usize) {
        let (start, width) = (span.start, factors.width);
        let (here, after) = (start * width..(start + span.rows) * width, (start + span.rows) * width);
        self.next = numbers(factors.features, after..after + then * width);
        match (&mut self.features, factors.features) {
            (Features::Lined(rows), Floats::F32(features)) => rows.refill(&features[here], span.rows),
            (Features::Lined(rows), stored) => {
                self.decoded.resize(here.len(), 0.0);
                stored.decode_f32(here.start, &mut self.decoded);
                rows.refill(&self.decoded, span.rows);
            }
            (rows, stored) => *rows = Features::Mapped(stored.slice(here)),
        }
        self.load_deltas(form, factors, span);
    }

    /// The features, those of a scan copy in place of the record's own: where they lie, if they may stay there or are
    /// f32.
    fn load_bounded(
        &mut self,
        form: &Form<'_>,
        factors: &FactorRows<'a>,
        copy: Option<&ScanRows<'a>>,
        span: Span,
        as_they_lie: bool,
    ) {
        let here = span.start * factors.width..(span.start + span.rows) * factors.width;
        self.next = &[];
        let stored = copy.map_or(factors.features, |copy| copy.values).slice(here);
        self.integers = if let Floats::Int8(rows) = stored { Some(rows) } else { None };
        self.features = if as_they_lie || matches!(stored, Floats::F32(_)) {
            Features::Mapped(stored)
        } else {
            self.decoded.resize(stored.len(), 0.0);
            stored.decode_f32(0, &mut self.decoded);
            Features::Decoded
        };
        if let Some(mut halved) = self.halved.take() {
            halved.refill(self.in_f32());
            self.halved = Some(halved);
        }
        self.load_deltas(form, factors, span);
    }

    /// `[rows, E]`, where they are not laid out otherwise.
    fn as_they_lie(&self) -> Floats<'_> {
        match &self.features {
            Features::Mapped(rows) => *rows,
            Features::Decoded => Floats::F32(&self.decoded),
            Features::Lined(_) => unreachable!("laid out for tiles"),
        }
    }

    /// The same, once decoded.
    fn in_f32(&self) -> &[f32] {
        match self.as_they_lie() {
            Floats::F32(rows) => rows,
            _ => unreachable!("decoded as they were loaded"),
        }
    }

    fn load_deltas(&mut self, form: &Form<'_>, factors: &FactorRows<'a>, span: Span) {
        let (start, classes) = (span.start, factors.classes);
        match form.deltas {
            Deltas::Unread => {}
            Deltas::Stored if self.one => self.stored = Some((&factors.deltas[start * classes..], classes)),
            Deltas::Stored | Deltas::Scaled => self.transpose(&factors.deltas[start * classes..], classes, span.rows),
            Deltas::Given(given) => self.transpose(&given[span.global * classes..], classes, span.rows),
            Deltas::Unit => {
                self.transpose(&factors.deltas[start * classes..], classes, span.rows);
                unit_columns(&mut self.deltas, span.rows);
            }
        }
    }

    /// δ over the length of its record's gradient.
    fn scale_deltas(&mut self, ends: &[usize], lengths: &[f32]) {
        let Some(&rows) = ends.last().filter(|&&rows| rows > 0) else { return };
        for class in self.deltas.chunks_exact_mut(rows) {
            let mut start = 0;
            for (&end, &length) in ends.iter().zip(lengths) {
                class[start..end].iter_mut().for_each(|delta| *delta = quotient(*delta, length));
                start = end;
            }
        }
    }

    /// The first `rows` rows of `deltas [.., K]` to `[K, rows]`.
    fn transpose(&mut self, deltas: &[f32], classes: usize, rows: usize) {
        self.deltas.resize(classes * rows, 0.0);
        Isa::best().run(Transpose { out: &mut self.deltas, deltas, classes, rows });
    }
}

/// Some stored numbers as whole f32, whatever they are: to be fetched, not to be read.
fn numbers(stored: Floats<'_>, range: Range<usize>) -> &[f32] {
    match stored {
        Floats::F32(values) => &values[range],
        Floats::F16(values) => bytemuck::pod_align_to(&values[range]).1,
        Floats::Bf16(values) => bytemuck::pod_align_to(&values[range]).1,
        Floats::Int8(rows) => bytemuck::pod_align_to(&rows.values[range]).1,
    }
}
