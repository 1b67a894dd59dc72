//! Gradients as AdamW would follow them, record by record and projected (Xia et al. 2024, LESS):
//!
//! ```text
//! u = (β₁ m + (1 − β₁) g) / √(β₂ v + (1 − β₂) g² + ε)
//! ```
//!
//! for every parameter of the linear layers (of the others, `adapted_others.rs`), with g the gradient of one record's
//! loss, m and v the moments that the training had at a checkpoint (not corrected for their first steps) and ε inside
//! the root, as LESS's own code has it. That is nonlinear in g, so it cannot be done to a projected gradient: a layer's
//! is made, sixteen rows at a time, adapted, and projected while they are at hand (on a device `adapted_whole.rs` makes
//! all rows of several records). What is left of a record is brought to unit length.

#![allow(clippy::inline_always)] // what runs on vectors must be inlined where the instruction set is switched on
#![allow(clippy::needless_range_loop)] // register tiles read best with their indices

use std::ops::Range;

use rayon::prelude::*;

use super::adam::{AdamMoments, LayerMoments};
use super::adapted_others::{AdaptedOthers, Adapting as OthersOf};
use super::network::{Network, Part, Ran, Seed};
use super::pass::Pass;
use super::projection::{Matrix, Projection, Side, Slot};
use super::sink::{Linear, Normed, Operands, Sink};
use super::tracer::Take;
use crate::backend::Rows;
use crate::backend::cpu::simd::{Isa, Kernel, LANES, Vector};
use crate::backend::training::Training;
use crate::error::{Error, Result};
use crate::model::Outputs;
use crate::tokens::PackedBatch;

/// ε, inside the root.
pub(super) const EPSILON: f64 = 1e-8;
/// Rows of a layer's gradient that are made at a time.
const ROWS: usize = 16;
/// And those of them, and vectors of each, in a register tile.
const HEIGHT: usize = 4;
const LINES: usize = 2;

/// The moments of linear layers, and their projections.
pub(super) struct Adapted {
    layers: Vec<Layer>,
    /// What is no linear layer, where it is asked for.
    others: Option<AdaptedOthers>,
    width: usize,
    /// 1 − β₁ and 1 − β₂.
    rests: [f32; 2],
}

/// One layer; rows are padded with zeros to whole tiles, behind the bias's number.
struct Layer {
    slot: Slot,
    /// Numbers in a padded row.
    stride: usize,
    /// β₁ m and β₂ v + ε, `[outputs, stride]`.
    drift: Vec<f32>,
    floor: Vec<f32>,
    output: Matrix<'static>,
    input: Matrix<'static>,
}

impl Adapted {
    /// Of all layers' slots, the linear ones first, and `width` numbers a record.
    pub(super) fn new<B: Training>(
        network: &Network<B>,
        projection: &Projection,
        slots: &[Slot],
        width: usize,
        moments: &AdamMoments,
    ) -> Result<Self> {
        check(network, slots, moments)?;
        let betas = moments.betas();
        let layer = |(slot, moments): (&Slot, &LayerMoments)| Layer::new(projection, slot, moments, betas);
        Ok(Self {
            layers: slots.iter().zip(moments.layers()).map(layer).collect(),
            others: AdaptedOthers::of(network, projection, slots, width, moments),
            width,
            rests: rests(betas),
        })
    }
}

/// Refuses moments of other layers than the slots are of.
pub(super) fn check<B: Training>(network: &Network<B>, slots: &[Slot], moments: &AdamMoments) -> Result<()> {
    let (linears, others) = (moments.layers().len(), moments.others().len());
    if linears != network.linears().len() || linears + others < slots.len() {
        return Err(Error::Mismatch("moments of other layers than the projection's".to_owned(), None));
    }
    Ok(())
}

/// `1 − β₁` and `1 − β₂`.
pub(super) fn rests(betas: [f64; 2]) -> [f32; 2] {
    betas.map(|beta| (1.0 - beta) as f32)
}

/// Brings rows of `width` numbers to unit length.
pub(super) fn to_unit_length(rows: &mut [f32], width: usize) {
    rows.par_chunks_mut(width).for_each(|row| {
        let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        // Also of numbers that are none, which then stay so.
        if length != 0.0 {
            for x in row {
                *x = (f64::from(*x) / length) as f32;
            }
        }
    });
}

impl<B: Training> Take<B> for Adapted {
    fn take(&self, network: &Network<B>, batch: PackedBatch, seed: Seed<'_>) -> Result<Outputs> {
        let (tokens, sequences) = (batch.cu_seqlens.clone(), batch.sequences());
        // Who else reads the tokens.
        let kept = self.others.as_ref().map(|others| (others, batch.clone()));
        let mut sink = Adapting {
            adapted: self,
            network,
            others: kept.as_ref().map(|(others, batch)| others.adapting(batch)),
            tokens,
            visits: network.visits(),
            uses: self.layers.iter().map(|_| Vec::new()).collect(),
            out: vec![0.0; sequences * self.width],
        };
        let Ran { logits, .. } = network.run(batch, seed, &mut sink)?;
        let mut features = sink.out;
        for (feature, other) in features.iter_mut().zip(sink.others.map(OthersOf::finish).iter().flatten()) {
            *feature += other;
        }
        to_unit_length(&mut features, self.width);
        Ok(Outputs { features, logits })
    }
}

