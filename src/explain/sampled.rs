//! A record with parts left out, sample by sample: the probes of LIME and Kernel SHAP, and the outputs that come of
//! them.

use std::sync::Arc;

use super::Masks;
use super::method::{Method, Options};
use super::probe::{Answer, Probe};
use super::subject::{Sequence, Subject, values};
use crate::backend::Objective;
use crate::error::Result;
use crate::model::Model;
use crate::tokens::Positions;

pub(super) struct Sampled {
    whole: Arc<Sequence>,
    /// The tokens of each feature.
    features: Vec<Vec<usize>>,
    masks: Masks,
    replacement: Option<u32>,
    positions: Positions,
    objectives: Vec<Objective>,
    /// How many masks have been asked for.
    asked: usize,
    /// For each objective, its value at each mask so far.
    outputs: Vec<Vec<f64>>,
}

/// Tokens of the probes made in one round, so that a long text's are not all held at once.
const ROUND_TOKENS: usize = 1 << 18;

impl Sampled {
    /// A record whose features are masked as `masks` says of their number.
    pub(super) fn new(
        model: &Model,
        subject: &Subject<'_>,
        method: Method,
        options: &Options,
        masks: impl FnOnce(usize) -> Masks,
    ) -> Result<Self> {
        let features = method.features(options).unwrap_or_default().of(subject);
        Ok(Self {
            whole: subject.sequence(model),
            masks: masks(features.len()),
            features,
            replacement: options.replacement.id(model)?,
            positions: model.positions(),
            objectives: subject.objectives.clone(),
            asked: 0,
            outputs: vec![Vec::new(); subject.objectives.len()],
        })
    }

    pub(super) fn masks(&self) -> &Masks {
        &self.masks
    }

    /// For each objective, its value at each mask.
    pub(super) fn outputs(&self) -> &[Vec<f64>] {
        &self.outputs
    }

    pub(super) fn probes(&mut self) -> Vec<Probe> {
        let most = (ROUND_TOKENS / self.whole.ids.len().max(1)).max(1);
        let round = self.asked..self.masks.len().min(self.asked + most);
        self.asked = round.end;
        round.map(|mask| self.probe(self.masks.mask(mask))).collect()
    }

    pub(super) fn take(&mut self, answers: &[Answer]) {
        for answer in answers {
            let found = values(&self.objectives, &answer.logits);
            self.outputs.iter_mut().zip(found).for_each(|(outputs, value)| outputs.push(value));
        }
    }

    /// The record with what the mask does not keep left out.
    fn probe(&self, mask: &[bool]) -> Probe {
        let left_out = self.features.iter().zip(mask).filter(|(_, kept)| !**kept);
        let tokens: Vec<usize> = left_out.flat_map(|(tokens, _)| tokens.iter().copied()).collect();
        Probe::without(&self.whole, &tokens, self.replacement, self.positions)
    }

    /// One score a token: a feature's coefficient in equal parts, 0 for tokens of no feature.
    pub(super) fn scores(&self, coefficients: &[f64]) -> Vec<f32> {
        let mut scores = vec![0.0; self.whole.ids.len()];
        for (tokens, coefficient) in self.features.iter().zip(coefficients) {
            let share = (coefficient / tokens.len() as f64) as f32;
            for &token in tokens {
                scores[token] = share;
            }
        }
        scores
    }
}
