//! `wherefore audit sparse`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use wherefore::audit::{self, Coverage};
use wherefore::pipeline::{Rejections, SearchJob, SearchOptions, TopK};
use wherefore::report::{Format, NearRecord, Neighbour, RecordWriter, SearchResult, SelectedRecord, SparseRecord};
use wherefore::search::{self, Rule};
use wherefore::store::Store;
use wherefore::{Error, Result};

use super::{Audited, finish};
use crate::cli::Outcome;
use crate::cli::arguments::{Common, Data};
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
    /// How near to a target a selected record must be
    #[arg(long, value_name = "COSINE", default_value_t = 0.7, allow_negative_numbers = true)]
    threshold: f32,
    /// Memory for searches, in MiB; a store larger than it is read in passing
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: usize,
}

impl Sparse {
    /// The records of the data, each with its `k` nearest in a store.
    fn search(&self, store: &Store, k: usize, common: &Common) -> Result<Vec<SearchResult>> {
        let model = load_model(store, self.model.as_deref(), common)?;
        let (rule, top_k, memory) = (Rule::FeatureCos, TopK::Count(k), self.memory << 20);
        let options = SearchOptions { rule, top_k, memory, ..SearchOptions::default() };
        let job = SearchJob { model: &model, checkpoints: &[], store, options: &options };
        let mut results = Vec::new();
        job.run(self.data.open()?, &common.settings()?, &mut Rejections::new(false, None), &mut results)?;
        Ok(results)
    }

    /// What of the pool comes nearest to the targets, each in its turn.
    fn select(&self, targets: &[usize], pool: &PathBuf, common: &Common) -> Result<Vec<SelectedRecord>> {
        let store = Store::open(pool)?;
        let most = (2 * self.select.div_ceil(targets.len().max(1)) + 10).min(store.rows().max(1));
        let results = self.search(&store, most, common)?;
        let near = |target: &usize| -> Vec<(u64, f32)> {
            results[*target].proponents.iter().map(|near| (near.index, near.score)).collect()
        };
        let candidates: Vec<_> = targets.iter().map(near).collect();
        let chosen = audit::round_robin(&candidates, self.select, self.threshold);
        let selected = chosen.into_iter().enumerate().map(|(rank, (target, place))| {
            let result = &results[targets[target]];
            let Neighbour { index, id, score, text, text_pair, .. } = result.proponents[place].clone();
            SelectedRecord { rank: rank as u64 + 1, index, id, score, target: result.id.clone(), text, text_pair }
        });
        Ok(selected.collect())
    }
}

/// A record's mean similarity.
fn similarity(result: &SearchResult) -> f32 {
    audit::mean(result.proponents.iter().map(|near| near.score))
}

fn finding(rank: usize, result: &SearchResult, coverage: &Coverage) -> SparseRecord {
    let (similarity, percentile) = (similarity(result), coverage.percentile(similarity(result)));
    let near = |near: &Neighbour| NearRecord {
        index: near.index,
        id: near.id.clone(),
        label: near.label.as_ref().map(|label| label.as_str().map_or_else(|| label.to_string(), str::to_owned)),
        score: near.score,
        text: near.text.clone(),
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
        reason: format!("{:.1} % of the training records are less covered by the others", 100.0 * percentile),
        nearest: result.proponents.iter().map(near).collect(),
        text: result.text.clone(),
        text_pair: result.text_pair.clone(),
    }
}

/// The share of results with a label that is predicted, where there are any.
fn accuracy<'a>(results: impl Iterator<Item = &'a SearchResult>) -> Option<f64> {
    let (right, all) = results
        .filter_map(|result| result.label.as_ref().map(|label| *label == result.predicted))
        .fold((0_u64, 0_u64), |(right, all), is_right| (right + u64::from(is_right), all + 1));
    (all > 0).then(|| right as f64 / all as f64)
}

pub(super) fn run(arguments: &Sparse, common: &Common) -> anyhow::Result<Outcome> {
    let (mut run, started) = (RunRecord::begin("audit sparse"), Instant::now());
    let store = arguments.audited.open()?;
    run.store(&store);
    if store.rows() == 0 {
        return Err(Error::usage("the store has no records to cover anything with").into());
    }
    let k = arguments.nearest as usize;
    let results = arguments.search(&store, k, common)?;
    let options = search::Options { memory: arguments.memory << 20, ..search::Options::default() };
    let coverage = Coverage::of(&store, k, SAMPLE, &options)?;
    let mut order: Vec<usize> = (0..results.len()).collect();
    order.sort_by(|&a, &b| similarity(&results[a]).total_cmp(&similarity(&results[b])).then(a.cmp(&b)));
    let mut writer = RecordWriter::create(common.out.as_deref(), common.format(), SparseRecord::columns())?;
    for (rank, &result) in order.iter().enumerate() {
        writer.write(&finding(rank, &results[result], &coverage))?;
    }
    writer.finish()?;
    let targets = &order[..arguments.targets.min(order.len())];
    let rest = &order[targets.len()..];
    let accuracies = [targets, rest].map(|part| accuracy(part.iter().map(|&result| &results[result])));
    tell_accuracy(targets.len(), accuracies, common.quiet);
    run.set("accuracy", accuracies);
    if let (Some(pool), Some(selected)) = (&arguments.pool, &arguments.selected) {
        let chosen = arguments.select(targets, pool, common)?;
        let mut writer =
            RecordWriter::create(Some(selected), Format::choose(None, Some(selected)), SelectedRecord::columns())?;
        chosen.iter().try_for_each(|record| writer.write(record))?;
        writer.finish()?;
        run.set("selected", chosen.len());
    }
    finish(common, "looked around", results.len(), started, run)
}

#[expect(clippy::print_stderr, reason = "messages go to standard error")]
fn tell_accuracy(targets: usize, [least, rest]: [Option<f64>; 2], quiet: bool) {
    if let (Some(least), Some(rest), false) = (least, rest, quiet) {
        eprintln!("accuracy: {:.1} % of the {targets} least covered, {:.1} % of the rest", 100.0 * least, 100.0 * rest);
    }
}
