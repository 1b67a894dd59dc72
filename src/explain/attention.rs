//! Methods that read attention maps: the last layer's, or all of them followed from the top down.
//!
//! Only the rows of the tokens that a head reads are asked for (the first token's, or those the explained objective is
//! about, each an equal part), so maps are never multiplied with each other: a row vector goes down through the layers,
//! on the device.

use std::sync::Arc;

use super::flow::Flow;
use super::method::Options;
use super::probe::{Answer, Course, Mix, Probe, Want};
use super::subject::{Scores, Sequence, Subject};
use crate::model::{MapKind, Model};

/// What is made of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Maps {
    /// The last layer's row of the first token.
    Last,
    /// That row of the product of `½A + ½I` over the layers (Abnar & Zuidema 2020, eq. 1).
    Rollout,
    /// The greatest flow from the first token at the top to each token at the bottom, with those as capacities (the
    /// same, §3.2).
    Flow,
    /// That row of R, from `R = I` by `R ← R + Ā R` with Ā the mean positive part of A ∘ ∂f/∂A (Chefer, Gur & Wolf
    /// 2021, eqs. 5 and 6).
    Generic,
}

pub(super) struct OfMaps {
    sequence: Arc<Sequence>,
    maps: Maps,
    wants: Vec<Want>,
    outputs: Vec<f64>,
    /// Once for all objectives, or once for each.
    answers: Vec<Answer>,
}

impl OfMaps {
    pub(super) fn new(model: &Model, subject: &Subject<'_>, maps: Maps, options: &Options) -> Self {
        let (last, from) = (model.network().depth() - 1, options.start_layer);
        let wants = match maps {
            Maps::Last => {
                let kind = if options.raw_attention { MapKind::Scores } else { MapKind::Weights };
                vec![Want::Rows(kind, last, Mix::Below)]
            }
            Maps::Rollout => vec![Want::Rows(MapKind::Weights, from, Mix::Mean)],
            Maps::Flow => vec![Want::Maps(MapKind::Weights, from)],
            Maps::Generic => {
                (0..subject.objectives.len()).map(|target| Want::GradientRows(target, from, Mix::Sum)).collect()
            }
        };
        Self { sequence: subject.sequence(model), maps, wants, outputs: subject.outputs(), answers: Vec::new() }
    }

    /// Of objective `target`.
    fn scores(&self, target: usize) -> Vec<f32> {
        match (self.maps, &*self.answers) {
            (Maps::Flow, [all, ..]) => {
                let flows = Flow::new(&all.maps, self.sequence.ids.len()).to_each_token();
                flows.into_iter().map(|flow| flow as f32).collect()
            }
            (Maps::Generic, each) => each[target].folded[0].clone(),
            (_, all) => all[0].folded[target].clone(),
        }
    }
}

impl Course for OfMaps {
    fn probes(&mut self) -> Vec<Probe> {
        let wants = std::mem::take(&mut self.wants);
        wants.into_iter().map(|want| Probe::of(&self.sequence, None, want)).collect()
    }

    fn take(&mut self, answers: Vec<Answer>) {
        self.answers = answers;
    }

    fn finish(&mut self) -> Vec<Scores> {
        let own = |(target, &output)| Scores { tokens: self.scores(target), output, ..Scores::default() };
        self.outputs.iter().enumerate().map(own).collect()
    }
}
