//! The loop: epochs of steps of micro-batches, an outcome after each epoch, and a state to go on from.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::bar::Bar;
use super::dynamics::epochs_in;
use super::material::{BATCH_TOKENS, Material, Taught};
use super::order::shuffled;
use super::state::{Progress, STATE, State};
use super::{DynamicsHeader, DynamicsWriter, Metric, Metrics, Moment, Rates, TrainOptions};
use crate::backend::Precision;
use crate::backend::training::AdamStep;
use crate::destination::{Destination, is_partial};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::lock::Lock;
use crate::model::{DropoutPass, DropoutRates, Learn, NamedTensor, Task, Trainee};
use crate::tokens::{Encoding, MicroBatch, pack};

/// Where else a training writes, beside its state.
const PLACES: &str = "places.json";

/// Examples looked at after the last step where there are no dev data.
const LOOKED_AT: usize = 32;

/// How a training runs: none of it changes a bit of the outcome.
#[derive(Clone, Debug, Default)]
pub struct TrainPlan {
    /// Where its state is kept; nothing is where `None`.
    pub checkpoints: Option<PathBuf>,
    /// Steps between two states, beside one an epoch and one when interrupted.
    pub checkpoint_every: Option<u64>,
    /// Go on from the state that is there, if one is.
    pub resume: bool,
    /// Where training dynamics go.
    pub dynamics: Option<PathBuf>,
    /// Where the model is saved after each epoch, as `epoch-001` and on: what rule tracin takes for checkpoints. Those
    /// of another training are gone when this one begins.
    pub epochs: Option<PathBuf>,
    /// Save AdamW's moments beside each of those models, for rule less.
    pub keep_moments: bool,
    /// Most tokens in one pass; memory grows with it.
    pub batch_tokens: Option<usize>,
    /// No progress bar.
    pub quiet: bool,
}

/// What became of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// From 1.
    pub epoch: u32,
    /// Steps taken in all.
    pub steps: u64,
    /// The mean loss over the epoch's training passes, weighted as they were.
    pub loss: f64,
    /// How far attention was from the words it was drawn to, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rationale_loss: Option<f64>,
    /// The learning rate of its last step.
    pub learning_rate: f64,
    /// On the dev data, where there is some.
    pub dev: Option<Metrics>,
}

/// What became of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOutcome {
    /// Every epoch.
    pub epochs: Vec<EpochReport>,
    /// The epoch whose parameters were kept, from 1.
    pub kept: u32,
    /// Tokens that went forth and back in this run.
    pub tokens: u64,
}

/// Trains on `examples`, tells `told` of each epoch, and leaves the parameters in `trainee`.
///
/// # Errors
/// [`Error::Interrupted`] after a signal, the state written where there is a place for it; [`Error::Usage`] where
/// options contradict each other or the loss is no longer a number; [`Error::Mismatch`] where the state is another
/// training's.
pub fn train<M: Material>(
    trainee: &mut Trainee,
    examples: &[M],
    dev: &[M],
    options: &TrainOptions,
    plan: &TrainPlan,
    told: &mut dyn FnMut(&EpochReport) -> Result<()>,
) -> Result<TrainOutcome> {
    options.check()?;
    if options.patience.is_some() && dev.is_empty() {
        return Err(Error::usage("--patience needs data to be patient about").with_hint("give some with --dev"));
    }
    let mut run = Run::begin(trainee, examples, dev, options, plan)?;
    while !run.is_over() {
        run.epoch(told)?;
    }
    run.finish()
}

/// Predicts labelled records, nothing dropped, and says how good that was.
///
/// # Errors
/// What the device fails at; [`Error::Interrupted`].
pub fn evaluate<M: Material>(trainee: &mut Trainee, examples: &[M], batch_tokens: Option<usize>) -> Result<Metrics> {
    M::evaluate(trainee, examples, batch_tokens)
}

/// The examples of one step.
#[derive(Clone, Copy)]
struct Step<'a, M: Clone> {
    /// Their places in the training data.
    rows: &'a [usize],
    /// As they are in this epoch.
    seen: &'a [Cow<'a, M>],
    /// How many losses they bring.
    mass: f64,
    /// The weight of those whose attention is drawn to some words.
    guided: f64,
}

