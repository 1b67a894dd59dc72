//! The one runner: probes of many subjects packed together, their answers handed back in order.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::method::{Method, Options};
use super::probe::{Answer, Course, Mix, Point, Probe, Want};
use super::subject::{Scores, Sequence, Subject};
use crate::backend::{Fold, Path, Rows, Stage};
use crate::error::{Error, Result};
use crate::model::{Answers, Ask, Descent, Forward, Model, Probes, Reads};
use crate::tokens::{Masked, PackedBatch};

/// Scores of every subject, in their order, one for each of its objectives. `batch_tokens` is the budget of a
/// micro-batch, the device's own by default; it never changes the numbers. `done` is told of each probe that is
/// finished, from any thread; where it answers `false`, no further batch is begun.
///
/// # Errors
/// [`crate::Error::Usage`] where the method cannot be used on this model, as [`Method::check`] has it, or an objective
/// is of logits that a subject does not have; [`crate::Error::Interrupted`] where `done`
/// said so; what the device fails at.
pub fn explain(
    model: &Model,
    subjects: &[Subject<'_>],
    method: Method,
    options: &Options,
    batch_tokens: Option<usize>,
    done: &(dyn Fn(usize) -> bool + Sync),
) -> Result<Vec<Vec<Scores>>> {
    method.check(model, options)?;
    subjects.iter().try_for_each(|subject| subject.check(model))?;
    let mut courses =
        subjects.iter().map(|subject| method.course(model, subject, options)).collect::<Result<Vec<_>>>()?;
    let runner = Runner {
        network: model.network(),
        subjects,
        stage: options.stage,
        seed: options.seed,
        budget: batch_tokens.unwrap_or_else(|| model.network().batch_tokens()).max(1),
        done,
    };
    runner.run(&mut courses)?;
    let scores: Vec<Vec<Scores>> = courses.par_iter_mut().map(|course| course.finish()).collect();
    match subjects.iter().zip(&scores).find(|(_, scores)| !scores.iter().all(Scores::are_numbers)) {
        Some((subject, _)) => Err(Error::not_numbers(format_args!("record {}, in part or whole", subject.index))),
        None => Ok(scores),
    }
}

/// `z` of each probe, in their order: nothing else is asked. `done` is as for [`explain`].
pub(super) fn logits(
    model: &Model,
    probes: Vec<Probe>,
    batch_tokens: Option<usize>,
    done: &(dyn Fn(usize) -> bool + Sync),
) -> Result<Vec<Vec<f32>>> {
    let round: Vec<Asked> = probes.into_iter().map(|probe| Asked { subject: 0, probe }).collect();
    let runner = Runner {
        network: model.network(),
        subjects: &[],
        stage: Stage::default(),
        seed: 0,
        budget: batch_tokens.unwrap_or_else(|| model.network().batch_tokens()).max(1),
        done,
    };
    let logits: Vec<Vec<f32>> = runner.answers(&round)?.into_iter().map(|answer| answer.logits).collect();
    if logits.iter().flatten().all(|z| z.is_finite()) {
        Ok(logits)
    } else {
        Err(Error::not_numbers("a record that parts are taken from"))
    }
}

/// Batches handed to the network at a time, for each of its workers: so many that none waits long at the end, so few
/// that probes in hand take little memory.
const BATCHES_A_WORKER: usize = 32;

struct Runner<'a> {
    network: &'a dyn Forward,
    subjects: &'a [Subject<'a>],
    stage: Stage,
    seed: u64,
    budget: usize,
    done: &'a (dyn Fn(usize) -> bool + Sync),
}

fn descent(from: usize, mix: Mix, roots: Vec<Reads>) -> Descent {
    let [own, below] = mix.shares();
    Descent { from, own, below, roots }
}

/// Sequences laid end to end.
fn packed<'a>(sequences: impl Iterator<Item = &'a Sequence>) -> PackedBatch {
    let mut packed = PackedBatch { cu_seqlens: vec![0], ..PackedBatch::default() };
    for Sequence { ids, type_ids, positions } in sequences {
        packed.ids.extend_from_slice(ids);
        packed.type_ids.extend_from_slice(type_ids);
        packed.positions.extend_from_slice(positions);
        packed.cu_seqlens.push(packed.ids.len() as u32);
    }
    packed
}

