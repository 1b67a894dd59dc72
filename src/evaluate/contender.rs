//! Rules that are judged, and where their scores come from.

use std::time::Instant;

use serde::Serialize;

use super::{Measure, Trainings};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::factors::HessianForm;
use crate::model::Model;
use crate::pipeline::{QueryTarget, Rejections, RuleOptions, SearchJob, SearchOptions, Settings};
use crate::random::{Purpose, Stream, uniform};
use crate::search::Rule;
use crate::store::{Shard, Store};

/// A rule to be judged, and where its scores come from.
#[derive(Clone, Copy)]
pub struct Contender<'a> {
    /// The rule.
    pub rule: Rule,
    /// A store of the same records as the trainings'.
    pub store: &'a Store,
    /// Its checkpoints, for a rule that reads them.
    pub checkpoints: &'a [Model],
    /// What the store is called, where several have the rule.
    pub name: Option<&'a str>,
    /// Bytes that the store takes on the disk.
    pub bytes: u64,
    /// How the rule is made ready.
    pub options: &'a RuleOptions,
}

/// Refuses a rule that a store cannot be searched by.
///
/// # Errors
/// [`Error::Usage`], with what to do instead.
pub fn suits(rule: Rule, store: &Store, hessian: HessianForm) -> Result<()> {
    let settings = store.settings();
    let whole = settings.gradients.is_some();
    rule.check(settings.problem, settings.checkpoints.len())?;
    rule.check_gradients(whole)?;
    match (rule, whole, hessian) {
        (Rule::RelatIf, true, HessianForm::Exact) => {
            Err(Error::usage("rule relatif: over gradients of the whole model needs its own curvature")
                .with_hint("use --hessian ekfac or kfac"))
        }
        (Rule::Influence | Rule::RelatIf, false, HessianForm::Corrected) => {
            Err(Error::usage("--hessian ekfac: expected a store of projected gradients"))
        }
        _ => Ok(()),
    }
}

/// What is judged: its name, and what its scores cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Judgement {
    /// The rule, or `random`.
    pub rule: String,
    /// The store it was judged over, where several have the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// What scoring every record for every query took, what the rule needs included.
    pub seconds: f64,
    /// What its store takes on the disk, texts included.
    pub bytes_per_record: Option<f64>,
}

impl Judgement {
    /// As tables call it.
    pub(super) fn name(&self) -> String {
        self.store.as_ref().map_or_else(|| self.rule.clone(), |store| format!("{} ({store})", self.rule))
    }

    pub(super) fn cost(&self) -> [String; 2] {
        let bytes = self.bytes_per_record.map_or_else(|| "-".to_owned(), |bytes| format!("{bytes:.0}"));
        [format!("{:.2}", self.seconds), bytes]
    }

    pub(super) fn is_chance(&self) -> bool {
        self.rule == "random"
    }
}

/// Opens the queries, once for each rule that asks.
pub type OpenQueries<'a> = &'a dyn Fn() -> Result<Dataset>;

/// Takes a query's number and a score for each row of the store.
pub(super) type Each<'a> = &'a mut (dyn FnMut(usize, &[f32]) -> Result<()> + Send);

/// Takes the number of what is judged, a query's, and a score for each row of the store.
pub(super) type EachJudged<'a> = &'a mut (dyn FnMut(usize, usize, &[f32]) -> Result<()> + Send);

