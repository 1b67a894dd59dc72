//! An encoder and its head on a device: batches in, answers out, as many at a time as the device has workers.

use std::any::Any;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rayon::prelude::*;

use super::config::Config;
use super::encoder::{Encoder, Maps, Pass, Wanted, Workspace};
use super::head::Head;
use super::queue::Queue;
use super::token_head::{Said, Seeds};
use super::workspaces::{Turn, Workspaces};
use super::{Answers, Ask, Forward, Outputs, Probes};
use crate::backend::gpu::Gpu;
use crate::backend::{Backend, Fold, Objective, Path, Precision, Rows};
use crate::error::{Error, Result};
use crate::tokens::{Masked, PackedBatch};

/// A whole model on a device.
pub(super) struct Network<B: Backend> {
    backend: B,
    encoder: Encoder<B>,
    head: Head<B>,
    limits: Limits,
    /// Tokens the device has room for, from what is free when the model is loaded; fewer than any batch it had none
    /// for.
    room: AtomicUsize,
    workspaces: Workspaces<B>,
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
        let limits = Limits { vocabulary, positions, token_types };
        let room = backend.room(Workspace::numbers_a_token(&encoder, head.classes()));
        Self { backend, encoder, head, limits, room: AtomicUsize::new(room), workspaces: Workspaces::new() }
    }

    /// One batch; in halves where the device has no room for it whole.
    fn run(&self, probes: &Probes) -> Result<Answers> {
        self.limits.check(probes)?;
        let tokens = probes.batch.tokens();
        if tokens <= self.room.load(Ordering::Relaxed) {
            match self.run_whole(probes.clone()) {
                Err(Error::OutOfMemory(..)) => self.make_room(tokens),
                answer => return answer,
            }
        }
        match probes.halves() {
            Some([first, second]) => Ok(probes.joined([self.run(&first)?, self.run(&second)?])),
            None => self.run_alone(probes),
        }
    }

    /// One sequence; where the device has no room for it beside other passes, once they have ended.
    fn run_alone(&self, probes: &Probes) -> Result<Answers> {
        match self.run_whole(probes.clone()) {
            Err(Error::OutOfMemory(..)) => self.run_in_turn(self.workspaces.begin_alone(), probes.clone()),
            answer => answer,
        }
    }

    /// Lets go of workspaces, and notes that there was no room for so many tokens.
    fn make_room(&self, tokens: usize) {
        self.room.fetch_min(tokens - 1, Ordering::Relaxed);
        self.workspaces.clear();
    }

    /// One batch, in a workspace of its own while it runs.
    fn run_whole(&self, probes: Probes) -> Result<Answers> {
        if probes.batch.sequences() == 0 {
            return Ok(Answers::default());
        }
        self.run_in_turn(self.workspaces.begin(), probes)
    }

    fn run_in_turn(&self, mut turn: Turn<'_, B>, probes: Probes) -> Result<Answers> {
        let keep = matches!(probes.ask, Ask::Gradient(..) | Ask::GradientRows(..));
        let mut space = self.space(turn.space.take(), probes.batch.tokens(), keep)?;
        let answers = self.run_in(&mut space, probes, keep)?;
        turn.space = Some(space);
        Ok(answers)
    }

    /// A workspace for so many tokens, and for a way back where there will be one: the one that was kept, where it is
    /// large enough. Else that is let go of, and the new one is half as large again, so that slowly growing batches do
    /// not allocate each time.
    fn space(&self, kept: Option<Workspace<B>>, tokens: usize, back: bool) -> Result<Workspace<B>> {
        let (mut enough, mut back) = (tokens, back);
        if let Some(kept) = kept {
            if kept.takes(tokens, back) {
                return Ok(kept);
            }
            (enough, back) = (kept.grown(tokens), back || kept.goes_back());
        }
        Workspace::new(&self.backend, &self.encoder, self.head.kept_classes(), enough, back)
    }

    fn run_in(&self, space: &mut Workspace<B>, probes: Probes, keep: bool) -> Result<Answers> {
        let Probes { batch, masked, path, ask, reads } = probes;
        let (backend, tokens, sequences) = (&self.backend, batch.tokens(), batch.sequences());
        let mut maps = match &ask {
            Ask::Maps(kind, from) => Maps::new(Wanted::Forward(*kind), *from, &batch),
            Ask::Rows(kind, descent) => Maps::new(Wanted::Forward(*kind), descent.from, &batch),
            Ask::GradientRows(_, descent) => Maps::new(Wanted::Gradient, descent.from, &batch),
            Ask::Outputs | Ask::Gradient(..) => Maps::none(),
        };
        let picks = self.head.picks(&batch, &reads)?;
        let batch = match masked {
            Some(masked) => backend.stage_masked(masked)?,
            None => backend.stage(batch)?,
        };
        let path = path.map(|path| backend.stage_path(path)).transpose()?;
        let mut pass = Pass { backend, space, batch: &batch, path: path.as_ref(), tokens, sequences, keep };
        {
            let _turn = backend.turn();
            self.encoder.forward(&mut pass, &mut maps)?;
        }
        let said = self.head.forward(&mut pass, self.encoder.width(), picks)?;
        let folded = match &ask {
            Ask::Gradient(objectives, fold) => self.gradients(&mut pass, &said, objectives, *fold)?,
            Ask::Rows(_, descent) => maps.follow(&pass, descent, &Seeds::default())?,
            Ask::GradientRows(objectives, descent) => {
                let seeds = self.head.backward(&mut pass, &said, objectives)?;
                self.encoder.backward(&mut pass, &mut maps)?;
                maps.follow(&pass, descent, &seeds)?
            }
            Ask::Outputs | Ask::Maps(..) => Vec::new(),
        };
        let maps = if matches!(ask, Ask::Maps(..)) { maps.fetch(backend)? } else { Vec::new() };
        Ok(Answers { outputs: said.outputs, folded, maps })
    }

    /// One way back for each target.
    fn gradients(
        &self,
        pass: &mut Pass<'_, B>,
        said: &Said<B>,
        objectives: &[Objective],
        fold: Fold,
    ) -> Result<Vec<f32>> {
        let mut folded = Vec::new();
        for target in objectives.chunks_exact(pass.sequences) {
            let seeds = self.head.backward(pass, said, target)?;
            {
                let _turn = self.backend.turn();
                self.encoder.backward(pass, &mut Maps::none())?;
            }
            let mut values = self.encoder.fold(pass, fold)?;
            seeds.divide(&mut values);
            folded.extend(values);
        }
        Ok(folded)
    }
}

