//! Gradients as AdamW would follow them, and rule less over them: against PyTorch's (`tests/golden/less.py`), against
//! whole gradients of every family, and what a script meets.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;
use wherefore::backend::Precision;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::Reference;
use wherefore::factors::{self, Target};
use wherefore::model::{
    AdamMoments, Blueprint, GradientsOf, Lesson, LoadOptions, Model, NamedTensor, Projection, ProjectionKind, Tracer,
};
use wherefore::tokens::{Encoding, pack};

use super::command::shards;
use super::curvature::{bench, numbers, scores};
use super::device::{allowed, worst};
use super::projected::{FAMILIES, dot, encodings, identity, path, target};
use crate::cli::{Bench, golden};
use crate::emulator;
use crate::models::gpu::swollen;

const INDEX: &str = "index --model bert-cls2 --data data.jsonl --gradients projected --block-records 5 --quiet \
    --adam --checkpoint bert-cls2-checkpoint:0.1 --checkpoint bert-cls2:0.05";

fn both() -> Bench {
    let (bench, _) = bench("bert-cls2");
    bench.model("bert-cls2-checkpoint");
    bench
}

#[test]
fn scores_are_those_of_the_formula_in_float64() {
    let bench = both();
    let text = std::fs::read_to_string(golden("bert-cls2").join("less.json")).unwrap();
    let said: Value = serde_json::from_str(&text).unwrap();
    let expected: Vec<Vec<f64>> = said["scores"].as_array().unwrap().iter().map(numbers).collect();
    bench.ok(&format!("{INDEX} --store store --projection identity"));
    let found = scores(&bench, "--store store --rule less");
    assert_eq!(found.len(), expected.len());
    for (query, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            // Cosines: at most 1, of gradients in f32, which are good to some 1e-6 of their length.
            assert!((found - expected).abs() < 2e-6, "query {query} record {i}: {found} {expected}");
        }
    }
    // What is not projected is told apart from what is: the same ranking in the mean, other numbers.
    bench.ok(&format!("{INDEX} --store short --projection sjlt --projection-dim 1500"));
    let short = scores(&bench, "--store short --rule less");
    let apart: f64 = short.concat().iter().zip(expected.concat()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart > 1e-4 && apart < 0.35, "{apart}");
}

#[test]
fn stores_are_the_same_bytes_whatever_the_run() {
    let bench = both();
    let index = format!("{INDEX} --projection sjlt --projection-dim 300");
    bench.ok(&format!("{index} --store whole"));
    bench.ok(&format!("{index} --store small --batch-tokens 8 --threads 1"));
    assert_eq!(shards(&bench, "whole"), shards(&bench, "small"));
    bench.ok(&format!("{index} --store part0 --shard 0/2"));
    bench.ok(&format!("{index} --store part1 --shard 1/2"));
    bench.ok("merge --store merged part0 part1");
    assert_eq!(bench.contents("whole"), bench.contents("merged"));
    let data = std::fs::read_to_string(bench.path("data.jsonl")).unwrap();
    bench.write("data.jsonl", data.lines().take(8).chain(["{"]).collect::<Vec<_>>().join("\n"));
    assert_eq!(bench.run(&format!("{index} --store cut")).code, Some(2));
    assert_eq!(shards(&bench, "cut").len(), 2, "of the block before the damaged line");
    bench.write("data.jsonl", data);
    bench.ok(&format!("{index} --store cut --resume"));
    assert_eq!(bench.contents("whole"), bench.contents("cut"));
    let manifest = std::fs::read_to_string(bench.path("whole/manifest.json")).unwrap();
    assert!(manifest.contains("\"sjlt\"") && manifest.matches("\"moments\"").count() == 2, "{manifest}");
}

