//! Models trained on other records: what yardsticks of training records are held against.
//!
//! A [`Subset`] says of which records a model is trained; what comes back is the margin of every query's label under
//! it. What is trained: the last layer alone, to its one optimum, over the features the model has; or the whole model,
//! by [`crate::train`].
//!
//! Trainings know nothing of each other, so many run at once, and each is kept under a name made of its records and its
//! seed alone: a run that was interrupted goes on where it was, and yardsticks of the same model, queries and options
//! share what they have.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::kept::Kept;
use crate::backend::Precision;
use crate::backend::cpu::Cpu;
use crate::dataset::{Dataset, Record};
use crate::error::{Error, Result};
use crate::factors::{InMemory, LabelVec, Refit, RefitOptions, Target, refit, refit_from};
use crate::interrupt;
use crate::model::{Blueprint, HeadPlan, Model, Problem, Trainee, folder_fingerprint};
use crate::pipeline::{Progress, Rejections, Settings};
use crate::report::class_value;
use crate::store::{Shard, Store, StoredRecord};
use crate::tokens::pack;
use crate::train::{self, Example, Labelled, TrainOptions, TrainPlan};

/// What is trained on each subset.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retraining {
    /// The last layer, to the optimum of its regularised loss with this λ.
    Head(f64),
    /// The whole model.
    Full(Box<FullRetraining>),
}

impl Retraining {
    /// Whether a seed changes anything.
    pub fn has_seeds(&self) -> bool {
        matches!(self, Self::Full(_))
    }

    /// What decides the outcome for this model, as it is kept beside it: whole models trained on a GPU have its bits.
    pub(super) fn described(&self, model: &Model) -> serde_json::Value {
        let mut described = serde_json::to_value(self).unwrap_or_default();
        if let (Self::Full(from), Some(full)) = (self, described["full"].as_object_mut()) {
            // A path may hold other weights tomorrow.
            full.insert("start_fingerprint".to_owned(), folder_fingerprint(&from.start).unwrap_or_default().into());
            if !model.gpus().is_empty() {
                full.insert("gpu".to_owned(), true.into());
            }
        }
        described
    }
}

/// How whole models are trained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FullRetraining {
    /// The model directory each training starts from.
    pub start: String,
    /// Whether it starts from drawn parameters: only the configuration and the tokenizer are read.
    pub scratch: bool,
    /// Of passes; parameters, gradients and moments are f32.
    #[serde(skip_serializing_if = "is_f32")]
    pub precision: Precision,
    /// Everything else.
    pub options: TrainOptions,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde hands over")]
fn is_f32(precision: &Precision) -> bool {
    matches!(precision, Precision::Auto | Precision::F32)
}

/// What is trained, and how the work is done.
#[derive(Clone, Debug, PartialEq)]
pub struct RetrainingPlan {
    /// What decides the margins.
    pub retraining: Retraining,
    /// Where they are kept, for a run that goes on; nowhere where `None`.
    pub keep: Option<PathBuf>,
    /// Whole models trained at once, the threads shared out among them. Changes no bit.
    pub at_once: usize,
}

/// Which training records a model learns from: rows of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subset {
    /// Ascending.
    rows: Vec<u32>,
    /// Whether those are the ones left out.
    left_out: bool,
    /// Added to the training's own.
    seed: u64,
}

impl Subset {
    /// These records alone.
    pub fn of(rows: impl IntoIterator<Item = usize>) -> Self {
        Self::new(rows, false)
    }

    /// All but these records.
    pub fn without(rows: impl IntoIterator<Item = usize>) -> Self {
        Self::new(rows, true)
    }

    fn new(rows: impl IntoIterator<Item = usize>, left_out: bool) -> Self {
        let mut rows: Vec<u32> = rows.into_iter().map(|row| row as u32).collect();
        rows.sort_unstable();
        rows.dedup();
        Self { rows, left_out, seed: 0 }
    }

