//! The commands: each file holds one command's arguments and the library calls they become.
//!
//! Data goes to standard output, progress and messages to standard error. Exit codes: 0 done, 1 done but some records
//! were skipped, 2 failed with nothing half-written, 130 interrupted.

/// A line for people, on standard error.
macro_rules! say_line {
    ($($arg:tt)*) => { $crate::cli::say(&format!($($arg)*)) };
}

mod accuracy;
mod arguments;
mod audit;
mod bench;
mod config_file;
mod curvature;
mod demo;
mod doctor;
mod evaluate;
mod explain;
mod export;
mod improve;
mod index;
mod merge;
mod output;
mod predict;
mod report;
mod run_record;
mod search;
mod select;
mod store;
mod train;
mod usage;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use wherefore::Error;
use wherefore::report::printable;

/// Which training examples, and which words, made this model say this.
#[derive(Parser)]
#[command(name = "wherefore", version, max_term_width = 110, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: arguments::Common,
}

#[derive(Subcommand)]
enum Command {
    /// The whole job on the bundled model and data: index, search, explain, and a page to look at
    Demo(demo::Arguments),
    /// Logits, probabilities and predicted label of each record
    Predict(predict::Arguments),
    /// One pass over the training data into a store of factors
    Index(index::Arguments),
    /// The training records that most support and most oppose each prediction
    Search(search::Arguments),
    /// The curvature of the whole network, fitted to a store's records, for influence over all its layers
    Curvature(curvature::Arguments),
    /// A score for each token and word of each record: what made the model say this
    Explain(Box<explain::Arguments>),
    /// Evidence sentences of a long context, then the answer from them
    Select(Box<select::Arguments>),
    /// What is wrong with the training data, ranked
    Audit(audit::Arguments),
    /// How far attributions can be trusted: the yardsticks of the field
    Evaluate(evaluate::Arguments),
    /// Fine-tune a model, or refit its last layer
    Train(Box<train::Arguments>),
    /// Train, audit, change the data as a plan says, train again, and compare
    Improve(improve::Arguments),
    /// Many stores of one data set, made by `index --shard I/N`, into one
    Merge(merge::Arguments),
    /// Look at a store, check every byte of it, or take records out of it
    Store(store::Arguments),
    /// A store's records and factors for other programs: Parquet, JSON lines, NumPy, FAISS
    Export(export::Arguments),
    /// Result files as one page to look at: texts in colours, and the training records behind them
    Report(report::Arguments),
    /// Throughput of this machine on each job, against its own measured ceilings
    Bench(bench::Arguments),
    /// What this machine offers, a self-check of every operation, and a proof of your own model
    Doctor(doctor::Arguments),
}

impl Command {
    /// Whether its results are records of columns, not a report.
    fn has_columns(&self) -> bool {
        match self {
            Self::Evaluate(_) | Self::Store(_) | Self::Bench(_) | Self::Doctor(_) => false,
            Self::Index(arguments) => !arguments.is_dry_run(),
            _ => true,
        }
    }
}

/// How a command that did not fail ended.
enum Outcome {
    Done,
    /// Some records were skipped, as `--skip-invalid` asked.
    Skipped,
}

/// Where standard error cannot be written to, the job goes on.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(line));
}

/// Parses, runs, reports.
pub(crate) fn main() -> ExitCode {
    let arguments = match config_file::expand(std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(error) => return tell(&error),
    };
    let cli = match parse(&arguments).map_err(|error| usage::refusal(error, &arguments)) {
        Ok(cli) => cli,
        Err(Ok(refusal)) => return tell(&refusal.into()),
        Err(Err(help)) => {
            // Clap knows which stream and code are theirs.
            let _ = help.print();
            return ExitCode::from(u8::try_from(help.exit_code()).unwrap_or(2));
        }
    };
    let quiet = cli.common.quiet;
    let ended = run(cli);
    if let Some(text) = wherefore::dataset::quoted_tsv().filter(|_| !quiet) {
        note(text);
    }
    if let Some(text) = wherefore::backend::gpu::distrusted() {
        note(text);
    }
    match ended {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Skipped) => ExitCode::from(1),
        Err(error) => tell(&error),
    }
}

/// Parses the command line, and notes the settings that come of it.
fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = taking_negative_numbers(Cli::command());
    let matches = command.try_get_matches_from_mut(arguments)?;
    run_record::note_settings(&command, &matches);
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// So that a number that is too small is told as such, not as an option that there is none of.
fn taking_negative_numbers(command: clap::Command) -> clap::Command {
    let takes = |arg: clap::Arg| {
        let takes_values = arg.get_action().takes_values();
        arg.allow_negative_numbers(takes_values)
    };
    command.mut_args(takes).mut_subcommands(taking_negative_numbers)
}

fn note(text: &str) {
    say_line!("note: {text}");
}

fn run(cli: Cli) -> anyhow::Result<Outcome> {
    wherefore::interrupt::listen().context("cannot listen for Ctrl-C")?;
    let mut common = cli.common;
    common.set_up_threads()?;
    // As for what is read.
    common.out = common.out.filter(|out| out.as_os_str() != "-");
    if let Some(out) = &common.out {
        run_record::note_out("--out", out)?;
    }
    match &cli.command {
        Command::Export(_) | Command::Report(_) | Command::Demo(_) => {}
        command => common.check_format(command.has_columns())?,
    }
    match cli.command {
        Command::Demo(arguments) => demo::run(&arguments, &common),
        Command::Predict(arguments) => predict::run(&arguments, &common),
        Command::Index(arguments) => index::run(&arguments, &common),
        Command::Search(arguments) => search::run(&arguments, &common),
        Command::Curvature(arguments) => curvature::run(&arguments, &common),
        Command::Select(arguments) => select::run(&arguments, &common),
        Command::Explain(arguments) => explain::run(&arguments, &common),
        Command::Audit(arguments) => audit::run(&arguments, &common),
        Command::Evaluate(arguments) => evaluate::run(&arguments, &common),
        Command::Train(arguments) => train::run(&arguments, &common),
        Command::Improve(arguments) => improve::run(&arguments, &common),
        Command::Merge(arguments) => merge::run(&arguments, &common),
        Command::Store(arguments) => store::run(&arguments, &common),
        Command::Export(arguments) => export::run(&arguments, &common),
        Command::Report(arguments) => report::run(&arguments, &common),
        Command::Bench(arguments) => bench::run(&arguments, &common),
        Command::Doctor(arguments) => doctor::run(&arguments, &common),
    }
}

/// One line, then a hint where there is one.
fn tell(error: &anyhow::Error) -> ExitCode {
    let known = error.downcast_ref::<Error>();
    match known {
        Some(Error::Interrupted) => {
            say_line!("wherefore: interrupted");
            return ExitCode::from(130);
        }
        // The reader of our pipe has seen enough: that is no failure of ours.
        Some(Error::Io { error, .. }) if error.kind() == std::io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        _ => {}
    }
    // The library's errors tell their cause themselves.
    let line = known.map_or_else(|| format!("{error:#}"), ToString::to_string).replace('\n', " ");
    say_line!("wherefore: {line}");
    if let Some(hint) = known.and_then(Error::hint) {
        say_line!("hint: {hint}");
    }
    ExitCode::from(2)
}
