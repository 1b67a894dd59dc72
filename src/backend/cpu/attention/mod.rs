//! Attention, a sequence and head at a time, never padded: scores, softmax and mixing of a strip of rows while they are
//! in cache.
//!
//! Kᵀ and V of the head are packed into panels, so both products are those of [`super::gemm`]: a score is one chain
//! over D, a mixed value one chain over the sequence's own tokens. The softmax is taken off its largest score; its
//! weights are divided by their sum after the mixing, on D numbers rather than L.

mod backward;
mod map;
mod pack;

pub(super) use self::backward::backward;
pub(super) use self::map::map;
use self::pack::{Packed, Part, grow};
use super::Cpu;
use super::activation::exp;
use super::gemm::{Left, Line, Panel, Target, lines, strip};
use super::share::split;
use super::simd::{Kernel, LANES, Vector};
use crate::backend::training::Dropout;
use crate::backend::{Attended, Columns, Rows};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// `out [T or B, H·D] = softmax(q kᵀ / √D) v`, as [`crate::backend::Backend::attention`] says; each weight multiplied
/// by its factor where some are dropped.
pub(super) fn attention(cpu: Cpu, out: &mut [f32], attended: &Attended<'_, Cpu>, dropout: Option<&Dropout<'_>>) {
    let (shares, sequences) = (cpu.sequence_shares(attended.batch), Sequences::of(attended));
    let width = attended.shape.heads * attended.shape.head_width;
    let parts = split(out, shares.iter().map(|share| sequences.asking(share).len() * width));
    let run = |(share, out): (&Range<usize>, &mut [f32])| {
        let (sequences, share) = (Sequences::of(attended), share.clone());
        SCRATCH.with_borrow_mut(|scratch| {
            cpu.isa.run(Forward { base: sequences.asking(&share).start, out, sequences, share, scratch, dropout });
        });
    };
    match shares.len() {
        1 => shares.iter().zip(parts).for_each(run),
        _ => shares.par_iter().zip(parts).for_each(run),
    }
}

/// Queries taken at a time: their scores stay in the second-level cache at 512 tokens, and a panel of keys serves all
/// of them.
const STRIP: usize = 24;

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// One sequence's operands.
struct Scratch {
    /// Kᵀ.
    keys: Packed,
    /// V.
    values: Packed,
    /// `[STRIP][L, padded to whole panels]`, of one head.
    scores: Vec<f32>,
    /// `[STRIP][panel]`, mixed values before their scale.
    mixed: Vec<f32>,
    /// `[L]`, what a row's weights are multiplied by.
    factors: Vec<f32>,
}

impl Scratch {
    const fn new() -> Self {
        Self { keys: Packed::new(), values: Packed::new(), scores: Vec::new(), mixed: Vec::new(), factors: Vec::new() }
    }
}

/// What an attention reads, as plain slices.
struct Sequences<'a> {
    q: Columns<'a, [f32]>,
    k: Columns<'a, [f32]>,
    v: Columns<'a, [f32]>,
    attended: &'a Attended<'a, Cpu>,
}

impl<'a> Sequences<'a> {
    fn of(attended: &'a Attended<'a, Cpu>) -> Self {
        let plain = |view: &Columns<'a, Vec<f32>>| Columns {
            tensor: view.tensor.as_slice(),
            stride: view.stride,
            offset: view.offset,
        };
        Self { q: plain(&attended.q), k: plain(&attended.k), v: plain(&attended.v), attended }
    }

    fn heads(&self) -> usize {
        self.attended.shape.heads
    }

    /// D.
    fn width(&self) -> usize {
        self.attended.shape.head_width
    }

    /// One head's columns of a view.
    fn part<'b>(&self, view: &'b Columns<'b, [f32]>) -> Part<'b> {
        Part { view, heads: self.heads(), width: self.width() }
    }

    /// The rows that ask in some sequences.
    fn asking(&self, share: &Range<usize>) -> Range<usize> {
        match self.attended.shape.queries {
            Rows::All if share.is_empty() => 0..0,
            Rows::All => self.attended.batch.range(share.start).start..self.attended.batch.range(share.end - 1).end,
            Rows::First => share.clone(),
        }
    }

    /// The rows of sequence `b` in keys and values, and those that ask.
    fn rows(&self, b: usize) -> (Range<usize>, Range<usize>) {
        let tokens = self.attended.batch.range(b);
        match self.attended.shape.queries {
            Rows::All => (tokens.clone(), tokens),
            Rows::First => (tokens, b..b + 1),
        }
    }
}

/// Rows of one head of some view, to be multiplied with a packed operand.
#[inline(always)]
fn left<'a>(view: &Columns<'a, [f32]>, rows: &Range<usize>, head: usize, width: usize) -> Left<'a> {
    let start = rows.start * view.stride + view.offset + head * width;
    Left { values: &view.tensor[start..], stride: view.stride, rows: rows.len() }
}

