//! Reader, tokenizer, model and writer, each on its own thread, with at most two chunks waiting between them.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use super::runner::{Plain, Runner};
use super::score::{self, Prepared, Steps};
use super::stages::Stopwatch;
use super::{Chunk, Progress, Rejections, Settings, Summary};
use crate::dataset::{Dataset, Digest, Place, Record};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::Model;
use crate::store::Part;

/// The records that were kept of a chunk that is done, by ascending number, told the chunk's number and a digest of its
/// records; `None` where it is wanted.
pub type Done<'a> = dyn Fn(u64, &Digest) -> Result<Option<Vec<u64>>> + Sync + 'a;

/// How records are cut into chunks.
pub struct Chunking<'a> {
    /// Chunk c holds the records numbered `[c · records, (c + 1) · records)`.
    pub records: u64,
    /// The digest of the records of the first chunk that were there before the data: not empty where the data's numbers
    /// begin inside it.
    pub before: Digest,
    /// Whose chunks are run: those of other jobs are read (to be counted) and dropped, and what cannot be used of them
    /// is for those jobs to list.
    pub part: Part,
    /// What is done already. Of those chunks the records that were not kept are tried again, so that they are rejected
    /// as they were before.
    pub done: &'a Done<'a>,
    /// Of the first chunk so many record numbers are wanted in any case: alone, and not counted, where it is not wanted
    /// otherwise.
    pub first: u64,
}

impl Chunking<'_> {
    /// Chunks for jobs that care for no particular cut.
    pub fn any() -> Self {
        Self { records: 4096, before: Digest::default(), part: Part::WHOLE, done: &|_, _| Ok(None), first: 0 }
    }
}

/// A chunk as read.
pub(super) struct Read {
    pub(super) number: u64,
    pub(super) records: Vec<Record>,
    /// Where each record was.
    pub(super) places: Vec<Place>,
    pub(super) digest: Digest,
    bytes: u64,
    whose: Whose,
}

/// What a chunk is read for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// It is this job's, and wanted.
    Wanted,
    /// It is this job's, and done: what cannot be used of it is told again.
    Done,
    /// It is another job's: some of it is looked at.
    Others,
}

/// What the reader hands over: a chunk, or an error met on the way (a bad record, or the end).
type Message = Result<Read, Refused>;

/// An error, and in whose chunk it was met.
struct Refused {
    error: Error,
    is_ours: bool,
}

/// Runs `models` over `dataset` and hands each scored chunk to `sink`, in the order of the input. All models must share
/// the first one's tokenizer. Results do not depend on `settings`, nor on the number of threads.
///
/// # Errors
/// The first of: what the reader could not read (or a record it could not use, unless such are skipped), what the model
/// could not run, what the sink could not write, or the user's interrupt.
pub fn stream(
    models: &[&Model],
    dataset: Dataset,
    chunking: &Chunking<'_>,
    settings: &Settings,
    rejections: &mut Rejections,
    progress: &Progress,
    sink: &mut (dyn FnMut(Chunk) -> Result<()> + Send),
) -> Result<Summary> {
    stream_by(&Plain(models), dataset, chunking, settings, rejections, progress, sink)
}

/// [`stream`], whatever runs over the records.
pub(super) fn stream_by(
    runner: &dyn Runner,
    dataset: Dataset,
    chunking: &Chunking<'_>,
    settings: &Settings,
    rejections: &mut Rejections,
    progress: &Progress,
    sink: &mut (dyn FnMut(Chunk) -> Result<()> + Send),
) -> Result<Summary> {
    runner.model().expect_record_task(progress.job())?;
    let prepare = |read: Read, hand_on: &mut dyn FnMut(Prepared)| score::prepare(runner, read, hand_on);
    let mut score = |prepared: Prepared, rejections: &mut Rejections, steps: &mut Steps| {
        let chunk = score::score(runner, prepared, settings, rejections, steps)?;
        let (records, tokens) = (chunk.records.len() as u64, chunk.tokens);
        let counts = Counts { records, tokens, truncated: chunk.truncated, repeated: chunk.repeated };
        Ok((chunk, counts))
    };
    stream_of(&prepare, &mut score, dataset, chunking, rejections, progress, sink)
}

