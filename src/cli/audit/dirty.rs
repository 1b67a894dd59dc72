//! `wherefore audit dirty`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use wherefore::audit::{self, DirtyOptions, Signal};
use wherefore::pipeline::Progress;
use wherefore::report::{DirtyLabel, RecordWriter};
use wherefore::train::Dynamics;
use wherefore::{interrupt, search};

use super::{Audited, finish};
use crate::cli::Outcome;
use crate::cli::arguments::Common;
use crate::cli::run_record::RunRecord;

#[derive(Args)]
pub(super) struct Dirty {
    #[command(flatten)]
    audited: Audited,
    /// What records are ranked by: combined, text, representer, representer-soft, self-influence, neighbours, confident, margin or forgetting
    #[arg(long, default_value_t = Signal::Combined)]
    signal: Signal,
    /// How many of its nearest records vote on a label; 0: they are not looked for, which takes hours for a million
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=1000))]
    neighbours: u32,
    /// Memory for the search, in MiB; a store larger than it is read in passing
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: usize,
    /// What a training wrote with its --dynamics, for margin and forgetting (combined uses them too)
    #[arg(long, value_name = "DIR")]
    dynamics: Option<PathBuf>,
    /// λ of the representer's refits
    #[arg(long, value_name = "λ", default_value_t = 0.06)]
    lambda: f64,
}

pub(super) fn run(arguments: &Dirty, common: &Common) -> anyhow::Result<Outcome> {
    let mut run = RunRecord::begin("audit dirty");
    let started = Instant::now();
    let store = arguments.audited.open()?;
    run.store(&store);
    run.set("signal", arguments.signal.name());
    let bar = Progress::new("nearest records", Some(store.rows() as u64), common.quiet);
    let progress = |done: u64, all: u64| {
        bar.set(done * store.rows() as u64 / all.max(1), done);
        !interrupt::asked()
    };
    let dynamics = arguments.dynamics.as_deref().map(Dynamics::open).transpose()?;
    let options = DirtyOptions {
        dynamics: dynamics.as_ref(),
        signal: arguments.signal,
        neighbours: arguments.neighbours as usize,
        penalty: arguments.lambda,
        damping: 0.01,
        seed: common.seed,
        search: search::Options {
            memory: arguments.memory << 20,
            progress: Some(&progress),
            ..search::Options::default()
        },
        keep_going: &|| !interrupt::asked(),
    };
    let dirty = audit::dirty(&store, &options)?;
    drop(bar);
    let signals: Vec<Signal> = dirty.signals.iter().map(|(signal, _)| *signal).collect();
    let mut writer = RecordWriter::create(common.out.as_deref(), common.format(), DirtyLabel::columns(&signals))?;
    (0..dirty.ranking.len()).try_for_each(|rank| writer.write(&DirtyLabel::of(&store, &dirty, rank)?))?;
    writer.finish()?;
    finish(common, "judged", dirty.ranking.len(), started, run)
}