    /// The same records, learnt with this much added to the seed.
    #[must_use]
    pub fn seeded(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The records named: those that are in it, or those left out.
    pub fn named(&self) -> &[u32] {
        &self.rows
    }

    /// For each of `records`, whether it is learnt.
    pub fn members(&self, records: usize) -> Vec<bool> {
        let mut members = vec![self.left_out; records];
        self.rows.iter().for_each(|&row| members[row as usize] = !self.left_out);
        members
    }

    /// What scores add up to over its records, but for the sum over all records, which is the same for every subset.
    pub fn sum(&self, scores: &[f32]) -> f64 {
        let sum: f64 = self.rows.iter().map(|&row| f64::from(scores[row as usize])).sum();
        if self.left_out { -sum } else { sum }
    }

    /// A name that no other subset has.
    fn key(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(&[u8::from(self.left_out)]);
        self.rows.iter().for_each(|row| {
            hasher.update(&row.to_le_bytes());
        });
        hasher.finalize().to_hex()[..24].to_owned()
    }
}

/// The records that subsets are drawn of, and the queries whose margins are told.
pub struct Trainings<'a> {
    /// The model explained.
    pub model: &'a Model,
    /// A store of the training records: what subsets are of.
    pub store: &'a Store,
    /// The training records themselves.
    pub training: Vec<Example>,
    /// Queries, each with the label its margin is of.
    pub queries: Vec<Example>,
}

impl<'a> Trainings<'a> {
    /// Reads both sets. Every record of the store must be among the training data, and be there what was indexed.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model that is no classifier of one label; [`Error::Mismatch`] where data and store do not
    /// belong together; what cannot be read.
    pub fn read(
        model: &'a Model,
        store: &'a Store,
        training: Dataset,
        queries: Dataset,
        rejections: &mut Rejections,
    ) -> Result<Self> {
        if model.problem() != Problem::SingleLabel {
            return Err(Error::usage(format!(
                "{}: expected a classifier of one label: what is predicted is the margin of a label",
                model.name()
            )));
        }
        let trainee = Blueprint::read(&model.directory().to_string_lossy(), false)?.build(
            Cpu::new().shared_out(),
            plan(model),
            0,
            Some(model.max_length()),
        )?;
        let before = rejections.count();
        let training = Labelled::read(training, None, rejections)?;
        check_indexed(model, store, &training)?;
        let training = training.examples(&trainee, rejections)?;
        let left_out = rejections.count() - before;
        let queries = Labelled::read(queries, None, rejections)?.examples(&trainee, rejections)?;
        let by_index: HashMap<u64, usize> =
            (0..).zip(&training).map(|(place, example)| (example.index, place)).collect();
        let find = |index: &u64| {
            by_index.get(index).map(|&place| training[place].clone()).ok_or_else(|| {
                let (which, hint) = match left_out {
                    0 => ("", INDEXED),
                    _ => (" that can be learnt", "index those alone that have a label, for this yardstick"),
                };
                let told = format!("training record {index} of the store is not among the training data{which}");
                Error::Mismatch(told, None).with_hint(hint)
            })
        };
        let rows = store.shards().iter().flat_map(Shard::indices).map(find).collect::<Result<_>>()?;
        Ok(Self { model, store, training: rows, queries })
    }

    /// The margins of all queries, `z_y − logsumexp` of the others, under a model trained on each of `subsets`.
    ///
    /// # Errors
    /// As training; [`Error::Usage`] for a subset of no records; [`Error::Mismatch`] where what is kept is of other
    /// data or options; [`Error::Interrupted`].
    pub fn margins(&self, subsets: &[Subset], plan: &RetrainingPlan, settings: &Settings) -> Result<Vec<Vec<f64>>> {
        let (mut kept, lines) = Kept::open(plan.keep.as_deref(), &self.header(&plan.retraining))?;
        let mut known: HashMap<String, Vec<f64>> =
            lines.into_iter().map(|Learnt { training, margins }| (training, margins)).collect();
        let mut asked = HashSet::new();
        let wanted: Vec<(String, &Subset)> = subsets.iter().map(|subset| (subset.key(), subset)).collect();
        let missing: Vec<&(String, &Subset)> =
            wanted.iter().filter(|(key, _)| !known.contains_key(key) && asked.insert(key.clone())).collect();
        let progress = Progress::new("retraining", Some(missing.len() as u64), settings.quiet);
        let ready = if missing.is_empty() { None } else { Some(self.ready(plan, settings)?) };
        let mut done = 0;
        for wave in missing.chunks(plan.wave()) {
            interrupt::check()?;
            let Some(ready) = &ready else { break };
            for ((training, _), margins) in wave.iter().zip(ready.train(wave)) {
                let margins = margins?;
                if !margins.iter().all(|margin| margin.is_finite()) {
                    return Err(Error::diverged(format_args!("retraining {} of {}", done + 1, missing.len())));
                }
                kept.push(&Learnt { training: training.clone(), margins: margins.clone() })?;
                known.insert(training.clone(), margins);
                done += 1;
                progress.set(done, done);
            }
        }
        // Where a state is left in it, it stays.
        let _ = plan.keep.as_deref().map(|keep| std::fs::remove_dir(under_way(keep)));
        Ok(wanted.iter().map(|(key, _)| known[key].clone()).collect())
    }