/// `out [rows, length, padded to whole panels] = left · columnsᵀ`, of rows packed as columns.
#[inline(always)]
fn scores<V: Vector>(out: &mut [f32], left: Left<'_>, columns: &[Line], length: usize, width: usize) {
    let (lines, stride) = (lines::<V>(), padded::<V>(length));
    let panel = lines * LANES;
    for first in (0..length).step_by(panel) {
        let packed = &columns[first / panel * width * lines..][..width * lines];
        strip::<V>(&mut Target { values: &mut out[first..], stride }, left, Panel::whole(packed));
    }
}

/// Tokens in whole panels.
#[inline(always)]
fn padded<V: Vector>(length: usize) -> usize {
    length.next_multiple_of(lines::<V>() * LANES)
}

/// Which queries a strip is of.
#[derive(Clone, Copy)]
struct Asking {
    sequence: usize,
    /// The first's number in its sequence.
    first: usize,
    head: usize,
}

impl Asking {
    /// What the weights of the strip's query `number` are multiplied by.
    fn factors<'a>(self, space: &'a mut Vec<f32>, dropout: &Dropout<'_>, number: usize, length: usize) -> &'a [f32] {
        grow(space, length, 0.0);
        let factors = &mut space[..length];
        dropout.factors(factors, self.sequence, Dropout::attention_row(self.head, self.first + number));
        factors
    }
}

/// `values = values ∘ factors`
#[inline(always)]
fn multiply(values: &mut [f32], factors: &[f32]) {
    values.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
}

struct Forward<'a> {
    /// From row `base` on.
    out: &'a mut [f32],
    base: usize,
    sequences: Sequences<'a>,
    share: Range<usize>,
    scratch: &'a mut Scratch,
    dropout: Option<&'a Dropout<'a>>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        for sequence in self.share.clone() {
            let (tokens, asking) = self.sequences.rows(sequence);
            self.pack::<V>(tokens.clone());
            for head in 0..self.sequences.heads() {
                for row in asking.clone().step_by(STRIP) {
                    let rows = row..asking.end.min(row + STRIP);
                    let asks = Asking { sequence, first: row - asking.start, head };
                    self.strip::<V>(rows, tokens.len(), asks);
                }
            }
        }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn pack<V: Vector>(&mut self, tokens: Range<usize>) {
        let Sequences { k, v, .. } = &self.sequences;
        grow(&mut self.scratch.scores, STRIP * padded::<V>(tokens.len()), 0.0);
        grow(&mut self.scratch.mixed, STRIP * lines::<V>() * LANES, 0.0);
        self.scratch.keys.columns::<V>(self.sequences.part(k), tokens.clone());
        self.scratch.values.rows::<V>(self.sequences.part(v), tokens);
    }

    /// Some queries of one head, from scores to output.
    #[inline(always)]
    fn strip<V: Vector>(&mut self, rows: Range<usize>, length: usize, asks: Asking) {
        let head = asks.head;
        let (width, stride, lines) = (self.sequences.width(), padded::<V>(length), lines::<V>());
        let panel = lines * LANES;
        let Scratch { keys, values, scores: weights, mixed, factors } = &mut *self.scratch;
        let queries = left(&self.sequences.q, &rows, head, width);
        scores::<V>(weights, queries, keys.head(head), length, width);

        let mut scales = [0.0; STRIP];
        for (number, (row, scale)) in weights.chunks_exact_mut(stride.max(1)).zip(&mut scales[..rows.len()]).enumerate()
        {
            *scale = 1.0 / exponentials::<V>(row, length, (width as f32).sqrt().recip());
            if let Some(dropout) = self.dropout {
                multiply(&mut row[..length], asks.factors(factors, dropout, number, length));
            }
        }

        let weights = Left { values: weights, stride, rows: rows.len() };
        let out_width = self.sequences.heads() * width;
        for first in (0..width).step_by(panel) {
            let packed = &values.head(head)[first / panel * length * lines..][..length * lines];
            strip::<V>(&mut Target { values: &mut *mixed, stride: panel }, weights, Panel::whole(packed));
            let columns = panel.min(width - first);
            for (row, scale) in scales[..rows.len()].iter().enumerate() {
                let out = &mut self.out[(rows.start - self.base + row) * out_width + head * width + first..][..columns];
                for (out, sum) in out.iter_mut().zip(&mixed[row * panel..]) {
                    *out = sum * scale;
                }
            }
        }
    }
}

/// Replaces the first `length` scores by `exp(scale (score − largest))`, those after them by 0, and gives their sum.
#[inline(always)]
fn exponentials<V: Vector>(row: &mut [f32], length: usize, scale: f32) -> f32 {
    row[length..].fill(f32::NEG_INFINITY);
    let (vectors, _) = row.as_chunks_mut::<LANES>();
    let mut largest = V::splat(f32::NEG_INFINITY);
    for x in vectors.iter() {
        largest = V::load(x).max(largest);
    }
    let (largest, scale) = (V::splat(largest.largest()), V::splat(scale));
    let mut sum = V::zero();
    for x in vectors {
        let value = exp(V::load(x).sub(largest).mul(scale));
        value.store(x);
        sum = sum.add(value);
    }
    sum.sum()
}
