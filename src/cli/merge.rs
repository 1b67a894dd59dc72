//! `wherefore merge`.

use std::path::PathBuf;

use clap::Args;
use wherefore::store;

use super::Outcome;

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

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    store::merge(&arguments.store, &arguments.parts)?;
    Ok(Outcome::Done)
}
