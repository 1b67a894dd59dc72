//! The operations that training adds, each against the f64 reference over odd shapes, on every instruction set.

use half::bf16;
use proptest::prelude::*;
use wherefore::backend::cpu::{Cpu, Isa};
use wherefore::backend::gpu::Gpu;
use wherefore::backend::reference::{Plain, Reference};
use wherefore::backend::training::{AdamStep, Dropout, Loss, Pair, Passed, Place, Shape, Stepped, Tables, Training};
use wherefore::backend::{Activation, Backend, Precision, Rows};
use wherefore::tokens::PackedBatch;

use crate::emulator;

pub(super) fn numbers(len: usize, stream: u32) -> Vec<f32> {
    let mix =
        |i: usize| ((i as u32).wrapping_mul(2_654_435_761) ^ stream.wrapping_mul(40_503)).wrapping_mul(0x85EB_CA6B);
    (0..len).map(|i| (mix(i) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// What an operation adds to gradients that already hold something.
fn added<B: Training>(backend: &B, len: [usize; 2], add: impl Fn(&B, Pair<&mut B::Tensor>)) -> [Vec<f32>; 2] {
    let mut tensors = [1, 2].map(|stream| backend.upload(&numbers(len[stream - 1], stream as u32)).unwrap());
    let [weight, bias] = &mut tensors;
    add(backend, Pair { weight, bias });
    let mut out = len.map(|len| vec![0.0; len]);
    out.iter_mut().zip(&tensors).for_each(|(out, tensor)| backend.download(out, tensor).unwrap());
    out
}

fn linear<B: Training>(backend: &B, shape: Shape) -> [Vec<f32>; 2] {
    let Shape { rows, inputs, outputs } = shape;
    let (dy, x) = (numbers(rows * outputs, 3), numbers(rows * inputs, 4));
    let (dy, x) = (backend.upload(&dy).unwrap(), backend.upload(&x).unwrap());
    let batch = backend.stage(lengths(&[rows as u32])).unwrap();
    // One output before, and one behind, that must be left alone.
    added(backend, [(outputs + 2) * inputs, outputs + 2], |backend, to| {
        let passed = Passed { batch: &batch, rows: Rows::All, inputs, outputs };
        backend.linear_parameters_backward(to, 1, &dy, &x, passed).unwrap();
    })
}

fn norm<B: Training>(backend: &B, shape: Shape) -> [Vec<f32>; 2] {
    let len = shape.rows * shape.inputs;
    let (dy, x) = (backend.upload(&numbers(len, 3)).unwrap(), backend.upload(&numbers(len, 4)).unwrap());
    added(backend, [shape.inputs; 2], |backend, to| {
        backend.layer_norm_parameters_backward(to, &dy, &x, 1e-5, shape).unwrap();
    })
}

fn worst(found: &[Vec<f32>; 2], exact: &[Vec<f32>; 2]) -> f64 {
    let pairs = found.concat().into_iter().zip(exact.concat());
    pairs.fold(0.0, |most, (f, e)| most.max((f64::from(f) - f64::from(e)).abs()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn parameter_gradients_err_no_more_than_plain_f32(rows in 1usize..300, inputs in 1usize..70, outputs in 1usize..110) {
        let shape = Shape { rows, inputs, outputs };
        let square = Shape { outputs: inputs, ..shape };
        let exact = [linear(&Reference, shape), norm(&Reference, square)];
        let plain = [linear(&Plain, shape), norm(&Plain, square)];
        let first = [linear(&Cpu::new(), shape), norm(&Cpu::new(), square)];
        // The reference's own rounding to f32, of sums of so many numbers of at most 1.
        let floor = f64::from(f32::EPSILON) * rows as f64;
        for i in 0..2 {
            prop_assert!(worst(&first[i], &exact[i]) <= 2.0 * worst(&plain[i], &exact[i]) + floor);
        }
        for isa in Isa::all() {
            let cpu = Cpu::with_isa(isa).shared_out();
            prop_assert!([linear(&cpu, shape), norm(&cpu, square)] == first, "{}", isa.name());
        }
    }
}

pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Every number of a buffer.
pub(super) fn read<B: Training>(backend: &B, tensor: &B::Tensor, len: usize) -> Vec<f32> {
    let mut out = vec![0.0; len];
    backend.download(&mut out, tensor).unwrap();
    out
}

/// Numbers that bf16 holds.
pub(super) fn short(len: usize, stream: u32) -> Vec<f32> {
    numbers(len, stream).into_iter().map(|x| bf16::from_f32(x).to_f32()).collect()
}

/// Widths that are no multiple of anything, rows that end within a step, tiles of both sizes.
#[test]
fn parameter_gradients_on_a_gpu_have_the_bits_of_the_cpu() {
    let (gpu, cpu) = (emulator::gpu(Precision::F32), Cpu::new());
    for [rows, inputs, outputs] in [[1, 1, 1], [15, 7, 65], [16, 64, 64], [33, 130, 12], [70, 300, 260], [200, 36, 132]]
    {
        let shape = Shape { rows, inputs, outputs };
        let (found, expected) = (linear(&gpu, shape), linear(&cpu, shape));
        for (found, expected) in found.iter().zip(&expected) {
            assert!(bits(found) == bits(expected), "{shape:?}");
        }
    }
}

#[test]
fn normalisations_gradients_on_a_gpu_err_no_more_than_plain_f32() {
    let gpu = emulator::gpu(Precision::F32);
    for [rows, width] in [[1, 1], [63, 33], [64, 32], [65, 70], [300, 5], [450, 24]] {
        let shape = Shape { rows, inputs: width, outputs: width };
        let (exact, floor) = (norm(&Reference, shape), f64::from(f32::EPSILON) * rows as f64);
        let (found, plain) = (norm(&gpu, shape), norm(&Plain, shape));
        assert!(worst(&found, &exact) <= 2.0 * worst(&plain, &exact) + floor, "{shape:?}");
    }
}

/// Three sequences whose tokens name a row very often, some often, one twice and some never.
fn batch() -> PackedBatch {
    lengths(&[1, 700, 9])
}

/// Sequences of these lengths.
pub(super) fn lengths(lengths: &[u32]) -> PackedBatch {
    let mut batch = PackedBatch { cu_seqlens: vec![0], ..PackedBatch::default() };
    for &length in lengths {
        batch.ids.extend((0..length).map(|token| match token {
            3 => 10,
            0..150 => token * token % 7,
            _ => 9,
        }));
        batch.positions.extend(0..length);
        batch.type_ids.extend((0..length).map(|token| u32::from(token > 4)));
        batch.cu_seqlens.push(batch.ids.len() as u32);
    }
    batch
}

/// The tables' sum, and their gradients, of numbers in bf16.
pub(super) fn tables<B: Training>(backend: &B, width: usize) -> Vec<Vec<f32>> {
    let (batch, rows) = (batch(), [11, 700, 2, 1]);
    let tokens = batch.tokens();
    let staged = backend.stage(batch).unwrap();
    let table = |rows: usize, stream| backend.upload(&short(rows * width, stream)).unwrap();
    let [mut word, mut position, mut types, mut task] = [0, 1, 2, 3].map(|i| table(rows[i], i as u32));
    let mut sum = backend.tensor(tokens * width).unwrap();
    let of = Tables { word: &word, position: &position, token_type: Some(&types), task: Some(&task) };
    backend.embed_sum(&mut sum, of, &staged, width).unwrap();
    let d_sum = backend.upload(&short(tokens * width, 9)).unwrap();
    let gradients =
        Tables { word: &mut word, position: &mut position, token_type: Some(&mut types), task: Some(&mut task) };
    backend.embed_sum_backward(gradients, &d_sum, &staged, width).unwrap();
    let mut out = vec![read(backend, &sum, tokens * width)];
    out.extend([word, position, types, task].iter().zip(rows).map(|(table, rows)| read(backend, table, rows * width)));
    out
}

/// Dropout of rows of numbers in bf16 with and without a residual, of tokens and of sequences.
pub(super) fn of_rows<B: Training>(backend: &B, width: usize) -> Vec<Vec<f32>> {
    let (batch, records) = (batch(), [7, 1, 1 << 20]);
    let (tokens, sequences) = (batch.tokens(), batch.sequences());
    let staged = backend.stage(batch).unwrap();
    let dropout = Dropout::new(5, 0.3, 17, &records).unwrap();
    let (x, residual) = (short(tokens * width, 1), short(tokens * width, 2));
    let (x, residual) = (backend.upload(&x).unwrap(), backend.upload(&residual).unwrap());
    let mut found = Vec::new();
    for (rows, count) in [(Rows::All, tokens), (Rows::First, sequences)] {
        for residual in [None, Some(&residual)] {
            let mut out = backend.tensor(tokens * width).unwrap();
            let place = Place { batch: &staged, rows, width };
            backend.dropout(&mut out, &x, residual, &dropout, place).unwrap();
            found.push(read(backend, &out, count * width));
        }
    }
    found
}

/// A step of AdamW on what a step before it left, of several parameters at once, every other of which decays.
fn stepped<B: Training>(backend: &B, lengths: &[usize]) -> Vec<Vec<f32>> {
    let all = |stream: u32| -> Vec<B::Tensor> {
        let upload = |(place, &len): (usize, &usize)| backend.upload(&numbers(len, stream + place as u32)).unwrap();
        lengths.iter().enumerate().map(upload).collect()
    };
    let zeros = || {
        let mut zeros = all(0);
        for tensor in &mut zeros {
            backend.clear(tensor).unwrap();
        }
        zeros
    };
    let (mut values, mut first, mut second, mut gradients) = (all(1), zeros(), zeros(), Vec::new());
    for number in 1..3 {
        let step = AdamStep { rate: 0.01, decay: 0.1, betas: [0.9, 0.999], epsilon: 1e-8, number, scale: 0.75 };
        gradients = all(2);
        let moments = first.iter_mut().zip(&mut second).map(|(first, second)| [first, second]);
        let parameters = values.iter_mut().zip(moments).zip(&mut gradients).enumerate();
        let stepped = parameters.map(|(place, ((value, moments), gradient))| Stepped {
            value,
            moments,
            gradient,
            decays: place % 2 == 0,
        });
        backend.adam_steps(stepped.collect(), &step).unwrap();
    }
    let found = [&values, &first, &second, &gradients].into_iter().flat_map(|tensors| tensors.iter().zip(lengths));
    found.map(|(tensor, &len)| read(backend, tensor, len)).collect()
}

fn added_and_copied<B: Training>(backend: &B, len: usize) -> [Vec<f32>; 2] {
    let upload = |stream| backend.upload(&numbers(len, stream)).unwrap();
    let (mut sum, mut copied, x) = (upload(1), backend.tensor(len).unwrap(), upload(2));
    backend.add(&mut sum, &x, len).unwrap();
    backend.copy(&mut copied, &x, len).unwrap();
    [&sum, &copied].map(|tensor| read(backend, tensor, len))
}

#[test]
fn what_training_does_by_row_and_number_on_a_gpu_has_the_bits_of_the_cpu() {
    let (gpu, cpu) = (emulator::gpu(Precision::F32), Cpu::new());
    for width in [1, 8, 33, 64] {
        assert!(tables(&gpu, width) == tables(&cpu, width), "tables of width {width}");
        assert!(of_rows(&gpu, width) == of_rows(&cpu, width), "rows of width {width}");
    }
    for len in [1, 255, 256, 1000] {
        assert!(added_and_copied(&gpu, len) == added_and_copied(&cpu, len), "{len} numbers");
    }
    for lengths in [&[1][..], &[4096, 255], &[1000, 9000, 1, 4097]] {
        let (found, expected) = (stepped(&gpu, lengths), stepped(&cpu, lengths));
        assert!(found.concat().iter().all(|x| x.is_finite()) && found == expected, "{lengths:?} numbers");
        assert!(found[3 * lengths.len()..].concat().iter().all(|&x| x == 0.0), "gradients are cleared");
    }
}

#[test]
fn norms_on_a_gpu_are_those_of_f64() {
    let gpu = emulator::gpu(Precision::F32);
    let lengths = [1, 4095, 4096, 0, 4097, 20_000];
    let values = lengths.map(|len| gpu.upload(&numbers(len + 3, 5)).unwrap());
    let pairs: Vec<_> = values.iter().zip(lengths).collect();
    for (found, len) in gpu.squared_norms(&pairs).unwrap().into_iter().zip(lengths) {
        let exact: f64 = numbers(len, 5).iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        assert!((found - exact).abs() <= 1e-6 * exact, "{len}: {found} {exact}");
    }
}

/// A layer packed again multiplies as one that was packed from the same numbers, both ways.
#[test]
fn layers_packed_again_are_as_if_packed_anew() {
    for precision in [Precision::F32, Precision::Bf16] {
        packed_again(&emulator::gpu(precision));
    }
}

fn packed_again(gpu: &Gpu) {
    let rows = 5;
    for (inputs, outputs) in [(1, 1), (33, 70), (64, 32), (6, 37)] {
        let (weight, bias) = (numbers((outputs + 3) * inputs, 1), numbers(outputs + 3, 2));
        let own = |before: usize| {
            (weight[before * inputs..][..outputs * inputs].to_vec(), bias[before..][..outputs].to_vec())
        };
        let pack = |(weight, bias): (Vec<f32>, Vec<f32>)| gpu.pack_linear(&weight, &bias, inputs, outputs).unwrap();
        let (x, dy) =
            (gpu.upload(&numbers(rows * inputs, 3)).unwrap(), gpu.upload(&numbers(rows * outputs, 4)).unwrap());
        let run = |layer: &_| {
            let (mut out, mut dx) = (gpu.tensor(rows * outputs).unwrap(), gpu.tensor(rows * inputs).unwrap());
            gpu.linear(&mut out, &x, layer, Activation::Identity, None, rows).unwrap();
            gpu.linear_backward(&mut dx, &dy, layer, None, None, rows).unwrap();
            [read(gpu, &out, rows * outputs), read(gpu, &dx, rows * inputs)]
        };
        let (mut again, anew) = (pack(own(0)), pack(own(2)));
        assert!(run(&again) != run(&anew));
        let parameters = Pair { weight: &gpu.upload(&weight).unwrap(), bias: &gpu.upload(&bias).unwrap() };
        gpu.repack_linear(&mut again, parameters, 2..outputs + 2, inputs).unwrap();
        assert!(run(&again) == run(&anew), "{inputs} to {outputs}");
    }
}

#[test]
fn losses_are_those_of_the_factors_and_slopes_their_differences() {
    let z = [0.5, -2.0, 30.0, 1.25];
    let targets = [1.0, 0.0, 0.25, 1.0];
    for loss in [Loss::CrossEntropy(1), Loss::CrossEntropy(2), Loss::Sigmoid(&targets), Loss::Squared(&targets)] {
        let mut slopes = z;
        loss.to_gradient(&mut slopes);
        for c in 0..4 {
            let at = |h: f64| {
                let mut moved = z;
                moved[c] += h;
                loss.to_gradient(&mut moved)
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((difference - slopes[c]).abs() < 1e-8, "{loss:?} class {c}: {difference} {}", slopes[c]);
        }
    }
}
