//! The backward of attention: weights computed again strip by strip, so that no sequence's whole matrix of them is ever
//! held.
//!
//! With `P = softmax(q kᵀ / √D)` and dO the gradient of `P v`:
//!
//! ```text
//! dP = dO vᵀ      dS = P ∘ (dP − rowsum(P ∘ dP)) / √D      dq = dS k      dk = dSᵀ q      dv = Pᵀ dO
//! ```
//!
//! Every element of dk and dv is one chain over the sequence's queries, parked between strips; of dq one over its
//! tokens.

use super::super::gemm::{Left, Line, Panel, Target, lines, strip};
use super::super::share::split;
use super::super::simd::{Kernel, LANES, Vector};
use super::pack::{Packed, grow};
use super::{Asking, STRIP, Sequences, exponentials, left, multiply, padded, scores};
use crate::backend::cpu::Cpu;
use crate::backend::training::Dropout;
use crate::backend::{Attended, AttentionGradients, Columns, Rows};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// As [`crate::backend::Backend::attention_backward`] says; where weights were dropped, of what was left.
pub(in crate::backend::cpu) fn backward(
    cpu: Cpu,
    gradients: AttentionGradients<'_, Vec<f32>>,
    d_out: &[f32],
    attended: &Attended<'_, Cpu>,
    dropout: Option<&Dropout<'_>>,
) {
    let shares = cpu.sequence_shares(attended.batch);
    let places = Places::of(gradients, attended, &shares);
    let run = |(share, places): (&Range<usize>, Places<'_>)| {
        let d_out = Columns { tensor: d_out, stride: places.width, offset: 0 };
        let (sequences, share) = (Sequences::of(attended), share.clone());
        SCRATCH.with_borrow_mut(|scratch| {
            cpu.isa.run(Backward { places, d_out, sequences, share, scratch, dropout });
        });
    };
    match shares.len() {
        1 => shares.iter().zip(places).for_each(run),
        _ => shares.par_iter().zip(places).for_each(run),
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// One sequence's operands, and one head's sums.
struct Scratch {
    key_columns: Packed,
    value_columns: Packed,
    key_rows: Packed,
    query_rows: Packed,
    d_out_rows: Packed,
    /// `[STRIP][L, padded]`: P.
    weights: Vec<f32>,
    /// `[STRIP][L, padded]`: dP, then dS.
    slopes: Vec<f32>,
    /// `[L][STRIP]`: one of them turned.
    turned: Vec<f32>,
    /// `[panels][L][panel]`: dk.
    d_keys: Vec<f32>,
    /// The same: dv.
    d_values: Vec<f32>,
    /// `[STRIP][panel]`: dq.
    d_queries: Vec<f32>,
    /// `[L]`: what a row's weights were multiplied by.
    factors: Vec<f32>,
}

impl Scratch {
    const fn new() -> Self {
        Self {
            key_columns: Packed::new(),
            value_columns: Packed::new(),
            key_rows: Packed::new(),
            query_rows: Packed::new(),
            d_out_rows: Packed::new(),
            weights: Vec::new(),
            slopes: Vec::new(),
            turned: Vec::new(),
            d_keys: Vec::new(),
            d_values: Vec::new(),
            d_queries: Vec::new(),
            factors: Vec::new(),
        }
    }
}

/// Where some sequences' gradients go.
struct Places<'a> {
    /// From token `first` on.
    packed: &'a mut [f32],
    first: usize,
    /// From sequence `first_query` on.
    query: Option<&'a mut [f32]>,
    first_query: usize,
    /// E.
    width: usize,
}

impl<'a> Places<'a> {
    /// One for each share.
    fn of(
        gradients: AttentionGradients<'a, Vec<f32>>,
        attended: &Attended<'_, Cpu>,
        shares: &[Range<usize>],
    ) -> Vec<Self> {
        let width = attended.shape.heads * attended.shape.head_width;
        let token = |sequence: usize| match attended.batch.sequences() {
            count if sequence < count => attended.batch.range(sequence).start,
            _ => attended.batch.tokens(),
        };
        let parts = if gradients.query.is_some() { 2 } else { 3 };
        let tokens = |share: &Range<usize>| (token(share.end) - token(share.start)) * parts * width;
        let packed = split(gradients.packed, shares.iter().map(tokens));
        let queries: Vec<Option<&mut [f32]>> = match gradients.query {
            Some(query) => split(query, shares.iter().map(|share| share.len() * width)).into_iter().map(Some).collect(),
            None => shares.iter().map(|_| None).collect(),
        };
        let parts = shares.iter().zip(packed).zip(queries);
        parts
            .map(|((share, packed), query)| Self {
                packed,
                first: token(share.start),
                query,
                first_query: share.start,
                width,
            })
            .collect()
    }

    /// The gradient of a query's columns from `column` on.
    fn query(&mut self, row: usize, column: usize) -> &mut [f32] {
        match &mut self.query {
            Some(query) => &mut query[(row - self.first_query) * self.width + column..],
            None => &mut self.packed[(row - self.first) * 3 * self.width + column..],
        }
    }

    /// The gradient of a key's (`part` 0) or value's (1) columns from `column` on.
    fn token(&mut self, row: usize, part: usize, column: usize) -> &mut [f32] {
        let (parts, part) = if self.query.is_some() { (2, part) } else { (3, part + 1) };
        &mut self.packed[((row - self.first) * parts + part) * self.width + column..]
    }
}

struct Backward<'a> {
    places: Places<'a>,
    d_out: Columns<'a, [f32]>,
    sequences: Sequences<'a>,
    share: Range<usize>,
    scratch: &'a mut Scratch,
    dropout: Option<&'a Dropout<'a>>,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        assert_eq!(self.places.query.is_some(), self.sequences.attended.shape.queries == Rows::First);
        for sequence in self.share.clone() {
            let (tokens, asking) = self.sequences.rows(sequence);
            self.pack::<V>(tokens.clone(), asking.clone());
            for head in 0..self.sequences.heads() {
                for row in asking.clone().step_by(STRIP) {
                    let asks = Asking { sequence, first: row - asking.start, head };
                    self.strip::<V>(row..asking.end.min(row + STRIP), &asking, tokens.len(), asks);
                }
                self.write::<V>(tokens.clone(), head);
            }
        }
    }
}

