//! The buffers a forward pass writes to, grown to the largest batch they have met and used again.

use super::Encoder;
use crate::backend::Backend;
use crate::error::Result;

/// One worker's buffers. T tokens, E width, F inner width, K classes.
pub(in crate::model) struct Workspace<B: Backend> {
    /// T there is room for, and so as many sequences: none is empty.
    tokens: usize,
    /// K.
    classes: usize,
    /// `[T, embedding width]`, where embeddings are projected.
    pub(super) embedded: Option<B::Tensor>,
    /// `[T, E]`: the hidden states a layer reads and leaves.
    pub(in crate::model) hidden: B::Tensor,
    /// `[T, E]`: a residual sum before its normalisation; at last the features.
    pub(in crate::model) sum: B::Tensor,
    /// `[T, 3E]`: queries, keys and values side by side.
    pub(super) projected: B::Tensor,
    /// `[T, E]`: queries of first tokens alone.
    pub(super) queries: B::Tensor,
    /// `[T, E]`: attention's output.
    pub(super) context: B::Tensor,
    /// `[T, F]`
    pub(super) inner: B::Tensor,
    /// `[T, K]`
    pub(in crate::model) logits: B::Tensor,
}

impl<B: Backend> Workspace<B> {
    /// Room for `tokens` tokens.
    pub(in crate::model) fn new(backend: &B, encoder: &Encoder<B>, classes: usize, tokens: usize) -> Result<Self> {
        let rows = |width: usize| backend.tensor(tokens * width);
        let width = encoder.width;
        Ok(Self {
            tokens,
            classes,
            embedded: encoder.projection.as_ref().map(|_| rows(encoder.embedding_width())).transpose()?,
            hidden: rows(width)?,
            sum: rows(width)?,
            projected: rows(3 * width)?,
            queries: rows(width)?,
            context: rows(width)?,
            inner: rows(encoder.inner_width)?,
            logits: rows(classes)?,
        })
    }

    /// Makes room for `tokens` tokens: by half as much again as there was, so that slowly growing batches do not allocate each time.
    pub(super) fn reserve(&mut self, backend: &B, encoder: &Encoder<B>, tokens: usize) -> Result<()> {
        if tokens > self.tokens {
            *self = Self::new(backend, encoder, self.classes, tokens.max(self.tokens + self.tokens / 2))?;
        }
        Ok(())
    }
}
