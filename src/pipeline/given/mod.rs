//! Factors that another program made, of any model: stored and searched like our own.

mod array;
mod scores;
mod source;

use std::path::Path;

pub use scores::GivenScores;
use source::Given;
pub use source::GivenFile;

use super::answers::{Answers, Waiting};
use super::asker::Asker;
use super::index::block;
use super::prepared::Prepared;
use super::queries::{ResultSink, SearchOptions};
use super::recall::First;
use super::{Chunk, IndexOptions, Pass, Progress, Rejections, Summary};
use crate::backend::gpu::Gpu;
use crate::dataset::{Dataset, Digest, IdCheck, Record};
use crate::error::{Error, Result};
use crate::factors::Target;
use crate::interrupt;
use crate::model::{ClassNames, Outputs, Problem};
use crate::store::{self, Dtype, Part, Store, StoreWriter};

/// Factors to be stored or asked about, with what is not in their file.
pub struct GivenFactors<'a> {
    /// Where they are.
    pub file: &'a GivenFile,
    /// Ids, texts and labels for arrays, which have none.
    pub texts: Option<Dataset>,
    /// The classes' names; where none are given those beside the arrays (`label_names.json`), else `LABEL_0`….
    pub label_names: Option<Vec<String>>,
}

/// Stores given factors at `dir`, as [`super::index`] does those it computes; a store that was begun is gone on with
/// where [`IndexOptions::resume`] says so. What the head was trained to do is told by the shapes: no logits, an encoder
/// without a head; one, a regression; several with a list for a label, a multi-label classifier; else a classifier.
///
/// # Errors
/// Where a file cannot be read, or holds what cannot be stored (the record is named).
pub fn index_given(
    given: GivenFactors<'_>,
    dir: &Path,
    options: &IndexOptions,
    quiet: bool,
    rejections: &mut Rejections,
) -> Result<Summary> {
    if options.append || !options.checkpoints.is_empty() {
        return Err(Error::usage(
            "given factors make a whole store of one model: --append and --checkpoint are not for them",
        ));
    }
    let mut given = given;
    if given.label_names.is_none() {
        given.label_names = given.file.label_names()?;
    }
    let progress = Progress::new("indexing", None, quiet);
    let mut writer: Option<StoreWriter> = None;
    let mut first = None;
    let ran = each_chunk(given, (options.part, options.block_records), rejections, &mut |chunk, model| {
        let writer = match &mut writer {
            Some(writer) => writer,
            none => {
                let settings = store_settings(model, options);
                none.insert(StoreWriter::create(dir, settings, options.part, None, options.resume)?)
            }
        };
        let wanted = options.part.owns(chunk.number) && !writer.has(chunk.number, &chunk.digest.to_string())?;
        if wanted || chunk.number == 0 && options.dtype != Dtype::F32 {
            let mut block = block(model.problem, options, chunk);
            if block.number == 0 {
                first = First::new(options.dtype, model.width, options.block_records);
            }
            if let Some(first) = &mut first {
                first.meet(&block.indices, &block.features);
                block.nearest = wanted.then(|| first.find(&block, writer)).transpose()?;
            }
            if wanted {
                writer.write(&block)?;
            }
        }
        Ok(())
    });
    let mut summary = ran.inspect_err(|_| writer.iter().for_each(StoreWriter::abandon))?;
    let writer = writer.ok_or_else(|| Error::usage("there are no records"))?;
    writer.finish(summary.numbered)?;
    summary.seconds = progress.seconds();
    Ok(summary)
}

/// A store searched for queries whose factors were made elsewhere, by the model that made the store's.
pub struct GivenSearch<'a> {
    /// The training records.
    pub store: &'a Store,
    /// What is asked.
    pub options: &'a SearchOptions,
    /// Where to search; the CPU where there are none.
    pub devices: &'a [Gpu],
}

impl GivenSearch<'_> {
    /// Asks about every record of `given`; results go to `sink` in order.
    ///
    /// # Errors
    /// Where queries, store and rule do not belong together, or the sink fails.
    pub fn run(
        &self,
        mut given: GivenFactors<'_>,
        quiet: bool,
        rejections: &mut Rejections,
        sink: &mut dyn ResultSink,
    ) -> Result<Summary> {
        let Self { store, options, devices } = *self;
        let settings = store.settings();
        store.expect_one_factor("--from-factors")?;
        if options.rule.needs_checkpoints() {
            return Err(Error::usage(format!("rule {}: given queries have no checkpoints' factors", options.rule)));
        }
        given.label_names = Some(settings.label_names.clone()).filter(|names| !names.is_empty());
        let prepared = Prepared::new(options.rule, store, &options.rule_options, options.memory, quiet)?;
        let answers = Answers::new(store, options, &prepared)?.on(devices.iter().collect());
        let classes =
            ClassNames::new(given.label_names.clone(), settings.problem, settings.classes).map_err(Error::usage)?;
        let asker = Asker::new(&classes, options, false)?;
        let progress = Progress::new("searching", None, quiet);
        let mut waiting = Waiting::new(&answers);
        let mut summary = each_chunk(given, (Part::WHOLE, 4096), rejections, &mut |chunk, model| {
            if (model.width, model.classes) != (settings.width, settings.classes) {
                let (found, expected) = ((model.width, model.classes), (settings.width, settings.classes));
                let message =
                    format!("queries: expected width and classes {expected:?} as in the store, found {found:?}");
                return Err(Error::Mismatch(message, None));
            }
            waiting.ask(asker.asked(&chunk)?, sink)
        })?;
        waiting.answer(sink)?;
        (summary.seconds, summary.searched) = (progress.seconds(), answers.searched());
        Ok(summary)
    }
}

