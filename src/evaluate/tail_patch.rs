//! Tail-patch (Chang et al. 2024, *Scalable influence and fact tracing*): whether one more step of training on the
//! records that a rule ranks first for a query lowers the query's loss.
//!
//! A step is plain gradient descent, `θ − η ∇`, from the model explained: on the mean loss of the first k records
//! together, or on each of them by itself, the changes averaged. Of the last layer alone it is a formula of the
//! factors, `z_q − η Σ_i δ_i (h_i · h_q + 1) / k`; of the whole model it is taken.

use serde::{Deserialize, Serialize};

use super::kept::Kept;
use super::retraining::{Retraining, loss, margin, margins_of, plan};
use super::table::{Table, cell};
use super::units::top;
use super::{Contender, Judgement, Measure, OpenQueries, RetrainingPlan, Trainings};
use crate::backend::Precision;
use crate::backend::training::AdamStep;
use crate::error::{Error, Result};
use crate::factors::loss_and_delta;
use crate::interrupt;
use crate::model::{Blueprint, Lesson, NamedTensor, Outputs, Trainee};
use crate::pipeline::{Progress, Settings};
use crate::tokens::pack;
use crate::train::Example;

/// How the step is taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TailPatchOptions {
    /// Records from the first on.
    pub top_k: usize,
    /// η
    pub rate: f64,
    /// A step on each record by itself, not one on all together.
    pub each: bool,
    /// Of the draws, and of the bootstrap.
    pub seed: u64,
}

/// What a step on what one rule ranks first does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TailPatch {
    /// `tail-patch`
    pub yardstick: &'static str,
    /// The rule.
    #[serde(flatten)]
    pub judged: Judgement,
    /// How much the query's loss falls.
    pub loss_fall: Option<Measure>,
    /// By how much more than after a step on draws, query by query.
    pub over_chance: Option<Measure>,
    /// The share of queries whose loss falls.
    pub helped: f64,
    /// Queries.
    pub queries: u64,
    /// Records in a step, or steps of one record each.
    pub top_k: u64,
    /// η
    pub rate: f64,
}

impl TailPatch {
    /// All rules side by side, the best first.
    pub fn table(list: &[Self]) -> Table {
        let mut sorted: Vec<&Self> = list.iter().collect();
        let mean = |row: &Self| row.loss_fall.map_or(f64::NEG_INFINITY, |measure| measure.mean);
        sorted.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        let mut table = Table::new(&["rule", "loss falls ↑", "over chance", "helped", "seconds", "bytes/record"]);
        for row in sorted {
            let [seconds, bytes] = row.judged.cost();
            let helped = format!("{:.0} %", 100.0 * row.helped);
            table.push(vec![row.judged.name(), fine(row.loss_fall), fine(row.over_chance), helped, seconds, bytes]);
        }
        if let Some(Self { queries, top_k, rate, .. }) = list.first() {
            table.note(format!(
                "{queries} queries, a step of rate {rate} on the first {top_k}; ± is half a 95 % interval over queries"
            ));
        }
        table
    }
}

/// A small number with the digits it has.
fn fine(measure: Option<Measure>) -> String {
    match measure {
        Some(m) if m.mean.abs() < 0.1 => format!("{:.2e} ±{:.1e}", m.mean, (m.high - m.low) / 2.0),
        measure => cell(measure),
    }
}

