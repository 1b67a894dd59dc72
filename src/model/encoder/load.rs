//! From a checkpoint's tensors to an encoder on a device.

use super::{Encoder, Layer, SplitProjection};
use crate::backend::{Backend, Embeddings, Norm, Rows};
use crate::error::Result;
use crate::model::config::{Config, LayerId};
use crate::model::families::TensorNames;
use crate::model::weights::{Linear, Weights};

impl<B: Backend> Encoder<B> {
    /// Uploads an encoder whose last hidden states will be read at `rows`.
    ///
    /// # Errors
    /// As [`Weights::tensor`], for the first tensor that is not as `config` says.
    pub(in crate::model) fn load(backend: &B, weights: &Weights, config: &Config, rows: Rows) -> Result<Self> {
        let source = Source { backend, weights, config, names: config.family.tensor_names() };
        let (ids, mut steps) = distinct(&config.schedule());
        let last = steps.pop().expect("a configuration has at least one layer");
        let last_split = match rows {
            Rows::First => Some(source.split_projection(ids[last])?),
            Rows::All => None,
        };
        Ok(Self {
            embeddings: source.embeddings()?,
            projection: source.projection()?,
            layers: ids.iter().map(|id| source.layer(*id)).collect::<Result<_>>()?,
            steps,
            last,
            last_split,
            activation: config.activation,
            heads: config.heads,
            width: config.width,
            inner_width: config.inner_width,
        })
    }
}

/// The layers a schedule uses, each once, and the schedule as places in that list.
pub(in crate::model) fn distinct(schedule: &[LayerId]) -> (Vec<LayerId>, Vec<usize>) {
    let mut ids = schedule.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let steps = schedule.iter().map(|id| ids.partition_point(|other| other < id)).collect();
    (ids, steps)
}

/// Where parameters come from and go to.
struct Source<'a, B: Backend> {
    backend: &'a B,
    weights: &'a Weights,
    config: &'a Config,
    names: &'static TensorNames,
}

impl<B: Backend> Source<'_, B> {
    fn embeddings(&self) -> Result<Embeddings<B>> {
        let (config, names) = (self.config, self.names);
        let width = config.embedding_width;
        let token_type = match config.token_types {
            0 => None,
            types => Some(self.upload(names.token_type, &[types, width])?),
        };
        Ok(Embeddings {
            word: self.upload(names.word, &[config.vocabulary, width])?,
            position: Some(self.upload(names.position, &[config.positions, width])?),
            token_type,
            task: config.task_types.map(|types| self.first_task(types)).transpose()?,
            norm: self.norm(names.embedding_norm, width)?,
        })
    }

    /// Every token gets task type 0, as where no task is asked for.
    fn first_task(&self, types: usize) -> Result<B::Tensor> {
        let width = self.config.embedding_width;
        let table = self.weights.tensor(self.names.task_type, &[types, width])?;
        self.backend.upload(&table[..width])
    }

    fn projection(&self) -> Result<Option<B::Linear>> {
        let Config { family, embedding_width, width, .. } = *self.config;
        let projected = family.projects_embeddings(embedding_width, width);
        projected.then(|| self.linear(self.names.projection, embedding_width, width)).transpose()
    }

    fn layer(&self, id: LayerId) -> Result<Layer<B>> {
        let Config { width, inner_width, .. } = *self.config;
        let names = self.names;
        let name = |part| self.part(id, part);
        Ok(Layer {
            projection: self.stacked(id, &[names.query, names.key, names.value])?,
            attention_out: self.linear(&name(names.attention_out), width, width)?,
            attention_norm: self.norm(&name(names.attention_norm), width)?,
            inner: self.linear(&name(names.inner), width, inner_width)?,
            outer: self.linear(&name(names.outer), inner_width, width)?,
            outer_norm: self.norm(&name(names.outer_norm), width)?,
        })
    }

    fn split_projection(&self, id: LayerId) -> Result<SplitProjection<B>> {
        Ok(SplitProjection {
            query: self.stacked(id, &[self.names.query])?,
            key_value: self.stacked(id, &[self.names.key, self.names.value])?,
        })
    }

    /// Some of a layer's input projections as one linear layer, their outputs side by side.
    fn stacked(&self, id: LayerId, parts: &[&str]) -> Result<B::Linear> {
        let width = self.config.width;
        let parts = parts.iter().map(|part| self.weights.linear(&self.part(id, part), width, width));
        let parts = parts.collect::<Result<Vec<Linear>>>()?;
        let weight = parts.iter().map(|part| &*part.weight).collect::<Vec<_>>().concat();
        let bias = parts.iter().map(|part| &*part.bias).collect::<Vec<_>>().concat();
        self.backend.pack_linear(&weight, &bias, width, parts.len() * width)
    }

    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<B::Linear> {
        let Linear { weight, bias } = self.weights.linear(name, inputs, outputs)?;
        self.backend.pack_linear(&weight, &bias, inputs, outputs)
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm<B>> {
        Ok(Norm {
            weight: self.upload(&format!("{name}.weight"), &[width])?,
            bias: self.upload(&format!("{name}.bias"), &[width])?,
            epsilon: self.config.epsilon,
            width,
        })
    }

    fn upload(&self, name: &str, shape: &[usize]) -> Result<B::Tensor> {
        self.backend.upload(&self.weights.tensor(name, shape)?)
    }

    /// The full name of a layer's part.
    fn part(&self, id: LayerId, part: &str) -> String {
        format!("{}.{part}", self.names.layer_name(id))
    }
}
