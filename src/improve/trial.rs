//! One training and what it is worth: a folder with its result, its state while it is under way, and the model where it
//! is asked for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use serde::{Deserialize, Serialize};

use super::data;
use super::plan::{Columns, Plan};
use crate::backend::Precision;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::model::{Blueprint, ClassNames, Device, HeadPlan, Problem, Trainee};
use crate::pipeline::{Rejections, Settings};
use crate::report::Destination;
use crate::sync::lock;
use crate::train::{self, Example, Labelled, Metrics, TrainPlan};

/// Where plans are carried out.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The device.
    pub device: Device,
    /// Its arithmetic.
    pub precision: Precision,
    /// How jobs run.
    pub settings: Settings,
    /// Hears of all that is read to train on and to be judged on.
    pub note: fn(&Dataset),
    /// What trainings took so far.
    pub taken: Arc<Taken>,
    /// Whether records that cannot be used are left out instead of ending the job.
    pub skip_invalid: bool,
    /// Those of the plan's files, each once.
    pub rejections: Arc<Mutex<Rejections>>,
}

impl Machine {
    /// For the plan's files.
    pub(super) fn rejections(&self) -> MutexGuard<'_, Rejections> {
        lock(&self.rejections)
    }

    /// For files whose rejected records have been told, and those that the job itself wrote.
    pub(super) fn told_rejections(&self) -> Rejections {
        Rejections::new(self.skip_invalid, None)
    }

    /// Lists what was left out of the plan's files; how many records those were.
    ///
    /// # Errors
    /// As [`Rejections::finish`].
    pub fn finish(&self) -> Result<u64> {
        std::mem::take(&mut *self.rejections()).finish()
    }
}

/// What was computed, not found finished.
#[derive(Debug, Default)]
pub struct Taken {
    trainings: AtomicU64,
    tokens: AtomicU64,
    start: OnceLock<String>,
}

impl Taken {
    /// Trainings carried out.
    pub fn trainings(&self) -> u64 {
        self.trainings.load(Ordering::Relaxed)
    }

    /// Tokens that went forth and back in them.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Of the weights that they started from: see [`Trainee::start_fingerprint`].
    pub fn start_fingerprint(&self) -> Option<&str> {
        self.start.get().map(String::as_str)
    }
}

const RESULT: &str = "result.json";
const STATE: &str = "training";
pub(super) const MODEL: &str = "model";
pub(super) const DYNAMICS: &str = "dynamics";

/// What a training is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TrialResult {
    /// Its seed.
    pub(super) seed: u64,
    /// Training records.
    pub(super) records: u64,
    /// The epoch whose parameters were kept.
    pub(super) kept_epoch: u32,
    /// By set.
    pub(super) sets: BTreeMap<String, Metrics>,
}

/// The training data of a trial, and what is kept of it.
pub(super) struct Trial<'a> {
    pub(super) files: &'a [String],
    pub(super) columns: &'a Columns,
    pub(super) seed: u64,
    /// Its folder.
    pub(super) folder: &'a Path,
    /// Whether model and dynamics are kept: an audit will read them.
    pub(super) keep: bool,
}

/// Trainings of one plan: the same start, options and sets.
pub(super) struct Trials<'a> {
    plan: &'a Plan,
    machine: &'a Machine,
    head: HeadPlan,
    classes: ClassNames,
    /// What models are judged on, once it has been read.
    sets: Option<Vec<(String, Vec<Example>)>>,
}

impl<'a> Trials<'a> {
    /// The head is settled once, by the data that the plan begins with.
    pub(super) fn new(plan: &'a Plan, machine: &'a Machine) -> Result<Self> {
        data::check_shape(&plan.data, &plan.columns)?;
        let blueprint = Blueprint::read(&plan.model, plan.scratch)?;
        let labelled = read(&plan.data, &plan.columns, machine, &mut machine.rejections())?;
        let head = train::plan_head(&labelled, plan.labels.as_deref(), None, blueprint.head())?;
        let classes =
            ClassNames::new(Some(head.names.clone()), head.problem, head.names.len()).map_err(Error::usage)?;
        // Each file that is trained or judged on is read now, so that what cannot be used is told before any work, and
        // by a run that finds all done.
        labelled.resolved(&classes, &mut machine.rejections())?;
        let trials = Self { plan, machine, head, classes, sets: None };
        for (_, files) in plan.judged_on() {
            let set = read(files, &trials.columns_of_sets(), machine, &mut machine.rejections())?;
            set.resolved(&trials.classes, &mut machine.rejections())?;
        }
        Ok(trials)
    }

