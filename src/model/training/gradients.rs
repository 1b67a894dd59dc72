//! The gradients of a model's parameters: one chain over the tokens for each use of a layer, and the uses of a shared
//! layer added up last.

use super::parameters::Spec;
use super::tree::{Layer, Tree};
use crate::backend::training::Training;
use crate::error::Result;

/// Gradients being added up.
pub(super) struct Gradients<B: Training> {
    /// Each layer's by its first use, until [`Gradients::gather`].
    pub(super) tree: Tree<B::Tensor>,
    /// Those of a shared layer's further uses (ALBERT): kept apart, or what tokens are cut into would decide the order
    /// of the sum.
    further: Vec<Layer<B::Tensor>>,
    /// That of the word embeddings where they are the last layer too, kept apart for the same reason.
    pub(super) tied: Option<B::Tensor>,
    /// Where each step's go.
    places: Vec<Place>,
}

/// Where the gradients of a step's layer go.
#[derive(Clone, Copy)]
enum Place {
    /// The layer's own.
    First(usize),
    /// Which of the further uses, and of which layer.
    Further(usize, usize),
}

impl<B: Training> Gradients<B> {
    /// Zeros.
    pub(super) fn new(backend: &B, specs: &Tree<Spec>, schedule: &[usize]) -> Result<Self> {
        let zeros = |spec: &Spec| {
            let mut tensor = backend.results(spec.len())?;
            backend.clear(&mut tensor)?;
            Ok(tensor)
        };
        let tree = specs.map(zeros)?;
        let (mut further, mut places) = (Vec::new(), Vec::new());
        for (step, layer) in schedule.iter().enumerate() {
            if schedule[..step].contains(layer) {
                places.push(Place::Further(further.len(), *layer));
                further.push(specs.layers[*layer].map(zeros)?);
            } else {
                places.push(Place::First(*layer));
            }
        }
        let tied = specs.head.bias.as_ref().map(|_| zeros(&specs.tables.word)).transpose()?;
        Ok(Self { tree, further, tied, places })
    }

    /// Where step `number` adds its layer's.
    pub(super) fn layer(&mut self, number: usize) -> &mut Layer<B::Tensor> {
        match self.places[number] {
            Place::First(layer) => &mut self.tree.layers[layer],
            Place::Further(use_, _) => &mut self.further[use_],
        }
    }

    /// Adds further uses to the first ones, in the order of the steps, and forgets them.
    pub(super) fn gather(&mut self, backend: &B, specs: &Tree<Spec>) -> Result<()> {
        for place in &self.places {
            let Place::Further(use_, layer) = *place else { continue };
            let sums = self.tree.layers[layer].leaves_mut();
            for ((sum, x), spec) in
                sums.into_iter().zip(self.further[use_].leaves_mut()).zip(specs.layers[layer].leaves())
            {
                backend.add(sum, x, spec.len())?;
                backend.clear(x)?;
            }
        }
        if let Some(tied) = &mut self.tied {
            backend.add(&mut self.tree.tables.word, tied, specs.tables.word.len())?;
            backend.clear(tied)?;
        }
        Ok(())
    }
}
