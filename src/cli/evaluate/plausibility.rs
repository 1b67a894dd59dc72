//! `wherefore evaluate plausibility`.

use std::path::Path;

use clap::Args;
use wherefore::evaluate::{self, Gold, PlausibilityOptions};

use super::Job;
use super::tokens::TokenArguments;
use crate::cli::Outcome;
use crate::cli::arguments::{Common, Data, ModelName};
use crate::cli::run_record::check_is_not_out;

#[derive(Args)]
pub(super) struct Plausibility {
    #[command(flatten)]
    model: ModelName,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    tokens: TokenArguments,
    /// Gold rationales, a JSON object a line: {"id", "rationales": [[[START, END], …], …]}, alternatives of spans in
    /// characters of the text (of its pair: "pair_rationales"); or {"sent_id", "sent_token", "rationale_ids"}, of word
    /// numbers, as TrustAI has them
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    gold: Vec<String>,
    /// Take as many words of each record as its longest gold rationale has, in place of --rationale
    #[arg(long)]
    as_many_as_gold: bool,
}

pub(super) fn run(arguments: &Plausibility, common: &Common) -> anyhow::Result<Outcome> {
    let mut job = Job::begin("evaluate plausibility", common);
    arguments.tokens.note_keep()?;
    let dataset = arguments.data.open()?;
    arguments.gold.iter().try_for_each(|file| check_is_not_out(Path::new(file)))?;
    let gold = Gold::read(&arguments.gold)?;
    let model = arguments.model.load(common, &mut job.run)?;
    let options = PlausibilityOptions {
        tokens: arguments.tokens.options(common.seed),
        as_many_as_gold: arguments.as_many_as_gold,
    };
    job.run.set("methods", arguments.tokens.names());
    job.run.set("gold", gold.len());
    let rows = evaluate::plausibility(&model, dataset, &gold, &options, &common.settings(), &mut job.rejections)?;
    let records = rows.first().map_or(0, |row| row.records);
    let table = evaluate::Plausibility::table(&rows);
    job.finish(&rows, records, &table)
}
