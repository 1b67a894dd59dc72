//! `wherefore evaluate leave-out`.

use clap::Args;
use wherefore::Result;
use wherefore::evaluate::{LeaveOut as Row, LeaveOutOptions, Sets};
use wherefore::pipeline::{SetFile, grouped_rows};
use wherefore::store::Store;

use super::Job;
use super::rules::RuleArguments;
use crate::cli::Outcome;
use crate::cli::arguments::Common;

#[derive(Args)]
pub(super) struct LeaveOut {
    #[command(flatten)]
    rules: RuleArguments,
    /// Records left out together
    #[arg(long, value_name = "K", default_value_t = 1, conflicts_with_all = ["set", "group_by"])]
    leave: usize,
    /// Sets left out, one after the other; 0: as many as share no record
    #[arg(long, value_name = "J", default_value_t = 50, conflicts_with_all = ["set", "group_by"])]
    sets: usize,
    /// Leave out the records whose ids are in this file, one a line (repeatable)
    #[arg(long, value_name = "[NAME=]FILE")]
    set: Vec<SetFile>,
    /// Leave out each group of records: label, predicted, or a column kept at indexing
    #[arg(long, value_name = "COLUMN")]
    group_by: Option<String>,
    /// With --retrain full: trainings without each set, each beside one with it
    #[arg(long, value_name = "N", default_value_t = 1)]
    seeds: usize,
}

impl LeaveOut {
    fn sets(&self, store: &Store) -> Result<Sets> {
        if self.set.is_empty() && self.group_by.is_none() {
            return Ok(Sets::Drawn { sets: self.sets, records: self.leave });
        }
        let mut named = self.set.iter().map(|set| set.rows(store)).collect::<Result<Vec<_>>>()?;
        if let Some(by) = &self.group_by {
            named.extend(grouped_rows(store, by)?);
        }
        Ok(Sets::Named(named))
    }
}

pub(super) fn run(arguments: &LeaveOut, common: &Common) -> anyhow::Result<Outcome> {
    let mut job = Job::begin("evaluate leave-out", common);
    let rules = arguments.rules.open(common, &mut job.run)?;
    let sets = arguments.sets(&rules.stores[0])?;
    let options = LeaveOutOptions { sets, seeds: arguments.seeds, seed: common.seed };
    let trainings = rules.trainings(&mut job.rejections)?;
    let open = || rules.queries();
    let rows = trainings.leave_out(&rules.contenders()?, &open, &options, &rules.plan, &common.settings())?;
    let queries = rows.first().map_or(0, |row| row.queries);
    job.finish(&rows, queries, &Row::table(&rows))
}
