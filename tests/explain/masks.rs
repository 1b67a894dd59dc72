//! Tests of drawn masks: their distributions, and that they are functions of seed, record and sample.

use std::collections::BTreeSet;

use proptest::prelude::*;
use wherefore::explain::Masks;

/// Of so many features, so many samples, by seed and record.
type Draw = fn(usize, usize, u64, u32) -> Masks;

const SAMPLES: usize = 4000;

/// Whether a count of successes is within four standard deviations of what its chance makes likely.
fn assert_likely(successes: f64, trials: f64, chance: f64, what: &str) {
    let deviation = (trials * chance * (1.0 - chance)).sqrt();
    let expected = trials * chance;
    assert!((successes - expected).abs() <= 4.0 * deviation, "{what}: {successes}, expected {expected} ± {deviation}");
}

/// How many samples keep so many features.
fn samples_of_size(masks: &Masks, size: usize) -> f64 {
    masks.sizes().zip(masks.counts()).filter(|(kept, _)| *kept == size).map(|(_, &count)| f64::from(count)).sum()
}

fn samples_with(masks: &Masks, feature: usize) -> f64 {
    masks.iter().zip(masks.counts()).filter(|(mask, _)| mask[feature]).map(|(_, &count)| f64::from(count)).sum()
}

#[test]
fn coins_keep_each_feature_half_of_the_time() {
    let masks = Masks::coins(150, SAMPLES, 1, 2);
    assert!(masks.mask(0).iter().all(|&kept| kept), "the first sample is whole");
    assert_eq!(masks.samples(), SAMPLES as u64);
    for feature in 0..150 {
        assert_likely(samples_with(&masks, feature) - 1.0, SAMPLES as f64 - 1.0, 0.5, "kept");
    }
}

#[test]
fn removals_leave_out_every_number_alike() {
    let masks = Masks::removals(9, SAMPLES, 1, 2);
    assert!(masks.mask(0).iter().all(|&kept| kept), "the first sample is whole");
    assert_eq!(samples_of_size(&masks, 9), 1.0, "every other one lacks something");
    for kept in 0..9 {
        assert_likely(samples_of_size(&masks, kept), SAMPLES as f64 - 1.0, 1.0 / 9.0, "size");
    }
    // 1 − E[removed]/9, with 1 to 9 removed.
    for feature in 0..9 {
        assert_likely(samples_with(&masks, feature) - 1.0, SAMPLES as f64 - 1.0, 4.0 / 9.0, "kept");
    }
}

#[test]
fn coalitions_come_in_pairs_with_sizes_by_the_shapley_kernel() {
    let features = 7;
    let masks = Masks::coalitions(features, SAMPLES, 1, 2);
    let total: f64 = (1..features).map(|k| 1.0 / (k * (features - k)) as f64).sum();
    for kept in 1..features {
        let chance = 1.0 / (kept * (features - kept)) as f64 / total;
        // Half as many draws as samples, each of which gives a size and its complement.
        let draws = SAMPLES as f64 / 2.0;
        let found = samples_of_size(&masks, kept);
        assert_likely(found, draws, 2.0 * chance, "size");
        assert_eq!(found, samples_of_size(&masks, features - kept));
    }
    let count_of = |wanted: &[bool]| masks.iter().position(|mask| mask == wanted).map(|mask| masks.counts()[mask]);
    for (mask, &count) in masks.iter().zip(masks.counts()) {
        let rest: Vec<bool> = mask.iter().map(|kept| !kept).collect();
        assert_eq!(count_of(&rest), Some(count));
    }
}

#[test]
fn proper_subsets_are_all_but_the_ends() {
    let masks = Masks::proper_subsets(5);
    assert_eq!((masks.len(), Masks::proper_subset_count(5)), (30, Some(30)));
    assert_eq!(masks.mask(0), [true, false, false, false, false]);
    assert_eq!(masks.mask(5), [false, true, true, false, false]);
    assert_eq!(masks.iter().collect::<BTreeSet<_>>().len(), 30);
    assert_eq!([0, 1, 2, 40].map(Masks::proper_subset_count), [Some(0), Some(0), Some(2), None]);
    assert!(Masks::proper_subsets(0).is_empty() && Masks::proper_subsets(1).is_empty());
}

#[test]
fn a_text_of_nothing_has_one_mask() {
    for masks in [Masks::coins(0, 100, 3, 4), Masks::removals(0, 100, 3, 4)] {
        assert_eq!((masks.len(), masks.samples(), masks.features()), (1, 100, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn more_samples_keep_those_there_were(features in 2..70_usize, samples in 1..60_usize, seed: u64, record: u32) {
        for draw in [Masks::coins as Draw, Masks::removals, Masks::coalitions] {
            let (some, more) = (draw(features, samples, seed, record), draw(features, 2 * samples + 1, seed, record));
            for mask in 0..some.len() {
                prop_assert_eq!(some.mask(mask), more.mask(mask));
                prop_assert!(some.counts()[mask] <= more.counts()[mask]);
            }
            if features > 20 && samples > 10 {
                prop_assert_ne!(&some, &draw(features, samples, seed ^ 1, record));
                prop_assert_ne!(&some, &draw(features, samples, seed ^ 1 << 40, record));
                prop_assert_ne!(&some, &draw(features, samples, seed, record ^ 1));
            }
        }
    }
}
