//! What is wrong with the training data, ranked, with what to do about it.
//!
//! An audit reads a finished store: features, gradients of the last layer, labels, predictions and texts. None runs the model again.

mod bias;
mod coverage;
mod dirty;
mod folds;
mod judgement;
mod labelled;
mod map;
mod neighbours;
mod ngrams;
mod redundant;
mod shingles;
mod text;

pub use bias::{BiasOptions, BiasedWord, Correction, LabelledText, biased_words, examples, record_weights};
pub use coverage::{Coverage, mean, round_robin};
pub use dirty::{Dirty, DirtyOptions, Signal, dirty};
pub use map::{Region, regions};
pub use redundant::{Copied, Redundant, redundant};
