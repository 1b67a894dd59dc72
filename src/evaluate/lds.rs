//! The linear datamodelling score (Park et al. 2023): whether a rule says what a model trained on other records would have said.
//!
//! J subsets of a share of the training records are drawn, and a model is trained on each. For a query q, a rule's prediction of subset S is the
//! sum of its scores, `Σ_{i ∈ S} s(i, q)`; what it is held against is the margin of q's label under the model trained on S. The score is Spearman's
//! correlation of the two over the subsets, and its mean over queries.
//!
//! What is trained: the last layer alone, to its one optimum, over the features the model has; or the whole model, by [`crate::train`].

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::table::{Table, cell};
use super::units::{count, first, order};
use super::{Measure, spearman};
use crate::backend::cpu::Cpu;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::factors::{InMemory, LabelVec, RefitOptions, Target, refit};
use crate::interrupt;
use crate::model::{Blueprint, HeadPlan, Model, Problem};
use crate::pipeline::{Progress, QueryTarget, Rejections, ResultSink, SearchJob, SearchOptions, Settings, TopK};
use crate::random::{Purpose, Stream, uniform};
use crate::report::{NeighbourList, SearchResult};
use crate::search::Rule;
use crate::store::{Shard, Store};
use crate::tokens::pack;
use crate::train::{Example, Labelled, TrainOptions, TrainPlan, train};

/// What is trained on each subset.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retraining {
    /// The last layer, to the optimum of its regularised loss with this λ.
    Head(f64),
    /// The whole model.
    Full(Box<FullRetraining>),
}

/// How whole models are trained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FullRetraining {
    /// The model directory each training starts from.
    pub start: String,
    /// Whether it starts from drawn parameters: only the configuration and the tokenizer are read.
    pub scratch: bool,
    /// Everything else.
    pub options: TrainOptions,
}

/// How the score is measured.
#[derive(Clone, Debug)]
pub struct LdsOptions {
    /// Subsets J.
    pub subsets: usize,
    /// The share of training records in each.
    pub fraction: f64,
    /// What is trained on each.
    pub retraining: Retraining,
    /// Where margins are kept, for a run that goes on; nowhere where `None`.
    pub keep: Option<PathBuf>,
    /// Of the subsets, and of the bootstrap.
    pub seed: u64,
}

/// What subsets taught: the margin of every query under the model trained on each.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcomes {
    /// For each subset, whether each training record (a row of the store) is in it.
    pub members: Vec<Vec<bool>>,
    /// `[J][Q]`
    pub margins: Vec<Vec<f64>>,
    /// What training took.
    pub seconds: f64,
}

/// How well one rule predicts what subsets teach.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lds {
    /// The rule, or `random`.
    pub rule: String,
    /// The mean over queries of Spearman's correlation over subsets; queries whose scores do not vary count 0.
    pub lds: Option<Measure>,
    /// Queries.
    pub queries: u64,
    /// Subsets J.
    pub subsets: u64,
    /// Their share of the training records.
    pub fraction: f64,
    /// What scoring every record for every query took, what the rule needs included.
    pub seconds: f64,
}

impl Lds {
    /// All rules side by side, the best first.
    pub fn table(list: &[Self]) -> Table {
        let mut sorted: Vec<&Self> = list.iter().collect();
        let mean = |row: &Self| row.lds.map_or(f64::NEG_INFINITY, |lds| lds.mean);
        sorted.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        let mut table = Table::new(&["rule", "LDS ↑", "seconds"]);
        for row in sorted {
            table.push(vec![row.rule.clone(), cell(row.lds), format!("{:.2}", row.seconds)]);
        }
        if let Some(Self { queries, subsets, fraction, .. }) = list.first() {
            table.note(format!("{queries} queries, {subsets} subsets of {fraction} of the training records; ± is half a 95 % interval over queries"));
        }
        table
    }
}

/// A rule to be judged, and where its scores come from.
#[derive(Clone, Copy)]
pub struct Contender<'a> {
    /// The rule.
    pub rule: Rule,
    /// A store of the same records as the trainings'.
    pub store: &'a Store,
    /// Its checkpoints, for a rule that reads them.
    pub checkpoints: &'a [Model],
}

/// The records that subsets are drawn of, and the queries whose margins are told.
pub struct Trainings<'a> {
    /// The model explained.
    pub model: &'a Model,
    /// A store of the training records: what subsets are of.
    pub store: &'a Store,
    /// The training records themselves.
    pub training: Vec<Example>,
    /// Queries, each with the label its margin is of.
    pub queries: Vec<Example>,
}

