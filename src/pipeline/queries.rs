//! `search`: queries through the model, and for each the training records at both ends of the rule's ranking.

use super::prepared::{Asking, Prepared};
use super::{Chunk, Chunking, Progress, Rejections, RuleOptions, Settings, Summary, stream};
use crate::dataset::{Dataset, Label, Record};
use crate::error::{Error, Result};
use crate::factors::{self, Labels, Target};
use crate::interrupt;
use crate::model::{Model, Problem};
use crate::report::{Neighbour, NeighbourList, Neighbours, SearchResult, class_value};
use crate::search::{self, End, Form, Hit, Options, Query, Rule};
use crate::store::{Store, StoredRecord};

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
    /// Leave out the training record that has the query's id.
    pub exclude_same_id: bool,
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
            exclude_same_id: false,
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
    /// As [`stream`]; and where model, checkpoints, store and rule do not belong together.
    pub fn run(
        &self,
        dataset: Dataset,
        settings: &Settings,
        rejections: &mut Rejections,
        sink: &mut dyn ResultSink,
    ) -> Result<Summary> {
        let Self { model, store, options, .. } = *self;
        self.check()?;
        let target = target_for_all(model, &options.target)?;
        let prepared = Prepared::new(options.rule, store, &options.rule_options)?;
        let answers = Answers { model, store, options, form: prepared.form(), prepared: &prepared, target };
        let models: Vec<&Model> = std::iter::once(model).chain(self.checkpoints).collect();
        let progress = Progress::new("searching", dataset.bytes_total(), settings.quiet);
        let mut answer = |chunk: Chunk| answers.write(&chunk, sink);
        stream(&models, dataset, &Chunking::any(), settings, rejections, &progress, &mut answer)
    }

    fn check(&self) -> Result<()> {
        let Self { model, store, .. } = *self;
        let head = model.head_fingerprint().unwrap_or_default();
        store.check_model(model.fingerprint(), head, model.tokenizer().fingerprint(), model.max_length())?;
        if !self.options.rule.needs_checkpoints() {
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

/// The target that every query shares, where it is one label.
fn target_for_all(model: &Model, target: &QueryTarget) -> Result<Option<Target>> {
    let QueryTarget::Label(name) = target else { return Ok(None) };
    let label = match model.problem() {
        Problem::MultiLabel => Label::Many(vec![Label::Name(name.clone())]),
        Problem::SingleLabel | Problem::Regression | Problem::Headless => Label::Name(name.clone()),
    };
    model.resolve_label(&label).map(Some).map_err(|reason| Error::usage(format!("--target: {reason}")))
}

/// What stays the same from query to query.
struct Answers<'a> {
    model: &'a Model,
    store: &'a Store,
    options: &'a SearchOptions,
    prepared: &'a Prepared<'a>,
    form: Form<'a>,
    target: Option<Target>,
}

impl Answers<'_> {
    /// Searches for a chunk of queries together and writes their results in order.
    fn write(&self, chunk: &Chunk, sink: &mut dyn ResultSink) -> Result<()> {
        let asking = (0..chunk.records.len()).map(|i| self.asking(chunk, i)).collect::<Result<Vec<_>>>()?;
        let results: Vec<_> =
            asking.iter().enumerate().map(|(i, asking)| self.result(chunk, i, &asking.target)).collect();
        let queries = self.prepared.queries(asking)?;
        match self.options.top_k {
            TopK::Count(k) => self.write_ends(k, &queries, results, sink),
            TopK::All => self.write_all(&queries, &results, sink),
        }
    }

    fn write_ends(
        &self,
        k: usize,
        queries: &[Query],
        results: Vec<SearchResult>,
        sink: &mut dyn ResultSink,
    ) -> Result<()> {
        // The query's own record can take one place at each end.
        let fetched = k + usize::from(self.options.exclude_same_id);
        let hits = search::search(
            self.store,
            &self.form,
            queries,
            fetched,
            &self.search_options(&|_, _| !interrupt::asked()),
        )?;
        for (mut result, hits) in results.into_iter().zip(hits) {
            result.proponents = self.neighbours(hits.proponents, &result.id, k)?;
            result.opponents = self.neighbours(hits.opponents, &result.id, k)?;
            sink.write(&result)?;
        }
        Ok(())
    }

    fn write_all(&self, queries: &[Query], results: &[SearchResult], sink: &mut dyn ResultSink) -> Result<()> {
        let options = self.search_options(&|_, _| !interrupt::asked());
        search::rank(self.store, &self.form, queries, &options, |query, ranking| {
            let result = results[query].clone();
            let id = result.id.clone();
            let list = |end| -> Result<_> { Ok(NeighbourList::new(self.lookup(Box::new(ranking.hits(end)?), &id))) };
            let (proponents, opponents) = (list(End::Proponents)?, list(End::Opponents)?);
            sink.write_all(&result.with_lists(proponents, opponents))
        })
    }

    fn search_options<'a>(&self, progress: &'a (dyn Fn(u64, u64) -> bool + Sync)) -> Options<'a> {
        Options { memory: self.options.memory, progress: Some(progress), ..Options::default() }
    }

    /// Record i of the chunk with its factors: δ is the gradient of its loss against its target.
    fn asking(&self, chunk: &Chunk, i: usize) -> Result<Asking> {
        let problem = self.model.problem();
        let target = self.target_of(chunk, i)?;
        let factors = |pass: &super::Pass| {
            let mut delta = vec![0.0; pass.classes];
            factors::loss_and_delta(problem, pass.logits(i), &target, &mut delta);
            (pass.features(i).to_vec(), delta)
        };
        let (features, delta) = factors(&chunk.passes[0]);
        let checkpoints = chunk.passes[1..].iter().map(factors).collect();
        Ok(Asking { features, delta, target, checkpoints })
    }

    fn target_of(&self, chunk: &Chunk, i: usize) -> Result<Target> {
        match (&self.options.target, &self.target, &chunk.gold[i]) {
            (_, Some(target), _) | (QueryTarget::Gold, None, Some(target)) => Ok(target.clone()),
            (QueryTarget::Gold, None, None) if self.options.rule.needs_target() => {
                let id = &chunk.records[i].id;
                Err(Error::usage(format!("query {id}: no label, and --target gold explains labels"))
                    .with_hint("use --target predicted"))
            }
            _ => Ok(factors::predict(self.model.problem(), chunk.passes[0].logits(i))),
        }
    }

    /// A result with everything but its neighbours.
    fn result(&self, chunk: &Chunk, i: usize, target: &Target) -> SearchResult {
        let (problem, names) = (self.model.problem(), self.model.class_names().names());
        let Record { id, index, text, pair, .. } = chunk.records[i].clone();
        let logits = chunk.passes[0].logits(i);
        let predicted = factors::predict(problem, logits);
        let probability = match &predicted {
            Target::Class(class) => factors::probabilities(problem, logits).get(*class).copied(),
            Target::Classes(_) | Target::Values(_) => None,
        };
        let headless = problem == Problem::Headless;
        let shown = |target: &Target| if headless { serde_json::Value::Null } else { class_value(target, names) };
        SearchResult {
            id,
            index,
            text,
            text_pair: pair,
            label: chunk.gold[i].as_ref().map(|gold| class_value(gold, names)),
            predicted: shown(&predicted),
            probability,
            target: shown(target),
            rule: self.options.rule.name().to_owned(),
            proponents: Vec::new(),
            opponents: Vec::new(),
        }
    }

    fn neighbours(&self, hits: Vec<Hit>, query: &str, k: usize) -> Result<Vec<Neighbour>> {
        self.lookup(Box::new(hits.into_iter().map(Ok)), query).take(k).collect()
    }

    /// Hits with their texts and labels, the query's own record left out where that is asked for.
    fn lookup<'a>(&'a self, hits: Box<dyn Iterator<Item = Result<Hit>> + 'a>, query: &'a str) -> Neighbours<'a> {
        let found = hits.map(|hit| hit.and_then(|hit| Ok((self.store.record(hit.row as usize)?, hit))));
        let exclude = self.options.exclude_same_id;
        let kept = found.filter(move |found| !matches!(found, Ok((record, _)) if exclude && record.id == query));
        Box::new(kept.zip(1..).map(|(found, rank)| found.map(|(record, hit)| self.neighbour(rank, hit, record))))
    }

    fn neighbour(&self, rank: u64, hit: Hit, record: StoredRecord) -> Neighbour {
        let settings = self.store.settings();
        let (shard, row) = self.store.locate(hit.row as usize);
        let shard = &self.store.shards()[shard];
        let shown = |labels: Labels<'_>| {
            labels
                .target(row, settings.classes, settings.problem)
                .map(|target| class_value(&target, &settings.label_names))
        };
        Neighbour {
            rank,
            index: hit.index,
            id: record.id,
            score: hit.score,
            label: shown(shard.labels()),
            predicted: shown(shard.predictions()),
            text: record.text,
            text_pair: record.pair,
        }
    }
}
