//! The operations that training adds, each against the f64 reference over odd shapes, on every instruction set.

use proptest::prelude::*;
use wherefore::backend::cpu::{Cpu, Isa};
use wherefore::backend::reference::{Plain, Reference};
use wherefore::backend::training::{Loss, Pair, Shape, Training};

fn numbers(len: usize, stream: u32) -> Vec<f32> {
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
    // One output before, and one behind, that must be left alone.
    added(backend, [(outputs + 2) * inputs, outputs + 2], |backend, to| {
        backend.linear_parameters_backward(to, 1, &dy, &x, shape).unwrap();
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
