//! The way back to the embeddings: each layer's chain rule, last to first, with no gradient of any weight.
//!
//! ```text
//! dx = LN'(dx)      dx = dx + W₁ᵀ (activation'(·) ∘ W₂ᵀ dx)                      ┐ each layer
//! dx = LN'(dx)      dx = dx + W_qkvᵀ attention'(W_oᵀ dx)                          ┘
//! ```

use super::maps::Maps;
use super::workspace::{Back, Step};
use super::{Encoder, Layer, Pass, SplitProjection, Workspace};
use crate::backend::{AttentionGradients, Backend, Fold};
use crate::error::{Error, Result};

impl<B: Backend> Encoder<B> {
    /// Takes the gradient of the last layer's hidden states in `pass.space.hidden` to that of what the pass's path
    /// moves, also in `hidden` (`embedded` where embeddings are projected). The forward pass before it must have been
    /// one that keeps.
    pub(in crate::model) fn backward(&self, pass: &mut Pass<'_, B>, maps: &mut Maps<B>) -> Result<()> {
        let (number, layer) = (self.steps.len(), &self.layers[self.last]);
        match &self.last_split {
            None => self.step_back(pass, number, layer, maps)?,
            Some(projection) => {
                Self::feed_forward_back(pass, number, layer, pass.sequences)?;
                self.attend_first_back(pass, number, layer, projection, maps)?;
            }
        }
        for (number, step) in self.steps.iter().enumerate().rev() {
            self.step_back(pass, number, &self.layers[*step], maps)?;
        }
        self.embed_back(pass)
    }

    /// What `fold` makes of each token's gradient, after [`Self::backward`]: one number a token, or as many as
    /// embeddings are wide.
    pub(in crate::model) fn fold(&self, pass: &mut Pass<'_, B>, fold: Fold) -> Result<Vec<f32>> {
        let path = pass.path.ok_or_else(|| Error::usage("a gradient needs a path to be folded over"))?;
        let len = pass.tokens * if fold == Fold::Whole { self.embedding_width() } else { 1 };
        let Workspace { hidden, embedded, .. } = &*pass.space;
        let (gradient, mut out) = (embedded.as_ref().unwrap_or(hidden), pass.backend.results(len)?);
        pass.backend.fold(&mut out, gradient, &self.embeddings, pass.batch, path, fold)?;
        let mut values = vec![0.0; len];
        pass.backend.download(&mut values, &out)?;
        Ok(values)
    }

    fn embed_back(&self, pass: &mut Pass<'_, B>) -> Result<()> {
        let Workspace { hidden, embedded, .. } = pass.space;
        let gradient = match (&self.projection, embedded) {
            (Some(projection), Some(embedded)) => {
                pass.backend.linear_backward(embedded, hidden, projection, None, None, pass.tokens)?;
                embedded
            }
            _ => hidden,
        };
        match pass.path {
            Some(path) => pass.backend.embed_backward(gradient, &self.embeddings, pass.batch, path),
            None => Ok(()),
        }
    }

    fn step_back(&self, pass: &mut Pass<'_, B>, number: usize, layer: &Layer<B>, maps: &mut Maps<B>) -> Result<()> {
        Self::feed_forward_back(pass, number, layer, pass.tokens)?;
        self.attend_back(pass, number, layer, maps)
    }

    /// Past the feed-forward layers: the first `rows` rows of `hidden` to themselves.
    fn feed_forward_back(pass: &mut Pass<'_, B>, number: usize, layer: &Layer<B>, rows: usize) -> Result<()> {
        let backend = pass.backend;
        let Workspace { hidden, sum, inner, steps, .. } = pass.space;
        let Step { slope, outer_sum, .. } = &steps[number];
        let (slope, outer_sum) = slope.as_ref().zip(outer_sum.as_ref()).ok_or_else(not_kept)?;
        backend.layer_norm_backward(sum, hidden, outer_sum, &layer.outer_norm, rows)?;
        backend.linear_backward(inner, sum, &layer.outer, Some(slope), None, rows)?;
        backend.linear_backward(hidden, inner, &layer.inner, None, Some(sum), rows)
    }

    /// Past attention, over every token.
    fn attend_back(&self, pass: &mut Pass<'_, B>, number: usize, layer: &Layer<B>, maps: &mut Maps<B>) -> Result<()> {
        let Pass { backend, batch, tokens, .. } = *pass;
        let Workspace { hidden, sum, context, steps, back, .. } = pass.space;
        let (step, back) = (&steps[number], back.as_mut().ok_or_else(not_kept)?);
        backend.layer_norm_backward(sum, hidden, &step.attention_sum, &layer.attention_norm, tokens)?;
        backend.linear_backward(context, sum, &layer.attention_out, None, None, tokens)?;
        let attended = self.attended(&step.projected, batch);
        maps.of_backward(backend, number, &attended, context)?;
        let gradients = AttentionGradients { packed: &mut back.projected, query: None };
        backend.attention_backward(gradients, context, &attended)?;
        backend.linear_backward(hidden, &back.projected, &layer.projection, None, Some(sum), tokens)
    }

    /// Past the last layer's attention, where first tokens alone asked: `hidden` goes from one row a sequence to one a
    /// token.
    fn attend_first_back(
        &self,
        pass: &mut Pass<'_, B>,
        number: usize,
        layer: &Layer<B>,
        projection: &SplitProjection<B>,
        maps: &mut Maps<B>,
    ) -> Result<()> {
        let Pass { backend, batch, tokens, sequences, .. } = *pass;
        let Workspace { hidden, sum, queries, context, inner, steps, back, .. } = pass.space;
        let (step, back) = (&steps[number], back.as_mut().ok_or_else(not_kept)?);
        let Back { projected, first, .. } = back;
        backend.layer_norm_backward(sum, hidden, &step.attention_sum, &layer.attention_norm, sequences)?;
        backend.linear_backward(context, sum, &layer.attention_out, None, None, sequences)?;
        let attended = self.attended_first(queries, &step.projected, batch);
        maps.of_backward(backend, number, &attended, context)?;
        let gradients = AttentionGradients { packed: projected, query: Some(inner) };
        backend.attention_backward(gradients, context, &attended)?;
        backend.linear_backward(first, inner, &projection.query, None, Some(sum), sequences)?;
        backend.linear_backward(hidden, projected, &projection.key_value, None, None, tokens)?;
        backend.add_to_first(hidden, first, batch, self.width)
    }
}

/// A caller's mistake inside this crate, told rather than died of.
fn not_kept() -> Error {
    Error::usage("a way back needs a forward pass that kept what it computed")
}
