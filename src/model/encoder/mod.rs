//! The forward pass, written once for every family and device as a sequence of [`Backend`] operations on packed batches.
//!
//! ```text
//! x = LN(word + position + type [+ task])             [projected to E where the embeddings are narrower]
//! x = LN(x + W_o · attention(W_q x, W_k x, W_v x))    ┐ each layer
//! x = LN(x + W₂ · activation(W₁ x))                   ┘
//! ```
//!
//! Where a head reads first tokens alone ([`Rows::First`]), the last layer computes keys and values of every token, but queries, output
//! projection and feed-forward of first tokens only.

mod load;
mod workspace;

pub(super) use self::workspace::Workspace;
use crate::backend::{Activation, AttentionShape, Backend, Columns, Embeddings, Norm, Pooling, Rows};
use crate::error::Result;

/// An encoder's parameters on a device.
pub(super) struct Encoder<B: Backend> {
    embeddings: Embeddings<B>,
    /// From the embeddings' width to E.
    projection: Option<B::Linear>,
    /// Every distinct layer.
    layers: Vec<Layer<B>>,
    /// Which layer each step uses, the last step left out.
    steps: Vec<usize>,
    /// Which layer the last step uses.
    last: usize,
    /// The last step's input projections in two, where only first tokens are read of it.
    last_split: Option<SplitProjection<B>>,
    activation: Activation,
    heads: usize,
    width: usize,
    inner_width: usize,
}

/// One layer's parameters.
struct Layer<B: Backend> {
    /// `[3E, E]`: queries, keys and values at once.
    projection: B::Linear,
    /// `[E, E]`
    attention_out: B::Linear,
    attention_norm: Norm<B>,
    /// `[F, E]`
    inner: B::Linear,
    /// `[E, F]`
    outer: B::Linear,
    outer_norm: Norm<B>,
}

/// A layer's input projections, where queries are asked for other tokens than keys and values.
struct SplitProjection<B: Backend> {
    /// `[E, E]`
    query: B::Linear,
    /// `[2E, E]`
    key_value: B::Linear,
}

/// A batch on its way through the encoder: where, with what, how large.
pub(super) struct Pass<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) space: &'a mut Workspace<B>,
    pub(super) batch: &'a B::Batch,
    /// T.
    pub(super) tokens: usize,
    /// B.
    pub(super) sequences: usize,
}

impl<B: Backend> Encoder<B> {
    /// E.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    fn embedding_width(&self) -> usize {
        self.embeddings.norm.width
    }

    /// Leaves the last layer's hidden states in `pass.space.hidden`, one row a token, or one a sequence where the encoder was loaded for
    /// [`Rows::First`].
    pub(super) fn forward(&self, pass: &mut Pass<'_, B>) -> Result<()> {
        pass.space.reserve(pass.backend, self, pass.tokens)?;
        self.embed(pass)?;
        for step in &self.steps {
            self.step(pass, &self.layers[*step])?;
        }
        let layer = &self.layers[self.last];
        match &self.last_split {
            None => self.step(pass, layer),
            Some(projection) => {
                self.attend_first(pass, layer, projection)?;
                self.feed_forward(pass, layer, pass.sequences)
            }
        }
    }

    /// The embedding stage, into `hidden`.
    fn embed(&self, pass: &mut Pass<'_, B>) -> Result<()> {
        let Workspace { hidden, embedded, .. } = pass.space;
        match (&self.projection, embedded) {
            (Some(projection), Some(embedded)) => {
                pass.backend.embed(embedded, &self.embeddings, pass.batch)?;
                pass.backend.linear(hidden, embedded, projection, Activation::Identity, None, pass.tokens)
            }
            _ => pass.backend.embed(hidden, &self.embeddings, pass.batch),
        }
    }

    /// One layer over every token: `hidden` to itself.
    fn step(&self, pass: &mut Pass<'_, B>, layer: &Layer<B>) -> Result<()> {
        self.attend(pass, layer)?;
        self.feed_forward(pass, layer, pass.tokens)
    }

    /// Attention, its residual and normalisation.
    fn attend(&self, pass: &mut Pass<'_, B>, layer: &Layer<B>) -> Result<()> {
        let Pass { backend, batch, tokens, .. } = *pass;
        let Workspace { hidden, sum, projected, context, .. } = pass.space;
        backend.linear(projected, hidden, &layer.projection, Activation::Identity, None, tokens)?;
        let part = |part: usize| Columns { tensor: &*projected, stride: 3 * self.width, offset: part * self.width };
        backend.attention(context, part(0), part(1), part(2), batch, self.attention_shape(Rows::All))?;
        backend.linear(sum, context, &layer.attention_out, Activation::Identity, Some(hidden), tokens)?;
        backend.layer_norm(hidden, sum, &layer.attention_norm, tokens)
    }

    /// [`Self::attend`] for first tokens alone: `hidden` goes from one row a token to one a sequence.
    fn attend_first(&self, pass: &mut Pass<'_, B>, layer: &Layer<B>, projection: &SplitProjection<B>) -> Result<()> {
        let Pass { backend, batch, tokens, sequences, .. } = *pass;
        let Workspace { hidden, sum, projected, queries, context, .. } = pass.space;
        backend.linear(projected, hidden, &projection.key_value, Activation::Identity, None, tokens)?;
        backend.pool(context, hidden, batch, Pooling::First, self.width)?;
        // From here on the first tokens' rows, which are the residual as well, are the hidden states; the other buffer is free.
        std::mem::swap(hidden, context);
        backend.linear(queries, hidden, &projection.query, Activation::Identity, None, sequences)?;
        let query = Columns { tensor: &*queries, stride: self.width, offset: 0 };
        let part = |part: usize| Columns { tensor: &*projected, stride: 2 * self.width, offset: part * self.width };
        backend.attention(context, query, part(0), part(1), batch, self.attention_shape(Rows::First))?;
        backend.linear(sum, context, &layer.attention_out, Activation::Identity, Some(hidden), sequences)?;
        backend.layer_norm(hidden, sum, &layer.attention_norm, sequences)
    }

    /// The feed-forward layers, their residual and normalisation: the first `rows` rows of `hidden` to themselves.
    fn feed_forward(&self, pass: &mut Pass<'_, B>, layer: &Layer<B>, rows: usize) -> Result<()> {
        let Workspace { hidden, sum, inner, .. } = pass.space;
        pass.backend.linear(inner, hidden, &layer.inner, self.activation, None, rows)?;
        pass.backend.linear(sum, inner, &layer.outer, Activation::Identity, Some(hidden), rows)?;
        pass.backend.layer_norm(hidden, sum, &layer.outer_norm, rows)
    }

    fn attention_shape(&self, queries: Rows) -> AttentionShape {
        AttentionShape { heads: self.heads, head_width: self.width / self.heads, queries }
    }
}
