//! Projected gradients against the whole ones that training adds up, which are PyTorch's own (`tests/train/golden.rs`).

use std::path::PathBuf;

use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::Reference;
use wherefore::backend::training::Training;
use wherefore::dataset::Record;
use wherefore::factors::{self, Target};
use wherefore::model::{
    Blueprint, GradientsOf, Lesson, LoadOptions, Model, Outputs, Projection, ProjectionKind, Tracer,
};
use wherefore::tokens::{Encoding, pack};

/// Split heads and shared layers, narrow embeddings, no segments, no pooler.
pub(super) const FAMILIES: [&str; 5] =
    ["bert-cls2", "roberta-cls2", "distilbert-cls2", "electra-cls3", "albert-groups-cls3"];
const TEXTS: [&str; 5] = [
    "The service was not good.",
    "good",
    "一点也不好看, the food",
    "the movie was bad, and so was the book",
    "服务很差",
];

pub(super) fn path(name: &str) -> PathBuf {
    crate::cli::golden(name)
}

pub(super) fn model(name: &str) -> Model {
    Model::open_with(Cpu::new(), &path(name), &LoadOptions::default()).unwrap()
}

pub(super) fn encodings(model: &Model) -> Vec<Encoding> {
    let encode = |text: &&str| model.encode(&Record { text: (*text).to_owned(), ..Record::default() }).unwrap();
    TEXTS.iter().map(encode).collect()
}

pub(super) fn target(row: usize) -> Target {
    Target::Class(row % 2)
}

/// φ of every text, and the slope of its loss.
pub(super) fn traced(tracer: &Tracer, model: &Model, batch_tokens: Option<usize>) -> (Outputs, Vec<f32>) {
    let encodings = encodings(model);
    let window: Vec<&Encoding> = encodings.iter().collect();
    let seed = |row: usize, z: &[f32], gradient: &mut [f32]| {
        factors::output_gradient(model.problem(), z, &target(row), gradient);
    };
    let outputs = tracer.run(&window, batch_tokens, &seed, &|| true).unwrap();
    let slope =
        |(row, z): (usize, &[f32])| factors::output_gradient(model.problem(), z, &target(row), &mut vec![0.0; z.len()]);
    let slopes = outputs.logits.chunks_exact(model.classes()).enumerate().map(slope).collect();
    (outputs, slopes)
}