/// A training under way.
struct Run<'a, M> {
    trainee: &'a mut Trainee,
    examples: &'a [M],
    dev: &'a [M],
    options: &'a TrainOptions,
    plan: &'a TrainPlan,
    rates: Rates,
    steps_per_epoch: u64,
    /// What weights are divided by: their mean over the training data.
    mean_weight: f64,
    progress: Progress,
    best: Option<Vec<NamedTensor>>,
    moments: Vec<Moment>,
    dynamics: Option<DynamicsWriter>,
    bar: Bar,
    tokens: u64,
}

impl<'a, M: Material> Run<'a, M> {
    fn begin(
        trainee: &'a mut Trainee,
        examples: &'a [M],
        dev: &'a [M],
        options: &'a TrainOptions,
        plan: &'a TrainPlan,
    ) -> Result<Self> {
        let steps_per_epoch = examples.len().div_ceil(options.records_per_step()) as u64;
        let steps = steps_per_epoch * u64::from(options.epochs);
        let mean_weight = examples.iter().map(Material::weight).sum::<f64>() / examples.len().max(1) as f64;
        if mean_weight <= 0.0 {
            return Err(Error::usage("weights: expected at least one record of a weight above 0"));
        }
        let fingerprint = fingerprint(trainee.learner(), examples, dev, options)?;
        let mut run = Self {
            rates: Rates {
                schedule: options.schedule,
                height: options.learning_rate,
                warmup: options.warmup.steps(steps),
                steps,
            },
            steps_per_epoch,
            mean_weight,
            progress: Progress { fingerprint, ..Progress::default() },
            best: None,
            moments: vec![Moment::default(); if plan.dynamics.is_some() { examples.len() } else { 0 }],
            dynamics: None,
            bar: Bar::new(steps, plan.quiet),
            tokens: 0,
            trainee,
            examples,
            dev,
            options,
            plan,
        };
        run.check_metric()?;
        let resumed = run.resume()?;
        let stale = if resumed { Vec::new() } else { run.stale_epochs()? };
        run.dynamics = plan.dynamics.as_deref().map(|folder| run.open_dynamics(folder, resumed)).transpose()?;
        stale.iter().try_for_each(|stale| std::fs::remove_dir_all(stale).map_err(Error::io(stale)))?;
        Ok(run)
    }

    /// Refuses a metric that outcomes of such a model do not have, by those of one record.
    fn check_metric(&mut self) -> Result<()> {
        let one = if self.dev.is_empty() { self.examples } else { self.dev };
        let (Some(metric), Some(one)) = (self.options.metric, one.get(..1)) else { return Ok(()) };
        let measured = M::evaluate(self.trainee, one, self.plan.batch_tokens)?;
        if measured.get(metric).is_some() {
            return Ok(());
        }
        let all = Metric::ALL.into_iter().filter(|metric| measured.get(*metric).is_some()).map(Metric::name);
        Err(Error::usage(format!("metric: {metric} is not measured of such a model"))
            .with_hint(format!("go by one of {}", all.collect::<Vec<_>>().join(", "))))
    }

    /// Takes up the state there is, where that is wanted; whether there was one.
    fn resume(&mut self) -> Result<bool> {
        let Some(folder) = self.plan.checkpoints.as_deref() else { return Ok(false) };
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let state = if self.plan.resume { State::read(folder)? } else { None };
        let Some(state) = state else { return Ok(false) };
        if state.progress.fingerprint != self.progress.fingerprint {
            return Err(Error::Mismatch(
                format!("{}: the checkpoint is of a training with other data, options or model", folder.display()),
                Some("go on with those it began with, or begin anew without --resume".to_owned()),
            ));
        }
        if state.moments.len() != self.moments.len() {
            return Err(Error::usage("--dynamics: a training that is resumed keeps or leaves it as it began"));
        }
        self.trainee.learner().restore(&state.learner)?;
        (self.progress, self.best, self.moments) = (state.progress, state.best, state.moments);
        self.bar.set(self.progress.steps, None);
        Ok(true)
    }

    /// The models that another training saved where this one's are to go.
    fn stale_epochs(&self) -> Result<Vec<PathBuf>> {
        let Some(folder) = &self.plan.epochs else { return Ok(Vec::new()) };
        let stale: Vec<PathBuf> = epochs_in(folder, "")?.into_iter().filter(|stale| stale.is_dir()).collect();
        let start = self.trainee.directory().canonicalize().ok();
        if let Some(own) = stale.iter().find(|stale| start.is_some() && stale.canonicalize().ok() == start) {
            return Err(Error::usage(format!("{}: the training starts from it", own.display()))
                .with_hint("name another place with --save-epochs"));
        }
        Ok(stale)
    }

