//! AdamW, each number by itself: one pass over the four arrays, which memory's speed decides.

use rayon::prelude::*;

use super::CHUNK;
use crate::backend::training::AdamStep;

/// [`crate::backend::training::Training::adam_step`]
pub(super) fn step(parameter: &mut [f32], moments: [&mut Vec<f32>; 2], gradient: &[f32], step: &AdamStep) {
    let factors = Factors::of(step);
    let [first, second] = moments.map(|moment| moment.par_chunks_mut(CHUNK));
    let chunks = parameter.par_chunks_mut(CHUNK).zip(first).zip(second).zip(gradient.par_chunks(CHUNK));
    chunks.for_each(|(((parameter, first), second), gradient)| factors.apply(parameter, first, second, gradient));
}

/// What is the same for every number, rounded once.
struct Factors {
    /// `1 − ηλ`
    kept: f32,
    /// `η / (1 − β₁ᵗ)`
    rate: f32,
    betas: [f32; 2],
    /// `1 − β`, rounded after the subtraction.
    rests: [f32; 2],
    /// `√(1 − β₂ᵗ)`
    deviation: f32,
    epsilon: f32,
    scale: f32,
}

impl Factors {
    fn of(step: &AdamStep) -> Self {
        let [mean, deviation] = step.corrections();
        Self {
            kept: (1.0 - step.rate * step.decay) as f32,
            rate: (step.rate / mean) as f32,
            betas: step.betas.map(|beta| beta as f32),
            rests: step.betas.map(|beta| (1.0 - beta) as f32),
            deviation: deviation as f32,
            epsilon: step.epsilon as f32,
            scale: step.scale as f32,
        }
    }

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