    /// What decides the margins, beside the records learnt.
    fn header(&self, retraining: &Retraining) -> Header<'_> {
        let queries = self.queries.iter().map(|query| (&query.id, &query.target, &query.encoding.ids));
        let asked = format!("{:?}", queries.collect::<Vec<_>>());
        Header {
            model: self.model.fingerprint(),
            data: self.store.records_fingerprint(),
            queries: blake3::hash(asked.as_bytes()).to_hex().to_string(),
            retraining: retraining.described(self.model),
        }
    }

    fn ready<'r>(&'r self, plan: &'r RetrainingPlan, settings: &'r Settings) -> Result<Ready<'r>> {
        let mut ready = Ready { trainings: self, plan, settings, features: Features::default(), start: None };
        if let Retraining::Head(penalty) = plan.retraining {
            ready.features = self.features(settings)?;
            let rows: Vec<usize> = (0..self.training.len()).collect();
            let source = self.rows(&rows, &ready.features.training);
            let options = RefitOptions { penalty, ..RefitOptions::default() };
            ready.start = Some(refit(&source, &options, &|| !interrupt::asked())?);
        }
        Ok(ready)
    }

    /// What the model makes of both sets.
    ///
    /// # Errors
    /// What the device fails at; [`Error::Interrupted`].
    pub fn features(&self, settings: &Settings) -> Result<Features> {
        let of = |examples: &[Example]| -> Result<Vec<f32>> {
            let window: Vec<&Example> = examples.iter().collect();
            Ok(self.model.run(&window, settings.batch_tokens, &|_| !interrupt::asked())?.features)
        };
        Ok(Features { training: of(&self.training)?, queries: of(&self.queries)? })
    }

    /// Some training records as a last layer is fitted to them, of the features of all.
    pub(super) fn rows(&self, rows: &[usize], features: &[f32]) -> InMemory {
        let (width, classes) = (self.model.width(), self.model.classes());
        let label = |&row: &usize| match self.training[row].target {
            Target::Class(class) => class as i64,
            Target::Classes(_) | Target::Values(_) => -1,
        };
        InMemory {
            problem: Problem::SingleLabel,
            width,
            classes,
            features: rows.iter().flat_map(|row| &features[row * width..][..width]).copied().collect(),
            deltas: vec![0.0; rows.len() * classes],
            labels: LabelVec::Classes(rows.iter().map(label).collect()),
            weights: Vec::new(),
            rows_at_a_time: 65_536,
        }
    }
}

/// What to do about training data that are not a store's.
const INDEXED: &str = "give the data that were indexed, with --training";

/// Refuses training data of which a record is not the one that the store has under its number; records that a store has
/// and they lack are told later.
fn check_indexed(model: &Model, store: &Store, training: &Labelled) -> Result<()> {
    let by_index: HashMap<u64, &Record> = training.records().map(|record| (record.index, record)).collect();
    let has_texts = store.has_texts()?;
    for shard in store.shards() {
        for (row, index) in shard.indices().iter().enumerate() {
            let Some(record) = by_index.get(index) else { continue };
            let label = shard.labels().target(row, model.classes(), model.problem());
            if let Some(difference) = difference(model, &shard.record(row)?, label, record, has_texts) {
                return Err(Error::Mismatch(
                    format!("training record {index}: {difference}"),
                    Some(INDEXED.to_owned()),
                ));
            }
        }
    }
    Ok(())
}

