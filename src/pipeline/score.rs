//! One chunk through the model: labels resolved, texts tokenized on every core, packed by length, run, and put back in
//! order.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::repeats::{Repeats, append};
use super::runner::Runner;
use super::stages::Stopwatch;
use super::stream::Read;
use super::{Rejections, Settings};
use crate::dataset::{Digest, Place, Record};
use crate::error::{Error, Result};
use crate::factors::Target;
use crate::model::{Model, Outputs, Problem};
use crate::tokens::Encoding;

/// Records tokenized and sorted by length together: enough that batches are even, few enough that their tokens take
/// little memory.
const WINDOW: usize = 4096;

/// A chunk of records and what each model said of them.
pub struct Chunk {
    /// The chunk's number: its records' numbers divided by the chunk size.
    pub number: u64,
    /// In input order; records that were rejected are not among them.
    pub records: Vec<Record>,
    /// Each record's gold label, resolved against the first model's classes.
    pub gold: Vec<Option<Target>>,
    /// One a model, in the order the models were given.
    pub passes: Vec<Pass>,
    /// Of the records as read.
    pub digest: Digest,
    /// Tokens of the records, special tokens included.
    pub tokens: u64,
    /// Records cut to the maximum length.
    pub truncated: u64,
    /// Records whose input an earlier one of the chunk had: they were not run again.
    pub repeated: u64,
}

/// How long a chunk's two steps took.
#[derive(Default)]
pub(super) struct Steps {
    pub(super) tokenizing: Stopwatch,
    pub(super) running: Stopwatch,
}

/// One model's outputs over a chunk.
pub struct Pass {
    /// E.
    pub width: usize,
    /// K.
    pub classes: usize,
    /// h and z of the chunk's records, in their order.
    pub outputs: Outputs,
}

impl Pass {
    fn new((width, classes): (usize, usize)) -> Self {
        Self { width, classes, outputs: Outputs::default() }
    }

    /// `h` of record i.
    pub fn features(&self, i: usize) -> &[f32] {
        &self.outputs.features[i * self.width..(i + 1) * self.width]
    }

    /// `z` of record i.
    pub fn logits(&self, i: usize) -> &[f32] {
        &self.outputs.logits[i * self.classes..(i + 1) * self.classes]
    }
}

/// A chunk on its way: what there is of it at once, and what follows.
pub(super) struct Prepared {
    number: u64,
    digest: Digest,
    gold: Vec<Option<Target>>,
    /// Why records were rejected.
    rejected: Vec<Error>,
    windows: Receiver<Window>,
    /// After all windows.
    records: Receiver<Vec<Record>>,
}

/// Some records, as far as they can be made ready.
struct Window {
    encodings: Result<Vec<Encoding>>,
    /// The first row of the chunk with each one's input: its own, where that is new.
    first_rows: Vec<usize>,
    /// How long tokenizing took on every core: what runs on the same cores meanwhile is not counted.
    time: Duration,
}

/// Hands a chunk on, then its tokens, a window or two ahead of the model: a device is kept busy by texts that are
/// tokens already.
pub(super) fn prepare(runner: &dyn Runner, read: Read, hand_on: &mut dyn FnMut(Prepared)) {
    let (records, gold, rejected) = resolve_labels(runner.model(), read.records, &read.places);
    let ((windows_to, windows), (records_to, back)) = (sync_channel(1), sync_channel(1));
    let Read { number, digest, .. } = read;
    hand_on(Prepared { number, digest, gold, rejected, windows, records: back });
    if windows_of(runner, &records).all(|window| windows_to.send(window).is_ok()) {
        // Whoever gave the chunk up does not want its records either.
        records_to.send(records).unwrap_or_default();
    }
}

/// A chunk's, one after another.
fn windows_of<'a>(runner: &'a dyn Runner, records: &'a [Record]) -> impl Iterator<Item = Window> + 'a {
    let (mut repeats, mut start) = (Repeats::default(), 0);
    records.chunks(WINDOW).map(move |window| {
        let (encodings, time) = encode(runner.model(), window);
        let rows = start..start + window.len();
        start = rows.end;
        // Two records of one input but other labels have other gradients.
        let first_rows = match &encodings {
            Ok(encodings) if !runner.reads_labels() => repeats.first_rows(rows.start, encodings),
            _ => rows.collect(),
        };
        Window { encodings, first_rows, time }
    })
}

fn encode(model: &Model, window: &[Record]) -> (Result<Vec<Encoding>>, Duration) {
    let timed = |record: &Record| {
        let began = Instant::now();
        let encoding = model.encode(record).map_err(|error| match error {
            Error::Usage(reason, hint) => {
                Error::Usage(format!("record {} (id `{}`): {reason}", record.index, record.id), hint)
            }
            error => error,
        });
        (encoding, began.elapsed())
    };
    let (encodings, times): (Vec<Result<Encoding>>, Vec<Duration>) = window.par_iter().map(timed).unzip();
    let threads = u32::try_from(rayon::current_num_threads()).unwrap_or(1);
    (encodings.into_iter().collect(), times.iter().sum::<Duration>() / threads.max(1))
}

pub(super) fn score(
    runner: &dyn Runner,
    prepared: Prepared,
    settings: &Settings,
    rejections: &mut Rejections,
    steps: &mut Steps,
) -> Result<Chunk> {
    let Prepared { number, digest, gold, rejected, windows, records } = prepared;
    rejected.into_iter().try_for_each(|error| rejections.take(error))?;
    let mut chunk = run(runner, (number, digest), gold, windows.into_iter(), settings, steps)?;
    // Nothing more comes of a thread that has ended.
    chunk.records = records.recv().map_err(|_| Error::Interrupted)?;
    check_finite(&chunk)?;
    Ok(chunk)
}

