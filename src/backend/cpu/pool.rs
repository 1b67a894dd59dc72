//! A sequence's hidden states to one vector: each column by itself, tokens in order.

use crate::backend::Pooling;
use crate::tokens::PackedBatch;

/// `out [B, width]` from `x [T, width]`.
pub(super) fn pool(out: &mut [f32], x: &[f32], batch: &PackedBatch, pooling: Pooling, width: usize) {
    for sequence in 0..batch.sequences() {
        let out = &mut out[sequence * width..][..width];
        let tokens = batch.range(sequence);
        let x = &x[tokens.start * width..tokens.end * width];
        let rows = x.chunks_exact(width.max(1));
        let length = rows.len() as f32;
        match pooling {
            Pooling::First => fold(out, rows.take(1), 0.0, |sum, x| sum + x),
            Pooling::Mean | Pooling::MeanSqrtLength => fold(out, rows, 0.0, |sum, x| sum + x),
            Pooling::Max => fold(out, rows, f32::NEG_INFINITY, |largest, x| if largest > x { largest } else { x }),
        }
        match pooling {
            Pooling::First | Pooling::Max => {}
            Pooling::Mean => out.iter_mut().for_each(|x| *x /= length),
            Pooling::MeanSqrtLength => out.iter_mut().for_each(|x| *x /= length.sqrt()),
        }
    }
}

/// Adds row b of `rows [B, width]` to the first token of sequence b.
pub(super) fn add_to_first(x: &mut [f32], rows: &[f32], batch: &PackedBatch, width: usize) {
    for (sequence, row) in rows.chunks_exact(width.max(1)).take(batch.sequences()).enumerate() {
        let first = &mut x[batch.range(sequence).start * width..][..width];
        first.iter_mut().zip(row).for_each(|(x, y)| *x += y);
    }
}

/// Folds rows into `out`, column by column.
fn fold<'a>(out: &mut [f32], rows: impl Iterator<Item = &'a [f32]>, start: f32, step: impl Fn(f32, f32) -> f32) {
    out.fill(start);
    for row in rows {
        out.iter_mut().zip(row).for_each(|(out, &x)| *out = step(*out, x));
    }
}
