//! `wherefore bench`.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use clap::{Args, ValueEnum};
use rayon::prelude::*;
use serde::Serialize;
use wherefore::backend::cpu::{self, Ceilings, Cpu};
use wherefore::backend::gpu::Gpu;
use wherefore::backend::{Objective, Precision};
use wherefore::dataset::Record;
use wherefore::explain::{self, Method, Subject, Words};
use wherefore::factors::{FactorRows, Floats, ScanCopy, ScanType};
use wherefore::interrupt;
use wherefore::model::{Model, Reads, Task};
use wherefore::pipeline::{Sequence, Summary, run_sequences, sequence};
use wherefore::search::{self, FactorSet, Form, Options, Query, Rule, Source};
use wherefore::{Error, Result};

use super::Outcome;
use super::arguments::{Common, Data, shape_of};
use super::output::{print, record_beside};
use super::run_record::RunRecord;

/// Throughput of this machine on each job, against its own measured ceilings.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Only this job [default: every one]
    #[arg(long, value_enum)]
    job: Option<Job>,
    /// Search: training records
    #[arg(long, default_value = "200000", value_name = "N")]
    records: NonZeroUsize,
    /// Search: features a record
    #[arg(long, default_value = "384", value_name = "E")]
    width: NonZeroUsize,
    /// Search: classes
    #[arg(long, default_value = "2", value_name = "K")]
    classes: NonZeroUsize,
    /// Search: queries at a time [default: 1, 64 and 1024]
    #[arg(long, value_name = "Q")]
    queries: Option<NonZeroUsize>,
    /// Search: records at each end
    #[arg(long, default_value_t = 10, value_name = "K")]
    top_k: usize,
    /// Search: how features are held
    #[arg(long, value_enum, default_value_t = Held::F32)]
    dtype: Held,
    /// Search: the rule (feature and gradient rules) [default: feature-dot and grad-dot]
    #[arg(long)]
    rule: Option<Rule>,
    /// Forward and explain: the model [default: the bundled one, on its own data]
    #[arg(long, value_name = "DIR", requires = "data")]
    model: Option<String>,
    #[command(flatten)]
    data: Data,
    /// What each precision of the device costs instead: errors and rank agreement of factors, integrated gradients and
    /// searches, against f64 and f32
    #[arg(long, conflicts_with = "job")]
    accuracy: bool,
    /// Samples of each; the median is reported
    #[arg(long, default_value = "5", value_name = "N")]
    samples: NonZeroUsize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Job {
    /// Tokenizing and the model's forward pass
    Forward,
    /// Integrated gradients: forward and back to the embeddings, 50 steps a record
    Explain,
    /// Exact top-k over factors in memory
    Search,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Held {
    F32,
    F16,
    Bf16,
    Int8,
}

impl Held {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Int8 => 1,
        }
    }

    fn rounds_to(self) -> Option<ScanType> {
        match self {
            Self::F32 => None,
            Self::F16 => Some(ScanType::F16),
            Self::Bf16 => Some(ScanType::Bf16),
            Self::Int8 => Some(ScanType::Int8),
        }
    }
}

/// Everything measured.
struct Report {
    vectors: &'static str,
    threads: usize,
    ceilings: Ceilings,
    rows: Vec<Row>,
}