/// What a chunk adds to a [`Summary`].
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) records: u64,
    pub(super) tokens: u64,
    pub(super) truncated: u64,
    pub(super) repeated: u64,
}

/// Makes a chunk as read ready for the model, while chunks before it run. It may go on with what it has handed on.
pub(super) type Preparing<'a, R> = dyn Fn(Read, &mut dyn FnMut(R)) + Sync + 'a;

/// Makes something of each chunk that is ready.
pub(super) type Scoring<'a, R, T> = dyn FnMut(R, &mut Rejections, &mut Steps) -> Result<(T, Counts)> + 'a;

/// For chunks of which nothing can be made ready.
pub(super) fn as_read(read: Read, hand_on: &mut dyn FnMut(Read)) {
    hand_on(read);
}

/// [`stream`], whatever is made of a chunk.
pub(super) fn stream_of<R: Send, T: Send>(
    prepare: &Preparing<'_, R>,
    score: &mut Scoring<'_, R, T>,
    dataset: Dataset,
    chunking: &Chunking<'_>,
    rejections: &mut Rejections,
    progress: &Progress,
    sink: &mut (dyn FnMut(T) -> Result<()> + Send),
) -> Result<Summary> {
    let mut summary = Summary::default();
    thread::scope(|scope| {
        let (read_to, read) = sync_channel::<Message>(1);
        let (ready_to, ready) = sync_channel::<Result<Ready<R>, Refused>>(1);
        let (write_to, written) = sync_channel::<T>(2);
        let reader = scope.spawn(move || read_chunks(dataset, chunking, read_to));
        let preparer = scope.spawn(move || prepare_chunks(prepare, read, &ready_to));
        let writer = scope.spawn(move || {
            let mut busy = Stopwatch::default();
            let wrote = written.iter().try_for_each(|chunk| busy.time(|| sink(chunk)));
            (wrote, busy.seconds())
        });
        let ran = run_chunks(score, ready, rejections, progress, &write_to, &mut summary);
        drop(write_to);
        let (wrote, writing) = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        preparer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (numbered, reading) = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        summary.numbered = numbered;
        (summary.stages.reading, summary.stages.writing) = (reading, writing);
        // A writer that failed hung up on the runner: its error is the cause.
        wrote.and(ran)
    })?;
    summary.skipped = rejections.count();
    summary.seconds = progress.seconds();
    Ok(summary)
}

/// Where chunks go, and how long they waited to.
struct Outlet {
    to: SyncSender<Message>,
    waited: Stopwatch,
}

impl Outlet {
    /// Whether anybody listened.
    fn send(&mut self, message: Message) -> bool {
        self.waited.time(|| self.to.send(message)).is_ok()
    }
}

/// Parses records into chunks until the data ends or nobody listens; says how many record numbers there were, and how
/// many seconds it worked.
fn read_chunks(mut dataset: Dataset, chunking: &Chunking<'_>, to: SyncSender<Message>) -> (u64, f64) {
    let (began, mut to) = (Instant::now(), Outlet { to, waited: Stopwatch::default() });
    let mut chunk = Building { digest: chunking.before, ..Building::new(dataset.next_index() / chunking.records) };
    loop {
        // A record that cannot be read has a number too, so a chunk may come out short, or empty.
        let number = dataset.next_index() / chunking.records;
        let next = dataset.next();
        if (next.is_none() || number != chunk.number) && dataset.next_index() > 0 {
            let full = std::mem::replace(&mut chunk, Building::new(number));
            if !full.send(chunking, dataset.bytes_read(), &mut to) {
                break;
            }
        }
        match next {
            None => break,
            Some(Ok(record)) => chunk.push(record, dataset.place()),
            Some(Err(error)) => {
                let is_ours = chunking.part.owns(number);
                if !to.send(Err(Refused { error, is_ours })) {
                    break;
                }
            }
        }
    }
    (dataset.next_index(), began.elapsed().as_secs_f64() - to.waited.seconds())
}

