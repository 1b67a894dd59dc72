//! `search`: queries through the model, and for each the training records at both ends of the rule's ranking.

use std::str::FromStr;
use std::time::Instant;

use super::answers::{Answers, Asked, Waiting};
use super::asker::Asker;
use super::exact::{Exact, ExactOptions, Scoring, Way};
use super::preconditioned::Preconditioning;
use super::prepared::Prepared;
use super::runner::{Plain, Runner, Tracing};
use super::scope::ScopeOptions;
use super::stream::stream_by;
use super::token_queries;
use super::{Chunk, Chunking, Progress, Rejections, RuleOptions, Settings, Summary};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::factors::{FisherForm, LabelUsed, Target};
use crate::model::{Model, Problem, Tracer};
use crate::report::{NeighbourList, SearchResult};
use crate::search::Rule;
use crate::store::{self, Fisher, Store};

/// Which label a query is explained for.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum QueryTarget {
    /// The one the model predicts.
    #[default]
    Predicted,
    /// The record's own; a record without one is rejected.
    Gold,
    /// This one, for every query.
    Label(String),
}

/// How many records of each end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopK {
    /// This many, or as many as there are.
    Count(usize),
    /// Every record, ranked.
    All,
}

impl FromStr for TopK {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("all", _) => Ok(Self::All),
            (_, Ok(count)) if count > 0 => Ok(Self::Count(count)),
            _ => Err(format!("expected a number from 1 on, or all, found {text:?}")),
        }
    }
}

/// Which of a text's entities are asked about, each by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entities {
    /// Every one; a text without any asks nothing.
    All,
    /// This one, counted from 0; a text without it is one that cannot be used.
    Number(usize),
}

/// What is asked of a store.
#[derive(Clone, Debug)]
pub struct SearchOptions {
    /// The scoring rule.
    pub rule: Rule,
    /// How it is made ready.
    pub rule_options: RuleOptions,
    /// How many records of each end.
    pub top_k: TopK,
    /// Which label is explained.
    pub target: QueryTarget,
    /// Of models that say something of tokens, the one token (counted from the first, special ones included) that is
    /// asked about.
    pub token: Option<usize>,
    /// Of models that tag words, the entities that are asked about, each by itself.
    pub entity: Option<Entities>,
    /// Which training records are searched, and in what groups.
    pub scope: ScopeOptions,
    /// Leave out the training record that has the query's id.
    pub exclude_same_id: bool,
    /// The queries are the store's own records ([`super::SelfSearch`]), none of which is its own neighbour.
    pub of_itself: bool,
    /// Bytes that the search itself may take.
    pub memory: usize,
    /// Score the ends again, by whole gradients that are not projected.
    pub exact: Option<ExactOptions>,
    /// Tell how far scores of projected gradients may be off.
    pub error_bars: bool,
}

impl SearchOptions {
    /// The rule for a store where none is asked for: the cosine of gradients, or of features where there are none.
    pub fn default_rule(&self, kept: &store::Settings) -> Rule {
        match kept {
            _ if kept.gradients.is_some() => Rule::ProjectedCos,
            _ if kept.classes == 0 || self.is_lossless(kept) => Rule::FeatureCos,
            _ => Rule::GradCos,
        }
    }

    /// Whether queries, or the store's records, are explained against what a regression predicts: a loss of 0 has no
    /// gradient.
    pub fn is_lossless(&self, kept: &store::Settings) -> bool {
        let predicted =
            kept.target == LabelUsed::Predicted || (self.target == QueryTarget::Predicted && !self.of_itself);
        kept.problem == Problem::Regression && predicted
    }

