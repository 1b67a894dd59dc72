//! Layer normalisation of rows in place: the mean, then the variance of what is left, then scale and shift.
//!
//! Two passes, because the one-pass form `E[x²] − E[x]²` cancels. Sums go by sixteen lanes and the fixed tree of [`Vector::sum`].

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

#[inline(always)]
fn normalise<V: Vector>(row: &mut [f32], parameters: Parameters<'_>) {
    let width = row.len() as f32;
    let mean = V::splat(fold::<V>(row, |sum, x, _| sum.add(x)) / width);
    let variance = fold::<V>(row, |sum, x, inside| {
        let difference = x.sub(mean).mul(inside);
        difference.fma(difference, sum)
    }) / width;
    let scale = V::splat((variance + parameters.epsilon).sqrt().recip());

    let affine = |x: V, weight: V, bias: V| x.sub(mean).mul(scale).fma(weight, bias);
    let (weights, last_weights) = parameters.weight.as_chunks::<LANES>();
    let (biases, last_biases) = parameters.bias.as_chunks::<LANES>();
    let (whole, tail) = row.as_chunks_mut::<LANES>();
    for ((x, weight), bias) in whole.iter_mut().zip(weights).zip(biases) {
        affine(V::load(x), V::load(weight), V::load(bias)).store(x);
    }
    if !tail.is_empty() {
        let (weight, bias) = (V::load_partial(last_weights), V::load_partial(last_biases));
        affine(V::load_partial(tail), weight, bias).store_partial(tail);
    }
}

/// The sum over lanes of `step` over a row's vectors; `step` is told which lanes are inside the row (1) and which are not (0).
#[inline(always)]
fn fold<V: Vector>(row: &[f32], step: impl Fn(V, V, V) -> V) -> f32 {
    const ONES: [f32; LANES] = [1.0; LANES];
    let (whole, tail) = row.as_chunks::<LANES>();
    let sum = whole.iter().fold(V::zero(), |sum, x| step(sum, V::load(x), V::splat(1.0)));
    if tail.is_empty() {
        return sum.sum();
    }
    step(sum, V::load_partial(tail), V::load_partial(&ONES[..tail.len()])).sum()
}
