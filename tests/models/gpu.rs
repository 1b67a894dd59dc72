//! Whole models on the (emulated) GPU, against the goldens the CPU is held to.

use tempfile::TempDir;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::Plain;
use wherefore::backend::{Backend, Precision};
use wherefore::model::{LoadOptions, Model, Outputs};
use wherefore::tokens::Encoding;

use super::cases;
use super::damage::with_parts;
use super::golden::{error, largest, outputs, wanted};
use super::invariance::{CASES, assert_same, case_on, run};
use crate::emulator;

/// The CPU's own rule: an error against f64 at most twice that of plain f32 loops, plus the rounding of the largest
/// number itself.
#[test]
fn in_f32_the_gpu_is_as_exact_as_plain_f32() {
    for name in cases::all() {
        let expected = cases::expected(&name);
        let gpu = outputs(emulator::gpu(Precision::F32), &name, &expected);
        let plain = outputs(Plain, &name, &expected);
        let [features, logits] = wanted(&expected);
        for (gpu, plain, wanted) in [(gpu.features, plain.features, features), (gpu.logits, plain.logits, logits)] {
            let floor = largest(wanted.iter().copied()) * f64::from(f32::EPSILON);
            let (gpu, plain) = (error(&gpu, &wanted), error(&plain, &wanted));
            assert!(gpu <= 2.0 * plain + floor, "{name}: error {gpu:e}, of plain loops {plain:e}");
        }
    }
}

/// bf16x3 keeps six bits more than f16, and f16 three more than bf16.
#[test]
fn errors_of_precisions_are_in_the_order_of_their_units() {
    for name in cases::all() {
        let expected = cases::expected(&name);
        let [features, _] = wanted(&expected);
        let [split, half, brain] = [Precision::Bf16x3, Precision::F16, Precision::Bf16]
            .map(|precision| error(&outputs(emulator::gpu(precision), &name, &expected).features, &features));
        assert!(4.0 * split <= half && half <= brain, "{name}: bf16x3 {split:e}, f16 {half:e}, bf16 {brain:e}");
    }
}

/// The CPU rounds what it multiplies; a GPU what it keeps between operations too.
#[test]
fn in_bf16_the_cpu_is_between_f32_and_a_gpu() {
    for name in cases::all() {
        let expected = cases::expected(&name);
        let [features, _] = wanted(&expected);
        let cpu = |precision| Cpu::new().in_precision(precision).unwrap();
        let error_of = |outputs: Outputs| error(&outputs.features, &features);
        let exact = error_of(outputs(cpu(Precision::F32), &name, &expected));
        let rounded = error_of(outputs(cpu(Precision::Bf16), &name, &expected));
        let gpu = error_of(outputs(emulator::gpu(Precision::Bf16), &name, &expected));
        assert!(exact < rounded && rounded <= 2.0 * gpu, "{name}: f32 {exact:e}, bf16 {rounded:e}, GPU {gpu:e}");
    }
}

#[test]
fn batches_do_not_matter() {
    for precision in [Precision::F32, Precision::F16, Precision::Bf16x3] {
        for name in CASES {
            let (model, window) = case_on(emulator::gpu(precision), name);
            let alone = run(&model, &window, 1);
            for budget in [17, 100_000] {
                assert_same(&run(&model, &window, budget), &alone, &format!("{name}, {precision}, {budget} tokens"));
            }
        }
    }
}

/// `bert-cls2` with the first layer's inner weights this much larger.
pub(crate) fn swollen(scale: f32) -> TempDir {
    with_parts(|parts| {
        let range = parts.range("bert.encoder.layer.0.intermediate.dense.weight");
        for bytes in parts.data[range].as_chunks_mut().0 {
            *bytes = (f32::from_le_bytes(*bytes) * scale).to_le_bytes();
        }
    })
}

fn open_swollen<B: Backend>(backend: B, scale: f32) -> (Model, Vec<Encoding>) {
    let dir = swollen(scale);
    let model = Model::open_with(backend, dir.path(), &LoadOptions::default()).unwrap();
    // Opened now, so that what runs again finds the directory: it goes with this function.
    let records = cases::records(&cases::expected("bert-cls2"));
    let encodings: Vec<_> = records.iter().map(|record| model.encode(record).unwrap()).collect();
    run(&model, &encodings, 64);
    (model, encodings)
}

/// Sums beyond 65504 are infinite in f16. The records that meet them, and no others, are run in bf16, whatever they are
/// batched with.
#[test]
fn records_that_overflow_f16_alone_are_run_again_in_bf16() {
    let some = |scale: &f32| {
        let (model, encodings) = open_swollen(emulator::gpu(Precision::F16), *scale);
        (1..encodings.len() as u64).contains(&model.run_again())
    };
    let scale =
        [500.0, 1000.0, 2000.0, 4000.0, 8000.0, 16000.0].into_iter().find(some).expect("some overflow, some do not");
    let (half, encodings) = open_swollen(emulator::gpu(Precision::F16), scale);
    let (brain, _) = open_swollen(emulator::gpu(Precision::Bf16), scale);
    let [mixed, wide] = [&half, &brain].map(|model| run(model, &encodings, 64));
    let exact = run(&open_swollen(Cpu::new(), scale).0, &encodings, 64);
    assert!(mixed.features.iter().chain(&mixed.logits).all(|x| x.is_finite()));
    let (before, mut again) = (half.run_again(), 0);
    for (i, encoding) in encodings.iter().enumerate() {
        let alone = run(&half, std::slice::from_ref(encoding), 64);
        let (width, ran_again) = (half.width(), half.run_again() > before + again);
        let features = &mixed.features[i * width..][..width];
        assert_eq!(alone.features, features, "record {i} among others");
        if ran_again {
            assert_eq!(features, &wide.features[i * width..][..width], "record {i} is bf16's own");
            again += 1;
        }
    }
    let worst = |found: &[f32]| {
        let pairs = found.iter().zip(&exact.features);
        pairs.map(|(found, exact)| (found - exact).abs()).fold(0.0, f32::max)
    };
    let (mixed, wide) = (worst(&mixed.features), worst(&wide.features));
    assert!(mixed <= wide, "off by {mixed}, bf16 alone by {wide}");
    assert_eq!(2 * again, before, "as many as twice in the runs of all");
}