/// What is known of the model that made the factors.
struct GivenModel {
    problem: Problem,
    width: usize,
    classes: usize,
    names: ClassNames,
    /// Whether they were given.
    named: bool,
}

impl GivenModel {
    fn of(given: &Given, names: Option<&Vec<String>>) -> Result<Self> {
        let (width, classes) = (given.features.len(), given.logits.len());
        let problem = match classes {
            0 => Problem::Headless,
            1 => Problem::Regression,
            _ if given.several => Problem::MultiLabel,
            _ => Problem::SingleLabel,
        };
        let named = names.is_some();
        let names = ClassNames::new(names.cloned(), problem, classes).map_err(Error::usage)?;
        Ok(Self { problem, width, classes, names, named })
    }

    fn gold(&self, given: &Given) -> Result<Option<Target>> {
        let label = given.record.label.as_ref().filter(|_| self.problem != Problem::Headless);
        let how = if self.named { "" } else { " (--label-names gives the classes' own)" };
        let refuse = |reason| given.place.error(format!("{reason}{how}"));
        label.map(|label| self.names.resolve(label)).transpose().map_err(refuse)
    }

    fn check(&self, given: &Given) -> Result<()> {
        let (found, expected) = ((given.features.len(), given.logits.len()), (self.width, self.classes));
        if found == expected {
            return Ok(());
        }
        Err(given.place.error(format!(
            "expected {} features and {} logits, found {} and {}",
            expected.0, expected.1, found.0, found.1
        )))
    }
}

/// Cuts the records into chunks of `records` numbers and hands each to `take`. Those of `part`'s chunks count.
fn each_chunk(
    given: GivenFactors<'_>,
    (part, records): (Part, u64),
    rejections: &mut Rejections,
    take: &mut dyn FnMut(Chunk, &GivenModel) -> Result<()>,
) -> Result<Summary> {
    let mut model: Option<GivenModel> = None;
    let mut chunk: Option<Chunk> = None;
    let mut ids = IdCheck::new();
    let mut summary = Summary::default();
    given.file.each(0, given.texts, &mut |one| {
        interrupt::check()?;
        let model = match &mut model {
            Some(model) => model,
            none => none.insert(GivenModel::of(&one, given.label_names.as_ref())?),
        };
        summary.numbered += 1;
        let number = one.record.index / records;
        if let Some(full) = chunk.take_if(|chunk| chunk.number != number) {
            take(full, model)?;
        }
        let chunk = chunk.get_or_insert_with(|| empty(number, model));
        match model.check(&one).and_then(|()| check_id(&mut ids, &one)).and_then(|()| model.gold(&one)) {
            Ok(gold) => {
                summary.records += u64::from(part.owns(number));
                summary.unread_labels += u64::from(model.problem == Problem::Headless && one.record.label.is_some());
                push(chunk, one, gold);
                Ok(())
            }
            Err(error) if part.owns(number) => rejections.take(error),
            Err(error) => rejections.leave(error),
        }
    })?;
    if let (Some(chunk), Some(model)) = (chunk, &model) {
        take(chunk, model)?;
    }
    summary.skipped = rejections.count();
    Ok(summary)
}

fn check_id(ids: &mut IdCheck, given: &Given) -> Result<()> {
    let Record { index, id, .. } = &given.record;
    let is_new = if *id == index.to_string() { ids.insert_number(*index) } else { ids.insert(id) };
    if is_new { Ok(()) } else { Err(given.place.error(format!("duplicate id \"{id}\""))) }
}

fn empty(number: u64, model: &GivenModel) -> Chunk {
    let pass = Pass { width: model.width, classes: model.classes, outputs: Outputs::default() };
    let (records, gold, passes, digest) = (Vec::new(), Vec::new(), vec![pass], Digest::default());
    Chunk { number, records, gold, passes, digest, tokens: 0, truncated: 0, repeated: 0 }
}

fn push(chunk: &mut Chunk, given: Given, gold: Option<Target>) {
    chunk.digest.push(&given.record);
    chunk.digest.push_numbers(&given.features);
    chunk.digest.push_numbers(&given.logits);
    chunk.passes[0].outputs.features.extend(given.features);
    chunk.passes[0].outputs.logits.extend(given.logits);
    chunk.records.push(given.record);
    chunk.gold.push(gold);
}

/// A store that no model of ours made has no fingerprints to compare.
fn store_settings(model: &GivenModel, options: &IndexOptions) -> store::Settings {
    store::Settings {
        model: String::new(),
        model_fingerprint: String::new(),
        head_fingerprint: String::new(),
        tokenizer_fingerprint: String::new(),
        max_length: 0,
        problem: model.problem,
        width: model.width,
        classes: model.classes,
        label_names: model.names.names().to_vec(),
        target: options.target,
        dtype: options.dtype,
        block_records: options.block_records,
        checkpoints: Vec::new(),
        scan: options.scan,
        gradients: None,
        gradient_layers: Vec::new(),
        tokens: None,
        columns: Vec::new(),
        precision: None,
    }
}
