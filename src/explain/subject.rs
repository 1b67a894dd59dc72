//! What is explained, and what comes of it.

use std::sync::Arc;

use super::Words;
use crate::backend::{Objective, Part, Term};
use crate::error::{Error, Result};
use crate::model::{Model, Reads};
use crate::tokens::Encoding;

/// One record, and the functions of its logits that are to be explained.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The record's number in the whole input, for messages.
    pub index: u64,
    /// Its place among draws: see [`place_among_draws`].
    pub draw: u32,
    /// Its tokens.
    pub encoding: &'a Encoding,
    /// Its words, for methods that leave out whole words.
    pub words: &'a Words,
    /// What is explained; each gets scores of its own.
    pub objectives: Vec<Objective>,
    /// z of the record itself: a row, or one for each token that is read.
    pub logits: Vec<f32>,
    /// The tokens that are read, for models that say something of tokens.
    pub reads: Option<Reads>,
}

/// A record's place among draws, by its tokens: a text has the same wherever it stands in whichever file.
pub fn place_among_draws(encoding: &Encoding) -> u32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(bytemuck::cast_slice(&encoding.ids)).update(bytemuck::cast_slice(&encoding.type_ids));
    let hash = hasher.finalize();
    u32::from_le_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 4]))
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

impl Scores {
    /// Whether the model's outputs were, wherever it was asked.
    pub(super) fn are_numbers(&self) -> bool {
        let outputs = [Some(self.output), self.baseline_output];
        self.tokens.iter().all(|score| score.is_finite()) && outputs.iter().flatten().all(|output| output.is_finite())
    }
}

impl Subject<'_> {
    /// Refuses logits of another shape than the model's, and objectives of logits that there are not.
    pub(super) fn check(&self, model: &Model) -> Result<()> {
        let (expected, found) = (self.rows() * model.classes(), self.logits.len());
        if expected != found {
            return Err(Error::usage(format!("record {}: expected {expected} logits, found {found}", self.index)));
        }
        match self.objectives.iter().find(|objective| !objective.is_of(found)) {
            Some(objective) => {
                Err(Error::usage(format!("record {}: {objective:?} is not of {found} logits", self.index)))
            }
            None => Ok(()),
        }
    }

    /// Its tokens as the model reads them.
    pub(super) fn sequence(&self, model: &Model) -> Arc<Sequence> {
        let Encoding { ids, type_ids, .. } = self.encoding;
        Arc::new(Sequence { ids: ids.clone(), type_ids: type_ids.clone(), positions: model.positions().of(ids) })
    }

    /// How many rows of logits it has.
    pub(super) fn rows(&self) -> usize {
        self.reads.as_ref().map_or(1, |reads| reads.len())
    }

    /// The tokens whose last hidden states an objective is about: those it names, each counted once; the first where a
    /// head reads that.
    pub(super) fn roots(&self, objective: &Objective) -> Reads {
        let (Objective::Sum(terms), Some(reads)) = (objective, &self.reads) else { return Reads::from([0]) };
        let row = |term: &Term| match (term.part, &term.objective) {
            (Part::Row(row, _), _) => row,
            (Part::Column(..), Objective::Softmax(row) | Objective::Logit(row)) => *row,
            (Part::Column(..), _) => 0,
        };
        let mut roots: Vec<u32> = terms.iter().map(|term| reads[row(term)]).collect();
        roots.sort_unstable();
        roots.dedup();
        roots.into()
    }

    /// How many tokens it has.
    pub(super) fn len(&self) -> usize {
        self.encoding.ids.len()
    }

    /// The places of its tokens that are not special.
    pub(super) fn own_tokens(&self) -> impl Iterator<Item = usize> + '_ {
        self.encoding.own_tokens()
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
