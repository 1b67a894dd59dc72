//! The function of the logits whose gradient a store of projected gradients holds, and the slope of the loss in it.
//!
//! | problem | output function f | slope of the loss, dL/df |
//! |---|---|---|
//! | single-label | the margin `z_y − logsumexp(the others)`, the log-odds of the label | `−(1 − p_y)` |
//! | others | `−L` | `−1` |
//!
//! The gradient of the loss is the slope times the gradient of f, exactly: so one store serves rules over losses
//! (projected-dot, tracin, influence) and over margins (trak), and a confident record's gradient keeps its digits.

use super::Target;
use super::loss::loss_and_delta;
use crate::model::Problem;
use crate::numeric::softmax_in_place;

/// The gradient of a record's output function at its logits, into `gradient [K]`; gives back the slope of its loss in
/// that function.
///
/// # Panics
/// As [`loss_and_delta`].
pub fn output_gradient(problem: Problem, logits: &[f32], target: &Target, gradient: &mut [f32]) -> f32 {
    loss_and_delta(problem, logits, target, gradient);
    let Target::Class(class) = *target else {
        for delta in gradient {
            *delta = -*delta;
        }
        return -1.0;
    };
    let slope = gradient[class];
    let mut others: Vec<f64> = logits.iter().map(|&z| f64::from(z)).collect();
    others[class] = f64::NEG_INFINITY;
    softmax_in_place(&mut others);
    gradient.iter_mut().zip(others).for_each(|(out, p)| *out = -p as f32);
    gradient[class] = 1.0;
    slope
}
