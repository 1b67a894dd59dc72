//! Exponential, hyperbolic tangent and GELU on vectors, and the other activations made of them.
//!
//! Only additions, multiplications, divisions and fused multiply-adds, all correctly rounded, so that the bits are the
//! same on every instruction set. The polynomials are minimax fits, their coefficients rounded to f32; the errors
//! stated are those of the whole function in f32 (the tests below try arguments all over the range).

use super::simd::{Isa, Kernel, LANES, Vector};
use crate::backend::Activation;
use std::f32::consts::{LN_2, LOG2_E};

/// `Σ c_i x^i`
#[inline(always)]
fn polynomial<V: Vector, const N: usize>(x: V, coefficients: [f32; N]) -> V {
    let highest = V::splat(coefficients[N - 1]);
    coefficients[..N - 1].iter().rev().fold(highest, |sum, &c| sum.fma(x, V::splat(c)))
}

/// `Σ c_i x^i` as `even(x²) + x odd(x²)`: two chains at once where one would keep the machine waiting.
#[inline(always)]
fn split_polynomial<V: Vector, const N: usize>(x: V, coefficients: [f32; N]) -> V {
    let square = x.mul(x);
    let (mut even, mut odd) = (V::splat(coefficients[N - 2]), V::splat(coefficients[N - 1]));
    for i in (2..N).step_by(2).rev() {
        even = even.fma(square, V::splat(coefficients[i - 2]));
        odd = odd.fma(square, V::splat(coefficients[i - 1]));
    }
    odd.fma(x, even)
}

/// `exp(x)` to 1.2 ulp: 0 below −104, infinite above 88.8, NaN for NaN.
///
/// `x = n ln 2 + r`, `|r| ≤ ln 2 / 2`; ln 2 in two parts so that r loses nothing; `exp(r) = 1 + r + r² q(r)`; times
/// `2^n`.
#[inline(always)]
pub(super) fn exp<V: Vector>(x: V) -> V {
    const LN_2_TAIL: f32 = -1.904_654_3e-9; // ln 2 − LN_2 in f32
    const Q: [f32; 5] = [0.5, 0.166_665_76, 0.041_666_556, 0.008_363_203, 0.001_392_621_3];
    let x = V::splat(89.0).min(V::splat(-104.0).max(x)); // in this order NaN passes
    let n = x.mul(V::splat(LOG2_E)).round();
    let r = n.fma(V::splat(-LN_2), x);
    let r = n.fma(V::splat(-LN_2_TAIL), r);
    polynomial(r, Q).mul(r).fma(r, r).add(V::splat(1.0)).scale(n)
}

/// `tanh(x)` to 2 ulp: a polynomial where `1 − 2 / (exp(2|x|) + 1)` would cancel.
#[inline(always)]
pub(super) fn tanh<V: Vector>(x: V) -> V {
    const SMALL: f32 = 0.625;
    const NEAR: [f32; 6] = [-1.0 / 3.0, 0.133_333_01, -0.053_958_73, 0.021_764_65, -0.008_330_077, 0.002_277_155];
    let (one, two, size) = (V::splat(1.0), V::splat(2.0), magnitude(x));
    let square = x.mul(x);
    let small = polynomial(square, NEAR).mul(square).fma(x, x);
    let large = one.sub(two.div(exp(size.mul(two)).add(one)));
    V::select_lt(size, V::splat(SMALL), small, with_sign_of(x, large))
}

/// `|x|`
#[inline(always)]
fn magnitude<V: Vector>(x: V) -> V {
    x.max(V::zero().sub(x))
}

/// `size`, negated where `x` is negative.
#[inline(always)]
fn with_sign_of<V: Vector>(x: V, size: V) -> V {
    V::select_lt(x, V::zero(), V::zero().sub(size), size)
}

/// `x Φ(x)` to `1e-7 |x|` (of normal numbers), as `max(x, 0) − |x|/2 erfc(|x|/√2)`: nothing cancels, so negative x keep
/// their digits too.
#[inline(always)]
pub(super) fn gelu<V: Vector>(x: V) -> V {
    gelu_of(x, magnitude(x), complement(magnitude(x)))
}

/// [`gelu`] of x with its magnitude and the [`complement`] of that.
#[inline(always)]
fn gelu_of<V: Vector>(x: V, size: V, tail: V) -> V {
    let taken = size.mul(V::splat(0.5)).mul(tail);
    V::zero().max(x).sub(V::select_lt(size, V::splat(COMPLEMENT_END), taken, V::zero()))
}

/// Where [`complement`] has become less than half a unit in the last place of 1.
const COMPLEMENT_END: f32 = 5.7;

/// `erfc(x/√2)` for x from 0 to [`COMPLEMENT_END`], as `exp(x p(x))`.
#[inline(always)]
fn complement<V: Vector>(x: V) -> V {
    const P: [f32; 10] = [
        -0.797_884_9,
        -0.318_306_12,
        -0.036_351_033,
        0.004_811_164_5,
        9.840_155e-6,
        -2.023_677_7e-4,
        5.673_190_4e-5,
        -8.484_822e-6,
        7.022_845e-7,
        -2.519_711_8e-8,
    ];
    exp(split_polynomial(x, P).mul(x))
}

