//! The forward pass, written once for every family and device as a sequence of [`Backend`] operations on packed
//! batches.
//!
//! ```text
//! x = LN(word + position + type [+ task])             [projected to E where the embeddings are narrower]
//! x = LN(x + W_o · attention(W_q x, W_k x, W_v x))    ┐ each layer
//! x = LN(x + W₂ · activation(W₁ x))                   ┘
//! ```
//!
//! Where a head reads first tokens alone ([`Rows::First`]), the last layer computes keys and values of every token, but
//! queries, output projection and feed-forward of first tokens only.

mod backward;
mod load;
mod maps;
mod workspace;

pub(super) use self::load::distinct;
pub(super) use self::maps::{Maps, Wanted};
use self::workspace::Step;
pub(super) use self::workspace::{Back, Workspace};
use crate::backend::{Activation, Attended, AttentionShape, Backend, Columns, Embeddings, Norm, Pooling, Rows};
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
    /// Where its sequences stand between a baseline and their own embeddings; at their own where there is none.
    pub(super) path: Option<&'a B::Path>,
    /// T.
    pub(super) tokens: usize,
    /// B.
    pub(super) sequences: usize,
    /// Whether there will be a way back: each layer then leaves what its backward reads.
    pub(super) keep: bool,
}

impl<B: Backend> Encoder<B> {
    /// E.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn embedding_width(&self) -> usize {
        self.embeddings.norm.width
    }

    /// How many layers a pass goes through.
    pub(super) fn depth(&self) -> usize {
        self.steps.len() + 1
    }

    /// Leaves the last layer's hidden states in `pass.space.hidden`, one row a token, or one a sequence where the
    /// encoder was loaded for [`Rows::First`].
    pub(super) fn forward(&self, pass: &mut Pass<'_, B>, maps: &mut Maps<B>) -> Result<()> {
        self.embed(pass)?;
        for (number, step) in self.steps.iter().enumerate() {
            self.step(pass, number, &self.layers[*step], maps)?;
        }
        let (number, layer) = (self.steps.len(), &self.layers[self.last]);
        match &self.last_split {
            None => self.step(pass, number, layer, maps),
            Some(projection) => {
                self.attend_first(pass, number, layer, projection, maps)?;
                self.feed_forward(pass, number, layer, pass.sequences)
            }
        }
    }

    /// The embedding stage, into `hidden`.
    fn embed(&self, pass: &mut Pass<'_, B>) -> Result<()> {
        let Workspace { hidden, embedded, .. } = pass.space;
        let stage = |out: &mut B::Tensor| match pass.path {
            Some(path) => pass.backend.embed_path(out, &self.embeddings, pass.batch, path),
            None => pass.backend.embed(out, &self.embeddings, pass.batch),
        };
        match (&self.projection, embedded) {
            (Some(projection), Some(embedded)) => {
                stage(embedded)?;
                pass.backend.linear(hidden, embedded, projection, Activation::Identity, None, pass.tokens)
            }
            _ => stage(hidden),
        }
    }

    /// One layer over every token: `hidden` to itself.
    fn step(&self, pass: &mut Pass<'_, B>, number: usize, layer: &Layer<B>, maps: &mut Maps<B>) -> Result<()> {
        self.attend(pass, number, layer, maps)?;
        self.feed_forward(pass, number, layer, pass.tokens)
    }

    /// Attention, its residual and normalisation.
    fn attend(&self, pass: &mut Pass<'_, B>, number: usize, layer: &Layer<B>, maps: &mut Maps<B>) -> Result<()> {
        let Pass { backend, batch, tokens, keep, .. } = *pass;
        let Workspace { hidden, context, steps, .. } = pass.space;
        let Step { projected, attention_sum, .. } = &mut steps[if keep { number } else { 0 }];
        backend.linear(projected, hidden, &layer.projection, Activation::Identity, None, tokens)?;
        let attended = self.attended(projected, batch);
        backend.attention(context, &attended)?;
        maps.of_forward(backend, number, &attended)?;
        backend.linear(attention_sum, context, &layer.attention_out, Activation::Identity, Some(hidden), tokens)?;
        backend.layer_norm(hidden, attention_sum, &layer.attention_norm, tokens)
    }

    /// [`Self::attend`] for first tokens alone: `hidden` goes from one row a token to one a sequence.
    fn attend_first(
        &self,
        pass: &mut Pass<'_, B>,
        number: usize,
        layer: &Layer<B>,
        projection: &SplitProjection<B>,
        maps: &mut Maps<B>,
    ) -> Result<()> {
        let Pass { backend, batch, tokens, sequences, keep, .. } = *pass;
        let Workspace { hidden, queries, context, steps, .. } = pass.space;
        let Step { projected, attention_sum, .. } = &mut steps[if keep { number } else { 0 }];
        backend.linear(projected, hidden, &projection.key_value, Activation::Identity, None, tokens)?;
        backend.pool(context, hidden, batch, Pooling::First, self.width)?;
        // From here on the first tokens' rows, which are the residual as well, are the hidden states; the other buffer
        // is free.
        std::mem::swap(hidden, context);
        backend.linear(queries, hidden, &projection.query, Activation::Identity, None, sequences)?;
        let attended = self.attended_first(queries, projected, batch);
        backend.attention(context, &attended)?;
        maps.of_forward(backend, number, &attended)?;
        backend.linear(attention_sum, context, &layer.attention_out, Activation::Identity, Some(hidden), sequences)?;
        backend.layer_norm(hidden, attention_sum, &layer.attention_norm, sequences)
    }

    /// The feed-forward layers, their residual and normalisation: the first `rows` rows of `hidden` to themselves.
    fn feed_forward(&self, pass: &mut Pass<'_, B>, number: usize, layer: &Layer<B>, rows: usize) -> Result<()> {
        let Pass { backend, keep, .. } = *pass;
        let Workspace { hidden, inner, steps, .. } = pass.space;
        let Step { attention_sum, slope, outer_sum, .. } = &mut steps[if keep { number } else { 0 }];
        match slope {
            Some(slope) if keep => {
                backend.linear_with_slope(inner, slope, hidden, &layer.inner, self.activation, rows)?;
            }
            _ => backend.linear(inner, hidden, &layer.inner, self.activation, None, rows)?,
        }
        let sum = outer_sum.as_mut().filter(|_| keep).unwrap_or(attention_sum);
        backend.linear(sum, inner, &layer.outer, Activation::Identity, Some(hidden), rows)?;
        backend.layer_norm(hidden, sum, &layer.outer_norm, rows)
    }

    fn attention_shape(&self, queries: Rows) -> AttentionShape {
        AttentionShape { heads: self.heads, head_width: self.width / self.heads, queries }
    }

    /// What a layer's attention reads of `projected [T, 3E]`.
    fn attended<'a>(&self, projected: &'a B::Tensor, batch: &'a B::Batch) -> Attended<'a, B> {
        let part = |part: usize| Columns { tensor: projected, stride: 3 * self.width, offset: part * self.width };
        Attended { q: part(0), k: part(1), v: part(2), batch, shape: self.attention_shape(Rows::All) }
    }

    /// What the last layer's reads of `queries [B, E]` and `projected [T, 2E]`, where first tokens alone ask.
    fn attended_first<'a>(
        &self,
        queries: &'a B::Tensor,
        projected: &'a B::Tensor,
        batch: &'a B::Batch,
    ) -> Attended<'a, B> {
        let q = Columns { tensor: queries, stride: self.width, offset: 0 };
        let part = |part: usize| Columns { tensor: projected, stride: 2 * self.width, offset: part * self.width };
        Attended { q, k: part(0), v: part(1), batch, shape: self.attention_shape(Rows::First) }
    }
}
