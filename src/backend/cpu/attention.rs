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
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { keys: Vec::new(), values: Vec::new(), scores: Vec::new(), mixed: Vec::new() }) };
}

/// One sequence's operands.
struct Scratch {
    /// Of each head, Kᵀ in panels of tokens, each `[D][lines]`.
    keys: Vec<Line>,
    /// Of each head, V in panels of columns, each `[L][lines]`.
    values: Vec<Line>,
    /// `[STRIP][L, padded to whole panels]`, of one head.
    scores: Vec<f32>,
    /// `[STRIP][panel]`, mixed values before their scale.
    mixed: Vec<f32>,
}

/// How a sequence of a length lies in [`Scratch`].
struct Sizes {
    /// Vectors side by side in a panel.
    lines: usize,
    /// Columns of a panel.
    panel: usize,
    /// Lines of one head's keys.
    key_lines: usize,
    /// Lines of one head's values.
    value_lines: usize,
    /// From one query's scores to the next's.
    score_stride: usize,
}

impl Sizes {
    #[inline(always)]
    fn of<V: Vector>(length: usize, shape: AttentionShape) -> Self {
        let lines = lines::<V>();
        let panel = lines * LANES;
        Self {
            lines,
            panel,
            key_lines: length.div_ceil(panel) * shape.head_width * lines,
            value_lines: shape.head_width.div_ceil(panel) * length * lines,
            score_stride: length.next_multiple_of(panel),
        }
    }
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
            self.pack::<V>(tokens.clone());
            for head in 0..shape.heads {
                for row in asking.clone().step_by(STRIP) {
                    self.strip::<V>(row..asking.end.min(row + STRIP), tokens.len(), head);
                }
            }
        }
    }
}

impl Attention<'_> {
    /// Packs a sequence's keys and values, all heads of a token at once: its row is read straight through.
    #[inline(always)]
    fn pack<V: Vector>(&mut self, tokens: Range<usize>) {
        let Inputs { k, v, shape, .. } = self.inputs;
        let (length, sizes) = (tokens.len(), Sizes::of::<V>(tokens.len(), self.inputs.shape));
        grow(&mut self.scratch.keys, shape.heads * sizes.key_lines, Line::ZERO);
        grow(&mut self.scratch.values, shape.heads * sizes.value_lines, Line::ZERO);
        grow(&mut self.scratch.scores, STRIP * sizes.score_stride, 0.0);
        grow(&mut self.scratch.mixed, STRIP * sizes.panel, 0.0);
        for (token, row) in tokens.enumerate() {
            for head in 0..shape.heads {
                let keys = &mut self.scratch.keys[head * sizes.key_lines..][..sizes.key_lines];
                pack_column(keys, head_of(k, row, head, shape.head_width), token, sizes.lines);
            }
            for head in 0..shape.heads {
                let values = &mut self.scratch.values[head * sizes.value_lines..][..sizes.value_lines];
                pack_row(values, head_of(v, row, head, shape.head_width), token, length, sizes.lines);
            }
        }
    }

    /// Some queries of one head, from scores to output.
    #[inline(always)]
    fn strip<V: Vector>(&mut self, rows: Range<usize>, length: usize, head: usize) {
        let Inputs { q, shape, .. } = self.inputs;
        let Sizes { lines, panel, key_lines, value_lines, score_stride: stride } = Sizes::of::<V>(length, *shape);
        let width = shape.head_width;
        let Scratch { keys, values, scores, mixed } = &mut *self.scratch;
        let keys = &keys[head * key_lines..][..key_lines];
        let values = &values[head * value_lines..][..value_lines];

        let queries = Left {
            values: &q.tensor[rows.start * q.stride + q.offset + head * width..],
            stride: q.stride,
            rows: rows.len(),
        };
        for first in (0..length).step_by(panel) {
            let packed = &keys[first / panel * width * lines..][..width * lines];
            let mut target = Target { values: &mut scores[first..], stride };
            strip::<V>(&mut target, queries, Panel::whole(packed));
        }

        let mut scales = [0.0; STRIP];
        for (row, scale) in scores.chunks_exact_mut(stride.max(1)).zip(&mut scales[..rows.len()]) {
            *scale = 1.0 / exponentials::<V>(row, length, (width as f32).sqrt().recip());
        }

        let weights = Left { values: scores, stride, rows: rows.len() };
        let out_width = shape.heads * width;
        for first in (0..width).step_by(panel) {
            let packed = &values[first / panel * length * lines..][..length * lines];
            strip::<V>(&mut Target { values: &mut *mixed, stride: panel }, weights, Panel::whole(packed));
            let columns = panel.min(width - first);
            for (row, scale) in scales[..rows.len()].iter().enumerate() {
                let out = &mut self.out[(rows.start + row) * out_width + head * width + first..][..columns];
                for (out, sum) in out.iter_mut().zip(&mixed[row * panel..]) {
                    *out = sum * scale;
                }
            }
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
    let at = |line: usize| (line / lines * length + token) * lines + line % lines;
    let (whole, tail) = value.as_chunks::<LANES>();
    for (line, part) in whole.iter().enumerate() {
        panels[at(line)].0 = *part;
    }
    if !tail.is_empty() {
        panels[at(whole.len())].0[..tail.len()].copy_from_slice(tail);
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
