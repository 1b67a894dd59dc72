//! What must hold whatever the numbers are.

use std::collections::BTreeSet;

use wherefore::Error;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::Reference;
use wherefore::backend::{Backend, Objective, Part, Term};
use wherefore::dataset::Record;
use wherefore::explain::{
    Baseline, Method, Options, Quadrature, Scores, Segmentation, Subject, Words, explain, place_among_draws,
};
use wherefore::model::{LoadOptions, Model};
use wherefore::tokens::Encoding;

use super::golden::golden_models;
use crate::models::Parts;

const TEXTS: [(&str, Option<&str>); 4] = [
    ("The service was not good.", None),
    ("good", None),
    ("一点也不好看, the food", Some("was good good good")),
    ("a longer text than the others, so that batches are cut in other places than before", None),
];

pub(super) fn bert<B: Backend>(backend: B) -> Model {
    let folder = golden_models().into_iter().find(|folder| folder.ends_with("bert-cls2")).unwrap();
    Model::open_with(backend, &folder, &LoadOptions::default()).unwrap()
}

/// Texts as the model reads them.
pub(super) struct Texts {
    records: Vec<Record>,
    pub(super) encodings: Vec<Encoding>,
    logits: Vec<f32>,
    words: Vec<Words>,
}

impl Texts {
    pub(super) fn new(model: &Model) -> Self {
        let record = |(index, (text, pair)): (usize, &(&str, Option<&str>))| Record {
            index: index as u64,
            text: (*text).to_owned(),
            pair: pair.map(str::to_owned),
            ..Record::default()
        };
        let records: Vec<Record> = TEXTS.iter().enumerate().map(record).collect();
        let encodings: Vec<Encoding> = records.iter().map(|record| model.encode(record).unwrap()).collect();
        let words = |(record, encoding)| Words::new(record, encoding, Segmentation::default());
        let words = records.iter().zip(&encodings).map(words).collect();
        let logits = model.run(&encodings, None, &|_| true).unwrap().logits;
        Self { records, encodings, logits, words }
    }

    fn subject(&self, i: usize) -> Subject<'_> {
        Subject {
            index: self.records[i].index,
            draw: place_among_draws(&self.encodings[i]),
            encoding: &self.encodings[i],
            words: &self.words[i],
            objectives: vec![Objective::Softmax(0), Objective::Logit(1), Objective::Difference(1, 0)],
            logits: self.logits[2 * i..2 * i + 2].to_vec(),
            reads: None,
        }
    }

    pub(super) fn explain(
        &self,
        model: &Model,
        which: &[usize],
        method: Method,
        options: &Options,
        budget: usize,
    ) -> Vec<Vec<Scores>> {
        let subjects: Vec<_> = which.iter().map(|&i| self.subject(i)).collect();
        explain(model, &subjects, method, options, Some(budget), &|_| true).unwrap()
    }
}

pub(super) fn bits(scores: &[Scores]) -> Vec<(Vec<u32>, u64, Option<u64>)> {
    let own = |s: &Scores| {
        let tokens = s.tokens.iter().map(|x| x.to_bits()).collect();
        (tokens, s.output.to_bits(), s.convergence_delta.map(f64::to_bits))
    };
    scores.iter().map(own).collect()
}

#[test]
fn scores_do_not_depend_on_what_else_is_in_the_batch() {
    let model = bert(Cpu::new());
    let texts = Texts::new(&model);
    let baseline = Baseline::texts(&texts.encodings);
    for method in Method::ALL {
        let shap = method == Method::GradientShap;
        let options = Options {
            steps: 5,
            samples: Some(6),
            noise: Some(0.5),
            baseline: if shap { baseline.clone() } else { Baseline::Mask },
            ..Options::default()
        };
        let together = texts.explain(&model, &[0, 1, 2, 3], method, &options, 64);
        for (i, expected) in together.iter().enumerate() {
            for (which, budget) in [(vec![i], 1), (vec![3, i, i], 37)] {
                let found = texts.explain(&model, &which, method, &options, budget);
                assert_eq!(bits(found.last().unwrap()), bits(expected), "{method}, record {i}, {budget} tokens");
            }
        }
    }
}

