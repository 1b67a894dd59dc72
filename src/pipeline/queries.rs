//! `search`: queries through the model, and for each the training records at both ends of the rule's ranking.

use std::time::Instant;

use super::answers::{Answers, Asked, Waiting};
use super::asker::Asker;
use super::index::tracers;
use super::prepared::Prepared;
use super::runner::{Plain, Runner, Tracing};
use super::scope::ScopeOptions;
use super::stream::stream_by;
use super::{Chunk, Chunking, Progress, Rejections, RuleOptions, Settings, Summary};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::factors::Target;
use crate::model::Model;
use crate::report::{NeighbourList, SearchResult};
use crate::search::Rule;
use crate::store::Store;

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
    /// Which training records are searched, and in what groups.
    pub scope: ScopeOptions,
    /// Leave out the training record that has the query's id.
    pub exclude_same_id: bool,
    /// The queries are the store's own records ([`super::SelfSearch`]), none of which is its own neighbour.
    pub of_itself: bool,
    /// Bytes that the search itself may take.
    pub memory: usize,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self {
            rule: Rule::GradCos,
            rule_options: RuleOptions::default(),
            top_k: TopK::Count(10),
            target: QueryTarget::Predicted,
            scope: ScopeOptions::default(),
            exclude_same_id: false,
            of_itself: false,
            memory: 1 << 30,
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
        let Self { model, store, options, .. } = *self;
        self.check()?;
        let prepared = Prepared::new(options.rule, store, &options.rule_options)?;
        let answers = Answers::new(store, options, &prepared)?.on(model.gpus());
        let mut waiting = Waiting::new(&answers);
        let began = Instant::now();
        let mut summary = self.ask(dataset, settings, rejections, &mut |asked| waiting.ask(asked, sink))?;
        waiting.answer(sink)?;
        summary.seconds = began.elapsed().as_secs_f64();
        Ok(summary)
    }

    /// Runs every record of `dataset` through the model, and hands `take` what they ask, a chunk at a time.
    pub(super) fn ask(
        &self,
        dataset: Dataset,
        settings: &Settings,
        rejections: &mut Rejections,
        take: &mut (dyn FnMut(Vec<Asked>) -> Result<()> + Send),
    ) -> Result<Summary> {
        let Self { model, store, options, .. } = *self;
        let projection = store.settings().gradients;
        let asker = Asker::new(model.class_names(), options, projection.is_some())?;
        let models: Vec<&Model> = std::iter::once(model).chain(self.checkpoints).collect();
        let tracers = tracers(&models, projection.as_ref().filter(|_| options.rule.reads_gradients()))?;
        let target = |gold: Option<&Target>, z: &[f32]| asker.explained(gold, z);
        let tracing = tracers.as_deref().map(|tracers| Tracing { model, tracers, target: &target });
        let plain = Plain(&models);
        let runner: &dyn Runner = tracing.as_ref().map_or(&plain, |tracing| tracing);
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
