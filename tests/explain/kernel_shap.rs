//! Tests of Kernel SHAP: Shapley values by definition, the golden ones through models, and what holds of any sample.

use std::sync::Arc;

use proptest::prelude::*;
use wherefore::backend::Objective;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::{Plain, Reference};
use wherefore::dataset::Record;
use wherefore::explain::{Features, Masks, Method, Options, Regression, Scores, Segmentation, Subject, Words};
use wherefore::model::Model;
use wherefore::tokens::Encoding;

use super::perturbed::{GoldenCase, folder, golden_cases, open, scores, subject};

/// `Σ_S |S|! (M − |S| − 1)! / M! · (v(S ∪ i) − v(S))`, of the values of every subset; bit j of a subset's number says
/// whether it has j.
fn shapley_values(values: &[f64]) -> Vec<f64> {
    let players = values.len().ilog2() as usize;
    let factorial = |n: usize| (1..=n).map(|k| k as f64).product::<f64>();
    let weight = |size: usize| factorial(size) * factorial(players - size - 1) / factorial(players);
    let gain =
        |player: usize, set: usize| weight(set.count_ones() as usize) * (values[set | 1 << player] - values[set]);
    let without = |player: usize| (0..values.len()).filter(move |set| set >> player & 1 == 0);
    (0..players).map(|player| without(player).map(|set| gain(player, set)).sum()).collect()
}

/// The kernel of eq. 9 in Lundberg & Lee.
fn kernel(players: usize, size: usize) -> f64 {
    let factorial = |n: usize| (1..=n).map(|k| k as f64).product::<f64>();
    let choose = factorial(players) / (factorial(size) * factorial(players - size));
    (players - 1) as f64 / (choose * (size * (players - size)) as f64)
}

fn by_regression(values: &[f64]) -> Vec<f64> {
    let players = values.len().ilog2() as usize;
    let masks = Masks::proper_subsets(players);
    let weights = masks.sizes().map(|size| kernel(players, size)).collect();
    let (nothing, all) = (values[0], values[values.len() - 1]);
    Regression::new(&masks, weights).shares().fit(&values[1..values.len() - 1], nothing, all - nothing).coefficients
}

fn assert_close(found: &[f64], expected: &[f64], allowed: f64) {
    assert_eq!(found.len(), expected.len());
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= allowed, "{found:?} is not {expected:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_subset_together_gives_shapley_values(players in 2..8_usize, values in prop::collection::vec(-3.0..3.0_f64, 256)) {
        let values = &values[..1 << players];
        assert_close(&by_regression(values), &shapley_values(values), 1e-12);
    }

    #[test]
    fn players_that_do_alike_get_alike(values in prop::collection::vec(-3.0..3.0_f64, 64)) {
        // Players 1 and 4 change places.
        let swapped = |set: usize| set & !0b1_0010 | (set >> 1 & 1) << 4 | (set >> 4 & 1) << 1;
        let symmetric: Vec<f64> = (0..64).map(|set| values[set] + values[swapped(set)]).collect();
        let found = by_regression(&symmetric);
        assert_close(&found[1..2], &found[4..5], 1e-12);
    }

    /// In a pair of complements what two players do together counts for and against every other alike: what is left is
    /// linear.
    #[test]
    fn pairs_are_exact_where_no_more_than_two_play_together(
        slopes in prop::collection::vec(-2.0..2.0_f64, 9), together in prop::collection::vec(-2.0..2.0_f64, 81), seed: u64,
    ) {
        let masks = Masks::coalitions(9, 120, seed, 3);
        let pairs = || (0..9).flat_map(|i| (0..i).map(move |j| (i, j)));
        let value = |mask: &[bool]| -> f64 {
            let own: f64 = (0..9).filter(|&i| mask[i]).map(|i| slopes[i]).sum();
            own + pairs().filter(|&(i, j)| mask[i] && mask[j]).map(|(i, j)| together[9 * i + j]).sum::<f64>()
        };
        let weights = masks.counts().iter().map(|&count| f64::from(count)).collect();
        let outputs: Vec<f64> = masks.iter().map(value).collect();
        let found = Regression::new(&masks, weights).shares().fit(&outputs, 0.0, value(&[true; 9])).coefficients;
        let mut expected = slopes.clone();
        for (i, j) in pairs() {
            expected[i] += together[9 * i + j] / 2.0;
            expected[j] += together[9 * i + j] / 2.0;
        }
        assert_close(&found, &expected, 1e-11);
    }
}

/// Drawn masks as they are given; every subset where the golden file has every subset, which ours come to by
/// themselves.
fn options(case: &GoldenCase) -> Options {
    let rows = case.rows();
    let drawn = case.samples.map(|_| Arc::new(Masks::from_rows(rows[0].len(), rows)));
    Options { replacement: case.replace.parse().unwrap(), masks: drawn, ..Options::default() }
}

fn worst(scores: &Scores, case: &GoldenCase) -> f64 {
    let pairs = scores.tokens.iter().zip(&case.scores);
    let tokens = pairs.map(|(&found, &expected)| (f64::from(found) - expected).abs()).fold(0.0, f64::max);
    let baseline = (scores.baseline_output.unwrap() - case.baseline_value.unwrap()).abs();
    tokens.max((scores.output - case.value).abs()).max(baseline)
}

