//! `wherefore audit unreliable`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use clap::Args;
use wherefore::audit::{self, Bin};
use wherefore::explain::{Method, Options};
use wherefore::pipeline::{TrustOptions, unreliable};
use wherefore::report::{Destination, RecordWriter, UnreliableRecord};
use wherefore::store::Store;
use wherefore::{Error, Result};

use super::{Audited, finish_with};
use crate::cli::Outcome;
use crate::cli::arguments::{Common, Data};
use crate::cli::output::{Output, sibling};
use crate::cli::run_record::RunRecord;
use crate::cli::search::load_model;

/// Groups of predictions that the calibration is shown in.
const BINS: usize = 10;

#[derive(Args)]
pub(super) struct Unreliable {
    #[command(flatten)]
    audited: Audited,
    /// Where the model is now [default: where it was at indexing]
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    #[command(flatten)]
    data: Data,
    /// Records with labels that trust is fitted to, with the columns of --data [default: those of --data that have one;
    /// where too few are right or wrong, trust only ranks]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    calibrate: Vec<String>,
    /// How words are scored
    #[arg(long, value_name = "NAME", default_value_t = Method::IntegratedGradients)]
    method: Method,
    /// Steps of integrated gradients
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Words that make a record's rationale
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rationale: u32,
    /// Changed copies of each record whose rationales are compared with its own
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=100))]
    copies: u32,
    /// How many nearest training records are asked for their labels
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    neighbours: u32,
    /// Memory for the search, in MiB; a store larger than it is read in passing
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: usize,
}

pub(super) fn run(arguments: &Unreliable, common: &Common) -> anyhow::Result<Outcome> {
    let (mut run, started) = (RunRecord::begin("audit unreliable"), Instant::now());
    let store: Store = arguments.audited.open_records("unreliable", "trust is in one prediction a record")?;
    run.store(&store);
    if arguments.data.files.is_empty() {
        return Err(Error::usage("no data was given").with_hint("name files with --data").into());
    }
    let model = load_model(&store, arguments.model.as_deref(), common)?;
    let options = TrustOptions {
        method: arguments.method,
        options: Options { steps: arguments.steps as usize, ..Options::default() },
        rationale: arguments.rationale as usize,
        copies: arguments.copies,
        neighbours: arguments.neighbours as usize,
        seed: common.seed,
        memory: arguments.memory << 20,
    };
    let settings = common.settings();
    let open = |files: &[String]| Data { files: files.to_vec(), ..arguments.data.clone() }.open();
    let mut rejections = Output::new(common, common.out.as_deref()).rejections();
    let mut judge = |files: &[String], fits| {
        unreliable::judge(&model, &store, open(files)?, &options, &settings, &mut rejections, fits)
    };
    let of_its_own = !arguments.calibrate.is_empty();
    let known = if of_its_own { judge(&arguments.calibrate, true)? } else { Vec::new() };
    let asked = judge(&arguments.data.files, false)?;
    let found = unreliable::rank(&known, asked)?;
    let names = &found.evidence;
    let mut writer = RecordWriter::create(common.out.as_deref(), common.format(), UnreliableRecord::columns(names))?;
    found.records.iter().try_for_each(|record| writer.write(record))?;
    writer.finish()?;
    let (bins, off) = audit::reliability(&found.trust, &found.right, BINS);
    tell(&found, &bins, off, common.quiet);
    let calibration = serde_json::json!({
        "expected_calibration_error": off,
        "bins": bins,
        "calibrated": found.weights.is_some(),
        "weights": names.iter().cloned().zip(found.weights.iter().flatten().copied()).collect::<BTreeMap<_, _>>(),
        "ranks_errors": found.ranks_errors.iter().cloned().collect::<BTreeMap<_, _>>(),
        "agreement": found.agreement,
    });
    if let Some(out) = &common.out {
        write_json(&sibling(out, "calibration.json"), &calibration)?;
    }
    run.set("calibration", calibration);
    finish_with(common, "judged", found.records.len(), started, run, rejections)
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let mut file = Destination::create(Some(path))?;
    file.write(format!("{value:#}\n").as_bytes())?;
    file.finish()
}

/// How far trust can itself be trusted.
fn tell(found: &unreliable::Unreliable, bins: &[Bin], off: f64, quiet: bool) {
    if quiet {
        return;
    }
    if found.weights.is_none() {
        say_line!("trust is not calibrated: that takes 10 right and 10 wrong predictions of known label (--calibrate)");
    }
    if bins.iter().all(|bin| bin.count == 0) {
        return;
    }
    if found.weights.is_some() {
        say_line!("   trust   right  of");
        for bin in bins {
            say_line!("{:>6.1} %  {:>4.1} %  {}", 100.0 * bin.trust, 100.0 * bin.accuracy, bin.count);
        }
        say_line!("expected calibration error {:.1} %", 100.0 * off);
    }
    for (name, area) in &found.ranks_errors {
        say_line!("{name}: ranks a wrong prediction below a right one {:.1} % of the time", 100.0 * area);
    }
    for (most, count, accuracy) in &found.agreement {
        say_line!("agreement ≤ {most:.1}: {count} records, {:.1} % right", 100.0 * accuracy);
    }
}
