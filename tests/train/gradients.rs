//! Gradients are those of the loss, dropout and all, and their bits are nobody's company's.

use wherefore::backend::Precision;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::{Plain, Reference};
use wherefore::backend::training::Training;
use wherefore::model::{DropoutPass, DropoutRates, NamedTensor, Trainee};

use super::support::{adam, flat, gradient_bits, lessons, study, trainee};
use crate::emulator;

/// One of each kind of place where numbers are dropped.
const FAMILIES: [&str; 5] = ["bert-cls2", "roberta-cls2", "distilbert-cls2", "electra-cls3", "albert-groups-cls3"];
const WEIGHTS: [f64; 6] = [1.0, 2.0, 0.5, 1.5, 0.25, 1.0];

fn dropout() -> DropoutPass {
    let rates = DropoutRates { hidden: 0.2, attention: 0.3, head: 0.25 };
    DropoutPass { seed: 11, epoch: 3, rates }
}

fn loss(trainee: &mut Trainee, name: &str) -> f64 {
    let lessons = lessons(trainee, name, &[0, 1, 2, 3, 4, 5]);
    let losses = study(trainee, &lessons, &WEIGHTS, 1 << 20, Some(dropout()));
    losses.iter().zip(WEIGHTS).map(|(loss, weight)| loss * weight).sum::<f64>() / WEIGHTS.iter().sum::<f64>()
}

/// A tensor's values moved by ±2⁻¹⁸ each, the signs scattered; and by how much each was, in f32.
fn moved(tensor: &NamedTensor, sign: f32) -> (NamedTensor, Vec<f64>) {
    let scattered = |i: usize| if (i * 2_654_435_761) & 64 == 0 { 1.0 } else { -1.0 };
    let values: Vec<f32> =
        tensor.values.iter().enumerate().map(|(i, x)| x + sign * scattered(i) * 2.0_f32.powi(-18)).collect();
    let by = values.iter().zip(&tensor.values).map(|(new, old)| f64::from(*new) - f64::from(*old)).collect();
    (NamedTensor { values, ..tensor.clone() }, by)
}

/// The gradients that `loss` leaves behind are its differences, tensor by tensor, with every number moved a little.
pub(super) fn gradients_are_finite_differences(
    model: &mut Trainee,
    name: &str,
    mut loss: impl FnMut(&mut Trainee) -> f64,
) {
    loss(model);
    let gradients = model.learner().gradients().unwrap();
    let state = model.learner().state().unwrap();
    for (number, gradient) in gradients.iter().enumerate() {
        let (mut ends, mut expected) = ([0.0; 2], 0.0);
        for (end, sign) in ends.iter_mut().zip([1.0, -1.0]) {
            let mut elsewhere = state.clone();
            let (tensor, by) = moved(&state[number], sign);
            expected += f64::from(sign) * by.iter().zip(&gradient.values).map(|(d, g)| d * f64::from(*g)).sum::<f64>();
            elsewhere[number] = tensor;
            model.learner().restore(&elsewhere).unwrap();
            *end = loss(model);
        }
        let found = ends[0] - ends[1];
        // What is left is of the square of the distance, unless an activation's kink lies within it (DistilBERT's head
        // has one).
        let size: f64 = gradient.values.iter().map(|g| f64::from(g.abs())).sum::<f64>() * 2.0_f64.powi(-17);
        assert!((found - expected).abs() <= 1e-5 * size + 1e-12, "{name} {}: {found:e} {expected:e}", gradient.name);
    }
}

#[test]
fn gradients_are_finite_differences_of_the_loss_with_dropout() {
    for name in FAMILIES {
        gradients_are_finite_differences(&mut trainee(Reference, name), name, |model| loss(model, name));
    }
}

#[test]
fn dropped_passes_err_no_more_than_plain_f32() {
    for name in FAMILIES {
        let (mut exact, mut plain) = (trainee(Reference, name), trainee(Plain, name));
        let mut cpu = trainee(Cpu::new().shared_out(), name);
        let mut gpu = trainee(emulator::gpu(Precision::F32), name);
        let gradients = [&mut exact, &mut plain, &mut cpu, &mut gpu].map(|model| {
            loss(model, name);
            flat(&model.learner().gradients().unwrap())
        });
        let worst = |found: &[f32]| {
            found
                .iter()
                .zip(&gradients[0])
                .fold(0.0_f64, |most, (f, e)| most.max((f64::from(*f) - f64::from(*e)).abs()))
        };
        let scale = gradients[0].iter().fold(0.0_f64, |most, x| most.max(f64::from(x.abs())));
        let floor = 64.0 * f64::from(f32::EPSILON) * scale;
        for own in &gradients[2..] {
            assert!(worst(own) <= 2.0 * worst(&gradients[1]) + floor, "{name}: {:e}", worst(own));
        }
    }
}

/// Gradients and parameters after three steps, cut into micro-batches of `budget` tokens.
fn bits<B: Training>(backend: B, name: &str, budget: usize) -> (Vec<u32>, Vec<u32>) {
    let mut model = trainee(backend, name);
    let lessons = lessons(&model, name, &[0, 1, 2, 3, 4, 5]);
    let mut gradients = Vec::new();
    for number in 1..=3 {
        study(&mut model, &lessons, &WEIGHTS, budget, Some(dropout()));
        gradients = gradient_bits(model.learner());
        model.learner().step(&adam(1e-3, number)).unwrap();
    }
    let parameters = flat(&model.learner().parameters().unwrap());
    (gradients, parameters.iter().map(|x| x.to_bits()).collect())
}

#[test]
fn neither_threads_nor_micro_batches_change_a_bit() {
    let on_threads = |name: &str, budget: usize, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| bits(Cpu::new().shared_out(), name, budget))
    };
    for name in ["bert-cls2", "albert-groups-cls3"] {
        let whole = on_threads(name, 1 << 20, 1);
        for (budget, threads) in [(1 << 20, 3), (40, 1), (17, 2)] {
            assert!(on_threads(name, budget, threads) == whole, "{name}: budget {budget}, {threads} threads");
        }
    }
}

#[test]
fn micro_batches_change_no_bit_on_a_gpu() {
    for precision in [Precision::F32, Precision::Bf16] {
        let on_gpu = |budget: usize| bits(emulator::gpu(precision), "bert-cls2", budget);
        let whole = on_gpu(1 << 20);
        assert!(on_gpu(40) == whole && on_gpu(17) == whole, "{precision}");
    }
}

#[test]
fn a_restored_state_goes_on_with_the_same_bits() {
    goes_on(Cpu::new);
    goes_on(|| emulator::gpu(Precision::Bf16));
}

fn goes_on<B: Training>(device: impl Fn() -> B) {
    let name = "bert-cls2";
    let step = |model: &mut Trainee, number: u64| {
        loss(model, name);
        model.learner().step(&adam(1e-3, number)).unwrap();
    };
    let mut straight = trainee(device(), name);
    (1..=2).for_each(|number| step(&mut straight, number));
    let state = straight.learner().state().unwrap();
    (3..=5).for_each(|number| step(&mut straight, number));
    let mut resumed = trainee(device(), name);
    resumed.learner().restore(&state).unwrap();
    (3..=5).for_each(|number| step(&mut resumed, number));
    assert!(straight.learner().state().unwrap() == resumed.learner().state().unwrap());
    let other = trainee(Cpu::new(), "bert-cls5").learner().state().unwrap();
    assert!(resumed.learner().restore(&other).unwrap_err().to_string().contains("of this model's shape"));
}
