//! A batch taken apart, and answers put together again: results do not depend on the mixing. In halves where a device
//! had no room for it whole, sequence by sequence where some are to be run again.

use std::ops::Range;

use super::{Answers, Ask, Descent, Outputs, Probes};
use crate::backend::Path;
use crate::tokens::{Masked, PackedBatch};

impl Probes {
    /// The first half of the sequences, and the rest. `None` where there is but one.
    pub(super) fn halves(&self) -> Option<[Self; 2]> {
        let sequences = self.batch.sequences();
        let middle = sequences / 2;
        (sequences > 1).then(|| [self.part(0, middle), self.part(middle, sequences)])
    }

    /// One sequence by itself.
    pub(super) fn one(&self, sequence: usize) -> Self {
        self.part(sequence, sequence + 1)
    }

    /// The sequences from `begin` to before `end`.
    fn part(&self, begin: usize, end: usize) -> Self {
        let sequences = self.batch.sequences();
        let objectives_of = |objectives| of_each_target(objectives, sequences, begin..end);
        let descent_of =
            |descent: &Descent| Descent { roots: of_each_target(&descent.roots, sequences, begin..end), ..*descent };
        let ask = match &self.ask {
            Ask::Gradient(objectives, fold) => Ask::Gradient(objectives_of(objectives), *fold),
            Ask::Rows(kind, descent) => Ask::Rows(*kind, descent_of(descent)),
            Ask::GradientRows(objectives, descent) => Ask::GradientRows(objectives_of(objectives), descent_of(descent)),
            same @ (Ask::Outputs | Ask::Maps(..)) => same.clone(),
        };
        let tokens = self.batch.cu_seqlens[begin] as usize..self.batch.cu_seqlens[end] as usize;
        let path = self.path.as_ref().map(|path| Path {
            baseline: path.baseline[tokens].to_vec(),
            alpha: path.alpha[begin..end].to_vec(),
            sigma: path.sigma[begin..end].to_vec(),
            draws: path.draws[begin..end].to_vec(),
            ..*path
        });
        let reads = self.reads.get(begin..end).unwrap_or_default().to_vec();
        let masked = self.masked.as_ref().map(|masked| masked.part(begin, end));
        let batch = masked.as_ref().map_or_else(|| self.batch.part(begin..end), Masked::lengths);
        Self { batch, masked, path, ask, reads }
    }

    /// How many numbers, or rows of them, there are a token: one a target.
    fn targets(&self) -> usize {
        let all = match &self.ask {
            Ask::Gradient(objectives, _) => objectives.len(),
            Ask::Rows(_, descent) | Ask::GradientRows(_, descent) => descent.roots.len(),
            Ask::Outputs | Ask::Maps(..) => 0,
        };
        all / self.batch.sequences().max(1)
    }

    /// The answer to these, from those to their halves.
    pub(super) fn joined(&self, [first, second]: [Answers; 2]) -> Answers {
        let outputs = Outputs {
            features: [first.outputs.features, second.outputs.features].concat(),
            logits: [first.outputs.logits, second.outputs.logits].concat(),
        };
        let layers = first.maps.into_iter().zip(second.maps);
        let maps = layers.map(|(first, second)| [first, second].concat()).collect();
        Answers { outputs, folded: interleaved(&first.folded, &second.folded, self.targets()), maps }
    }
}

impl Answers {
    /// Every number that is one sequence's own: features, logits, folded gradients of each target, maps of each layer.
    pub(super) fn of_sequence(&mut self, probes: &Probes, sequence: usize) -> Vec<&mut [f32]> {
        let (batch, targets) = (&probes.batch, probes.targets());
        let sequences = batch.sequences();
        let mut pieces = Vec::new();
        let before: usize = (0..sequence).map(|before| probes.rows(before)).sum();
        let rows = (0..sequences).map(|sequence| probes.rows(sequence)).sum::<usize>().max(1);
        for values in [&mut self.outputs.features, &mut self.outputs.logits] {
            let width = values.len() / rows;
            pieces.push(&mut values[before * width..(before + probes.rows(sequence)) * width]);
        }
        let tokens = batch.range(sequence);
        let of_target = (self.folded.len() / targets.max(1)).max(1);
        for target in self.folded.chunks_mut(of_target) {
            let width = target.len() / batch.tokens();
            pieces.push(&mut target[tokens.start * width..tokens.end * width]);
        }
        for layer in &mut self.maps {
            pieces.push(map_of(layer, batch, sequence));
        }
        pieces
    }
}

/// Of each target's `sequences`, those in `range`.
fn of_each_target<T: Clone>(all: &[T], sequences: usize, range: Range<usize>) -> Vec<T> {
    all.chunks_exact(sequences).flat_map(|target| target[range.clone()].to_vec()).collect()
}

/// One sequence's part of a layer's map: a row for each of its tokens, or for the first alone.
fn map_of<'a>(layer: &'a mut [f32], batch: &PackedBatch, sequence: usize) -> &'a mut [f32] {
    let length = |sequence: usize| batch.range(sequence).len();
    if layer.len() == batch.tokens() {
        return &mut layer[batch.range(sequence)];
    }
    let start: usize = (0..sequence).map(|before| length(before) * length(before)).sum();
    &mut layer[start..start + length(sequence) * length(sequence)]
}

/// For each target, the first half's numbers and then the second's.
fn interleaved(first: &[f32], second: &[f32], targets: usize) -> Vec<f32> {
    let part = |all: &[f32], target: usize| all[target * all.len() / targets..][..all.len() / targets].to_vec();
    (0..targets).flat_map(|target| [part(first, target), part(second, target)]).flatten().collect()
}