impl Trainings<'_> {
    /// Takes a step on what each rule, and chance, ranks first for each query.
    ///
    /// # Errors
    /// As [`crate::pipeline::SearchJob::run`]; [`Error::Usage`] for options without a meaning; [`Error::Mismatch`]
    /// where what is kept is of others.
    pub fn tail_patch(
        &self,
        contenders: &[Contender<'_>],
        open: OpenQueries<'_>,
        options: &TailPatchOptions,
        retraining: &RetrainingPlan,
        settings: &Settings,
    ) -> Result<Vec<TailPatch>> {
        options.check()?;
        let mut lists: Vec<Vec<Vec<usize>>> = vec![Vec::new(); contenders.len() + 1];
        let judged = self.each_scores(contenders, open, options.seed, settings, &mut |number, _, scores| {
            lists[number].push(top(scores, options.top_k));
            Ok(())
        })?;
        let steps: Vec<(usize, &[usize])> =
            lists.iter().flat_map(|list| list.iter().map(Vec::as_slice).enumerate()).collect();
        let falls = match &retraining.retraining {
            Retraining::Head(_) => self.patch_heads(&steps, options, settings)?,
            Retraining::Full(_) => self.patch_models(&steps, options, retraining, settings)?,
        };
        if !falls.iter().all(|fall| fall.is_finite()) {
            return Err(Error::usage(format!("--rate {}: the loss after a step is no longer a number", options.rate))
                .with_hint("lower it"));
        }
        let falls: Vec<&[f64]> = falls.chunks(self.queries.len()).collect();
        let measure = |values: &[f64]| Measure::of(values, options.seed);
        let row = |(judged, falls_of): (Judgement, &&[f64])| {
            let over: Vec<f64> = falls_of.iter().zip(falls[falls.len() - 1]).map(|(fall, by)| fall - by).collect();
            let helped = falls_of.iter().filter(|fall| **fall > 0.0).count() as f64;
            TailPatch {
                yardstick: "tail-patch",
                loss_fall: measure(falls_of),
                over_chance: measure(&over).filter(|_| !judged.is_chance()),
                judged,
                helped: helped / self.queries.len() as f64,
                queries: self.queries.len() as u64,
                top_k: options.top_k.min(self.training.len()) as u64,
                rate: options.rate,
            }
        };
        Ok(judged.into_iter().zip(&falls).map(row).collect())
    }

    /// By how much each query's loss falls after its step of the last layer.
    fn patch_heads(
        &self,
        steps: &[(usize, &[usize])],
        options: &TailPatchOptions,
        settings: &Settings,
    ) -> Result<Vec<f64>> {
        let run = |examples: &[Example]| -> Result<Outputs> {
            let window: Vec<&Example> = examples.iter().collect();
            self.model.run(&window, settings.batch_tokens, &|_| !interrupt::asked())
        };
        let (training, queries) = (run(&self.training)?, run(&self.queries)?);
        let (width, classes) = (self.model.width(), self.model.classes());
        let mut deltas = vec![0.0; training.logits.len()];
        for ((z, example), delta) in
            training.logits.chunks_exact(classes).zip(&self.training).zip(deltas.chunks_exact_mut(classes))
        {
            loss_and_delta(self.model.problem(), z, &example.target, delta);
        }
        let fall = |&(query, rows): &(usize, &[usize])| {
            let h = &queries.features[query * width..][..width];
            let target = &self.queries[query].target;
            let z: Vec<f64> = queries.logits[query * classes..][..classes].iter().map(|&z| f64::from(z)).collect();
            let before = loss(margin(&z, target));
            let after = |rows: &[usize]| {
                let mut z = z.clone();
                for &row in rows {
                    let pairs = training.features[row * width..][..width].iter().zip(h);
                    let product: f64 = pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                    let length = options.rate / rows.len() as f64 * (product + 1.0);
                    let delta = &deltas[row * classes..][..classes];
                    z.iter_mut().zip(delta).for_each(|(z, &delta)| *z -= length * f64::from(delta));
                }
                loss(margin(&z, target))
            };
            options.mean(rows, |rows| Ok(before - after(rows)))
        };
        steps.iter().map(fall).collect()
    }

    /// The same of the whole model.
    fn patch_models(
        &self,
        steps: &[(usize, &[usize])],
        options: &TailPatchOptions,
        retraining: &RetrainingPlan,
        settings: &Settings,
    ) -> Result<Vec<f64>> {
        let queries: Vec<_> =
            self.queries.iter().map(|query| (&query.id, &query.target, &query.encoding.ids)).collect();
        let mut header = serde_json::json!({
            "model": self.model.fingerprint(), "data": self.store.records_fingerprint(), "patch": [options.rate, options.each],
            "queries": blake3::hash(format!("{queries:?}").as_bytes()).to_hex().to_string(),
        });
        if !self.model.gpus().is_empty() {
            header["gpu"] = true.into();
        }
        let (mut kept, lines) = Kept::open::<Patched>(retraining.keep.as_deref(), &header)?;
        let mut known: std::collections::HashMap<String, f64> =
            lines.into_iter().map(|Patched { step, fall }| (step, fall)).collect();
        let name = |&(query, rows): &(usize, &[usize])| {
            blake3::hash(format!("{query} {rows:?}").as_bytes()).to_hex()[..24].to_owned()
        };
        let blueprint = Blueprint::read(&self.model.directory().to_string_lossy(), false)?;
        let (device, length) = (self.model.asked().0.first(), Some(self.model.max_length()));
        let trainee = blueprint.build_on(device, Precision::F32, plan(self.model), 0, length)?;
        let mut patient = Patient::new(self, trainee, settings)?;
        let progress = Progress::new("taking steps", Some(steps.len() as u64), settings.quiet);
        let mut falls = Vec::with_capacity(steps.len());
        for (done, step) in (1..).zip(steps) {
            interrupt::check()?;
            let name = name(step);
            let fall = if let Some(fall) = known.get(&name) {
                *fall
            } else {
                let fall = options.mean(step.1, |rows| patient.fall(step.0, rows, options.rate))?;
                kept.push(&Patched { step: name.clone(), fall })?;
                known.insert(name, fall);
                fall
            };
            falls.push(fall);
            progress.set(done, done);
        }
        Ok(falls)
    }
}

