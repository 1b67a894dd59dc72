//! Tests of the regressions on masks: what a linear function gives, what is taken where masks do not say, and the
//! golden numbers.

use proptest::prelude::*;
use wherefore::explain::{Fit, Masks, Regression, locality};

use super::perturbed;

fn close(found: &[f64], expected: &[f64], allowed: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= allowed, "{i}: {found} is not {expected} within {allowed:e}");
    }
}

fn all(masks: &Masks) -> Vec<usize> {
    (0..masks.features()).collect()
}

fn linear(masks: &Masks, intercept: f64, slopes: &[f64]) -> Vec<f64> {
    let model = Fit { coefficients: slopes.to_vec(), intercept, r_squared: None };
    masks.iter().map(|mask| model.at(mask)).collect()
}

fn localities(masks: &Masks) -> Vec<f64> {
    let weight = |(kept, &count)| f64::from(count) * locality(kept, masks.features(), 0.25);
    masks.sizes().zip(masks.counts()).map(weight).collect()
}

/// f64's rounding through a system of this size, a few hundred times over.
const ROUNDING: f64 = 1e-12;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn linear_functions_give_their_own_coefficients(
        slopes in prop::collection::vec(-2.0..2.0_f64, 2..12), intercept in -3.0..3.0_f64, seed: u64,
    ) {
        for masks in [Masks::coins(slopes.len(), 200, seed, 7), Masks::removals(slopes.len(), 200, seed, 7)] {
            let outputs = linear(&masks, intercept, &slopes);
            let regression = Regression::new(&masks, localities(&masks));
            let fit = regression.ridge(&all(&masks), 0.0).fit(&outputs);
            close(&fit.coefficients, &slopes, ROUNDING);
            close(&[fit.intercept, fit.r_squared.unwrap()], &[intercept, 1.0], ROUNDING);
        }
    }

    #[test]
    fn shares_of_linear_functions_are_their_coefficients(
        slopes in prop::collection::vec(-2.0..2.0_f64, 2..12), intercept in -3.0..3.0_f64, seed: u64,
    ) {
        let masks = Masks::coalitions(slopes.len(), 300, seed, 1);
        let weights: Vec<f64> = masks.counts().iter().map(|&count| f64::from(count)).collect();
        let outputs = linear(&masks, intercept, &slopes);
        let fit = Regression::new(&masks, weights).shares().fit(&outputs, intercept, slopes.iter().sum());
        close(&fit.coefficients, &slopes, ROUNDING);
        close(&[fit.r_squared.unwrap()], &[1.0], ROUNDING);
    }

    /// Whatever the outputs and however few the masks: the gain is shared out, all of it.
    #[test]
    fn shares_sum_to_the_total(
        features in 2..40_usize, samples in 1..60_usize, total in -5.0..5.0_f64, seed: u64, outputs in prop::collection::vec(-1.0..1.0_f64, 62),
    ) {
        let masks = Masks::coalitions(features, samples, seed, 0);
        let regression = Regression::new(&masks, vec![1.0; masks.len()]);
        let fit = regression.shares().fit(&outputs[..masks.len()], 0.25, total);
        close(&[fit.coefficients.iter().sum()], &[total], ROUNDING * features as f64);
        prop_assert!(fit.coefficients.iter().all(|x| x.is_finite()));
    }

    /// The normal equations, computed beside.
    #[test]
    fn ridges_meet_their_normal_equations(features in 1..10_usize, samples in 1..40_usize, ridge in 0.01..3.0_f64, seed: u64) {
        let masks = Masks::coins(features, samples, seed, 2);
        let outputs: Vec<f64> = (0..masks.len()).map(|i| (i as f64 * 1.7).sin()).collect();
        let weights = localities(&masks);
        let fit = Regression::new(&masks, weights.clone()).ridge(&all(&masks), ridge).fit(&outputs);
        let residuals: Vec<f64> = masks.iter().zip(&outputs).map(|(mask, y)| y - fit.at(mask)).collect();
        let against = |kept: &dyn Fn(&[bool]) -> bool| -> f64 {
            masks.iter().zip(residuals.iter().zip(&weights)).filter(|(mask, _)| kept(mask)).map(|(_, (r, w))| r * w).sum()
        };
        close(&[against(&|_| true)], &[0.0], ROUNDING * samples as f64);
        for (feature, &coefficient) in fit.coefficients.iter().enumerate() {
            close(&[against(&|mask| mask[feature])], &[ridge * coefficient], ROUNDING * samples as f64);
        }
    }
}

/// Features that are always kept or left out together cannot be told apart, and one that is always kept says nothing.
#[test]
fn what_masks_do_not_tell_apart_is_shared_alike() {
    let patterns = [[1, 1, 1, 1, 1], [1, 1, 0, 0, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 0, 1, 1]];
    let masks = Masks::from_rows(5, patterns.map(|row| row.iter().map(|&kept| kept == 1).collect()));
    let outputs = linear(&masks, 0.5, &[0.25, 0.5, -1.0, 2.0, 0.125]);
    let fit = Regression::new(&masks, vec![1.0, 2.0, 0.5, 1.0, 3.0]).ridge(&all(&masks), 0.0).fit(&outputs);
    close(&fit.coefficients, &[0.375, 0.375, -1.0, 2.0, 0.0], ROUNDING);
    close(&[fit.intercept, fit.r_squared.unwrap()], &[0.625, 1.0], ROUNDING);
}

