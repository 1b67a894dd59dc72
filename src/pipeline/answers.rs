//! Queries in hand to results: the scan, and what the hits' records are.

use std::ops::Range;

use serde_json::Value;

use super::Progress;
use super::prepared::{Asking, Batch, Prepared};
use super::queries::{ResultSink, SearchOptions, TopK};
use super::scope::Scope;
use crate::backend::gpu::Gpu;
use crate::error::{Error, Result};
use crate::factors::{Labels, Target};
use crate::interrupt;
use crate::model::{Problem, Task};
use crate::report::{
    Certain, Neighbour, NeighbourGroup, NeighbourList, NeighbourPart, Neighbours, ScoreError, SearchResult, class_value,
};
use crate::search::{
    self, Certainty, Certificate, End, ErrorBar, ErrorBars, Form, GroupHits, Hit, Hits, MutualHits, Options, Query,
    Scored, Selected,
};
use crate::store::{FactorPart, Shard, Store, StoredRecord};
use crate::task::{self, characters};

/// Of a neighbour's factors, so many are shown.
const PARTS: usize = 5;

/// One record that asks, and what is known of it before the search.
pub(super) struct Asked {
    pub(super) asking: Asking,
    /// Everything but the neighbours.
    pub(super) result: SearchResult,
    /// Its row in the store, where it comes from there: it is not its own neighbour.
    pub(super) own_row: Option<usize>,
}

impl Asked {
    /// About how much memory it takes until it is answered.
    fn bytes(&self) -> usize {
        let Asking { features, delta, checkpoints, bundles, text, .. } = &self.asking;
        let bundles: usize = bundles.iter().map(|bundle| bundle.features.len() + bundle.deltas.len()).sum();
        let factors: usize = checkpoints.iter().map(|(features, delta)| features.len() + delta.len()).sum();
        let numbers = features.len() + delta.len() + factors + bundles;
        size_of::<Self>() + numbers * size_of::<f32>() + 2 * text.len() + self.result.id.len()
    }
}

/// A result without its neighbours, and its own row.
type Unanswered = (SearchResult, Option<usize>);

/// What is to be answered, and what is asked.
fn apart(asked: Vec<Asked>) -> (Vec<Unanswered>, Vec<Asking>) {
    asked.into_iter().map(|one| ((one.result, one.own_row), one.asking)).unzip()
}

/// Queries that wait for each other. A store larger than memory is read from the disk at each pass, so as many pass
/// over it together as a quarter of the memory holds; where it stays in memory, each chunk is answered as it comes.
pub(super) struct Waiting<'a> {
    answers: &'a Answers<'a>,
    asked: Vec<Asked>,
    bytes: usize,
    room: usize,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(answers: &'a Answers<'a>) -> Self {
        let Answers { store, options, .. } = answers;
        let settings = store.settings();
        let scanned = store.shards().iter().map(Shard::factor_count).sum::<usize>()
            * (settings.width + settings.classes)
            * size_of::<f32>();
        let room = if scanned > options.memory { options.memory / 4 } else { 0 };
        Self { answers, asked: Vec::new(), bytes: 0, room }
    }

    /// Takes more queries in, and answers those that waited where there is no room for others.
    pub(super) fn ask(&mut self, asked: Vec<Asked>, sink: &mut dyn ResultSink) -> Result<()> {
        self.bytes += asked.iter().map(Asked::bytes).sum::<usize>();
        self.asked.extend(asked);
        if self.bytes >= self.room { self.answer(sink) } else { Ok(()) }
    }

    /// Answers all that wait.
    pub(super) fn answer(&mut self, sink: &mut dyn ResultSink) -> Result<()> {
        self.bytes = 0;
        self.answers.write(std::mem::take(&mut self.asked), sink)
    }
}

/// What stays the same from query to query.
pub(super) struct Answers<'a> {
    store: &'a Store,
    options: &'a SearchOptions,
    prepared: &'a Prepared<'a>,
    scope: Scope,
    /// How far scores may be off, where that is told.
    error_bars: Option<ErrorBars<'a>>,
    /// Searches on the CPU where there are none.
    gpus: Vec<&'a Gpu>,
}

