//! The network as a device multiplies by it, made again from its parameters after every step.

use rayon::prelude::*;

use super::rates::Places;
use super::tree::{self, Tree, as_ref};
use crate::backend::training::{Pair, Training};
use crate::backend::{Activation, Norm, Rows};
use crate::error::Result;
use crate::model::Task;
use crate::model::config::Config;

/// What decides how large buffers are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) width: usize,
    pub(super) embedding_width: usize,
    pub(super) inner_width: usize,
    pub(super) heads: usize,
    pub(super) classes: usize,
    /// Of what the last layer reads.
    pub(super) feature_width: usize,
    /// Whether logits are made for some tokens alone: a head on masks has one for each piece of the vocabulary.
    pub(super) chosen: bool,
    /// How many layers a pass goes through.
    pub(super) steps: usize,
}

/// Packed parameters.
pub(super) struct Net<B: Training> {
    pub(super) sizes: Sizes,
    pub(super) activation: Activation,
    pub(super) head_activation: Activation,
    pub(super) places: Places,
    pub(super) embedding_norm: Norm<B>,
    pub(super) embedding_projection: Option<B::Linear>,
    pub(super) layers: Vec<Layer<B>>,
    /// Which layer each step uses.
    pub(super) schedule: Vec<usize>,
    /// What stands before the last layer.
    pub(super) before: Before<B>,
    pub(super) last: B::Linear,
}

/// What stands between the encoder and the last layer.
pub(super) enum Before<B: Training> {
    /// A layer on first tokens, with the net's head activation: a head on records.
    Dense(B::Linear),
    /// Nothing: a head on every token.
    Nothing,
    /// A layer, its activation and a normalisation: a head on masks. The identity, `[E', E']`, is what multiplies by a
    /// slope on the way back.
    Transform { dense: B::Linear, norm: Norm<B>, identity: B::Linear },
}

/// One layer's.
pub(super) struct Layer<B: Training> {
    /// `[3E, E]`, where a step before the last uses it.
    pub(super) projection: Option<B::Linear>,
    /// Queries `[E, E]`, keys and values `[2E, E]`, where the last step uses it, whose queries are first tokens'.
    pub(super) split: Option<(B::Linear, B::Linear)>,
    pub(super) attention_out: B::Linear,
    pub(super) attention_norm: Norm<B>,
    pub(super) inner: B::Linear,
    pub(super) outer: B::Linear,
    pub(super) outer_norm: Norm<B>,
}

impl<B: Training> Net<B> {
    /// Packs parameters for the first time.
    pub(super) fn pack(
        backend: &B,
        values: &Tree<Vec<f32>>,
        config: &Config,
        schedule: Vec<usize>,
        (task, classes): (Task, usize),
    ) -> Result<Self> {
        let width = config.width;
        let packer = Packer { backend, epsilon: config.epsilon };
        let (last, before) = schedule.split_last().expect("a configuration has at least one layer");
        let head = &values.head;
        // Only heads on records read first tokens alone.
        let of_first = head.dense.is_some() && head.norm.is_none();
        let feature_width = if head.norm.is_some() { config.embedding_width } else { width };
        let layer = |(number, layer): (usize, &tree::Layer<Vec<f32>>)| -> Result<Layer<B>> {
            let whole = !of_first || before.contains(&number);
            let projection = whole.then(|| packer.linear(&layer.projection, width));
            let split = (of_first && number == *last).then(|| packer.split(&layer.projection, width));
            Ok(Layer {
                projection: projection.transpose()?,
                split: split.transpose()?,
                attention_out: packer.linear(&layer.attention_out, width)?,
                attention_norm: packer.norm(&layer.attention_norm)?,
                inner: packer.linear(&layer.inner, width)?,
                outer: packer.linear(&layer.outer, config.inner_width)?,
                outer_norm: packer.norm(&layer.outer_norm)?,
            })
        };
        let projection = values.embedding_projection.as_ref();
        Ok(Self {
            sizes: Sizes {
                width,
                embedding_width: config.embedding_width,
                inner_width: config.inner_width,
                heads: config.heads,
                classes,
                feature_width,
                chosen: head.norm.is_some(),
                steps: schedule.len(),
            },
            activation: config.activation,
            head_activation: if head.norm.is_some() {
                config.family.mask_head_names().activation.unwrap_or(config.activation)
            } else {
                config.family.head_names().activation
            },
            places: Places::of(config.family, task),
            embedding_norm: packer.norm(&values.embedding_norm)?,
            embedding_projection: projection.map(|pair| packer.linear(pair, config.embedding_width)).transpose()?,
            layers: values.layers.iter().enumerate().map(layer).collect::<Result<_>>()?,
            before: packer.before(head, config)?,
            last: match (&head.last, &head.bias) {
                (Some(last), _) => packer.linear(last, feature_width)?,
                (None, bias) => {
                    let bias = bias.as_deref().unwrap_or_default();
                    backend.pack_linear(&values.tables.word, bias, feature_width, classes)?
                }
            },
            schedule,
        })
    }