impl<'a> Trainings<'a> {
    /// Reads both sets. Every record of the store must be among the training data.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model that is no classifier of one label; [`Error::Mismatch`] where data and store do not belong together; what
    /// cannot be read.
    pub fn read(
        model: &'a Model,
        store: &'a Store,
        training: Dataset,
        queries: Dataset,
        rejections: &mut Rejections,
    ) -> Result<Self> {
        if model.problem() != Problem::SingleLabel {
            return Err(Error::usage(format!(
                "{}: expected a classifier of one label: what is predicted is the margin of a label",
                model.name()
            )));
        }
        let trainee = Blueprint::read(&model.directory().to_string_lossy(), false)?.build(
            Cpu::new().shared_out(),
            plan(model),
            0,
            Some(model.max_length()),
        )?;
        let training = Labelled::read(training, None, rejections)?.examples(&trainee, rejections)?;
        let queries = Labelled::read(queries, None, rejections)?.examples(&trainee, rejections)?;
        let by_index: HashMap<u64, usize> =
            (0..).zip(&training).map(|(place, example)| (example.index, place)).collect();
        let find = |index: &u64| {
            by_index.get(index).map(|&place| training[place].clone()).ok_or_else(|| {
                Error::Mismatch(format!("training record {index} of the store is not among the training data"), None)
                    .with_hint("give the data that were indexed, with --training")
            })
        };
        let rows = store.shards().iter().flat_map(Shard::indices).map(find).collect::<Result<_>>()?;
        Ok(Self { model, store, training: rows, queries })
    }

    /// Draws the subsets, trains on each, and asks the queries; takes up what an earlier run kept.
    ///
    /// # Errors
    /// As training; [`Error::Mismatch`] where what is kept is of other subsets, data or options; [`Error::Interrupted`].
    pub fn run(&self, options: &LdsOptions, settings: &Settings) -> Result<Outcomes> {
        check(options)?;
        let began = Instant::now();
        let members: Vec<Vec<bool>> = (0..options.subsets).map(|subset| self.subset(subset, options)).collect();
        let mut kept = Kept::open(options.keep.as_deref(), &self.header(options))?;
        let progress = Progress::new("retraining", Some(options.subsets as u64), settings.quiet);
        let features = match options.retraining {
            Retraining::Head(_) => {
                Some([self.features(&self.training, settings)?, self.features(&self.queries, settings)?])
            }
            Retraining::Full(_) => None,
        };
        while kept.margins.len() < options.subsets {
            interrupt::check()?;
            let of = &members[kept.margins.len()];
            let margins = match (&options.retraining, &features) {
                (Retraining::Full(full), _) => self.retrain(of, full, kept.margins.len(), settings)?,
                (Retraining::Head(penalty), Some([training, queries])) => {
                    self.refit(of, *penalty, training, queries)?
                }
                (Retraining::Head(_), None) => Vec::new(),
            };
            kept.push(margins)?;
            progress.set(kept.margins.len() as u64, kept.margins.len() as u64);
        }
        // What is kept may be of more subsets: the first are the same.
        kept.margins.truncate(options.subsets);
        Ok(Outcomes { members, margins: kept.margins, seconds: began.elapsed().as_secs_f64() })
    }

    /// What decides the margins.
    fn header(&self, options: &LdsOptions) -> Header {
        let queries = self.queries.iter().map(|query| (&query.id, &query.target, &query.encoding.ids));
        let asked = format!("{:?}", queries.collect::<Vec<_>>());
        Header {
            model: self.model.fingerprint().to_owned(),
            data: self.store.data_fingerprint().to_owned(),
            queries: blake3::hash(asked.as_bytes()).to_hex().to_string(),
            fraction: options.fraction,
            seed: options.seed,
            retraining: serde_json::to_value(&options.retraining).unwrap_or_default(),
        }
    }

    /// The records with the greatest of their draws.
    fn subset(&self, subset: usize, options: &LdsOptions) -> Vec<bool> {
        let stream = Stream::new(options.seed, Purpose::Subsets);
        let draw = |row: usize| f64::from(uniform(stream.block([row as u32, 0, subset as u32, u32::MAX])[0]));
        let keys: Vec<f64> = (0..self.training.len()).map(draw).collect();
        first(&order(&keys), count(options.fraction, keys.len()))
    }

    fn features(&self, examples: &[Example], settings: &Settings) -> Result<Vec<f32>> {
        let window: Vec<&Example> = examples.iter().collect();
        Ok(self.model.run(&window, settings.batch_tokens, &|_| !interrupt::asked())?.features)
    }