    /// As many records of each end as there are to be scored again, where that is more.
    fn widened(&self) -> Result<Self> {
        let top_k = match (self.exact, self.top_k) {
            (None, top_k) => top_k,
            (Some(exact), TopK::Count(k)) => TopK::Count(k.max(exact.records)),
            (Some(_), TopK::All) => {
                return Err(
                    Error::usage("--exact: full rankings are not scored again").with_hint("use --top-k with a number")
                );
            }
        };
        Ok(Self { top_k, ..self.clone() })
    }
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self {
            rule: Rule::GradCos,
            rule_options: RuleOptions::default(),
            top_k: TopK::Count(10),
            target: QueryTarget::Predicted,
            token: None,
            entity: None,
            scope: ScopeOptions::default(),
            exclude_same_id: false,
            of_itself: false,
            memory: 1 << 30,
            exact: None,
            error_bars: false,
        }
    }
}

/// Takes results as they come.
pub trait ResultSink: Send {
    /// One query's two ends.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn write(&mut self, result: &SearchResult) -> Result<()>;

    /// One query's full ranking, in both directions, read while it is written.
    ///
    /// # Errors
    /// Where it cannot be read or written.
    fn write_all(&mut self, result: &SearchResult<NeighbourList<'_>>) -> Result<()>;
}

/// Keeps results in memory; full rankings are refused.
impl ResultSink for Vec<SearchResult> {
    fn write(&mut self, result: &SearchResult) -> Result<()> {
        self.push(result.clone());
        Ok(())
    }

    fn write_all(&mut self, _: &SearchResult<NeighbourList<'_>>) -> Result<()> {
        Err(Error::usage("full rankings are streamed, not kept"))
    }
}

/// The whole network's curvature, and how it is read.
pub(super) struct Whole {
    fisher: Fisher,
    at: (FisherForm, f64),
}

/// A model's questions to a store of its training records.
pub struct SearchJob<'a> {
    /// The model whose predictions are explained.
    pub model: &'a Model,
    /// The store's checkpoints, in its order, for a rule that reads them; none for the others.
    pub checkpoints: &'a [Model],
    /// The training records.
    pub store: &'a Store,
    /// What is asked.
    pub options: &'a SearchOptions,
}