/// Where the last layer has first tokens alone, their queries' gradients may be wider than a short text's inner values.
#[test]
fn a_model_that_is_narrow_inside_goes_back_as_any_other() {
    let from = golden_models().into_iter().find(|folder| folder.ends_with("bert-cls2")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["intermediate_size"] = 4.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut weights = Parts::read(&from.join("model.safetensors"));
    let layer = |layer: usize| {
        [
            ("intermediate.dense.weight", vec![4, 24]),
            ("intermediate.dense.bias", vec![4]),
            ("output.dense.weight", vec![24, 4]),
        ]
        .map(|(name, shape)| (format!("bert.encoder.layer.{layer}.{name}"), shape))
    };
    weights.cut(&[layer(0), layer(1)].concat());
    weights.write(&folder.path().join("model.safetensors"));
    let open = |model: Model| {
        let texts = Texts::new(&model);
        let methods = [Method::Saliency, Method::GenericAttention];
        methods.map(|method| texts.explain(&model, &[1], method, &Options::default(), 64)).concat()
    };
    let exact = open(Model::open_with(Reference, folder.path(), &LoadOptions::default()).unwrap());
    let found = open(Model::open_with(Cpu::new(), folder.path(), &LoadOptions::default()).unwrap());
    for (exact, found) in exact.iter().flatten().zip(found.iter().flatten()) {
        let most = exact.tokens.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        assert!(most > 0.0 && exact.tokens.iter().zip(&found.tokens).all(|(e, f)| (e - f).abs() <= 1e-4 * most));
    }
}

#[test]
fn integrated_gradients_is_complete_when_told_to_be() {
    let model = bert(Reference);
    let texts = Texts::new(&model);
    for quadrature in Quadrature::ALL {
        // The one-sided rules close in as 1/N, the others as 1/N² or faster.
        let one_sided = matches!(quadrature, Quadrature::Left | Quadrature::Right);
        let tolerance = if one_sided { 0.05 } else { 1e-3 };
        let options = Options { steps: 2, quadrature, tolerance: Some(tolerance), ..Options::default() };
        for scores in texts.explain(&model, &[0, 3], Method::IntegratedGradients, &options, 4096).iter().flatten() {
            assert_eq!(scores.converged, Some(true), "{quadrature}: {scores:?}");
            let change = scores.output - scores.baseline_output.unwrap();
            let sum: f64 = scores.tokens.iter().map(|&x| f64::from(x)).sum();
            let allowed = tolerance * change.abs().max(1e-3) + 1e-6;
            assert!((sum - change).abs() <= allowed, "{quadrature}: {sum} of {change}");
        }
    }
}

#[test]
fn steps_run_out_where_the_tolerance_cannot_be_met() {
    let model = bert(Cpu::new());
    let texts = Texts::new(&model);
    let quadrature = Quadrature::Left;
    let options = Options { steps: 3, max_steps: 10, tolerance: Some(1e-9), quadrature, ..Options::default() };
    let scores = &texts.explain(&model, &[0], Method::IntegratedGradients, &options, 4096)[0][0];
    assert_eq!((scores.converged, scores.steps), (Some(false), Some(10)));
}

#[test]
fn objectives_meet_the_tolerance_each_by_itself() {
    let model = bert(Cpu::new());
    let texts = Texts::new(&model);
    let (quadrature, tolerance) = (Quadrature::Left, Some(0.3));
    let options = Options { steps: 1, max_steps: 32, tolerance, quadrature, ..Options::default() };
    let mut ends = BTreeSet::new();
    for i in 0..TEXTS.len() {
        let whole = texts.subject(i);
        let together = &texts.explain(&model, &[i], Method::IntegratedGradients, &options, 64)[0];
        for (objective, found) in whole.objectives.iter().zip(together) {
            let subject = Subject { objectives: vec![objective.clone()], ..whole.clone() };
            let alone =
                explain(&model, &[subject], Method::IntegratedGradients, &options, Some(64), &|_| true).unwrap();
            assert_eq!(bits(std::slice::from_ref(found)), bits(&alone[0]), "{objective:?} of record {i}");
            assert_eq!((found.steps, found.converged), (alone[0][0].steps, alone[0][0].converged));
        }
        ends.insert(together.iter().map(|scores| (scores.steps, scores.converged)).collect::<Vec<_>>());
    }
    assert!(ends.iter().any(|ends| ends.iter().any(|end| *end != ends[0])), "some end before others: {ends:?}");
}

#[test]
fn rollout_shares_sum_to_one_and_flows_stay_within_the_source() {
    let model = bert(Cpu::new());
    let texts = Texts::new(&model);
    for scores in texts.explain(&model, &[0, 1, 2, 3], Method::AttentionRollout, &Options::default(), 64) {
        let sum: f32 = scores[0].tokens.iter().sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }
    for scores in texts.explain(&model, &[0, 1, 2, 3], Method::AttentionFlow, &Options::default(), 64) {
        assert!(scores[0].tokens.iter().all(|flow| (0.0..=1.0 + 1e-6).contains(flow)), "{scores:?}");
    }
}

#[test]
fn quadratures_integrate_what_they_should() {
    for rule in Quadrature::ALL {
        for steps in [1, 2, 7, 50, 300] {
            let nodes = rule.nodes(steps);
            let integral = |power: i32| nodes.iter().map(|n| n.weight * n.alpha.powi(power)).sum::<f64>();
            assert!((integral(0) - 1.0).abs() < 1e-13, "{rule}, {steps} steps: weights sum to {}", integral(0));
            assert!(nodes.is_sorted_by(|a, b| a.alpha < b.alpha), "{rule}");
            let exact = match rule {
                Quadrature::GaussLegendre => 2 * steps as i32 - 1,
                Quadrature::Trapezoid | Quadrature::Midpoint => 1,
                Quadrature::Left | Quadrature::Right => 0,
            };
            for power in 0..=exact.min(40) {
                let expected = 1.0 / f64::from(power + 1);
                assert!((integral(power) - expected).abs() < 1e-13, "{rule}, {steps} steps, x^{power}");
            }
        }
    }
}

#[test]
fn a_path_from_the_text_to_itself_has_no_steps() {
    let model = bert(Cpu::new());
    let texts = Texts::new(&model);
    let options = Options { steps: 3, baseline: Baseline::text(&texts.encodings[0]), ..Options::default() };
    let scores = &texts.explain(&model, &[0], Method::IntegratedGradients, &options, 64)[0][0];
    assert!(scores.tokens.iter().all(|&x| x == 0.0), "{scores:?}");
    assert_eq!(scores.baseline_output.unwrap().to_bits(), scores.output.to_bits());
}

#[test]
fn draws_change_with_the_seed_and_not_with_the_records_place() {
    let model = bert(Cpu::new());
    let texts = Texts::new(&model);
    let places: BTreeSet<u32> = texts.encodings.iter().map(place_among_draws).collect();
    let different: BTreeSet<_> = texts.encodings.iter().map(|encoding| &encoding.ids).collect();
    assert_eq!(places.len(), different.len());
    for method in [Method::GradientShap, Method::SmoothGrad, Method::Lime] {
        let drawn = |seed, index| {
            let options = Options { samples: Some(3), noise: Some(1.0), seed, ..Options::default() };
            let subject = Subject { index, ..texts.subject(0) };
            let scores = explain(&model, &[subject], method, &options, None, &|_| true).unwrap();
            bits(&scores[0])
        };
        let different: BTreeSet<_> = [0, 1, 1 << 40].map(|seed| drawn(seed, 0)).into();
        assert_eq!(different.len(), 3, "{method}");
        assert_eq!(drawn(1, 0), drawn(1, 7), "{method}");
    }
}

#[test]
fn settings_without_a_meaning_are_refused() {
    let model = bert(Cpu::new());
    let refused = |method: Method, options: Options| method.check(&model, &options).unwrap_err().to_string();
    let message = refused(Method::AttentionRollout, Options { start_layer: 99, ..Options::default() });
    assert!(message.contains("start layer") && message.contains("99"), "{message}");
    let message = refused(Method::Saliency, Options { steps: 0, ..Options::default() });
    assert!(message.contains("steps: expected at least 1, found 0"), "{message}");
    let message = refused(Method::IntegratedGradients, Options { max_steps: 0, ..Options::default() });
    assert!(message.contains("max steps: expected at least 1, found 0"), "{message}");
    let fewer = Options { steps: 8, max_steps: 7, tolerance: Some(0.1), ..Options::default() };
    let message = refused(Method::IntegratedGradients, fewer);
    assert!(message.contains("max steps: expected at least 8, the steps, found 7"), "{message}");
    let two = Baseline::texts(&Texts::new(&model).encodings);
    let message = refused(Method::IntegratedGradients, Options { baseline: two, ..Options::default() });
    assert!(message.contains("one baseline"), "{message}");
    let message = refused(Method::SmoothGrad, Options { noise: Some(-0.1), ..Options::default() });
    assert!(message.contains("noise: expected a number from 0 on, found -0.1"), "{message}");
}

#[test]
fn what_has_no_meaning_is_refused_before_anything_is_run() {
    let model = bert(Cpu::new());
    let texts = Texts::new(&model);
    let refused = |subject: Subject<'_>, method, options: Options| {
        let error = explain(&model, &[subject], method, &options, None, &|_| panic!("nothing is run")).unwrap_err();
        assert!(matches!(error, Error::Usage(..)), "{error:?}");
        error.to_string()
    };
    let settings = [
        (Method::AttentionFlow, Options { start_layer: 99, ..Options::default() }, "start layer: expected below"),
        (Method::IntegratedGradients, Options { steps: 0, ..Options::default() }, "steps: expected at least 1"),
        (Method::GradientShap, Options { samples: Some(0), ..Options::default() }, "samples: expected at least 1"),
        (Method::Lime, Options { samples: Some(0), ..Options::default() }, "samples: expected at least 1"),
        (Method::GradientShap, Options { baseline: Baseline::texts([]), ..Options::default() }, "no baseline"),
    ];
    for (method, options, expected) in settings {
        let message = refused(texts.subject(0), method, options);
        assert!(message.contains(expected), "{message}");
    }
    let row = |row, width| Term { weight: 1.0, part: Part::Row(row, width), objective: Objective::Logit(1) };
    let column =
        |column, width| Term { weight: 1.0, part: Part::Column(column, width), objective: Objective::Logit(0) };
    let beyond = [
        Objective::Logit(7),
        Objective::Softmax(2),
        Objective::Sigmoid(2),
        Objective::Difference(0, 2),
        Objective::Sum([row(1, 2)].into()),
        Objective::Sum([row(0, 1)].into()),
        Objective::Sum([column(2, 2)].into()),
        Objective::Sum([column(0, 0)].into()),
    ];
    for objective in beyond {
        let subject = Subject { objectives: vec![objective], ..texts.subject(0) };
        let message = refused(subject, Method::Saliency, Options::default());
        assert!(message.contains("record 0: ") && message.ends_with("is not of 2 logits"), "{message}");
    }
    let subject = Subject { logits: vec![0.5], ..texts.subject(0) };
    assert_eq!(refused(subject, Method::Saliency, Options::default()), "record 0: expected 2 logits, found 1");
}

#[test]
fn noise_is_a_share_of_the_embeddings_deviation_and_smoothgrad_has_some_by_default() {
    let model = bert(Cpu::new());
    let texts = Texts::new(&model);
    let found = |method, noise| bits(&texts.explain(&model, &[0], method, &Options { noise, ..few() }, 64)[0]);
    assert_eq!(found(Method::SmoothGrad, None), found(Method::SmoothGrad, Some(0.3)));
    assert_ne!(found(Method::SmoothGrad, None), found(Method::SmoothGrad, Some(0.0)));
    assert_eq!(found(Method::GradientShap, None), found(Method::GradientShap, Some(0.0)));
    assert_ne!(found(Method::GradientShap, None), found(Method::GradientShap, Some(0.3)));
}

fn few() -> Options {
    Options { samples: Some(4), ..Options::default() }
}
