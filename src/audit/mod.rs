//! What is wrong with the training data, ranked, with what to do about it.
//!
//! An audit reads a finished store: features, gradients of the last layer, labels, predictions and texts. None runs the
//! model again.

mod answers;
mod augment;
mod bias;
mod clusters;
mod coverage;
mod dirty;
mod folds;
mod judgement;
mod labelled;
mod map;
mod neighbours;
mod ngrams;
mod rebalance;
mod redundant;
mod selection;
mod shingles;
mod text;
mod trust;
mod units;
mod word_features;

pub use answers::{DirtyAnswers, dirty_answers};
pub use augment::{Change, Contexts, Draw, augment};
pub use bias::{
    BiasOptions, BiasedWord, Correction, DominatingWord, Explained, LabelledText, biased_words, dominating_words,
    examples, record_weights,
};
pub use clusters::{clusters, describe};
pub use coverage::{Coverage, mean};
pub use dirty::{Dirty, DirtyOptions, Signal, dirty};
pub use map::{Region, expect_same_records, regions, without_dynamics};
pub(crate) use neighbours::features;
pub use rebalance::extra_copies;
pub(crate) use redundant::normalised;
pub use redundant::{Copied, Redundant, leaks_first, redundant, redundant_with};
pub use selection::{Candidates, Chosen, SelectionOptions, greedy_coverage, round_robin};
pub(crate) use trust::shared_tops;
pub use trust::{Bin, Calibration, Evidence, by_ranks, calibrate, check_known, reliability};
