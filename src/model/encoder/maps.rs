//! Attention maps picked up on a pass's way. They stay on the device, where rows are followed down through them; only
//! whole maps come to the host.

use super::Pass;
use crate::backend::{Attended, AttentionMap, Backend, Rows, Step};
use crate::error::Result;
use crate::model::token_head::Seeds;
use crate::model::{Descent, MapKind, Reads};
use crate::tokens::PackedBatch;

/// Which maps a pass is asked for, and those it has come past.
pub(in crate::model) struct Maps<B: Backend> {
    wanted: Option<Wanted>,
    /// The first layer whose map is wanted.
    from: usize,
    /// Pairs of tokens of the batch: all of them, and those of first tokens.
    pairs: [usize; 2],
    /// Where each sequence begins.
    starts: Vec<u32>,
    /// From the first wanted layer on.
    layers: Vec<Map<B>>,
}

/// On which way maps are picked up, and what they are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Wanted {
    /// On the way forward.
    Forward(MapKind),
    /// On the way back: weights and their gradients.
    Gradient,
}

/// A layer's, as [`Backend::attention_map`] lays it out.
struct Map<B: Backend> {
    tensor: B::Tensor,
    queries: Rows,
}

impl<B: Backend> Maps<B> {
    /// No maps.
    pub(in crate::model) fn none() -> Self {
        Self { wanted: None, from: 0, pairs: [0; 2], starts: Vec::new(), layers: Vec::new() }
    }

    /// Maps of `batch`, of the layers from `from` on.
    pub(in crate::model) fn new(wanted: Wanted, from: usize, batch: &PackedBatch) -> Self {
        let lengths = || (0..batch.sequences()).map(|sequence| batch.range(sequence).len());
        let pairs = [lengths().map(|l| l * l).sum(), batch.tokens()];
        Self { wanted: Some(wanted), from, pairs, starts: batch.cu_seqlens.clone(), layers: Vec::new() }
    }

    /// The maps themselves, the first layer's first.
    pub(in crate::model) fn fetch(self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let fetch = |Map { tensor, queries }: Map<B>| {
            let mut layer = vec![0.0; self.pairs[usize::from(queries == Rows::First)]];
            backend.download(&mut layer, &tensor).map(|()| layer)
        };
        self.layers.into_iter().map(fetch).collect()
    }

    /// Each target's row of all tokens, down through every map. `seeds` are what weighted maps are larger by.
    pub(in crate::model) fn follow(&self, pass: &Pass<'_, B>, descent: &Descent, seeds: &Seeds) -> Result<Vec<f32>> {
        let Pass { backend, batch, tokens, sequences, .. } = *pass;
        let below: Vec<f32> = (0..sequences).map(|sequence| descent.below / seeds.scale(sequence)).collect();
        let mut followed = Vec::with_capacity(tokens * descent.roots.len() / sequences.max(1));
        for roots in descent.roots.chunks_exact(sequences) {
            let (mut row, mut next) = (backend.upload(&self.shares(roots))?, backend.results(tokens)?);
            for Map { tensor, queries } in self.layers.iter().rev() {
                let step = Step { queries: *queries, own: descent.own, below: &below };
                backend.follow(&mut next, &row, tensor, batch, step)?;
                std::mem::swap(&mut row, &mut next);
            }
            let mut values = vec![0.0; tokens];
            backend.download(&mut values, &row)?;
            followed.extend(values);
        }
        Ok(followed)
    }

    /// A row that begins at each sequence's roots, `[T]`.
    fn shares(&self, roots: &[Reads]) -> Vec<f32> {
        let mut row = vec![0.0; self.pairs[1]];
        for (&start, roots) in self.starts.iter().zip(roots) {
            for &root in &**roots {
                row[(start + root) as usize] = 1.0 / roots.len() as f32;
            }
        }
        row
    }

    /// Picks up layer `number`'s map on the way forward, where it is one of those.
    pub(super) fn of_forward(&mut self, backend: &B, number: usize, attended: &Attended<'_, B>) -> Result<()> {
        let map = match self.wanted {
            Some(Wanted::Forward(MapKind::Weights)) => AttentionMap::Weights,
            Some(Wanted::Forward(MapKind::Scores)) => AttentionMap::Scores,
            Some(Wanted::Gradient) | None => return Ok(()),
        };
        if number >= self.from {
            let layer = self.map(backend, attended, map)?;
            self.layers.push(layer);
        }
        Ok(())
    }

    /// The same on the way back, from the last layer to the first.
    pub(super) fn of_backward(
        &mut self,
        backend: &B,
        number: usize,
        attended: &Attended<'_, B>,
        d_out: &B::Tensor,
    ) -> Result<()> {
        if self.wanted == Some(Wanted::Gradient) && number >= self.from {
            let layer = self.map(backend, attended, AttentionMap::GradientWeights(d_out))?;
            self.layers.insert(0, layer);
        }
        Ok(())
    }

    fn map(&self, backend: &B, attended: &Attended<'_, B>, map: AttentionMap<'_, B>) -> Result<Map<B>> {
        let queries = attended.shape.queries;
        let mut tensor = backend.results(self.pairs[usize::from(queries == Rows::First)])?;
        backend.attention_map(&mut tensor, attended, map)?;
        Ok(Map { tensor, queries })
    }
}
