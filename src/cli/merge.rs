//! `wherefore merge`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use wherefore::pipeline::Summary;
use wherefore::store::{self, Store};

use super::Outcome;
use super::arguments::Common;
use super::output::Output;
use super::run_record::RunRecord;

/// Many stores of one data set, made by `index --shard I/N`, into one.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The store to make
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The parts, in any order
    #[arg(required = true, value_name = "SHARD_DIR")]
    parts: Vec<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let (mut run, began) = (RunRecord::begin("merge"), Instant::now());
    store::merge(&arguments.store, &arguments.parts)?;
    let store = Store::open(&arguments.store)?;
    run.store(&store);
    let seconds = began.elapsed().as_secs_f64();
    let summary = Summary { records: store.rows() as u64, seconds, ..Summary::default() };
    let output = Output::new(common, Some(&arguments.store));
    output.finish("merged", &summary, output.rejections(), run)
}
