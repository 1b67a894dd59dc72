//! `wherefore store info|verify|remove`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{ArgGroup, Args, Subcommand};
use wherefore::pipeline::Summary;
use wherefore::store::{self, Removal};
use wherefore::{Error, Result};

use super::Outcome;
use super::arguments::Common;
use super::output::{print, record_beside};
use super::run_record::RunRecord;

/// Look at a store, check every byte of it, or take records out of it.
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
    /// Takes records out for good: their texts and factors are deleted, everything else stays as it is
    #[command(group(ArgGroup::new("which").args(["ids", "indexes"]).required(true).multiple(true)))]
    Remove {
        /// The store
        store: PathBuf,
        /// Ids, separated by commas, or @FILE with one a line
        #[arg(long, value_name = "IDS|@FILE")]
        ids: Option<String>,
        /// Record numbers, separated by commas, or @FILE with one a line
        #[arg(long, value_name = "NUMBERS|@FILE")]
        indexes: Option<String>,
    },
    /// Reads every byte: checksums, and whether every record can be read
    Verify {
        /// The store
        store: PathBuf,
    },
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let run = RunRecord::begin(match &arguments.command {
        Command::Info { .. } => "store info",
        Command::Remove { .. } => "store remove",
        Command::Verify { .. } => "store verify",
    });
    match &arguments.command {
        Command::Info { store } => {
            let info = store::info(store)?;
            print(common, [&info], &info)?;
            record_beside(common, run, &Summary::default());
        }
        Command::Verify { store } => {
            let verification = store::verify(store)?;
            print(common, [&verification], &verification)?;
            record_beside(common, run, &Summary::default());
            if !verification.is_sound() {
                bail!("{}: the store is damaged", store.display());
            }
        }
        Command::Remove { store, ids, indexes } => {
            let removed = store::remove(store, &removal(ids.as_deref(), indexes.as_deref())?)?;
            print(common, [&removed], &removed)?;
            record_beside(common, run, &Summary::default());
            if !removed.not_found.is_empty() {
                return Ok(Outcome::Skipped);
            }
        }
    }
    Ok(Outcome::Done)
}

fn removal(ids: Option<&str>, indexes: Option<&str>) -> Result<Removal> {
    let number = |text: String| {
        text.parse().map_err(|_| Error::usage(format!("--indexes: expected record numbers, found {text:?}")))
    };
    Ok(Removal {
        ids: list(ids)?.into_iter().collect(),
        indices: list(indexes)?.into_iter().map(number).collect::<Result<_>>()?,
    })
}

/// What is listed on the command line, or in a file, one a line (ids may hold commas there).
fn list(listed: Option<&str>) -> Result<Vec<String>> {
    let owned = |item: &str| item.trim().to_owned();
    let items: Vec<String> = match listed.map(|listed| (listed, listed.strip_prefix('@'))) {
        None => Vec::new(),
        Some((_, Some(path))) => std::fs::read_to_string(path).map_err(Error::io(path))?.lines().map(owned).collect(),
        Some((listed, None)) => listed.split(',').map(owned).collect(),
    };
    Ok(items.into_iter().filter(|item| !item.is_empty()).collect())
}
