//! Linear layers: weights packed once, products in register tiles, bias, activation and residual on the tile while it is hot.

use super::activation::{Pointwise, for_activation};
use super::gemm::{Left, Line, Panel, Target, lines, panel_lines, strip};
use super::simd::{Isa, Kernel, LANES, Vector};
use crate::backend::Activation;

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

/// Inputs taken at a time: a panel's share (16 KiB with AVX2) and a tile's rows stay in the first-level cache together.
const INNER_BLOCK: usize = 256;
/// Rows taken at a time: their share of the inputs (256 KiB) stays in the second-level cache while all panels pass.
const ROW_BLOCK: usize = 240;

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
        // Equal shares: 384 inputs are 192 + 192.
        let share = inputs.div_ceil(inputs.div_ceil(INNER_BLOCK).max(1)).max(1);
        for row in (0..self.rows).step_by(ROW_BLOCK) {
            let rows = ROW_BLOCK.min(self.rows - row);
            let mut inner = 0;
            loop {
                let end = (inner + share).min(inputs);
                self.block::<V>(row, rows, inner, end);
                inner = end;
                if inner == inputs {
                    break;
                }
            }
        }
    }
}

impl Forward<'_> {
    /// Some rows times inputs `inner..end` of all panels; the last of the inputs brings the epilogue.
    #[inline(always)]
    fn block<V: Vector>(&mut self, row: usize, rows: usize, inner: usize, end: usize) {
        let Linear { inputs, outputs, .. } = *self.layer;
        let lines = lines::<V>();
        for (panel, first) in (0..outputs).step_by(lines * LANES).enumerate() {
            let columns = (lines * LANES).min(outputs - first);
            let packed = &self.layer.panels[(panel * inputs + inner) * lines..(panel * inputs + end) * lines];
            let bias = &self.layer.bias[panel * lines..][..lines];
            let left = Left { values: &self.x[row * inputs + inner..], stride: inputs, rows };
            let mut target = Target { values: &mut self.out[row * outputs + first..], stride: outputs, columns };
            let last = end == inputs;
            strip::<V>(&mut target, left, Panel { lines: packed, resume: inner > 0, bias: last.then_some(bias) });
            if last && (self.activation != Activation::Identity || self.residual.is_some()) {
                let residual = self.residual.map(|r| &r[row * outputs + first..]);
                for_activation!(self.activation, P => epilogue::<V, P>(&mut target, residual, rows));
            }
        }
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
