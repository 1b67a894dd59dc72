//! `wherefore export`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use wherefore::pipeline::{self, ExportFormat, Summary};
use wherefore::report::Format;
use wherefore::store::Store;
use wherefore::{Error, Result};

use super::Outcome;
use super::arguments::{Common, FormatName};
use super::output::record_beside;
use super::run_record::RunRecord;

/// A store's records and factors for other programs: `--format` parquet or jsonl (a record a row), npy (a directory of
/// arrays), or faiss (the features as an IndexFlatIP); by --out's extension where it is not given.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The store (repeatable: the parts that `index --shard` made)
    #[arg(long, value_name = "DIR", required = true)]
    store: Vec<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let out = common.out.as_deref().ok_or_else(|| {
        Error::usage("an export is a file or a folder, and where it goes was not said").with_hint("name it: --out PATH")
    })?;
    let format = match common.format {
        Some(FormatName::Stores(format)) => format,
        Some(FormatName::Results(Format::Jsonl)) => ExportFormat::Jsonl,
        Some(FormatName::Results(Format::Parquet)) => ExportFormat::Parquet,
        Some(FormatName::Results(Format::Text)) => {
            return Err(Error::usage("--format text: expected parquet, jsonl, npy or faiss").into());
        }
        None => by_extension(out)?,
    };
    let mut run = RunRecord::begin("export");
    let started = Instant::now();
    let store = Store::open_many(&arguments.store)?;
    run.store(&store);
    pipeline::export(&store, format, out, common.quiet)?;
    let summary =
        Summary { records: store.rows() as u64, seconds: started.elapsed().as_secs_f64(), ..Summary::default() };
    record_beside(common, run, &summary);
    Ok(Outcome::Done)
}

fn by_extension(out: &std::path::Path) -> Result<ExportFormat> {
    let extension = out.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    extension.parse().map_err(|_| {
        Error::usage(format!("{}: its extension names no format", out.display()))
            .with_hint("say which: --format parquet, jsonl, npy or faiss")
    })
}
