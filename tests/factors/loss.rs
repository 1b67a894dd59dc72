//! Losses, δ, probabilities and predictions.

use proptest::prelude::*;
use wherefore::factors::{Floats, Head, Target, loss_and_delta, predict, probabilities};
use wherefore::model::Problem;

use super::reference;

/// A problem, its logits and a label for them.
fn case() -> impl Strategy<Value = (Problem, Vec<f32>, Target, Vec<f64>)> {
    let logits = prop::collection::vec(-20.0_f32..20.0, 2..6);
    (0..3, logits, any::<u64>()).prop_map(|(problem, z, bits)| {
        let one_hot = |class: usize| (0..z.len()).map(|c| f64::from(u8::from(c == class))).collect();
        let row: Vec<f32> = (0..z.len()).map(|c| f32::from(bits >> c & 1 == 1)).collect();
        let wide = row.iter().map(|&y| f64::from(y)).collect();
        let class = bits as usize % z.len();
        match problem {
            0 => (Problem::SingleLabel, z.clone(), Target::Class(class), one_hot(class)),
            1 => (Problem::MultiLabel, z, Target::Classes(row), wide),
            _ => (Problem::Regression, z, Target::Values(row), wide),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Rounded once to f32, so half a unit in the last place beside what the judge's own cancellation leaves.
    #[test]
    fn losses_are_those_of_the_definition((problem, z, target, wide) in case()) {
        let logits: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
        let expected = reference::loss(problem, &logits, &wide);
        let found = f64::from(loss_and_delta(problem, &z, &target, &mut vec![0.0; z.len()]));
        prop_assert!((found - expected).abs() <= expected.abs() * f64::from(f32::EPSILON) + 1e-13, "{found} {expected}");
    }

    /// Central differences of step 10⁻⁵ are off by the loss's rounding (10⁻¹⁶ · 40 / 10⁻⁵) and by a term in the step's
    /// square.
    #[test]
    fn delta_is_the_derivative_of_the_loss((problem, z, target, wide) in case()) {
        let mut delta = vec![0.0; z.len()];
        loss_and_delta(problem, &z, &target, &mut delta);
        for (c, &found) in delta.iter().enumerate() {
            let at = |offset: f64| {
                let moved = z.iter().enumerate().map(|(d, &z)| f64::from(z) + if c == d { offset } else { 0.0 });
                reference::loss(problem, &moved.collect::<Vec<_>>(), &wide)
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            let error = (f64::from(found) - difference).abs();
            prop_assert!(error <= difference.abs() * f64::from(f32::EPSILON) + 1e-8, "{found} {difference}");
        }
    }

    /// The dot product of two last-layer gradients, each by finite differences over every weight, is `(δ·δ') (h·h' +
    /// 1)`.
    #[test]
    fn factors_multiply_like_explicit_gradients(
        (problem, z, target, wide) in case(),
        h in prop::collection::vec(-2.0_f64..2.0, 3),
        other in prop::collection::vec(-2.0_f64..2.0, 3),
    ) {
        let mut delta = vec![0.0; z.len()];
        loss_and_delta(problem, &z, &target, &mut delta);
        let gradient = |h: &[f64]| -> Vec<f64> {
            let moved = |p: usize, offset: f64| {
                let input = h.iter().copied().chain([1.0]).nth(p % 4).expect("an input");
                let z = z.iter().enumerate().map(|(c, &z)| f64::from(z) + if c == p / 4 { offset * input } else { 0.0 });
                reference::loss(problem, &z.collect::<Vec<_>>(), &wide)
            };
            (0..z.len() * 4).map(|p| (moved(p, 1e-5) - moved(p, -1e-5)) / 2e-5).collect()
        };
        let (a, b) = (reference::dot(&h, &other), delta.iter().map(|&d| f64::from(d).powi(2)).sum::<f64>());
        let explicit = reference::dot(&gradient(&h), &gradient(&other));
        prop_assert!((b * (a + 1.0) - explicit).abs() <= 1e-5 * (1.0 + b), "{} {explicit}", b * (a + 1.0));
    }
}

#[test]
fn a_confident_record_keeps_its_small_loss_and_delta() {
    let mut delta = [0.0; 2];
    let loss = loss_and_delta(Problem::SingleLabel, &[30.0, -30.0], &Target::Class(0), &mut delta);
    let expected = (-60.0_f64).exp() as f32;
    assert_eq!((loss, delta), (expected, [-expected, expected]));
    let loss = loss_and_delta(Problem::MultiLabel, &[60.0, -60.0], &Target::Classes(vec![1.0, 0.0]), &mut delta);
    assert_eq!((loss, delta), (2.0 * expected, [-expected, expected]));
}

#[test]
fn extreme_logits_stay_finite() {
    for (target, loss) in [(0, 0.0), (1, 2e30)] {
        let mut delta = [0.0; 2];
        assert_eq!(loss_and_delta(Problem::SingleLabel, &[1e30, -1e30], &Target::Class(target), &mut delta), loss);
        assert_eq!(delta, if target == 0 { [0.0, 0.0] } else { [1.0, -1.0] });
    }
    let mut delta = [0.0];
    assert_eq!(loss_and_delta(Problem::MultiLabel, &[-1e30], &Target::Classes(vec![1.0]), &mut delta), 1e30);
    assert_eq!(delta, [-1.0]);
}

#[test]
#[should_panic(expected = "two classes or more")]
fn one_logit_is_never_a_softmax() {
    loss_and_delta(Problem::SingleLabel, &[3.0], &Target::Class(0), &mut [0.0]);
}

#[test]
fn a_regression_of_one_value_is_a_squared_error() {
    let mut delta = [0.0];
    assert_eq!(loss_and_delta(Problem::Regression, &[3.0], &Target::Values(vec![1.0]), &mut delta), 4.0);
    assert_eq!(delta, [4.0]);
}

#[test]
fn predictions_take_the_lowest_of_equals_and_more_than_one_half() {
    assert_eq!(predict(Problem::SingleLabel, &[1.0, 2.0, 2.0]), Target::Class(1));
    assert_eq!(predict(Problem::SingleLabel, &[0.0, -0.0]), Target::Class(0));
    assert_eq!(predict(Problem::MultiLabel, &[0.0, 1e-30, -1.0]), Target::Classes(vec![0.0, 1.0, 0.0]));
    assert_eq!(predict(Problem::Regression, &[-3.5]), Target::Values(vec![-3.5]));
}

#[test]
fn probabilities_are_those_of_the_problem() {
    let p = probabilities(Problem::SingleLabel, &[0.0, 2.0_f32.ln()]);
    assert!((p[0] - 1.0 / 3.0).abs() < f32::EPSILON && (p[1] - 2.0 / 3.0).abs() < f32::EPSILON, "{p:?}");
    assert_eq!(probabilities(Problem::MultiLabel, &[0.0, 200.0]), [0.5, 1.0]);
    assert_eq!(probabilities(Problem::Regression, &[7.0]), [7.0]);
    assert!(probabilities(Problem::Headless, &[]).is_empty());
}

#[test]
fn a_head_gives_the_logits_of_features_stored_in_any_precision() {
    let head = Head { weight: vec![1.0, 2.0, -1.0, 0.5], bias: vec![0.25, 0.0] };
    let features = [1.0, -2.0, 0.5, 4.0_f32];
    let expected = [-2.75, -2.0, 8.75, 1.5];
    assert_eq!((head.classes(), head.width()), (2, 2));
    assert_eq!(head.logits(Floats::F32(&features)), expected);
    assert_eq!(head.logits(Floats::F16(&features.map(half::f16::from_f32))), expected);
    assert_eq!(head.logits(Floats::Bf16(&features.map(half::bf16::from_f32))), expected);
}
