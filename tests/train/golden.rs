//! Training is PyTorch's: gradients of every parameter of every family, and AdamW step by step, in f64; and f32's own error, no more, on the CPU.

use serde_json::Value;
use wherefore::backend::Precision;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::{Plain, Reference};
use wherefore::backend::training::{AdamStep, Training};
use wherefore::model::NamedTensor;
use wherefore::train::{Rates, Schedule};

use super::support::{json, lessons, path, study, trainee};
use crate::emulator;

/// What a training gave: losses a step, gradient norms a step, the first step's gradients, the last parameters.
struct Course {
    losses: Vec<Vec<f64>>,
    norms: Vec<f64>,
    gradients: Vec<NamedTensor>,
    parameters: Vec<NamedTensor>,
}

fn cases() -> Vec<String> {
    let folders = std::fs::read_dir(path("")).unwrap().map(|entry| entry.unwrap());
    let trained = folders.filter(|entry| entry.path().join("train.json").is_file());
    let mut names: Vec<String> = trained.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names.len(), 12, "golden trainings are missing: {names:?}");
    names
}

pub(super) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The golden's training on some device.
fn run<B: Training>(backend: B, name: &str, golden: &Value) -> Course {
    let mut trainee = trainee(backend, name);
    let settings = &golden["settings"];
    let number = |name: &str| settings[name].as_f64().unwrap();
    let rates = Rates {
        schedule: golden["schedule"].as_str().unwrap().parse::<Schedule>().unwrap(),
        height: number("rate"),
        warmup: number("warmup") as u64,
        steps: number("steps") as u64,
    };
    let records: Vec<usize> = numbers(&golden["records"]).iter().map(|x| *x as usize).collect();
    let all = lessons(&trainee, name, &records);
    let (batch, weights) = (number("batch") as usize, numbers(&settings["weights"]));
    let mut course = Course { losses: vec![], norms: vec![], gradients: vec![], parameters: vec![] };
    for step in 0..rates.steps {
        let of_step: Vec<_> = (0..batch).map(|i| all[(step as usize * batch + i) % all.len()].clone()).collect();
        course.losses.push(study(&mut trainee, &of_step, &weights, 1 << 20, None));
        if step == 0 {
            course.gradients = trainee.learner().gradients().unwrap();
        }
        let norm = trainee.learner().gradient_norm().unwrap();
        course.norms.push(norm);
        let adam = AdamStep {
            rate: rates.at(step),
            decay: number("decay"),
            betas: [0.9, 0.999],
            epsilon: number("epsilon"),
            number: step + 1,
            scale: (number("clip") / (norm + 1e-6)).min(1.0),
        };
        trainee.learner().step(&adam).unwrap();
    }
    course.parameters = trainee.learner().parameters().unwrap();
    course
}

/// A tensor's norm and products with two waves; and what rounding each of its numbers to f32 may change of any of these.
pub(super) fn digest(values: &[f32]) -> ([f64; 3], f64) {
    let x = || values.iter().enumerate().map(|(i, x)| ((i + 1) as f64, f64::from(*x)));
    let norm = x().map(|(_, x)| x * x).sum::<f64>().sqrt();
    let products = [1.0, 2.0].map(|k: f64| x().map(|(i, x)| x * (k * i).cos()).sum::<f64>());
    let rounding = 2.0_f64.powi(-24) * x().map(|(_, x)| x.abs()).sum::<f64>();
    ([norm, products[0], products[1]], rounding)
}

#[test]
fn the_reference_trains_as_pytorch_does_in_f64() {
    for name in cases() {
        let golden = json(&path(&name).join("train.json"));
        let course = run(Reference, &name, &golden);
        let steps = golden["steps"].as_array().unwrap();
        for (step, (losses, norm)) in course.losses.iter().zip(&course.norms).enumerate() {
            for (found, expected) in losses.iter().zip(numbers(&steps[step]["losses"])) {
                assert!(
                    (found - expected).abs() <= 1e-9 * expected.abs().max(1.0),
                    "{name}, step {step}: {found} {expected}"
                );
            }
            let expected = steps[step]["norm"].as_f64().unwrap();
            assert!((norm - expected).abs() <= 1e-8 * expected, "{name}, step {step}: norm {norm} {expected}");
        }
        for (what, tensors) in [("gradients", &course.gradients), ("parameters", &course.parameters)] {
            let expected = golden[what].as_object().unwrap();
            assert_eq!(tensors.len(), expected.len(), "{name}: {what}");
            for tensor in tensors {
                let (found, rounding) = digest(&tensor.values);
                let expected = numbers(&expected[&tensor.name]);
                for (found, expected) in found.iter().zip(expected) {
                    // f64's own error, which AdamW magnifies where gradients nearly vanish.
                    let allowed = rounding + 1e-9 * expected.abs().max(1e-3);
                    assert!((found - expected).abs() <= allowed, "{name} {what} {}: {found} {expected}", tensor.name);
                }
            }
        }
    }
}

/// The largest error of any number, over the largest number, tensor by tensor.
pub(super) fn errors(found: &[NamedTensor], exact: &[NamedTensor]) -> Vec<(String, f64)> {
    let error = |(found, exact): (&NamedTensor, &NamedTensor)| {
        assert_eq!((&found.name, &found.shape), (&exact.name, &exact.shape));
        let scale = exact.values.iter().fold(1e-3_f64, |most, x| most.max(f64::from(x.abs())));
        let pairs = found.values.iter().zip(&exact.values);
        let error = pairs.fold(0.0_f64, |most, (f, e)| most.max((f64::from(*f) - f64::from(*e)).abs()));
        (found.name.clone(), error / scale)
    };
    found.iter().zip(exact).map(error).collect()
}

#[test]
fn the_cpu_errs_no_more_than_plain_f32() {
    errs_no_more_than_plain_f32(|| Cpu::new().shared_out(), &cases());
}

/// One of each: plain, several labels, numbers, shared layers of projected embeddings, a task's embedding.
#[test]
fn the_gpu_errs_no_more_than_plain_f32() {
    let names = ["bert-cls2", "bert-multilabel", "bert-regression", "albert-groups-cls3", "ernie-task-cls2"];
    errs_no_more_than_plain_f32(|| emulator::gpu(Precision::F32), &names.map(str::to_owned));
}

fn errs_no_more_than_plain_f32<B: Training>(device: impl Fn() -> B, cases: &[String]) {
    // A sum of so many terms, each rounded: what neither can be held to.
    let floor = 64.0 * f64::from(f32::EPSILON);
    for name in cases {
        let golden = json(&path(name).join("train.json"));
        let (exact, plain) = (run(Reference, name, &golden), run(Plain, name, &golden));
        let own = run(device(), name, &golden);
        let losses = |course: &Course| course.losses.concat();
        let worst = |course: &Course| {
            losses(course)
                .iter()
                .zip(losses(&exact))
                .fold(0.0_f64, |most, (f, e)| most.max((f - e).abs() / e.abs().max(1.0)))
        };
        assert!(worst(&own) <= 2.0 * worst(&plain) + floor, "{name}: losses {:e} {:e}", worst(&own), worst(&plain));
        let (own, plain) = (errors(&own.gradients, &exact.gradients), errors(&plain.gradients, &exact.gradients));
        for ((tensor, own), (_, plain)) in own.into_iter().zip(plain) {
            assert!(own <= 2.0 * plain + floor, "{name} {tensor}: {own:e}, plain f32 {plain:e}");
        }
    }
}
