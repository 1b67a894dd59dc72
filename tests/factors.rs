//! Tests of `wherefore::factors`: losses against finite differences, refits and curvature against a plain f64
//! implementation, the laws that the rules rest on, and the same bits however the work is cut.

mod curvature;
mod golden;
mod invariance;
mod loss;
mod reference;
mod refit;
mod refusals;

use wherefore::factors::{InMemory, LabelVec, Target, loss_and_delta};
use wherefore::model::Problem;

/// Never interrupted.
fn go_on() -> bool {
    true
}

/// Numbers between −1 and 1, the same at every run: SplitMix64.
fn uniform(seed: u8, count: usize) -> Vec<f32> {
    let mut state = u64::from(seed) << 32;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) >> 40
    };
    (0..count).map(|_| next() as f32 / (1_u32 << 23) as f32 - 1.0).collect()
}

/// `rows` records with random features, labels that follow from them with noise, and the δ of a random head.
fn training(problem: Problem, rows: usize, width: usize, classes: usize) -> InMemory {
    let features = uniform(1, rows * width);
    let (weight, noise) = (uniform(2, classes * width), uniform(3, rows * classes));
    let logits: Vec<f32> = (0..rows * classes)
        .map(|i| {
            let (row, class) = (&features[i / classes * width..], &weight[i % classes * width..]);
            row.iter().zip(&class[..width]).map(|(h, w)| 2.0 * h * w).sum::<f32>()
        })
        .collect();
    let noisy: Vec<f32> = logits.iter().zip(&noise).map(|(z, n)| z + n).collect();
    with_labels(problem, width, classes, features, &logits, labels(problem, classes, &noisy))
}

fn labels(problem: Problem, classes: usize, noisy: &[f32]) -> Vec<Target> {
    let of_row = |z: &[f32]| match problem {
        Problem::MultiLabel => Target::Classes(z.iter().map(|&z| f32::from(z > 0.0)).collect()),
        Problem::Regression => Target::Values(z.to_vec()),
        _ => Target::Class((0..classes).max_by(|&c, &d| z[c].total_cmp(&z[d])).expect("a class")),
    };
    noisy.chunks_exact(classes).map(of_row).collect()
}

/// Training factors from features, the logits of some head, and labels.
fn with_labels(
    problem: Problem,
    width: usize,
    classes: usize,
    features: Vec<f32>,
    logits: &[f32],
    targets: Vec<Target>,
) -> InMemory {
    let mut deltas = vec![0.0; logits.len()];
    let rows = logits.chunks_exact(classes).zip(deltas.chunks_exact_mut(classes)).zip(&targets);
    rows.for_each(|((z, delta), target)| {
        loss_and_delta(problem, z, target, delta);
    });
    InMemory {
        problem,
        width,
        classes,
        features,
        deltas,
        labels: label_vec(targets),
        weights: Vec::new(),
        rows_at_a_time: usize::MAX,
    }
}

fn label_vec(targets: Vec<Target>) -> LabelVec {
    if let Some(Target::Class(_)) = targets.first() {
        let id = |target| if let Target::Class(class) = target { class as i64 } else { -1 };
        return LabelVec::Classes(targets.into_iter().map(id).collect());
    }
    let row = |target| match target {
        Target::Classes(row) | Target::Values(row) => row,
        Target::Class(_) => unreachable!("one kind of label"),
    };
    LabelVec::Rows(targets.into_iter().flat_map(row).collect())
}

/// Every kind of head, with few and with several classes.
const HEADS: [(Problem, usize); 6] = [
    (Problem::SingleLabel, 2),
    (Problem::SingleLabel, 4),
    (Problem::MultiLabel, 1),
    (Problem::MultiLabel, 3),
    (Problem::Regression, 1),
    (Problem::Regression, 3),
];
