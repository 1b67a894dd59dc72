//! `wherefore evaluate consistency`.

use clap::Args;
use wherefore::evaluate::{self, ConsistencyOptions};

use super::Job;
use super::tokens::TokenArguments;
use crate::cli::Outcome;
use crate::cli::arguments::{Common, Data, ModelName};

#[derive(Args)]
pub(super) struct Consistency {
    #[command(flatten)]
    model: ModelName,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    tokens: TokenArguments,
    /// The records' perturbed versions, with the columns of --data
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    perturbed: Vec<String>,
    /// The column of --perturbed that has the id of the record each was made from
    #[arg(long, value_name = "NAME", default_value = "original")]
    original_column: String,
}

pub(super) fn run(arguments: &Consistency, common: &Common) -> anyhow::Result<Outcome> {
    let mut job = Job::begin("evaluate consistency", common);
    arguments.tokens.note_keep()?;
    let originals = arguments.data.open()?;
    let data = Data { files: arguments.perturbed.clone(), ..arguments.data.clone() };
    let perturbed = data.open_keeping(std::slice::from_ref(&arguments.original_column))?;
    let model = arguments.model.load(common, &mut job.run)?;
    let options = ConsistencyOptions {
        tokens: arguments.tokens.options(common.seed),
        original_column: arguments.original_column.clone(),
    };
    job.run.set("methods", arguments.tokens.names());
    let settings = common.settings();
    let rows = evaluate::consistency(&model, originals, perturbed, &options, &settings, &mut job.rejections)?;
    let pairs = rows.first().map_or(0, |row| row.pairs);
    let table = evaluate::Consistency::table(&rows);
    job.finish(&rows, pairs, &table)
}