/// One case.
#[derive(Default, Serialize)]
struct Row {
    job: &'static str,
    case: String,
    /// Median over the samples.
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    queries_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    records_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gflops: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_gbs: Option<f64>,
    /// Of the nearer ceiling.
    fraction: f64,
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    const MOST_SAMPLES: usize = 10_000;
    let run = RunRecord::begin("bench");
    if arguments.samples.get() > MOST_SAMPLES {
        let found = arguments.samples;
        return Err(Error::usage(format!("--samples: expected at most {MOST_SAMPLES}, found {found}")).into());
    }
    if arguments.accuracy {
        let bundled = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
        let (name, data) = model_and_data(arguments, bundled.path())?;
        return super::accuracy::run(common, run, &name, |model| records(model, &data));
    }
    let isa = Cpu::new().isa();
    let ceilings = cpu::measure(isa);
    let threads = rayon::current_num_threads();
    let mut report =
        Report { vectors: isa.name(), threads, ceilings, rows: ceiling_rows(isa.name(), threads, &ceilings) };
    let wanted = |job| arguments.job.is_none_or(|only| only == job);
    if wanted(Job::Forward) || wanted(Job::Explain) {
        let bundled = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
        let (name, data) = model_and_data(arguments, bundled.path())?;
        let model = common.load(&name)?;
        let records = records(&model, &data)?;
        let ceilings = of_device(&model, ceilings)?;
        if wanted(Job::Forward) {
            report.rows.extend(forward(arguments, common, &ceilings, &model, &records)?);
        }
        if wanted(Job::Explain) {
            report.rows.push(explain_row(arguments, common, &ceilings, &model, &records)?);
        }
    }
    if wanted(Job::Search) {
        search_rows(arguments, common, ceilings, &mut report.rows)?;
    }
    print(common, &report.rows, &report)?;
    record_beside(common, run, &Summary::default());
    Ok(Outcome::Done)
}

/// Those of what a model runs on: the CPU's, or its GPUs' together, in the model's precision.
fn of_device(model: &Model, cpu: Ceilings) -> Result<Ceilings> {
    let gpus = model.gpus();
    let Some(gpu) = gpus.first() else { return Ok(cpu) };
    let (ceilings, devices) = (gpu.ceilings()?, gpus.len() as f64);
    Ok(Ceilings { gflops: devices * ceilings.of(model.device().1), read_gbs: devices * ceilings.copy_gbs })
}

/// What the other rows are measured against, as rows.
fn ceiling_rows(vectors: &str, threads: usize, ceilings: &Ceilings) -> Vec<Row> {
    let row = |job| Row { job, case: format!("{vectors} vectors, {threads} threads"), fraction: 1.0, ..Row::default() };
    vec![
        Row { gflops: Some(ceilings.gflops), ..row("multiply-add") },
        Row { read_gbs: Some(ceilings.read_gbs), ..row("read") },
    ]
}