impl TailPatchOptions {
    fn check(&self) -> Result<()> {
        if self.top_k == 0 {
            return Err(Error::usage("--top-k: expected at least 1, found 0"));
        }
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return Err(Error::usage(format!("--rate: expected a number above 0, found {}", self.rate)));
        }
        Ok(())
    }

    /// What `fall` says of all rows together, or its mean over each by itself.
    fn mean(&self, rows: &[usize], mut fall: impl FnMut(&[usize]) -> Result<f64>) -> Result<f64> {
        if !self.each {
            return fall(rows);
        }
        let sum = rows.chunks(1).map(&mut fall).sum::<Result<f64>>()?;
        Ok(sum / rows.len().max(1) as f64)
    }
}

/// A line of what is kept.
#[derive(Serialize, Deserialize)]
struct Patched {
    step: String,
    fall: f64,
}

/// A model that takes a step and is put back.
struct Patient<'a> {
    trainings: &'a Trainings<'a>,
    trainee: Trainee,
    healthy: Vec<NamedTensor>,
    settings: &'a Settings,
    /// Each query's loss before any step.
    losses: Vec<f64>,
}

impl<'a> Patient<'a> {
    fn new(trainings: &'a Trainings<'a>, mut trainee: Trainee, settings: &'a Settings) -> Result<Self> {
        let losses = margins_of(&mut trainee, &trainings.queries, settings)?.into_iter().map(loss).collect();
        let healthy = trainee.learner().state()?;
        Ok(Self { trainings, trainee, healthy, settings, losses })
    }

    fn fall(&mut self, query: usize, rows: &[usize], rate: f64) -> Result<f64> {
        let examples: Vec<&Example> = rows.iter().map(|&row| &self.trainings.training[row]).collect();
        let positions = self.trainee.positions();
        let learner = self.trainee.learner();
        for micro in pack(&examples, positions, self.settings.batch_tokens.unwrap_or(2048)) {
            let lesson = |&row: &usize| Lesson {
                target: &examples[row].target,
                share: 1.0 / examples.len() as f64,
                record: row as u32,
            };
            let lessons: Vec<Lesson<'_>> = micro.rows.iter().map(lesson).collect();
            learner.study(micro.batch, &lessons, None)?;
        }
        learner.step(&descent(rate))?;
        let after = margins_of(&mut self.trainee, &self.trainings.queries[query..=query], self.settings)?;
        self.trainee.learner().restore(&self.healthy)?;
        Ok(self.losses[query] - loss(after[0]))
    }
}

/// A step of gradient descent, as one of AdamW without memory whose ε leaves nothing of its normalisation: gradients
/// are scaled to where `|g| + 1` is 1 in f32, and the rate scaled back.
fn descent(rate: f64) -> AdamStep {
    let scale = (-40.0_f64).exp2();
    AdamStep { rate: rate / scale, decay: 0.0, betas: [0.0; 2], epsilon: 1.0, number: 1, scale }
}
