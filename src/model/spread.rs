//! One model on several devices of a kind: each takes the next batch when it has done one, so that none waits for
//! another.
//!
//! A batch's answers are the same on each, so which takes which shows in nothing.

use std::thread;

use super::queue::Queue;
use super::{Answers, Forward, Outputs, Probes};
use crate::backend::gpu::Gpu;
use crate::backend::{Precision, Rows};
use crate::error::Result;
use crate::tokens::PackedBatch;

/// The same network on each device.
pub(super) struct Spread(Vec<Box<dyn Forward>>);

impl Spread {
    /// # Panics
    /// Where there is none.
    pub(super) fn new(networks: Vec<Box<dyn Forward>>) -> Self {
        assert!(!networks.is_empty(), "a model runs somewhere");
        Self(networks)
    }

    fn first(&self) -> &dyn Forward {
        &*self.0[0]
    }
}

impl Forward for Spread {
    /// All of them: `cuda:0 (NVIDIA H100, 9.0) + cuda:1 (NVIDIA H100, 9.0)`.
    fn device(&self) -> (String, Precision) {
        let names: Vec<String> = self.0.iter().map(|network| network.device().0).collect();
        (names.join(" + "), self.first().device().1)
    }

    fn gpus(&self) -> Vec<&Gpu> {
        self.0.iter().flat_map(|network| network.gpus()).collect()
    }

    fn run_again(&self) -> u64 {
        self.0.iter().map(|network| network.run_again()).sum()
    }

    fn width(&self) -> usize {
        self.first().width()
    }

    fn classes(&self) -> usize {
        self.first().classes()
    }

    fn workers(&self) -> usize {
        self.0.iter().map(|network| network.workers()).sum()
    }

    fn batch_tokens(&self) -> usize {
        self.0.iter().map(|network| network.batch_tokens()).min().unwrap_or_default()
    }

    fn forward(&self, batches: Vec<PackedBatch>, done: &(dyn Fn(usize) -> bool + Sync)) -> Result<Vec<Outputs>> {
        let plain = batches.into_iter().map(Probes::plain).collect();
        Ok(self.probe(plain, done)?.into_iter().map(|answers| answers.outputs).collect())
    }

    /// As many threads as all devices have workers, each handing one batch at a time to its own device.
    fn probe(&self, batches: Vec<Probes>, done: &(dyn Fn(usize) -> bool + Sync)) -> Result<Vec<Answers>> {
        let queue = Queue::new(batches, done);
        let one = |network: &dyn Forward, probes: Probes| {
            let answers = network.probe(vec![probes], &|_| true)?;
            Ok(answers.into_iter().next().unwrap_or_default())
        };
        let (queue_of_all, one) = (&queue, &one);
        let finished = thread::scope(|scope| {
            let workers = self.0.iter().flat_map(|network| vec![&**network; network.workers().max(1)]);
            let threads: Vec<_> =
                workers.map(|network| scope.spawn(move || queue_of_all.work(|probes| one(network, probes)))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a worker does not panic")).collect()
        });
        queue.answers(finished)
    }

    fn depth(&self) -> usize {
        self.first().depth()
    }

    fn embedding_width(&self) -> usize {
        self.first().embedding_width()
    }

    fn last_rows(&self) -> Rows {
        self.first().last_rows()
    }
}