#[test]
fn all_parameters_are_followed_where_they_are_asked_for() {
    let bench = both();
    let learn = "train --model bert-cls2 --data data.jsonl --epochs 2 --batch-size 5 --learning-rate 1e-3 --quiet";
    bench.ok(&format!("{learn} --save-epochs epochs --keep-moments --out tuned"));
    let index = "index --model tuned --data data.jsonl --gradients projected --projection sjlt --projection-dim 900 \
        --parameters all --adam --checkpoint epochs/epoch-001:0.1 --checkpoint epochs/epoch-002:0.05 --quiet";
    bench.ok(&format!("{index} --store store"));
    bench.ok(&format!("{index} --store small --batch-tokens 8 --threads 1"));
    assert_eq!(shards(&bench, "store"), shards(&bench, "small"));
    let found = scores(&bench, "--store store --rule less");
    assert!(
        found.iter().flatten().all(|score| score.abs() <= 1.0 + 1e-5),
        "sums of cosines by rates' shares: {found:?}"
    );
    bench.ok(&format!("{} --store linear", index.replace("--parameters all", "")));
    assert_ne!(found, scores(&bench, "--store linear --rule less"));
    bench.ok("search --store store --data queries.jsonl --rule less --error-bars --quiet");
    // Of a file with moments of linear layers alone.
    bench.fails(&format!("{INDEX} --store x --parameters all"), "LayerNorm.weight\": missing");
}

#[test]
fn what_cannot_be_asked_is_told() {
    let bench = both();
    bench.ok(&format!("{INDEX} --store store --projection-dim 100"));
    bench.ok(&format!("{} --store plain --projection-dim 100", INDEX.replace("--adam", "")));
    let refused = |arguments: &str, reason: &str| {
        let ran = bench.run(&format!("{arguments} --quiet"));
        assert_eq!(ran.code, Some(2), "{arguments}: {}", ran.err);
        assert!(ran.err.contains(reason) && ran.err.contains("hint:"), "{arguments}: {}", ran.err);
    };
    let ask = "--data queries.jsonl";
    refused(&format!("search --store store {ask} --rule tracin"), "as AdamW follows them");
    refused(&format!("search --store store {ask} --rule trak"), "use rule less");
    refused(&format!("search --store plain {ask} --rule less"), "index with --adam");
    refused("search --store store --self --rule less", "ask with their gradients as they are");
    refused(&INDEX.replace("--gradients projected", "--store x"), "--gradients projected");
    std::fs::remove_file(bench.path("bert-cls2-checkpoint/moments.safetensors")).unwrap();
    refused(&format!("{INDEX} --store x"), "--keep-moments");
    let whole = std::fs::read(golden("bert-cls2").join("moments.safetensors")).unwrap();
    for cut in [0, 9, 300, whole.len() - 1] {
        bench.write("bert-cls2-checkpoint/moments.safetensors", &whole[..cut]);
        let ran = bench.run(&format!("{INDEX} --store x"));
        assert!(ran.code == Some(2) && ran.err.contains("not a whole safetensors file"), "{cut}: {}", ran.err);
    }
    assert!(!bench.path("x").exists());
    // The other rules over the model itself are none of the checkpoints' business.
    bench.ok(&format!("search --store store {ask} --rule projected-cos --quiet"));
}

/// A family's model saved with moments of a few steps that led to it, its records' whole gradients and those moments by
/// name.
struct Whole {
    model: Model,
    gradients: Vec<HashMap<String, Vec<f32>>>,
    moments: HashMap<String, Vec<f32>>,
}

fn whole(name: &str, folder: &Path) -> Whole {
    let blueprint = Blueprint::read(path(name).to_str().unwrap(), false).unwrap();
    let head = blueprint.head().unwrap().clone();
    let mut trainee = blueprint.build(Reference, head, 0, None).unwrap();
    let original = Model::open_with(Cpu::new(), &path(name), &LoadOptions::default()).unwrap();
    let encodings = encodings(&original);
    let by_name = |tensors: Vec<NamedTensor>| tensors.into_iter().map(|t| (t.name, t.values)).collect();
    let study = |trainee: &mut wherefore::model::Trainee, row: usize, encoding: &Encoding| {
        let positions = trainee.positions();
        let batch = pack(&[encoding], positions, usize::MAX).remove(0).batch;
        let target: Target = target(row);
        trainee.learner().study(batch, &[Lesson { target: &target, share: 1.0, record: 0 }], None).unwrap();
    };
    for (number, encoding) in (1..).zip(&encodings[1..3]) {
        study(&mut trainee, number, encoding);
        let step = wherefore::backend::training::AdamStep {
            rate: 1e-3,
            decay: 0.0,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            number: number as u64,
            scale: 1.0,
        };
        trainee.learner().step(&step).unwrap();
    }
    let to = folder.join(name);
    trainee.save_with_moments(&to, [0.9, 0.999]).unwrap();
    let moments = by_name(trainee.learner().state().unwrap());
    let mut gradients: Vec<HashMap<String, Vec<f32>>> = Vec::new();
    for (row, encoding) in encodings.iter().enumerate() {
        // Gradients add up: a record's own is what it adds.
        let before: HashMap<String, Vec<f32>> = by_name(trainee.learner().gradients().unwrap());
        study(&mut trainee, row, encoding);
        let mut after: HashMap<String, Vec<f32>> = by_name(trainee.learner().gradients().unwrap());
        for (name, g) in &mut after {
            g.iter_mut().zip(&before[name]).for_each(|(g, b)| *g -= b);
        }
        gradients.push(after);
    }
    Whole { model: Model::open_with(Cpu::new(), &to, &LoadOptions::default()).unwrap(), gradients, moments }
}

