//! One batch on its way through the network and back.

use super::DropoutRates;
use super::net::Sizes;
use crate::backend::training::{Dropout, Guide, Place, Training};
use crate::backend::{Attended, AttentionShape, Columns, Rows};
use crate::error::Result;

/// A batch, and what it loses.
pub(super) struct Pass<'a, B: Training> {
    pub(super) backend: &'a B,
    pub(super) batch: &'a B::Batch,
    /// T.
    pub(super) tokens: usize,
    /// B.
    pub(super) sequences: usize,
    pub(super) losing: Option<Losing<'a>>,
    /// What the last step's attention is drawn to.
    pub(super) guidance: Option<Guidance<'a>>,
}

/// What the attention of a batch's first tokens is drawn to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guidance<'a> {
    /// Where sequences start, and where the last one ends.
    pub(super) starts: &'a [u32],
    /// One a sequence.
    pub(super) guides: &'a [Guide<'a>],
}

/// What a pass drops.
#[derive(Clone, Copy, Debug)]
pub(super) struct Losing<'a> {
    pub(super) seed: u64,
    pub(super) epoch: u32,
    pub(super) rates: DropoutRates,
    /// Each sequence's record.
    pub(super) records: &'a [u32],
}

/// A place of the network where numbers are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    Embeddings,
    HeadInput,
    Features,
    /// Weights of the step's attention.
    Attention(usize),
    AttentionOut(usize),
    FeedForward(usize),
}

impl Site {
    /// Sites of an epoch; more than any network has.
    const STRIDE: u32 = 1 << 12;

    fn number(self) -> u32 {
        match self {
            Self::Embeddings => 0,
            Self::HeadInput => 1,
            Self::Features => 2,
            Self::Attention(step) => 4 + 4 * step as u32,
            Self::AttentionOut(step) => 5 + 4 * step as u32,
            Self::FeedForward(step) => 6 + 4 * step as u32,
        }
    }
}

impl<'a, B: Training> Pass<'a, B> {
    /// What is dropped at `site`, if anything.
    pub(super) fn dropout(&self, site: Site) -> Option<Dropout<'a>> {
        let Losing { seed, epoch, rates, records } = self.losing?;
        let rate = match site {
            Site::Attention(_) => rates.attention,
            Site::HeadInput | Site::Features => rates.head,
            Site::Embeddings | Site::AttentionOut(_) | Site::FeedForward(_) => rates.hidden,
        };
        Dropout::new(seed, rate, epoch.wrapping_mul(Site::STRIDE).wrapping_add(site.number()), records)
    }

    /// `out = x ∘ factors + residual`, over tokens or sequences.
    pub(super) fn drop(
        &self,
        out: &mut B::Tensor,
        x: &B::Tensor,
        residual: Option<&B::Tensor>,
        dropout: &Dropout<'_>,
        (rows, width): (Rows, usize),
    ) -> Result<()> {
        self.backend.dropout(out, x, residual, dropout, Place { batch: self.batch, rows, width })
    }

    /// How many rows that is.
    pub(super) fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::All => self.tokens,
            Rows::First => self.sequences,
        }
    }

    /// What a step's attention reads: of `projected` alone, or with first tokens' `queries`.
    pub(super) fn attended<'b>(
        &'b self,
        projected: &'b B::Tensor,
        queries: Option<&'b B::Tensor>,
        sizes: &Sizes,
    ) -> Attended<'b, B> {
        let Sizes { width, heads, .. } = *sizes;
        let parts = if queries.is_some() { 2 } else { 3 };
        let part = |part: usize| Columns { tensor: projected, stride: parts * width, offset: part * width };
        let rows = if queries.is_some() { Rows::First } else { Rows::All };
        let q = match queries {
            Some(tensor) => Columns { tensor, stride: width, offset: 0 },
            None => part(0),
        };
        let shape = AttentionShape { heads, head_width: width / heads, queries: rows };
        Attended { q, k: part(parts - 2), v: part(parts - 1), batch: self.batch, shape }
    }
}
