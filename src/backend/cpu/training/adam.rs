//! AdamW, each number by itself: one pass over the four arrays, which memory's speed decides.

use rayon::prelude::*;

use super::CHUNK;
use crate::backend::training::{AdamStep, RoundedStep};

/// [`crate::backend::training::Training::adam_step`]
pub(super) fn step(parameter: &mut [f32], moments: [&mut Vec<f32>; 2], gradient: &[f32], step: &AdamStep) {
    let factors = step.rounded();
    let [first, second] = moments.map(|moment| moment.par_chunks_mut(CHUNK));
    let chunks = parameter.par_chunks_mut(CHUNK).zip(first).zip(second).zip(gradient.par_chunks(CHUNK));
    chunks.for_each(|(((parameter, first), second), gradient)| factors.apply(parameter, first, second, gradient));
}

impl RoundedStep {
    fn apply(&self, parameter: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]) {
        for (((p, m), v), g) in parameter.iter_mut().zip(first).zip(second).zip(gradient) {
            let g = g * self.scale;
            *m = self.betas[0] * *m + self.rests[0] * g;
            *v = self.betas[1] * *v + self.rests[1] * g * g;
            let deviation = v.sqrt() / self.deviation + self.epsilon;
            *p = *p * self.kept - self.rate * (*m / deviation);
        }
    }
}
