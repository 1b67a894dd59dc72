//! The buffers a pass writes to, grown to the largest batch they have met and used again.

use super::Encoder;
use crate::backend::Backend;
use crate::error::Result;

/// One worker's buffers. T tokens, E width, F inner width, K classes.
pub(in crate::model) struct Workspace<B: Backend> {
    /// T there is room for, and so as many sequences: none is empty.
    tokens: usize,
    /// `[T, embedding width]`, where embeddings are projected.
    pub(super) embedded: Option<B::Tensor>,
    /// `[T, E]`: the hidden states a layer reads and leaves; on the way back, their gradient.
    pub(in crate::model) hidden: B::Tensor,
    /// `[T, E]`: the features; on the way back, the gradient of a residual sum.
    pub(in crate::model) sum: B::Tensor,
    /// `[T, E]`: queries of first tokens alone.
    pub(super) queries: B::Tensor,
    /// `[T, E]`: attention's output; on the way back, its gradient.
    pub(super) context: B::Tensor,
    /// `[T, max(E, F)]`: the feed-forward layer's inner values; on the way back, the gradient of the sums before their
    /// activation, and of the queries of first tokens alone.
    pub(super) inner: B::Tensor,
    /// `[T, K]`
    pub(in crate::model) logits: B::Tensor,
    /// What each step of the encoder computes and its backward reads: one for all where there will be none.
    pub(super) steps: Vec<Step<B>>,
    /// What only the way back needs.
    pub(in crate::model) back: Option<Back<B>>,
}

/// What one layer leaves for its backward.
pub(super) struct Step<B: Backend> {
    /// `[T, 3E]`: queries, keys and values side by side.
    pub(super) projected: B::Tensor,
    /// `[T, E]`: the residual sum of attention, before its normalisation.
    pub(super) attention_sum: B::Tensor,
    /// `[T, F]`: the slope of the feed-forward layer's activation at its sums. Only where it will be read.
    pub(super) slope: Option<B::Tensor>,
    /// `[T, E]`: the residual sum of the feed-forward layer, before its normalisation. Where it will not be read, that
    /// of attention is written over.
    pub(super) outer_sum: Option<B::Tensor>,
}

/// Buffers of the way back alone.
pub(in crate::model) struct Back<B: Backend> {
    /// `[T, 3E]`: the gradient of queries, keys and values.
    pub(super) projected: B::Tensor,
    /// `[T, E]`: the gradient of first tokens' hidden states, where those of all tokens are in `hidden`.
    pub(super) first: B::Tensor,
    /// `[T, E]`: the slope of the head's activation at its sums.
    pub(in crate::model) head: B::Tensor,
    /// `[T, K]`: the gradient of the logits.
    pub(in crate::model) logits: B::Tensor,
}

impl<B: Backend> Workspace<B> {
    /// Room for `tokens` tokens, and for a way back where there will be one.
    pub(in crate::model) fn new(
        backend: &B,
        encoder: &Encoder<B>,
        classes: usize,
        tokens: usize,
        back: bool,
    ) -> Result<Self> {
        let rows = |width: usize| backend.tensor(tokens * width);
        let (width, inner_width) = (encoder.width, encoder.inner_width);
        let step = || -> Result<Step<B>> {
            Ok(Step {
                projected: rows(3 * width)?,
                attention_sum: rows(width)?,
                slope: back.then(|| rows(inner_width)).transpose()?,
                outer_sum: back.then(|| rows(width)).transpose()?,
            })
        };
        let steps = if back { encoder.steps.len() + 1 } else { 1 };
        let room_back = || -> Result<Back<B>> {
            let (projected, first) = (rows(3 * width)?, rows(width)?);
            Ok(Back { projected, first, head: rows(width)?, logits: rows(classes)? })
        };
        Ok(Self {
            tokens,
            embedded: encoder.projection.as_ref().map(|_| rows(encoder.embedding_width())).transpose()?,
            hidden: rows(width)?,
            sum: rows(width)?,
            queries: rows(width)?,
            context: rows(width)?,
            inner: rows(inner_width.max(width))?,
            logits: rows(classes)?,
            steps: (0..steps).map(|_| step()).collect::<Result<_>>()?,
            back: back.then(room_back).transpose()?,
        })
    }

    /// How many numbers there are of a token, with room for a way back.
    pub(in crate::model) fn numbers_a_token(encoder: &Encoder<B>, classes: usize) -> usize {
        let (width, inner) = (encoder.width, encoder.inner_width);
        let steps = (encoder.steps.len() + 1) * (5 * width + inner);
        let embedded = encoder.projection.as_ref().map_or(0, |_| encoder.embedding_width());
        let there = embedded + 4 * width + inner.max(width) + classes;
        let back = 5 * width + classes;
        steps + there + back
    }

    /// Whether there is room for a way back.
    pub(in crate::model) fn goes_back(&self) -> bool {
        self.back.is_some()
    }

    /// Whether there is room for so many tokens, and for a way back where there will be one.
    pub(in crate::model) fn takes(&self, tokens: usize, back: bool) -> bool {
        tokens <= self.tokens && (self.goes_back() || !back)
    }

    /// Tokens that its successor has room for.
    pub(in crate::model) fn grown(&self, tokens: usize) -> usize {
        if tokens > self.tokens { tokens.max(self.tokens + self.tokens / 2) } else { self.tokens }
    }
}