    fn open_dynamics(&self, folder: &Path, resumed: bool) -> Result<DynamicsWriter> {
        if resumed {
            return DynamicsWriter::resume(folder, self.progress.epoch as usize);
        }
        if self.trainee.task() != Task::Record {
            return Err(Error::usage(
                "training dynamics are of records with labels, and this model says something of tokens",
            )
            .with_hint("leave --dynamics out"));
        }
        let header =
            DynamicsHeader { problem: self.trainee.problem(), classes: self.trainee.class_names().names().to_vec() };
        let name = |example: &M| (example.name().0, example.name().1.to_owned());
        let names: Vec<_> = self.examples.iter().map(name).collect();
        DynamicsWriter::create(folder, header, &names)
    }

    /// Whether every epoch is done, or patience is at its end.
    fn is_over(&self) -> bool {
        let all = self.progress.epoch >= self.options.epochs;
        all || self.options.patience.is_some_and(|patience| self.progress.epoch >= self.best_epoch() + patience)
    }

    /// The best epoch so far, from 1; the first of several.
    fn best_epoch(&self) -> u32 {
        let metric = M::metric(self.options, self.trainee);
        let goodness = |report: &EpochReport| report.dev.as_ref().map_or(f64::NEG_INFINITY, |dev| dev.goodness(metric));
        let history = self.progress.history.iter();
        let best = history.fold(None, |best: Option<&EpochReport>, next| match best {
            Some(best) if goodness(best) >= goodness(next) => Some(best),
            _ => Some(next),
        });
        best.map_or(0, |report| report.epoch)
    }

    fn epoch(&mut self, told: &mut dyn FnMut(&EpochReport) -> Result<()>) -> Result<()> {
        let order = shuffled(self.examples.len(), self.options.seed, self.progress.epoch);
        let per_step = self.options.records_per_step();
        for rows in order.chunks(per_step).skip(self.progress.step as usize) {
            self.step(rows)?;
            let due =
                self.plan.checkpoint_every.is_some_and(|every| every > 0 && self.progress.steps.is_multiple_of(every));
            if due || interrupt::asked() {
                self.checkpoint()?;
            }
            interrupt::check()?;
        }
        debug_assert_eq!(self.progress.step, self.steps_per_epoch);
        self.end_epoch(told)
    }