impl Backward<'_> {
    #[inline(always)]
    fn pack<V: Vector>(&mut self, tokens: Range<usize>, asking: Range<usize>) {
        let (length, panel) = (tokens.len(), lines::<V>() * LANES);
        let Sequences { q, k, v, .. } = &self.sequences;
        let part = |view| self.sequences.part(view);
        let scratch = &mut *self.scratch;
        scratch.key_columns.columns::<V>(part(k), tokens.clone());
        scratch.value_columns.columns::<V>(part(v), tokens.clone());
        scratch.key_rows.rows::<V>(part(k), tokens);
        scratch.query_rows.rows::<V>(part(q), asking.clone());
        scratch.d_out_rows.rows::<V>(part(&self.d_out), asking);
        grow(&mut scratch.weights, STRIP * padded::<V>(length), 0.0);
        grow(&mut scratch.slopes, STRIP * padded::<V>(length), 0.0);
        grow(&mut scratch.turned, STRIP * length, 0.0);
        let sums = self.sequences.width().next_multiple_of(panel) * length;
        grow(&mut scratch.d_keys, sums, 0.0);
        grow(&mut scratch.d_values, sums, 0.0);
        grow(&mut scratch.d_queries, STRIP * panel, 0.0);
    }

    /// Some queries of one head: their own gradients, and their part in those of keys and values.
    #[inline(always)]
    fn strip<V: Vector>(&mut self, rows: Range<usize>, asking: &Range<usize>, length: usize, asks: Asking) {
        let head = asks.head;
        let (width, stride) = (self.sequences.width(), padded::<V>(length));
        let Scratch {
            key_columns,
            value_columns,
            query_rows,
            d_out_rows,
            weights,
            slopes,
            turned,
            d_keys,
            d_values,
            factors,
            ..
        } = &mut *self.scratch;
        scores::<V>(weights, left(&self.sequences.q, &rows, head, width), key_columns.head(head), length, width);
        scores::<V>(slopes, left(&self.d_out, &rows, head, width), value_columns.head(head), length, width);
        let scale = (width as f32).sqrt().recip();
        let pairs = weights.chunks_exact_mut(stride).zip(slopes.chunks_exact_mut(stride));
        for (number, (weights, slopes)) in pairs.take(rows.len()).enumerate() {
            match self.dropout {
                None => softmax_backward::<V>(weights, slopes, length, scale),
                Some(dropout) => {
                    // dP is that of the weights left; dv takes those, dS those there were.
                    let factors = asks.factors(factors, dropout, number, length);
                    multiply(&mut slopes[..length], factors);
                    softmax_backward::<V>(weights, slopes, length, scale);
                    multiply(&mut weights[..length], factors);
                }
            }
        }

        let part = rows.start - asking.start..rows.end - asking.start;
        turn(turned, weights, stride, length, rows.len());
        add_products::<V>(d_values, turned, d_out_rows.head(head), &part, asking.len(), length, width);
        turn(turned, slopes, stride, length, rows.len());
        add_products::<V>(d_keys, turned, query_rows.head(head), &part, asking.len(), length, width);
        self.queries::<V>(rows, length, head);
    }

    /// `dq = dS k`
    #[inline(always)]
    fn queries<V: Vector>(&mut self, rows: Range<usize>, length: usize, head: usize) {
        let (width, lines) = (self.sequences.width(), lines::<V>());
        let panel = lines * LANES;
        let Scratch { key_rows, slopes, d_queries, .. } = &mut *self.scratch;
        let slopes = Left { values: slopes, stride: padded::<V>(length), rows: rows.len() };
        for first in (0..width).step_by(panel) {
            let packed = &key_rows.head(head)[first / panel * length * lines..][..length * lines];
            strip::<V>(&mut Target { values: &mut *d_queries, stride: panel }, slopes, Panel::whole(packed));
            let columns = panel.min(width - first);
            for (i, row) in rows.clone().enumerate() {
                let from = &d_queries[i * panel..][..columns];
                self.places.query(row, head * width + first)[..columns].copy_from_slice(from);
            }
        }
    }

    /// The head's sums to their places.
    #[inline(always)]
    fn write<V: Vector>(&mut self, tokens: Range<usize>, head: usize) {
        let (width, panel, length) = (self.sequences.width(), lines::<V>() * LANES, tokens.len());
        for (part, sums) in [&self.scratch.d_keys, &self.scratch.d_values].into_iter().enumerate() {
            for first in (0..width).step_by(panel) {
                let columns = panel.min(width - first);
                for (i, row) in tokens.clone().enumerate() {
                    let from = &sums[(first / panel * length + i) * panel..][..columns];
                    self.places.token(row, part, head * width + first)[..columns].copy_from_slice(from);
                }
            }
        }
    }
}

