//! Training is PyTorch's: gradients of every parameter of every family, and AdamW step by step, in f64; and f32's own
//! error, no more, on the CPU.

use serde_json::Value;
use wherefore::backend::Precision;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::{Plain, Reference};
use wherefore::backend::training::Training;

use super::course::{Course, errors, numbers};
use super::support::{json, lessons, path, study, trainee};
use crate::emulator;

fn cases() -> Vec<String> {
    super::course::cases("train.json", 12)
}

/// The golden's training on some device.
pub(super) fn run<B: Training>(backend: B, name: &str, golden: &Value) -> Course {
    let trainee = trainee(backend, name);
    let records: Vec<usize> = numbers(&golden["records"]).iter().map(|x| *x as usize).collect();
    let all = lessons(&trainee, name, &records);
    let batch = golden["settings"]["batch"].as_f64().unwrap() as usize;
    let weights = numbers(&golden["settings"]["weights"]);
    Course::run(trainee, golden, |trainee, step| {
        let of_step: Vec<_> = (0..batch).map(|i| all[(step * batch + i) % all.len()].clone()).collect();
        study(trainee, &of_step, &weights, 1 << 20, None)
    })
}

#[test]
fn the_reference_trains_as_pytorch_does_in_f64() {
    for name in cases() {
        let golden = json(&path(&name).join("train.json"));
        run(Reference, &name, &golden).is_pytorchs(&name, &golden);
    }
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
