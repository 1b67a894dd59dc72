//! Stability between seeds: whether models that differ in nothing but chance name the same training records.
//!
//! Models are trained on the same data from other seeds, each has its own store, and every pair of them is asked about
//! the same queries: the share of the first k records that both name, and the rank correlation of their scores. Where
//! models disagree, a top-k tells of the seed.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::learn::{learn, settle};
use super::retraining::Retraining;
use super::spearman;
use super::table::{Table, cell};
use super::units::top;
use super::{Measure, OpenQueries, suits};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::model::{Model, Projection};
use crate::pipeline::{IndexOptions, QueryTarget, Rejections, SearchJob, SearchOptions, Settings, index};
use crate::random::{Purpose, Stream, uniform};
use crate::report::SearchResult;
use crate::search::Rule;
use crate::store::{Shard, Store, data_fingerprint};
use crate::train::Labelled;

/// One model, and a store of the training records by it.
pub struct Member {
    /// The model.
    pub model: Model,
    /// Its stores: each rule is judged over the first it is of.
    pub stores: Vec<Store>,
}

/// How stability is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct StabilityOptions {
    /// Records from the first on.
    pub top_k: usize,
    /// Of the draws, and of the bootstrap.
    pub seed: u64,
}

/// How stable one rule is between models.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stability {
    /// `stability`
    pub yardstick: &'static str,
    /// The rule, or `random`.
    pub rule: String,
    /// The share of the first k that two models both name; means over pairs.
    pub overlap: Option<Measure>,
    /// Spearman's correlation of two models' scores, over at most `SAMPLE` records.
    pub rank_correlation: Option<Measure>,
    /// The overlap over queries that all models predict the same label for.
    pub overlap_same_prediction: Option<Measure>,
    /// Queries.
    pub queries: u64,
    /// Models.
    pub models: u64,
    /// k
    pub top_k: u64,
}

/// Records whose scores are compared.
const SAMPLE: usize = 2000;

impl Stability {
    /// All rules side by side, the most stable first.
    pub fn table(list: &[Self]) -> Table {
        let mut sorted: Vec<&Self> = list.iter().collect();
        let mean = |row: &Self| row.overlap.map_or(f64::NEG_INFINITY, |measure| measure.mean);
        sorted.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        let mut table = Table::new(&["rule", "top-k overlap ↑", "same prediction", "rank correlation ↑"]);
        for row in sorted {
            let measures = [row.overlap, row.overlap_same_prediction, row.rank_correlation].map(cell);
            table.push([vec![row.rule.clone()], measures.to_vec()].concat());
        }
        if let Some(Self { queries, models, top_k, .. }) = list.first() {
            table.note(format!(
                "{queries} queries, {models} models, the first {top_k} records; ± is half a 95 % interval over queries"
            ));
        }
        table
    }
}

/// Trains a model from each of `seeds` on the data that `training` opens, and indexes it: each in a folder of `folder`,
/// where what is finished is taken as it is. With a `projection`, a store of gradients of the whole model too.
///
/// # Errors
/// [`Error::Usage`] for a last layer, whose optimum has no seed, and for fewer than two seeds; as training and
/// indexing.
pub fn train_members(
    model: &Model,
    training: &dyn Fn() -> Result<Dataset>,
    folder: &Path,
    retraining: &Retraining,
    seeds: std::ops::Range<u64>,
    projection: Option<Projection>,
    settings: &Settings,
) -> Result<Vec<Member>> {
    if !retraining.has_seeds() {
        return Err(Error::usage("a last layer's optimum is the same whatever the seed")
            .with_hint("train whole models: --retrain full"));
    }
    let labelled = Labelled::read(training()?, None, &mut Rejections::new(false, None))?;
    let data = data_fingerprint(labelled.records());
    let made_of = json!({ "model": model.fingerprint(), "data": data, "retraining": retraining.described(model), "projection": projection });
    settle(folder, &made_of)?;
    let member = |seed: u64| {
        let own = folder.join(format!("seed-{seed}"));
        std::fs::create_dir_all(&own).map_err(Error::io(&own))?;
        let learnt = learn(model, training, &own.join("model"), retraining, seed, settings)?;
        let gradients = std::iter::once(None).chain(projection.map(Some));
        let store = |gradients: Option<Projection>| -> Result<Store> {
            let to = own.join(if gradients.is_none() { "last" } else { "whole" });
            let all = IndexOptions { gradients, resume: true, ..IndexOptions::default() };
            index(&learnt, training()?, &to, &all, settings, &mut Rejections::new(false, None))?;
            Store::open(to)
        };
        let stores = gradients.map(store).collect::<Result<_>>()?;
        Ok(Member { model: learnt, stores })
    };
    seeds.map(member).collect()
}