pub(super) fn dot(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

/// The products of all pairs of loss gradients, from φ and slopes.
fn products(outputs: &Outputs, slopes: &[f32]) -> Vec<f64> {
    let width = outputs.features.len() / slopes.len();
    let phi = |i: usize| &outputs.features[i * width..][..width];
    let pair = |(i, j): (usize, usize)| f64::from(slopes[i]) * f64::from(slopes[j]) * dot(phi(i), phi(j));
    (0..slopes.len()).flat_map(|i| (0..=i).map(move |j| (i, j))).map(pair).collect()
}

/// The same from each record's whole gradient.
fn whole_products<B: Training>(backend: B, name: &str, model: &Model, of: GradientsOf) -> Vec<f64> {
    let blueprint = Blueprint::read(path(name).to_str().unwrap(), false).unwrap();
    let head = blueprint.head().unwrap().clone();
    let mut trainee = blueprint.build(backend, head, 0, None).unwrap();
    let is_linear =
        |name: &str| of == GradientsOf::All || !name.to_lowercase().contains("norm") && !name.contains("_embeddings.");
    let gradient = |(row, encoding): (usize, Encoding)| -> Vec<f32> {
        // Gradients add up: a record's own is what it adds.
        let positions = trainee.positions();
        let batch = pack(&[&encoding], positions, usize::MAX).remove(0).batch;
        let before = flat(&mut trainee, &is_linear);
        let target = target(row);
        trainee.learner().study(batch, &[Lesson { target: &target, share: 1.0, record: 0 }], None).unwrap();
        flat(&mut trainee, &is_linear).iter().zip(before).map(|(after, before)| after - before).collect()
    };
    let gradients: Vec<Vec<f32>> = encodings(model).into_iter().enumerate().map(gradient).collect();
    (0..gradients.len())
        .flat_map(|i| (0..=i).map(move |j| (i, j)))
        .map(|(i, j)| dot(&gradients[i], &gradients[j]))
        .collect()
}

fn flat(trainee: &mut wherefore::model::Trainee, wanted: &dyn Fn(&str) -> bool) -> Vec<f32> {
    let gradients = trainee.learner().gradients().unwrap();
    gradients.into_iter().filter(|tensor| wanted(&tensor.name)).flat_map(|tensor| tensor.values).collect()
}

pub(super) fn identity(parameters: GradientsOf) -> Projection {
    Projection { kind: ProjectionKind::Identity, parameters, ..Projection::default() }
}

#[test]
fn without_a_projection_the_products_are_those_of_whole_gradients() {
    for (name, of) in FAMILIES.into_iter().flat_map(|name| [(name, GradientsOf::Linear), (name, GradientsOf::All)]) {
        let model = model(name);
        let expected = whole_products(Reference, name, &model, of);
        let size = expected.iter().fold(0.0_f64, |size, x| size.max(x.abs()));
        let check = |tracer: &Tracer, tolerance: f64, device: &str| {
            let (outputs, slopes) = traced(tracer, &model, None);
            for (found, expected) in products(&outputs, &slopes).iter().zip(&expected) {
                assert!(
                    (found - expected).abs() <= tolerance * size,
                    "{name} {of} on {device}: {found:e} {expected:e}"
                );
            }
        };
        check(&Tracer::on(Reference, &model, &identity(of)).unwrap(), 1e-6, "the reference");
        check(&Tracer::new(&model, &identity(of)).unwrap(), 2e-4, "the CPU");
    }
}

/// Draws of a projection that means are taken over.
const SEEDS: u64 = 48;

#[test]
fn projected_products_are_unbiased_and_their_error_falls_with_the_dimension() {
    let model = model("bert-cls2");
    for (kind, parameters) in [
        (ProjectionKind::Rademacher, GradientsOf::Linear),
        (ProjectionKind::Gaussian, GradientsOf::Linear),
        (ProjectionKind::Rademacher, GradientsOf::All),
        (ProjectionKind::Sjlt, GradientsOf::Linear),
        (ProjectionKind::Sjlt, GradientsOf::All),
    ] {
        let (outputs, slopes) = traced(&Tracer::new(&model, &identity(parameters)).unwrap(), &model, None);
        let exact = products(&outputs, &slopes);
        let mut errors = Vec::new();
        for dimension in [256, 4096] {
            let mut found = Vec::new();
            for seed in 0..SEEDS {
                let tracer =
                    Tracer::new(&model, &Projection { kind, dimension, seed, parameters, ..Projection::default() })
                        .unwrap();
                let (outputs, slopes) = traced(&tracer, &model, None);
                found.push(products(&outputs, &slopes));
            }
            let n = SEEDS as f64;
            let (mut squares, mut size) = (0.0, 0.0);
            for (pair, &exact) in exact.iter().enumerate() {
                let mean = found.iter().map(|products| products[pair]).sum::<f64>() / n;
                let variance = found.iter().map(|products| (products[pair] - mean).powi(2)).sum::<f64>() / (n - 1.0);
                // Of 60 means, one in 15,000 lies beyond five standard errors by chance.
                assert!((mean - exact).abs() <= 5.0 * (variance / n).sqrt(), "{kind} {dimension}: {mean:e} {exact:e}");
                squares += variance;
                size += exact * exact;
            }
            errors.push((squares / size).sqrt());
        }
        // Sixteen times the numbers are four times the dimensions of each side: √(1/k_in + 1/k_out) halves, and layers
        // that then fit whole gain more.
        let ratio = errors[0] / errors[1];
        assert!(ratio > 1.6, "{kind}: errors {errors:?}");
    }
}

#[test]
fn bits_do_not_depend_on_batches_or_threads() {
    let model = model("albert-groups-cls3");
    for kind in [ProjectionKind::Rademacher, ProjectionKind::Sjlt] {
        let all = Projection { kind, dimension: 512, parameters: GradientsOf::All, ..Projection::default() };
        let tracer = Tracer::new(&model, &all).unwrap();
        let bits = |outputs: Outputs| -> Vec<u32> { outputs.features.iter().map(|x| x.to_bits()).collect() };
        let together = bits(traced(&tracer, &model, None).0);
        assert_eq!(together, bits(traced(&tracer, &model, Some(1)).0), "one record a batch");
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(together, bits(pool.install(|| traced(&tracer, &model, Some(24)).0)), "{threads} threads");
        }
    }
}

#[test]
fn the_margins_gradient_times_the_slope_is_the_losss() {
    for (logits, class) in [(vec![2.0_f32, -1.0], 0), (vec![0.3, 0.1, -2.0], 1), (vec![30.0, -30.0, 0.0], 0)] {
        let target = Target::Class(class);
        let problem = wherefore::model::Problem::SingleLabel;
        let (mut margin, mut delta) = (vec![0.0; logits.len()], vec![0.0; logits.len()]);
        let slope = factors::output_gradient(problem, &logits, &target, &mut margin);
        factors::loss_and_delta(problem, &logits, &target, &mut delta);
        assert!(slope <= 0.0 && margin[class] == 1.0);
        for (margin, delta) in margin.iter().zip(&delta) {
            assert!((slope * margin - delta).abs() <= 4e-7 * delta.abs().max(1e-30), "{slope} {margin} {delta}");
        }
    }
}
