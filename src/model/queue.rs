//! Batches waiting for a device, and their answers in order.

use std::sync::Mutex;

use super::{Answers, Probes};
use crate::error::{Error, Result};
use crate::sync::lock;

/// Batches of which some are not begun.
pub(super) struct Queue<'a> {
    waiting: Mutex<std::iter::Enumerate<std::vec::IntoIter<Probes>>>,
    batches: usize,
    /// Told of each that is finished; `false` ends it all.
    done: &'a (dyn Fn(usize) -> bool + Sync),
}

/// Answers, and whose they are.
pub(super) type Finished = Vec<(usize, Answers)>;

impl<'a> Queue<'a> {
    pub(super) fn new(batches: Vec<Probes>, done: &'a (dyn Fn(usize) -> bool + Sync)) -> Self {
        Self { batches: batches.len(), waiting: Mutex::new(batches.into_iter().enumerate()), done }
    }

    /// A worker: takes batches until there are none. What stops one worker empties the queue for all.
    pub(super) fn work(&self, run: impl Fn(Probes) -> Result<Answers>) -> Result<Finished> {
        let mut finished = Vec::new();
        while let Some((place, probes)) = self.next() {
            match run(probes) {
                Ok(answers) => finished.push((place, answers)),
                Err(error) => {
                    self.close();
                    return Err(error);
                }
            }
            if !(self.done)(place) {
                self.close();
                return Err(Error::Interrupted);
            }
        }
        Ok(finished)
    }

    /// What all workers finished, in the batches' order.
    pub(super) fn answers(&self, workers: Vec<Result<Finished>>) -> Result<Vec<Answers>> {
        let mut answers = vec![Answers::default(); self.batches];
        for worker in workers {
            for (place, answer) in worker? {
                answers[place] = answer;
            }
        }
        Ok(answers)
    }

    fn next(&self) -> Option<(usize, Probes)> {
        lock(&self.waiting).next()
    }

    /// Gives up what is left.
    fn close(&self) {
        lock(&self.waiting).by_ref().for_each(drop);
    }
}
