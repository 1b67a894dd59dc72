//! `wherefore store info|verify`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};
use wherefore::store;

use super::Outcome;
use super::arguments::Common;
use super::output::print;

/// Look at a store, or check every byte of it.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What a store is: its model, its shapes, how many records, whether it is finished
    Info {
        /// The store
        store: PathBuf,
    },
    /// Reads every byte: checksums, and whether every record can be read
    Verify {
        /// The store
        store: PathBuf,
    },
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    match &arguments.command {
        Command::Info { store } => {
            let info = store::info(store)?;
            print(common, [&info], &info)?;
        }
        Command::Verify { store } => {
            let verification = store::verify(store)?;
            print(common, [&verification], &verification)?;
            if !verification.is_sound() {
                bail!("{}: the store is damaged", store.display());
            }
        }
    }
    Ok(Outcome::Done)
}