/// Whom a query's own results are for.
#[derive(Clone, Copy)]
struct Asker<'a> {
    id: &'a str,
    own_row: Option<usize>,
    form: &'a Form<'a>,
    query: &'a Query,
}

impl<'a> Answers<'a> {
    pub(super) fn new(store: &'a Store, options: &'a SearchOptions, prepared: &'a Prepared<'a>) -> Result<Self> {
        let grouped = options.scope.group_by.is_some() || !options.scope.sets.is_empty();
        if options.top_k == TopK::All && grouped {
            return Err(Error::usage("--group-by and --set give each group's ends, not full rankings")
                .with_hint("ask for a number of records: --top-k K"));
        }
        if options.top_k == TopK::All && options.error_bars {
            return Err(Error::usage("--error-bars: full rankings come without").with_hint("use --top-k with a number"));
        }
        let scope = Scope::new(store, &options.scope)?;
        let error_bars = options.error_bars.then(|| prepared.error_bars()).transpose()?;
        Ok(Self { store, options, prepared, scope, error_bars, gpus: Vec::new() })
    }

    /// How many of the store's records are searched, where it may not be all.
    pub(super) fn searched(&self) -> Option<u64> {
        self.scope.rows.as_ref().map(|rows| rows.count() as u64)
    }

    /// The same, searching on GPUs.
    pub(super) fn on(self, gpus: Vec<&'a Gpu>) -> Self {
        Self { gpus, ..self }
    }

    /// What all of the store's own records find, where each pair of them can be scored once for both.
    pub(super) fn mutual(&self, progress: &Progress) -> Result<Option<MutualHits>> {
        let (TopK::Count(k), None) = (self.options.top_k, &self.scope.grouping) else { return Ok(None) };
        let Some((bias, form)) = self.prepared.mutual() else { return Ok(None) };
        let go_on = |done, _| {
            progress.set(done, done);
            !interrupt::asked()
        };
        let (fetched, options) = (self.fetched(k), self.search_options(&go_on));
        match &self.scope.rows {
            None => search::search_mutual(self.store, &form, bias, fetched, &options),
            Some(rows) => search::search_mutual(&Selected { source: self.store, rows }, &form, bias, fetched, &options),
        }
    }

    /// Writes the results of some of the store's own records, in order, from what all of them have found.
    pub(super) fn write_found(&self, asked: Vec<Asked>, found: &MutualHits, sink: &mut dyn ResultSink) -> Result<()> {
        let TopK::Count(k) = self.options.top_k else { return Ok(()) };
        let hits = asked.iter().filter_map(|one| one.own_row).map(|row| found.of(row)).collect();
        let (results, asking) = apart(asked);
        let batch = self.batch(asking)?;
        self.write_hits(k, &self.prepared.form(&batch), &batch.queries, results, hits, sink)
    }

    /// Searches for some queries together and writes their results in order.
    fn write(&self, asked: Vec<Asked>, sink: &mut dyn ResultSink) -> Result<()> {
        if asked.is_empty() {
            return Ok(());
        }
        let (results, asking) = apart(asked);
        let batch = self.batch(asking)?;
        let (form, queries) = (self.prepared.form(&batch), &batch.queries);
        match (self.options.top_k, &self.scope.grouping) {
            (TopK::All, _) => self.write_all(&form, queries, &results, sink),
            (TopK::Count(k), None) => self.write_ends(k, &form, queries, results, sink),
            (TopK::Count(k), Some(_)) => self.write_groups(k, &form, queries, results, sink),
        }
    }

