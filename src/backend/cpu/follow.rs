//! Row vectors down through attention maps.

use crate::backend::{Rows, Step};
use crate::tokens::PackedBatch;

/// Chains of a sum: rows are dealt out to them, and they are added up as a tree.
const PARTS: usize = 8;

/// `out [T] = own · row + below · (row A)` in each sequence.
pub(super) fn follow(out: &mut [f32], row: &[f32], maps: &[f32], batch: &PackedBatch, step: &Step<'_>) {
    let mut maps = maps;
    for (sequence, &below) in step.below.iter().enumerate() {
        let range = batch.range(sequence);
        let length = range.len();
        let rows = if step.queries == Rows::First { 1 } else { length };
        let (map, rest) = maps.split_at(rows * length);
        let (row, out) = (&row[range.clone()], &mut out[range]);
        let mut parts = vec![0.0_f32; PARTS * length];
        for (r, (share, seen)) in row.iter().zip(map.chunks_exact(length)).enumerate() {
            let sums = &mut parts[r % PARTS * length..][..length];
            sums.iter_mut().zip(seen).for_each(|(sum, a)| *sum = share.mul_add(*a, *sum));
        }
        for half in [4, 2, 1] {
            let (low, high) = parts.split_at_mut(half * length);
            low.iter_mut().zip(high).for_each(|(low, high)| *low += *high);
        }
        for ((out, own), sum) in out.iter_mut().zip(row).zip(&parts) {
            *out = step.own * own + below * sum;
        }
        maps = rest;
    }
}
