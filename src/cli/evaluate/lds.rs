//! `wherefore evaluate lds`.

use clap::Args;
use wherefore::evaluate::{Lds as Row, LdsOptions};

use super::Job;
use super::rules::RuleArguments;
use crate::cli::Outcome;
use crate::cli::arguments::Common;

#[derive(Args)]
pub(super) struct Lds {
    #[command(flatten)]
    rules: RuleArguments,
    /// Subsets to train on
    #[arg(long, value_name = "J", default_value_t = 50)]
    subsets: usize,
    /// Shares of the training records in each, by commas
    #[arg(long, value_name = "SHARES", value_delimiter = ',', default_value = "0.5")]
    fraction: Vec<f64>,
    /// With --retrain full: trainings of each subset, whose margins are averaged
    #[arg(long, value_name = "N", default_value_t = 1)]
    seeds: usize,
}

pub(super) fn run(arguments: &Lds, common: &Common) -> anyhow::Result<Outcome> {
    let mut job = Job::begin("evaluate lds", common);
    let rules = arguments.rules.open(common, &mut job.run)?;
    let options = LdsOptions {
        subsets: arguments.subsets,
        fractions: arguments.fraction.clone(),
        seeds: arguments.seeds,
        seed: common.seed,
    };
    let trainings = rules.trainings(&mut job.rejections)?;
    let open = || rules.queries();
    let rows = trainings.lds(&rules.contenders()?, &open, &options, &rules.plan, &common.settings())?;
    let queries = rows.first().map_or(0, |row| row.queries);
    job.finish(&rows, queries, &Row::table(&rows))
}
