//! Methods that read attention maps: the last layer's, or all of them followed from the top down.
//!
//! Only the rows of the tokens that a head reads are asked for (the first token's, or those the explained objective is about, each an equal
//! part), so maps are never multiplied with each other: a row vector goes down through the layers.

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
    /// For each objective, the tokens that maps are followed from.
    roots: Vec<Vec<usize>>,
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
        let roots = subject.objectives.iter().map(|objective| subject.roots(objective)).collect();
        Self { sequence, maps, wants, roots, outputs, answers: Vec::new() }
    }

    fn scores(&self, maps: &[Vec<f32>], roots: &[usize]) -> Vec<f64> {
        let length = self.sequence.ids.len();
        match self.maps {
            Maps::Last => through(maps, length, roots, |_, below| below.to_vec()),
            Maps::Rollout => through(maps, length, roots, |row, below| {
                row.iter().zip(below).map(|(own, below)| (own + below) / 2.0).collect()
            }),
            Maps::Flow => Flow::new(maps, length).to_each_token(),
            Maps::Generic => through(maps, length, roots, |row, below| {
                row.iter().zip(below).map(|(own, below)| own + below).collect()
            }),
        }
    }
}

/// A row vector from the roots at the top down through the layers: `next(r, r A)` at each.
fn through(maps: &[Vec<f32>], length: usize, roots: &[usize], next: impl Fn(&[f64], &[f64]) -> Vec<f64>) -> Vec<f64> {
    let mut row = vec![0.0; length];
    for &root in roots {
        row[root] = 1.0 / roots.len() as f64;
    }
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

impl Course for OfMaps {
    fn probes(&mut self) -> Vec<Probe> {
        let wants = std::mem::take(&mut self.wants);
        wants.into_iter().map(|want| Probe::of(&self.sequence, None, want)).collect()
    }

    fn take(&mut self, answers: Vec<Answer>) {
        self.answers = answers;
    }

    fn finish(&mut self) -> Vec<Scores> {
        let own = |(target, &output): (usize, &f64)| {
            // Once for all objectives, or once for each.
            let maps = &self.answers[target.min(self.answers.len() - 1)].maps;
            let tokens = self.scores(maps, &self.roots[target]).into_iter().map(|score| score as f32).collect();
            Scores { tokens, output, ..Scores::default() }
        };
        self.outputs.iter().enumerate().map(own).collect()
    }
}
