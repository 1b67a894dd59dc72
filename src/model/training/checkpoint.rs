//! A learner's numbers by name: what is saved of a model, and what a training goes on from.

use std::collections::HashMap;

use super::Learner;
use super::parameters::Spec;
use super::tree::Tree;
use crate::backend::training::Training;
use crate::error::{Error, Result};

/// What values' names begin with in a state.
pub(super) const VALUE: &str = "value.";
/// What those of the gradients' moments begin with.
pub(super) const MOMENTS: [&str; 2] = ["first_moment.", "second_moment."];

/// A tensor and its name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// As `transformers` has it; in a state, with what it is before it.
    pub name: String,
    /// Sizes, row-major.
    pub shape: Vec<usize>,
    /// As many as the shape says.
    pub values: Vec<f32>,
}

impl Spec {
    /// Whether a checkpoint has it, in its shape.
    pub(super) fn is_in(&self, weights: &super::Weights) -> bool {
        self.parts.iter().all(|(name, _)| weights.contains(self.name_in(weights, name)))
    }

    /// A parameter's numbers as the tensors they are in a state: from the last on, so that what is one tensor is not
    /// copied.
    fn named(&self, mut values: Vec<f32>, prefix: &str) -> Vec<NamedTensor> {
        let part = |(name, shape): &(String, Vec<usize>)| {
            let values = values.split_off(values.len() - shape.iter().product::<usize>());
            NamedTensor { name: format!("{prefix}{name}"), shape: shape.clone(), values }
        };
        let mut named: Vec<NamedTensor> = self.parts.iter().rev().map(part).collect();
        named.reverse();
        named
    }
}

impl<B: Training> Learner<B> {
    pub(super) fn named(&self, tree: &Tree<B::Tensor>, prefix: &str) -> Result<Vec<NamedTensor>> {
        let mut named = Vec::new();
        for (spec, tensor) in self.specs.leaves().into_iter().zip(tree.leaves()) {
            named.extend(spec.named(self.download(tensor, spec.len())?, prefix));
        }
        Ok(named)
    }

    pub(super) fn restore_state(&mut self, state: &[NamedTensor]) -> Result<()> {
        let by_name: HashMap<&str, &NamedTensor> = state.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let read = |prefix: &str| {
            self.specs.map(|spec| {
                let parts = spec.parts.iter().map(|(name, shape)| {
                    let found = by_name.get(format!("{prefix}{name}").as_str()).filter(|found| found.shape == *shape);
                    found.map(|tensor| tensor.values.as_slice()).ok_or_else(|| of_another_model(name))
                });
                self.backend.upload(&parts.collect::<Result<Vec<_>>>()?.concat())
            })
        };
        let (values, [first, second]) = (read(VALUE)?, MOMENTS);
        let moments = [read(first)?, read(second)?];
        (self.values, self.moments) = (values, moments);
        self.net.repack(&self.backend, &self.values)
    }
}

fn of_another_model(name: &str) -> Error {
    Error::Mismatch(
        format!("the checkpoint of the training has no tensor \"{name}\" of this model's shape"),
        Some("go on with the model and the labels it began with, or begin anew without --resume".to_owned()),
    )
}
