//! A network whose numbers overflow early, and behind it the same in a precision that holds more: f16 and bf16.
//!
//! A sequence of which anything comes out infinite or no number is run again by itself. That is decided from its own
//! numbers alone, so that a record's results do not depend on its neighbours, nor theirs on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use super::{Answers, Forward, Outputs, Probes};
use crate::backend::gpu::Gpu;
use crate::backend::{Precision, Rows};
use crate::error::{Error, Result};
use crate::sync::lock;
use crate::tokens::PackedBatch;

/// A network that is opened when it is first needed.
pub(super) struct Behind<T: ?Sized> {
    opened: OnceLock<Box<T>>,
    open: Mutex<Option<Open<T>>>,
}

/// Opens it.
pub(super) type Open<T> = Box<dyn FnOnce() -> Result<Box<T>> + Send>;

impl<T: ?Sized> Behind<T> {
    pub(super) fn new(open: Open<T>) -> Self {
        Self { opened: OnceLock::new(), open: Mutex::new(Some(open)) }
    }

    pub(super) fn get(&self) -> Result<&T> {
        // Held while it is opened: another caller waits for it.
        let mut open = lock(&self.open);
        if let Some(open) = open.take() {
            let wide = open()?;
            return Ok(&**self.opened.get_or_init(|| wide));
        }
        self.opened.get().map(|wide| &**wide).ok_or_else(|| Error::usage("the wider network could not be opened"))
    }
}

/// Both networks.
pub(super) struct Widening {
    narrow: Box<dyn Forward>,
    wide: Behind<dyn Forward>,
    /// Sequences that were run again.
    again: AtomicU64,
}

/// A sequence that overflowed: its batch, its place there, and what was asked of it.
struct Overflowed {
    batch: usize,
    sequence: usize,
    probes: Probes,
}

impl Widening {
    pub(super) fn new(narrow: Box<dyn Forward>, open: Open<dyn Forward>) -> Self {
        Self { narrow, wide: Behind::new(open), again: AtomicU64::new(0) }
    }

    /// Runs what overflowed again, each by itself, and puts the answers in their places.
    fn rescue(&self, batches: &[Probes], answers: &mut [Answers]) -> Result<()> {
        let overflowed = overflowed(batches, answers);
        if overflowed.is_empty() {
            return Ok(());
        }
        self.again.fetch_add(overflowed.len() as u64, Ordering::Relaxed);
        let alone = overflowed.iter().map(|one| one.probes.clone()).collect();
        let rescued = self.wide.get()?.probe(alone, &|_| true)?;
        for (one, mut rescued) in overflowed.iter().zip(rescued) {
            let to = answers[one.batch].of_sequence(&batches[one.batch], one.sequence);
            let from = rescued.of_sequence(&one.probes, 0);
            to.into_iter().zip(from).for_each(|(to, from)| to.copy_from_slice(from));
        }
        Ok(())
    }
}

fn overflowed(batches: &[Probes], answers: &mut [Answers]) -> Vec<Overflowed> {
    let mut found = Vec::new();
    for (batch, (probes, answers)) in batches.iter().zip(answers).enumerate() {
        for sequence in 0..probes.batch.sequences() {
            let pieces = answers.of_sequence(probes, sequence);
            if pieces.iter().any(|piece| piece.iter().any(|x| !x.is_finite())) {
                found.push(Overflowed { batch, sequence, probes: probes.one(sequence) });
            }
        }
    }
    found
}

impl Forward for Widening {
    fn device(&self) -> (String, Precision) {
        self.narrow.device()
    }

    fn gpus(&self) -> Vec<&Gpu> {
        self.narrow.gpus()
    }

    fn run_again(&self) -> u64 {
        self.again.load(Ordering::Relaxed)
    }

    fn width(&self) -> usize {
        self.narrow.width()
    }

    fn classes(&self) -> usize {
        self.narrow.classes()
    }

    fn workers(&self) -> usize {
        self.narrow.workers()
    }

    fn batch_tokens(&self) -> usize {
        self.narrow.batch_tokens()
    }

    fn forward(&self, batches: Vec<PackedBatch>, done: &(dyn Fn(usize) -> bool + Sync)) -> Result<Vec<Outputs>> {
        let plain = batches.into_iter().map(Probes::plain).collect();
        Ok(self.probe(plain, done)?.into_iter().map(|answers| answers.outputs).collect())
    }

    fn probe(&self, batches: Vec<Probes>, done: &(dyn Fn(usize) -> bool + Sync)) -> Result<Vec<Answers>> {
        let mut answers = self.narrow.probe(batches.clone(), done)?;
        self.rescue(&batches, &mut answers)?;
        Ok(answers)
    }

    fn depth(&self) -> usize {
        self.narrow.depth()
    }

    fn embedding_width(&self) -> usize {
        self.narrow.embedding_width()
    }

    fn last_rows(&self) -> Rows {
        self.narrow.last_rows()
    }
}
