//! Linear layers: weights packed once, products in register tiles, bias, activation and residual on the tile while it is hot.

use super::activation::{Pointwise, for_activation};
use super::gemm::{Left, Line, Panel, Target, lines, panel_lines, strip};
use super::simd::{Isa, Kernel, LANES, Vector};
use crate::backend::Activation;
use std::ops::Range;

/// A packed linear layer.
pub struct Linear {
    /// Panels of columns, each `[inputs][lines]`; columns beyond `outputs` are zero.
    panels: Vec<Line>,
    /// Padded to whole panels with zeros.
    bias: Vec<Line>,
    inputs: usize,
    outputs: usize,
    /// The panels' layout is the instruction set's.
    isa: Isa,
}

impl Linear {
    /// Packs `weight [outputs, inputs]` and `bias [outputs]`.
    ///
    /// # Panics
    /// If their lengths are not those.
    pub(super) fn pack(isa: Isa, weight: &[f32], bias: &[f32], inputs: usize, outputs: usize) -> Self {
        assert_eq!(weight.len(), inputs * outputs, "a weight matrix that is not outputs × inputs");
        assert_eq!(bias.len(), outputs, "a bias that is not one number an output");
        let lines = panel_lines(isa);
        let width = lines * LANES;
        let panel_count = outputs.div_ceil(width);
        let mut panels = vec![Line::ZERO; panel_count * inputs * lines];
        for (output, row) in weight.chunks_exact(inputs.max(1)).enumerate() {
            let (panel, column) = (output / width, output % width);
            let (line, lane) = (column / LANES, column % LANES);
            for (k, &x) in row.iter().enumerate() {
                panels[(panel * inputs + k) * lines + line].0[lane] = x;
            }
        }
        let mut padded = vec![Line::ZERO; panel_count * lines];
        for (output, &x) in bias.iter().enumerate() {
            padded[output / LANES].0[output % LANES] = x;
        }
        Self { panels, bias: padded, inputs, outputs, isa }
    }

    /// `out [rows, outputs] = activation(x [rows, inputs] · weightᵀ + bias) + residual`.
    pub(super) fn forward(
        &self,
        out: &mut [f32],
        x: &[f32],
        activation: Activation,
        residual: Option<&[f32]>,
        rows: usize,
    ) {
        let out = &mut out[..rows * self.outputs];
        let x = &x[..rows * self.inputs];
        let residual = residual.map(|r| &r[..rows * self.outputs]);
        self.isa.run(Forward { layer: self, out, x, activation, residual, rows });
    }
}

/// Bytes of inputs that stay in the second-level cache while all panels pass over them.
const RESIDENT_BYTES: usize = 384 * 1024;
/// Rows of them at most: enough that a panel's way from memory is nothing to its use.
const ROW_BLOCK: usize = 240;
/// Inputs of them at most: so that there are enough rows.
const RESIDENT_INPUTS: usize = 768;
/// Inputs of a panel taken at a time: with a tile's rows (16 and 6 KiB with AVX2) they stay in the first-level cache.
const INNER_BLOCK: usize = 256;

struct Forward<'a> {
    layer: &'a Linear,
    out: &'a mut [f32],
    x: &'a [f32],
    activation: Activation,
    residual: Option<&'a [f32]>,
    rows: usize,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        let inputs = self.layer.inputs;
        let resident = RESIDENT_INPUTS.min(inputs).max(1);
        let block = (RESIDENT_BYTES / (4 * resident)).min(ROW_BLOCK);
        for start in (0..self.rows).step_by(block) {
            let rows = start..self.rows.min(start + block);
            for inner in shares(0..inputs, RESIDENT_INPUTS) {
                self.block::<V>(rows.clone(), inner);
            }
        }
    }
}

/// Splits a range into nearly equal parts of at most `largest`: 384 by 256 is 192 + 192. An empty range is one empty part.
#[inline(always)]
fn shares(range: Range<usize>, largest: usize) -> impl Iterator<Item = Range<usize>> {
    let count = range.len().div_ceil(largest).max(1);
    (0..count).map(move |i| range.start + i * range.len() / count..range.start + (i + 1) * range.len() / count)
}

impl Forward<'_> {
    /// Some rows' sums, over some inputs, for all outputs; the last of the inputs brings the epilogue.
    #[inline(always)]
    fn block<V: Vector>(&mut self, rows: Range<usize>, inner: Range<usize>) {
        let Linear { inputs, outputs, .. } = *self.layer;
        let width = lines::<V>() * LANES;
        for (panel, first) in (0..outputs).step_by(width).enumerate() {
            let columns = width.min(outputs - first);
            let mut target = Target { values: &mut self.out[rows.start * outputs + first..], stride: outputs, columns };
            for part in shares(inner.clone(), INNER_BLOCK) {
                let left =
                    Left { values: &self.x[rows.start * inputs + part.start..], stride: inputs, rows: rows.len() };
                strip::<V>(&mut target, left, self.layer.panel(panel, part, lines::<V>()));
            }
            if inner.end == inputs && (self.activation != Activation::Identity || self.residual.is_some()) {
                let residual = self.residual.map(|r| &r[rows.start * outputs + first..]);
                for_activation!(self.activation, P => epilogue::<V, P>(&mut target, residual, rows.len()));
            }
        }
    }
}

impl Linear {
    /// Some inputs' part of a panel.
    #[inline(always)]
    fn panel(&self, panel: usize, part: Range<usize>, lines: usize) -> Panel<'_> {
        let start = (panel * self.inputs + part.start) * lines;
        let (packed, after) = self.panels[start..].split_at(part.len() * lines);
        let bias = (part.end == self.inputs).then(|| &self.bias[panel * lines..][..lines]);
        let next = &after[..packed.len().min(after.len())];
        Panel { lines: packed, resume: part.start > 0, bias, next }
    }
}

/// `target = P(target) + residual`, over the panel's columns of some rows.
#[inline(always)]
fn epilogue<V: Vector, P: Pointwise>(target: &mut Target<'_>, residual: Option<&[f32]>, rows: usize) {
    for row in 0..rows {
        let start = row * target.stride;
        let out = &mut target.values[start..][..target.columns];
        match residual {
            Some(residual) => finish::<V, P>(out, Some(&residual[start..][..target.columns])),
            None => finish::<V, P>(out, None),
        }
    }
}

/// `out = P(out) + residual`, over one row.
#[inline(always)]
fn finish<V: Vector, P: Pointwise>(out: &mut [f32], residual: Option<&[f32]>) {
    let (whole, tail) = out.as_chunks_mut::<LANES>();
    let (whole_residual, tail_residual) = residual.unwrap_or(&[]).as_chunks::<LANES>();
    for (i, out) in whole.iter_mut().enumerate() {
        let value = P::apply(V::load(out));
        match whole_residual.get(i) {
            Some(residual) => value.add(V::load(residual)).store(out),
            None => value.store(out),
        }
    }
    if !tail.is_empty() {
        let value = P::apply(V::load_partial(tail));
        value.add(V::load_partial(tail_residual)).store_partial(tail);
    }
}
