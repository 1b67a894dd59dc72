//! `wherefore evaluate tail-patch`.

use clap::Args;
use wherefore::evaluate::{TailPatch as Row, TailPatchOptions};

use super::Job;
use super::rules::RuleArguments;
use crate::cli::Outcome;
use crate::cli::arguments::Common;

#[derive(Args)]
pub(super) struct TailPatch {
    #[command(flatten)]
    rules: RuleArguments,
    /// Records the step is on, from the first of each ranking
    #[arg(long, short = 'k', value_name = "K", default_value_t = 10)]
    top_k: usize,
    /// The learning rate of the step
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    rate: f64,
    /// A step on each of the records by itself, the changes averaged
    #[arg(long)]
    each: bool,
}

pub(super) fn run(arguments: &TailPatch, common: &Common) -> anyhow::Result<Outcome> {
    let mut job = Job::begin("evaluate tail-patch", common);
    let rules = arguments.rules.open(common, &mut job.run)?;
    let options =
        TailPatchOptions { top_k: arguments.top_k, rate: arguments.rate, each: arguments.each, seed: common.seed };
    let trainings = rules.trainings(&mut job.rejections)?;
    let open = || rules.queries();
    let rows = trainings.tail_patch(&rules.contenders()?, &open, &options, &rules.plan, &common.settings())?;
    let queries = rows.first().map_or(0, |row| row.queries);
    job.finish(&rows, queries, &Row::table(&rows))
}
