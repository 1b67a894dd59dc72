//! Methods that read attention maps: the last layer's, or all of them followed from the top down.
//!
//! Only the first token's row is asked for, so maps are never multiplied with each other: a row vector goes down through the layers.

use std::sync::Arc;

use super::flow::Flow;
use super::method::Options;
use super::probe::{Answer, Course, Probe, Want};
use super::subject::{Scores, Sequence, Subject};
use crate::model::{MapKind, Model};

/// What is made of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Maps {
    /// The last layer's row of the first token.
    Last,
    /// That row of the product of `½A + ½I` over the layers (Abnar & Zuidema 2020, eq. 1).
    Rollout,
    /// The greatest flow from the first token at the top to each token at the bottom, with those as capacities (the same, §3.2).
    Flow,
    /// That row of R, from `R = I` by `R ← R + Ā R` with Ā the mean positive part of A ∘ ∂f/∂A (Chefer, Gur & Wolf 2021, eqs. 5 and 6).
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
        let last = model.network().depth() - 1;
        let wants = match maps {
            Maps::Last if options.raw_attention => vec![Want::Maps(MapKind::Scores, last)],
            Maps::Last => vec![Want::Maps(MapKind::Weights, last)],
            Maps::Rollout | Maps::Flow => vec![Want::Maps(MapKind::Weights, options.start_layer)],
            Maps::Generic => {
                let targets = 0..subject.objectives.len();
                targets.map(|target| Want::GradientMaps(target, options.start_layer)).collect()
            }
        };
        let (sequence, outputs) = (subject.sequence(model), subject.outputs());
        Self { sequence, maps, wants, outputs, answers: Vec::new() }
    }

    fn scores(&self, maps: &[Vec<f32>]) -> Vec<f64> {
        let length = self.sequence.ids.len();
        match self.maps {
            Maps::Last => first_row(&maps[0], length),
            Maps::Rollout => through(maps, length, |row, below| {
                row.iter().zip(below).map(|(own, below)| (own + below) / 2.0).collect()
            }),
            Maps::Flow => Flow::new(maps, length).to_each_token(),
            Maps::Generic => {
                through(maps, length, |row, below| row.iter().zip(below).map(|(own, below)| own + below).collect())
            }
        }
    }
}

/// A row vector from the first token at the top down through the layers: `next(r, r A)` at each.
fn through(maps: &[Vec<f32>], length: usize, next: impl Fn(&[f64], &[f64]) -> Vec<f64>) -> Vec<f64> {
    let mut row = vec![0.0; length];
    row[0] = 1.0;
    for map in maps.iter().rev() {
        let mut below = vec![0.0; length];
        // A map of one row is the first token's, which is all there is of `row` at the top.
        for (&share, seen) in row.iter().zip(map.chunks_exact(length)) {
            below.iter_mut().zip(seen).for_each(|(below, &a)| *below += share * f64::from(a));
        }
        row = next(&row, &below);
    }
    row
}

fn first_row(map: &[f32], length: usize) -> Vec<f64> {
    map[..length].iter().map(|&a| f64::from(a)).collect()
}

impl Course for OfMaps {
    fn probes(&mut self) -> Vec<Probe> {
        let wants = std::mem::take(&mut self.wants);
        wants.into_iter().map(|want| Probe { sequence: self.sequence.clone(), point: None, want }).collect()
    }

    fn take(&mut self, answers: Vec<Answer>) {
        self.answers = answers;
    }

    fn finish(&mut self) -> Vec<Scores> {
        let scores: Vec<Vec<f32>> = self
            .answers
            .iter()
            .map(|answer| self.scores(&answer.maps).into_iter().map(|score| score as f32).collect())
            .collect();
        let own = |(target, &output): (usize, &f64)| {
            let tokens = scores[target.min(scores.len() - 1)].clone();
            Scores { tokens, output, ..Scores::default() }
        };
        self.outputs.iter().enumerate().map(own).collect()
    }
}