/// What tells a training record from the one that was indexed; of a store without texts, only what it has can.
fn difference(
    model: &Model,
    indexed: &StoredRecord,
    label: Option<Target>,
    record: &Record,
    has_texts: bool,
) -> Option<String> {
    let told = |what: &str, [expected, found]: [&str; 2]| Some(format!("{what}: expected {expected}, found {found}"));
    // Where factors came without ids, records are called by their numbers.
    let named = has_texts || indexed.id != record.index.to_string();
    if named && indexed.id != record.id {
        return told("id", [&indexed.id, &record.id].map(|id| format!("\"{id}\"")).each_ref().map(String::as_str));
    }
    if has_texts && indexed.text != record.text {
        return told("text", excerpts(&indexed.text, &record.text).each_ref().map(String::as_str));
    }
    match (&indexed.pair, &record.pair) {
        (expected, found) if !has_texts || expected == found => {}
        (Some(expected), Some(found)) => {
            return told("pair", excerpts(expected, found).each_ref().map(String::as_str));
        }
        (Some(_), None) => return told("pair", ["one", "none"]),
        (None, _) => return told("pair", ["none", "one"]),
    }
    // A label that means nothing to the model is told with its place.
    let found = model.resolve_label(record.label.as_ref()?).ok()?;
    match label {
        Some(expected) if expected != found => {
            let names = model.class_names().names();
            let words = [expected, found].map(|target| class_value(&target, names).to_string());
            told("label", words.each_ref().map(String::as_str))
        }
        None if has_texts => told("label", ["none", "one"]),
        _ => None,
    }
}

/// Two texts from a little before where they part.
fn excerpts(a: &str, b: &str) -> [String; 2] {
    let alike = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let from = if alike < 40 { 0 } else { alike - 10 };
    [a, b].map(|text| {
        let few: String = text.chars().skip(from).take(60).collect();
        let more = if text.chars().nth(from + 60).is_some() { "…" } else { "" };
        format!("\"{}{few}{more}\"", if from > 0 { "…" } else { "" })
    })
}

/// The features of both sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// Of training records, `[N, E]`.
    pub training: Vec<f32>,
    /// Of queries, `[Q, E]`.
    pub queries: Vec<f32>,
}

impl RetrainingPlan {
    /// Trainings begun together.
    fn wave(&self) -> usize {
        match self.retraining {
            Retraining::Head(_) => 4 * rayon::current_num_threads(),
            Retraining::Full(_) => self.at_once.max(1),
        }
    }
}

/// A line of what is kept.
#[derive(Serialize, Deserialize)]
struct Learnt {
    training: String,
    margins: Vec<f64>,
}

#[derive(Serialize)]
struct Header<'a> {
    model: &'a str,
    data: String,
    queries: String,
    retraining: serde_json::Value,
}

/// All that trainings share.
struct Ready<'a> {
    trainings: &'a Trainings<'a>,
    plan: &'a RetrainingPlan,
    settings: &'a Settings,
    /// Where heads are fitted again.
    features: Features,
    /// The optimum over all records, which that of most of them is near.
    start: Option<Refit>,
}

