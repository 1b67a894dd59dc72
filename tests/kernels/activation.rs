//! Activations over all their range: negative, tiny, huge, infinite, NaN.

use super::support::{assert_accurate, bits};
use std::f32::consts::{FRAC_1_SQRT_2, PI};
use wherefore::backend::Activation::{self, Gelu, GeluTanh, Identity, QuickGelu, Relu, Silu, Tanh};
use wherefore::backend::cpu::{Isa, activate_on};
use wherefore::backend::reference::{activate, erf};

const ALL: [Activation; 7] = [Identity, Gelu, GeluTanh, QuickGelu, Relu, Silu, Tanh];

/// The formula as it is written, in f32, on correctly rounded functions.
pub(super) fn plain(activation: Activation, x: f32) -> f32 {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    match activation {
        Identity => x,
        Gelu => 0.5 * x * (1.0 + erf(f64::from(x * FRAC_1_SQRT_2)) as f32),
        GeluTanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh()),
        QuickGelu => x * sigmoid(1.702 * x),
        Relu => x.max(0.0),
        Silu => x * sigmoid(x),
        Tanh => x.tanh(),
    }
}

/// Points of both signs with magnitudes in [2^exponent, 2^(exponent+1)).
fn binade(exponent: i32) -> Vec<f32> {
    let steps = (0..2000).map(|i| (1.0 + i as f32 / 2000.0) * 2f32.powi(exponent));
    steps.flat_map(|x| [x, -x]).collect()
}

#[test]
fn error_in_every_binade() {
    for activation in ALL {
        for exponent in (-100..128).filter(|e| (-26..8).contains(e) || e % 9 == 0) {
            let points = binade(exponent);
            let exact: Vec<f64> = points.iter().map(|&x| activate(activation, f64::from(x))).collect();
            let plain: Vec<f32> = points.iter().map(|&x| plain(activation, x)).collect();
            for isa in Isa::all() {
                let mut values = points.clone();
                activate_on(isa, activation, &mut values);
                assert_accurate(&format!("{activation:?} at 2^{exponent}, {}", isa.name()), &values, &plain, &exact);
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let points: Vec<f32> = (-140..128).flat_map(|e| binade(e).into_iter().step_by(61)).collect();
    for activation in ALL {
        let results = Isa::all().into_iter().map(|isa| {
            let mut values = points.clone();
            activate_on(isa, activation, &mut values);
            bits(&values)
        });
        let results: Vec<_> = results.collect();
        assert!(results.iter().all(|r| *r == results[0]), "{activation:?}");
    }
}

#[test]
fn limits_and_nan() {
    for isa in Isa::all() {
        for activation in ALL {
            let mut values = [f32::NAN, f32::INFINITY, 0.0, -0.0, f32::MAX, -f32::MAX];
            activate_on(isa, activation, &mut values);
            let top = if activation == Tanh { 1.0 } else { f32::INFINITY };
            assert!(values[0].is_nan(), "{activation:?} of NaN");
            assert_eq!(values[1], top, "{activation:?} of infinity");
            assert_eq!(values[2..4], [0.0, 0.0], "{activation:?} of zero");
            assert_eq!(values[4], top.min(f32::MAX), "{activation:?} of the largest number");
            let bottom = [(Identity, -f32::MAX), (Tanh, -1.0)];
            let bottom = bottom.iter().find(|(a, _)| *a == activation).map_or(0.0, |&(_, y)| y);
            assert_eq!(values[5], bottom, "{activation:?} of the lowest number");
        }
    }
}

#[test]
fn a_tail_has_the_bits_of_a_whole_vector() {
    let points: Vec<f32> = (0..64).map(|i| (i as f32 - 30.0) / 5.0).collect();
    for activation in ALL {
        let mut whole = points.clone();
        activate_on(Isa::best(), activation, &mut whole);
        for len in 0..40 {
            let mut part = points[..len].to_vec();
            activate_on(Isa::best(), activation, &mut part);
            assert_eq!(bits(&part), bits(&whole[..len]), "{activation:?}, {len}");
        }
    }
}