impl<B: Backend> Forward for Network<B> {
    fn device(&self) -> (String, Precision) {
        (self.backend.name(), self.backend.precision())
    }

    fn gpus(&self) -> Vec<&Gpu> {
        (&self.backend as &dyn Any).downcast_ref().into_iter().collect()
    }

    fn width(&self) -> usize {
        self.head.width().unwrap_or_else(|| self.encoder.width())
    }

    fn classes(&self) -> usize {
        self.head.classes()
    }

    fn workers(&self) -> usize {
        self.backend.workers()
    }

    fn batch_tokens(&self) -> usize {
        self.backend.batch_tokens().min(self.room.load(Ordering::Relaxed)).max(1)
    }

    fn depth(&self) -> usize {
        self.encoder.depth()
    }

    fn embedding_width(&self) -> usize {
        self.encoder.embedding_width()
    }

    fn last_rows(&self) -> Rows {
        self.head.rows()
    }

    fn forward(&self, batches: Vec<PackedBatch>, done: &(dyn Fn(usize) -> bool + Sync)) -> Result<Vec<Outputs>> {
        let plain = batches.into_iter().map(Probes::plain).collect();
        Ok(self.probe(plain, done)?.into_iter().map(|answers| answers.outputs).collect())
    }

    fn probe(&self, batches: Vec<Probes>, done: &(dyn Fn(usize) -> bool + Sync)) -> Result<Vec<Answers>> {
        let workers = self.workers().clamp(1, batches.len().max(1));
        let queue = Queue::new(batches, done);
        let work = || queue.work(|probes| self.run(&probes));
        let finished: Vec<_> = if workers == 1 {
            vec![work()]
        } else if self.gpus().is_empty() {
            (0..workers).into_par_iter().with_max_len(1).map(|_| work()).collect()
        } else {
            // Those that wait for a GPU are threads of their own: among others' work (the next texts are tokenized
            // meanwhile) they would begin last.
            thread::scope(|scope| {
                let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
            })
        };
        queue.answers(finished)
    }
}

impl Limits {
    /// Refuses what would look outside a table. Batches of this crate's own tokenizer and packer pass; others' may not.
    fn check(self, probes: &Probes) -> Result<()> {
        let batch = &probes.batch;
        match &probes.masked {
            Some(masked) => self.check_masked(masked, probes)?,
            None => self.check_batch(batch)?,
        }
        if probes.reads.iter().enumerate().any(|(b, reads)| !reads_within(reads, batch, b)) {
            return Err(Error::usage("reads: expected tokens of the sequence, ascending"));
        }
        if let Some(path) = &probes.path {
            path.check(batch.tokens(), batch.sequences())?;
            let baseline = path.baseline.iter().copied().filter(|id| *id != Path::ZERO);
            below("baseline token id", &baseline.collect::<Vec<_>>(), self.vocabulary)?;
        }
        Ok(())
    }

    fn check_masked(self, masked: &Masked, probes: &Probes) -> Result<()> {
        self.check_batch(&masked.texts)?;
        below("token id", &[masked.stand_in], self.vocabulary)?;
        let of_texts = masked.of.iter().all(|&text| (text as usize) < masked.texts.sequences());
        let words = || masked.word_starts().last().is_some_and(|end| *end as usize == masked.bits.len());
        if !of_texts || !words() || probes.path.is_some() || probes.batch != masked.lengths() {
            return Err(Error::usage("masks: expected a bit for each token of texts of the batch, on no path"));
        }
        Ok(())
    }

    fn check_batch(self, batch: &PackedBatch) -> Result<()> {
        let lengths = [batch.ids.len(), batch.type_ids.len(), batch.positions.len()];
        let starts = batch.cu_seqlens.first().is_none_or(|start| *start == 0);
        if lengths != [batch.tokens(); 3] || !starts || !batch.cu_seqlens.is_sorted_by(|a, b| a < b) {
            return Err(Error::usage("batch: expected sequences of at least one token, laid end to end"));
        }
        below("token id", &batch.ids, self.vocabulary)?;
        below("position", &batch.positions, self.positions)?;
        if self.token_types == 0 { Ok(()) } else { below("segment", &batch.type_ids, self.token_types) }
    }
}

fn reads_within(reads: &[u32], batch: &PackedBatch, sequence: usize) -> bool {
    sequence < batch.sequences()
        && reads.is_sorted_by(|a, b| a < b)
        && reads.last().is_none_or(|last| (*last as usize) < batch.range(sequence).len())
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