/// [`gelu`], and its derivative `Φ(x) + x φ(x)` to `2e-7`.
#[inline(always)]
fn gelu_with_slope<V: Vector>(x: V) -> (V, V) {
    const DENSITY: f32 = 0.398_942_3; // φ(0) = 1/√(2π)
    let (size, tail) = (magnitude(x), complement(magnitude(x)));
    let below = V::select_lt(size, V::splat(COMPLEMENT_END), V::splat(0.5).mul(tail), V::zero());
    let distribution = V::select_lt(x, V::zero(), below, V::splat(1.0).sub(below));
    let density = exp(x.mul(x).mul(V::splat(-0.5))).mul(V::splat(DENSITY));
    (gelu_of(x, size, tail), x.fma(density, distribution))
}

/// `x σ(u)` for `u' = slope`, and its derivative `σ(u) + x σ(u) (1 − σ(u)) slope`.
#[inline(always)]
fn gated_with_slope<V: Vector>(x: V, u: V, slope: V) -> (V, V) {
    let one = V::splat(1.0);
    let denominator = one.add(exp(V::zero().sub(u)));
    let gate = one.div(denominator);
    let inner = x.mul(slope).mul(one.sub(gate));
    (x.div(denominator), gate.mul(one.add(inner)))
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
    /// The same, and its derivative.
    fn with_slope<V: Vector>(x: V) -> (V, V);
}

pub(super) struct Identity;
impl Pointwise for Identity {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        x
    }

    #[inline(always)]
    fn with_slope<V: Vector>(x: V) -> (V, V) {
        (x, V::splat(1.0))
    }
}

pub(super) struct Gelu;
impl Pointwise for Gelu {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        gelu(x)
    }

    #[inline(always)]
    fn with_slope<V: Vector>(x: V) -> (V, V) {
        gelu_with_slope(x)
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

    #[inline(always)]
    fn with_slope<V: Vector>(x: V) -> (V, V) {
        // u = 2 √(2/π) (x + 0.044715 x³), as above.
        const C: f32 = 1.595_769;
        let square = x.mul(x);
        let u = x.mul(square.fma(V::splat(0.044_715 * C), V::splat(C)));
        let slope = square.fma(V::splat(3.0 * 0.044_715 * C), V::splat(C));
        gated_with_slope(x, u, slope)
    }
}

pub(super) struct QuickGelu;
impl Pointwise for QuickGelu {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        gated(x, x.mul(V::splat(1.702)))
    }

    #[inline(always)]
    fn with_slope<V: Vector>(x: V) -> (V, V) {
        gated_with_slope(x, x.mul(V::splat(1.702)), V::splat(1.702))
    }
}

pub(super) struct Relu;
impl Pointwise for Relu {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        V::zero().max(x) // NaN passes
    }

    #[inline(always)]
    fn with_slope<V: Vector>(x: V) -> (V, V) {
        (Self::apply(x), V::select_lt(V::zero(), x, V::splat(1.0), V::zero()))
    }
}

pub(super) struct Silu;
impl Pointwise for Silu {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        gated(x, x)
    }

    #[inline(always)]
    fn with_slope<V: Vector>(x: V) -> (V, V) {
        gated_with_slope(x, x, V::splat(1.0))
    }
}

pub(super) struct Tanh;
impl Pointwise for Tanh {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        tanh(x)
    }

    #[inline(always)]
    fn with_slope<V: Vector>(x: V) -> (V, V) {
        let y = tanh(x);
        (y, V::zero().sub(y).fma(y, V::splat(1.0)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::reference;

    /// `f` at every 9973rd f32 of magnitude up to `bound`, of both signs, with its argument.
    fn sample(bound: f32, f: fn(&mut [f32])) -> impl Iterator<Item = (f64, f64)> {
        let points = (0..bound.to_bits()).step_by(9973).map(f32::from_bits).flat_map(|x| [x, -x]);
        let points: Vec<f32> = points.collect();
        let mut values = points.clone();
        f(&mut values);
        points.into_iter().zip(values).map(|(x, y)| (f64::from(x), f64::from(y)))
    }

    /// A function of vectors as one of slices.
    macro_rules! over_slices {
        ($f:ident) => {{
            struct Over<'a>(&'a mut [f32]);
            impl Kernel for Over<'_> {
                type Output = ();
                #[inline(always)]
                fn run<V: Vector>(self) {
                    let (whole, tail) = self.0.as_chunks_mut::<LANES>();
                    for x in whole {
                        $f(V::load(x)).store(x);
                    }
                    $f(V::load_partial(tail)).store_partial(tail);
                }
            }
            |values: &mut [f32]| Isa::best().run(Over(values))
        }};
    }

    /// Units in the last place of `y` in f32.
    fn ulps(error: f64, y: f64) -> f64 {
        let exponent = y.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
        error.abs() / (exponent - 23.0).exp2()
    }

    #[test]
    fn exp_is_within_its_stated_error() {
        for (x, y) in sample(104.0, over_slices!(exp)) {
            let exact = x.exp();
            if exact <= f64::from(f32::MAX) {
                assert!(ulps(y - exact, exact) <= 1.2, "exp({x}) = {y}");
            }
        }
    }

    #[test]
    fn gelu_is_within_its_stated_error() {
        for (x, y) in sample(20.0, over_slices!(gelu)) {
            let exact = reference::activate(Activation::Gelu, x);
            assert!((y - exact).abs() <= 1e-7 * x.abs() + f64::from(f32::MIN_POSITIVE) * 1e-7, "gelu({x}) = {y}");
        }
    }

    #[test]
    fn tanh_is_within_its_stated_error() {
        for (x, y) in sample(20.0, over_slices!(tanh)) {
            assert!(ulps(y - x.tanh(), x.tanh()) <= 2.0, "tanh({x}) = {y}");
        }
    }
}
