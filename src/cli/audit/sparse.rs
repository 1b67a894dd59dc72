//! `wherefore audit sparse`.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use wherefore::audit::{self, Change, Contexts, Coverage, Draw};
use wherefore::dataset::Record;
use wherefore::explain::Segmentation;
use wherefore::factors::mean_features;
use wherefore::model::{Model, Reads, Task};
use wherefore::pipeline::{self, Choice, PoolOptions, Rejections};
use wherefore::report::{
    Format, NearRecord, Neighbour, ProposedRecord, RecordWriter, SearchResult, SelectedRecord, SparseRecord,
};
use wherefore::store::Store;
use wherefore::tokens::Encoding;
use wherefore::{Error, Result, search};

use super::{Audited, finish_with};
use crate::cli::Outcome;
use crate::cli::arguments::{Common, Data, note_side_out};
use crate::cli::output::Output;
use crate::cli::run_record::RunRecord;
use crate::cli::search::load_model;

/// Training records whose own coverage says what is near.
const SAMPLE: usize = 1000;

#[derive(Args)]
pub(super) struct Sparse {
    #[command(flatten)]
    audited: Audited,
    /// Where the model is now [default: where it was at indexing]
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    #[command(flatten)]
    data: Data,
    /// How many nearest training records a record's similarity is the mean of
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    nearest: u32,
    /// How many of the least covered records are selected for
    #[arg(long, value_name = "N", default_value_t = 50)]
    targets: usize,
    /// The store of a pool without labels, to select from
    #[arg(long, value_name = "DIR", requires = "selected")]
    pool: Option<PathBuf>,
    /// Where the records of the pool that are worth a label go
    #[arg(long, value_name = "FILE", requires = "pool")]
    selected: Option<PathBuf>,
    /// How many to select
    #[arg(long, value_name = "N", default_value_t = 1000)]
    select: usize,
    /// How they are chosen: coverage (greedy, what covers the targets most), round-robin, unsure (of the model) or
    /// random
    #[arg(long, value_name = "NAME", default_value_t = Choice::Coverage)]
    choose: Choice,
    /// Of two records of the pool nearer to each other than this, one is taken, as long as there are others
    #[arg(long, value_name = "COSINE", default_value_t = 0.98)]
    spread: f32,
    /// Groups that the least covered records are told in [default: the root of half their number, 12 at most]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    clusters: Option<u32>,
    /// Also propose changed copies of the training records nearest to the least covered: duplicate, substitute, insert,
    /// delete or swap
    #[arg(long, value_name = "CHANGE", requires = "proposed")]
    augment: Option<Change>,
    /// Where the changed copies go
    #[arg(long, value_name = "FILE", requires = "augment")]
    proposed: Option<PathBuf>,
    /// The share of words changed in the copies
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    share: f64,
    /// How near to a target a selected record must be
    #[arg(long, value_name = "COSINE", default_value_t = 0.7, allow_negative_numbers = true)]
    threshold: f32,
    /// Memory for searches, in MiB; a store larger than it is read in passing
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: usize,
}

impl Sparse {
    fn check(&self) -> Result<(), Error> {
        for (flag, cosine) in [("--spread", self.spread), ("--threshold", self.threshold)] {
            if !(-1.0..=1.0).contains(&cosine) {
                return Err(Error::usage(format!("{flag}: expected a cosine, -1 to 1, found {cosine}")));
            }
        }
        if !(0.0..=1.0).contains(&self.share) {
            return Err(Error::usage(format!("--share: expected 0 to 1, found {}", self.share)));
        }
        Ok(())
    }

    /// What of the pool is worth a label, for the least covered records.
    fn select(
        &self,
        model: &Model,
        nearest: &[&SearchResult],
        pool: &PathBuf,
        common: &Common,
    ) -> Result<Vec<SelectedRecord>> {
        let store = Store::open(pool)?;
        let options = PoolOptions {
            choice: self.choose,
            most: self.select,
            threshold: self.threshold,
            spread: self.spread,
            nearest: self.nearest as usize,
            seed: common.seed,
            memory: self.memory << 20,
        };
        if !options.choice.has_targets() {
            return pipeline::select_from_pool(&store, &[], &options);
        }
        let k = pipeline::candidates_per_target(self.select, nearest.len(), store.rows());
        let all = pipeline::nearest_records(
            model,
            &store,
            self.data.open_as(Audited::shape(&store), &[])?,
            k,
            options.memory,
            &common.settings(),
            // They were told of when they were first read.
            &mut Rejections::new(common.skip_invalid, None),
        )?;
        let of: HashMap<u64, &SearchResult> = all.iter().map(|result| (result.index, result)).collect();
        let targets: Vec<_> = nearest.iter().filter_map(|near| Some((*near, *of.get(&near.index)?))).collect();
        pipeline::select_from_pool(&store, &targets, &options)
    }

