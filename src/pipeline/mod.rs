//! Records in, numbers out: reading, tokenizing, the forward pass and writing overlap, with bounded queues between them.
//!
//! A reader thread parses records and cuts them into chunks by record number; the calling thread tokenizes a chunk and runs the model over
//! it on every core; a writer thread takes scored chunks, in order. Memory is set by the chunk size, never by the number of records.

mod index;
mod predict;
mod prepared;
mod progress;
mod proof;
mod queries;
mod rejections;
mod score;
mod stream;

pub use index::{Checkpoint, IndexOptions, index};
pub use predict::predict;
pub use prepared::RuleOptions;
pub use progress::Progress;
pub use proof::prove;
pub use queries::{QueryTarget, ResultSink, SearchJob, SearchOptions, TopK};
pub use rejections::Rejections;
pub use score::{Chunk, Pass};
pub use stream::{Chunking, stream};

/// How a job runs: none of it changes a number in the results.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Tokens in one packed batch; the device's own choice where `None`.
    pub batch_tokens: Option<usize>,
    /// Skip records that cannot be used instead of failing at the first.
    pub skip_invalid: bool,
    /// No progress bars.
    pub quiet: bool,
}

/// What a job did.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Record numbers the input has, skipped records included.
    pub numbered: u64,
    /// Records used.
    pub records: u64,
    /// Records skipped as invalid.
    pub skipped: u64,
    /// Tokens run through the model, special tokens included.
    pub tokens: u64,
    /// Records cut to the maximum length.
    pub truncated: u64,
    /// Wall time.
    pub seconds: f64,
}