    /// Of the store's own records, of whose features none are known but those that are stored, as such.
    fn batch(&self, asking: Vec<Asking>) -> Result<Batch<'a>> {
        let batch = self.prepared.batch(asking)?;
        Ok(if self.options.of_itself { batch.of_store() } else { batch })
    }

    fn write_ends(
        &self,
        k: usize,
        form: &Form<'_>,
        queries: &[Query],
        results: Vec<Unanswered>,
        sink: &mut dyn ResultSink,
    ) -> Result<()> {
        let (fetched, go_on) = (self.fetched(k), |_, _| !interrupt::asked());
        let options = self.search_options(&go_on);
        let hits = match &self.scope.rows {
            None => search::search(self.store, form, queries, fetched, &options)?,
            Some(rows) => {
                let source = Selected { source: self.store, rows };
                search::search(&source, form, queries, fetched, &options)?
            }
        };
        self.write_hits(k, form, queries, results, hits, sink)
    }

    fn write_hits(
        &self,
        k: usize,
        form: &Form<'_>,
        queries: &[Query],
        results: Vec<Unanswered>,
        hits: Vec<Hits>,
        sink: &mut dyn ResultSink,
    ) -> Result<()> {
        for (((mut result, own_row), query), mut hits) in results.into_iter().zip(queries).zip(hits) {
            let id = result.id.clone();
            let (asker, certificate) = (Asker { id: &id, own_row, form, query }, hits.certificate.take());
            let certain = certificate.as_ref().map(|certificate| self.certain(certificate, &hits, asker, k));
            (result.proponents, result.opponents) = self.ends(hits, asker, k)?;
            result.certain = certain.transpose()?.flatten();
            // Where there are neither copies nor rounded features, whether bounds were used depends on what else was
            // asked.
            let told = self.store.settings().scan.is_some() || result.certain.is_some();
            result.candidates = certificate.filter(|_| told).map(|certificate| certificate.candidates);
            sink.write(&result)?;
        }
        Ok(())
    }

    /// How many of a query's neighbours are certain, where its store's features are rounded.
    fn certain(&self, certificate: &Certificate, hits: &Hits, asker: Asker<'_>, k: usize) -> Result<Option<Certain>> {
        let Some([proponents, opponents]) = &certificate.certain else { return Ok(None) };
        let own = asker.own_row.map(|row| self.scope.stands_for(row) as u64);
        let except = if self.options.exclude_same_id { self.same_id(hits, asker.id)? } else { own };
        let count = |end: &Certainty, found: usize| end.count(k.min(found), except) as u64;
        let (proponents, opponents) =
            (count(proponents, hits.proponents.len()), count(opponents, hits.opponents.len()));
        Ok(Some(Certain { proponents, opponents }))
    }

    /// The row among the hits that has this id.
    fn same_id(&self, hits: &Hits, id: &str) -> Result<Option<u64>> {
        for hit in hits.proponents.iter().chain(&hits.opponents) {
            if self.store.record(hit.row as usize)?.id == id {
                return Ok(Some(hit.row).filter(|&row| self.scope.next_copy(row as usize).is_none()));
            }
        }
        Ok(None)
    }

    fn write_groups(
        &self,
        k: usize,
        form: &Form<'_>,
        queries: &[Query],
        results: Vec<Unanswered>,
        sink: &mut dyn ResultSink,
    ) -> Result<()> {
        let Some(grouping) = &self.scope.grouping else { return Ok(()) };
        let (fetched, go_on) = (self.fetched(k), |_, _| !interrupt::asked());
        let options = self.search_options(&go_on);
        // Rows that are not searched are in no group.
        let found = search::search_groups(self.store, form, queries, fetched, &grouping.groups, &options)?;
        for (((mut result, own_row), query), groups) in results.into_iter().zip(queries).zip(found) {
            let id = result.id.clone();
            let asker = Asker { id: &id, own_row, form, query };
            let (proponents, opponents) = self.ends(all_groups(&groups), asker, k)?;
            let named = grouping.names.iter().zip(grouping.groups.counts()).zip(groups);
            let groups: Result<Vec<_>> = named
                .map(|((name, &records), found)| {
                    let (proponents, opponents) = self.ends(found.hits, asker, k)?;
                    Ok(NeighbourGroup { group: name.clone(), records, total: found.total, proponents, opponents })
                })
                .collect();
            (result.proponents, result.opponents, result.groups) = (proponents, opponents, groups?);
            sink.write(&result)?;
        }
        Ok(())
    }

    fn write_all(
        &self,
        form: &Form<'_>,
        queries: &[Query],
        results: &[Unanswered],
        sink: &mut dyn ResultSink,
    ) -> Result<()> {
        let go_on = |_, _| !interrupt::asked();
        let options = self.search_options(&go_on);
        let each = |query: usize, ranking: &search::Ranking<'_>| {
            let (result, own_row) = results[query].clone();
            let id = result.id.clone();
            let asker = Asker { id: &id, own_row, form, query: &queries[query] };
            let list = |end| -> Result<_> { Ok(NeighbourList::new(self.lookup(Box::new(ranking.hits(end)?), asker))) };
            let (proponents, opponents) = (list(End::Proponents)?, list(End::Opponents)?);
            sink.write_all(&result.with_lists(proponents, opponents))
        };
        match &self.scope.rows {
            None => search::rank(self.store, form, queries, &options, each),
            Some(rows) => search::rank(&Selected { source: self.store, rows }, form, queries, &options, each),
        }
    }

    /// The query's own record can take one place at each end.
    fn fetched(&self, k: usize) -> usize {
        k.saturating_add(usize::from(self.options.exclude_same_id || self.options.of_itself))
    }

    fn search_options<'o>(&'o self, progress: &'o (dyn Fn(u64, u64) -> bool + Sync)) -> Options<'o> {
        // A quarter is for the queries themselves: see `Waiting`.
        let memory = self.options.memory / 4 * 3;
        Options { memory, progress: Some(progress), devices: &self.gpus, ..Options::default() }
    }

    fn ends(&self, hits: Hits, asker: Asker<'_>, k: usize) -> Result<(Vec<Neighbour>, Vec<Neighbour>)> {
        let end = |hits: Vec<Hit>| -> Result<Vec<_>> {
            let found = self.lookup(Box::new(hits.into_iter().map(Ok)), asker).take(k).collect::<Result<_>>()?;
            Ok(self.with_errors(found, asker))
        };
        Ok((end(hits.proponents)?, end(hits.opponents)?))
    }

    /// An end with how far its scores may be off, where that is told.
    fn with_errors(&self, mut end: Vec<Neighbour>, Asker { form, query, .. }: Asker<'_>) -> Vec<Neighbour> {
        let Some(error_bars) = &self.error_bars else { return end };
        let scored = end.iter().filter_map(|neighbour| {
            let row = self.store.find(neighbour.index)?;
            Some(Scored { place: self.store.locate(row), row, score: neighbour.score })
        });
        let bars = error_bars.of(self.store, form, query, &scored.collect::<Vec<_>>());
        let last = end.len() as u64;
        for (neighbour, ErrorBar { error, low, high, tied }) in end.iter_mut().zip(bars) {
            let tied = (tied as u64 + 1).min(last);
            neighbour.error = Some(ScoreError { standard: error, low, high, tied });
        }
        end
    }

    /// Hits with their texts and labels, the query's own record left out where that is asked for.
    fn lookup<'s>(&'s self, hits: Box<dyn Iterator<Item = Result<Hit>> + 's>, asker: Asker<'s>) -> Neighbours<'s> {
        let own = asker.own_row.map(|row| self.scope.stands_for(row));
        let others = hits.filter(move |hit| !matches!(hit, Ok(hit) if Some(hit.row as usize) == own));
        let kept = others.filter_map(move |hit| hit.and_then(|hit| self.of_another_id(hit, asker.id)).transpose());
        Box::new(
            kept.zip(1..).map(move |(found, rank)| found.map(|(record, hit)| self.neighbour(rank, hit, record, asker))),
        )
    }

    /// A hit and its record; where that has the query's id, and is left out for it, the next of those it stands for.
    fn of_another_id(&self, hit: Hit, id: &str) -> Result<Option<(StoredRecord, Hit)>> {
        let row = hit.row as usize;
        let record = self.store.record(row)?;
        if !(self.options.exclude_same_id && record.id == id) {
            return Ok(Some((record, hit)));
        }
        let Some(next) = self.scope.next_copy(row) else { return Ok(None) };
        let (shard, place) = self.store.locate(next);
        let index = self.store.shards()[shard].indices()[place];
        Ok(Some((self.store.record(next)?, Hit { row: next as u64, index, score: hit.score })))
    }

    fn neighbour(&self, rank: u64, hit: Hit, record: StoredRecord, asker: Asker<'_>) -> Neighbour {
        let row = hit.row as usize;
        let (parts, entities) = self.parts(row, &record, asker);
        let StoredRecord { id, text, pair, columns, said, .. } = record;
        let (label, predicted) = match said {
            Some(said) => (said.label, Some(said.predicted)),
            None => (shown(self.store, row, Column::Labels), shown(self.store, row, Column::Predictions)),
        };
        Neighbour {
            rank,
            index: hit.index,
            id,
            score: hit.score,
            error: None,
            label,
            predicted,
            text,
            text_pair: pair,
            columns,
            copies: self.scope.copies(row),
            parts,
            entities,
            detail: None,
        }
    }

    /// Which of a record's factors weigh most in its score, and which of its entities, whose words' scores are added
    /// up.
    fn parts(&self, row: usize, record: &StoredRecord, asker: Asker<'_>) -> (Vec<NeighbourPart>, Vec<NeighbourPart>) {
        let Some(said) = &record.said else { return (Vec::new(), Vec::new()) };
        let (shard, place) = self.store.locate(row);
        let scores = search::score_parts(self.store, asker.form, asker.query, shard, place);
        let kind = self.store.settings().task();
        let text = if kind == Task::Spans { record.pair.as_deref() } else { Some(&*record.text) };
        let part = |start: usize, end: usize, target: &str, score| NeighbourPart {
            text: characters(text.unwrap_or_default(), start, end).to_owned(),
            start: start as u64,
            end: end as u64,
            target: target.to_owned(),
            score,
        };
        // A rule that compares records as a whole gives no factor a part.
        let scored = scores.len().min(said.parts.len());
        let of_part = |(one, &score): (&FactorPart, &f32)| part(one.start, one.end, &one.target, score);
        let parts = said.parts.iter().zip(&scores).map(of_part).collect();
        let tags = said.parts[..scored].iter().map(|part| Some(part.target.as_str()));
        let entities = if kind == Task::Tags { task::entities(tags) } else { Vec::new() };
        let of_entity = |(kind, words): (String, Range<usize>)| {
            let (first, last) = (&said.parts[words.start], &said.parts[words.end - 1]);
            part(first.start, last.end, &kind, scores[words].iter().sum())
        };
        (weightiest(parts), weightiest(entities.into_iter().map(of_entity).collect()))
    }
}