    fn refit(&self, members: &[bool], penalty: f64, training: &[f32], queries: &[f32]) -> Result<Vec<f64>> {
        let (width, classes) = (self.model.width(), self.model.classes());
        let rows: Vec<usize> = (0..members.len()).filter(|&row| members[row]).collect();
        let label = |&row: &usize| match self.training[row].target {
            Target::Class(class) => class as i64,
            Target::Classes(_) | Target::Values(_) => -1,
        };
        let source = InMemory {
            problem: Problem::SingleLabel,
            width,
            classes,
            features: rows.iter().flat_map(|row| &training[row * width..][..width]).copied().collect(),
            deltas: vec![0.0; rows.len() * classes],
            labels: LabelVec::Classes(rows.iter().map(label).collect()),
            rows_at_a_time: 65_536,
        };
        let options = RefitOptions { penalty, ..RefitOptions::default() };
        let head = refit(&source, &options, &|| !interrupt::asked())?;
        let margins = queries.chunks_exact(width).zip(&self.queries);
        Ok(margins.map(|(h, query)| margin(&head.logits(h), &query.target)).collect())
    }

    fn retrain(&self, members: &[bool], full: &FullRetraining, subset: usize, settings: &Settings) -> Result<Vec<f64>> {
        let taken: Vec<Example> = self
            .training
            .iter()
            .zip(members)
            .filter(|(_, member)| **member)
            .map(|(example, _)| example.clone())
            .collect();
        // A seed of its own: what is common to all subsets would be taken for what records teach.
        let seed = full.options.seed.wrapping_add(subset as u64);
        let options = TrainOptions { seed, ..full.options.clone() };
        let mut trainee = Blueprint::read(&full.start, full.scratch)?.build(
            Cpu::new().shared_out(),
            plan(self.model),
            seed,
            Some(self.model.max_length()),
        )?;
        let quiet = TrainPlan { quiet: true, batch_tokens: settings.batch_tokens, ..TrainPlan::default() };
        train(&mut trainee, &taken, &[], &options, &quiet, &mut |_| Ok(()))?;
        let window: Vec<&Example> = self.queries.iter().collect();
        let (positions, classes) = (trainee.positions(), self.model.classes());
        let mut margins = vec![0.0; window.len()];
        for micro in pack(&window, positions, settings.batch_tokens.unwrap_or(2048)) {
            interrupt::check()?;
            let outputs = trainee.learner().answer(micro.batch)?;
            for (&row, z) in micro.rows.iter().zip(outputs.logits.chunks_exact(classes)) {
                let z: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
                margins[row] = margin(&z, &self.queries[row].target);
            }
        }
        Ok(margins)
    }

    /// How well a rule predicts `outcomes`, from what `queries` says of the queries.
    ///
    /// # Errors
    /// As [`SearchJob::run`]; [`Error::Mismatch`] where the store is of other records.
    pub fn judge(
        &self,
        contender: &Contender<'_>,
        queries: Dataset,
        outcomes: &Outcomes,
        options: &LdsOptions,
        settings: &Settings,
    ) -> Result<Lds> {
        let Contender { rule, store, checkpoints } = *contender;
        if store.data_fingerprint() != self.store.data_fingerprint() {
            return Err(Error::Mismatch("the stores are of other records".to_owned(), None));
        }
        let began = Instant::now();
        let search = SearchOptions {
            rule,
            top_k: TopK::Count(self.training.len()),
            target: QueryTarget::Gold,
            ..SearchOptions::default()
        };
        let job = SearchJob { model: self.model, checkpoints, store, options: &search };
        let rows: HashMap<u64, usize> =
            store.shards().iter().flat_map(Shard::indices).zip(0..).map(|(index, row)| (*index, row)).collect();
        let mut sink = Scores { rows, all: Vec::new() };
        let quiet = Settings { quiet: true, ..settings.clone() };
        job.run(queries, &quiet, &mut Rejections::new(true, None), &mut sink)?;
        if sink.all.len() != self.queries.len() {
            let (expected, found) = (self.queries.len(), sink.all.len());
            return Err(Error::Mismatch(format!("queries: expected {expected} with a label, found {found}"), None));
        }
        Ok(sum_up(rule.name(), &sink.all, outcomes, options, began))
    }

    /// The same of scores that are draws.
    pub fn judge_chance(&self, outcomes: &Outcomes, options: &LdsOptions) -> Lds {
        let (began, stream) = (Instant::now(), Stream::new(options.seed, Purpose::Chance));
        let draw = |query: usize, row: usize| uniform(stream.block([row as u32, 0, query as u32, u32::MAX])[0]);
        let scores: Vec<Vec<f32>> = (0..self.queries.len())
            .map(|query| (0..self.training.len()).map(|row| draw(query, row)).collect())
            .collect();
        sum_up("random", &scores, outcomes, options, began)
    }
}