    /// One step over these examples.
    fn step(&mut self, rows: &[usize]) -> Result<()> {
        let (seed, epoch) = (self.options.seed, self.progress.epoch);
        let seen: Vec<Cow<'_, M>> =
            rows.iter().map(|&row| self.examples[row].in_epoch(seed, epoch, row as u32)).collect();
        let guided = seen.iter().filter(|example| !example.rationale().is_empty()).map(|example| example.weight());
        let step =
            Step { rows, mass: seen.iter().map(|example| example.mass()).sum(), guided: guided.sum(), seen: &seen };
        let window: Vec<&Encoding> = seen.iter().map(|example| example.encoding()).collect();
        for micro in pack(&window, self.trainee.positions(), self.plan.batch_tokens.unwrap_or(BATCH_TOKENS)) {
            self.study(&step, micro)?;
        }
        let learner = self.trainee.learner();
        let norm = learner.gradient_norm()?;
        if !norm.is_finite() {
            let step = self.progress.steps + 1;
            return Err(Error::usage(format!("step {step}: the gradient is no longer finite"))
                .with_hint("lower --learning-rate, or lengthen --warmup"));
        }
        let step = AdamStep {
            rate: self.rates.at(self.progress.steps),
            decay: self.options.weight_decay,
            betas: self.options.betas,
            epsilon: self.options.epsilon,
            number: self.progress.steps + 1,
            scale: self.options.clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0)),
        };
        learner.step(&step)?;
        self.progress.step += 1;
        self.progress.steps += 1;
        self.bar.set(self.progress.steps, Some((self.mean_loss(), self.tokens)));
        Ok(())
    }

    /// One pass of a step.
    fn study(&mut self, step: &Step<'_, M>, micro: MicroBatch) -> Result<()> {
        let Step { rows, seen, mass, guided } = *step;
        // A step in which nothing was masked teaches nothing.
        let whole = (self.mean_weight * mass).max(f64::MIN_POSITIVE);
        let guidance = self.options.rationale_weight / guided.max(f64::MIN_POSITIVE);
        let taught = |&place: &usize| Taught {
            of: &*seen[place],
            share: seen[place].weight() / whole,
            guided: if guided > 0.0 { seen[place].weight() * guidance } else { 0.0 },
            row: rows[place] as u32,
        };
        let taught: Vec<Taught<'_, M>> = micro.rows.iter().map(taught).collect();
        let drops = self.options.dropout != DropoutRates::default();
        let dropout = DropoutPass { seed: self.options.seed, epoch: self.progress.epoch, rates: self.options.dropout };
        self.tokens += micro.batch.tokens() as u64;
        let studied = M::study(self.trainee.learner(), micro.batch, &taught, drops.then_some(dropout))?;
        for (taught, loss) in taught.iter().zip(&studied.losses) {
            self.add_loss(*loss, taught.of.weight() * taught.of.mass());
        }
        for (taught, apart) in
            taught.iter().zip(&studied.guided).filter(|(taught, _)| !taught.of.rationale().is_empty())
        {
            let [apart_so_far, weights] = self.progress.guided.map(f64::from_bits);
            let weight = taught.of.weight();
            self.progress.guided = [apart_so_far + apart * weight, weights + weight].map(f64::to_bits);
        }
        let (problem, classes) = (self.trainee.problem(), self.trainee.learner().classes());
        for (taught, logits) in taught.iter().zip(studied.logits.chunks_exact(classes.max(1))) {
            if let Some(moment) = self.moments.get_mut(taught.row as usize) {
                *moment = taught.of.moment(problem, logits).unwrap_or_default();
            }
        }
        Ok(())
    }

    fn add_loss(&mut self, loss: f64, weight: f64) {
        let [losses, weights] = self.progress.sums.map(f64::from_bits);
        self.progress.sums = [losses + loss * weight, weights + weight].map(f64::to_bits);
    }

    fn mean_loss(&self) -> f64 {
        mean(self.progress.sums).unwrap_or_default()
    }

    fn end_epoch(&mut self, told: &mut dyn FnMut(&EpochReport) -> Result<()>) -> Result<()> {
        // What the last step did is seen by no step after it.
        let is_last = self.progress.epoch + 1 >= self.options.epochs;
        let looked_at = match self.dev {
            [] if is_last => &self.examples[..self.examples.len().min(LOOKED_AT)],
            dev => dev,
        };
        let evaluated = (!looked_at.is_empty()).then(|| evaluate(self.trainee, looked_at, self.plan.batch_tokens));
        if let Some(Err(Error::Interrupted)) = evaluated {
            // The last step is done: going on evaluates again.
            self.checkpoint()?;
        }
        let report = EpochReport {
            epoch: self.progress.epoch + 1,
            steps: self.progress.steps,
            loss: self.mean_loss(),
            rationale_loss: mean(self.progress.guided),
            learning_rate: self.rates.at(self.progress.steps.saturating_sub(1)),
            dev: evaluated.transpose()?,
        };
        if report.dev.as_ref().is_some_and(|found| !found.loss.is_finite()) {
            return Err(Error::diverged(format_args!("epoch {}", report.epoch)));
        }
        let report = EpochReport { dev: report.dev.filter(|_| !self.dev.is_empty()), ..report };
        if let Some(dynamics) = &mut self.dynamics {
            dynamics.write_epoch(&self.moments)?;
        }
        if let Some(folder) = &self.plan.epochs {
            let to = folder.join(format!("epoch-{:03}", report.epoch));
            if self.plan.keep_moments {
                self.trainee.save_with_moments(&to, self.options.betas)?;
            } else {
                self.trainee.save(&to)?;
            }
        }
        self.progress.history.push(report.clone());
        self.progress.epoch += 1;
        (self.progress.step, self.progress.sums, self.progress.guided) = (0, [0; 2], [0; 2]);
        if self.options.patience.is_some() && self.best_epoch() == report.epoch {
            self.best = Some(self.trainee.learner().state()?);
        }
        told(&report)?;
        // After the last there is nothing to go on with: whoever asked saves the model.
        if self.is_over() { Ok(()) } else { self.checkpoint() }
    }

    fn checkpoint(&mut self) -> Result<()> {
        let Some(folder) = &self.plan.checkpoints else { return Ok(()) };
        let learner = self.trainee.learner().state()?;
        let (progress, best, moments) = (self.progress.clone(), self.best.clone(), self.moments.clone());
        State { progress, learner, best, moments }.write(folder)
    }

    fn finish(self) -> Result<TrainOutcome> {
        let kept = if self.options.patience.is_some() { self.best_epoch() } else { self.progress.epoch };
        if let Some(best) = &self.best {
            self.trainee.learner().restore(best)?;
        }
        Ok(TrainOutcome { epochs: self.progress.history, kept, tokens: self.tokens })
    }
}