/// Asks every member by every rule that its stores have what it takes for, and compares what they say. Queries that
/// cannot be used are left out where `rejections` allow it.
///
/// # Errors
/// [`Error::Usage`] for fewer than two members, or a top-k of 0; [`Error::Mismatch`] where they are of other records,
/// or answer other queries; as [`SearchJob::run`].
pub fn stability(
    members: &[Member],
    rules: &[Rule],
    open: OpenQueries<'_>,
    options: &StabilityOptions,
    settings: &Settings,
    rejections: &mut Rejections,
) -> Result<Vec<Stability>> {
    let Some(first) = members.first().filter(|_| members.len() > 1) else {
        return Err(Error::usage(format!("stability: expected at least two models, found {}", members.len())));
    };
    if options.top_k == 0 {
        return Err(Error::usage("--top-k: expected at least 1, found 0"));
    }
    let indices = |store: &Store| store.shards().iter().flat_map(Shard::indices).copied().collect::<Vec<u64>>();
    let expected = indices(&first.stores[0]);
    if members.iter().flat_map(|member| &member.stores).any(|store| indices(store) != expected) {
        return Err(Error::Mismatch("the stores are of other records".to_owned(), None));
    }
    let mut rows = Vec::new();
    // What is left out is told once, the first time the queries are read.
    let (mut again, mut told) = (Rejections::new(true, None), Some(rejections));
    for &rule in rules {
        let mut ask = |member: &Member| member.said(rule, open, options, settings, told.take().unwrap_or(&mut again));
        let said = members.iter().map(&mut ask).collect::<Result<Vec<_>>>()?;
        if said.iter().any(|one| one.len() != said[0].len()) {
            return Err(Error::Mismatch("the models can be asked about other queries".to_owned(), None));
        }
        rows.push(compare(rule.name(), &said, options));
    }
    let chance = |member: usize| {
        let stream = Stream::new(options.seed, Purpose::Chance);
        let queries = rows_of(&rows);
        let draw = |query: usize, row: usize| {
            uniform(stream.block([row as u32, 1 + member as u32, query as u32, u32::MAX])[0])
        };
        let one = |query| {
            let scores: Vec<f32> = (0..expected.len()).map(|row| draw(query, row)).collect();
            Said::of(&scores, String::new(), options.top_k)
        };
        (0..queries).map(one).collect::<Vec<_>>()
    };
    let said: Vec<Vec<Said>> = (0..members.len()).map(chance).collect();
    rows.push(compare("random", &said, options));
    Ok(rows)
}

fn rows_of(rows: &[Stability]) -> usize {
    rows.first().map_or(0, |row| row.queries as usize)
}

/// What one model says of one query.
struct Said {
    /// Rows of the first k.
    top: Vec<usize>,
    /// Scores of some records, the same for all.
    sample: Vec<f64>,
    predicted: String,
}

impl Said {
    fn of(scores: &[f32], predicted: String, top_k: usize) -> Self {
        let step = scores.len().div_ceil(SAMPLE).max(1);
        let sample = scores.iter().step_by(step).map(|&score| f64::from(score)).collect();
        Self { top: top(scores, top_k), sample, predicted }
    }
}

impl Member {
    fn said(
        &self,
        rule: Rule,
        open: OpenQueries<'_>,
        options: &StabilityOptions,
        settings: &Settings,
        rejections: &mut Rejections,
    ) -> Result<Vec<Said>> {
        let fits = |store: &&Store| suits(rule, store, None).is_ok();
        let store = self.stores.iter().find(fits).unwrap_or(&self.stores[0]);
        suits(rule, store, None)?;
        // Every model is asked about the same label.
        let search = SearchOptions { rule, target: QueryTarget::Gold, ..SearchOptions::default() };
        let job = SearchJob { model: &self.model, checkpoints: &[], store, options: &search };
        let mut said = Vec::new();
        let quiet = Settings { quiet: true, ..settings.clone() };
        let mut take = |query: &SearchResult, scores: &[f32]| {
            said.push(Said::of(scores, query.predicted.to_string(), options.top_k));
            Ok(())
        };
        job.scores(open()?.labelled(), &quiet, rejections, &mut take)?;
        Ok(said)
    }
}

fn compare(rule: &str, said: &[Vec<Said>], options: &StabilityOptions) -> Stability {
    let queries = said[0].len();
    let pairs: Vec<(usize, usize)> = (0..said.len()).flat_map(|a| (0..a).map(move |b| (b, a))).collect();
    let mean = |of: &dyn Fn(&Said, &Said) -> f64, query: usize| {
        pairs.iter().map(|&(a, b)| of(&said[a][query], &said[b][query])).sum::<f64>() / pairs.len() as f64
    };
    let shared = |a: &Said, b: &Said| {
        let both = a.top.iter().filter(|row| b.top.contains(row)).count();
        both as f64 / a.top.len().max(1) as f64
    };
    let overlaps: Vec<f64> = (0..queries).map(|query| mean(&shared, query)).collect();
    let ranks = |a: &Said, b: &Said| spearman(&a.sample, &b.sample).unwrap_or(0.0);
    let correlations: Vec<f64> = (0..queries).map(|query| mean(&ranks, query)).collect();
    let same = |query: &usize| said.iter().all(|member| member[*query].predicted == said[0][*query].predicted);
    let of_same: Vec<f64> = (0..queries).filter(same).map(|query| overlaps[query]).collect();
    Stability {
        yardstick: "stability",
        rule: rule.to_owned(),
        overlap: Measure::of(&overlaps, options.seed),
        rank_correlation: Measure::of(&correlations, options.seed),
        overlap_same_prediction: Measure::of(&of_same, options.seed),
        queries: queries as u64,
        models: said.len() as u64,
        top_k: options.top_k as u64,
    }
}
