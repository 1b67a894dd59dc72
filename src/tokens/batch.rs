//! Packed batches by token budget: sequences of similar length share a batch, none is padded, and each batch remembers
//! which sequences it holds so that results go back in input order.

use std::borrow::Borrow;
use std::cmp::Reverse;

use super::{Encoding, PackedBatch};

/// How a family numbers the rows of its position table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// 0, 1, 2, … (BERT and most others).
    FromZero,
    /// The RoBERTa families: the n-th token that is not padding (n from 1) is at `pad + n`, and a padding token, which
    /// a text can only hold by naming it, is at `pad` and is not counted. This is `create_position_ids_from_input_ids`
    /// of `transformers`.
    AfterPadding {
        /// The configuration's `pad_token_id`.
        pad: u32,
    },
}

impl Positions {
    /// The positions of one sequence.
    pub fn of(self, ids: &[u32]) -> Vec<u32> {
        let mut positions = Vec::with_capacity(ids.len());
        self.extend(&mut positions, ids);
        positions
    }

    /// Appends the positions of one sequence.
    fn extend(self, positions: &mut Vec<u32>, ids: &[u32]) {
        match self {
            Self::FromZero => positions.extend(0..ids.len() as u32),
            Self::AfterPadding { pad } => {
                let mut last = pad;
                positions.extend(ids.iter().map(|&id| {
                    if id == pad {
                        return pad;
                    }
                    last += 1;
                    last
                }));
            }
        }
    }
}

/// A packed batch and where its sequences came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// For each sequence of the batch, its place in the window that was packed: `[B]`.
    pub rows: Vec<usize>,
    /// The sequences.
    pub batch: PackedBatch,
}

/// Cuts a window of sequences into batches of at most `budget` tokens each, longest sequences first; a sequence longer
/// than the budget is a batch of its own. Every sequence is in exactly one batch, and the same window gives the same
/// batches.
///
/// Longest first because the batches are shared out among workers in order: the last ones to finish are then the cheap
/// ones.
pub fn pack<E: Borrow<Encoding>>(window: &[E], positions: Positions, budget: usize) -> Vec<MicroBatch> {
    let mut order: Vec<usize> = (0..window.len()).collect();
    order.sort_by_key(|&row| (Reverse(window[row].borrow().ids.len()), row));
    let mut batches: Vec<MicroBatch> = Vec::new();
    for row in order {
        let encoding = window[row].borrow();
        let fits = batches.last().is_some_and(|last| last.batch.tokens() + encoding.ids.len() <= budget);
        if !fits {
            batches.push(MicroBatch::default());
        }
        let last = batches.last_mut().expect("a batch was just pushed where there was none");
        last.push(row, encoding, positions);
    }
    batches
}

impl MicroBatch {
    fn push(&mut self, row: usize, encoding: &Encoding, positions: Positions) {
        let batch = &mut self.batch;
        if batch.cu_seqlens.is_empty() {
            batch.cu_seqlens.push(0);
        }
        batch.ids.extend_from_slice(&encoding.ids);
        batch.type_ids.extend_from_slice(&encoding.type_ids);
        positions.extend(&mut batch.positions, &encoding.ids);
        batch.cu_seqlens.push(batch.ids.len() as u32);
        self.rows.push(row);
    }
}