/// A weighted sum over its weights, both as bits; `None` where nothing was added.
fn mean(sums: [u64; 2]) -> Option<f64> {
    let [sum, weights] = sums.map(f64::from_bits);
    (weights > 0.0).then_some(sum / weights)
}

/// The folder of a training's state, one process's at a time: it is there as long as there is a state, or a training.
pub struct StateFolder {
    path: PathBuf,
    _lock: Lock,
}

impl StateFolder {
    /// Makes it, where it is not there.
    ///
    /// # Errors
    /// [`Error::Usage`] where another process has it; what the file system says.
    pub fn claim(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(Error::io(path))?;
        Ok(Self { path: path.to_owned(), _lock: Lock::acquire(path, "training")? })
    }

    /// Whether there is a training to go on with.
    pub fn has_state(&self) -> bool {
        self.path.join(STATE).exists()
    }

    /// Notes where else the training writes: what is found there before it has a state is its own.
    ///
    /// # Errors
    /// What the file system says.
    pub fn note_places(&self, places: &[&Path]) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        let places: Vec<PathBuf> = places.iter().map(|place| absolute(place)).collect();
        let mut file = Destination::create(Some(&self.path.join(PLACES)))?;
        file.write(serde_json::to_string(&places).unwrap_or_default().as_bytes())?;
        file.finish()
    }

    /// Whether an earlier run of the training has noted a place.
    pub fn has_place(&self, place: &Path) -> bool {
        self.places().contains(&absolute(place))
    }

    fn places(&self) -> Vec<PathBuf> {
        let noted = std::fs::read(self.path.join(PLACES)).ok();
        noted.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }
}

impl Drop for StateFolder {
    fn drop(&mut self) {
        if !self.has_state() && !self.places().iter().any(|place| is_taken(place)) {
            let _ = std::fs::remove_file(self.path.join(PLACES));
        }
        Lock::remove_with(&self.path);
    }
}

/// Where a path leads from here.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Whether something is there that a training would write over.
pub fn is_taken(place: &Path) -> bool {
    let is_whole = |entry: std::io::Result<std::fs::DirEntry>| entry.is_ok_and(|entry| !is_partial(&entry.file_name()));
    let has_files = || place.read_dir().is_ok_and(|mut entries| entries.any(is_whole));
    place.exists() && (!place.is_dir() || has_files())
}

/// Removes a training's state, once its outcome is safe.
///
/// # Errors
/// What the file system says.
pub fn remove_state(checkpoints: &Path) -> Result<()> {
    let state = checkpoints.join(STATE);
    if state.exists() {
        std::fs::remove_file(&state).map_err(Error::io(&state))?;
    }
    let _ = std::fs::remove_file(checkpoints.join(PLACES));
    // Whatever else somebody put there stays, and with it the folder.
    let _ = std::fs::remove_dir(checkpoints);
    Ok(())
}

/// What a training is of: first parameters, data, options.
fn fingerprint<M: Material>(learner: &dyn Learn, examples: &[M], dev: &[M], options: &TrainOptions) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{options:?}").as_bytes());
    if learner.precision() != Precision::F32 {
        hasher.update(learner.precision().name().as_bytes());
    }
    for tensor in learner.parameters()? {
        hasher.update(tensor.name.as_bytes()).update_rayon(bytemuck::cast_slice(&tensor.values));
    }
    for example in examples.iter().chain(dev) {
        let Encoding { ids, type_ids, .. } = example.encoding();
        hasher.update(bytemuck::cast_slice(ids)).update(bytemuck::cast_slice(type_ids));
        hasher.update(format!("{} {} {}", example.digest(), example.weight().to_bits(), example.name().0).as_bytes());
    }
    hasher.update(&(examples.len() as u64).to_le_bytes());
    Ok(hasher.finalize().to_hex().to_string())
}
