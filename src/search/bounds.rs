//! What a score can be, from a product computed faster than the score's own, or on a copy of the record's features.
//!
//! With x̂ for x, the dot product of a score lies within `ε = ‖q‖ (r + γ(‖x‖ + r))` of [`panel_products`]' of q and x̂,
//! for r ≥ ‖x − x̂‖ and γ the bounds of both products' own roundings together (Cauchy-Schwarz; Higham, *Accuracy and
//! Stability*, §3.1). With q̂ for q as well ([`halved_products`]), within `ε + ‖q − q̂‖ (1 + γ)(‖x‖ + r)`, and so of
//! [`integer_products`]. A distance lies within r of `√(‖q‖² + ‖x̂‖² − 2 q·x̂)`, which the same γ bounds. All that
//! follows in a score (adding s, a weight, sums of terms, the divisor) is f32 operations that are monotone, rounding
//! included: the same operations on both ends of the interval give an interval that holds the score itself, to the bit.
//!
//! Where the features themselves were rounded to be stored, x is what they were before: the score by them is bounded
//! from the stored ones in the same way, and the norm that divides it is an interval too, of ±r around the stored one.
//!
//! [`panel_products`]: crate::backend::cpu::panel_products
//! [`halved_products`]: crate::backend::cpu::halved_products
//! [`integer_products`]: crate::backend::cpu::integer_products

#![allow(clippy::inline_always)] // what runs on vectors must be inlined where the instruction set is switched on

use super::form::{Form, Measure, RowNorm};
use super::pair::gradient_norm;
use super::query::{Query, Weight};
use super::source::FactorSet;
use crate::backend::cpu::dot;
use crate::backend::cpu::simd::{Isa, Kernel, LANES, Vector};

/// Half the distance between 1 and the next f32.
const U: f64 = 1.0 / (1 << 24) as f64;
/// More than a few roundings on the way to a bound, relative to 1: bounds are widened by this.
const SPARE: f32 = 16.0 / (1 << 24) as f32;
/// More than what underflow takes from a length.
const TINY_LENGTH: f64 = 1e-18;
/// Limits that a screen is by are this much lower than they are: more than a few roundings.
const LOWERED: f32 = 1.0 / (1 << 17) as f32;
/// Limits of sums, and what divides a row's, that a screen is not by where they are less: what is multiplied with them
/// might underflow.
const LEAST_LIMIT: f32 = 1e-30;
const LEAST_DIVISOR: f32 = 1e-4;
/// Products that a screen lets past: the ends of their intervals might overflow.
const MOST_PRODUCT: f32 = 1e37;

/// Whether this form's scores can be bounded: those of the model's own features.
pub(super) fn applies(form: &Form<'_>) -> bool {
    form.scorer.is_none() && form.sets == [FactorSet::Final] && form.passes.iter().all(|pass| pass.rate == 1.0)
}

/// Whether rounding the features changes nothing else in the scores of `queries`: where queries or norms are made from
/// the training features (a record of the store's own, a refit, a curvature), rounding changes those too.
pub(super) fn tells_of_rounding(form: &Form<'_>, queries: &[Query]) -> bool {
    let own = |query: &Query| !query.of_source && query.terms.iter().all(|t| !matches!(t.weight, Weight::Class(_)));
    applies(form) && !matches!(form.norm, RowNorm::Given(_)) && queries.iter().all(own)
}

/// How far what is computed from the products of a tile's rows is off.
#[derive(Debug, Default)]
pub(super) struct Radii {
    /// By row: ε over ‖q‖ (of distances, without r).
    rows: Vec<f32>,
    /// By row, where queries are rounded: what ε grows by, over ‖q − q̂‖.
    reaches: Vec<f32>,
    /// By row, of distances: `‖x̂‖²` and r.
    squares: Vec<f32>,
    residuals: Vec<f32>,
    /// By row, where the norms that divide are intervals: the least and the greatest.
    norms: [Vec<f32>; 2],
    gamma: f32,
    /// What underflow can add.
    tiny: f32,
}

/// What is rounded on the way to a product.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rounding<'t> {
    /// By row, where it is a copy: at least how far it is from what it stands for.
    pub(super) residuals: Option<&'t [f32]>,
    /// By row, where it is rounded once more: at least how far.
    pub(super) halved: Option<&'t [f32]>,
    /// Whether queries are too.
    pub(super) queries: bool,
}

