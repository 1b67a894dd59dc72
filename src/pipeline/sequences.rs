//! Records one by one through a model of whatever task, for those who ask what it costs or whether it is right.

use super::predict_tokens::{encoded_text, question_windows};
use super::windows::read_whole;
use crate::dataset::Record;
use crate::error::Result;
use crate::model::{Model, Outputs, Reads, Task};
use crate::tokens::Encoding;

/// Tokens that windows of a long text share, as everywhere else by default.
const STRIDE: usize = 128;

/// A sequence, and the tokens whose outputs are looked at; none where a model says something of a record as a whole.
pub type Sequence = (Encoding, Reads);

/// A record as the model reads it: of what is longer than a window, the first.
///
/// # Errors
/// Why it cannot be read.
pub fn sequence(model: &Model, record: &Record) -> Result<Sequence, String> {
    let whole = || model.encode(record).map_err(|error| error.to_string());
    let windows: Vec<Sequence> = match model.task() {
        Task::Record => vec![(whole()?, Reads::default())],
        Task::Spans => question_windows(model, record, STRIDE)?.into_iter().map(read_whole).collect(),
        Task::Tags => encoded_text(model, record.clone(), STRIDE)?.sequences,
        Task::Masks => {
            // A logit for each piece of the vocabulary: of one token.
            let encoding = whole()?;
            let token = encoding.own_tokens().next().unwrap_or(0) as u32;
            vec![(encoding, Reads::from([token]))]
        }
    };
    windows.into_iter().next().ok_or_else(|| "no token".to_owned())
}

/// Outputs of each sequence, in their order; `batch_tokens` and `done` as of [`Model::run`].
///
/// # Errors
/// As [`Model::run`].
pub fn run_sequences(
    model: &Model,
    sequences: &[Sequence],
    batch_tokens: Option<usize>,
    done: &(dyn Fn(usize) -> bool + Sync),
) -> Result<Vec<Outputs>> {
    if model.task() != Task::Record {
        let window: Vec<_> = sequences.iter().map(|(encoding, reads)| (encoding, Reads::clone(reads))).collect();
        return model.read(&window, batch_tokens, done);
    }
    let encodings: Vec<&Encoding> = sequences.iter().map(|(encoding, _)| encoding).collect();
    let Outputs { features, logits } = model.run(&encodings, batch_tokens, done)?;
    let (e, k) = (model.width(), model.classes());
    let row = |i| Outputs { features: features[i * e..][..e].to_vec(), logits: logits[i * k..][..k].to_vec() };
    Ok((0..sequences.len()).map(row).collect())
}
