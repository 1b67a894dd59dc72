//! An encoder and its head on a device: batches in, features and logits out, as many at a time as the device has workers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::config::Config;
use super::encoder::{Encoder, Pass, Workspace};
use super::head::Head;
use super::{Forward, Outputs};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::tokens::PackedBatch;

/// A whole model on a device.
pub(super) struct Network<B: Backend> {
    backend: B,
    encoder: Encoder<B>,
    head: Head<B>,
    limits: Limits,
    /// Workspaces nobody is using; there come to be as many as there were ever passes at the same time.
    idle: Mutex<Vec<Workspace<B>>>,
}

/// How large the embedding tables are: what a batch may ask them for.
#[derive(Clone, Copy)]
struct Limits {
    vocabulary: usize,
    positions: usize,
    /// 0 where segments are not looked up.
    token_types: usize,
}

impl<B: Backend> Network<B> {
    pub(super) fn new(backend: B, encoder: Encoder<B>, head: Head<B>, config: &Config) -> Self {
        let Config { vocabulary, positions, token_types, .. } = *config;
        Self { backend, encoder, head, limits: Limits { vocabulary, positions, token_types }, idle: Mutex::default() }
    }

    /// One batch, in a workspace of its own while it runs.
    fn run(&self, batch: PackedBatch) -> Result<Outputs> {
        self.limits.check(&batch)?;
        let (tokens, sequences) = (batch.tokens(), batch.sequences());
        if sequences == 0 {
            return Ok(Outputs::default());
        }
        let idle = lock(&self.idle).pop();
        let mut space = match idle {
            Some(space) => space,
            None => Workspace::new(&self.backend, &self.encoder, self.head.classes(), tokens)?,
        };
        let batch = self.backend.stage(batch)?;
        let mut pass = Pass { backend: &self.backend, space: &mut space, batch: &batch, tokens, sequences };
        self.encoder.forward(&mut pass)?;
        let outputs = self.head.forward(&mut pass, self.encoder.width());
        lock(&self.idle).push(space);
        outputs
    }

    /// Takes batches from the queue until it is empty. What stops one worker empties the queue for all.
    fn work(&self, queue: &Queue, done: &(dyn Fn(usize) -> bool + Sync)) -> Result<Vec<(usize, Outputs)>> {
        let mut finished = Vec::new();
        while let Some((place, batch)) = queue.next() {
            match self.run(batch) {
                Ok(outputs) => finished.push((place, outputs)),
                Err(error) => {
                    queue.close();
                    return Err(error);
                }
            }
            if !done(place) {
                queue.close();
                return Err(Error::Interrupted);
            }
        }
        Ok(finished)
    }
}

impl<B: Backend> Forward for Network<B> {
    fn width(&self) -> usize {
        self.encoder.width()
    }

    fn classes(&self) -> usize {
        self.head.classes()
    }

    fn workers(&self) -> usize {
        self.backend.workers()
    }

    fn batch_tokens(&self) -> usize {
        self.backend.batch_tokens()
    }

    fn forward(&self, batches: Vec<PackedBatch>, done: &(dyn Fn(usize) -> bool + Sync)) -> Result<Vec<Outputs>> {
        let mut outputs = vec![Outputs::default(); batches.len()];
        let workers = self.workers().clamp(1, batches.len().max(1));
        let queue = Queue::new(batches);
        let finished: Vec<_> = if workers == 1 {
            vec![self.work(&queue, done)]
        } else {
            (0..workers).into_par_iter().with_max_len(1).map(|_| self.work(&queue, done)).collect()
        };
        for worker in finished {
            for (place, output) in worker? {
                outputs[place] = output;
            }
        }
        Ok(outputs)
    }
}

impl Limits {
    /// Refuses what would look outside a table. Batches of this crate's own tokenizer and packer pass; others' may not.
    fn check(self, batch: &PackedBatch) -> Result<()> {
        let tokens = batch.tokens();
        let lengths =
            [batch.type_ids.len(), batch.positions.len(), batch.cu_seqlens.last().map_or(0, |end| *end as usize)];
        let starts = batch.cu_seqlens.first().is_none_or(|start| *start == 0);
        if lengths != [tokens; 3] || !starts || !batch.cu_seqlens.is_sorted_by(|a, b| a < b) {
            return Err(Error::usage("batch: expected sequences of at least one token, laid end to end"));
        }
        below("token id", &batch.ids, self.vocabulary)?;
        below("position", &batch.positions, self.positions)?;
        if self.token_types == 0 { Ok(()) } else { below("segment", &batch.type_ids, self.token_types) }
    }
}

fn below(what: &str, values: &[u32], limit: usize) -> Result<()> {
    match values.iter().find(|value| **value as usize >= limit) {
        None => Ok(()),
        Some(value) => Err(Error::Mismatch(
            format!("{what} {value}: expected below {limit}, the model's own"),
            Some("the tokenizer is of another model than the weights".to_owned()),
        )),
    }
}

/// Batches not begun, with their places.
struct Queue(Mutex<std::iter::Enumerate<std::vec::IntoIter<PackedBatch>>>);

impl Queue {
    fn new(batches: Vec<PackedBatch>) -> Self {
        Self(Mutex::new(batches.into_iter().enumerate()))
    }

    fn next(&self) -> Option<(usize, PackedBatch)> {
        lock(&self.0).next()
    }

    /// Gives up what is left.
    fn close(&self) {
        lock(&self.0).by_ref().for_each(drop);
    }
}

/// What these locks guard is never left half-changed, whatever a thread died of.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
