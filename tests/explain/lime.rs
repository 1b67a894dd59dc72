//! Tests of LIME through a model: golden masks, words as features, short and empty texts, refused settings.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wherefore::backend::Objective;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::{Plain, Reference};
use wherefore::dataset::Record;
use wherefore::explain::{
    Features, LimeVariant, Masks, Method, Options, Replacement, Scores, Segmentation, Subject, Words, explain,
};
use wherefore::model::Model;

use super::perturbed::{GoldenCase, folder, golden_cases, open, scores, subject};

fn options(case: &GoldenCase) -> Options {
    let rows = case.rows();
    let variant = case.variant.as_deref().unwrap().parse().unwrap();
    Options {
        variant,
        features: Some(Features::Tokens),
        num_features: Some(case.keep.unwrap_or(usize::MAX)),
        replacement: case.replace.parse().unwrap(),
        masks: Some(Arc::new(Masks::from_rows(rows[0].len(), rows))),
        ..Options::default()
    }
}

fn worst(scores: &Scores, case: &GoldenCase) -> f64 {
    let pairs = scores.tokens.iter().zip(&case.scores);
    let tokens = pairs.map(|(&found, &expected)| (f64::from(found) - expected).abs()).fold(0.0, f64::max);
    tokens.max((scores.output - case.value).abs())
}

/// Even the reference hands its logits over as f32: a few units in the last place, as far as the regression can carry
/// them.
#[test]
fn golden_masks_give_golden_scores_through_every_model() {
    for (what, case) in golden_cases().into_iter().filter(|(_, case)| case.method == "lime") {
        let (encoding, words, options) = (case.text().encoding(), Words::default(), options(&case));
        let found = |model: &Model| {
            let subject = Subject {
                index: 0,
                draw: 0,
                encoding: &encoding,
                words: &words,
                objectives: vec![case.objective()],
                logits: case.text().logits.clone(),
                reads: None,
            };
            scores(model, &subject, Method::Lime, &options).remove(0)
        };
        let scale = case.outputs.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
        let floor = (1.0 + case.sensitivity()) * (4.0 * f64::from(f32::EPSILON) * scale + 1e-8);
        let reference = found(&open(Reference, case.folder()));
        let error = worst(&reference, &case);
        assert!(error <= floor, "{what}: reference is off by {error:e} of {floor:e}");
        assert_eq!(reference.steps, case.samples.map(|samples| samples as u64));
        let r2 = reference.r_squared.unwrap();
        assert!((r2 - case.r2.unwrap()).abs() < 1e-5, "{what}: R² is {r2}, not {:?}", case.r2);
        let allowed = 2.0 * worst(&found(&open(Plain, case.folder())), &case) + floor;
        let error = worst(&found(&open(Cpu::new(), case.folder())), &case);
        assert!(error <= allowed, "{what}: cpu is off by {error:e} of {allowed:e}");
    }
}

fn record(text: &str) -> Record {
    Record { text: text.into(), ..Record::default() }
}

#[test]
fn words_are_left_out_whole_and_their_scores_sum_back() {
    let model = open(Cpu::new(), &folder("bert-cls2"));
    let record = record("The acting and the movie were unwatchable, great music and acting!");
    let encoding = model.encode(&record).unwrap();
    let words = Words::new(&record, &encoding, Segmentation::default());
    assert!(words.len() + 2 < encoding.ids.len(), "some word has several tokens");
    let subject = subject(&model, &encoding, &words, 5, vec![Objective::Logit(1)]);
    let variant = LimeVariant::Original;
    let all = scores(&model, &subject, Method::Lime, &Options { variant, samples: Some(300), ..Options::default() });
    let of_words = words.scores(&all[0].tokens);
    assert_eq!(of_words.iter().filter(|score| **score != 0.0).count(), 10, "the original keeps ten features");
    for word in 0..words.len() {
        let tokens = words.tokens_of(word);
        let equal = tokens.iter().all(|&(token, _)| all[0].tokens[token] == all[0].tokens[tokens[0].0]);
        assert!(equal, "{:?}", words.list()[word]);
    }
    let total: f32 = all[0].tokens.iter().sum();
    assert!((total - of_words.iter().sum::<f32>()).abs() < 1e-5);
    assert_eq!(all[0].tokens.first(), Some(&0.0), "special tokens score 0");
}

#[test]
fn a_short_text_asks_each_of_its_masks_once() {
    let model = open(Cpu::new(), &folder("bert-cls2"));
    let encoding = model.encode(&record("good movie")).unwrap();
    let words = Words::default();
    let subject = subject(&model, &encoding, &words, 0, vec![Objective::Softmax(0)]);
    let probes = AtomicUsize::new(0);
    let count = |done| {
        probes.fetch_add(done, Ordering::Relaxed);
        true
    };
    let found = explain(&model, &[subject], Method::Lime, &Options::default(), None, &count).unwrap();
    assert_eq!(encoding.ids.len(), 4);
    assert_eq!((probes.into_inner(), found[0][0].steps), (4, Some(1000)));
}

