//! What is judged, and where its scores come from: rules over stores, or files of scores made elsewhere.

use std::time::Instant;

use serde::Serialize;

use super::{Measure, Trainings};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::factors::HessianForm;
use crate::model::{GradientsOf, Model};
use crate::pipeline::{GivenScores, QueryTarget, Rejections, RuleOptions, SearchJob, SearchOptions, Settings};
use crate::random::{Purpose, Stream, uniform};
use crate::search::Rule;
use crate::store::Store;

/// What is to be judged.
#[derive(Clone, Copy)]
pub enum Contender<'a> {
    /// A rule over a store.
    Rule(RuleOver<'a>),
    /// Scores made elsewhere.
    Given(&'a GivenScores),
}

/// A rule, and what it reads.
#[derive(Clone, Copy)]
pub struct RuleOver<'a> {
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
pub fn suits(rule: Rule, store: &Store, hessian: Option<HessianForm>) -> Result<()> {
    let settings = store.settings();
    let whole = settings.gradients.is_some();
    rule.check(settings.problem, &settings.checkpoints)?;
    rule.check_gradients(whole)?;
    let all = settings.gradients.is_some_and(|projection| projection.parameters == GradientsOf::All);
    match (rule, whole, hessian) {
        (Rule::Influence | Rule::RelatIf, _, Some(HessianForm::Corrected | HessianForm::Kronecker)) if all => {
            Err(Error::usage(
                "--hessian kfac, ekfac: are of linear layers, and the store's gradients are of all parameters",
            ))
        }
        (
            Rule::Influence | Rule::RelatIf,
            false,
            Some(HessianForm::Corrected | HessianForm::Layers | HessianForm::Shampoo),
        ) => Err(Error::usage("--hessian ekfac, layers, shampoo: expected a store of projected gradients")),
        (Rule::Trak, _, Some(HessianForm::Corrected | HessianForm::Kronecker)) => {
            Err(Error::usage("--hessian kfac, ekfac: are for the rules influence and relatif"))
        }
        _ => Ok(()),
    }
}

/// What draws are called among what is judged.
pub(super) const CHANCE: &str = "random";

/// What is judged: its name, and what its scores cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Judgement {
    /// The rule, or `random`, or what given scores are called.
    pub rule: String,
    /// The store it was judged over, where several have the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// What scoring every record for every query took, what the rule needs included; not known of given scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// What its store takes on the disk, texts included.
    pub bytes_per_record: Option<f64>,
}

impl Judgement {
    /// As tables call it.
    pub(super) fn name(&self) -> String {
        self.store.as_ref().map_or_else(|| self.rule.clone(), |store| format!("{} ({store})", self.rule))
    }

    pub(super) fn cost(&self) -> [String; 2] {
        let cell = |number: Option<f64>, digits: usize| {
            number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
        };
        [cell(self.seconds, 2), cell(self.bytes_per_record, 0)]
    }

    pub(super) fn is_chance(&self) -> bool {
        self.rule == CHANCE
    }
}

/// Opens the queries, once for each rule that asks.
pub type OpenQueries<'a> = &'a dyn Fn() -> Result<Dataset>;

/// Takes a query's number and a score for each row of the store.
pub(super) type Each<'a> = &'a mut (dyn FnMut(usize, &[f32]) -> Result<()> + Send);

/// Takes the number of what is judged, a query's, and a score for each row of the store.
pub(super) type EachJudged<'a> = &'a mut (dyn FnMut(usize, usize, &[f32]) -> Result<()> + Send);

impl Trainings<'_> {
    /// Every rule's scores in turn, then draws: `each` is handed the number of what is judged, the query's, and the
    /// scores.
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
            let mut each = |query: usize, scores: &[f32]| each(number, query, scores);
            judged.push(match contender {
                Contender::Rule(over) => {
                    self.scores(over, open()?, settings, &mut each)?;
                    Judgement {
                        rule: over.rule.name().to_owned(),
                        store: over.name.map(str::to_owned),
                        seconds: Some(began.elapsed().as_secs_f64()),
                        bytes_per_record: Some(over.bytes as f64 / over.store.rows().max(1) as f64),
                    }
                }
                Contender::Given(given) => {
                    given.each([self.queries.len(), self.training.len()], &mut each)?;
                    Judgement { rule: given.name.clone(), ..Judgement::default() }
                }
            });
        }
        let began = Instant::now();
        self.chance(seed, &mut |query, scores| each(contenders.len(), query, scores))?;
        let seconds = Some(began.elapsed().as_secs_f64());
        judged.push(Judgement { rule: CHANCE.to_owned(), seconds, ..Judgement::default() });
        Ok(judged)
    }

    /// What one rule says of every query.
    fn scores(&self, over: &RuleOver<'_>, queries: Dataset, settings: &Settings, each: Each<'_>) -> Result<()> {
        let RuleOver { rule, store, checkpoints, options, .. } = *over;
        if store.records_fingerprint() != self.store.records_fingerprint() {
            return Err(Error::Mismatch("the stores are of other records".to_owned(), None));
        }
        let rule_options = options.clone();
        let options = SearchOptions { rule, rule_options, target: QueryTarget::Gold, ..SearchOptions::default() };
        let job = SearchJob { model: self.model, checkpoints, store, options: &options };
        let quiet = Settings { quiet: true, ..settings.clone() };
        let mut found = 0;
        // What is left out was told when the queries were read.
        job.scores(queries.labelled(), &quiet, &mut Rejections::new(true, None), &mut |_, scores| {
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

/// By how much each falls behind the best, query by query (a paired bootstrap): nothing for draws, which are none of
/// them.
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