/// Unit vectors of every text by a tracer of adapted gradients.
fn adapted(tracer: &Tracer, model: &Model) -> Vec<Vec<f32>> {
    adapted_by(tracer, model, None)
}

fn adapted_by(tracer: &Tracer, model: &Model, budget: Option<usize>) -> Vec<Vec<f32>> {
    let encodings = encodings(model);
    let window: Vec<&Encoding> = encodings.iter().collect();
    let seed = |row: usize, z: &[f32], gradient: &mut [f32]| {
        factors::loss_and_delta(model.problem(), z, &target(row), gradient);
    };
    let outputs = tracer.run(&window, budget, &seed, &|| true).unwrap();
    outputs.features.chunks_exact(tracer.width()).map(<[f32]>::to_vec).collect()
}

#[test]
fn every_familys_gradients_are_adapted_parameter_by_parameter() {
    let folder = tempfile::tempdir().unwrap();
    for name in FAMILIES {
        let Whole { model, gradients, moments } = whole(name, folder.path());
        for parameters in [GradientsOf::Linear, GradientsOf::All] {
            let projection = identity(parameters);
            let tracer =
                Tracer::adapted(&model, &projection, &AdamMoments::read(&model, projection.parameters).unwrap())
                    .unwrap();
            assert!(tracer.is_adapted());
            let found = adapted(&tracer, &model);
            let is_linear = |name: &String| !name.to_lowercase().contains("norm") && !name.contains("_embeddings.");
            let mut names: Vec<&String> =
                gradients[0].keys().filter(|name| parameters == GradientsOf::All || is_linear(name)).collect();
            names.sort();
            let expected = |gradients: &HashMap<String, Vec<f32>>| -> Vec<f32> {
                let of_parameter = |name: &&String| -> Vec<f32> {
                    let [m, v] = ["first_moment.", "second_moment."].map(|which| &moments[&format!("{which}{name}")]);
                    let u = |(g, (m, v)): (&f32, (&f32, &f32))| {
                        let [g, m, v] = [g, m, v].map(|&x| f64::from(x));
                        ((0.9 * m + 0.1 * g) / (0.999 * v + 0.001 * g * g + 1e-8).sqrt()) as f32
                    };
                    gradients[*name].iter().zip(m.iter().zip(v)).map(u).collect()
                };
                names.iter().flat_map(of_parameter).collect()
            };
            let expected: Vec<Vec<f32>> = gradients.iter().map(expected).collect();
            for i in 0..expected.len() {
                assert!((dot(&found[i], &found[i]) - 1.0).abs() < 1e-5);
                for j in 0..i {
                    let length = (dot(&expected[i], &expected[i]) * dot(&expected[j], &expected[j])).sqrt();
                    let (found, expected) = (dot(&found[i], &found[j]), dot(&expected[i], &expected[j]) / length);
                    assert!((found - expected).abs() < 2e-4, "{name} {parameters} {i} {j}: {found} {expected}");
                }
            }
        }
    }
}