#[test]
fn texts_of_one_token_and_of_none_have_finite_scores() {
    let model = open(Cpu::new(), &folder("bert-cls2"));
    let words = Words::default();
    let objectives = || vec![Objective::Softmax(1), Objective::Difference(0, 1)];
    for text in ["", "good"] {
        let encoding = model.encode(&record(text)).unwrap();
        for replacement in [Replacement::Mask, Replacement::Delete] {
            for variant in [LimeVariant::TrustAi, LimeVariant::Original] {
                let options = Options { variant, replacement, features: Some(Features::Tokens), ..Options::default() };
                let subject = subject(&model, &encoding, &words, 9, objectives());
                for scores in scores(&model, &subject, Method::Lime, &options) {
                    assert_eq!(scores.tokens.len(), encoding.ids.len());
                    assert!(scores.tokens.iter().all(|score| score.is_finite()), "{text:?}: {scores:?}");
                    assert_eq!(scores.r_squared.is_some(), text == "good", "{text:?}: {scores:?}");
                }
            }
        }
    }
}

/// One token is left out or not: the coefficient is the difference, whatever the weights.
#[test]
fn one_token_scores_what_is_lost_without_it() {
    let model = open(Reference, &folder("bert-cls2"));
    let encoding = model.encode(&record("good")).unwrap();
    let words = Words::default();
    let subject = subject(&model, &encoding, &words, 0, vec![Objective::Logit(0)]);
    let lime = scores(&model, &subject, Method::Lime, &Options::default()).remove(0);
    let occlusion = scores(&model, &subject, Method::Occlusion, &Options::default()).remove(0);
    assert!((lime.tokens[1] - occlusion.tokens[1]).abs() <= f32::EPSILON * occlusion.tokens[1].abs());
    assert!((lime.r_squared.unwrap() - 1.0).abs() < 1e-12);
}

/// Bits of what both methods say of some objectives, with so many threads.
fn bits(threads: usize, objectives: &[Objective]) -> Vec<Vec<u32>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let model = open(Cpu::new(), &folder("bert-cls2"));
        let encoding = model.encode(&record("The movie was great, and I loved the acting!")).unwrap();
        let words = Words::default();
        let subject = subject(&model, &encoding, &words, 3, objectives.to_vec());
        let options = Options { samples: Some(120), seed: 11, ..Options::default() };
        let found = [Method::Lime, Method::KernelShap].map(|method| scores(&model, &subject, method, &options));
        found.iter().flatten().map(|scores| scores.tokens.iter().map(|score| score.to_bits()).collect()).collect()
    })
}

#[test]
fn threads_and_other_objectives_change_no_bit() {
    let objectives = [Objective::Softmax(0), Objective::Logit(1)];
    let together = bits(1, &objectives);
    assert_eq!(bits(3, &objectives), together);
    let apart = objectives.map(|objective| bits(2, &[objective]));
    assert_eq!(together, [&apart[0][0], &apart[1][0], &apart[0][1], &apart[1][1]].map(Clone::clone));
}

#[test]
fn settings_that_make_no_regression_are_refused() {
    let model = open(Cpu::new(), &folder("bert-cls2"));
    let refused = |options: Options| Method::Lime.check(&model, &options).unwrap_err().to_string();
    for (options, expected) in [
        (Options { kernel_width: 0.0, ..Options::default() }, "lime: kernel width: expected a number above 0, found 0"),
        (Options { ridge: Some(-1.0), ..Options::default() }, "lime: ridge: expected a number from 0 on, found -1"),
        (Options { num_features: Some(0), ..Options::default() }, "lime: number of features: expected at least 1"),
        (Options { samples: Some(0), ..Options::default() }, "samples: expected at least 1, found 0"),
    ] {
        let message = refused(options);
        assert!(message.contains(expected), "{message}");
    }
    assert!(refused(Options { kernel_width: f64::NAN, ..Options::default() }).contains("NaN"));
}

#[test]
fn names_are_read_back() {
    for variant in [LimeVariant::TrustAi, LimeVariant::Original] {
        assert_eq!(variant.to_string().parse(), Ok(variant));
    }
    for features in [Features::Tokens, Features::Words] {
        assert_eq!(features.to_string().parse(), Ok(features));
    }
    assert!("lemon".parse::<LimeVariant>().unwrap_err().contains("trustai or original"));
    assert!("bytes".parse::<Features>().unwrap_err().contains("tokens or words"));
}