    /// Which rows a step computes: the last one's are first tokens alone, where the head reads no others.
    pub(super) fn rows_of(&self, step: usize) -> Rows {
        let first = matches!(self.before, Before::Dense(_)) && step + 1 == self.schedule.len();
        if first { Rows::First } else { Rows::All }
    }

    /// Packs parameters that have changed, a layer a thread.
    pub(super) fn repack(&mut self, backend: &B, values: &Tree<B::Tensor>) -> Result<()> {
        let Sizes { width, embedding_width, inner_width, classes, feature_width, .. } = self.sizes;
        let whole = |linear: &mut B::Linear, pair: &Pair<B::Tensor>, inputs: usize, outputs: usize| {
            backend.repack_linear(linear, as_ref(pair), 0..outputs, inputs)
        };
        let norm = |norm: &mut Norm<B>, pair: &Pair<B::Tensor>| {
            backend.copy(&mut norm.weight, &pair.weight, norm.width)?;
            backend.copy(&mut norm.bias, &pair.bias, norm.width)
        };
        norm(&mut self.embedding_norm, &values.embedding_norm)?;
        if let (Some(linear), Some(pair)) = (&mut self.embedding_projection, &values.embedding_projection) {
            whole(linear, pair, embedding_width, width)?;
        }
        self.layers.par_iter_mut().zip(&values.layers).try_for_each(|(layer, values)| {
            if let Some(projection) = &mut layer.projection {
                whole(projection, &values.projection, width, 3 * width)?;
            }
            if let Some((query, key_value)) = &mut layer.split {
                backend.repack_linear(query, as_ref(&values.projection), 0..width, width)?;
                backend.repack_linear(key_value, as_ref(&values.projection), width..3 * width, width)?;
            }
            whole(&mut layer.attention_out, &values.attention_out, width, width)?;
            norm(&mut layer.attention_norm, &values.attention_norm)?;
            whole(&mut layer.inner, &values.inner, width, inner_width)?;
            whole(&mut layer.outer, &values.outer, inner_width, width)?;
            norm(&mut layer.outer_norm, &values.outer_norm)
        })?;
        let head = &values.head;
        match (&mut self.before, &head.dense, &head.norm) {
            (Before::Dense(dense), Some(values), _) => whole(dense, values, width, width)?,
            (Before::Transform { dense, norm: of, .. }, Some(values), Some(of_norm)) => {
                whole(dense, values, width, feature_width)?;
                norm(of, of_norm)?;
            }
            _ => {}
        }
        match (&head.last, &head.bias) {
            (Some(last), _) => whole(&mut self.last, last, feature_width, classes),
            (None, Some(bias)) => {
                let tied = Pair { weight: &values.tables.word, bias };
                backend.repack_linear(&mut self.last, tied, 0..classes, feature_width)
            }
            (None, None) => Ok(()),
        }
    }
}

/// From numbers on the host to a device's layouts.
struct Packer<'a, B: Training> {
    backend: &'a B,
    epsilon: f32,
}

impl<B: Training> Packer<'_, B> {
    fn linear(&self, pair: &Pair<Vec<f32>>, inputs: usize) -> Result<B::Linear> {
        self.backend.pack_linear(&pair.weight, &pair.bias, inputs, pair.bias.len())
    }

    fn split(&self, pair: &Pair<Vec<f32>>, width: usize) -> Result<(B::Linear, B::Linear)> {
        let (query, key_value) = pair.weight.split_at(width * width);
        let (query_bias, key_value_bias) = pair.bias.split_at(width);
        Ok((
            self.backend.pack_linear(query, query_bias, width, width)?,
            self.backend.pack_linear(key_value, key_value_bias, width, 2 * width)?,
        ))
    }

    fn before(&self, head: &tree::Head<Vec<f32>>, config: &Config) -> Result<Before<B>> {
        match (&head.dense, &head.norm) {
            (Some(dense), None) => Ok(Before::Dense(self.linear(dense, config.width)?)),
            (Some(dense), Some(norm)) => {
                let width = config.embedding_width;
                let mut identity = vec![0.0; width * width];
                identity.iter_mut().step_by(width + 1).for_each(|one| *one = 1.0);
                let identity = self.backend.pack_linear(&identity, &vec![0.0; width], width, width)?;
                Ok(Before::Transform { dense: self.linear(dense, config.width)?, norm: self.norm(norm)?, identity })
            }
            (None, _) => Ok(Before::Nothing),
        }
    }

    fn norm(&self, pair: &Pair<Vec<f32>>) -> Result<Norm<B>> {
        let (weight, bias) = (self.backend.upload(&pair.weight)?, self.backend.upload(&pair.bias)?);
        Ok(Norm { weight, bias, epsilon: self.epsilon, width: pair.weight.len() })
    }
}
