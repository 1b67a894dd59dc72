//! `index`: one pass over the training data into a store.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::bundles::{self, BundleChunk, Bundler};
use super::index_tokens;
use super::recall::First;
use super::runner::{Plain, Runner, Tracing};
use super::score;
use super::stream::{Done, as_read, stream_by, stream_of};
use super::{Chunk, Chunking, Pass, Progress, Rejections, Settings, Summary};
use crate::dataset::{Dataset, Digest};
use crate::error::{Error, Result};
use crate::factors::{self, LabelUsed, LabelVec, ScanType, Target};
use crate::model::{AdamMoments, Model, Problem, Projection, Tracer};
use crate::store::{self, Block, Dtype, Nearest, Part, StoreWriter, Stored, TokenSettings};
use crate::sync::lock;

/// An earlier checkpoint of the model's training, whose factors are stored too, for TracIn and LESS.
pub struct Checkpoint {
    /// Its weights; the tokenizer and sizes must be the model's.
    pub model: Model,
    /// The learning rate at that point of the training.
    pub learning_rate: f64,
    /// AdamW's moments there, for rule less: gradients are then kept as it would follow them.
    pub moments: Option<AdamMoments>,
}

/// What goes into a store.
pub struct IndexOptions {
    /// The label whose loss δ is the gradient of.
    pub target: LabelUsed,
    /// How features are stored.
    pub dtype: Dtype,
    /// In what form a copy of the features for certified scans is kept beside them.
    pub scan: Option<ScanType>,
    /// Which blocks of the data this job takes.
    pub part: Part,
    /// Go on with a store that an earlier, interrupted job began.
    pub resume: bool,
    /// Add the data to the finished store that is there, or go on with that where an earlier such job was interrupted.
    pub append: bool,
    /// Record numbers in a block.
    pub block_records: u64,
    /// For TracIn and LESS, in the order of training.
    pub checkpoints: Vec<Checkpoint>,
    /// Store projected gradients of the whole model, in the place of the last layer's factors.
    pub gradients: Option<Projection>,
    /// Of models that answer questions: tokens of the context that neighbouring windows share.
    pub stride: usize,
    /// Of models that answer questions: tokens of a predicted answer, at most.
    pub max_answer_tokens: usize,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self {
            target: LabelUsed::Gold,
            dtype: Dtype::F32,
            scan: None,
            part: Part::WHOLE,
            resume: false,
            append: false,
            block_records: store::DEFAULT_BLOCK_RECORDS,
            checkpoints: Vec::new(),
            gradients: None,
            stride: 128,
            max_answer_tokens: 30,
        }
    }
}

/// Runs `model` over `dataset` and writes the factors of its records to a store at `dir`. Finished shards stay whatever
/// happens, and [`IndexOptions::resume`] goes on after them; the bytes of the store depend on the model, the data and
/// the options alone.
///
/// # Errors
/// As [`super::stream`], and where a checkpoint does not belong to the model, or the folder holds a store already.
pub fn index(
    model: &Model,
    mut dataset: Dataset,
    dir: &Path,
    options: &IndexOptions,
    settings: &Settings,
    rejections: &mut Rejections,
) -> Result<Summary> {
    options.checkpoints.iter().try_for_each(|checkpoint| check_checkpoint(model, &checkpoint.model))?;
    if options.gradients.is_none() && options.checkpoints.iter().any(|checkpoint| checkpoint.moments.is_some()) {
        return Err(
            Error::usage("--adam: is of the whole model's gradients").with_hint("index with --gradients projected")
        );
    }
    let settings_of_store = store_settings(model, dataset.kept_columns(), options)?;
    let tokens = settings_of_store.tokens;
    let tracers = tracers(model, options)?;
    let writer = if options.append {
        StoreWriter::append(dir, &settings_of_store, options.part)?
    } else {
        let head = model.head().filter(|_| options.gradients.is_none());
        StoreWriter::create(dir, settings_of_store, options.part, head, options.resume)?
    };
    let (number, before) = writer.begins_at()?;
    dataset.number_from(number);
    writer.each_id(|index, id| dataset.know_id(index, id))?;
    let indexing = Indexing { model, options, settings, before, writer: Mutex::new(writer) };
    let ran = match tokens {
        Some(tokens) => indexing.bundles(tokens, dataset, rejections),
        None => indexing.records(tracers.as_deref(), dataset, rejections),
    };
    let summary = ran.inspect_err(|_| lock(&indexing.writer).abandon())?;
    indexing.writer.into_inner().unwrap_or_else(PoisonError::into_inner).finish(summary.numbered)?;
    Ok(summary)
}