/// The first by how much they weigh, whatever for.
fn weightiest(mut parts: Vec<NeighbourPart>) -> Vec<NeighbourPart> {
    parts.sort_by(|a, b| b.score.abs().total_cmp(&a.score.abs()));
    parts.truncate(PARTS);
    parts
}

/// Both ends of all groups together: the ends of each hold those of the whole.
fn all_groups(groups: &[GroupHits]) -> Hits {
    let end = |end: End, of: fn(&Hits) -> &Vec<Hit>| {
        let mut hits: Vec<Hit> = groups.iter().flat_map(|group| of(&group.hits)).copied().collect();
        hits.sort_unstable_by(|a, b| end.order(a, b));
        hits
    };
    Hits {
        proponents: end(End::Proponents, |hits| &hits.proponents),
        opponents: end(End::Opponents, |hits| &hits.opponents),
        certificate: None,
    }
}

/// Which of a record's two labels.
#[derive(Clone, Copy)]
pub(super) enum Column {
    Labels,
    Predictions,
}

/// A stored record's label or prediction, where it has one.
pub(super) fn stored_target(store: &Store, row: usize, column: Column) -> Option<Target> {
    let (settings, (shard, row)) = (store.settings(), store.locate(row));
    let shard = &store.shards()[shard];
    let labels: Labels<'_> = match column {
        Column::Labels => shard.labels(),
        Column::Predictions => shard.predictions(),
    };
    labels.target(row, settings.classes, settings.problem)
}

/// The same as results show it.
pub(super) fn shown(store: &Store, row: usize, column: Column) -> Option<Value> {
    let target = stored_target(store, row, column)?;
    Some(class_value(&target, &store.settings().label_names))
}

/// A query's target or prediction as results show it: nothing without a head.
pub(super) fn shown_target(problem: Problem, target: &Target, names: &[String]) -> Value {
    if problem == Problem::Headless { Value::Null } else { class_value(target, names) }
}
