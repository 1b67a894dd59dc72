//! `wherefore evaluate removal`.

use clap::Args;
use wherefore::evaluate::{Amount, Removal as Row, RemovalOptions};

use super::Job;
use super::rules::RuleArguments;
use crate::cli::Outcome;
use crate::cli::arguments::Common;

#[derive(Args)]
pub(super) struct Removal {
    #[command(flatten)]
    rules: RuleArguments,
    /// How much is removed from the first record on, by commas: numbers of records, or shares such as 1% or 0.05
    #[arg(long, value_name = "N|SHARE", value_delimiter = ',', default_value = "1%,5%,10%,20%")]
    remove: Vec<Amount>,
    /// Remove one ranking, by the sum of all queries' scores, for all of them: a training a rule and amount
    #[arg(long)]
    jointly: bool,
    /// Also judge sets chosen record by record, the last layer fitted again after each: slow
    #[arg(long)]
    greedy: bool,
}

pub(super) fn run(arguments: &Removal, common: &Common) -> anyhow::Result<Outcome> {
    let mut job = Job::begin("evaluate removal", common);
    let rules = arguments.rules.open(common, &mut job.run)?;
    let options = RemovalOptions {
        amounts: arguments.remove.clone(),
        jointly: arguments.jointly,
        greedy: arguments.greedy,
        seed: common.seed,
    };
    let trainings = rules.trainings(&mut job.rejections)?;
    let open = || rules.queries();
    let rows = trainings.removal(&rules.contenders()?, &open, &options, &rules.plan, &common.settings())?;
    let queries = rows.first().map_or(0, |row| row.queries);
    job.finish(&rows, queries, &Row::table(&rows))
}
