//! Attention maps: what each asking token sees in each token of its sequence, over all heads.

use super::super::gemm::lines;
use super::super::simd::{Isa, Kernel, LANES, Vector};
use super::pack::{Packed, grow};
use super::{STRIP, Sequences, exponentials, left, padded, scores};
use crate::backend::cpu::Cpu;
use crate::backend::{Attended, AttentionMap, Columns};
use std::cell::RefCell;
use std::ops::Range;

/// As [`crate::backend::Backend::attention_map`] says.
pub(in crate::backend::cpu) fn map(
    isa: Isa,
    out: &mut [f32],
    attended: &Attended<'_, Cpu>,
    map: &AttentionMap<'_, Cpu>,
) {
    let width = attended.shape.heads * attended.shape.head_width;
    let d_out = match map {
        AttentionMap::GradientWeights(d_out) => Some(Columns { tensor: d_out.as_slice(), stride: width, offset: 0 }),
        AttentionMap::Weights | AttentionMap::Scores => None,
    };
    let raw = matches!(map, AttentionMap::Scores);
    SCRATCH.with_borrow_mut(|scratch| {
        isa.run(Map { out, raw, d_out, sequences: Sequences::of(attended), scratch });
    });
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// One sequence's operands.
struct Scratch {
    keys: Packed,
    values: Packed,
    /// `[STRIP][L, padded]`
    weights: Vec<f32>,
    /// `[STRIP][L, padded]`: their gradients.
    slopes: Vec<f32>,
}

impl Scratch {
    const fn new() -> Self {
        Self { keys: Packed::new(), values: Packed::new(), weights: Vec::new(), slopes: Vec::new() }
    }
}

struct Map<'a> {
    out: &'a mut [f32],
    /// Scores rather than weights.
    raw: bool,
    /// The gradient of attention's output, where weights are to be multiplied by their own.
    d_out: Option<Columns<'a, [f32]>>,
    sequences: Sequences<'a>,
    scratch: &'a mut Scratch,
}

impl Kernel for Map<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        let mut start = 0;
        for sequence in 0..self.sequences.attended.batch.sequences() {
            let (tokens, asking) = self.sequences.rows(sequence);
            let length = tokens.len();
            self.pack::<V>(tokens);
            let end = start + asking.len() * length;
            self.out[start..end].fill(0.0);
            for head in 0..self.sequences.heads() {
                for row in asking.clone().step_by(STRIP) {
                    let rows = row..asking.end.min(row + STRIP);
                    self.strip::<V>(rows, start + (row - asking.start) * length, length, head);
                }
            }
            if !self.raw {
                let share = (self.sequences.heads() as f32).recip();
                self.out[start..end].iter_mut().for_each(|x| *x *= share);
            }
            start = end;
        }
    }
}

impl Map<'_> {
    #[inline(always)]
    fn pack<V: Vector>(&mut self, tokens: Range<usize>) {
        let Sequences { k, v, .. } = &self.sequences;
        let scratch = &mut *self.scratch;
        grow(&mut scratch.weights, STRIP * padded::<V>(tokens.len()), 0.0);
        scratch.keys.columns::<V>(self.sequences.part(k), tokens.clone());
        if self.d_out.is_some() {
            grow(&mut scratch.slopes, STRIP * padded::<V>(tokens.len()), 0.0);
            scratch.values.columns::<V>(self.sequences.part(v), tokens);
        }
    }

    /// Adds one head's numbers of some rows to `out`, from `start` on.
    #[inline(always)]
    fn strip<V: Vector>(&mut self, rows: Range<usize>, start: usize, length: usize, head: usize) {
        let (width, stride) = (self.sequences.width(), padded::<V>(length));
        debug_assert_eq!(stride % (lines::<V>() * LANES), 0);
        let scale = (width as f32).sqrt().recip();
        let Scratch { keys, values, weights, slopes } = &mut *self.scratch;
        scores::<V>(weights, left(&self.sequences.q, &rows, head, width), keys.head(head), length, width);
        if let Some(d_out) = &self.d_out {
            scores::<V>(slopes, left(d_out, &rows, head, width), values.head(head), length, width);
        }
        let out = self.out[start..].chunks_exact_mut(length).zip(weights.chunks_exact_mut(stride)).take(rows.len());
        for (row, (out, weights)) in out.enumerate() {
            let share = if self.raw { scale } else { 1.0 / exponentials::<V>(weights, length, scale) };
            if self.d_out.is_none() {
                out.iter_mut().zip(&*weights).for_each(|(out, &weight)| *out += weight * share);
            } else {
                let pairs = weights.iter().zip(&slopes[row * stride..]);
                out.iter_mut()
                    .zip(pairs)
                    .for_each(|(out, (&weight, &slope))| *out += (weight * share * slope).max(0.0));
            }
        }
    }
}