/// A store under way.
struct Indexing<'a> {
    model: &'a Model,
    options: &'a IndexOptions,
    settings: &'a Settings,
    /// The digest of what the store has of the block that the data begin in.
    before: Digest,
    writer: Mutex<StoreWriter>,
}

impl<'a> Indexing<'a> {
    fn models(&self) -> Vec<&'a Model> {
        std::iter::once(self.model).chain(self.options.checkpoints.iter().map(|checkpoint| &checkpoint.model)).collect()
    }

    /// Whether a block is this job's, and not there yet.
    fn wants(&self, number: u64, digest: &Digest) -> Result<bool> {
        Ok(self.options.part.owns(number) && !lock(&self.writer).has(number, &digest.to_string())?)
    }

    /// The records of a block that is there already.
    fn done(&self, number: u64, digest: &Digest) -> Result<Option<Vec<u64>>> {
        lock(&self.writer).kept(number, &digest.to_string())
    }

    fn chunking<'c>(&self, done: &'c Done<'c>, wanted_in_any_case: u64) -> Chunking<'c> {
        let (records, part) = (self.options.block_records, self.options.part);
        Chunking { records, before: self.before, part, done, first: wanted_in_any_case }
    }

    /// Records with several factors each, of a model that says something of tokens.
    fn bundles(&self, tokens: TokenSettings, dataset: Dataset, rejections: &mut Rejections) -> Result<Summary> {
        let (models, against, kept) = (self.models(), self.options.target.into(), bundles::Kept::Nothing);
        let bundler = Bundler { models: &models, tokens, against, part: bundles::Part::Whole, kept };
        let progress = Progress::new("indexing", dataset.bytes_total(), self.settings.quiet);
        let done = |number, digest: &Digest| self.done(number, digest);
        let mut sink = |chunk: BundleChunk| {
            let wanted = self.wants(chunk.number, &chunk.digest)?;
            if wanted { lock(&self.writer).write(&index_tokens::block(chunk)) } else { Ok(()) }
        };
        let mut score = |read, rejections: &mut _, steps: &mut _| bundler.chunk(read, self.settings, rejections, steps);
        stream_of(&as_read, &mut score, dataset, &self.chunking(&done, 0), rejections, &progress, &mut sink)
    }

    /// Records with one factor each.
    fn records(&self, tracers: Option<&[Tracer]>, dataset: Dataset, rejections: &mut Rejections) -> Result<Summary> {
        let (model, options, settings) = (self.model, self.options, self.settings);
        let target = |gold: Option<&Target>, z: &[f32]| explained(model.problem(), options.target, gold, z);
        let tracing = tracers.map(|tracers| Tracing { model, tracers, target: &target });
        let models = self.models();
        let plain = Plain(&models);
        let runner: &dyn Runner = tracing.as_ref().map_or(&plain, |tracing| tracing);
        let mut first = First::new(options.dtype, runner.sizes()[0].0, options.block_records);
        if let Some(first) = first.as_mut().filter(|_| options.append) {
            let records = lock(&self.writer).records_below(first.below)?;
            let numbers: Vec<u64> = records.iter().map(|record| record.index).collect();
            first.meet(&numbers, &score::features(runner, &records, settings)?);
        }
        let mut unread_labels = 0;
        let mut sink = |chunk: Chunk| {
            let wanted = self.wants(chunk.number, &chunk.digest)?;
            if model.problem() == Problem::Headless {
                unread_labels += chunk.records.iter().filter(|record| record.label.is_some()).count() as u64;
            }
            let mut block = block(model.problem(), options, chunk);
            if let Some(first) = &mut first {
                first.meet(&block.indices, &block.features);
                if wanted {
                    block.nearest = Some(first.find(&block, &lock(&self.writer))?);
                }
            }
            if wanted { lock(&self.writer).write(&block) } else { Ok(()) }
        };
        let progress = Progress::new("indexing", dataset.bytes_total(), settings.quiet);
        let done = |number, digest: &Digest| self.done(number, digest);
        let rounds = options.dtype != Dtype::F32 && !options.append;
        let chunking = self.chunking(&done, if rounds { Nearest::queries(options.block_records) } else { 0 });
        let summary = stream_by(runner, dataset, &chunking, settings, rejections, &progress, &mut sink)?;
        Ok(Summary { unread_labels, ..summary })
    }
}

