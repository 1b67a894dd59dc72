//! Attention maps picked up on a pass's way.

use crate::backend::{Attended, AttentionMap, Backend, Rows};
use crate::error::Result;
use crate::model::MapKind;
use crate::model::token_head::Seeds;
use crate::tokens::PackedBatch;

/// Which maps a pass is asked for, and those it has given.
#[derive(Debug, Default)]
pub(in crate::model) struct Maps {
    kind: Option<MapKind>,
    /// The first layer whose map is wanted.
    from: usize,
    /// Pairs of tokens of the batch: all of them, and those of first tokens.
    pairs: [usize; 2],
    /// From the first wanted layer on, each as [`Backend::attention_map`] lays it out.
    layers: Vec<Vec<f32>>,
}

impl Maps {
    /// No maps.
    pub(in crate::model) fn none() -> Self {
        Self::default()
    }

    /// Maps of `batch`, of the layers from `from` on.
    pub(in crate::model) fn new(kind: MapKind, from: usize, batch: &PackedBatch) -> Self {
        let lengths = || (0..batch.sequences()).map(|sequence| batch.range(sequence).len());
        Self { kind: Some(kind), from, pairs: [lengths().map(|l| l * l).sum(), batch.tokens()], layers: Vec::new() }
    }

    /// What was given, the first layer first.
    pub(in crate::model) fn into_layers(self) -> Vec<Vec<f32>> {
        self.layers
    }

    /// Takes the scales of gradients off maps that were weighted by them.
    pub(in crate::model) fn divide(&mut self, seeds: &Seeds) {
        self.layers.iter_mut().for_each(|layer| seeds.divide_parts(layer, |length| length * length));
    }

    /// Whether gradients must be taken for them.
    pub(super) fn go_back(&self) -> bool {
        self.kind == Some(MapKind::GradientWeights)
    }

    /// Picks up layer `number`'s map on the way forward, where it is one of those.
    pub(super) fn of_forward<B: Backend>(
        &mut self,
        backend: &B,
        number: usize,
        attended: &Attended<'_, B>,
    ) -> Result<()> {
        let map = match self.kind {
            Some(MapKind::Weights) => AttentionMap::Weights,
            Some(MapKind::Scores) => AttentionMap::Scores,
            _ => return Ok(()),
        };
        if number >= self.from {
            let layer = self.fetch(backend, attended, map)?;
            self.layers.push(layer);
        }
        Ok(())
    }

    /// The same on the way back, from the last layer to the first.
    pub(super) fn of_backward<B: Backend>(
        &mut self,
        backend: &B,
        number: usize,
        attended: &Attended<'_, B>,
        d_out: &B::Tensor,
    ) -> Result<()> {
        if self.go_back() && number >= self.from {
            let layer = self.fetch(backend, attended, AttentionMap::GradientWeights(d_out))?;
            self.layers.insert(0, layer);
        }
        Ok(())
    }

    fn fetch<B: Backend>(&self, backend: &B, attended: &Attended<'_, B>, map: AttentionMap<'_, B>) -> Result<Vec<f32>> {
        let pairs = self.pairs[usize::from(attended.shape.queries == Rows::First)];
        let mut on_device = backend.results(pairs)?;
        backend.attention_map(&mut on_device, attended, map)?;
        let mut layer = vec![0.0; pairs];
        backend.download(&mut layer, &on_device)?;
        Ok(layer)
    }
}