impl Radii {
    /// For rows `features [rows, E]` of these `norms`, rounded in these ways. Where `features` are not given, `norms`
    /// are those of copies too.
    pub(super) fn load(
        &mut self,
        measure: Measure,
        features: &[f32],
        width: usize,
        norms: &[f32],
        Rounding { residuals, halved, queries }: Rounding<'_>,
    ) {
        // A panel's chain (a product of integers has fewer roundings, but for a few more at the end), and the lane sums
        // and tree of a score's own.
        let gamma = 1.01 * (width + width.div_ceil(LANES) + 48) as f64 * U;
        (self.gamma, self.tiny) = (gamma as f32, (width + 16) as f32 * 1e-37);
        for buffer in [&mut self.rows, &mut self.reaches, &mut self.squares, &mut self.residuals] {
            buffer.clear();
        }
        self.norms.iter_mut().for_each(Vec::clear);
        for (row, &norm) in norms.iter().enumerate() {
            let of = |residuals: Option<&[f32]>| residuals.map_or(0.0, |residuals| f64::from(residuals[row]));
            let (r, on_the_way) = (of(residuals), of(halved));
            let reach = f64::from(norm) * (1.0 + gamma) + TINY_LENGTH + r + on_the_way;
            let rounding = on_the_way + gamma * reach;
            if queries {
                self.reaches.push(up((1.0 + gamma) * reach));
            }
            if measure == Measure::Product {
                self.rows.push(up(r + rounding));
                continue;
            }
            let own = || {
                let copy = &features[row * width..(row + 1) * width];
                dot(copy, copy)
            };
            self.rows.push(up(rounding));
            let measured = residuals.is_some() && !features.is_empty();
            self.squares.push(if measured { own() } else { norm * norm });
            self.residuals.push(up(r + TINY_LENGTH));
        }
    }

    /// For rows whose stored `norms` are those of features each within its own of `residuals` of what it was: what a
    /// sum is divided by is then no one number. Called after [`Radii::load`].
    pub(super) fn load_norms(&mut self, form: &Form<'_>, norms: &[f32], residuals: &[f32]) {
        if form.norm == RowNorm::One {
            return;
        }
        let gradient = form.norm == RowNorm::Gradient;
        for (&r, &norm) in residuals.iter().zip(norms) {
            let interval = norm_interval(r, norm, f64::from(self.gamma));
            let interval = if gradient { interval.map(gradient_norm) } else { interval };
            self.norms.iter_mut().zip(interval).for_each(|(norms, norm)| norms.push(norm));
        }
    }

    /// Divides bounds on sums by `query` times the rows' norms, where those are intervals; whether they are.
    pub(super) fn divide(&self, query: f32, low: &mut [f32], high: &mut [f32]) -> bool {
        let [least, most] = &self.norms;
        for (((least, most), low), high) in least.iter().zip(most).zip(low).zip(high) {
            let (less, more) = (query * least, query * most);
            if less > 0.0 {
                *low /= if *low < 0.0 { less } else { more };
                *high /= if *high < 0.0 { more } else { less };
            } else if more > 0.0 {
                (*low, *high) = (f32::NEG_INFINITY, f32::INFINITY);
            } else {
                (*low, *high) = (0.0, 0.0);
            }
        }
        !least.is_empty()
    }

    /// The least and greatest dot products with a query, from their `products` with the rows.
    pub(super) fn products(&self, query: Length, products: &[f32], low: &mut [f32], high: &mut [f32]) {
        Isa::best().run(AroundProducts { query: self.at_least(query), radii: self, products, low, high });
    }

    /// Whether norms that divide are intervals.
    pub(super) fn has_norms(&self) -> bool {
        !self.norms[0].is_empty()
    }

    /// What divides a row's sum, for [`Radii::screen`]: no number, which reaches every limit, where it is next to
    /// nothing.
    pub(super) fn divisor(norm: f32) -> f32 {
        if norm >= LEAST_DIVISOR { norm } else { f32::NAN }
    }

    /// Adds the interval of each row's term of a query, for the rows from number `first` on.
    pub(super) fn add_terms(
        &self,
        term: &Side<'_>,
        first: usize,
        products: &[f32],
        least: &mut [f32],
        most: &mut [f32],
    ) {
        let Side { length, bias, weights } = *term;
        let query = self.at_least(length);
        Isa::best().run(AddTerms { query, radii: self, first, products, weights, bias, least, most });
    }

