//! The encoder and its heads, written once over [`crate::backend::Backend`], and loaded from Hugging Face directories.
//!
//! [`Model`] is what the rest of the library holds: a network on some device behind [`Forward`], its tokenizer, its
//! classes, and what identifies it: no dropout, and gradients of the embeddings alone. A [`Trainee`] has dropout and
//! the gradients of every parameter. Families are told by `model_type` ([`Family`]); whatever would change a result and
//! is not implemented is refused when the model is loaded, not met half-way.

mod class_names;
mod config;
mod device;
mod encoder;
mod families;
mod fingerprint;
mod head;
mod hub;
mod network;
mod parts;
mod pretrained;
mod queue;
mod sentence;
mod spread;
mod token_head;
mod training;
mod weights;
mod widening;
mod workspaces;

pub use class_names::ClassNames;
pub(crate) use class_names::written_id;
pub use config::{Architecture, Config, LayerId};
pub use device::Device;
pub use families::Family;
pub(crate) use hub::folder_fingerprint;
pub use hub::{find, find_with};
pub use pretrained::{LoadOptions, Model};
pub use sentence::SentenceModel;
pub use training::{
    AdamMoments, Basis, Blueprint, DEFAULT_DIMENSION, DropoutPass, DropoutRates, GradientsOf, HeadPlan, KeptLayer,
    LayerFactors, Learn, Lesson, LinearLayer, Moments, NamedTensor, Observer, ProjectedLayer, Projection,
    ProjectionKind, Seed, Shape, Studied, Term, TokenLesson, Tracer, Trainee, Turned, write_untrained,
};

use std::sync::Arc;

use crate::backend::gpu::Gpu;
use crate::backend::{Fold, Objective, Path, Precision, Rows};
use crate::error::Result;
use crate::tokens::{Masked, PackedBatch};

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

/// What a model says something of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// A record as a whole: a class, some classes, numbers, or a vector.
    #[default]
    Record,
    /// The tokens of a context, as the start and the end of an answer: `…ForQuestionAnswering`, two logits a token.
    Spans,
    /// Each token: `…ForTokenClassification`, K logits a token.
    Tags,
    /// Masked tokens: `…ForMaskedLM`, a logit for each piece of the vocabulary.
    Masks,
}

/// What one forward pass gives for each sequence of a batch: one row a sequence, or one for each token that is read
/// ([`Reads`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    /// `h [B, E]`, the input of the last linear layer (headless: the pooled vector).
    pub features: Vec<f32>,
    /// `z [B, K]` (headless: empty).
    pub logits: Vec<f32>,
}

/// Which tokens a head reads, counted from each sequence's first and ascending. Heads that say something of a record as
/// a whole read what they always do.
pub type Reads = Arc<[u32]>;

/// A batch of questions to a network: sequences, where each stands, and what is asked of them.
#[derive(Clone, Debug)]
pub struct Probes {
    /// The sequences; their lengths alone, where they are masked texts.
    pub batch: PackedBatch,
    /// The texts that they are, with tokens replaced; these stand on no path.
    pub masked: Option<Masked>,
    /// Where each stands between a baseline and its own embeddings; at its own where there is none.
    pub path: Option<Path>,
    /// What is asked.
    pub ask: Ask,
    /// Which tokens of each sequence are read, `[B]`; empty for heads that have one row a sequence.
    pub reads: Vec<Reads>,
}

impl Probes {
    /// Sequences of which nothing but features and logits is asked.
    fn plain(batch: PackedBatch) -> Self {
        Self { batch, masked: None, path: None, ask: Ask::Outputs, reads: Vec::new() }
    }

    /// How many rows of outputs a sequence has.
    fn rows(&self, sequence: usize) -> usize {
        self.reads.get(sequence).map_or(1, |reads| reads.len())
    }
}

/// What is asked of a batch, beside its features and logits.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Nothing more.
    Outputs,
    /// Attention maps of the layers from this one on.
    Maps(MapKind, usize),
    /// The gradient of objectives at what the path moves, folded: B objectives a target, and each target in turn.
    Gradient(Vec<Objective>, Fold),
    /// Rows followed down through attention maps.
    Rows(MapKind, Descent),
    /// The same through maps weighted by the gradient of B objectives: the heads' mean positive part of weight ×
    /// gradient.
    GradientRows(Vec<Objective>, Descent),
}

/// A row vector of each sequence, from the last layer's attention map down to an earlier one's: `r ← own · r + below ·
/// r A`.
#[derive(Clone, Debug, PartialEq)]
pub struct Descent {
    /// The last layer it goes through.
    pub from: usize,
    /// What r is multiplied by at each.
    pub own: f32,
    /// What r A is.
    pub below: f32,
    /// The tokens it begins at, each an equal part of 1: B a target, and each target in turn.
    pub roots: Vec<Reads>,
}

/// Which attention maps: see [`crate::backend::AttentionMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// The heads' mean softmax weights.
    Weights,
    /// The heads' summed scores before the softmax.
    Scores,
}

/// What a network answers to [`Probes`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Features and logits.
    pub outputs: Outputs,
    /// [`Ask::Gradient`]: for each target, the folded gradients of all tokens; for rows, what came down to each.
    pub folded: Vec<f32>,
    /// Maps: for each layer, each sequence's in turn, as [`crate::backend::Backend::attention_map`] lays them out.
    pub maps: Vec<Vec<f32>>,
}

/// A network on some device.
pub trait Forward: Send + Sync {
    /// The device it runs on, and what its matrix products are computed in.
    fn device(&self) -> (String, Precision);
    /// The GPUs it runs on, where it does: what else is to be computed can be computed there.
    fn gpus(&self) -> Vec<&Gpu>;
    /// Sequences so far that overflowed the device's precision and were run again in one that holds more.
    fn run_again(&self) -> u64 {
        0
    }
    /// E: the width of the features.
    fn width(&self) -> usize;
    /// K: the number of logits; 0 where there is no head.
    fn classes(&self) -> usize;
    /// How many batches run at the same time; more than this are worth handing over at once.
    fn workers(&self) -> usize;
    /// How many tokens a batch should have where the user has not said.
    fn batch_tokens(&self) -> usize;
    /// One forward pass, results in the batches' order. `done(i)` is told as each batch finishes, from any thread;
    /// batches not begun when it answers `false` are given up and the call fails with [`crate::Error::Interrupted`].
    ///
    /// # Errors
    /// [`crate::Error::Interrupted`]; a batch with ids the model has no rows for; what the device fails at.
    fn forward(&self, batches: Vec<PackedBatch>, done: &(dyn Fn(usize) -> bool + Sync)) -> Result<Vec<Outputs>>;
    /// The same for batches of which more is asked.
    ///
    /// # Errors
    /// As [`Forward::forward`]; [`crate::Error::Usage`] where gradients are asked of a model without logits.
    fn probe(&self, batches: Vec<Probes>, done: &(dyn Fn(usize) -> bool + Sync)) -> Result<Vec<Answers>>;
    /// How many layers a sequence goes through.
    fn depth(&self) -> usize;
    /// The width of the embeddings a path moves.
    fn embedding_width(&self) -> usize;
    /// Whether its last layer's maps have one row, of the first token alone, or one for each.
    fn last_rows(&self) -> Rows;
}