/// From scores and dP of one row to P and dS, in place.
#[inline(always)]
fn softmax_backward<V: Vector>(weights: &mut [f32], slopes: &mut [f32], length: usize, scale: f32) {
    let share = V::splat(1.0 / exponentials::<V>(weights, length, scale));
    slopes[length..].fill(0.0);
    let (weights, _) = weights.as_chunks_mut::<LANES>();
    let (slopes, _) = slopes.as_chunks_mut::<LANES>();
    let mut sum = V::zero();
    for (weight, slope) in weights.iter_mut().zip(&*slopes) {
        let p = V::load(weight).mul(share);
        p.store(weight);
        sum = p.fma(V::load(slope), sum);
    }
    let (mean, scale) = (V::splat(sum.sum()), V::splat(scale));
    for (weight, slope) in weights.iter().zip(slopes) {
        V::load(slope).sub(mean).mul(V::load(weight)).mul(scale).store(slope);
    }
}

/// `turned [length][STRIP] = strip [rows][stride]ᵀ`
#[inline(always)]
fn turn(turned: &mut [f32], strip: &[f32], stride: usize, length: usize, rows: usize) {
    for (column, turned) in turned.chunks_exact_mut(STRIP).take(length).enumerate() {
        for (row, x) in turned[..rows].iter_mut().enumerate() {
            *x = strip[row * stride + column];
        }
    }
}

/// `sums [panels][length][panel] += turned · rows`, over the queries `part` of `asking`; the first of them start from
/// zero.
#[inline(always)]
fn add_products<V: Vector>(
    sums: &mut [f32],
    turned: &[f32],
    rows: &[Line],
    part: &Range<usize>,
    asking: usize,
    length: usize,
    width: usize,
) {
    let lines = lines::<V>();
    let panel = lines * LANES;
    let turned = Left { values: turned, stride: STRIP, rows: length };
    for number in 0..width.div_ceil(panel) {
        let packed = &rows[(number * asking + part.start) * lines..][..part.len() * lines];
        let target = &mut Target { values: &mut sums[number * length * panel..], stride: panel };
        strip::<V>(target, turned, Panel { lines: packed, resume: part.start > 0, next: &[] });
    }
}
