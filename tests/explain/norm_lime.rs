//! Tests of NormLIME: the golden weights, words, order, and how results are ranked.

use wherefore::dataset::{Dataset, Record};
use wherefore::explain::{Features, GlobalWeight, Method, NormLime, Scores, Segmentation, Subject, Words};
use wherefore::model::{Device, LoadOptions, Model};
use wherefore::pipeline::{ExplainOptions, Rejections, Settings, norm_lime};
use wherefore::report::GlobalImportance;
use wherefore::tokens::Encoding;

use super::perturbed::{case, folder, golden};

fn subject<'a>(encoding: &'a Encoding, words: &'a Words) -> Subject<'a> {
    Subject { index: 0, draw: 0, encoding, words, objectives: Vec::new(), logits: Vec::new(), reads: None }
}

fn scores(tokens: &[f32]) -> Scores {
    Scores { tokens: tokens.to_vec(), ..Scores::default() }
}

#[test]
fn golden_lime_scores_give_the_golden_weights() {
    let folder = folder("bert-cls2");
    let golden = golden(&folder);
    let mut norm_lime = NormLime::new(Features::Tokens);
    for number in golden["norm-lime"]["cases"].as_array().unwrap() {
        let case = case(&folder, &golden, number.as_u64().unwrap() as usize);
        let (encoding, words) = (case.text().encoding(), Words::default());
        let tokens: Vec<f32> = case.scores.iter().map(|&score| score as f32).collect();
        norm_lime.add(&subject(&encoding, &words), &case.target.to_string(), &scores(&tokens));
    }
    let found = norm_lime.finish();
    let expected = golden["norm-lime"]["weights"].as_object().unwrap();
    assert_eq!(found.len(), expected.values().map(|class| class.as_object().unwrap().len()).sum::<usize>());
    for GlobalWeight { class, feature, weight, count } in found {
        let wanted = &expected[&class][&feature];
        // Each weight is rounded to f32, and stands for three in the share; the golden numbers have nine digits.
        let allowed = 4.0 * f64::from(f32::EPSILON) * weight;
        let error = (weight - wanted[0].as_f64().unwrap()).abs();
        assert!(error <= allowed, "{class}, {feature}: {weight} is not {wanted}");
        assert_eq!(wanted[1], count, "{class}, {feature}");
    }
}

/// [CLS], a token for each letter, [SEP].
fn letters(text: &str) -> Encoding {
    let places = (0..text.len()).map(|i| Some((i, i + 1)));
    let offsets: Vec<_> = std::iter::once(None).chain(places).chain([None]).collect();
    let letters = text.chars().map(String::from);
    let tokens = std::iter::once("[CLS]".to_owned()).chain(letters).chain(["[SEP]".to_owned()]);
    Encoding {
        ids: vec![0; offsets.len()],
        type_ids: vec![0; offsets.len()],
        tokens: tokens.collect(),
        segments: offsets.iter().map(|offset| offset.map(|_| 0)).collect(),
        offsets,
        ..Encoding::default()
    }
}

#[test]
fn shares_are_averaged_over_occurrences_that_speak_for_the_class() {
    let (encoding, words) = (letters("abab"), Words::default());
    let mut norm_lime = NormLime::new(Features::Tokens);
    // Σ|w| = 4: a has 1²/4 and, of the second, nothing; b has ½²/4 and 1.5²/4, 0.3125 on average. Special tokens count
    // nowhere.
    norm_lime.add(&subject(&encoding, &words), "yes", &scores(&[9.0, 1.0, 0.5, -1.0, 1.5, 9.0]));
    norm_lime.add(&subject(&encoding, &words), "no", &scores(&[0.0, 0.0, -1.0, 0.0, 0.0, 0.0]));
    norm_lime.add(&subject(&encoding, &words), "yes", &scores(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]));
    let weight =
        |feature: &str, weight, count| GlobalWeight { class: "yes".into(), feature: feature.into(), weight, count };
    assert_eq!(norm_lime.finish(), [weight("b", 0.3125, 2), weight("a", 0.25, 1)]);
}

#[test]
fn words_weigh_what_their_tokens_do_together() {
    let text = "ab c";
    let encoding = letters(text);
    let words = Words::new(&Record { text: text.into(), ..Record::default() }, &encoding, Segmentation::default());
    let mut norm_lime = NormLime::new(Features::Words);
    norm_lime.add(&subject(&encoding, &words), "yes", &scores(&[0.0, 0.5, 1.0, 7.0, 0.5, 0.0]));
    let found = norm_lime.finish();
    let seen: Vec<_> = found.iter().map(|g| (&*g.feature, g.weight, g.count)).collect();
    assert_eq!(seen, [("ab", 1.5 * 1.5 / 2.0, 1), ("c", 0.125, 1)]);
}

#[test]
fn results_are_ranked_within_their_classes_and_have_their_columns() {
    let weight = |class: &str, feature: &str| GlobalWeight {
        class: class.into(),
        feature: feature.into(),
        weight: 0.5,
        count: 3,
    };
    let list = GlobalImportance::list([weight("no", "bad"), weight("no", "dull"), weight("yes", "good")]);
    assert_eq!(list.iter().map(|g| (&*g.class, g.rank)).collect::<Vec<_>>(), [("no", 1), ("no", 2), ("yes", 1)]);
    let written = serde_json::to_value(&list[2]).unwrap();
    let names: Vec<&String> = written.as_object().unwrap().keys().collect();
    let columns = GlobalImportance::columns();
    assert_eq!(names, columns.iter().map(|(name, _)| name).collect::<Vec<_>>());
    assert_eq!(written.to_string(), r#"{"class":"yes","rank":1,"feature":"good","weight":0.5,"count":3}"#);
}

#[test]
fn norm_lime_is_of_lime() {
    let model = Model::load(&folder("bert-cls2").to_string_lossy(), Device::Cpu, &LoadOptions::default()).unwrap();
    let options = ExplainOptions { method: Method::KernelShap, ..ExplainOptions::default() };
    let (text, mut rejections) = (Dataset::typed("good".into(), None), Rejections::new(false, None));
    let error = norm_lime(&model, text, &options, &Settings::default(), &mut rejections).unwrap_err();
    assert_eq!(error.to_string(), "norm-lime: sums up what lime says of records, found kernel-shap");
}
