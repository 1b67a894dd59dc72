//! `wherefore evaluate faithfulness`.

use clap::Args;
use wherefore::evaluate::{self, FaithfulnessOptions, draw_anew};
use wherefore::model::Model;
use wherefore::{Error, Result};

use super::Job;
use super::tokens::TokenArguments;
use crate::cli::Outcome;
use crate::cli::arguments::{Common, Data, ModelName};

#[derive(Args)]
pub(super) struct Faithfulness {
    #[command(flatten)]
    model: ModelName,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    tokens: TokenArguments,
    /// Shares of the words that AOPC is the mean over
    #[arg(long, value_name = "SHARES", value_delimiter = ',', default_value = "0.01,0.05,0.1,0.2,0.5")]
    shares: Vec<f64>,
    /// Steps of the deletion and insertion curves
    #[arg(long, value_name = "N", default_value_t = 10)]
    curve_steps: usize,
    /// Sets of words drawn for each size of sensitivity-n; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 10)]
    subsets: usize,
    /// Also explain the same network with weights drawn anew: scores that stay the same say nothing of the model
    #[arg(long)]
    randomise: bool,
}

pub(super) fn run(arguments: &Faithfulness, common: &Common) -> anyhow::Result<Outcome> {
    let mut job = Job::begin("evaluate faithfulness", common);
    arguments.tokens.note_keep()?;
    let dataset = arguments.data.open()?;
    let model = arguments.model.load(common, &mut job.run)?;
    let options = FaithfulnessOptions {
        tokens: arguments.tokens.options(common.seed),
        shares: arguments.shares.clone(),
        curve_steps: arguments.curve_steps,
        subsets: arguments.subsets,
    };
    job.run.set("methods", arguments.tokens.names());
    let randomised = arguments.randomise.then(|| randomised(&model, common)).transpose()?;
    let rows = evaluate::faithfulness(
        &model,
        randomised.as_ref(),
        dataset,
        &options,
        &common.settings(),
        &mut job.rejections,
    )?;
    let records = rows.first().map_or(0, |row| row.records);
    let table = evaluate::Faithfulness::table(&rows);
    job.finish(&rows, records, &table)
}

/// The same network with other weights.
fn randomised(model: &Model, common: &Common) -> Result<Model> {
    let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let to = folder.path().join("model");
    draw_anew(model, &to, common.seed)?;
    let mut common = common.clone();
    common.max_length = Some(model.max_length());
    common.load(&to.to_string_lossy())
}
