//! Explaining on the (emulated) GPU: the goldens the CPU is held to, in each precision, and batches that do not matter.

use wherefore::backend::Precision;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::Plain;
use wherefore::explain::{Baseline, Method, Options};
use wherefore::model::Model;

use super::golden::{FLOOR, golden_models, open, read, scores_of, worst};
use super::laws::{Texts, bert, bits};
use crate::emulator;

/// Families that go different ways: plain, without segments, with projected embeddings and shared layers, through a
/// head of its own.
const MODELS: [&str; 4] = ["bert-cls2", "roberta-cls2", "albert-cls2", "electra-cls3"];

/// A precision, and how much coarser than f32 its operands are.
const COARSER: [(Precision, f64); 4] =
    [(Precision::F32, 1.0), (Precision::Bf16x3, 128.0), (Precision::F16, 8192.0), (Precision::Bf16, 65536.0)];

/// Rounding errors grow with the unit they round to: at most twice what plain f32 loops lose, times how much coarser
/// the unit is.
#[test]
fn every_method_gives_pytorchs_scores_in_every_precision() {
    for name in MODELS {
        let folder = golden_models().into_iter().find(|folder| folder.ends_with(name)).unwrap();
        let golden = read(&folder);
        // More steps and samples are more of the same, and take the emulator minutes.
        let short = |case: &&super::golden::Case| case.steps.unwrap_or(0) <= 8 && case.samples.unwrap_or(0) <= 8;
        let cases: Vec<_> = golden.cases.iter().filter(short).filter_map(|case| Some((case, case.method()?))).collect();
        let largest_error = |model: &Model| {
            let error = |(case, method): &(&super::golden::Case, Method)| {
                let scale = case.scores.iter().chain(&case.value).fold(0.0, |most: f64, x| most.max(x.abs()));
                worst(&scores_of(model, &golden, case, *method), case) / scale
            };
            cases.iter().map(error).fold(0.0, f64::max)
        };
        let plain = largest_error(&open(Plain, &folder));
        // The other two round as these do, but for how much: one model shows it.
        let precisions = COARSER
            .iter()
            .filter(|(precision, _)| matches!(precision, Precision::F32 | Precision::F16) || name == MODELS[0]);
        for &(precision, coarser) in precisions {
            let found = largest_error(&open(emulator::gpu(precision), &folder));
            let allowed = (2.0 * plain + FLOOR) * coarser;
            assert!(found <= allowed, "{name}, {precision}: off by {found:e}, allowed {allowed:e}");
        }
    }
}

#[test]
fn scores_do_not_depend_on_what_else_is_in_the_batch() {
    for precision in [Precision::F32, Precision::F16] {
        let model = bert(emulator::gpu(precision));
        let texts = Texts::new(&bert(Cpu::new()));
        let baseline = Baseline::texts(&texts.encodings);
        for method in
            [Method::IntegratedGradients, Method::GradientShap, Method::GenericAttention, Method::AttentionRollout]
        {
            let shap = method == Method::GradientShap;
            let baseline = if shap { baseline.clone() } else { Baseline::Mask };
            let options = Options { steps: 3, samples: Some(2), noise: Some(0.5), baseline, ..Options::default() };
            let together = texts.explain(&model, &[0, 1, 2, 3], method, &options, 64);
            for (i, expected) in together.iter().enumerate() {
                let found = texts.explain(&model, &[3, i, i], method, &options, 37);
                assert_eq!(bits(found.last().unwrap()), bits(expected), "{precision}, {method}, record {i}");
            }
        }
    }
}
