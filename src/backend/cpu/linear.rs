//! Linear layers: weights packed once, products in register tiles, bias, activation and residual on the tile while it is hot.

use super::activation::{Pointwise, for_activation};
use super::gemm::{Left, Line, Panel, Target, lines, panel_lines, strip};
use super::simd::{Isa, Kernel, LANES, Vector};
use crate::backend::Activation;
use std::ops::{Range, RangeInclusive};

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
/// Rows of them: enough that a panel's way from memory is little to its use, and that their sums stay in the first-level cache.
const ROW_BLOCK: RangeInclusive<usize> = 24..=120;
/// Inputs of a panel taken at a time: with a tile's rows (16 and 6 KiB with AVX2) they stay in the first-level cache.
const INNER_BLOCK: usize = 256;
/// Numbers in a row of the widest panel.
const WIDEST: usize = 2 * LANES;

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
        let block = (RESIDENT_BYTES / 4 / self.layer.inputs.max(1)).clamp(*ROW_BLOCK.start(), *ROW_BLOCK.end());
        let mut sums = [0.0; *ROW_BLOCK.end() * WIDEST];
        for rows in shares(self.rows, block) {
            for panel in 0..self.layer.outputs.div_ceil(lines::<V>() * LANES) {
                self.fetch::<V>(rows.clone(), panel);
                self.multiply::<V>(&mut sums, rows.clone(), panel);
                self.finish::<V>(&sums, rows.clone(), panel);
            }
        }
    }
}

impl Forward<'_> {
    /// Brings near, while the panel is multiplied, what its epilogue writes and adds: a cache line a row, each on a page of its own.
    #[inline(always)]
    fn fetch<V: Vector>(&self, rows: Range<usize>, panel: usize) {
        for row in rows {
            let start = row * self.layer.outputs + panel * lines::<V>() * LANES;
            for matrix in [Some(&*self.out), self.residual].into_iter().flatten() {
                for line in matrix[start..].as_chunks().0.iter().take(lines::<V>()) {
                    V::prefetch(line);
                }
            }
        }
    }

    /// `sums [rows, panel] = x · panel`
    #[inline(always)]
    fn multiply<V: Vector>(&mut self, sums: &mut [f32], rows: Range<usize>, panel: usize) {
        let (inputs, lines) = (self.layer.inputs, lines::<V>());
        let packed = &self.layer.panels[panel * inputs * lines..];
        for part in shares(inputs, INNER_BLOCK) {
            let (here, after) = packed[part.start * lines..].split_at(part.len() * lines);
            let next = &after[..here.len().min(after.len())];
            let values = &self.x[rows.start * inputs + part.start..];
            let left = Left { values, stride: inputs, rows: rows.len() };
            let target = &mut Target { values: &mut *sums, stride: lines * LANES };
            strip::<V>(target, left, Panel { lines: here, resume: part.start > 0, next });
        }
    }

    /// `out [rows, panel] = activation(sums + bias) + residual`
    #[inline(always)]
    fn finish<V: Vector>(&mut self, sums: &[f32], rows: Range<usize>, panel: usize) {
        let (outputs, lines) = (self.layer.outputs, lines::<V>());
        for line in 0..lines {
            let column = (panel * lines + line) * LANES;
            if column < outputs {
                let start = rows.start * outputs + column;
                V::call(Epilogue {
                    out: &mut self.out[start..],
                    sums: &sums[line * LANES..],
                    bias: &self.layer.bias[panel * lines + line],
                    residual: self.residual.map(|residual| &residual[start..]),
                    activation: self.activation,
                    rows: rows.len(),
                    stride: outputs,
                    columns: LANES.min(outputs - column),
                });
            }
        }
    }
}

/// Splits `0..len` into nearly equal parts of at most `largest`: 384 by 256 is 192 + 192. Nothing is one empty part.
#[inline(always)]
fn shares(len: usize, largest: usize) -> impl Iterator<Item = Range<usize>> {
    let count = len.div_ceil(largest).max(1);
    (0..count).map(move |i| i * len / count..(i + 1) * len / count)
}

/// What follows the sums, over one vector of columns of some rows.
struct Epilogue<'a> {
    out: &'a mut [f32],
    sums: &'a [f32],
    bias: &'a Line,
    residual: Option<&'a [f32]>,
    activation: Activation,
    rows: usize,
    /// From one row of `out` and `residual` to the next.
    stride: usize,
    /// Columns of the vector that are there.
    columns: usize,
}

impl Kernel for Epilogue<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for_activation!(self.activation, P => self.apply::<V, P>());
    }
}

impl Epilogue<'_> {
    /// Two rows at a time: an activation is one long chain, and a second beside it costs nothing.
    #[inline(always)]
    fn apply<V: Vector, P: Pointwise>(mut self) {
        let bias = V::load(&self.bias.0);
        for row in (0..self.rows.next_multiple_of(2)).step_by(2) {
            let other = (row + 1).min(self.rows - 1);
            let (first, second) = (self.sum::<V>(row).add(bias), self.sum::<V>(other).add(bias));
            let (first, second) = (P::apply(first), P::apply(second));
            self.write(row, first);
            self.write(other, second);
        }
    }

    /// The sums of a row.
    #[inline(always)]
    fn sum<V: Vector>(&self, row: usize) -> V {
        V::load(self.sums[row * lines::<V>() * LANES..].first_chunk().expect("sums of whole vectors"))
    }

    /// `out = value + residual`, over the columns of a row.
    #[inline(always)]
    fn write<V: Vector>(&mut self, row: usize, value: V) {
        let here = row * self.stride..row * self.stride + self.columns;
        let value = match self.residual {
            Some(residual) => value.add(load(&residual[here.clone()])),
            None => value,
        };
        store(value, &mut self.out[here]);
    }
}

/// At most a vector.
#[inline(always)]
fn load<V: Vector>(from: &[f32]) -> V {
    match from.try_into() {
        Ok(whole) => V::load(whole),
        Err(_) => V::load_partial(from),
    }
}

/// At most a vector.
#[inline(always)]
fn store<V: Vector>(value: V, to: &mut [f32]) {
    match <&mut [f32; LANES]>::try_from(&mut *to) {
        Ok(whole) => value.store(whole),
        Err(_) => value.store_partial(to),
    }
}
