//! Layer normalisation of rows in place, and its backward: the mean, then the variance of what is left, then scale and
//! shift.
//!
//! Two passes, because the one-pass form `E[x²] − E[x]²` cancels. Sums go by sixteen lanes and the fixed tree of
//! [`Vector::sum`]. Loops rather than closures over iterators: what is not inlined is compiled without the instruction
//! set.

use super::simd::{Isa, Kernel, LANES, Vector};

/// The parameters, as plain slices.
#[derive(Clone, Copy)]
pub(super) struct Parameters<'a> {
    /// Scale, `[E]`.
    pub(super) weight: &'a [f32],
    /// Shift, `[E]`.
    pub(super) bias: &'a [f32],
    /// Added to the variance.
    pub(super) epsilon: f32,
}

/// `row = (row − mean) / √(var + ε) · weight + bias` for each row of `rows [n, E]`.
pub(super) fn layer_norm(isa: Isa, rows: &mut [f32], parameters: Parameters<'_>) {
    isa.run(LayerNorm { rows, parameters });
}

struct LayerNorm<'a> {
    rows: &'a mut [f32],
    parameters: Parameters<'a>,
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for row in self.rows.chunks_exact_mut(self.parameters.weight.len().max(1)) {
            normalise::<V>(row, self.parameters);
        }
    }
}

/// The gradient at each row of `x [n, E]` that [`layer_norm`] was given, from that at its output, in place.
///
/// With x̂ the normalised row and g = weight · dy: `dx = (g − mean(g) − x̂ mean(g x̂)) / √(var + ε)`.
pub(super) fn backward(isa: Isa, gradients: &mut [f32], x: &[f32], parameters: Parameters<'_>) {
    isa.run(Backward { gradients, x, parameters });
}

struct Backward<'a> {
    gradients: &'a mut [f32],
    x: &'a [f32],
    parameters: Parameters<'a>,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let width = self.parameters.weight.len().max(1);
        for (gradient, x) in self.gradients.chunks_exact_mut(width).zip(self.x.chunks_exact(width)) {
            row_backward::<V>(gradient, x, self.parameters);
        }
    }
}

#[inline(always)]
fn row_backward<V: Vector>(gradient: &mut [f32], x: &[f32], parameters: Parameters<'_>) {
    let width = x.len() as f32;
    let (mean, scale) = statistics::<V>(x, parameters.epsilon);
    let (mean, scale) = (V::splat(mean), V::splat(scale));
    let [mut sum, mut moment] = [V::zero(); 2];
    let (inputs, last_inputs) = x.as_chunks::<LANES>();
    let (weights, last_weights) = parameters.weight.as_chunks::<LANES>();
    let (whole, tail) = gradient.as_chunks_mut::<LANES>();
    for ((g, x), weight) in whole.iter().zip(inputs).zip(weights) {
        let g = V::load(g).mul(V::load(weight));
        sum = sum.add(g);
        moment = g.fma(V::load(x).sub(mean).mul(scale), moment);
    }
    if !tail.is_empty() {
        // Lanes outside the row have g = 0.
        let g = V::load_partial(tail).mul(V::load_partial(last_weights));
        sum = sum.add(g);
        moment = g.fma(V::load_partial(last_inputs).sub(mean).mul(scale), moment);
    }
    let (sum, moment) = (V::splat(sum.sum() / width), V::splat(moment.sum() / width));
    let row = Row { mean, scale, sum, moment };
    for ((g, x), weight) in whole.iter_mut().zip(inputs).zip(weights) {
        row.gradient(V::load(g), V::load(x), V::load(weight)).store(g);
    }
    if !tail.is_empty() {
        let (x, weight) = (V::load_partial(last_inputs), V::load_partial(last_weights));
        row.gradient(V::load_partial(tail), x, weight).store_partial(tail);
    }
}

/// What a row's gradient is made of: its statistics, and the means of `g` and `g x̂`.
struct Row<V> {
    mean: V,
    scale: V,
    sum: V,
    moment: V,
}

impl<V: Vector> Row<V> {
    #[inline(always)]
    fn gradient(&self, dy: V, x: V, weight: V) -> V {
        let normalised = x.sub(self.mean).mul(self.scale);
        dy.mul(weight).sub(self.sum).sub(normalised.mul(self.moment)).mul(self.scale)
    }
}

/// A row's mean and `1 / √(var + ε)`.
#[inline(always)]
pub(super) fn statistics<V: Vector>(row: &[f32], epsilon: f32) -> (f32, f32) {
    const ONES: [f32; LANES] = [1.0; LANES];
    let width = row.len() as f32;
    let (whole, tail) = row.as_chunks::<LANES>();
    let mut sum = V::zero();
    for x in whole {
        sum = sum.add(V::load(x));
    }
    if !tail.is_empty() {
        sum = sum.add(V::load_partial(tail));
    }
    let mean = sum.sum() / width;
    let (centre, mut squares) = (V::splat(mean), V::zero());
    for x in whole {
        let difference = V::load(x).sub(centre);
        squares = difference.fma(difference, squares);
    }
    if !tail.is_empty() {
        // Lanes outside the row differ by nothing.
        let difference = V::load_partial(tail).sub(centre).mul(V::load_partial(&ONES[..tail.len()]));
        squares = difference.fma(difference, squares);
    }
    (mean, (squares.sum() / width + epsilon).sqrt().recip())
}

#[inline(always)]
fn normalise<V: Vector>(row: &mut [f32], parameters: Parameters<'_>) {
    let (mean, scale) = statistics::<V>(row, parameters.epsilon);
    let (mean, scale) = (V::splat(mean), V::splat(scale));
    let (weights, last_weights) = parameters.weight.as_chunks::<LANES>();
    let (biases, last_biases) = parameters.bias.as_chunks::<LANES>();
    let (whole, tail) = row.as_chunks_mut::<LANES>();
    for ((x, weight), bias) in whole.iter_mut().zip(weights).zip(biases) {
        V::load(x).sub(mean).mul(scale).fma(V::load(weight), V::load(bias)).store(x);
    }
    if !tail.is_empty() {
        let (weight, bias) = (V::load_partial(last_weights), V::load_partial(last_biases));
        V::load_partial(tail).sub(mean).mul(scale).fma(weight, bias).store_partial(tail);
    }
}
