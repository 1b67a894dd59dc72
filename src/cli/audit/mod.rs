//! `wherefore audit`.

mod bias;
mod dirty;
mod map;
mod redundant;
mod sparse;
mod unreliable;

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};
use wherefore::audit;
use wherefore::dataset::Shape;
use wherefore::model::Task;
use wherefore::pipeline::{Rejections, Summary};
use wherefore::store::Store;
use wherefore::train::Dynamics;
use wherefore::{Error, Result};

use super::Outcome;
use super::arguments::Common;
use super::output::Output;
use super::run_record::RunRecord;

/// What is wrong with the training data, ranked, with what to do about it.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    audit: Audit,
}

#[derive(Subcommand)]
enum Audit {
    /// Labels that may be wrong, the most suspect first
    Dirty(dirty::Dirty),
    /// Copies and near copies: contradicting labels, leaks into a test set, dead weight
    Redundant(redundant::Redundant),
    /// Words that tell a label too well, the least likely by chance first
    Bias(bias::Bias),
    /// Test records that the training data do not cover, and what of a pool to label next
    Sparse(sparse::Sparse),
    /// Predictions not to be trusted, from their neighbours, their reasons and how sure the model is; with calibration
    Unreliable(Box<unreliable::Unreliable>),
    /// Where each training record stands by what its training made of it
    Map(map::Map),
}

/// The store that an audit reads.
#[derive(Args)]
struct Audited {
    /// The store of the training data (repeatable: the parts that `index --shard` made)
    #[arg(long, value_name = "DIR", required = true)]
    store: Vec<PathBuf>,
}

impl Audited {
    fn open(&self) -> Result<Store> {
        Store::open_many(&self.store)
    }

    /// For an audit that is of records with one label each; `why` it is of no others.
    fn open_records(&self, audit: &str, why: &str) -> Result<Store> {
        let store = self.open()?;
        match store.settings().task() {
            Task::Record => Ok(store),
            Task::Spans | Task::Tags | Task::Masks => Err(Error::usage(format!(
                "audit {audit}: {why}, and the store is of a model that says something of tokens"
            ))
            .with_hint("audit dirty, sparse and redundant take such stores")),
        }
    }

    /// How the records of data are read that the store's model is to understand.
    fn shape(store: &Store) -> Shape {
        match store.settings().task() {
            Task::Record | Task::Masks => Shape::Texts,
            Task::Spans => Shape::Questions,
            Task::Tags => Shape::Words,
        }
    }
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    match &arguments.audit {
        Audit::Dirty(arguments) => dirty::run(arguments, common),
        Audit::Redundant(arguments) => redundant::run(arguments, common),
        Audit::Bias(arguments) => bias::run(arguments, common),
        Audit::Sparse(arguments) => sparse::run(arguments, common),
        Audit::Unreliable(arguments) => unreliable::run(arguments, common),
        Audit::Map(arguments) => map::run(arguments, common),
    }
}

/// Tells how many of a store's records are left out because the training whose dynamics judge them was not of them.
fn tell_left_out(store: &Store, dynamics: &Dynamics, common: &Common, run: &mut RunRecord) {
    let left_out = audit::without_dynamics(store, dynamics);
    run.set("without_dynamics", left_out);
    if left_out > 0 && !common.quiet {
        say_line!("left out {left_out} of {} records: --dynamics is of a training without them", store.rows());
    }
}

/// Says what an audit found, in a line.
fn tell_found(common: &Common, found: &str) {
    if !common.quiet {
        say_line!("found {found}");
    }
}

/// Tells how many records were gone through, and leaves the run's record.
fn finish(common: &Common, verb: &str, records: usize, started: Instant, run: RunRecord) -> anyhow::Result<Outcome> {
    let none = Output::new(common, common.out.as_deref()).rejections();
    finish_with(common, verb, records, started, run, none)
}

/// The same of an audit that has read data.
fn finish_with(
    common: &Common,
    verb: &str,
    records: usize,
    started: Instant,
    run: RunRecord,
    rejections: Rejections,
) -> anyhow::Result<Outcome> {
    let seconds = started.elapsed().as_secs_f64();
    let summary = Summary { records: records as u64, skipped: rejections.count(), seconds, ..Summary::default() };
    Output::new(common, common.out.as_deref()).finish(verb, &summary, rejections, run)
}
