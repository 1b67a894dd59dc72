//! What a model that learns can be asked, whatever it runs on.

use super::{DropoutRates, Lesson, NamedTensor, TokenLesson};
use crate::backend::Precision;
use crate::backend::training::{AdamStep, Guide};
use crate::error::Result;
use crate::model::{Outputs, Problem, Reads, Task};
use crate::tokens::PackedBatch;

/// What a pass drops: the same of a record in an epoch, whatever its batch.
#[derive(Clone, Copy, Debug)]
pub struct DropoutPass {
    /// Of all draws.
    pub seed: u64,
    /// From 0.
    pub epoch: u32,
    /// How much.
    pub rates: DropoutRates,
}

/// What a pass made of its records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Studied {
    /// Each record's loss, before its share.
    pub losses: Vec<f64>,
    /// `z [B, K]`; nothing where a model says something of tokens.
    pub logits: Vec<f32>,
    /// How far each record's attention was from what it was drawn to; nothing where that was not asked.
    pub guided: Vec<f64>,
}

/// A model that can be trained, on whatever device.
pub trait Learn: Send + Sync {
    /// What something is said of.
    fn task(&self) -> Task;
    /// What is learned.
    fn problem(&self) -> Problem;
    /// What passes are computed in; parameters and moments are f32.
    fn precision(&self) -> Precision;
    /// K.
    fn classes(&self) -> usize;
    /// E: the width of the features.
    fn width(&self) -> usize;
    /// Runs a batch forth and back, and adds the gradients of the sum of its losses, each times its share, to those
    /// there are.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] where lessons are not of the batch or of the problem; what the device fails at.
    fn study(&mut self, batch: PackedBatch, lessons: &[Lesson<'_>], dropout: Option<DropoutPass>) -> Result<Studied> {
        self.study_guided(batch, lessons, &[], dropout)
    }
    /// The same where the attention of first tokens in the last layer is drawn to some tokens; a guide a record, or
    /// none at all.
    ///
    /// # Errors
    /// As [`Learn::study`]; [`crate::Error::Usage`] where guides are not of the batch.
    fn study_guided(
        &mut self,
        batch: PackedBatch,
        lessons: &[Lesson<'_>],
        guides: &[Guide<'_>],
        dropout: Option<DropoutPass>,
    ) -> Result<Studied>;
    /// The same where a model says something of tokens: the loss is the sum of all terms, each times its lesson's
    /// share.
    ///
    /// # Errors
    /// As [`Learn::study`].
    fn study_tokens(
        &mut self,
        batch: PackedBatch,
        lessons: &[TokenLesson<'_>],
        dropout: Option<DropoutPass>,
    ) -> Result<Studied>;
    /// Features and logits of the tokens that are read of each sequence, one row each, nothing dropped, where a model
    /// says something of tokens.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] for other models; what the device fails at.
    fn read(&mut self, batch: PackedBatch, reads: &[Reads]) -> Result<Outputs>;
    /// Features and logits of a batch, nothing dropped, where a model says something of records.
    ///
    /// # Errors
    /// What the device fails at.
    fn answer(&mut self, batch: PackedBatch) -> Result<Outputs>;
    /// `‖g‖₂` over all gradients.
    ///
    /// # Errors
    /// What the device fails at.
    fn gradient_norm(&mut self) -> Result<f64>;
    /// One step against the gradients, which are then forgotten. Biases and normalisations do not decay.
    ///
    /// # Errors
    /// What the device fails at.
    fn step(&mut self, step: &AdamStep) -> Result<()>;
    /// The parameters by the names `transformers` saves them under.
    ///
    /// # Errors
    /// What the device fails at.
    fn parameters(&self) -> Result<Vec<NamedTensor>>;
    /// Their gradients, by the same names.
    ///
    /// # Errors
    /// What the device fails at.
    fn gradients(&mut self) -> Result<Vec<NamedTensor>>;
    /// All that decides what comes next: parameters and moments.
    ///
    /// # Errors
    /// What the device fails at.
    fn state(&self) -> Result<Vec<NamedTensor>>;
    /// Takes up what [`Learn::state`] gave.
    ///
    /// # Errors
    /// [`crate::Error::Mismatch`] where it is another model's.
    fn restore(&mut self, state: &[NamedTensor]) -> Result<()>;
    /// Puts other numbers in the place of the last layer: `weight [K, E]` and `bias [K]`.
    ///
    /// # Errors
    /// What the device fails at.
    fn set_head(&mut self, weight: &[f32], bias: &[f32]) -> Result<()>;
}
