//! The loss of each kind of head and its gradient with respect to the logits, δ.
//!
//! | problem | loss | δ |
//! |---|---|---|
//! | single-label | `logsumexp(z) − z_y` | `softmax(z) − onehot(y)` |
//! | multi-label | `Σ_c softplus(z_c) − y_c z_c` | `σ(z) − y` |
//! | regression | `Σ_c (z_c − y_c)²` | `2 (z − y)` |
//!
//! Everything is computed in f64 on the host, whatever device made the logits, and rounded once: so equal logits have
//! equal bits in every store, and a device brings back as many numbers a record as it would of δ itself. What is small
//! keeps its relative precision: a confident record's δ is the sum of the *other* classes' probabilities, never `p_y −
//! 1`.

use super::Target;
use crate::model::Problem;
use crate::numeric::{argmax, sigmoid, softmax, softplus};

/// The loss of one record, and its gradient with respect to the logits into `delta [K]`. Both are zero for a headless
/// model.
///
/// # Panics
/// Where `logits`, `delta` and `target` do not belong to the problem or to each other: another kind of target or
/// another K, a class that does not exist, or a single-label problem of one class (whose softmax is 1 whatever the
/// logit: such models are regressions).
pub fn loss_and_delta(problem: Problem, logits: &[f32], target: &Target, delta: &mut [f32]) -> f32 {
    assert_eq!(logits.len(), delta.len(), "one delta a logit");
    match (problem, target) {
        (Problem::SingleLabel, Target::Class(class)) => softmax_loss(logits, *class, delta),
        (Problem::MultiLabel, Target::Classes(classes)) => sigmoid_loss(logits, classes, delta),
        (Problem::Regression, Target::Values(values)) => squared_loss(logits, values, delta),
        (Problem::Headless, _) => 0.0,
        (problem, target) => panic!("a {problem:?} head has no loss against {target:?}"),
    }
}

/// The probabilities of a classifier, `[K]`: softmax or a sigmoid each. A regression's are its values, a headless
/// model's none.
pub fn probabilities(problem: Problem, logits: &[f32]) -> Vec<f32> {
    match problem {
        Problem::SingleLabel => softmax(logits.iter().map(|&z| f64::from(z))).into_iter().map(|p| p as f32).collect(),
        Problem::MultiLabel => logits.iter().map(|&z| sigmoid(f64::from(z)) as f32).collect(),
        Problem::Regression | Problem::Headless => logits.to_vec(),
    }
}

/// What the model says: the class of the largest logit (ties to the lowest id), the classes of probability above one
/// half, or the values.
pub fn predict(problem: Problem, logits: &[f32]) -> Target {
    match problem {
        Problem::SingleLabel => Target::Class(argmax(logits)),
        Problem::MultiLabel => Target::Classes(logits.iter().map(|&z| f32::from(z > 0.0)).collect()),
        Problem::Regression | Problem::Headless => Target::Values(logits.to_vec()),
    }
}

fn softmax_loss(logits: &[f32], class: usize, delta: &mut [f32]) -> f32 {
    assert!(logits.len() > 1, "a single-label head has two classes or more");
    let leader = argmax(logits);
    let largest = f64::from(logits[leader]);
    // One exponential a class: of 10,000 they are what a record's δ takes.
    let weights: Vec<f64> = logits.iter().map(|&z| (f64::from(z) - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let but = |left_out: usize| move |(c, &weight): (usize, &f64)| if c == left_out { 0.0 } else { weight };
    for (delta, &weight) in delta.iter_mut().zip(&weights) {
        *delta = (weight / total) as f32;
    }
    delta[class] = -weights.iter().enumerate().map(but(class)).map(|weight| weight / total).sum::<f64>() as f32;
    // logsumexp(z) − z_y, as ln_1p of what the others weigh where the target is the largest.
    (weights.iter().enumerate().map(but(leader)).sum::<f64>().ln_1p() + (largest - f64::from(logits[class]))) as f32
}

fn sigmoid_loss(logits: &[f32], classes: &[f32], delta: &mut [f32]) -> f32 {
    assert_eq!(logits.len(), classes.len(), "one 0 or 1 a class");
    let mut loss = 0.0;
    for ((&z, &y), delta) in logits.iter().zip(classes).zip(delta) {
        let (z, y) = (f64::from(z), f64::from(y));
        // σ(z) − 1 = −σ(−z) and softplus(z) − z = softplus(−z), without the cancellation.
        let (gradient, part) =
            if y == 1.0 { (-sigmoid(-z), softplus(-z)) } else { (sigmoid(z) - y, softplus(z) - y * z) };
        *delta = gradient as f32;
        loss += part;
    }
    loss as f32
}

fn squared_loss(logits: &[f32], values: &[f32], delta: &mut [f32]) -> f32 {
    assert_eq!(logits.len(), values.len(), "one value a logit");
    let mut loss = 0.0;
    for ((&z, &y), delta) in logits.iter().zip(values).zip(delta) {
        let residual = f64::from(z) - f64::from(y);
        *delta = (2.0 * residual) as f32;
        loss += residual * residual;
    }
    loss as f32
}