fn check_checkpoint(model: &Model, checkpoint: &Model) -> Result<()> {
    let shape = |m: &Model| (m.width(), m.classes(), m.problem());
    if shape(model) != shape(checkpoint) {
        let (expected, found) = (shape(model), shape(checkpoint));
        let message = format!(
            "checkpoint {}: expected width, classes and problem {expected:?}, found {found:?}",
            checkpoint.name()
        );
        return Err(Error::Mismatch(message, None));
    }
    if model.tokenizer().fingerprint() != checkpoint.tokenizer().fingerprint() {
        let message = format!("checkpoint {}: its tokenizer is not the model's", checkpoint.name());
        return Err(Error::Mismatch(message, Some("checkpoints must be of the same training as the model".into())));
    }
    Ok(())
}

/// One for the model and each of its checkpoints, where gradients are wanted.
fn tracers(model: &Model, options: &IndexOptions) -> Result<Option<Vec<Tracer>>> {
    let all = |projection| {
        let of = |checkpoint: &Checkpoint| match &checkpoint.moments {
            Some(moments) => Tracer::adapted(&checkpoint.model, projection, moments),
            None => Tracer::new(&checkpoint.model, projection),
        };
        std::iter::once(Tracer::new(model, projection)).chain(options.checkpoints.iter().map(of)).collect()
    };
    options.gradients.as_ref().map(all).transpose()
}

/// The label whose loss a record's factors are of.
fn explained(problem: Problem, used: LabelUsed, gold: Option<&Target>, logits: &[f32]) -> Target {
    match (used, gold) {
        (LabelUsed::Gold, Some(gold)) => gold.clone(),
        (LabelUsed::Gold, None) | (LabelUsed::Predicted, _) => factors::predict(problem, logits),
    }
}

/// What such a run writes into its store's manifest.
pub(super) fn store_settings(model: &Model, columns: &[String], options: &IndexOptions) -> Result<store::Settings> {
    let checkpoint = |c: &Checkpoint| store::Checkpoint {
        path: c.model.name().to_owned(),
        fingerprint: c.model.fingerprint().to_owned(),
        learning_rate: c.learning_rate,
        moments: c.moments.as_ref().map(|moments| moments.fingerprint().to_owned()),
    };
    let kept = options.gradients.as_ref().map(|projection| Tracer::kept_of(model, projection)).transpose()?;
    let (width, gradient_layers) = kept.unwrap_or_else(|| (model.width(), Vec::new()));
    Ok(store::Settings {
        model: model.name().to_owned(),
        model_fingerprint: model.fingerprint().to_owned(),
        head_fingerprint: model.head_fingerprint().unwrap_or_default().to_owned(),
        tokenizer_fingerprint: model.tokenizer().fingerprint().to_owned(),
        max_length: model.max_length(),
        problem: model.problem(),
        width,
        classes: model.classes(),
        label_names: model.class_names().names().to_vec(),
        target: options.target,
        dtype: options.dtype,
        block_records: options.block_records,
        checkpoints: options.checkpoints.iter().map(checkpoint).collect(),
        scan: options.scan,
        gradients: options.gradients,
        gradient_layers,
        tokens: index_tokens::settings(model, options)?,
        columns: columns.to_vec(),
        precision: Some(model.device().1),
    })
}

