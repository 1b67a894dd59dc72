//! Activations and their derivatives in f64, with the error function they need.

use crate::backend::Activation;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// An activation at one point.
pub fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::Gelu => x * 0.5 * erfc(-x * FRAC_1_SQRT_2),
        Activation::GeluTanh => x * sigmoid(2.0 * (2.0 / PI).sqrt() * (x + 0.044_715 * x * x * x)),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Relu => x.max(0.0),
        Activation::Silu => x * sigmoid(x),
        Activation::Tanh => x.tanh(),
    }
}

/// Its derivative there.
pub fn derivative(activation: Activation, x: f64) -> f64 {
    // x σ(u): σ + x σ (1 − σ) u'
    let gated = |u: f64, slope: f64| sigmoid(u) * (1.0 + x * sigmoid(-u) * slope);
    match activation {
        Activation::Identity => 1.0,
        Activation::Gelu => 0.5 * erfc(-x * FRAC_1_SQRT_2) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt(),
        Activation::GeluTanh => {
            let c = 2.0 * (2.0 / PI).sqrt();
            gated(c * (x + 0.044_715 * x * x * x), c * (1.0 + 3.0 * 0.044_715 * x * x))
        }
        Activation::QuickGelu => gated(1.702 * x, 1.702),
        Activation::Relu => f64::from(u8::from(x > 0.0)),
        Activation::Silu => gated(x, 1.0),
        Activation::Tanh => 1.0 - x.tanh() * x.tanh(),
    }
}

/// `1 / (1 + e^−x)`
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `erf(x) = 2/√π ∫₀ˣ exp(−t²) dt`, to a few ulps (Abramowitz & Stegun 7.1.6: a series of one sign, so nothing
/// cancels).
pub fn erf(x: f64) -> f64 {
    if x.abs() >= FRACTION_FROM {
        return x.signum() * (1.0 - erfc(x.abs()));
    }
    let mut term = x;
    let mut sum = 0.0;
    let mut odd = 1.0;
    while sum + term != sum {
        sum += term;
        odd += 2.0;
        term *= 2.0 * x * x / odd;
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

/// `1 − erf(x)`, with small relative error also where it is tiny (Abramowitz & Stegun 7.1.14: a continued fraction).
pub fn erfc(x: f64) -> f64 {
    if x < FRACTION_FROM {
        return if x <= -FRACTION_FROM { 2.0 - erfc(-x) } else { 1.0 - erf(x) };
    }
    let tail = (1..=FRACTION_TERMS).rev().fold(x, |below, n| x + f64::from(n) / 2.0 / below);
    (-x * x).exp() / (PI.sqrt() * tail)
}

/// Where the continued fraction takes over from the series.
const FRACTION_FROM: f64 = 2.0;
/// Enough of it for 1e-16 from there on.
const FRACTION_TERMS: u32 = 120;