impl Trainings<'_> {
    /// Every rule's scores in turn, then draws: `each` is handed the number of what is judged, the query's, and the scores.
    pub(super) fn each_scores(
        &self,
        contenders: &[Contender<'_>],
        open: OpenQueries<'_>,
        seed: u64,
        settings: &Settings,
        each: EachJudged<'_>,
    ) -> Result<Vec<Judgement>> {
        let mut judged = Vec::new();
        for (number, contender) in contenders.iter().enumerate() {
            let began = Instant::now();
            self.scores(contender, open()?, settings, &mut |query, scores| each(number, query, scores))?;
            judged.push(Judgement {
                rule: contender.rule.name().to_owned(),
                store: contender.name.map(str::to_owned),
                seconds: began.elapsed().as_secs_f64(),
                bytes_per_record: Some(contender.bytes as f64 / contender.store.rows().max(1) as f64),
            });
        }
        let began = Instant::now();
        self.chance(seed, &mut |query, scores| each(contenders.len(), query, scores))?;
        let seconds = began.elapsed().as_secs_f64();
        judged.push(Judgement { rule: "random".to_owned(), seconds, ..Judgement::default() });
        Ok(judged)
    }

    /// What one rule says of every query.
    fn scores(&self, contender: &Contender<'_>, queries: Dataset, settings: &Settings, each: Each<'_>) -> Result<()> {
        let Contender { rule, store, checkpoints, options, .. } = *contender;
        let indices = |store: &Store| store.shards().iter().flat_map(Shard::indices).copied().collect::<Vec<u64>>();
        if store.data_fingerprint() != self.store.data_fingerprint() || indices(store) != indices(self.store) {
            return Err(Error::Mismatch("the stores are of other records".to_owned(), None));
        }
        let rule_options = options.clone();
        let options = SearchOptions { rule, rule_options, target: QueryTarget::Gold, ..SearchOptions::default() };
        let job = SearchJob { model: self.model, checkpoints, store, options: &options };
        let quiet = Settings { quiet: true, ..settings.clone() };
        let mut found = 0;
        job.scores(queries, &quiet, &mut Rejections::new(true, None), &mut |_, scores| {
            found += 1;
            if found <= self.queries.len() { each(found - 1, scores) } else { Ok(()) }
        })?;
        if found != self.queries.len() {
            let expected = self.queries.len();
            return Err(Error::Mismatch(format!("queries: expected {expected} with a label, found {found}"), None));
        }
        Ok(())
    }

    /// Scores that say nothing.
    fn chance(&self, seed: u64, each: Each<'_>) -> Result<()> {
        let stream = Stream::new(seed, Purpose::Chance);
        let draw = |query: usize, row: usize| uniform(stream.block([row as u32, 0, query as u32, u32::MAX])[0]);
        (0..self.queries.len()).try_for_each(|query| {
            let scores: Vec<f32> = (0..self.training.len()).map(|row| draw(query, row)).collect();
            each(query, &scores)
        })
    }
}

/// By how much each falls behind the best, query by query (a paired bootstrap): nothing for draws, which are none of them.
pub(super) fn behind(judged: &[Judgement], values: &[Vec<f64>], seed: u64) -> Vec<Option<Measure>> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let rivals = judged.iter().zip(values).filter(|(judged, _)| !judged.is_chance());
    let best = rivals.map(|(_, values)| values).max_by(|a, b| mean(a).total_cmp(&mean(b)));
    let apart = |values: &Vec<f64>| {
        let best = best.filter(|best| best.len() == values.len())?;
        Measure::of(&best.iter().zip(values).map(|(best, value)| best - value).collect::<Vec<f64>>(), seed)
    };
    values.iter().map(apart).collect()
}

/// Whether the best is better than the second by more than the interval, in words; nothing where there are not two.
pub(super) fn verdict<'a>(rows: impl Iterator<Item = (&'a Judgement, Option<Measure>)>) -> Option<String> {
    let mut rivals: Vec<(&Judgement, Measure)> = rows.filter_map(|(judged, behind)| Some((judged, behind?))).collect();
    rivals.sort_by(|(_, a), (_, b)| a.mean.total_cmp(&b.mean));
    let [(first, _), (second, Measure { mean, low, high }), ..] = rivals.as_slice() else { return None };
    let sure = if *low > 0.0 { "ahead" } else { "not surely ahead" };
    let (first, second) = (first.name(), second.name());
    Some(format!("{first} is {sure} of {second}: by {mean:.3} (95 %: {low:.3} to {high:.3})"))
}