/// Probes in which tokens are replaced, as the bits by which they differ: one text after another, each once.
fn masked<'a>(probes: impl Iterator<Item = &'a Probe>) -> Option<Masked> {
    let (mut masked, mut texts) = (Masked::default(), Vec::<&Arc<Sequence>>::new());
    for probe in probes {
        let (bits, stand_in) = probe.replaced.as_ref()?;
        if !texts.last().is_some_and(|last| Arc::ptr_eq(last, &probe.sequence)) {
            texts.push(&probe.sequence);
        }
        masked.of.push(texts.len() as u32 - 1);
        masked.bits.extend_from_slice(bits);
        masked.stand_in = *stand_in;
    }
    Some(Masked { texts: packed(texts.into_iter().map(|text| &**text)), ..masked })
}

/// A probe of a round, and whose it is.
struct Asked {
    subject: usize,
    probe: Probe,
}

impl Runner<'_> {
    /// Rounds, until no course asks anything more.
    fn run(&self, courses: &mut [Box<dyn Course>]) -> Result<()> {
        loop {
            let mut counts = Vec::with_capacity(courses.len());
            let mut round = Vec::new();
            for (subject, course) in courses.iter_mut().enumerate() {
                let probes = course.probes();
                counts.push(probes.len());
                round.extend(probes.into_iter().map(|probe| Asked { subject, probe }));
            }
            if round.is_empty() {
                return Ok(());
            }
            let mut answers = self.answers(&round)?.into_iter();
            for (course, count) in courses.iter_mut().zip(counts).filter(|(_, count)| *count > 0) {
                course.take(answers.by_ref().take(count).collect());
            }
        }
    }

    /// The answers to a round, in its order.
    fn answers(&self, round: &[Asked]) -> Result<Vec<Answer>> {
        let batches = self.pack(round);
        let mut answers = vec![Answer::default(); round.len()];
        for some in batches.chunks(BATCHES_A_WORKER * self.network.workers().max(1)) {
            let probes = some.iter().map(|batch| self.probes(round, batch)).collect();
            let found = self.network.probe(probes, &|place| (self.done)(some[place].len()))?;
            for (batch, found) in some.iter().zip(found) {
                self.unpack(round, batch, &found, &mut answers);
            }
        }
        Ok(answers)
    }

    /// Cuts a round into batches of at most the budget, each of probes that want the same and have as many objectives;
    /// longest first, so that those which finish last are short.
    fn pack(&self, round: &[Asked]) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..round.len()).collect();
        order.sort_by_key(|&i| (self.kind(&round[i]), Reverse(round[i].probe.sequence.ids.len()), i));
        let mut batches: Vec<Vec<usize>> = Vec::new();
        let mut tokens = 0;
        for i in order {
            let length = round[i].probe.sequence.ids.len();
            let fits = tokens + length <= self.budget;
            match batches.last_mut() {
                Some(batch) if fits && self.kind(&round[batch[0]]) == self.kind(&round[i]) => batch.push(i),
                _ => {
                    batches.push(vec![i]);
                    tokens = 0;
                }
            }
            tokens += length;
        }
        batches
    }

    /// What the probes of one batch must have in common. Those of one method read the same maps.
    fn kind(&self, asked: &Asked) -> (u8, usize, usize) {
        match asked.probe.want {
            Want::Logits => (0, usize::from(asked.probe.replaced.is_some()), 0),
            Want::Maps(..) => (1, 0, 0),
            Want::Rows(..) => (2, 0, self.subjects[asked.subject].objectives.len()),
            Want::Gradient(fold) => (3, fold as usize, self.subjects[asked.subject].objectives.len()),
            Want::GradientRows(..) => (4, 0, 0),
        }
    }

    fn probes(&self, round: &[Asked], batch: &[usize]) -> Probes {
        let probes = batch.iter().map(|&i| &round[i].probe);
        let masked = masked(probes.clone());
        let packed = masked.as_ref().map_or_else(|| packed(probes.map(|probe| &*probe.sequence)), Masked::lengths);
        // Texts that are only run, without tokens of theirs, are no subjects.
        let reads_of = |&i: &usize| self.subjects.get(round[i].subject)?.reads.clone();
        let reads = batch.iter().filter_map(reads_of).collect();
        Probes { batch: packed, masked, path: self.path(round, batch), ask: self.ask(round, batch), reads }
    }

    /// The paths of a batch, where any of its probes stands on one.
    fn path(&self, round: &[Asked], batch: &[usize]) -> Option<Path> {
        batch.iter().find(|&&i| round[i].probe.point.is_some())?;
        let mut path = Path { stage: self.stage, seed: self.seed, ..Path::default() };
        for Asked { subject, probe } in batch.iter().map(|&i| &round[i]) {
            match &probe.point {
                Some(Point { baseline, .. }) => path.baseline.extend_from_slice(baseline),
                None => path.baseline.resize(path.baseline.len() + probe.sequence.ids.len(), Path::ZERO),
            }
            let point = probe.point.as_ref();
            path.alpha.push(point.map_or(1.0, |point| point.alpha));
            path.sigma.push(point.map_or(0.0, |point| point.sigma));
            path.draws.push([point.map_or(0, |point| point.sample), self.subjects[*subject].draw]);
        }
        Some(path)
    }

    fn ask(&self, round: &[Asked], batch: &[usize]) -> Ask {
        let objectives = |i: &usize| &self.subjects[round[*i].subject].objectives;
        let roots = |i: &usize, target: usize| self.subjects[round[*i].subject].roots(&objectives(i)[target]);
        match round[batch[0]].probe.want {
            Want::Logits => Ask::Outputs,
            Want::Maps(kind, from) => Ask::Maps(kind, from),
            Want::Gradient(fold) => {
                let targets = 0..objectives(&batch[0]).len();
                let objectives = targets.flat_map(|target| batch.iter().map(move |i| objectives(i)[target].clone()));
                Ask::Gradient(objectives.collect(), fold)
            }
            Want::Rows(kind, from, mix) => {
                let targets = 0..objectives(&batch[0]).len();
                let roots = targets.flat_map(|target| batch.iter().map(move |i| roots(i, target)));
                Ask::Rows(kind, descent(from, mix, roots.collect()))
            }
            Want::GradientRows(_, from, mix) => {
                let target = |i: &usize| match round[*i].probe.want {
                    Want::GradientRows(target, ..) => target,
                    _ => 0,
                };
                let own = batch.iter().map(|i| objectives(i)[target(i)].clone()).collect();
                let roots = batch.iter().map(|i| roots(i, target(i))).collect();
                Ask::GradientRows(own, descent(from, mix, roots))
            }
        }
    }

    /// Each probe's part of what came of its batch.
    fn unpack(&self, round: &[Asked], batch: &[usize], found: &Answers, answers: &mut [Answer]) {
        let lengths: Vec<usize> = batch.iter().map(|&i| round[i].probe.sequence.ids.len()).collect();
        let tokens: usize = lengths.iter().sum();
        let rows = |i: usize| self.subjects.get(round[i].subject).map_or(1, Subject::rows);
        let classes = found.outputs.logits.len() / batch.iter().map(|&i| rows(i)).sum::<usize>().max(1);
        let width = match round[batch[0]].probe.want {
            Want::Gradient(Fold::Whole) => self.network.embedding_width(),
            _ => 1,
        };
        let (mut token, mut pairs, mut row) = (0, 0, 0);
        for (&i, &length) in batch.iter().zip(&lengths) {
            let own = |target: &[f32]| target[token * width..(token + length) * width].to_vec();
            answers[i] = Answer {
                logits: found.outputs.logits[row * classes..(row + rows(i)) * classes].to_vec(),
                folded: found.folded.chunks_exact((tokens * width).max(1)).map(own).collect(),
                maps: self.maps(found, token..token + length, pairs),
            };
            token += length;
            row += rows(i);
            pairs += length * length;
        }
    }

    /// The maps of the sequence at `tokens` of its batch, with `pairs` pairs of tokens before it. The last layer's may
    /// have first tokens' rows alone.
    fn maps(&self, found: &Answers, tokens: Range<usize>, pairs: usize) -> Vec<Vec<f32>> {
        let length = tokens.len();
        let last = found.maps.len().saturating_sub(1);
        let part = |(layer, map): (usize, &Vec<f32>)| {
            let first_only = layer == last && self.network.last_rows() == Rows::First;
            if first_only { map[tokens.clone()].to_vec() } else { map[pairs..pairs + length * length].to_vec() }
        };
        found.maps.iter().enumerate().map(part).collect()
    }
}
