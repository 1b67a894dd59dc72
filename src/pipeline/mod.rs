//! Records in, numbers out: reading, tokenizing, the forward pass and writing overlap, with bounded queues between
//! them.
//!
//! A reader thread parses records and cuts them into chunks by record number; another makes tokens of them, a window or
//! two ahead; the calling thread runs the model over those, on every core or on GPUs, while what the window before left
//! is put in its place; a writer thread takes scored chunks, in order. Memory is set by the chunk size, and of each
//! record nothing is kept but its id's hash, and why it was skipped where it was.
//!
//! ```
//! use wherefore::model::{Device, LoadOptions, Model};
//! use wherefore::pipeline::{IndexOptions, Rejections, SearchJob, SearchOptions, Settings, index};
//! use wherefore::dataset::{Dataset, DatasetOptions};
//! use wherefore::store::Store;
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let store = folder.path().join("store");
//! let open = |file: &str| Dataset::open(DatasetOptions { files: vec![file.into()], ..DatasetOptions::default() });
//! let (settings, mut rejections) = (Settings { quiet: true, ..Settings::default() }, Rejections::new(false, None));
//!
//! let model = Model::load("assets/demo/model", Device::Cpu, &LoadOptions::default())?;
//! # let training = "assets/demo/test.jsonl"; // fewer records, the same lines
//! index(&model, open(training)?, &store, &IndexOptions::default(), &settings, &mut rejections)?;
//!
//! let store = Store::open(&store)?;
//! let job = SearchJob { model: &model, checkpoints: &[], store: &store, options: &SearchOptions::default() };
//! let mut answers = Vec::new();
//! job.run(Dataset::typed("You have won".into(), None), &settings, &mut rejections, &mut answers)?;
//! assert_eq!((answers.len(), answers[0].proponents.len(), answers[0].opponents.len()), (1, 10, 10));
//! # Ok::<(), wherefore::Error>(())
//! ```

mod accuracy;
mod aims;
mod answer_points;
mod answers;
mod asker;
mod bundles;
mod by_factors;
mod condition;
mod exact;
mod explain;
mod export;
mod fisher;
mod given;
mod index;
mod index_tokens;
mod load;
mod of_itself;
mod plan;
mod pool;
mod preconditioned;
mod predict;
mod predict_tokens;
mod prepared;
mod progress;
mod proof;
mod queries;
mod recall;
mod repeats;
mod runner;
mod scope;
mod score;
mod scores;
mod select;
mod selector;
mod sequences;
mod sets;
mod stages;
mod stream;
mod token_queries;
pub mod unreliable;
mod windows;

pub use crate::dataset::Rejections;
pub use accuracy::{AccuracyOptions, Apart, Measured, measure};
pub use condition::Condition;
pub use exact::ExactOptions;
pub use explain::{Convergence, ExplainOptions, ExplainTarget, Output, explain, norm_lime};
pub use export::{ExportFormat, export};
pub use fisher::{DAMPING as FISHER_DAMPING, FisherOptions, fit_fisher};
pub use given::{GivenFactors, GivenFile, GivenScores, GivenSearch, index_given};
pub use index::{Checkpoint, IndexOptions, index};
pub use load::{load_checkpoints, load_model, load_recorded};
pub use of_itself::SelfSearch;
pub use plan::{Plan, plan};
pub use pool::{Choice, PoolOptions, candidates_per_target, nearest_records, select_from_pool};
pub use predict::predict;
pub use predict_tokens::{SpanOptions, SpanScores, predict_masks, predict_spans, predict_tags};
pub use prepared::RuleOptions;
pub use progress::{Progress, per_second};
pub use proof::prove;
pub use queries::{Entities, QueryTarget, ResultSink, SearchJob, SearchOptions, TopK};
pub use scope::ScopeOptions;
pub use score::{Chunk, Pass};
pub use scores::EachScores;
pub use select::{SelectOptions, SelectScores, select};
pub use selector::{Selector, SelectorOptions, select_with};
pub use sequences::{Sequence, run_sequences, sequence};
pub use sets::{SetFile, grouped_rows};
pub use stages::Stages;
pub use stream::{Chunking, Done, stream};
pub use unreliable::TrustOptions;

/// How a job runs: none of it changes a number in the results.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Tokens in one packed batch; the device's own choice where `None`.
    pub batch_tokens: Option<usize>,
    /// No progress bars.
    pub quiet: bool,
}

impl Settings {
    /// Tokens that are run together: so many batches for each worker.
    fn window_tokens(&self, model: &crate::model::Model, batches: usize) -> usize {
        let network = model.network();
        let batch = self.batch_tokens.unwrap_or_else(|| network.batch_tokens());
        batch.saturating_mul(network.workers()).saturating_mul(batches)
    }
}

/// What a job did.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Record numbers the input has, skipped records included.
    pub numbered: u64,
    /// Records used.
    pub records: u64,
    /// How often each was gone through in this run, where that is not once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passes: Option<f64>,
    /// Records skipped as invalid.
    pub skipped: u64,
    /// Tokens of the records, special tokens included.
    pub tokens: u64,
    /// Records that were not run, as an earlier one of their chunk (of a store: of their block) has the same input.
    pub repeated: u64,
    /// Records cut to the maximum length.
    pub truncated: u64,
    /// Given factors' records whose labels are not kept, for without logits nothing says what they mean.
    pub unread_labels: u64,
    /// Training records that are searched, where conditions, or copies of others, are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub searched: Option<u64>,
    /// Whether the whole network's curvature was fitted to other records than the store now has.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub curvature_of_others: bool,
    /// Wall time.
    pub seconds: f64,
    /// How much of it each stage worked.
    pub stages: Stages,
    /// λ over the mean diagonal of each matrix of projected gradients that a rule was made ready with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damping: Vec<f64>,
}
