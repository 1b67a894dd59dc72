//! Kernel SHAP (Lundberg & Lee 2017): Shapley values by a regression whose coefficients sum to what the output gains
//! from nothing, every feature left out, to the whole text.
//!
//! Where there are no more subsets than samples each is taken once, and the scores are the Shapley values themselves.
//! Else subsets are drawn with their complements (Covert & Lee 2021).

use super::method::{Method, Options};
use super::probe::{Answer, Course, Probe};
use super::sampled::Sampled;
use super::subject::{Scores, Subject};
use super::{Fit, Masks, Regression};
use crate::error::Result;
use crate::model::Model;

pub(super) struct KernelShap {
    /// The first mask keeps nothing.
    sampled: Sampled,
    outputs: Vec<f64>,
    /// Whether every subset is among the masks.
    enumerated: bool,
    samples: u64,
}

impl KernelShap {
    pub(super) fn new(model: &Model, subject: &Subject<'_>, options: &Options) -> Result<Self> {
        let (mut enumerated, mut samples) = (false, 0);
        let draw = |features: usize| {
            let asked = options.samples_of(Method::KernelShap, features);
            let given = options.given_masks(features);
            enumerated = given.is_none() && Masks::proper_subset_count(features).is_some_and(|all| all <= asked);
            let masks = match given {
                Some(given) => given,
                None if enumerated => Masks::proper_subsets(features),
                None => Masks::coalitions(features, asked, options.seed, subject.draw),
            };
            samples = masks.samples();
            masks.after_nothing()
        };
        let sampled = Sampled::new(model, subject, Method::KernelShap, options, draw)?;
        Ok(Self { sampled, outputs: subject.outputs(), enumerated, samples })
    }

    /// Each mask's weight: the Shapley kernel's; where it was drawn by the kernel, the number of its samples. The two
    /// ends have none, for what the model owes them is exact.
    fn weights(&self) -> Vec<f64> {
        let masks = self.sampled.masks();
        let weight = |(kept, &count): (usize, &u32)| match kept {
            _ if kept == 0 || kept == masks.features() => 0.0,
            _ if self.enumerated => kernel(kept, masks.features()),
            _ => f64::from(count),
        };
        masks.sizes().zip(masks.counts()).map(weight).collect()
    }
}

/// The Shapley kernel of a subset of `kept` out of `features`: `(M − 1) / (C(M, k) k (M − k))`.
fn kernel(kept: usize, features: usize) -> f64 {
    let binomial = (0..kept).fold(1.0, |product, i| product * (features - i) as f64 / (i + 1) as f64);
    (features - 1) as f64 / (binomial * (kept * (features - kept)) as f64)
}

impl Course for KernelShap {
    fn probes(&mut self) -> Vec<Probe> {
        self.sampled.probes()
    }

    fn take(&mut self, answers: Vec<Answer>) {
        self.sampled.take(&answers);
    }

    fn finish(&mut self) -> Vec<Scores> {
        let regression = Regression::new(self.sampled.masks(), self.weights());
        let shares = regression.shares();
        let scores = |(outputs, &output): (&Vec<f64>, &f64)| {
            let (nothing, total) = (outputs[0], output - outputs[0]);
            let Fit { coefficients, r_squared, .. } = shares.fit(outputs, nothing, total);
            Scores {
                tokens: self.sampled.scores(&coefficients),
                output,
                baseline_output: Some(nothing),
                convergence_delta: Some(coefficients.iter().sum::<f64>() - total),
                steps: Some(self.samples),
                r_squared,
                ..Scores::default()
            }
        };
        self.sampled.outputs().iter().zip(&self.outputs).map(scores).collect()
    }
}