    /// Why fewer were selected than were asked for.
    fn tell_selected(&self, found: usize, quiet: bool) {
        if found >= self.select || quiet {
            return;
        }
        let why = if self.choose.has_targets() {
            format!(
                "no others of the pool are as near to one of the {} targets as --threshold {}",
                self.targets, self.threshold
            )
        } else {
            "the pool has no others".to_owned()
        };
        say_line!("selected {found} of {}: {why}", self.select);
    }

    /// The groups of the least covered records: each one's number, and what sets it apart.
    fn cluster(&self, model: &Model, targets: &[&SearchResult], common: &Common) -> Result<Vec<Described>> {
        let record = |result: &SearchResult| Record {
            text: result.text.clone(),
            pair: result.text_pair.clone(),
            ..Record::default()
        };
        let encodings: Vec<Encoding> =
            targets.iter().map(|result| model.encode(&record(result))).collect::<Result<_>>()?;
        let features = features(model, &encodings, common)?;
        let count = self.clusters.map_or_else(|| default_clusters(targets.len()), |count| count as usize);
        let groups = audit::clusters(&features, model.width(), count);
        let texts: Vec<_> = targets.iter().map(|result| (result.text.clone(), result.text_pair.clone())).collect();
        let words = audit::describe(&texts, &groups, Segmentation::Segmenter);
        Ok(groups.into_iter().map(|group| Described { group, words: words[group].clone() }).collect())
    }

    /// Changed copies of the training records that are nearest to the least covered ones.
    fn augment(
        &self,
        store: &Store,
        targets: &[&SearchResult],
        change: Change,
        common: &Common,
    ) -> Result<Vec<ProposedRecord>> {
        let texts =
            (0..store.rows()).map(|row| store.record(row).map(|record| record.text)).collect::<Result<Vec<_>>>()?;
        let contexts = Contexts::of(texts.iter().map(String::as_str), Segmentation::Segmenter);
        let (mut proposed, mut seen): (Vec<ProposedRecord>, _) = (Vec::new(), HashSet::new());
        for place in 0..self.nearest as usize {
            for target in targets {
                let Some(near) = target.proponents.get(place) else { continue };
                if !seen.insert(near.index) {
                    continue;
                }
                let draw = Draw { seed: common.seed, record: near.index, copy: 0 };
                let Some(text) =
                    audit::augment(&near.text, change, self.share, &contexts, Segmentation::Segmenter, draw)
                else {
                    continue;
                };
                proposed.push(ProposedRecord {
                    rank: proposed.len() as u64 + 1,
                    id: format!("{}~{change}", near.id),
                    label: near.label.clone(),
                    of: near.id.clone(),
                    target: target.id.clone(),
                    score: near.score,
                    text,
                    text_pair: near.text_pair.clone(),
                });
            }
        }
        Ok(proposed)
    }
}

/// A record's group among the least covered.
struct Described {
    group: usize,
    words: Vec<String>,
}

/// What texts are grouped by: their features, or of a model that says something of tokens the mean of theirs.
fn features(model: &Model, encodings: &[Encoding], common: &Common) -> Result<Vec<f32>> {
    let done = |_: usize| !wherefore::interrupt::asked();
    if model.task() == Task::Record {
        return Ok(model.run(encodings, common.batch_tokens, &done)?.features);
    }
    let sequences: Vec<(&Encoding, Reads)> =
        encodings.iter().map(|encoding| (encoding, (0..encoding.ids.len() as u32).collect())).collect();
    let outputs = model.read(&sequences, common.batch_tokens, &done)?;
    let texts = outputs.iter().zip(encodings);
    Ok(texts.flat_map(|(said, text)| mean_features(&said.features, model.width(), 0..text.ids.len())).collect())
}

/// Few enough to read, many enough to tell apart.
fn default_clusters(targets: usize) -> usize {
    ((targets as f64 / 2.0).sqrt().round() as usize).clamp(1, 12)
}

/// A record's mean similarity.
fn similarity(result: &SearchResult) -> f32 {
    audit::mean(result.proponents.iter().map(|near| near.score))
}

fn finding(rank: usize, result: &SearchResult, coverage: &Coverage, described: Option<&Described>) -> SparseRecord {
    let (similarity, percentile) = (similarity(result), coverage.percentile(similarity(result)));
    let near = |near: &Neighbour| NearRecord {
        index: near.index,
        id: near.id.clone(),
        label: near.label.as_ref().map(|label| label.as_str().map_or_else(|| label.to_string(), str::to_owned)),
        score: near.score,
        text: near.text.clone(),
        text_pair: near.text_pair.clone(),
    };
    SparseRecord {
        rank: rank as u64 + 1,
        index: result.index,
        id: result.id.clone(),
        score: 1.0 - similarity,
        similarity,
        percentile,
        label: result.label.clone(),
        predicted: result.predicted.clone(),
        reason: reason(percentile),
        cluster: described.map(|described| described.group as u64 + 1),
        cluster_words: described.map(|described| described.words.clone()).unwrap_or_default(),
        nearest: result.proponents.iter().map(near).collect(),
        text: result.text.clone(),
        text_pair: result.text_pair.clone(),
    }
}

