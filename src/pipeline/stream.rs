//! Reader, model and writer, each on its own thread, with at most two chunks waiting between them.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::{Chunk, Progress, Rejections, Settings, Summary, score};
use crate::dataset::{Dataset, Place, Record};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::Model;

/// How records are cut into chunks.
pub struct Chunking<'a> {
    /// Chunk c holds the records numbered `[c · records, (c + 1) · records)`.
    pub records: u64,
    /// Whether a chunk is wanted, told its number and a digest of its records; others are read (to be counted) and dropped.
    pub keep: &'a (dyn Fn(u64, &blake3::Hash) -> Result<bool> + Sync),
}

impl Chunking<'_> {
    /// Chunks for jobs that care for no particular cut.
    pub fn any() -> Self {
        Self { records: 4096, keep: &|_, _| Ok(true) }
    }
}

/// A chunk as read.
pub(super) struct Read {
    pub(super) number: u64,
    pub(super) records: Vec<Record>,
    /// Where each record was.
    pub(super) places: Vec<Place>,
    pub(super) digest: blake3::Hash,
    bytes: u64,
}

/// What the reader hands over: a chunk, or an error met on the way (a bad record, or the end).
type Message = Result<Read>;

/// Runs `models` over `dataset` and hands each scored chunk to `sink`, in the order of the input. All models must share the first one's
/// tokenizer. Results do not depend on `settings`, nor on the number of threads.
///
/// # Errors
/// The first of: what the reader could not read (or a record it could not use, unless such are skipped), what the model could not run,
/// what the sink could not write, or the user's interrupt.
pub fn stream(
    models: &[&Model],
    dataset: Dataset,
    chunking: &Chunking<'_>,
    settings: &Settings,
    rejections: &mut Rejections,
    progress: &Progress,
    sink: &mut (dyn FnMut(Chunk) -> Result<()> + Send),
) -> Result<Summary> {
    let mut summary = Summary::default();
    thread::scope(|scope| {
        let (read_to, read) = sync_channel::<Message>(2);
        let (write_to, written) = sync_channel::<Chunk>(2);
        let reader = scope.spawn(move || read_chunks(dataset, chunking, &read_to));
        let writer = scope.spawn(move || written.iter().try_for_each(sink));
        let ran = run_chunks(models, read, settings, rejections, progress, &write_to, &mut summary);
        drop(write_to);
        let wrote = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        summary.numbered = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A writer that failed hung up on the runner: its error is the cause.
        wrote.and(ran)
    })?;
    summary.skipped = rejections.count();
    summary.seconds = progress.seconds();
    Ok(summary)
}

/// Parses records into chunks until the data ends or nobody listens; says how many record numbers there were.
fn read_chunks(mut dataset: Dataset, chunking: &Chunking<'_>, to: &SyncSender<Message>) -> u64 {
    let mut chunk = Building::new(0);
    loop {
        // A record that cannot be read has a number too, so a chunk may come out short, or empty.
        let number = dataset.next_index() / chunking.records;
        let next = dataset.next();
        if (next.is_none() || number != chunk.number) && dataset.next_index() > 0 {
            let full = std::mem::replace(&mut chunk, Building::new(number));
            if !full.send(chunking, dataset.bytes_read(), to) {
                break;
            }
        }
        match next {
            None => break,
            Some(Ok(record)) => chunk.push(record, dataset.place()),
            Some(Err(error)) => {
                if to.send(Err(error)).is_err() {
                    break;
                }
            }
        }
    }
    dataset.next_index()
}

/// A chunk being read.
struct Building {
    number: u64,
    records: Vec<Record>,
    places: Vec<Place>,
    hasher: blake3::Hasher,
}

impl Building {
    fn new(number: u64) -> Self {
        Self { number, records: Vec::new(), places: Vec::new(), hasher: blake3::Hasher::new() }
    }

    fn push(&mut self, record: Record, place: Place) {
        record.digest_into(&mut self.hasher);
        self.records.push(record);
        self.places.push(place);
    }

    /// Hands the chunk over if it is wanted. Whether anybody still listens.
    fn send(self, chunking: &Chunking<'_>, bytes: u64, to: &SyncSender<Message>) -> bool {
        let Self { number, records, places, hasher } = self;
        let digest = hasher.finalize();
        match (chunking.keep)(number, &digest) {
            Ok(true) => to.send(Ok(Read { number, records, places, digest, bytes })).is_ok(),
            Ok(false) => true,
            Err(error) => to.send(Err(error)).is_ok(),
        }
    }
}

fn run_chunks(
    models: &[&Model],
    read: Receiver<Message>,
    settings: &Settings,
    rejections: &mut Rejections,
    progress: &Progress,
    write_to: &SyncSender<Chunk>,
    summary: &mut Summary,
) -> Result<()> {
    for message in read {
        interrupt::check()?;
        match message {
            Err(error) => rejections.take(error)?,
            Ok(read) => {
                let bytes = read.bytes;
                let chunk = score::score(models, read, settings, rejections)?;
                summary.records += chunk.records.len() as u64;
                summary.tokens += chunk.tokens;
                summary.truncated += chunk.truncated;
                if write_to.send(chunk).is_err() {
                    return Err(Error::Interrupted);
                }
                progress.set(bytes, summary.records);
            }
        }
    }
    interrupt::check()
}
