//! `wherefore index`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use wherefore::factors::LabelUsed;
use wherefore::pipeline::{self, Checkpoint, IndexOptions};
use wherefore::store::{DEFAULT_BLOCK_RECORDS, Dtype, Part};
use wherefore::{Error, Result};

use super::Outcome;
use super::arguments::{Common, Data};
use super::output::Output;
use super::run_record::RunRecord;

/// One pass over the training data into a store of factors.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Model directory, or org/name in the local Hugging Face cache
    #[arg(long, value_name = "DIR")]
    model: String,
    #[command(flatten)]
    data: Data,
    /// The store to make
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The label whose loss is explained; gold is the predicted one where a record has none
    #[arg(long, value_enum, default_value_t = Target::Gold)]
    target: Target,
    /// How features are stored and scored
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
    /// Job I of N, I from 0: takes every N-th block of the data (put together by `merge`)
    #[arg(long, value_name = "I/N")]
    shard: Option<Part>,
    /// Go on where an interrupted job stopped
    #[arg(long)]
    resume: bool,
    /// For rule tracin: an earlier checkpoint of the training, and the learning rate there (repeatable)
    #[arg(long, value_name = "DIR[:RATE]")]
    checkpoint: Vec<String>,
    /// Records in a block: what a job can lose, and what --shard deals out
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BLOCK_RECORDS)]
    block_records: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Target {
    Gold,
    Predicted,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    F32,
    F16,
    Bf16,
}

impl Arguments {
    fn options(&self, common: &Common) -> Result<IndexOptions> {
        let target = match self.target {
            Target::Gold => LabelUsed::Gold,
            Target::Predicted => LabelUsed::Predicted,
        };
        let dtype = match self.dtype {
            Precision::F32 => Dtype::F32,
            Precision::F16 => Dtype::F16,
            Precision::Bf16 => Dtype::Bf16,
        };
        if self.block_records == 0 {
            return Err(Error::usage("--block-records: expected at least 1, found 0"));
        }
        let checkpoints = self.checkpoint.iter().map(|text| checkpoint(text, common)).collect::<Result<_>>()?;
        let part = self.shard.unwrap_or(Part::WHOLE);
        Ok(IndexOptions { target, dtype, part, resume: self.resume, block_records: self.block_records, checkpoints })
    }
}

/// `DIR` or `DIR:RATE`; a directory may have a colon in its name where what follows is no number.
fn checkpoint(text: &str, common: &Common) -> Result<Checkpoint> {
    let split = text.rsplit_once(':').and_then(|(dir, rate)| Some((dir, rate.parse().ok()?)));
    let (dir, learning_rate) = split.unwrap_or((text, 1.0));
    Ok(Checkpoint { model: common.load(dir)?, learning_rate })
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let mut run = RunRecord::begin("index");
    let dataset = arguments.data.open()?;
    let model = common.load(&arguments.model)?;
    let options = arguments.options(common)?;
    run.model(&model);
    run.set("part", options.part.to_string());
    let output = Output::new(common, Some(&arguments.store));
    let mut rejections = output.rejections();
    let settings = common.settings()?;
    let summary = pipeline::index(&model, dataset, &arguments.store, &options, &settings, &mut rejections)?;
    output.finish("indexed", &summary, rejections, run)
}