#[test]
fn golden_shapley_values_come_through_every_model() {
    for (what, case) in golden_cases().into_iter().filter(|(_, case)| case.method == "kernel-shap") {
        let (encoding, words, options) = (case.text().encoding(), Words::default(), options(&case));
        if case.samples.is_none() {
            let rows = case.rows();
            assert_eq!(Masks::proper_subsets(rows[0].len()), Masks::from_rows(rows[0].len(), rows), "{what}");
        }
        let found = |model: &Model| {
            let logits = case.text().logits.clone();
            let objectives = vec![case.objective()];
            let subject =
                Subject { index: 0, draw: 0, encoding: &encoding, words: &words, objectives, logits, reads: None };
            scores(model, &subject, Method::KernelShap, &options).remove(0)
        };
        let scale = case.outputs.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
        let floor = (1.0 + case.sensitivity()) * (4.0 * f64::from(f32::EPSILON) * scale + 1e-8);
        let reference = found(&open(Reference, case.folder()));
        let error = worst(&reference, &case);
        assert!(error <= floor, "{what}: reference is off by {error:e} of {floor:e}");
        assert_eq!(reference.steps, Some(case.masks.len() as u64), "{what}");
        assert!(reference.convergence_delta.unwrap().abs() < 1e-13, "{what}: {reference:?}");
        let allowed = 2.0 * worst(&found(&open(Plain, case.folder())), &case) + floor;
        let error = worst(&found(&open(Cpu::new(), case.folder())), &case);
        assert!(error <= allowed, "{what}: cpu is off by {error:e} of {allowed:e}");
    }
}

fn record(text: &str) -> Record {
    Record { text: text.into(), ..Record::default() }
}

#[test]
fn drawn_samples_share_out_the_whole_gain() {
    let model = open(Cpu::new(), &folder("bert-cls2"));
    let encoding = model.encode(&record("The acting and the movie were unwatchable, great music and acting!")).unwrap();
    let words = Words::default();
    let objectives = vec![Objective::Softmax(1), Objective::Logit(0)];
    let subject = subject(&model, &encoding, &words, 2, objectives);
    for samples in [1, 7, 64, 500] {
        let options = Options { samples: Some(samples), ..Options::default() };
        for scores in scores(&model, &subject, Method::KernelShap, &options) {
            let gain = scores.output - scores.baseline_output.unwrap();
            let sum: f64 = scores.tokens.iter().map(|&score| f64::from(score)).sum();
            assert!((sum - gain).abs() < 1e-5, "{samples} samples: {sum} of {gain}");
            assert!(scores.convergence_delta.unwrap().abs() < 1e-12);
            assert_eq!(scores.steps, Some(samples.next_multiple_of(2) as u64));
        }
    }
}

#[test]
fn words_have_shapley_values_of_their_own() {
    let model = open(Reference, &folder("bert-cls2"));
    let record = record("unwatchable acting");
    let encoding = model.encode(&record).unwrap();
    let words = Words::new(&record, &encoding, Segmentation::default());
    assert!(words.len() == 2 && encoding.ids.len() > 4, "two words, more tokens");
    let subject = subject(&model, &encoding, &words, 0, vec![Objective::Logit(0)]);
    let options = Options { features: Some(Features::Words), ..Options::default() };
    let found = scores(&model, &subject, Method::KernelShap, &options).remove(0);
    let mask = model.tokenizer().mask_id().unwrap();
    let value = |set: usize| {
        let mut masked = encoding.clone();
        for word in (0..2).filter(|word| set >> word & 1 == 0) {
            words.tokens_of(word).iter().for_each(|&(token, _)| masked.ids[token] = mask);
        }
        f64::from(model.run(&[masked], None, &|_| true).unwrap().logits[0])
    };
    let expected = shapley_values(&[0, 1, 2, 3].map(value));
    let found: Vec<f64> = words.scores(&found.tokens).into_iter().map(f64::from).collect();
    assert_close(&found, &expected, 4.0 * f64::from(f32::EPSILON) * (expected[0].abs() + expected[1].abs()));
}

/// "do n" + "ot": the model cannot have "do" without "not".
#[test]
fn words_that_share_a_token_are_left_out_together() {
    let model = open(Cpu::new(), &folder("bert-cls2"));
    let whole = model.encode(&record("good movie")).unwrap();
    let encoding = Encoding { offsets: vec![None, Some((0, 4)), Some((4, 6)), None], ..whole };
    let words = Words::new(&record("do not"), &encoding, Segmentation::Segmenter);
    assert_eq!(words.len(), 2);
    let subject = subject(&model, &encoding, &words, 0, vec![Objective::Logit(0)]);
    let options = Options { features: Some(Features::Words), ..Options::default() };
    let found = scores(&model, &subject, Method::KernelShap, &options).remove(0);
    let half = ((found.output - found.baseline_output.unwrap()) / 2.0) as f32;
    assert_eq!(found.tokens, [0.0, half, half, 0.0]);
    assert_eq!(found.steps, Some(0), "one feature has no subsets but the ends");
}

#[test]
fn texts_of_one_token_and_of_none_need_no_samples() {
    let model = open(Cpu::new(), &folder("bert-cls2"));
    let words = Words::default();
    let of = |text: &str| {
        let encoding = model.encode(&record(text)).unwrap();
        let subject = subject(&model, &encoding, &words, 0, vec![Objective::Softmax(0)]);
        scores(&model, &subject, Method::KernelShap, &Options::default()).remove(0)
    };
    let none = of("");
    assert_eq!(none.tokens, [0.0, 0.0]);
    assert_eq!(none.baseline_output, Some(none.output));
    let one = of("good");
    let gain = one.output - one.baseline_output.unwrap();
    assert_eq!(one.tokens, [0.0, gain as f32, 0.0]);
    assert_eq!((one.convergence_delta, one.r_squared), (Some(0.0), None));
}