/// Median seconds of `samples` calls after one to warm up.
fn median(samples: NonZeroUsize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut seconds = Vec::new();
    for _ in 0..samples.get() {
        interrupt::check()?;
        let began = Instant::now();
        work()?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

/// The model's name, and what its records are read from: the user's, or those bundled.
fn model_and_data(arguments: &Arguments, room: &Path) -> Result<(String, Data)> {
    match &arguments.model {
        Some(model) => Ok((model.clone(), arguments.data.clone())),
        None => super::demo::bundled(room),
    }
}

/// Records that a model is measured on.
fn records(model: &Model, data: &Data) -> Result<Vec<Record>> {
    let records: Vec<Record> = data.open_as(shape_of(model), &[])?.take(4096).collect::<Result<_>>()?;
    if records.is_empty() { Err(Error::usage("no records to measure on")) } else { Ok(records) }
}

fn as_read(model: &Model, record: &Record) -> Result<Sequence> {
    sequence(model, record).map_err(|reason| Error::usage(format!("record {}: {reason}", record.id)))
}

/// Records explained, spread over the data: a few, each takes a hundred forwards' work.
const EXPLAINED: usize = 32;
/// Gradients taken of each.
const STEPS: usize = 50;

fn explain_row(
    arguments: &Arguments,
    common: &Common,
    ceilings: &Ceilings,
    model: &Model,
    records: &[Record],
) -> Result<Row> {
    let chosen = records.iter().step_by(records.len().div_ceil(EXPLAINED));
    let sequences = chosen.map(|record| as_read(model, record)).collect::<Result<Vec<_>>>()?;
    let batch_tokens = common.settings().batch_tokens;
    let outputs = run_sequences(model, &sequences, batch_tokens, &|_| !interrupt::asked())?;
    let words = Words::default();
    let mut subjects = Vec::new();
    for (index, ((encoding, reads), outputs)) in sequences.iter().zip(outputs).enumerate() {
        subjects.push(Subject {
            index: index as u64,
            draw: explain::place_among_draws(encoding),
            encoding,
            words: &words,
            objectives: vec![Objective::Logit(0)],
            logits: outputs.logits,
            reads: (model.task() != Task::Record).then(|| Reads::clone(reads)),
        });
    }
    let options = explain::Options { steps: STEPS, ..explain::Options::default() };
    let method = Method::IntegratedGradients;
    method.check(model, &options)?;
    let seconds = median(arguments.samples, || {
        explain::explain(model, &subjects, method, &options, batch_tokens, &|_| !interrupt::asked()).map(drop)
    })?;
    let tokens: usize = sequences.iter().map(|(encoding, _)| encoding.ids.len()).sum();
    // As many operations back to the embeddings as forward, weights being left alone.
    let flops: f64 = sequences
        .iter()
        .map(|(encoding, _)| 2.0 * STEPS as f64 * model.config().forward_flops(encoding.ids.len()))
        .sum();
    let gflops = flops / seconds / 1e9;
    Ok(Row {
        job: "explain",
        case: format!(
            "integrated gradients, {STEPS} steps, {} records, {:.0} tokens each",
            subjects.len(),
            tokens as f64 / subjects.len() as f64
        ),
        seconds,
        records_per_second: Some(subjects.len() as f64 / seconds),
        tokens_per_second: Some((tokens * STEPS) as f64 / seconds),
        gflops: Some(gflops),
        fraction: gflops / ceilings.gflops,
        ..Row::default()
    })
}

fn forward(
    arguments: &Arguments,
    common: &Common,
    ceilings: &Ceilings,
    model: &Model,
    records: &[Record],
) -> Result<Vec<Row>> {
    let tokenize = || records.par_iter().map(|record| as_read(model, record)).collect::<Result<Vec<_>>>();
    let sequences = tokenize()?;
    let lengths = || sequences.iter().map(|(encoding, _)| encoding.ids.len());
    let tokens: usize = lengths().sum();
    let flops: f64 = lengths().map(|length| model.config().forward_flops(length)).sum();
    let batch_tokens = common.settings().batch_tokens;
    let per_second = |seconds: f64, n: usize| Some(n as f64 / seconds);
    let row = |job, case: String, seconds| Row {
        job,
        case,
        seconds,
        records_per_second: per_second(seconds, records.len()),
        tokens_per_second: per_second(seconds, tokens),
        ..Row::default()
    };
    let tokenizing = median(arguments.samples, || tokenize().map(drop))?;
    let running = median(arguments.samples, || {
        run_sequences(model, &sequences, batch_tokens, &|_| !interrupt::asked()).map(drop)
    })?;
    let case = format!("{} records, {:.0} tokens each", records.len(), tokens as f64 / records.len() as f64);
    let gflops = flops / running / 1e9;
    Ok(vec![
        row("tokenize", case.clone(), tokenizing),
        Row { gflops: Some(gflops), fraction: gflops / ceilings.gflops, ..row("forward", case, running) },
    ])
}

fn search_rows(arguments: &Arguments, common: &Common, cpu: Ceilings, rows: &mut Vec<Row>) -> Result<()> {
    let gpus = common.gpus()?;
    let of_gpu = gpus.first().map(Gpu::ceilings).transpose()?;
    // On a GPU many queries' scores are bounded by products of 16 bits.
    let ceilings = |queries| {
        of_gpu.map_or(cpu, |gpu| {
            let precision = if queries < search::FEWEST_BOUNDED { Precision::F32 } else { Precision::F16 };
            Ceilings { gflops: gpus.len() as f64 * gpu.of(precision), read_gbs: gpus.len() as f64 * gpu.copy_gbs }
        })
    };
    let devices: Vec<&Gpu> = gpus.iter().collect();
    let factors = Synthetic::new(arguments)?;
    let rules = arguments.rule.map_or_else(|| vec![Rule::FeatureDot, Rule::GradDot], |rule| vec![rule]);
    let batches = arguments.queries.map_or_else(|| vec![1, 64, 1024], |q| vec![q.get()]);
    for rule in rules {
        for &queries in &batches {
            rows.push(search_row(arguments, &devices, &ceilings(queries), &factors, rule, queries)?);
        }
    }
    Ok(())
}

fn search_row(
    arguments: &Arguments,
    devices: &[&Gpu],
    ceilings: &Ceilings,
    factors: &Synthetic,
    rule: Rule,
    queries: usize,
) -> Result<Row> {
    let (form, asked) = factors.question(rule, queries)?;
    let source = factors.rows();
    let options = Options { devices, ..Options::default() };
    let seconds =
        median(arguments.samples, || search::search(factors, &form, &asked, arguments.top_k, &options).map(drop))?;
    let numbers = factors.width + if rule.needs_head() { factors.classes } else { 0 };
    let gflops = 2.0 * (queries * source.rows * numbers) as f64 / seconds / 1e9;
    let bytes = factors.width * arguments.dtype.bytes() + (numbers - factors.width) * size_of::<f32>();
    let read_gbs = (source.rows * bytes) as f64 / seconds / 1e9;
    Ok(Row {
        job: "search",
        case: format!(
            "{rule}, top {} of {} × {} {}, {queries} queries",
            arguments.top_k,
            source.rows,
            factors.width,
            format!("{:?}", arguments.dtype).to_lowercase()
        ),
        seconds,
        queries_per_second: Some(queries as f64 / seconds),
        gflops: Some(gflops),
        read_gbs: Some(read_gbs),
        fraction: (gflops / ceilings.gflops).max(read_gbs / ceilings.read_gbs),
        ..Row::default()
    })
}

/// Drawn factors: uniform in [−½, ½), the same on every machine; held as a store holds them.
struct Synthetic {
    width: usize,
    classes: usize,
    features: Vec<f32>,
    /// In their place, where fewer bits are held.
    rounded: Option<ScanCopy>,
    deltas: Vec<f32>,
    feature_norms: Vec<f32>,
    delta_norms: Vec<f32>,
}

impl Synthetic {
    fn new(arguments: &Arguments) -> Result<Self> {
        /// Bytes of all numbers, at most.
        const MOST: usize = 1 << 40;
        /// Of queries.
        const MOST_ASKED: usize = 1 << 20;
        if let Some(queries) = arguments.queries.filter(|queries| queries.get() > MOST_ASKED) {
            return Err(Error::usage(format!("--queries: expected at most {MOST_ASKED}, found {queries}")));
        }
        let [records, width, classes] = [arguments.records, arguments.width, arguments.classes].map(NonZeroUsize::get);
        let numbers = width.checked_add(classes).and_then(|row| row.checked_mul(records));
        if numbers.and_then(|n| n.checked_mul(size_of::<f32>())).is_none_or(|bytes| bytes > MOST) {
            return Err(Error::usage(format!(
                "--records {records} of {width} features and {classes} classes: expected at most a terabyte of numbers"
            ))
            .with_hint("they are all held in memory: give fewer"));
        }
        let (features, deltas) = (draw(records * width, 1), draw(records * classes, 2));
        let norms = |values: &[f32], width: usize| {
            values.par_chunks_exact(width.max(1)).map(|row| cpu::dot(row, row).sqrt()).collect()
        };
        let (feature_norms, delta_norms) = (norms(&features, width), norms(&deltas, classes));
        let rounded = arguments.dtype.rounds_to().map(|kind| ScanCopy::new(kind, &features, width));
        let features = if rounded.is_some() { Vec::new() } else { features };
        Ok(Self { width, classes, features, rounded, deltas, feature_norms, delta_norms })
    }

    fn rows(&self) -> FactorRows<'_> {
        FactorRows {
            rows: self.feature_norms.len(),
            width: self.width,
            classes: self.classes,
            features: self.rounded.as_ref().map_or(Floats::F32(&self.features), |copy| copy.rows().values),
            deltas: &self.deltas,
            feature_norms: &self.feature_norms,
            delta_norms: &self.delta_norms,
        }
    }

    fn question(&self, rule: Rule, queries: usize) -> Result<(Form<'static>, Vec<Query>)> {
        let (h, d) = (draw(queries * self.width, 3), draw(queries * self.classes, 4));
        let features = h.chunks_exact(self.width).map(<[f32]>::to_vec);
        let gradients = features.clone().zip(d.chunks_exact(self.classes.max(1)).map(<[f32]>::to_vec));
        let by_features = |form| (form, features.clone().map(Query::feature).collect());
        let by_gradients = |form| (form, gradients.clone().map(|(h, d)| Query::gradient(h, d)).collect());
        match rule {
            Rule::FeatureDot => Ok(by_features(Form::feature_dot())),
            Rule::FeatureCos => Ok(by_features(Form::feature_cos())),
            Rule::FeatureEuc => Ok(by_features(Form::feature_euc())),
            Rule::GradDot => Ok(by_gradients(Form::grad_dot())),
            Rule::GradCos => Ok(by_gradients(Form::grad_cos())),
            other => Err(Error::usage(format!("bench: rule {other} needs a trained store"))
                .with_hint("use a feature or gradient rule: the scan is the same")),
        }
    }
}

impl Source for Synthetic {
    fn shards(&self) -> usize {
        1
    }

    fn rows(&self, _shard: usize) -> usize {
        self.feature_norms.len()
    }

    fn factors(&self, _shard: usize, set: FactorSet) -> Option<FactorRows<'_>> {
        (set == FactorSet::Final).then(|| self.rows())
    }

    fn residuals(&self, _shard: usize) -> Option<&[f32]> {
        self.rounded.as_ref().map(|copy| copy.rows().residuals)
    }

    fn index(&self, _shard: usize, row: usize) -> u64 {
        row as u64
    }

    /// One name for what no other source of the process holds: a GPU keeps it from search to search, as it does a
    /// store.
    fn contents(&self, _shard: usize) -> Option<&str> {
        Some("drawn")
    }
}

/// SplitMix64 (Steele et al. 2014) of each number's place.
fn draw(len: usize, stream: u64) -> Vec<f32> {
    let one = |i: usize| {
        let mut z = (stream << 48).wrapping_add(i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).into_par_iter().map(one).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vectors, threads, ceilings, rows } = self;
        writeln!(
            f,
            "{vectors} vectors, {threads} threads: at most {:.0} GFLOP/s, reads {:.1} GB/s",
            ceilings.gflops, ceilings.read_gbs
        )?;
        for row in rows.iter().filter(|row| row.seconds > 0.0) {
            let per_second = row.queries_per_second.or(row.records_per_second).unwrap_or_default();
            writeln!(f, "{:<9} {:<58} {:>9.4} s {per_second:>10.0}/s {}", row.job, row.case, row.seconds, row.share())?;
        }
        Ok(())
    }
}

impl Row {
    fn share(&self) -> String {
        let ceiling = match (self.gflops, self.read_gbs) {
            (Some(gflops), _) if self.fraction > 0.0 => format!("{gflops:>6.0} GFLOP/s, "),
            _ => return String::new(),
        };
        format!("{ceiling}{:.0} % of the nearer ceiling", 100.0 * self.fraction)
    }
}
