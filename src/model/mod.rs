//! The encoder and its heads, written once over [`crate::backend::Backend`], and loaded from Hugging Face directories.
//!
//! [`Model`] is what the rest of the library holds: a network on some device behind [`Forward`], its tokenizer, its classes, and what
//! identifies it. Inference only: no dropout, no gradients. Families are told by `model_type` ([`Family`]); whatever would change a
//! result and is not implemented is refused when the model is loaded, not met half-way.

mod class_names;
mod config;
mod device;
mod encoder;
mod families;
mod fingerprint;
mod head;
mod hub;
mod network;
mod pretrained;
mod sentence;
mod weights;

pub use class_names::ClassNames;
pub use config::{Architecture, Config, LayerId};
pub use device::Device;
pub use families::Family;
pub use hub::{find, find_with};
pub use pretrained::{LoadOptions, Model};
pub use sentence::SentenceModel;

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
    /// How many batches run at the same time; more than this are worth handing over at once.
    fn workers(&self) -> usize;
    /// How many tokens a batch should have where the user has not said.
    fn batch_tokens(&self) -> usize;
    /// One forward pass, results in the batches' order. `done(i)` is told as each batch finishes, from any thread; batches not
    /// begun when it answers `false` are given up and the call fails with [`crate::Error::Interrupted`].
    ///
    /// # Errors
    /// [`crate::Error::Interrupted`]; a batch with ids the model has no rows for; what the device fails at.
    fn forward(&self, batches: Vec<PackedBatch>, done: &(dyn Fn(usize) -> bool + Sync)) -> Result<Vec<Outputs>>;
}
