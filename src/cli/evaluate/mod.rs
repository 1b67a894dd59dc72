//! `wherefore evaluate`.

mod consistency;
mod faithfulness;
mod label_noise;
mod lds;
mod leave_out;
mod plausibility;
mod removal;
mod retrain;
mod rules;
mod stability;
mod tail_patch;
mod tokens;

use std::time::Instant;

use clap::{Args, Subcommand};
use serde::Serialize;
use wherefore::evaluate::Table;
use wherefore::pipeline::{Rejections, Summary};

use super::Outcome;
use super::arguments::Common;
use super::output::{Output, print};
use super::run_record::RunRecord;

/// How far attributions can be trusted: the yardsticks of the field, chance beside them.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    evaluate: Evaluate,
}

#[derive(Subcommand)]
enum Evaluate {
    /// Are the words that matter to the method those that the model needs? Comprehensiveness, sufficiency, New-P,
    /// deletion and insertion, sensitivity-n, completeness, randomisation
    Faithfulness(Box<faithfulness::Faithfulness>),
    /// Are they those that people marked? Token F1, union F1, IoU, AUPRC
    Plausibility(Box<plausibility::Plausibility>),
    /// Are they the same after a change that should not matter? MAP over perturbed pairs
    Consistency(Box<consistency::Consistency>),
    /// Do the scores of training records say what a model trained on other records would have said? LDS of every rule,
    /// over retrainings
    Lds(Box<lds::Lds>),
    /// Do they say what the loss does without a record, without k, or without a group? Correlations of every rule, over
    /// retrainings
    LeaveOut(Box<leave_out::LeaveOut>),
    /// Does a query suffer once the records ranked first for it are gone? The rise of its loss, over retrainings
    Removal(Box<removal::Removal>),
    /// Does one more step of training on the records ranked first lower a query's loss?
    TailPatch(Box<tail_patch::TailPatch>),
    /// Do models of other seeds rank the same records first? Overlap and rank correlation of every rule
    Stability(Box<stability::Stability>),
    /// Are labels that were turned before training found again? AUC and average precision of every signal of `audit
    /// dirty`, loss and gradient length
    LabelNoise(Box<label_noise::LabelNoise>),
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    match &arguments.evaluate {
        Evaluate::Faithfulness(arguments) => faithfulness::run(arguments, common),
        Evaluate::Plausibility(arguments) => plausibility::run(arguments, common),
        Evaluate::Consistency(arguments) => consistency::run(arguments, common),
        Evaluate::Lds(arguments) => lds::run(arguments, common),
        Evaluate::LeaveOut(arguments) => leave_out::run(arguments, common),
        Evaluate::Removal(arguments) => removal::run(arguments, common),
        Evaluate::TailPatch(arguments) => tail_patch::run(arguments, common),
        Evaluate::Stability(arguments) => stability::run(arguments, common),
        Evaluate::LabelNoise(arguments) => label_noise::run(arguments, common),
    }
}

/// An evaluation under way: what is noted of it, and what is left out.
struct Job<'a> {
    common: &'a Common,
    run: RunRecord,
    output: Output,
    rejections: Rejections,
    began: Instant,
}

impl<'a> Job<'a> {
    fn begin(name: &str, common: &'a Common) -> Self {
        let output = Output::new(common, common.out.as_deref());
        let rejections = output.rejections();
        Self { common, run: RunRecord::begin(name), output, rejections, began: Instant::now() }
    }

    /// Writes the results, a line a row or as one table, and the run's record.
    fn finish<T: Serialize>(self, rows: &[T], records: u64, table: &Table) -> anyhow::Result<Outcome> {
        print(self.common, rows, table)?;
        let seconds = self.began.elapsed().as_secs_f64();
        let skipped = self.rejections.count();
        let summary = Summary { records, skipped, seconds, ..Summary::default() };
        self.output.finish("evaluated on", &summary, self.rejections, self.run)
    }
}