/// A scored chunk as a block of the store.
pub(super) fn block(problem: Problem, options: &IndexOptions, chunk: Chunk) -> Block {
    let n = chunk.records.len();
    let predicted: Vec<Target> = (0..n).map(|i| factors::predict(problem, chunk.passes[0].logits(i))).collect();
    let explained: Vec<Target> =
        (0..n).map(|i| explained(problem, options.target, chunk.gold[i].as_ref(), chunk.passes[0].logits(i))).collect();
    let adapted = std::iter::once(false).chain(options.checkpoints.iter().map(|c| c.moments.is_some()));
    let mut passes = chunk.passes.into_iter().zip(adapted).map(|(pass, adapted)| {
        let (deltas, losses) = deltas(problem, &pass, &explained);
        let deltas = match options.gradients {
            Some(_) if adapted => vec![1.0; n],
            Some(_) => slopes(problem, &pass, &explained),
            None => deltas,
        };
        (pass.outputs.features, deltas, losses)
    });
    let (features, deltas, losses) = passes.next().unwrap_or_default();
    Block {
        number: chunk.number,
        indices: chunk.records.iter().map(|record| record.index).collect(),
        features,
        deltas,
        bundles: None,
        labels: labels(problem, chunk.gold.iter().map(Option::as_ref), classes_of(&predicted)),
        predictions: labels(problem, predicted.iter().map(Some), classes_of(&predicted)),
        losses,
        checkpoints: passes.map(|(features, deltas, _)| (features, deltas)).collect(),
        records: chunk.records.into_iter().map(Into::into).collect(),
        stored: Stored::default(),
        nearest: None,
        data_fingerprint: chunk.digest.to_string(),
    }
}

/// Records whose δ a thread makes at a time.
const ROWS: usize = 16;

/// δ `[n, K]` and losses `[n]` of one model's logits against the labels explained.
fn deltas(problem: Problem, pass: &Pass, explained: &[Target]) -> (Vec<f32>, Vec<f32>) {
    if problem == Problem::Headless {
        return (Vec::new(), vec![0.0; explained.len()]);
    }
    let mut deltas = vec![0.0; pass.outputs.logits.len()];
    let rows = deltas.par_chunks_exact_mut(pass.classes).enumerate();
    let of_row =
        |(i, delta): (usize, &mut [f32])| factors::loss_and_delta(problem, pass.logits(i), &explained[i], delta);
    let losses = rows.with_min_len(ROWS).map(of_row).collect();
    (deltas, losses)
}

/// The slope of each record's loss in its output function, `[n]`.
fn slopes(problem: Problem, pass: &Pass, explained: &[Target]) -> Vec<f32> {
    let mut gradient = vec![0.0; pass.classes];
    let slope = |(i, target)| factors::output_gradient(problem, pass.logits(i), target, &mut gradient);
    explained.iter().enumerate().map(slope).collect()
}

/// K, where targets are rows of K numbers.
fn classes_of(targets: &[Target]) -> usize {
    match targets.first() {
        Some(Target::Classes(row) | Target::Values(row)) => row.len(),
        Some(Target::Class(_)) | None => 0,
    }
}

/// Targets as a column: −1 or a row of NaN where there is none.
fn labels<'a>(problem: Problem, targets: impl Iterator<Item = Option<&'a Target>>, classes: usize) -> LabelVec {
    let id = |target: Option<&Target>| match target {
        Some(Target::Class(class)) => *class as i64,
        _ => -1,
    };
    let row = |target: Option<&'a Target>| match target {
        Some(Target::Classes(row) | Target::Values(row)) => row.clone(),
        _ => vec![f32::NAN; classes],
    };
    match problem {
        Problem::SingleLabel => LabelVec::Classes(targets.map(id).collect()),
        Problem::MultiLabel | Problem::Regression => LabelVec::Rows(targets.flat_map(row).collect()),
        Problem::Headless => LabelVec::Rows(Vec::new()),
    }
}