    /// What every model learns.
    pub(super) fn head(&self) -> &HeadPlan {
        &self.head
    }

    /// Its classes.
    pub(super) fn classes(&self) -> &ClassNames {
        &self.classes
    }

    /// What is judged on has no weights.
    fn columns_of_sets(&self) -> Columns {
        Columns { weight: None, ..self.plan.columns.clone() }
    }

    /// The result of a trial: as it was found, or after training.
    pub(super) fn run(&mut self, trial: &Trial<'_>) -> Result<TrialResult> {
        let done = trial.folder.join(RESULT);
        if done.exists() {
            let bytes = std::fs::read(&done).map_err(Error::io(&done))?;
            return serde_json::from_slice(&bytes).map_err(|error| Error::format(&done, error.to_string()));
        }
        std::fs::create_dir_all(trial.folder).map_err(Error::io(trial.folder))?;
        let result = self.train(trial)?;
        let mut file = Destination::create(Some(&done))?;
        file.write(format!("{:#}\n", serde_json::to_value(&result).unwrap_or_default()).as_bytes())?;
        file.finish()?;
        train::remove_state(&trial.folder.join(STATE))?;
        Ok(result)
    }

    fn train(&mut self, trial: &Trial<'_>) -> Result<TrialResult> {
        let Self { plan, machine, .. } = *self;
        let blueprint = Blueprint::read(&plan.model, plan.scratch)?;
        let mut trainee = blueprint.build_on(
            machine.device.clone(),
            machine.precision,
            self.head.clone(),
            trial.seed,
            plan.train.max_length,
        )?;
        let examples = examples(trial.files, trial.columns, &trainee, machine)?;
        let options = plan.train.options(trial.seed, plan.scratch, trainee.dropout())?;
        let sets = match self.sets.take() {
            Some(sets) => sets,
            None => self.read_sets(&trainee)?,
        };
        let dev = sets.iter().find(|(name, _)| name == "dev").map_or(&[][..], |(_, examples)| examples);
        let how = TrainPlan {
            checkpoints: Some(trial.folder.join(STATE)),
            resume: true,
            // A regression has none.
            dynamics: (trial.keep && trainee.problem() != Problem::Regression).then(|| trial.folder.join(DYNAMICS)),
            batch_tokens: machine.settings.batch_tokens,
            quiet: machine.settings.quiet,
            ..TrainPlan::default()
        };
        let watched = if options.patience.is_some() { dev } else { &[] };
        let outcome = train::train(&mut trainee, &examples, watched, &options, &how, &mut |_| Ok(()))?;
        machine.taken.trainings.fetch_add(1, Ordering::Relaxed);
        machine.taken.tokens.fetch_add(outcome.tokens, Ordering::Relaxed);
        if let Some(start) = trainee.start_fingerprint() {
            let _ = machine.taken.start.set(start.to_owned());
        }
        let judge = |(name, examples): &(String, Vec<Example>)| {
            let metrics = train::evaluate(&mut trainee, examples, machine.settings.batch_tokens)?;
            Ok((name.clone(), metrics))
        };
        let judged = sets.iter().map(judge).collect::<Result<BTreeMap<_, _>>>()?;
        self.sets = Some(sets);
        if trial.keep {
            trainee.save(&trial.folder.join(MODEL))?;
        }
        Ok(TrialResult { seed: trial.seed, records: examples.len() as u64, kept_epoch: outcome.kept, sets: judged })
    }

    fn read_sets(&self, trainee: &Trainee) -> Result<Vec<(String, Vec<Example>)>> {
        let columns = self.columns_of_sets();
        let set =
            |(name, files): (&str, &[String])| Ok((name.to_owned(), examples(files, &columns, trainee, self.machine)?));
        self.plan.judged_on().into_iter().map(set).collect()
    }
}

fn read(files: &[String], columns: &Columns, machine: &Machine, rejections: &mut Rejections) -> Result<Labelled> {
    let dataset = data::open(files, columns)?;
    (machine.note)(&dataset);
    Labelled::read(dataset, columns.weight.as_deref(), rejections)
}

fn examples(files: &[String], columns: &Columns, trainee: &Trainee, machine: &Machine) -> Result<Vec<Example>> {
    let mut rejections = machine.told_rejections();
    read(files, columns, machine, &mut rejections)?.examples(trainee, &mut rejections)
}
