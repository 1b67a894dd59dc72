//! `wherefore report`.

use std::io::IsTerminal;
use std::path::Path;

use clap::Args;
use serde_json::Value;
use wherefore::Error;
use wherefore::pipeline::Summary;
use wherefore::report::{
    DEFAULT_FINDINGS, DEFAULT_LIMIT, Destination, Nothing, Page, PageOptions, is_special, read_results, result_files,
};

use super::Outcome;
use super::arguments::{Common, from_one};
use super::output::sibling;
use super::run_record::{RunRecord, check_is_not_out};

/// Result files as one page to look at: texts in colours, and the training records behind them.
///
/// Results of one record, by id and index, come together: several methods side by side, with the nearest training
/// records below.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Files of explain, search, predict, audit, evaluate and improve, in any mixture: .jsonl (also .gz or .zst) or
    /// .parquet; `-` is JSONL on standard input
    #[arg(required = true, value_name = "RESULT")]
    results: Vec<String>,
    /// The page's heading [default: what the page answers]
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Records on the page at most, and rows of each list of an audit or a plan; the page says how many it leaves out
    /// [default: 2000, and 100 of each list]
    #[arg(long, value_name = "N", value_parser = from_one)]
    limit: Option<usize>,
}

/// What results are written as, or may be expected to.
const RESULTS: [&str; 7] = ["csv", "gz", "jsonl", "parquet", "tsv", "txt", "zst"];

/// What stands in the record of the run that left a file, where there is one.
fn run_of(file: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(sibling(file, "run.json")).ok()?).ok()
}

/// The fingerprint of the one data set that a result is of.
fn data_of(file: &Path) -> Option<String> {
    let told = run_of(file)?;
    match told["data"].as_array()?.as_slice() {
        [data] => Some(data["fingerprint"].as_str()?.to_owned()),
        _ => None,
    }
}

/// What a run's record tells of an audit that left an empty file.
fn of_audit(file: &Path) -> Option<Nothing> {
    let told = run_of(file)?;
    let audit = told["command"].as_str()?.strip_prefix("audit ")?.to_owned();
    Some(Nothing { audit, records: told["store"]["records"].as_u64() })
}

pub(crate) fn run(arguments: &Arguments, common: &Common) -> anyhow::Result<Outcome> {
    let mut run = RunRecord::begin("report");
    let started = std::time::Instant::now();
    let out = common.out.as_deref();
    if out.is_none() && std::io::stdout().is_terminal() {
        return Err(Error::usage("a page is not for a terminal").with_hint("name a file with --out page.html").into());
    }
    arguments.results.iter().try_for_each(|file| check_is_not_out(Path::new(file)))?;
    let extension = out.and_then(Path::extension).and_then(|extension| extension.to_str());
    if let Some(other) = extension.filter(|other| RESULTS.contains(other)) {
        return Err(Error::usage(format!("--out .{other}: expected .html, which a page is written as"))
            .with_hint("name a file with --out page.html")
            .into());
    }
    let Arguments { results, title, limit } = arguments;
    let mut page = Page::new(PageOptions {
        title: title.clone(),
        limit: limit.unwrap_or(DEFAULT_LIMIT),
        findings: limit.unwrap_or(DEFAULT_FINDINGS),
        sources: results.clone(),
    });
    let (mut read, mut audits) = (0, 0);
    let files: Vec<Vec<String>> = results.iter().map(|pattern| result_files(pattern)).collect::<Result<_, _>>()?;
    for file in files.concat() {
        let before = read;
        page.begin(Path::new(&file));
        if let Some(fingerprint) = data_of(Path::new(&file)) {
            page.of_data(&fingerprint);
        }
        read_results(std::slice::from_ref(&file), &mut |record| {
            read += 1;
            page.add(record);
            Ok(())
        })?;
        if read == before
            && let Some(nothing) = of_audit(Path::new(&file))
        {
            audits += 1;
            page.add_nothing(nothing);
        }
    }
    if read + audits == 0 {
        return Err(Error::usage(format!("{}: no results to show", results.join(", "))).into());
    }
    let mut destination = Destination::create(out)?;
    destination.write(page.render()?.as_bytes())?;
    destination.finish()?;
    if let Some(out) = out {
        run.set("results", results.as_slice());
        let summary =
            Summary { numbered: read, records: read, seconds: started.elapsed().as_secs_f64(), ..Summary::default() };
        if !is_special(out) {
            run.write(&sibling(out, "run.json"), &summary);
        }
    }
    Ok(Outcome::Done)
}
