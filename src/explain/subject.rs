//! What is explained, and what comes of it.

use std::sync::Arc;

use super::Words;
use crate::backend::Objective;
use crate::model::Model;
use crate::tokens::Encoding;

/// One record, and the functions of its logits that are to be explained.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The record's number in the whole input: its draws are made from it.
    pub index: u64,
    /// Its tokens.
    pub encoding: &'a Encoding,
    /// Its words, for methods that leave out whole words.
    pub words: &'a Words,
    /// What is explained; each gets scores of its own.
    pub objectives: Vec<Objective>,
    /// z of the record itself.
    pub logits: Vec<f32>,
}

/// What a method says of one record and objective.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// One a token, special tokens included: greater supports the objective more.
    pub tokens: Vec<f32>,
    /// The objective at the record.
    pub output: f64,
    /// The same at the method's baseline, where it has one.
    pub baseline_output: Option<f64>,
    /// Sum of scores − (output − baseline output), for methods that owe it to be 0.
    pub convergence_delta: Option<f64>,
    /// Gradients or samples taken.
    pub steps: Option<u64>,
    /// Whether the tolerance asked for was met.
    pub converged: Option<bool>,
    /// Weighted R² of the surrogate model, for methods that fit one.
    pub r_squared: Option<f64>,
}

impl Subject<'_> {
    /// Its tokens as the model reads them.
    pub(super) fn sequence(&self, model: &Model) -> Arc<Sequence> {
        let Encoding { ids, type_ids, .. } = self.encoding;
        Arc::new(Sequence { ids: ids.clone(), type_ids: type_ids.clone(), positions: model.positions().of(ids) })
    }

    /// How many tokens it has.
    pub(super) fn len(&self) -> usize {
        self.encoding.ids.len()
    }

    /// The places of its tokens that are not special.
    pub(super) fn own_tokens(&self) -> impl Iterator<Item = usize> + '_ {
        self.encoding.segments.iter().enumerate().filter(|(_, segment)| segment.is_some()).map(|(token, _)| token)
    }

    /// Its number as draws count it.
    pub(super) fn draw(&self) -> u32 {
        self.index as u32
    }

    /// Every objective at the record itself.
    pub(super) fn outputs(&self) -> Vec<f64> {
        values(&self.objectives, &self.logits)
    }
}

/// Every objective at some logits.
pub(super) fn values(objectives: &[Objective], logits: &[f32]) -> Vec<f64> {
    let z: Vec<f64> = logits.iter().map(|&z| f64::from(z)).collect();
    objectives.iter().map(|objective| objective.value(&z)).collect()
}

/// Tokens as a network reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    pub(super) ids: Vec<u32>,
    pub(super) type_ids: Vec<u32>,
    pub(super) positions: Vec<u32>,
}