#[test]
fn fewer_masks_than_features_still_give_finite_coefficients() {
    let masks = Masks::coins(300, 12, 5, 0);
    let outputs: Vec<f64> = (0..masks.len()).map(|i| (i as f64).cos()).collect();
    let regression = Regression::new(&masks, localities(&masks));
    let fit = regression.ridge(&all(&masks), 0.0).fit(&outputs);
    assert!(fit.coefficients.iter().all(|x| x.is_finite()));
    close(&[fit.r_squared.unwrap()], &[1.0], ROUNDING);
}

#[test]
fn constant_outputs_have_no_coefficients_and_no_r_squared() {
    let masks = Masks::coins(6, 50, 1, 0);
    let outputs = vec![0.1; masks.len()];
    for weights in [localities(&masks), vec![0.0; masks.len()]] {
        for ridge in [0.0, 1.0] {
            let regression = Regression::new(&masks, weights.clone());
            let fit = regression.ridge(&all(&masks), ridge).fit(&outputs);
            assert_eq!((fit.coefficients, fit.r_squared), (vec![0.0; 6], None));
            assert_eq!(regression.choose(&outputs, 3), [0, 1, 2]);
        }
    }
}

#[test]
fn nothing_to_fit_is_no_trouble() {
    let none = Masks::from_rows(0, [vec![]]);
    let regression = Regression::new(&none, vec![1.0]);
    let expected = Fit { coefficients: vec![], intercept: 0.75, r_squared: None };
    assert_eq!(regression.ridge(&[], 0.0).fit(&[0.75]), expected);
    assert_eq!(regression.shares().fit(&[0.75], 0.75, 0.0), expected);
    let one = Masks::proper_subsets(1);
    let fit = Regression::new(&one, vec![]).shares().fit(&[], 0.25, 0.5);
    assert_eq!(fit, Fit { coefficients: vec![0.5], intercept: 0.25, r_squared: None });
}

#[test]
fn a_single_useful_feature_is_chosen_first_and_copies_of_it_last() {
    // Features 1 and 3 are the same; 2 says most, then 1.
    let mut rows: Vec<Vec<bool>> = Masks::coins(5, 80, 9, 0).iter().map(<[bool]>::to_vec).collect();
    for row in &mut rows {
        row[3] = row[1];
    }
    let masks = Masks::from_rows(5, rows);
    let outputs = linear(&masks, 0.0, &[0.01, 0.5, -2.0, 0.0, 0.1]);
    let regression = Regression::new(&masks, localities(&masks));
    assert_eq!(regression.choose(&outputs, 4), [2, 1, 4, 0]);
    assert_eq!(regression.choose(&outputs, 9), [0, 1, 2, 3, 4]);
}

#[test]
fn many_features_are_chosen_by_the_largest_coefficients() {
    let masks = Masks::coins(12, 400, 3, 0);
    let slopes: Vec<f64> =
        (0..12).map(|i| f64::from([3, 1, 12, 5, 9, 2, 10, 4, 8, 6, 11, 7][i]) * (-1.0_f64).powi(i as i32)).collect();
    let outputs = linear(&masks, 1.0, &slopes);
    let regression = Regression::new(&masks, localities(&masks));
    assert_eq!(regression.choose(&outputs, 7), [2, 10, 6, 4, 8, 11, 9]);
}

fn half_a_ninth_digit(values: &[f64]) -> f64 {
    0.5e-8 * values.iter().fold(0.0_f64, |most, x| most.max(x.abs()))
}

/// The weighted standard deviation.
fn deviation(outputs: &[f64], weights: &[f64]) -> f64 {
    let mean = |values: &dyn Fn(f64) -> f64| {
        let sum: f64 = outputs.iter().zip(weights).map(|(&y, w)| w * values(y)).sum();
        sum / weights.iter().sum::<f64>()
    };
    let centre = mean(&|y| y);
    mean(&|y| (y - centre).powi(2)).sqrt()
}

#[test]
fn golden_masks_and_outputs_give_the_golden_scores() {
    let cases = perturbed::golden_cases();
    assert!(cases.len() >= 53, "{} cases", cases.len());
    for (what, case) in cases {
        let (_, outputs, weights) = case.merged();
        let fit = case.fit(&outputs);
        let given = half_a_ninth_digit(&outputs).max(half_a_ninth_digit(&[case.value]));
        let allowed = case.sensitivity() * given + half_a_ninth_digit(&case.scores) + ROUNDING;
        close(&perturbed::at_features(&case, &fit.coefficients), &case.scores, allowed);
        if let (Some(intercept), Some(r2)) = (case.intercept, case.r2) {
            // The intercept is a mean of the outputs less the coefficients' share.
            close(&[fit.intercept], &[intercept], given + allowed * case.scores.len() as f64);
            // Both sums of squares of R² move by twice what the outputs do, as a share of how far these are spread.
            let moved = 4.0 * given / deviation(&outputs, &weights) + half_a_ninth_digit(&[r2]);
            assert!((fit.r_squared.unwrap() - r2).abs() <= moved, "{what}: {:?} is not {r2}", fit.r_squared);
        }
    }
}

#[test]
fn golden_weights_are_the_locality_of_masks() {
    for (what, case) in perturbed::golden_cases().into_iter().filter(|(_, case)| case.method == "lime") {
        for (mask, weight) in case.rows().iter().zip(&case.weights) {
            let kept = mask.iter().filter(|&&kept| kept).count();
            let found = locality(kept, mask.len(), 0.25);
            assert!((found - weight).abs() <= half_a_ninth_digit(&[*weight]), "{what}: {found} is not {weight}");
        }
    }
}
