//! Where a way back leaves what parameters' gradients are made of: whole, as training adds them up, or projected,
//! record by record.

use super::gradients::Gradients;
use super::pass::Pass;
use super::tree::{Head, as_mut};
use crate::backend::training::{Pair, Passed, Shape, Training};
use crate::backend::{Norm, Rows};
use crate::error::Result;

/// A linear layer of the network; those of the encoder by their step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linear {
    EmbeddingProjection,
    /// Queries, keys and values at once, one below the other.
    Projection(usize),
    /// The first third of those: the last step's, whose queries are first tokens'.
    Query(usize),
    /// The other two.
    KeyValue(usize),
    AttentionOut(usize),
    Inner(usize),
    Outer(usize),
    Dense,
    Last,
}

/// A normalisation of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Normalisation {
    Embedding,
    Attention(usize),
    Outer(usize),
    /// Of a head on masks.
    Head,
}

/// What takes the gradients of a way back, as it comes to them.
pub(super) trait Sink<B: Training> {
    /// What each record's gradients are larger by, before any of them comes. Passed over, unless a sink says otherwise.
    fn scaled(&mut self, _scales: &[f32]) {}

    /// Of a linear layer: `dy [rows, outputs]` of its sums and `x [rows, inputs]` it read, one row a token or a
    /// sequence.
    fn linear(&mut self, pass: &Pass<'_, B>, of: Linear, rows: Rows, operands: Operands<'_, B>) -> Result<()>;

    /// Of a normalisation. Passed over, unless a sink says otherwise.
    fn norm(&mut self, _pass: &Pass<'_, B>, _normed: Normed<'_, B>) -> Result<()> {
        Ok(())
    }

    /// Of the embedding tables: `d_sum [T, width]` of the sum of their rows. Passed over, unless a sink says otherwise.
    fn tables(&mut self, _pass: &Pass<'_, B>, _d_sum: &B::Tensor, _width: usize) -> Result<()> {
        Ok(())
    }
}

/// What a normalisation's gradient is made of.
pub(super) struct Normed<'a, B: Training> {
    pub(super) of: Normalisation,
    pub(super) norm: &'a Norm<B>,
    /// One row a token, or a sequence.
    pub(super) rows: Rows,
    /// `[rows, E]`, of what it put out.
    pub(super) dy: &'a B::Tensor,
    /// `[rows, E]`, what it read.
    pub(super) x: &'a B::Tensor,
}

/// What a linear layer's gradient is the product of.
pub(super) struct Operands<'a, B: Training> {
    pub(super) dy: &'a B::Tensor,
    pub(super) x: &'a B::Tensor,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl<B: Training> Sink<B> for Gradients<B> {
    fn linear(&mut self, pass: &Pass<'_, B>, of: Linear, rows: Rows, operands: Operands<'_, B>) -> Result<()> {
        let Operands { dy, x, inputs, outputs } = operands;
        let passed = Passed { batch: pass.batch, rows, inputs, outputs };
        let (to, first): (&mut Pair<B::Tensor>, usize) = match of {
            Linear::EmbeddingProjection => match &mut self.tree.embedding_projection {
                Some(to) => (to, 0),
                None => return Ok(()),
            },
            Linear::Projection(step) | Linear::Query(step) => (&mut self.layer(step).projection, 0),
            Linear::KeyValue(step) => (&mut self.layer(step).projection, inputs),
            Linear::AttentionOut(step) => (&mut self.layer(step).attention_out, 0),
            Linear::Inner(step) => (&mut self.layer(step).inner, 0),
            Linear::Outer(step) => (&mut self.layer(step).outer, 0),
            Linear::Dense => match &mut self.tree.head.dense {
                Some(to) => (to, 0),
                None => return Ok(()),
            },
            Linear::Last => match (&mut self.tree.head, &mut self.tied) {
                (Head { bias: Some(bias), .. }, Some(weight)) => {
                    return pass.backend.linear_parameters_backward(Pair { weight, bias }, 0, dy, x, passed);
                }
                (Head { last: Some(to), .. }, _) => (to, 0),
                _ => return Ok(()),
            },
        };
        pass.backend.linear_parameters_backward(as_mut(to), first, dy, x, passed)
    }

    fn norm(&mut self, pass: &Pass<'_, B>, normed: Normed<'_, B>) -> Result<()> {
        let Normed { of, norm, rows, dy, x } = normed;
        let to = match of {
            Normalisation::Embedding => &mut self.tree.embedding_norm,
            Normalisation::Attention(step) => &mut self.layer(step).attention_norm,
            Normalisation::Outer(step) => &mut self.layer(step).outer_norm,
            Normalisation::Head => match &mut self.tree.head.norm {
                Some(to) => to,
                None => return Ok(()),
            },
        };
        let shape = Shape { rows: pass.rows(rows), inputs: norm.width, outputs: norm.width };
        pass.backend.layer_norm_parameters_backward(as_mut(to), dy, x, norm.epsilon, shape)
    }

    fn tables(&mut self, pass: &Pass<'_, B>, d_sum: &B::Tensor, width: usize) -> Result<()> {
        pass.backend.embed_sum_backward(super::tree::tables_mut(&mut self.tree.tables), d_sum, pass.batch, width)
    }
}
