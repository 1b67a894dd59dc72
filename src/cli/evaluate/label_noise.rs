//! `wherefore evaluate label-noise`.

use std::path::PathBuf;

use clap::Args;
use wherefore::Error;
use wherefore::evaluate::{NoiseOptions, Recovery, label_noise};
use wherefore::model::Projection;

use super::Job;
use super::retrain::RetrainArguments;
use crate::cli::Outcome;
use crate::cli::arguments::{Common, Data, ModelName};

#[derive(Args)]
pub(super) struct LabelNoise {
    #[command(flatten)]
    model: ModelName,
    #[command(flatten)]
    data: Data,
    /// Share of the records whose label is turned
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    share: f64,
    #[command(flatten)]
    retrain: RetrainArguments,
    /// Numbers kept of each record's gradient of the whole model
    #[arg(long, value_name = "K", default_value_t = 1024)]
    projection_dim: usize,
    /// Keep the turned data, the model and its stores in this folder, and go on from what is there
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub(super) fn run(arguments: &LabelNoise, common: &Common) -> anyhow::Result<Outcome> {
    let mut job = Job::begin("evaluate label-noise", common);
    let dataset = arguments.data.open()?;
    let model = arguments.model.load(common, &mut job.run)?;
    let options = NoiseOptions {
        share: arguments.share,
        retraining: arguments.retrain.retraining(&model, common),
        projection: Projection { dimension: arguments.projection_dim, seed: common.seed, ..Projection::default() },
        seed: common.seed,
    };
    job.run.set("retraining", serde_json::to_value(&options.retraining)?);
    let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let to = arguments.keep.as_deref().unwrap_or(folder.path());
    std::fs::create_dir_all(to).map_err(Error::io(to))?;
    let rows = label_noise(&model, dataset, to, &options, &common.settings(), &mut job.rejections)?;
    let records = rows.first().map_or(0, |row| row.records);
    job.finish(&rows, records, &Recovery::table(&rows))
}
