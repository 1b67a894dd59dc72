//! `search` in a store of a model that says something of tokens: what is asked of a record, and what its own factors
//! ask.

use super::answer_points::answer_points;
use super::answers::{Answers, Asked, Waiting};
use super::bundles::{Against, BundleChunk, Bundled, Bundler, Kept, Part, named_class};
use super::prepared::{Asking, Prepared, joined};
use super::queries::{QueryTarget, ResultSink, SearchJob, SearchOptions};
use super::stream::{as_read, stream_of};
use super::{Chunking, Progress, Rejections, Settings, Summary};
use crate::dataset::{Dataset, Record};
use crate::error::{Error, Result};
use crate::factors::{AnswerWindow, Bundle, Target};
use crate::model::{Model, Task};
use crate::report::SearchResult;
use crate::search::{self, FactorSet, Rule};
use crate::store::{Said, Store, StoredRecord, TokenSettings};

/// Records that ask together: δ over a vocabulary is large.
const QUERIES: u64 = 512;

/// Asks about every record of `dataset`, on the CPU.
pub(super) fn search(
    job: &SearchJob<'_>,
    tokens: TokenSettings,
    dataset: Dataset,
    settings: &Settings,
    rejections: &mut Rejections,
    sink: &mut dyn ResultSink,
) -> Result<Summary> {
    let SearchJob { model, store, options, .. } = *job;
    let against = against(model, options)?;
    let of_tokens = options.rule == Rule::Representer && tokens.task == Task::Spans;
    let (prepared, kept) = if of_tokens {
        let points = answer_points(model, store, tokens, options, settings)?;
        (Prepared::answers(store, points), Kept::Boundaries)
    } else {
        let SearchOptions { rule, rule_options, memory, .. } = options;
        (Prepared::new(*rule, store, rule_options, *memory, settings.quiet)?, Kept::Nothing)
    };
    let answers = Answers::new(store, options, &prepared)?.on(model.gpus());
    let searched = answers.searched();
    let models: Vec<&Model> = std::iter::once(model).chain(job.checkpoints).collect();
    let part = match (options.token, options.entity) {
        (Some(token), _) => Part::Token(token),
        (None, Some(entities)) => Part::Entities(entities),
        (None, None) => Part::Whole,
    };
    let bundler = Bundler { models: &models, tokens, against, part, kept };
    let progress = Progress::new("searching", dataset.bytes_total(), settings.quiet);
    let chunking = Chunking { records: QUERIES, ..Chunking::any() };
    let mut waiting = Waiting::new(&answers);
    let mut answer =
        |chunk: BundleChunk| waiting.ask(chunk.records.into_iter().map(|one| asked(one, options)).collect(), sink);
    let mut bundle = |read, rejections: &mut _, steps: &mut _| bundler.chunk(read, settings, rejections, steps);
    let mut summary = stream_of(&as_read, &mut bundle, dataset, &chunking, rejections, &progress, &mut answer)?;
    waiting.answer(sink)?;
    (summary.seconds, summary.searched) = (progress.seconds(), searched);
    Ok(summary)
}

/// What the records' losses are against.
fn against(model: &Model, options: &SearchOptions) -> Result<Against> {
    let task = model.task();
    if options.token.is_some() && task == Task::Spans {
        return Err(Error::usage("--token: this model says nothing of single tokens"));
    }
    if options.entity.is_some() && task != Task::Tags {
        return Err(Error::usage("--entity: this model tags no words"));
    }
    if options.entity.is_some() && options.token.is_some() {
        return Err(Error::usage("--entity and --token: ask about entities, or about one token"));
    }
    match &options.target {
        QueryTarget::Predicted => Ok(Against::Predicted),
        QueryTarget::Gold => Ok(Against::GoldAlone),
        QueryTarget::Label(_) if task == Task::Tags && options.token.is_none() => {
            Err(Error::usage("--target: a tag is explained at one token; say at which with --token"))
        }
        QueryTarget::Label(name) => named_class(model, name).map(Against::Class),
    }
}

fn asked(one: Bundled, options: &SearchOptions) -> Asked {
    let Bundled { record, mut bundles, mean, windows, said, span, probability } = one;
    if !windows.is_empty() {
        bundles = vec![logits(&windows, mean.len())];
    }
    let Record { id, index, text, pair, .. } = record;
    let result = SearchResult { probability, span, ..result(options, id, index, text, pair, said) };
    Asked { asking: asking(&result, mean, bundles), result, own_row: None }
}

/// The features of the tokens that an answer starts and ends at, each with its output: what a decomposition of their
/// logits asks with.
fn logits(windows: &[AnswerWindow], width: usize) -> Bundle {
    let mut bundle = Bundle::default();
    for window in windows {
        for (output, &place) in window.places.iter().enumerate() {
            bundle.features.extend_from_slice(&window.features[place * width..][..width]);
            bundle.biases.push(0.0);
            bundle.classes.push(output);
        }
    }
    bundle
}

fn asking(result: &SearchResult, mean: Vec<f32>, bundles: Vec<Bundle>) -> Asking {
    let text = joined(&result.text, result.text_pair.as_deref());
    // No one class is what is explained.
    let target = Target::Values(Vec::new());
    Asking { features: mean, delta: Vec::new(), target, checkpoints: Vec::new(), bundles, text }
}

/// A result with everything but its neighbours.
fn result(
    options: &SearchOptions,
    id: String,
    index: u64,
    text: String,
    text_pair: Option<String>,
    said: Said,
) -> SearchResult {
    SearchResult {
        id,
        index,
        text,
        text_pair,
        label: said.label,
        predicted: said.predicted,
        probability: None,
        target: said.target,
        span: None,
        rule: options.rule.name().to_owned(),
        proponents: Vec::new(),
        opponents: Vec::new(),
        groups: Vec::new(),
        candidates: None,
        certain: None,
    }
}

/// A stored record as it was indexed, asking.
pub(super) fn stored(store: &Store, options: &SearchOptions, row: usize) -> Result<Asked> {
    let (shard, place) = store.locate(row);
    let StoredRecord { id, text, pair, said, .. } = store.record(row)?;
    let index = store.shards()[shard].indices()[place];
    let result = result(options, id, index, text, pair, said.unwrap_or_default());
    let mut sets = vec![FactorSet::Final];
    if options.rule.reads_checkpoints() {
        sets.extend((0..store.settings().checkpoints.len()).map(FactorSet::Checkpoint));
    }
    let bundles = sets.into_iter().filter_map(|set| search::stored_bundle(store, row, set)).collect();
    let means = store.shards()[shard].means();
    let mean = means.map(|means| means.features.slice(place * means.width..(place + 1) * means.width).to_f32());
    Ok(Asked { asking: asking(&result, mean.unwrap_or_default(), bundles), result, own_row: Some(row) })
}