/// The mean over queries of the correlation between sums of scores and margins.
fn sum_up(rule: &str, scores: &[Vec<f32>], outcomes: &Outcomes, options: &LdsOptions, began: Instant) -> Lds {
    let of_query = |(query, scores): (usize, &Vec<f32>)| {
        let sum = |members: &Vec<bool>| -> f64 {
            members.iter().zip(scores).filter(|(member, _)| **member).map(|(_, &score)| f64::from(score)).sum()
        };
        let sums: Vec<f64> = outcomes.members.iter().map(sum).collect();
        let margins: Vec<f64> = outcomes.margins.iter().map(|margins| margins[query]).collect();
        spearman(&sums, &margins).unwrap_or(0.0)
    };
    let correlations: Vec<f64> = scores.iter().enumerate().map(of_query).collect();
    Lds {
        rule: rule.to_owned(),
        lds: Measure::of(&correlations, options.seed),
        queries: correlations.len() as u64,
        subsets: outcomes.margins.len() as u64,
        fraction: options.fraction,
        seconds: began.elapsed().as_secs_f64(),
    }
}

fn check(options: &LdsOptions) -> Result<()> {
    if options.subsets < 3 {
        return Err(Error::usage(format!("--subsets: expected at least 3, found {}", options.subsets)));
    }
    if !(options.fraction > 0.0 && options.fraction < 1.0) {
        return Err(Error::usage(format!("--fraction: expected between 0 and 1, found {}", options.fraction)));
    }
    Ok(())
}

fn plan(model: &Model) -> HeadPlan {
    HeadPlan { names: model.class_names().names().to_vec(), problem: model.problem() }
}

/// `z_y − logsumexp` of the others.
fn margin(z: &[f64], target: &Target) -> f64 {
    let Target::Class(class) = *target else { return 0.0 };
    let others = || z.iter().enumerate().filter(move |(c, _)| *c != class).map(|(_, z)| *z);
    let largest = others().fold(f64::NEG_INFINITY, f64::max);
    z[class] - largest - others().map(|z| (z - largest).exp()).sum::<f64>().ln()
}

/// Takes full rankings apart again: a score for each row of the store.
struct Scores {
    rows: HashMap<u64, usize>,
    all: Vec<Vec<f32>>,
}

impl ResultSink for Scores {
    fn write(&mut self, result: &SearchResult) -> Result<()> {
        let mut scores = vec![0.0; self.rows.len()];
        result.proponents.iter().for_each(|hit| scores[self.rows[&hit.index]] = hit.score);
        self.all.push(scores);
        Ok(())
    }

    fn write_all(&mut self, _: &SearchResult<NeighbourList<'_>>) -> Result<()> {
        Err(Error::usage("scores are taken from both ends, not from streams"))
    }
}

/// What decides margins: those of another header are another experiment's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    model: String,
    data: String,
    queries: String,
    fraction: f64,
    seed: u64,
    retraining: serde_json::Value,
}

/// A file of margins, a line a subset after the header, each on the disk before the next begins.
struct Kept {
    file: Option<fs::File>,
    path: PathBuf,
    margins: Vec<Vec<f64>>,
}

impl Kept {
    fn open(path: Option<&Path>, header: &Header) -> Result<Self> {
        let Some(path) = path else { return Ok(Self { file: None, path: PathBuf::new(), margins: Vec::new() }) };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io(path)(error)),
        };
        let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let mut whole = 0;
        if let Some(line) = lines.next() {
            let found: Header =
                serde_json::from_str(line).map_err(|e| Error::format(path, format!("no margins of subsets: {e}")))?;
            if found != *header {
                return Err(Error::Mismatch(
                    format!("{}: the margins there are of another model, data or options", path.display()),
                    None,
                )
                .with_hint("name another file with --keep, or remove it"));
            }
            whole += line.len();
        }
        let mut margins = Vec::new();
        for line in lines {
            margins.push(serde_json::from_str(line).map_err(|e| Error::format(path, e.to_string()))?);
            whole += line.len();
        }
        let file = fs::OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))?;
        // A line cut short by a kill is written again.
        file.set_len(whole as u64).map_err(Error::io(path))?;
        let mut kept = Self { file: Some(file), path: path.to_owned(), margins };
        if whole == 0 {
            kept.write(header)?;
        }
        Ok(kept)
    }

    fn push(&mut self, margins: Vec<f64>) -> Result<()> {
        self.write(&margins)?;
        self.margins.push(margins);
        Ok(())
    }

    fn write<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let line = serde_json::to_string(value).unwrap_or_default() + "\n";
        file.write_all(line.as_bytes()).and_then(|()| file.sync_data()).map_err(Error::io(&self.path))
    }
}