impl SearchJob<'_> {
    /// Asks about every record of `dataset`; results go to `sink` in input order.
    ///
    /// # Errors
    /// As [`super::stream`]; and where model, checkpoints, store and rule do not belong together.
    pub fn run(
        &self,
        dataset: Dataset,
        settings: &Settings,
        rejections: &mut Rejections,
        sink: &mut dyn ResultSink,
    ) -> Result<Summary> {
        let Self { model, store, .. } = *self;
        let options = &self.options.widened()?;
        self.check()?;
        if let Some(tokens) = store.settings().tokens {
            return token_queries::search(self, tokens, dataset, settings, rejections, sink);
        }
        if options.token.is_some() {
            return Err(Error::usage("--token: this model says nothing of single tokens"));
        }
        let whole = self.whole()?;
        let prepared = self.prepared(whole.as_ref(), settings.quiet)?;
        let answers = Answers::new(store, options, &prepared)?.on(model.gpus());
        let asker = Asker::new(model.class_names(), options, store.settings().gradients.is_some())?;
        let target = |gold: Option<&Target>, z: &[f32]| asker.explained(gold, z);
        let mut exact;
        let sink: &mut dyn ResultSink = match (self.options.exact, self.options.top_k) {
            (Some(exact_options), TopK::Count(top_k)) => {
                let whole = whole.as_ref().map(|whole| (&whole.fisher, whole.at));
                let way = Way::new(model, store, options.rule, whole, &target)?;
                let (rule, options) = (options.rule, exact_options);
                exact = Exact { inner: sink, scoring: Scoring { model, store, rule, options, top_k, settings, way } };
                &mut exact
            }
            _ => sink,
        };
        let mut waiting = Waiting::new(&answers);
        let began = Instant::now();
        let mut take = |asked| waiting.ask(asked, sink);
        let mut summary = self.ask(whole.as_ref(), dataset, settings, rejections, &mut take)?;
        waiting.answer(sink)?;
        summary.seconds = began.elapsed().as_secs_f64();
        (summary.damping, summary.searched) = (prepared.damping(), answers.searched());
        let fitted_to = whole.as_ref().map(|whole| whole.fisher.settings.data_fingerprint.as_str());
        summary.curvature_of_others = fitted_to.is_some_and(|fitted_to| fitted_to != store.records_fingerprint());
        Ok(summary)
    }

    /// The whole network's curvature, where the rule is preconditioned by it.
    pub(super) fn whole(&self) -> Result<Option<Whole>> {
        let SearchOptions { rule, rule_options, .. } = self.options;
        let place = rule_options.curvature.as_deref().unwrap_or(self.store.directory());
        let whole = |at| Ok(Whole { fisher: Fisher::read(place)?, at });
        rule_options.fisher(*rule, self.store)?.map(whole).transpose()
    }

    /// The rule made ready.
    pub(super) fn prepared(&self, whole: Option<&Whole>, quiet: bool) -> Result<Prepared<'_>> {
        let SearchOptions { rule, rule_options, memory, .. } = self.options;
        match whole {
            Some(whole) => Prepared::whole(*rule, self.store, &whole.fisher, whole.at),
            None => Prepared::new(*rule, self.store, rule_options, *memory, quiet),
        }
    }

    /// Runs every record of `dataset` through the model, and hands `take` what they ask, a chunk at a time.
    pub(super) fn ask(
        &self,
        whole: Option<&Whole>,
        dataset: Dataset,
        settings: &Settings,
        rejections: &mut Rejections,
        take: &mut (dyn FnMut(Vec<Asked>) -> Result<()> + Send),
    ) -> Result<Summary> {
        let Self { model, store, options, .. } = *self;
        let projection = store.settings().gradients;
        let asker = Asker::new(model.class_names(), options, projection.is_some())?;
        let of_labels = options.target == QueryTarget::Gold && options.rule.needs_target();
        let dataset = if of_labels { dataset.labelled() } else { dataset };
        let models: Vec<&Model> = std::iter::once(model).chain(self.checkpoints).collect();
        let target = |gold: Option<&Target>, z: &[f32]| asker.explained(gold, z);
        let preconditioning = match (whole, &projection) {
            (Some(whole), Some(projection)) => {
                Some(Preconditioning::new(model, &whole.fisher, whole.at, projection, &target)?)
            }
            _ => None,
        };
        let traced = options.rule.reads_gradients() && preconditioning.is_none();
        let all = |projection| models.iter().map(|model| Tracer::new(model, projection)).collect::<Result<Vec<_>>>();
        let tracers = projection.as_ref().filter(|_| traced).map(all).transpose()?;
        let tracing = tracers.as_deref().map(|tracers| Tracing { model, tracers, target: &target });
        let plain = Plain(&models);
        let runner: &dyn Runner = match (&preconditioning, &tracing) {
            (Some(preconditioning), _) => preconditioning,
            (None, Some(tracing)) => tracing,
            (None, None) => &plain,
        };
        let progress = Progress::new("searching", dataset.bytes_total(), settings.quiet);
        let mut answer = |chunk: Chunk| take(asker.asked(&chunk)?);
        stream_by(runner, dataset, &Chunking::any(), settings, rejections, &progress, &mut answer)
    }

    pub(super) fn check(&self) -> Result<()> {
        let Self { model, store, .. } = *self;
        let head = model.head_fingerprint().unwrap_or_default();
        store.check_model(model.fingerprint(), head, model.tokenizer().fingerprint(), model.max_length())?;
        if !self.options.rule.reads_checkpoints() {
            return Ok(());
        }
        let expected = &store.settings().checkpoints;
        if self.checkpoints.len() != expected.len() {
            let (expected, found) = (expected.len(), self.checkpoints.len());
            return Err(Error::Mismatch(format!("checkpoints: the store has {expected}, found {found}"), None));
        }
        for (given, expected) in self.checkpoints.iter().zip(expected) {
            let (name, was, is) = (given.name(), expected.fingerprint.as_str(), given.fingerprint());
            if was != is {
                return Err(Error::Mismatch(
                    format!("checkpoint {name}: the store was made with {was}, found {is}"),
                    None,
                ));
            }
        }
        Ok(())
    }
}
