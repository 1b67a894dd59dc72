//! Attention, a sequence and head at a time, never padded: scores, softmax and mixing of a strip of rows while they are in cache.
//!
//! Kᵀ and V of the head are packed into panels, so both products are those of [`super::gemm`]: a score is one chain over D, a
//! mixed value one chain over the sequence's own tokens. The softmax is taken off its largest score; its weights are divided by their sum after
//! the mixing, on D numbers rather than L.

use super::activation::exp;
use super::gemm::{Left, Line, Panel, Target, lines, strip};
use super::simd::{Isa, Kernel, LANES, Vector};
use crate::backend::{AttentionShape, Columns, Rows};
use crate::tokens::PackedBatch;
use std::cell::RefCell;
use std::ops::Range;

/// What an attention reads.
pub(super) struct Inputs<'a> {
    pub(super) q: Columns<'a, Vec<f32>>,
    pub(super) k: Columns<'a, Vec<f32>>,
    pub(super) v: Columns<'a, Vec<f32>>,
    pub(super) batch: &'a PackedBatch,
    pub(super) shape: AttentionShape,
}

/// `out [T or B, H·D] = softmax(q kᵀ / √D) v`, as [`crate::backend::Backend::attention`] says.
pub(super) fn attention(isa: Isa, out: &mut [f32], inputs: &Inputs<'_>) {
    SCRATCH.with_borrow_mut(|scratch| isa.run(Attention { out, inputs, scratch }));
}

/// Queries taken at a time: their scores stay in the second-level cache at 512 tokens, and a panel of keys serves all of them.
const STRIP: usize = 24;

thread_local! {
    /// Grows to the longest sequence a thread has met.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { keys: Vec::new(), values: Vec::new(), scores: Vec::new() }) };
}

/// One head's operands.
struct Scratch {
    /// Kᵀ in panels of tokens, each `[D][lines]`.
    keys: Vec<Line>,
    /// V in panels of columns, each `[L][lines]`.
    values: Vec<Line>,
    /// `[STRIP][L, padded to whole panels]`
    scores: Vec<f32>,
}

struct Attention<'a> {
    out: &'a mut [f32],
    inputs: &'a Inputs<'a>,
    scratch: &'a mut Scratch,
}

impl Kernel for Attention<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        let Inputs { batch, shape, .. } = *self.inputs;
        for sequence in 0..batch.sequences() {
            let tokens = batch.range(sequence);
            let asking = match shape.queries {
                Rows::All => tokens.clone(),
                Rows::First => sequence..sequence + 1,
            };
            for head in 0..shape.heads {
                self.pack::<V>(tokens.clone(), head);
                for row in asking.clone().step_by(STRIP) {
                    self.strip::<V>(row..asking.end.min(row + STRIP), tokens.len(), head);
                }
            }
        }
    }
}

impl Attention<'_> {
    /// Packs one head's keys and values.
    #[inline(always)]
    fn pack<V: Vector>(&mut self, tokens: Range<usize>, head: usize) {
        let Inputs { k, v, shape, .. } = self.inputs;
        let (lines, width, length) = (lines::<V>(), shape.head_width, tokens.len());
        let panel = lines * LANES;
        grow(&mut self.scratch.keys, length.div_ceil(panel) * width * lines, Line::ZERO);
        grow(&mut self.scratch.values, width.div_ceil(panel) * length * lines, Line::ZERO);
        grow(&mut self.scratch.scores, STRIP * length.next_multiple_of(panel), 0.0);
        for (token, row) in tokens.enumerate() {
            pack_column(&mut self.scratch.keys, head_of(k, row, head, width), token, lines);
            pack_row(&mut self.scratch.values, head_of(v, row, head, width), token, length, lines);
        }
    }

    /// Some queries of one head, from scores to output.
    #[inline(always)]
    fn strip<V: Vector>(&mut self, rows: Range<usize>, length: usize, head: usize) {
        let Inputs { q, shape, .. } = self.inputs;
        let (lines, width) = (lines::<V>(), shape.head_width);
        let panel = lines * LANES;
        let Scratch { keys, values, scores } = &mut *self.scratch;
        let stride = length.next_multiple_of(panel);

        let queries = Left {
            values: &q.tensor[rows.start * q.stride + q.offset + head * width..],
            stride: q.stride,
            rows: rows.len(),
        };
        for first in (0..length).step_by(panel) {
            let packed = &keys[first / panel * width * lines..][..width * lines];
            let mut target = Target { values: &mut scores[first..], stride, columns: panel };
            strip::<V>(&mut target, queries, Panel::whole(packed));
        }

        let mut scales = [0.0; STRIP];
        for (row, scale) in scores.chunks_exact_mut(stride.max(1)).zip(&mut scales[..rows.len()]) {
            *scale = 1.0 / exponentials::<V>(row, length, (width as f32).sqrt().recip());
        }

        let weights = Left { values: scores, stride, rows: rows.len() };
        let out_width = shape.heads * width;
        let out = &mut self.out[rows.start * out_width + head * width..];
        for first in (0..width).step_by(panel) {
            let packed = &values[first / panel * length * lines..][..length * lines];
            let columns = panel.min(width - first);
            strip::<V>(
                &mut Target { values: &mut out[first..], stride: out_width, columns },
                weights,
                Panel::whole(packed),
            );
        }
        for (row, scale) in scales[..rows.len()].iter().enumerate() {
            out[row * out_width..][..width].iter_mut().for_each(|x| *x *= scale);
        }
    }
}

/// One head's columns of one row.
#[inline(always)]
fn head_of<'a>(matrix: &Columns<'a, Vec<f32>>, row: usize, head: usize, width: usize) -> &'a [f32] {
    &matrix.tensor[row * matrix.stride + matrix.offset + head * width..][..width]
}

/// Puts a key into its column of the panels.
#[inline(always)]
fn pack_column(panels: &mut [Line], key: &[f32], token: usize, lines: usize) {
    let (panel, column) = (token / (lines * LANES), token % (lines * LANES));
    let panel = &mut panels[panel * key.len() * lines..][..key.len() * lines];
    for (k, &x) in key.iter().enumerate() {
        panel[k * lines + column / LANES].0[column % LANES] = x;
    }
}

/// Puts a value into its row of the panels. What is beyond its width in the last line is left as it was, and never stored.
#[inline(always)]
fn pack_row(panels: &mut [Line], value: &[f32], token: usize, length: usize, lines: usize) {
    for (line, part) in value.chunks(LANES).enumerate() {
        let at = (line / lines * length + token) * lines + line % lines;
        panels[at].0[..part.len()].copy_from_slice(part);
    }
}

/// Replaces the first `length` scores by `exp(scale (score − largest))`, those after them by 0, and gives their sum.
#[inline(always)]
fn exponentials<V: Vector>(row: &mut [f32], length: usize, scale: f32) -> f32 {
    row[length..].fill(f32::NEG_INFINITY);
    let (vectors, _) = row.as_chunks_mut::<LANES>();
    let largest = vectors.iter().fold(V::splat(f32::NEG_INFINITY), |largest, x| V::load(x).max(largest)).largest();
    let (largest, scale) = (V::splat(largest), V::splat(scale));
    let mut sum = V::zero();
    for x in vectors {
        let value = exp(V::load(x).sub(largest).mul(scale));
        value.store(x);
        sum = sum.add(value);
    }
    sum.sum()
}

/// Makes room, once.
fn grow<T: Clone>(buffer: &mut Vec<T>, len: usize, filler: T) {
    if buffer.len() < len {
        buffer.resize(len, filler);
    }
}
