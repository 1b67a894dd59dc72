//! What a training pass keeps on its way forward, and the buffers of its way back. T tokens, E width, F inner width, K
//! classes.

use super::net::Sizes;
use crate::backend::Backend;
use crate::error::Result;

/// The buffers of one pass, grown to the largest batch they have met and used again.
pub(super) struct Tape<B: Backend> {
    /// T there is room for.
    tokens: usize,
    /// Rows of logits there is room for.
    rows: usize,
    /// `[T, embedding width]`: the sum of the tables' rows.
    pub(super) embedding_sum: B::Tensor,
    /// `[T, embedding width]`: what the projection reads, where there is one.
    pub(super) embedded: B::Tensor,
    pub(super) steps: Vec<Step<B>>,
    /// `[T, E]`, the last step's first tokens: their hidden states, queries. In a head on masks: the hidden states
    /// read, and what its first layer made of them.
    pub(super) first: B::Tensor,
    pub(super) queries: B::Tensor,
    /// `[T, E or embedding width]`: what the head's layers read (they trade places with `back.sum`), and the slope
    /// between them.
    pub(super) head_input: B::Tensor,
    pub(super) features: B::Tensor,
    pub(super) head_slope: B::Tensor,
    /// `[rows, K]`
    pub(super) logits: B::Tensor,
    pub(super) back: Back<B>,
}

/// What one step of the encoder leaves for its way back.
pub(super) struct Step<B: Backend> {
    /// `[T, E]`: the hidden states it read.
    pub(super) input: B::Tensor,
    /// `[T, 3E]`: queries, keys and values.
    pub(super) projected: B::Tensor,
    /// `[T, E]`: attention's output.
    pub(super) context: B::Tensor,
    /// `[T, E]`: the residual sum of attention.
    pub(super) attention_sum: B::Tensor,
    /// `[T, E]`: that, normalised.
    pub(super) middle: B::Tensor,
    /// `[T, F]`: the feed-forward layer's inner values, and the slope of their activation.
    pub(super) inner: B::Tensor,
    pub(super) slope: B::Tensor,
    /// `[T, E]`: the residual sum of the feed-forward layers.
    pub(super) outer_sum: B::Tensor,
}

/// Gradients on their way, and numbers not kept on the way forward.
pub(super) struct Back<B: Backend> {
    /// `[T, E or embedding width]`: that of the hidden states.
    pub(super) hidden: B::Tensor,
    /// The same: that of a residual sum; before dropout, on the way forward.
    pub(super) sum: B::Tensor,
    /// The same: what of it goes past a dropout.
    pub(super) dropped: B::Tensor,
    /// `[T, E]`
    pub(super) context: B::Tensor,
    /// `[T, F]`
    pub(super) inner: B::Tensor,
    /// `[T, 3E]`
    pub(super) projected: B::Tensor,
    /// `[rows, K]`
    pub(super) logits: B::Tensor,
    /// `[B]`: how far attention was from what it was drawn to.
    pub(super) guided: Vec<f64>,
}

impl<B: Backend> Tape<B> {
    /// Room for `tokens` tokens.
    pub(super) fn new(backend: &B, sizes: &Sizes, tokens: usize) -> Result<Self> {
        let rows = |width: usize| backend.tensor(tokens * width);
        let Sizes { width, embedding_width, inner_width, classes, chosen, .. } = *sizes;
        // Logits over a vocabulary are made for the rows that are read.
        let logit_rows = if chosen { 0 } else { tokens };
        let widest = width.max(embedding_width);
        let step = || {
            Ok(Step {
                input: rows(width)?,
                projected: rows(3 * width)?,
                context: rows(width)?,
                attention_sum: rows(width)?,
                middle: rows(width)?,
                inner: rows(inner_width)?,
                slope: rows(inner_width)?,
                outer_sum: rows(width)?,
            })
        };
        Ok(Self {
            tokens,
            rows: logit_rows,
            embedding_sum: rows(embedding_width)?,
            embedded: rows(embedding_width)?,
            steps: (0..sizes.steps).map(|_| step()).collect::<Result<_>>()?,
            first: rows(width)?,
            queries: rows(widest)?,
            head_input: rows(widest)?,
            features: rows(widest)?,
            head_slope: rows(widest)?,
            logits: backend.tensor(logit_rows * classes)?,
            back: Back {
                hidden: rows(widest)?,
                sum: rows(widest)?,
                dropped: rows(widest)?,
                context: rows(width)?,
                inner: rows(inner_width)?,
                projected: rows(3 * width)?,
                logits: backend.tensor(logit_rows * classes)?,
                guided: Vec::new(),
            },
        })
    }

    /// Numbers it has of each token.
    pub(super) fn numbers_a_token(sizes: &Sizes) -> usize {
        let Sizes { width, embedding_width, inner_width, classes, steps, .. } = *sizes;
        steps * (8 * width + 2 * inner_width)
            + 5 * width
            + 2 * embedding_width
            + inner_width
            + 2 * classes
            + 7 * width.max(embedding_width)
    }

    /// Makes room for so many rows of logits.
    pub(super) fn hold_rows(&mut self, backend: &B, sizes: &Sizes, rows: usize) -> Result<()> {
        if rows > self.rows {
            self.rows = rows;
            self.logits = backend.tensor(rows * sizes.classes)?;
            self.back.logits = backend.tensor(rows * sizes.classes)?;
        }
        Ok(())
    }

    /// Whether a batch of `tokens` tokens fits.
    pub(super) fn holds(&self, tokens: usize) -> bool {
        tokens <= self.tokens
    }
}
