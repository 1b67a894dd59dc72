//! Occlusion (Zeiler & Fergus 2014): what the output loses when a token is gone. Special tokens stay, and score 0.

use super::method::Options;
use super::probe::{Answer, Course, Probe};
use super::subject::{Scores, Sequence, Subject, values};
use crate::backend::Objective;
use crate::error::Result;
use crate::model::Model;
use crate::tokens::Positions;

pub(super) struct Occlusion {
    probes: Vec<Probe>,
    /// The token that each probe lacks.
    tokens: Vec<usize>,
    objectives: Vec<Objective>,
    outputs: Vec<f64>,
    scores: Vec<Vec<f32>>,
}

impl Occlusion {
    pub(super) fn new(model: &Model, subject: &Subject<'_>, options: &Options) -> Result<Self> {
        let replacement = options.replacement.id(model)?;
        let whole = subject.sequence(model);
        let tokens: Vec<usize> = subject.own_tokens().collect();
        let without = |&token: &usize| Probe::without(&whole, &[token], replacement, model.positions());
        Ok(Self {
            probes: tokens.iter().map(without).collect(),
            tokens,
            objectives: subject.objectives.clone(),
            outputs: subject.outputs(),
            scores: vec![vec![0.0; subject.len()]; subject.objectives.len()],
        })
    }
}

impl Course for Occlusion {
    fn probes(&mut self) -> Vec<Probe> {
        std::mem::take(&mut self.probes)
    }

    fn take(&mut self, answers: Vec<Answer>) {
        for (&token, answer) in self.tokens.iter().zip(answers) {
            let without = values(&self.objectives, &answer.logits);
            for (target, value) in without.into_iter().enumerate() {
                self.scores[target][token] = (self.outputs[target] - value) as f32;
            }
        }
    }

    fn finish(&mut self) -> Vec<Scores> {
        let steps = Some(self.tokens.len() as u64);
        let scores = |(tokens, &output): (Vec<f32>, &f64)| Scores { tokens, output, steps, ..Scores::default() };
        std::mem::take(&mut self.scores).into_iter().zip(&self.outputs).map(scores).collect()
    }
}

impl Sequence {
    /// Itself with some tokens (ascending) gone: those after them move up.
    pub(super) fn deleted(&self, tokens: &[usize], positions: Positions) -> Self {
        let mut rest = self.clone();
        for &token in tokens.iter().rev() {
            rest.ids.remove(token);
            rest.type_ids.remove(token);
        }
        rest.positions = positions.of(&rest.ids);
        rest
    }
}