    /// Which sixteens of rows may have a score that reaches a limit, a bit each: of one term, divided by `query_norm`
    /// and `divisors`. `None` where that is not told: of more than 64 sixteens, or where a limit is too near to zero.
    ///
    /// Without a division, and without the ends of the interval: `|w| (ε + spare)` beside `w (product + s)`, against
    /// limits times what would divide. A few roundings are spared on either side, and nothing underflows or overflows
    /// that counts, so that what is left out here has bounds that reach no limit.
    pub(super) fn screen(
        &self,
        term: &Side<'_>,
        products: &[f32],
        divisors: &[f32],
        query_norm: f32,
        limits: [f32; 2],
    ) -> Option<u64> {
        let lowered = limits.map(|limit| {
            let limit = limit * query_norm;
            if limit.abs() > LEAST_LIMIT { limit - limit.abs() * LOWERED } else { f32::NEG_INFINITY }
        });
        let is_usual =
            products.len() <= 64 * LANES && query_norm > LEAST_LIMIT && lowered.iter().all(|limit| limit.is_finite());
        let query = self.at_least(term.length);
        is_usual.then(|| Isa::best().run(Screen { query, radii: self, products, divisors, term, limits: lowered }))
    }

    /// At least a query's length, from its rounded norm.
    fn at_least(&self, query: Length) -> Length {
        Length { norm: up(f64::from(query.norm) * (1.0 + f64::from(self.gamma)) + TINY_LENGTH), ..query }
    }

    /// How far products with some rows are off.
    #[inline(always)]
    fn epsilon<V: Vector>(&self, query: Length, times: f32, at: At) -> V {
        let more = |residual: f32| V::splat(times * residual * (1.0 + SPARE));
        let epsilon = more(query.norm).fma(at.load(&self.rows), V::splat(self.tiny));
        if self.reaches.is_empty() { epsilon } else { more(query.residual).fma(at.load(&self.reaches), epsilon) }
    }

    /// The least and greatest scores `−‖q − x‖`.
    pub(super) fn distances(&self, query: Length, products: &[f32], low: &mut [f32], high: &mut [f32]) {
        Isa::best().run(AroundDistances { query, radii: self, products, low, high });
    }
}

/// How long a query is, `‖h_q‖`, and at least how far it was rounded on its way into a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Length {
    pub(super) norm: f32,
    pub(super) residual: f32,
}

/// What a term takes from its query, and from the rows beside their products.
pub(super) struct Side<'t> {
    pub(super) length: Length,
    pub(super) bias: f32,
    /// What each row weighs.
    pub(super) weights: &'t [f32],
}

/// `product ∓ ε`
struct AroundProducts<'t> {
    query: Length,
    radii: &'t Radii,
    products: &'t [f32],
    low: &'t mut [f32],
    high: &'t mut [f32],
}

impl Kernel for AroundProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for at in vectors(self.products.len()) {
            let (low, high) = around::<V>(at.load(self.products), self.radii.epsilon(self.query, 1.0, at));
            at.store(low, self.low);
            at.store(high, self.high);
        }
    }
}

/// `−√(‖q‖² + ‖x̂‖² − 2 product ± …) ∓ r`
struct AroundDistances<'t> {
    query: Length,
    radii: &'t Radii,
    products: &'t [f32],
    low: &'t mut [f32],
    high: &'t mut [f32],
}

impl Kernel for AroundDistances<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Radii { squares, residuals, gamma, .. } = self.radii;
        let (square, relative) = (V::splat(self.query.norm * self.query.norm), V::splat(5.0 * gamma));
        let (shorter, longer) = (V::splat(1.0 - gamma - SPARE), V::splat(1.0 + gamma + SPARE));
        for at in vectors(self.products.len()) {
            let squares = square.add(at.load(squares));
            let distance = V::splat(-2.0).fma(at.load(self.products), squares);
            let epsilon = relative.fma(squares, self.radii.epsilon(self.query, 2.0, at));
            let (least, most) = around(distance, epsilon);
            let residual: V = at.load(residuals);
            // The first operand of a maximum is what a NaN in the second gets past.
            let least = V::zero().max(V::zero().max(least).sqrt().mul(shorter).sub(residual.mul(longer)));
            let most = V::zero().max(most).sqrt().mul(longer).add(residual.mul(longer));
            at.store(V::zero().sub(most.mul(longer)), self.low);
            at.store(V::zero().sub(least.mul(shorter)), self.high);
        }
    }
}

/// `value ∓ epsilon`, and some roundings to spare.
#[inline(always)]
fn around<V: Vector>(value: V, epsilon: V) -> (V, V) {
    let size = value.max(V::zero().sub(value));
    let epsilon = V::splat(SPARE).fma(size, epsilon);
    (value.sub(epsilon), value.add(epsilon))
}

/// The interval of one term, `weight · (product ∓ ε + bias)`, added to what there is: both ends go through the
/// operations of the score itself. A weight below zero turns an interval around. Where an end is no number, neither is
/// a sum.
struct AddTerms<'t> {
    query: Length,
    radii: &'t Radii,
    /// The number of the first row.
    first: usize,
    products: &'t [f32],
    weights: &'t [f32],
    bias: f32,
    least: &'t mut [f32],
    most: &'t mut [f32],
}