impl Layer {
    fn new(projection: &Projection, slot: &Slot, moments: &LayerMoments, [beta1, beta2]: [f64; 2]) -> Self {
        let Side { whole: inputs, .. } = slot.inputs;
        let stride = inputs.next_multiple_of(LINES * LANES);
        let padded = |values: &[f32], padding: f32, make: &dyn Fn(f64) -> f64| -> Vec<f32> {
            let row = |row: &[f32]| {
                let mut padded = vec![padding; stride];
                padded.iter_mut().zip(row).for_each(|(to, &x)| *to = make(f64::from(x)) as f32);
                padded
            };
            values.chunks_exact(inputs).flat_map(row).collect()
        };
        Self {
            slot: *slot,
            stride,
            drift: padded(&moments.first, 0.0, &|m| beta1 * m),
            floor: padded(&moments.second, 1.0, &|v| beta2 * v + EPSILON),
            output: projection.on_host(slot.number, slot.outputs),
            input: projection.on_host(slot.number, slot.inputs),
        }
    }
}

/// What a way back came to of a layer in one of its places: it is gradients' sums over all of them that are adapted.
struct Use {
    dy: Vec<f32>,
    x: Vec<f32>,
    rows: Rows,
    /// The layer's outputs that these are.
    outputs: Range<usize>,
}

/// Adapts a layer's gradients when the way back has come past all of its places.
struct Adapting<'a, B: Training> {
    adapted: &'a Adapted,
    network: &'a Network<B>,
    others: Option<OthersOf<'a>>,
    /// Each record's first token, and the number of tokens.
    tokens: Vec<u32>,
    visits: Vec<usize>,
    uses: Vec<Vec<Use>>,
    /// `[B, width]`
    out: Vec<f32>,
}

impl<B: Training> Sink<B> for Adapting<'_, B> {
    fn scaled(&mut self, scales: &[f32]) {
        assert!(scales.iter().all(|scale| *scale == 1.0), "gradients of other sizes than their losses'");
        if let Some(others) = &mut self.others {
            others.scaled(scales);
        }
    }

    fn linear(&mut self, pass: &Pass<'_, B>, of: Linear, rows: Rows, operands: Operands<'_, B>) -> Result<()> {
        let Adapted { layers, width, rests, .. } = self.adapted;
        let ((number, part), count) = (self.network.place(of), pass.rows(rows));
        let Operands { dy, x, inputs, outputs } = operands;
        let (mut read, mut slopes) = (vec![0.0; count * inputs], vec![0.0; count * outputs]);
        pass.backend.download(&mut read, x)?;
        pass.backend.download(&mut slopes, dy)?;
        let layer = &layers[number];
        let first = if part == Part::KeysAndValues { layer.slot.outputs.whole - outputs } else { 0 };
        self.uses[number].push(Use { dy: slopes, x: read, rows, outputs: first..first + outputs });
        self.visits[number] -= 1;
        if self.visits[number] == 0 {
            let (uses, tokens) = (std::mem::take(&mut self.uses[number]), &self.tokens);
            let records = tokens.len() - 1;
            // Some a thread together, so that moments are brought near once for several.
            let together = records.div_ceil(2 * rayon::current_num_threads());
            self.out.par_chunks_mut(together * width).enumerate().for_each(|(group, outs)| {
                let terms = |record| uses.iter().map(|of| of.terms(layer, tokens, record)).collect();
                let records = (group * together..).zip(outs.chunks_exact_mut(*width));
                let records = records.map(|(record, out)| Record { terms: terms(record), out });
                Isa::best().run(Contraction { layer, records: records.collect(), rests: *rests });
            });
        }
        Ok(())
    }

    fn norm(&mut self, pass: &Pass<'_, B>, normed: Normed<'_, B>) -> Result<()> {
        let Some(others) = &mut self.others else { return Ok(()) };
        others.norm((self.network, pass), normed)
    }

    fn tables(&mut self, pass: &Pass<'_, B>, d_sum: &B::Tensor, width: usize) -> Result<()> {
        let Some(others) = &mut self.others else { return Ok(()) };
        others.tables(self.network, pass, d_sum, width)
    }
}

impl Use {
    /// One record's part.
    fn terms(&self, layer: &Layer, tokens: &[u32], record: usize) -> Terms<'_> {
        let own = match self.rows {
            Rows::All => tokens[record] as usize..tokens[record + 1] as usize,
            Rows::First => record..record + 1,
        };
        let (inputs, width) = (layer.slot.inputs.whole - 1, self.outputs.len());
        let mut x = vec![0.0; own.len() * layer.stride];
        for (to, row) in x.chunks_exact_mut(layer.stride).zip(own.clone()) {
            to[..inputs].copy_from_slice(&self.x[row * inputs..][..inputs]);
            to[inputs] = 1.0;
        }
        Terms { x, dy: &self.dy[own.start * width..own.end * width], outputs: self.outputs.clone() }
    }
}