/// A chunk being read.
struct Building {
    number: u64,
    records: Vec<Record>,
    places: Vec<Place>,
    digest: Digest,
}

impl Building {
    fn new(number: u64) -> Self {
        Self { number, records: Vec::new(), places: Vec::new(), digest: Digest::default() }
    }

    fn push(&mut self, record: Record, place: Place) {
        self.digest.push(&record);
        self.records.push(record);
        self.places.push(place);
    }

    /// Hands over what is wanted of the chunk. Whether anybody still listens.
    fn send(self, chunking: &Chunking<'_>, bytes: u64, to: &mut Outlet) -> bool {
        let Self { number, records, places, digest } = self;
        let done = chunking.part.owns(number).then(|| (chunking.done)(number, &digest)).transpose();
        let (whose, kept) = match done {
            Ok(Some(None)) => {
                return to.send(Ok(Read { number, records, places, digest, bytes, whose: Whose::Wanted }));
            }
            Ok(Some(Some(kept))) => (Whose::Done, Some(kept)),
            Ok(None) => (Whose::Others, None),
            Err(error) => return to.send(Err(Refused { error, is_ours: true })),
        };
        let first = if number == 0 { chunking.first } else { 0 };
        let was_rejected = |index| kept.as_ref().is_some_and(|kept| kept.binary_search(&index).is_err());
        let asked = |(record, _): &(Record, Place)| record.index < first || was_rejected(record.index);
        let (records, places): (Vec<_>, Vec<_>) = records.into_iter().zip(places).filter(asked).unzip();
        records.is_empty() || to.send(Ok(Read { number, records, places, digest, bytes, whose }))
    }
}

/// A chunk that the model can go on with.
struct Ready<R> {
    bytes: u64,
    whose: Whose,
    chunk: R,
}

/// Makes chunks ready until there are no more, or nobody listens.
fn prepare_chunks<R>(prepare: &Preparing<'_, R>, read: Receiver<Message>, to: &SyncSender<Result<Ready<R>, Refused>>) {
    for message in read {
        let mut listened = true;
        match message {
            Err(refused) => listened = to.send(Err(refused)).is_ok(),
            Ok(read) => {
                let Read { bytes, whose, .. } = read;
                prepare(read, &mut |chunk| listened = to.send(Ok(Ready { bytes, whose, chunk })).is_ok());
            }
        }
        if !listened {
            break;
        }
    }
}

fn run_chunks<R, T>(
    score: &mut Scoring<'_, R, T>,
    ready: Receiver<Result<Ready<R>, Refused>>,
    rejections: &mut Rejections,
    progress: &Progress,
    write_to: &SyncSender<T>,
    summary: &mut Summary,
) -> Result<()> {
    let mut steps = Steps::default();
    for message in ready {
        interrupt::check()?;
        match message {
            Err(Refused { error, is_ours: true }) => rejections.take(error)?,
            Err(Refused { error, is_ours: false }) => rejections.leave(error)?,
            Ok(Ready { bytes, whose, chunk }) => {
                let mut of_others = Rejections::new(true, None);
                let told = if whose == Whose::Others { &mut of_others } else { &mut *rejections };
                let (chunk, counts) = score(chunk, told, &mut steps)?;
                let counts = if whose == Whose::Wanted { counts } else { Counts::default() };
                summary.records += counts.records;
                summary.tokens += counts.tokens;
                summary.truncated += counts.truncated;
                summary.repeated += counts.repeated;
                summary.stages.tokenizing = steps.tokenizing.seconds();
                summary.stages.running = steps.running.seconds();
                if write_to.send(chunk).is_err() {
                    return Err(Error::Interrupted);
                }
                progress.set(bytes, summary.records);
            }
        }
    }
    interrupt::check()
}
