//! Exponential, error function and hyperbolic tangent on vectors, and the activations made of them.
//!
//! Only additions, multiplications, divisions and fused multiply-adds, all correctly rounded, so that the bits are the same on every
//! instruction set. The polynomials are minimax fits, their coefficients rounded to f32; the errors stated are of the whole function
//! in f32, found by trying arguments all over its range (`tests/kernels/activation.rs` repeats it).

use super::super::Activation;
use super::simd::{Isa, Kernel, LANES, Vector};

/// `Σ c_i x^i`
#[inline(always)]
fn polynomial<V: Vector, const N: usize>(x: V, coefficients: [f32; N]) -> V {
    let highest = V::splat(coefficients[N - 1]);
    coefficients[..N - 1].iter().rev().fold(highest, |sum, &c| sum.fma(x, V::splat(c)))
}

/// `exp(x)` to 1.2 ulp: 0 below −104, infinite above 88.8, NaN for NaN.
///
/// `x = n ln 2 + r`, `|r| ≤ ln 2 / 2`; ln 2 in two parts so that r loses nothing; `exp(r) = 1 + r + r² q(r)`; times `2^n`.
#[inline(always)]
pub(super) fn exp<V: Vector>(x: V) -> V {
    const LN_2_TAIL: f32 = -1.904_654_3e-9; // ln 2 − LN_2 in f32
    const Q: [f32; 5] = [0.5, 0.166_665_76, 0.041_666_556, 0.008_363_203, 0.001_392_621_3];
    let x = V::splat(89.0).min(V::splat(-104.0).max(x)); // in this order NaN passes
    let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
    let r = n.fma(V::splat(-std::f32::consts::LN_2), x);
    let r = n.fma(V::splat(-LN_2_TAIL), r);
    polynomial(r, Q).mul(r).fma(r, r).add(V::splat(1.0)).scale(n)
}

/// An odd function that reaches ±1: `x P(x²) / Q(x²)` for `|x|` up to `bound`, and there it stays.
#[inline(always)]
fn odd_rational<V: Vector, const P: usize, const Q: usize>(x: V, bound: f32, p: [f32; P], q: [f32; Q]) -> V {
    let x = V::splat(bound).min(V::splat(-bound).max(x));
    let square = x.mul(x);
    let value = x.mul(polynomial(square, p)).div(polynomial(square, q));
    V::splat(1.0).min(V::splat(-1.0).max(value))
}

/// `erf(x)` to 1.5e-7.
#[inline(always)]
pub(super) fn erf<V: Vector>(x: V) -> V {
    const P: [f32; 6] =
        [std::f32::consts::FRAC_2_SQRT_PI, 0.191_430_51, 0.052_858_274, 0.003_802_684_6, 2.845_079e-4, 2.026_070_4e-6];
    const Q: [f32; 6] = [1.0, 0.502_983_57, 0.114_508_905, 0.015_044_136, 0.001_169_294_1, 3.782_411_7e-5];
    odd_rational(x, 3.95, P, Q)
}

/// `tanh(x)` to 4 ulp.
#[inline(always)]
pub(super) fn tanh<V: Vector>(x: V) -> V {
    const P: [f32; 5] = [1.0, 0.133_746_01, 0.003_487_944_1, 2.048_271_6e-5, 1.317_847_4e-8];
    const Q: [f32; 5] = [1.0, 0.467_079_16, 0.025_847_94, 3.273_108_7e-4, 7.704_678e-7];
    odd_rational(x, 9.1, P, Q)
}

/// `x σ(u) = x / (1 + exp(−u))`
#[inline(always)]
fn gated<V: Vector>(x: V, u: V) -> V {
    x.div(V::splat(1.0).add(exp(V::zero().sub(u))))
}

/// One activation as a type, so that a loop is compiled for each and asks nothing inside.
pub(super) trait Pointwise {
    /// The function.
    fn apply<V: Vector>(x: V) -> V;
}

pub(super) struct Identity;
impl Pointwise for Identity {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        x
    }
}

pub(super) struct Gelu;
impl Pointwise for Gelu {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        let half = x.mul(V::splat(0.5));
        half.fma(erf(x.mul(V::splat(std::f32::consts::FRAC_1_SQRT_2))), half)
    }
}

pub(super) struct GeluTanh;
impl Pointwise for GeluTanh {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        // x/2 (1 + tanh u) = x σ(2u), and 2u = x (c + 0.044715 c x²) with c = 2 √(2/π): no cancellation for negative x.
        const C: f32 = 1.595_769;
        let inner = x.mul(x).fma(V::splat(0.044_715 * C), V::splat(C));
        gated(x, x.mul(inner))
    }
}

pub(super) struct QuickGelu;
impl Pointwise for QuickGelu {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        gated(x, x.mul(V::splat(1.702)))
    }
}

pub(super) struct Relu;
impl Pointwise for Relu {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        V::zero().max(x) // NaN passes
    }
}

pub(super) struct Silu;
impl Pointwise for Silu {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        gated(x, x)
    }
}

pub(super) struct Tanh;
impl Pointwise for Tanh {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        tanh(x)
    }
}

/// Evaluates `$body` with `$p` standing for the [`Pointwise`] type of an activation.
macro_rules! for_activation {
    ($activation:expr, $p:ident => $body:expr) => {{
        use $crate::backend::Activation as A;
        use $crate::backend::cpu::activation as pointwise;
        match $activation {
            A::Identity => {
                type $p = pointwise::Identity;
                $body
            }
            A::Gelu => {
                type $p = pointwise::Gelu;
                $body
            }
            A::GeluTanh => {
                type $p = pointwise::GeluTanh;
                $body
            }
            A::QuickGelu => {
                type $p = pointwise::QuickGelu;
                $body
            }
            A::Relu => {
                type $p = pointwise::Relu;
                $body
            }
            A::Silu => {
                type $p = pointwise::Silu;
                $body
            }
            A::Tanh => {
                type $p = pointwise::Tanh;
                $body
            }
        }
    }};
}
pub(super) use for_activation;

/// Applies an activation to every number in place.
pub fn activate_on(isa: Isa, activation: Activation, values: &mut [f32]) {
    isa.run(InPlace { activation, values });
}

struct InPlace<'a> {
    activation: Activation,
    values: &'a mut [f32],
}

impl Kernel for InPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for_activation!(self.activation, P => in_place::<V, P>(self.values));
    }
}

#[inline(always)]
fn in_place<V: Vector, P: Pointwise>(values: &mut [f32]) {
    let (whole, tail) = values.as_chunks_mut::<LANES>();
    for chunk in whole {
        P::apply(V::load(chunk)).store(chunk);
    }
    if !tail.is_empty() {
        P::apply(V::load_partial(tail)).store_partial(tail);
    }
}