/// Outer products that a record's gradient is the sum of.
struct Terms<'a> {
    /// `[rows, stride]`, the bias's 1 behind the inputs.
    x: Vec<f32>,
    /// `[rows, outputs]`
    dy: &'a [f32],
    outputs: Range<usize>,
}

/// A record's side of one layer.
struct Record<'a> {
    terms: Vec<Terms<'a>>,
    /// All of its numbers, `[width]`.
    out: &'a mut [f32],
}

/// Some records' gradients of one layer, adapted and projected.
struct Contraction<'a> {
    layer: &'a Layer,
    records: Vec<Record<'a>>,
    rests: [f32; 2],
}

impl Kernel for Contraction<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        let Layer { slot, stride, drift, floor, output, input } = self.layer;
        let (stride, outputs) = (*stride, slot.outputs);
        let (whole, columns) = (slot.inputs.whole, slot.inputs.kept);
        let (mut gradient, mut kept) = (vec![0.0; ROWS * stride], vec![0.0; ROWS * columns]);
        let mut slopes: Vec<[f32; HEIGHT]> = Vec::new();
        for first in (0..outputs.whole).step_by(ROWS) {
            let rows = ROWS.min(outputs.whole - first);
            let places = first * stride..(first + rows) * stride;
            let (drift, floor, kept) = (&drift[places.clone()], &floor[places], &mut kept[..rows * columns]);
            for Record { terms, out } in &mut self.records {
                gradient.fill(0.0);
                for terms in terms {
                    for (four, gradient) in gradient.chunks_exact_mut(HEIGHT * stride).enumerate() {
                        terms.slopes_of(first + four * HEIGHT, &mut slopes);
                        for column in (0..stride).step_by(LINES * LANES) {
                            add::<V>(&mut gradient[column..], &terms.x[column..], &slopes, stride);
                        }
                    }
                }
                adapt::<V>(&mut gradient[..rows * stride], drift, floor, self.rests);
                input.apply(kept, &gradient, (whole, stride));
                let out = &mut out[slot.offset..][..slot.len()];
                for (row, kept) in (first..).zip(kept.chunks_exact(columns)) {
                    output.column(row, outputs.whole, |place, entry| {
                        let to = &mut out[place * columns..][..columns];
                        to.iter_mut().zip(kept).for_each(|(to, x)| *to = entry.mul_add(*x, *to));
                    });
                }
            }
        }
    }
}

impl Terms<'_> {
    /// δ of four outputs from `first` on, zero where these are others', `[rows]`.
    fn slopes_of(&self, first: usize, slopes: &mut Vec<[f32; HEIGHT]>) {
        slopes.clear();
        let of = |row: &[f32]| {
            let mut four = [0.0; HEIGHT];
            for (place, slope) in four.iter_mut().enumerate() {
                let output = first + place;
                if self.outputs.contains(&output) {
                    *slope = row[output - self.outputs.start];
                }
            }
            four
        };
        slopes.extend(self.dy.chunks_exact(self.outputs.len()).map(of));
    }
}

/// Adds a tile of all terms' outer products to rows that are `stride` apart: one chain a number, over tokens in their
/// order.
#[inline(always)]
fn add<V: Vector>(gradient: &mut [f32], x: &[f32], slopes: &[[f32; HEIGHT]], stride: usize) {
    let mut sums = [[V::zero(); LINES]; HEIGHT];
    for row in 0..HEIGHT {
        for line in 0..LINES {
            sums[row][line] = V::load(chunk(&gradient[row * stride + line * LANES..]));
        }
    }
    for (token, slopes) in slopes.iter().enumerate() {
        for line in 0..LINES {
            let x = V::load(chunk(&x[token * stride + line * LANES..]));
            for row in 0..HEIGHT {
                sums[row][line] = x.fma(V::splat(slopes[row]), sums[row][line]);
            }
        }
    }
    for row in 0..HEIGHT {
        for line in 0..LINES {
            let to = gradient[row * stride + line * LANES..].first_chunk_mut().expect("rows of whole tiles");
            sums[row][line].store(to);
        }
    }
}

/// `g ← (β₁ m + (1 − β₁) g) / √(β₂ v + ε + (1 − β₂) g²)`, some rows of it.
#[inline(always)]
fn adapt<V: Vector>(gradient: &mut [f32], drift: &[f32], floor: &[f32], [rest1, rest2]: [f32; 2]) {
    let (rest1, rest2) = (V::splat(rest1), V::splat(rest2));
    for (i, to) in gradient.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let g = V::load(to);
        let above = g.fma(rest1, V::load(chunk(&drift[i * LANES..])));
        let below = g.mul(rest2).fma(g, V::load(chunk(&floor[i * LANES..])));
        above.div(below.sqrt()).store(to);
    }
}

#[inline(always)]
fn chunk(values: &[f32]) -> &[f32; LANES] {
    values.first_chunk().expect("rows of whole tiles")
}
