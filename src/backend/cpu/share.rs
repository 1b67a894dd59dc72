//! An operation shared out among the threads of the pool: rows, or whole sequences, each with its own part of what is
//! written.
//!
//! Rows do not depend on each other, so neither does any bit on how they are shared out.

use std::ops::Range;

use super::Cpu;
use crate::tokens::PackedBatch;

/// Fewest rows worth a share of their own, and the most: a few passes of a linear layer's row block.
const SHARE: (usize, usize) = (32, 240);

impl Cpu {
    /// `0..rows` in parts for the threads; in one where operations are not shared out.
    pub(super) fn row_shares(self, rows: usize) -> Vec<Range<usize>> {
        if !self.shared {
            return std::iter::once(0..rows).collect();
        }
        let share = rows.div_ceil(rayon::current_num_threads()).clamp(SHARE.0, SHARE.1);
        let count = rows.div_ceil(share).max(1);
        (0..count).map(|i| i * rows / count..(i + 1) * rows / count).collect()
    }

    /// A batch's sequences in such parts.
    pub(super) fn sequence_shares(self, batch: &PackedBatch) -> Vec<Range<usize>> {
        let all = batch.sequences();
        if !self.shared {
            return std::iter::once(0..all).collect();
        }
        let share = batch.tokens().div_ceil(rayon::current_num_threads()).clamp(SHARE.0, SHARE.1);
        let (mut shares, mut start) = (Vec::new(), 0);
        for sequence in 0..all {
            if batch.range(sequence).end - batch.range(start).start >= share || sequence + 1 == all {
                shares.push(start..sequence + 1);
                start = sequence + 1;
            }
        }
        shares
    }
}

/// `values` in consecutive parts of these lengths.
pub(super) fn split(mut values: &mut [f32], lengths: impl IntoIterator<Item = usize>) -> Vec<&mut [f32]> {
    let mut parts = Vec::new();
    for length in lengths {
        let (part, rest) = values.split_at_mut(length);
        parts.push(part);
        values = rest;
    }
    parts
}
