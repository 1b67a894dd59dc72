//! `wherefore audit dirty`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use indicatif::HumanCount;
use wherefore::audit::{self, Dirty as Found, DirtyOptions, Signal};
use wherefore::model::Task;
use wherefore::pipeline::Progress;
use wherefore::report::{CorrectedTags, DirtyAnswer, DirtyLabel, DirtyPart, Format, PieceNames, RecordWriter};
use wherefore::store::Store;
use wherefore::train::Dynamics;
use wherefore::{Error, Result, interrupt, search};

use super::{Audited, finish, tell_found, tell_left_out};
use crate::cli::Outcome;
use crate::cli::arguments::{Common, lambda, note_side_out};
use crate::cli::run_record::RunRecord;

/// Findings told of words, each with its text and its neighbours', where the user has not said: most words are no
/// entity, and in order.
const MOST_WORDS: usize = 1000;

#[derive(Args)]
pub(super) struct Dirty {
    #[command(flatten)]
    audited: Audited,
    /// What labels are ranked by: combined (text, confident, self-influence and, with --dynamics, margin; of masks
    /// neighbours, loss and self-influence), text, representer, representer-soft, self-influence, neighbours,
    /// confident, loss, margin or forgetting; of answers combined (of all others), text, self-influence or loss
    #[arg(long, default_value_t = Signal::Combined)]
    signal: Signal,
    /// How many of its nearest records (words), copies with the same label left out, vote on a label; 0: they are not
    /// looked for, which takes hours for a million
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=1000))]
    neighbours: u32,
    /// Of models that tag words: each word is a finding of its own, not what is or would be an entity
    #[arg(long)]
    by_word: bool,
    /// So many findings at most [default: all; of words 1,000]
    #[arg(long, value_name = "N")]
    most: Option<usize>,
    /// Of models that tag words: where the training data go with the suggestions of the first findings taken (--accept)
    #[arg(long, value_name = "FILE", requires = "accept")]
    corrected: Option<PathBuf>,
    /// Of how many of the first findings the suggestions are taken
    #[arg(long, value_name = "N", requires = "corrected")]
    accept: Option<usize>,
    /// Memory for the search, in MiB; a store larger than it is read in passing
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: usize,
    /// What a training on the same data wrote with its --dynamics, for margin and forgetting (combined uses margin)
    #[arg(long, value_name = "DIR")]
    dynamics: Option<PathBuf>,
    /// λ of the representer's refits
    #[arg(long, value_name = "λ", value_parser = lambda, default_value_t = 0.06)]
    lambda: f64,
}

pub(super) fn run(arguments: &Dirty, common: &Common) -> anyhow::Result<Outcome> {
    let mut run = RunRecord::begin("audit dirty");
    let started = Instant::now();
    note_side_out("--corrected", arguments.corrected.as_deref())?;
    let store = arguments.audited.open()?;
    run.store(&store);
    run.set("signal", arguments.signal.name());
    let task = store.settings().task();
    arguments.check(task)?;
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
    let judged = match task {
        Task::Record => {
            let dirty = audit::dirty(&store, &options)?;
            let mut writer = writer(common, DirtyLabel::columns(&computed(&dirty.signals)))?;
            let told = dirty.ranking.len().min(arguments.most.unwrap_or(usize::MAX));
            (0..told).try_for_each(|rank| writer.write(&DirtyLabel::of(&store, &dirty, rank)?))?;
            writer.finish()?;
            tell_doubted(&dirty, common);
            dirty.ranking.len()
        }
        Task::Spans => {
            let dirty = audit::dirty_answers(&store, &options)?;
            let mut writer = writer(common, DirtyAnswer::columns(&computed(&dirty.signals)))?;
            let told = dirty.ranking.len().min(arguments.most.unwrap_or(usize::MAX));
            (0..told).try_for_each(|rank| writer.write(&DirtyAnswer::of(&store, &dirty, rank)?))?;
            writer.finish()?;
            dirty.ranking.len()
        }
        Task::Tags | Task::Masks => arguments.parts(&store, audit::dirty(&store, &options)?, common)?,
    };
    drop(bar);
    if let Some(dynamics) = dynamics.as_ref().filter(|_| arguments.signal.needs_dynamics()) {
        tell_left_out(&store, dynamics, common, &mut run);
    }
    finish(common, "judged", judged, started, run)
}

/// Tells how many labels each judge that names classes would have otherwise.
fn tell_doubted(dirty: &Found, common: &Common) {
    let doubted = |(judge, whose): (Signal, &str)| {
        let (_, margins) = dirty.signals.iter().find(|(signal, _)| *signal == judge)?;
        let count = margins.iter().filter(|&&margin| margin > 0.0).count();
        Some(format!("{} by {whose}", HumanCount(count as u64)))
    };
    let told =
        [(Signal::Text, "the records' words"), (Signal::Confident, "their features")].into_iter().filter_map(doubted);
    let told: Vec<String> = told.collect();
    if !told.is_empty() {
        tell_found(common, &format!("labels in doubt: {}", told.join(", ")));
    }
}

fn computed(signals: &[(Signal, Vec<f32>)]) -> Vec<Signal> {
    signals.iter().map(|(signal, _)| *signal).collect()
}

fn writer(common: &Common, columns: Vec<(String, wherefore::report::Kind)>) -> Result<RecordWriter> {
    RecordWriter::create(common.out.as_deref(), common.format(), columns)
}

impl Dirty {
    /// Refuses what is of tags alone.
    fn check(&self, task: Task) -> Result<()> {
        let asked = [(self.by_word, "--by-word"), (self.corrected.is_some(), "--corrected")];
        match asked.iter().find(|(asked, _)| *asked && task != Task::Tags) {
            Some((_, name)) => Err(Error::usage(format!("{name}: the store's model tags no words"))),
            None => Ok(()),
        }
    }

    /// Writes what was found of words or masks; how many labels were judged.
    fn parts(&self, store: &Store, mut dirty: Found, common: &Common) -> Result<usize> {
        if self.by_word {
            dirty.spans = (0..dirty.scores.len()).map(|word| word..word + 1).collect();
        }
        let (findings, names) = (dirty.findings(), PieceNames::of(store, &dirty)?);
        let mut writer = writer(common, DirtyPart::columns(&computed(&dirty.signals)))?;
        let mut write = |(rank, found)| writer.write(&DirtyPart::of(store, &dirty, &names, rank, found)?);
        findings.iter().take(self.most.unwrap_or(MOST_WORDS)).enumerate().try_for_each(&mut write)?;
        writer.finish()?;
        if let (Some(path), Some(accept)) = (&self.corrected, self.accept) {
            let taken: HashSet<usize> = findings.iter().take(accept).flat_map(|(_, span)| span.clone()).collect();
            let format = Format::choose(None, Some(path));
            let mut writer = RecordWriter::create(Some(path), format, CorrectedTags::columns())?;
            let corrected = |row| CorrectedTags::of(store, &dirty, row, &|unit| taken.contains(&unit));
            (0..store.rows()).try_for_each(|row| writer.write(&corrected(row)?))?;
            writer.finish()?;
        }
        Ok(dirty.ranking.len())
    }
}