impl Ready<'_> {
    /// The margins under each, all trained at once.
    fn train(&self, wave: &[&(String, &Subset)]) -> Vec<Result<Vec<f64>>> {
        match &self.plan.retraining {
            Retraining::Head(penalty) => wave.par_iter().map(|(_, subset)| self.refit(subset, *penalty)).collect(),
            Retraining::Full(full) if wave.len() == 1 => vec![self.retrain(&wave[0].0, wave[0].1, full)],
            Retraining::Full(full) => {
                let threads = (rayon::current_num_threads() / wave.len()).max(1);
                let alone = |(key, subset): &(String, &Subset)| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                    let pool = pool.map_err(|error| Error::usage(error.to_string()))?;
                    pool.install(|| self.retrain(key, subset, full))
                };
                std::thread::scope(|scope| {
                    let begun: Vec<_> = wave.iter().map(|one| scope.spawn(move || alone(one))).collect();
                    let ended = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
                        Ok(margins) => margins,
                        Err(panic) => std::panic::resume_unwind(panic),
                    };
                    begun.into_iter().map(ended).collect()
                })
            }
        }
    }

    fn refit(&self, subset: &Subset, penalty: f64) -> Result<Vec<f64>> {
        let Trainings { training, queries, model, .. } = self.trainings;
        let members = subset.members(training.len());
        let rows: Vec<usize> = (0..members.len()).filter(|&row| members[row]).collect();
        let options = RefitOptions { penalty, ..RefitOptions::default() };
        let source = self.trainings.rows(&rows, &self.features.training);
        let head = match &self.start {
            Some(start) => refit_from(start, &source, &options, &|| !interrupt::asked())?,
            None => refit(&source, &options, &|| !interrupt::asked())?,
        };
        let margins = self.features.queries.chunks_exact(model.width()).zip(queries);
        Ok(margins.map(|(h, query)| margin(&head.logits(h), &query.target)).collect())
    }

    fn retrain(&self, key: &str, subset: &Subset, full: &FullRetraining) -> Result<Vec<f64>> {
        let Trainings { model, training, queries, .. } = self.trainings;
        let members = subset.members(training.len());
        let taken: Vec<Example> =
            training.iter().zip(members).filter(|(_, member)| *member).map(|(example, _)| example.clone()).collect();
        let options = TrainOptions { seed: full.options.seed.wrapping_add(subset.seed), ..full.options.clone() };
        let mut trainee = full.begin(model, options.seed)?;
        let state = self.plan.keep.as_deref().map(|keep| under_way(keep).join(key));
        let plan = TrainPlan {
            quiet: true,
            batch_tokens: self.settings.batch_tokens,
            resume: state.is_some(),
            checkpoints: state,
            ..TrainPlan::default()
        };
        train::train(&mut trainee, &taken, &[], &options, &plan, &mut |_| Ok(()))?;
        let margins = margins_of(&mut trainee, queries, self.settings)?;
        plan.checkpoints.as_deref().map_or(Ok(()), train::remove_state)?;
        Ok(margins)
    }
}

/// Where the states of trainings lie while they are under way.
fn under_way(keep: &Path) -> PathBuf {
    let mut name = keep.as_os_str().to_owned();
    name.push(".under-way");
    name.into()
}

impl FullRetraining {
    /// A model before its training, of the classes of `model` and on its device, the first of several.
    ///
    /// # Errors
    /// As [`Blueprint::read`] and [`Blueprint::build_on`].
    pub fn begin(&self, model: &Model, seed: u64) -> Result<Trainee> {
        let blueprint = Blueprint::read(&self.start, self.scratch)?;
        blueprint.build_on(model.asked().0.first(), self.precision, plan(model), seed, Some(model.max_length()))
    }
}

/// The margin of every query's label as a model in training has it.
pub(super) fn margins_of(trainee: &mut Trainee, queries: &[Example], settings: &Settings) -> Result<Vec<f64>> {
    let window: Vec<&Example> = queries.iter().collect();
    let (positions, classes) = (trainee.positions(), trainee.learner().classes());
    let mut margins = vec![0.0; window.len()];
    for micro in pack(&window, positions, settings.batch_tokens.unwrap_or(2048)) {
        interrupt::check()?;
        let outputs = trainee.learner().answer(micro.batch)?;
        for (&row, z) in micro.rows.iter().zip(outputs.logits.chunks_exact(classes)) {
            let z: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
            margins[row] = margin(&z, &queries[row].target);
        }
    }
    Ok(margins)
}

pub(super) fn plan(model: &Model) -> HeadPlan {
    HeadPlan { names: model.class_names().names().to_vec(), problem: model.problem() }
}

/// `z_y − logsumexp` of the others.
pub(super) fn margin(z: &[f64], target: &Target) -> f64 {
    let Target::Class(class) = *target else { return 0.0 };
    let others = || z.iter().enumerate().filter(move |(c, _)| *c != class).map(|(_, z)| *z);
    let largest = others().fold(f64::NEG_INFINITY, f64::max);
    z[class] - largest - others().map(|z| (z - largest).exp()).sum::<f64>().ln()
}

/// The cross-entropy of a label whose margin this is: `log(1 + e^−m)`.
pub(super) fn loss(margin: f64) -> f64 {
    if margin > 0.0 { (-margin).exp().ln_1p() } else { margin.exp().ln_1p() - margin }
}