/// The share of training records that are less covered, as what it says of the record.
fn reason(percentile: f64) -> String {
    let percent = 100.0 * percentile;
    match percent {
        0.0 => "no training record lies as far from its neighbours".to_owned(),
        _ if percent < 0.1 => "less than 0.1 % of the training records lie as far from their neighbours".to_owned(),
        _ if percent < 10.0 => format!("only {percent:.1} % of the training records lie as far from their neighbours"),
        _ => format!("{percent:.1} % of the training records lie as far from their neighbours"),
    }
}

/// The share of results with a label that is predicted, where there are any. Numbers are never quite right.
fn accuracy<'a>(results: impl Iterator<Item = &'a SearchResult>) -> Option<f64> {
    let (right, all) = results
        .filter(|result| !result.predicted.is_number())
        .filter_map(|result| result.label.as_ref().map(|label| *label == result.predicted))
        .fold((0_u64, 0_u64), |(right, all), is_right| (right + u64::from(is_right), all + 1));
    (all > 0).then(|| right as f64 / all as f64)
}

pub(super) fn run(arguments: &Sparse, common: &Common) -> anyhow::Result<Outcome> {
    arguments.check()?;
    let (mut run, started) = (RunRecord::begin("audit sparse"), Instant::now());
    note_side_out("--selected", arguments.selected.as_deref())?;
    note_side_out("--proposed", arguments.proposed.as_deref())?;
    let store = arguments.audited.open()?;
    run.store(&store);
    if store.rows() == 0 {
        return Err(Error::usage("the store has no records to cover anything with").into());
    }
    let (k, memory) = (arguments.nearest as usize, arguments.memory << 20);
    let model = load_model(&store, arguments.model.as_deref(), common)?;
    let mut rejections = Output::new(common, common.out.as_deref()).rejections();
    let results = pipeline::nearest_records(
        &model,
        &store,
        arguments.data.open_as(Audited::shape(&store), &[])?,
        k,
        memory,
        &common.settings(),
        &mut rejections,
    )?;
    let options = search::Options { memory, ..search::Options::default() };
    let coverage = Coverage::of(&store, k, SAMPLE, &options)?;
    let mut order: Vec<&SearchResult> = results.iter().collect();
    order.sort_by(|a, b| similarity(a).total_cmp(&similarity(b)).then(a.index.cmp(&b.index)));
    let (targets, rest) = order.split_at(arguments.targets.min(order.len()));
    let described = arguments.cluster(&model, targets, common)?;
    let mut writer =
        RecordWriter::create(common.out.as_deref(), common.format(), SparseRecord::columns(store.settings()))?;
    for (rank, result) in order.iter().enumerate() {
        writer.write(&finding(rank, result, &coverage, described.get(rank)))?;
    }
    writer.finish()?;
    let accuracies = [targets, rest].map(|part| accuracy(part.iter().copied()));
    tell_accuracy(targets.len(), accuracies, common.quiet);
    tell_clusters(&described, targets, common.quiet);
    run.set("accuracy", accuracies);
    if let (Some(pool), Some(selected)) = (&arguments.pool, &arguments.selected) {
        let chosen = arguments.select(&model, targets, pool, common)?;
        let mut writer =
            RecordWriter::create(Some(selected), Format::choose(None, Some(selected)), SelectedRecord::columns())?;
        chosen.iter().try_for_each(|record| writer.write(record))?;
        writer.finish()?;
        arguments.tell_selected(chosen.len(), common.quiet);
        run.set("selected", chosen.len());
    }
    if let (Some(change), Some(path)) = (arguments.augment, &arguments.proposed) {
        let proposed = arguments.augment(&store, targets, change, common)?;
        let mut writer = RecordWriter::create(
            Some(path),
            Format::choose(None, Some(path)),
            ProposedRecord::columns(store.settings()),
        )?;
        proposed.iter().try_for_each(|record| writer.write(record))?;
        writer.finish()?;
        run.set("proposed", proposed.len());
    }
    finish_with(common, "looked around", results.len(), started, run, rejections)
}

/// One line a group: its size, how often it is predicted right, its words.
fn tell_clusters(described: &[Described], targets: &[&SearchResult], quiet: bool) {
    let groups = described.iter().map(|described| described.group + 1).max().unwrap_or(0);
    for group in (0..groups).filter(|_| !quiet) {
        let members = || targets.iter().zip(described).filter(|(_, d)| d.group == group);
        let words = members().next().map(|(_, described)| described.words.join(", ")).unwrap_or_default();
        let right = accuracy(members().map(|(result, _)| *result));
        let right = right.map_or_else(String::new, |right| format!(", {:.1} % right", 100.0 * right));
        say_line!("group {}: {} records{right}: {words}", group + 1, members().count());
    }
}

fn tell_accuracy(targets: usize, [least, rest]: [Option<f64>; 2], quiet: bool) {
    if let (Some(least), Some(rest), false) = (least, rest, quiet) {
        say_line!("accuracy: {:.1} % of the {targets} least covered, {:.1} % of the rest", 100.0 * least, 100.0 * rest);
    }
}