/// Refuses outputs of which nothing can be said, by the first record that has them.
fn check_finite(chunk: &Chunk) -> Result<()> {
    let is_finite = |i: &usize| chunk.passes.iter().all(|pass| pass.logits(*i).iter().all(|z| z.is_finite()));
    let Some(i) = (0..chunk.records.len()).find(|i| !is_finite(i)) else { return Ok(()) };
    let Record { index, id, .. } = &chunk.records[i];
    Err(Error::not_numbers(format_args!("record {index} (id `{id}`)")))
}

/// The features of records that were read before, under the first model, `[n, E]`.
pub(super) fn features(runner: &dyn Runner, records: &[Record], settings: &Settings) -> Result<Vec<f32>> {
    let model = runner.model();
    let reads = model.problem() != Problem::Headless;
    let resolve =
        |record: &Record| record.label.as_ref().filter(|_| reads).map(|label| model.resolve_label(label)).transpose();
    let gold = records.iter().map(resolve).collect::<std::result::Result<_, _>>().map_err(Error::usage)?;
    let windows = windows_of(runner, records);
    let chunk = run(runner, (0, Digest::default()), gold, windows, settings, &mut Steps::default())?;
    Ok(chunk.passes.into_iter().next().map(|pass| pass.outputs.features).unwrap_or_default())
}

/// All of a chunk but its records. What a window leaves is put in its place while the next one runs, so that a device
/// does not wait for it.
fn run(
    runner: &dyn Runner,
    (number, digest): (u64, Digest),
    gold: Vec<Option<Target>>,
    windows: impl Iterator<Item = Window>,
    settings: &Settings,
    steps: &mut Steps,
) -> Result<Chunk> {
    let (records, passes) = (Vec::new(), Vec::new());
    let mut chunk = Chunk { number, records, gold, passes, digest, tokens: 0, truncated: 0, repeated: 0 };
    let (ran_to, ran) = sync_channel(1);
    let mut passes: Vec<Pass> = runner.sizes().into_iter().map(Pass::new).collect();
    thread::scope(|scope| {
        let placer = scope.spawn(move || {
            for window in ran {
                place(&mut passes, &window);
            }
            passes
        });
        let mut start = 0;
        let all = windows.map(|window| run_window(runner, &mut chunk, &mut start, window, settings, steps));
        // Who places never stops before there is nothing more to come.
        let done = all.into_iter().try_for_each(|ran| ran_to.send(ran?).map_err(|_| Error::Interrupted));
        drop(ran_to);
        chunk.passes = placer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done
    })?;
    Ok(chunk)
}

/// The records that can be used and their labels, and why others cannot: a label that means nothing to the model is
/// like a record that cannot be read. A headless model reads no labels.
fn resolve_labels(
    model: &Model,
    records: Vec<Record>,
    places: &[Place],
) -> (Vec<Record>, Vec<Option<Target>>, Vec<Error>) {
    if model.problem() == Problem::Headless {
        let none = vec![None; records.len()];
        return (records, none, Vec::new());
    }
    let (mut kept, mut gold) = (Vec::with_capacity(records.len()), Vec::with_capacity(records.len()));
    let mut rejected = Vec::new();
    for (record, place) in records.into_iter().zip(places) {
        match record.label.as_ref().map(|label| model.resolve_label(label)).transpose() {
            Ok(target) => {
                gold.push(target);
                kept.push(record);
            }
            Err(reason) => rejected.push(place.error(reason)),
        }
    }
    (kept, gold, rejected)
}

/// A window that has run: each pass's outputs of what is new in it, and where its rows are.
struct RanWindow {
    outputs: Vec<Outputs>,
    start: usize,
    first_rows: Vec<usize>,
}

/// The chunk's rows from `start` on.
fn run_window(
    runner: &dyn Runner,
    chunk: &mut Chunk,
    start: &mut usize,
    window: Window,
    settings: &Settings,
    steps: &mut Steps,
) -> Result<RanWindow> {
    let Window { encodings, first_rows, time } = window;
    steps.tokenizing.add(time);
    let encodings = encodings?;
    let rows = *start..*start + encodings.len();
    *start = rows.end;
    chunk.tokens += encodings.iter().map(|e| e.ids.len() as u64).sum::<u64>();
    chunk.truncated += encodings.iter().filter(|e| e.truncated).count() as u64;
    let is_new = |(row, first): &(usize, &usize)| row == *first;
    let new_rows: Vec<usize> = rows.clone().zip(&first_rows).filter(is_new).map(|(row, _)| row).collect();
    let new: Vec<&Encoding> = new_rows.iter().map(|row| &encodings[row - rows.start]).collect();
    chunk.repeated += (encodings.len() - new.len()) as u64;
    let gold: Vec<Option<&Target>> = new_rows.iter().map(|&row| chunk.gold[row].as_ref()).collect();
    let outputs = steps.running.time(|| runner.run(&new, &gold, settings))?;
    Ok(RanWindow { outputs, start: rows.start, first_rows })
}

/// Puts a window's numbers behind those before it.
fn place(passes: &mut [Pass], RanWindow { outputs, start, first_rows }: &RanWindow) {
    for (outputs, pass) in outputs.iter().zip(passes) {
        append(&mut pass.outputs.features, &outputs.features, pass.width, *start, first_rows);
        append(&mut pass.outputs.logits, &outputs.logits, pass.classes, *start, first_rows);
    }
}