impl Kernel for AddTerms<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let bias = V::splat(self.bias);
        for at in vectors(self.products.len()) {
            let row = At { start: self.first + at.start, ..at };
            let (low, high) = around::<V>(at.load(self.products), self.radii.epsilon(self.query, 1.0, row));
            let weight: V = at.load(self.weights);
            let (one, other) = (weight.mul(low.add(bias)), weight.mul(high.add(bias)));
            let least = V::select_lt(other, one, other, one).add(at.load(self.least));
            let most = V::select_lt(other, one, one, other).add(at.load(self.most));
            at.store(least, self.least);
            at.store(most, self.most);
        }
    }
}

/// See [`Radii::screen`].
struct Screen<'t> {
    query: Length,
    radii: &'t Radii,
    products: &'t [f32],
    divisors: &'t [f32],
    term: &'t Side<'t>,
    limits: [f32; 2],
}

impl Kernel for Screen<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<V: Vector>(self) -> u64 {
        let Self { query, radii, products, divisors, term, limits: [best, worst] } = self;
        let (bias, best, worst) = (V::splat(term.bias), V::splat(best), V::splat(worst));
        let (zero, spare, most) = (V::zero(), V::splat(4.0 * SPARE), V::splat(MOST_PRODUCT));
        let query = Length { norm: query.norm * (1.0 + 2.0 * SPARE), residual: query.residual * (1.0 + 2.0 * SPARE) };
        let mut bits = 0;
        for (number, at) in vectors(products.len()).enumerate() {
            let (sum, weight): (V, V) = (at.load::<V>(products).add(bias), at.load(term.weights));
            let size = sum.max(zero.sub(sum));
            // As much is spared of product and bias each, whose sum may be small.
            let epsilon = spare.fma(size.add(V::splat(2.0 * term.bias.abs())), radii.epsilon(query, 1.0, at));
            let (middle, off) = (weight.mul(sum), weight.max(zero.sub(weight)).mul(epsilon));
            let divisor: V = at.load(divisors);
            let reaches = V::any_not_less(middle.add(off), best.mul(divisor))
                | V::any_not_less(off.sub(middle), worst.mul(divisor))
                | V::any_not_less(size.add(epsilon), most);
            bits |= u64::from(reaches) << number;
        }
        bits
    }
}

/// Where a bound is not one (infinities met), everything is possible.
pub(super) struct Widen<'t> {
    pub(super) low: &'t mut [f32],
    pub(super) high: &'t mut [f32],
}

impl Kernel for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let (one, infinity) = (V::splat(1.0), V::splat(f32::INFINITY));
        for at in vectors(self.low.len()) {
            let (low, high): (V, V) = (at.load(self.low), at.load(self.high));
            // 0 of two numbers, NaN of anything else.
            let check = low.sub(low).add(high.sub(high));
            at.store(V::select_lt(check, one, low, V::zero().sub(infinity)), self.low);
            at.store(V::select_lt(check, one, high, infinity), self.high);
        }
    }
}

/// Up to sixteen consecutive numbers of some slices.
#[derive(Clone, Copy)]
struct At {
    start: usize,
    len: usize,
}

impl At {
    #[inline(always)]
    fn load<V: Vector>(self, from: &[f32]) -> V {
        let from = &from[self.start..self.start + self.len];
        match from.first_chunk() {
            Some(whole) => V::load(whole),
            None => V::load_partial(from),
        }
    }

    #[inline(always)]
    fn store<V: Vector>(self, value: V, to: &mut [f32]) {
        let to = &mut to[self.start..self.start + self.len];
        match to.first_chunk_mut() {
            Some(whole) => value.store(whole),
            None => value.store_partial(to),
        }
    }
}

#[inline(always)]
fn vectors(len: usize) -> impl Iterator<Item = At> {
    (0..len).step_by(LANES).map(move |start| At { start, len: LANES.min(len - start) })
}

/// What a stored norm can have been before its row was rounded by at most `r`.
fn norm_interval(r: f32, norm: f32, gamma: f64) -> [f32; 2] {
    let (r, norm) = (f64::from(r), f64::from(norm));
    if r == 0.0 && norm == 0.0 {
        return [0.0; 2];
    }
    let least = (norm * (1.0 - gamma) - r) * (1.0 - gamma) - TINY_LENGTH;
    let most = (norm * (1.0 + gamma) + r) * (1.0 + gamma) + TINY_LENGTH;
    [(least as f32).next_down().max(0.0), up(most)]
}

fn up(x: f64) -> f32 {
    (x as f32).next_up()
}
