//! AdamW, each number by itself: one pass over the four arrays, which memory's speed decides.

use rayon::prelude::*;

use super::CHUNK;
use crate::backend::training::{AdamStep, AdaptedStep, RoundedStep, Stepped};

/// Of one parameter, [`crate::backend::training::Training::adam_steps`].
pub(super) fn step(parameter: Stepped<'_, Vec<f32>>, step: &AdamStep) {
    let Stepped { value, moments, gradient, decays } = parameter;
    let factors = AdamStep { decay: if decays { step.decay } else { 0.0 }, ..*step }.rounded();
    let [first, second] = moments.map(|moment| moment.par_chunks_mut(CHUNK));
    let chunks = value.par_chunks_mut(CHUNK).zip(first).zip(second).zip(gradient.par_chunks_mut(CHUNK));
    chunks.for_each(|(((value, first), second), gradient)| {
        factors.apply(value, first, second, gradient);
        gradient.fill(0.0);
    });
}

/// [`crate::backend::training::Training::adapt`]
pub(super) fn adapt(out: &mut [f32], x: &[f32], step: &AdaptedStep<'_, Vec<f32>>) {
    let &AdaptedStep { drift, floor, rests: [rest1, rest2], scales, len } = step;
    let rows = out.chunks_exact_mut(len.max(1)).zip(x.chunks_exact(len.max(1))).zip(scales);
    for ((out, x), scale) in rows {
        let chunks = out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
        let moments = drift[..len].par_chunks(CHUNK).zip(floor[..len].par_chunks(CHUNK));
        chunks.zip(moments).for_each(|((out, x), (drift, floor))| {
            for (((out, x), drift), floor) in out.iter_mut().zip(x).zip(drift).zip(floor) {
                let g = x / scale;
                *out = g.mul_add(rest1, *drift) / (g * rest2).mul_add(g, *floor).sqrt();
            }
        });
    }
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