/// What a device keeps of whole layers is what the CPU keeps of them sixteen rows at a time, to the precision; and
/// nobody's company changes a bit of it.
#[test]
fn devices_adapt_whole_layers_to_the_precision() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["bert-cls2", "albert-groups-cls3"] {
        let Whole { model, .. } = whole(name, folder.path());
        for (parameters, kind) in [
            (GradientsOf::Linear, ProjectionKind::Rademacher),
            (GradientsOf::Linear, ProjectionKind::Identity),
            (GradientsOf::All, ProjectionKind::Sjlt),
        ] {
            let projection = Projection { dimension: 900, parameters, kind, ..Projection::default() };
            let moments = AdamMoments::read(&model, parameters).unwrap();
            let exact = adapted(&Tracer::adapted_on(Reference, &model, &projection, &moments).unwrap(), &model);
            let error = |found: &[Vec<f32>]| -> f64 {
                let apart = |(found, exact): (&Vec<f32>, &Vec<f32>)| -> f64 {
                    found.iter().zip(exact).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
                };
                worst(found.iter().zip(&exact).map(apart))
            };
            let cpu = error(&adapted(&Tracer::adapted(&model, &projection, &moments).unwrap(), &model));
            assert!(cpu < 1e-5, "{name} {kind:?}: {cpu:e}");
            for precision in [Precision::F32, Precision::Bf16x3, Precision::F16, Precision::Bf16] {
                let on = || Tracer::adapted_on(emulator::gpu(precision), &model, &projection, &moments).unwrap();
                let found = adapted(&on(), &model);
                let (error, allowed) = (error(&found), allowed(precision, cpu));
                assert!(error <= allowed, "{name} {kind:?}: {precision} {error:e}, allowed {allowed:e}");
                for budget in [1, 24] {
                    assert!(adapted_by(&on(), &model, Some(budget)) == found, "{name} {kind:?}: {precision}, {budget}");
                }
            }
        }
    }
}

/// Those, and no others, are bf16's own.
#[test]
fn records_that_overflow_f16_are_adapted_again_in_bf16() {
    let projection = Projection { dimension: 300, ..Projection::default() };
    let run = |scale: f32, precision: Precision| {
        let dir = swollen(scale);
        std::fs::copy(golden("bert-cls2").join("moments.safetensors"), dir.path().join("moments.safetensors")).unwrap();
        let model = Model::open_with(emulator::gpu(precision), dir.path(), &LoadOptions::default()).unwrap();
        let moments = AdamMoments::read(&model, projection.parameters).unwrap();
        (adapted(&Tracer::adapted(&model, &projection, &moments).unwrap(), &model), model.run_again())
    };
    let some = |scale: &f32| (1..5).contains(&run(*scale, Precision::F16).1);
    let scale = (8..32).map(|half| 500.0 * half as f32).find(some).expect("some overflow");
    let ((mixed, again), (wide, _)) = (run(scale, Precision::F16), run(scale, Precision::Bf16));
    assert!(mixed.iter().flatten().all(|x| x.is_finite()));
    assert_eq!(mixed.iter().zip(&wide).filter(|(mixed, wide)| mixed == wide).count() as u64, again);
}

#[test]
fn without_a_first_moment_and_with_one_second_moment_they_are_plain_gradients() {
    let folder = tempfile::tempdir().unwrap();
    let Whole { model, .. } = whole("bert-cls2", folder.path());
    let file = folder.path().join("bert-cls2/moments.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let fill = |name: &str| if name.starts_with("second") { 1.0_f32 } else { 0.0 };
    let filled: Vec<_> = tensors
        .iter()
        .map(|(name, view)| {
            let count = view.shape().iter().product();
            let values: Vec<u8> = std::iter::repeat_n(fill(name).to_le_bytes(), count).flatten().collect();
            (name.to_owned(), view.shape().to_vec(), values)
        })
        .collect();
    let views = filled.iter().map(|(name, shape, values)| {
        (name.as_str(), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), values).unwrap())
    });
    // With β₂ = 1 nothing of g² is in the root.
    let metadata = [("betas".to_owned(), "[0.9, 1.0]".to_owned())].into_iter().collect();
    std::fs::write(&file, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
    let all = GradientsOf::All;
    for projection in [
        identity(GradientsOf::Linear),
        Projection { dimension: 700, ..Projection::default() },
        Projection { dimension: 2500, parameters: all, ..Projection::default() },
        Projection { dimension: 2500, parameters: all, kind: ProjectionKind::Sjlt, ..Projection::default() },
    ] {
        let moments = AdamMoments::read(&model, projection.parameters).unwrap();
        let found = adapted(&Tracer::adapted(&model, &projection, &moments).unwrap(), &model);
        let (plain, slopes) = super::projected::traced(&Tracer::new(&model, &projection).unwrap(), &model, None);
        let width = found[0].len();
        for (row, found) in found.iter().enumerate() {
            let plain = &plain.features[row * width..][..width];
            let cosine = dot(found, plain) / dot(plain, plain).sqrt() * f64::from(slopes[row].signum());
            assert!((cosine - 1.0).abs() < 1e-5, "record {row}: {cosine}");
        }
    }
}
