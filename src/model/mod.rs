//! The encoder and its heads, written once over [`crate::backend::Backend`], and loaded from Hugging Face directories.

use crate::error::Result;
use crate::tokens::PackedBatch;

/// What the head was trained to do: decides the loss, and so δ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// One of K classes: softmax cross-entropy.
    SingleLabel,
    /// Any of K classes: a sigmoid cross-entropy each, summed.
    MultiLabel,
    /// K numbers: squared error, summed.
    Regression,
    /// No head: features only.
    Headless,
}

/// What one forward pass gives for each sequence of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    /// `h [B, E]`, the input of the last linear layer (headless: the pooled vector).
    pub features: Vec<f32>,
    /// `z [B, K]` (headless: empty).
    pub logits: Vec<f32>,
}

/// A network on some device.
pub trait Forward: Send + Sync {
    /// E: the width of the features.
    fn width(&self) -> usize;
    /// K: the number of logits; 0 where there is no head.
    fn classes(&self) -> usize;
    /// How many batches are worth handing over at a time, and how many tokens each should have.
    fn batch_tokens(&self) -> usize;
    /// One forward pass, results in the batches' order. `done(i)` is told as each batch finishes, from any thread; batches not
    /// begun when it answers `false` are given up and the call fails with [`crate::Error::Interrupted`].
    fn forward(&self, batches: Vec<PackedBatch>, done: &(dyn Fn(usize) -> bool + Sync)) -> Result<Vec<Outputs>>;
}
