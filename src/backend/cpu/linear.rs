//! Linear layers: weights packed once, products in register tiles, bias, activation and residual on the tile while it
//! is hot.

use super::activation::{Pointwise, for_activation};
use super::gemm::{Line, Target, lines, panel_lines, shares};
use super::simd::{Isa, Kernel, LANES, Vector};
use super::weights::{Operand, Scratch, Weights};
use crate::backend::{Activation, Precision};
use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::sync::OnceLock;

/// A packed linear layer.
pub struct Linear {
    weights: Weights,
    /// Padded to whole panels with zeros.
    bias: Vec<Line>,
    inputs: usize,
    outputs: usize,
    /// The panels' layout is the instruction set's.
    isa: Isa,
    precision: Precision,
    /// The weights the other way round, for the backward pass; made when first wanted.
    transposed: OnceLock<Box<Linear>>,
}

thread_local! {
    /// Room for inputs on their way into another precision.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What becomes of the sums of a linear layer.
pub(super) enum Finish<'a> {
    /// `activation(sum)`
    Activate(Activation),
    /// `activation(sum)`, and `activation'(sum)` to a place of its own.
    ActivateWithSlope(Activation, &'a mut [f32]),
    /// `sum · slope`
    Scale(&'a [f32]),
}

impl Linear {
    /// Packs `weight [outputs, inputs]` and `bias [outputs]`, for products in f32 or bf16.
    ///
    /// # Panics
    /// If their lengths are not those.
    pub(super) fn pack(
        isa: Isa,
        precision: Precision,
        weight: &[f32],
        bias: &[f32],
        inputs: usize,
        outputs: usize,
    ) -> Self {
        assert_eq!(weight.len(), inputs * outputs, "a weight matrix that is not outputs × inputs");
        assert_eq!(bias.len(), outputs, "a bias that is not one number an output");
        let lines = panel_lines(isa);
        let mut packed = Self {
            weights: Weights::new(isa, precision, inputs, outputs),
            bias: vec![Line::ZERO; outputs.div_ceil(lines * LANES) * lines],
            inputs,
            outputs,
            isa,
            precision,
            transposed: OnceLock::new(),
        };
        packed.refill(weight, bias);
        packed
    }

    /// Other weights of the same widths, in the same memory.
    ///
    /// # Panics
    /// If they are not of those widths.
    pub(super) fn repack(&mut self, weight: &[f32], bias: &[f32]) {
        assert_eq!((weight.len(), bias.len()), (self.inputs * self.outputs, self.outputs), "weights of other widths");
        self.refill(weight, bias);
        if let Some(transposed) = self.transposed.get_mut() {
            transposed.refill_transposed(weight);
        }
    }

    fn refill(&mut self, weight: &[f32], bias: &[f32]) {
        for (output, row) in weight.chunks_exact(self.inputs.max(1)).enumerate() {
            self.weights.set_output(output, row);
        }
        for (output, &x) in bias.iter().enumerate() {
            self.bias[output / LANES].0[output % LANES] = x;
        }
    }

    /// [`Self::refill`] from the weights the other way round, `[inputs, outputs]`, and no bias.
    fn refill_transposed(&mut self, weight: &[f32]) {
        for (k, row) in weight.chunks_exact(self.outputs.max(1)).enumerate() {
            self.weights.set_input(k, row);
        }
    }

    /// Numbers in a row on the way in, and out.
    pub(super) fn widths(&self) -> (usize, usize) {
        (self.inputs, self.outputs)
    }

    /// `dx [rows, inputs] = dy [rows, outputs] · weight`, finished as told, plus the residual.
    pub(super) fn backward(
        &self,
        dx: &mut [f32],
        dy: &[f32],
        finish: Finish<'_>,
        residual: Option<&[f32]>,
        rows: usize,
    ) {
        self.transposed.get_or_init(|| Box::new(self.transpose())).forward(dx, dy, finish, residual, rows);
    }

    /// The layer whose weights are the transpose of this one's, without a bias.
    fn transpose(&self) -> Self {
        let (inputs, outputs) = (self.outputs, self.inputs);
        let numbers = (0..outputs).flat_map(|output| (0..inputs).map(move |k| self.weights.get(output, k)));
        let weight: Vec<f32> = numbers.collect();
        Self::pack(self.isa, self.precision, &weight, &vec![0.0; outputs], inputs, outputs)
    }

    /// `out [rows, outputs] = finish(x [rows, inputs] · weightᵀ + bias) + residual`.
    pub(super) fn forward(
        &self,
        out: &mut [f32],
        x: &[f32],
        finish: Finish<'_>,
        residual: Option<&[f32]>,
        rows: usize,
    ) {
        let out = &mut out[..rows * self.outputs];
        let x = &x[..rows * self.inputs];
        let residual = residual.map(|r| &r[..rows * self.outputs]);
        let mut scratch = SCRATCH.take();
        let operand = self.weights.operand(x, &mut scratch);
        self.isa.run(Forward { layer: self, out, x: operand, finish: finish.of(rows * self.outputs), residual, rows });
        SCRATCH.set(scratch);
    }
}

/// Bytes of inputs that stay in the second-level cache while all panels pass over them.
const RESIDENT_BYTES: usize = 384 * 1024;
/// Rows of them: enough that a panel's way from memory is little to its use, and that their sums stay in the
/// first-level cache.
const ROW_BLOCK: RangeInclusive<usize> = 24..=120;
/// Numbers in a row of the widest panel.
const WIDEST: usize = 2 * LANES;

struct Forward<'a> {
    layer: &'a Linear,
    out: &'a mut [f32],
    x: Operand<'a>,
    finish: Finish<'a>,
    residual: Option<&'a [f32]>,
    rows: usize,
}

impl Finish<'_> {
    /// With buffers of exactly `len` numbers.
    fn of(self, len: usize) -> Self {
        match self {
            Self::Activate(activation) => Self::Activate(activation),
            Self::ActivateWithSlope(activation, slope) => Self::ActivateWithSlope(activation, &mut slope[..len]),
            Self::Scale(slope) => Self::Scale(&slope[..len]),
        }
    }

    /// The same from number `start` on.
    #[inline(always)]
    fn from(&mut self, start: usize) -> Finish<'_> {
        match self {
            Self::Activate(activation) => Finish::Activate(*activation),
            Self::ActivateWithSlope(activation, slope) => Finish::ActivateWithSlope(*activation, &mut slope[start..]),
            Self::Scale(slope) => Finish::Scale(&slope[start..]),
        }
    }
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
    /// Brings near, while the panel is multiplied, what its epilogue writes and adds: a cache line a row, each on a
    /// page of its own.
    #[inline(always)]
    fn fetch<V: Vector>(&self, rows: Range<usize>, panel: usize) {
        for row in rows {
            let start = row * self.layer.outputs + panel * lines::<V>() * LANES;
            let beside = match &self.finish {
                Finish::Activate(_) => None,
                Finish::ActivateWithSlope(_, slope) => Some(&**slope),
                Finish::Scale(slope) => Some(*slope),
            };
            for matrix in [Some(&*self.out), self.residual, beside].into_iter().flatten() {
                for line in matrix[start..].as_chunks().0.iter().take(lines::<V>()) {
                    V::prefetch(line);
                }
            }
        }
    }

    /// `sums [rows, panel] = x · panel`
    #[inline(always)]
    fn multiply<V: Vector>(&mut self, sums: &mut [f32], rows: Range<usize>, panel: usize) {
        let target = &mut Target { values: sums, stride: lines::<V>() * LANES };
        self.layer.weights.multiply::<V>(target, self.x, (rows.start, rows.len()), panel);
    }

    /// `out [rows, panel] = finish(sums + bias) + residual`
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
                    finish: self.finish.from(start),
                    rows: rows.len(),
                    stride: outputs,
                    columns: LANES.min(outputs - column),
                });
            }
        }
    }
}

/// What follows the sums, over one vector of columns of some rows.
struct Epilogue<'a> {
    out: &'a mut [f32],
    sums: &'a [f32],
    bias: &'a Line,
    residual: Option<&'a [f32]>,
    finish: Finish<'a>,
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
        match self.finish {
            Finish::Activate(activation) => for_activation!(activation, P => self.apply::<V, P>()),
            Finish::ActivateWithSlope(activation, _) => {
                for_activation!(activation, P => self.apply_with_slope::<V, P>());
            }
            Finish::Scale(_) => self.scale::<V>(),
        }
    }
}

impl Epilogue<'_> {
    /// Two rows at a time: an activation is one long chain, and a second beside it costs nothing.
    #[inline(always)]
    fn apply<V: Vector, P: Pointwise>(mut self) {
        let bias = V::load(&self.bias.0);
        for row in (0..self.rows.next_multiple_of(2)).step_by(2) {
            let other = (row + 1).min(self.rows - 1);
            let (first, second) = (P::apply(self.sum::<V>(row).add(bias)), P::apply(self.sum::<V>(other).add(bias)));
            self.write(row, first);
            self.write(other, second);
        }
    }

    /// The same, with the derivatives to their own place: two chains already.
    #[inline(always)]
    fn apply_with_slope<V: Vector, P: Pointwise>(mut self) {
        let bias = V::load(&self.bias.0);
        for row in 0..self.rows {
            let (value, slope) = P::with_slope(self.sum::<V>(row).add(bias));
            let here = row * self.stride..row * self.stride + self.columns;
            if let Finish::ActivateWithSlope(_, slopes) = &mut self.finish {
                store(slope, &mut slopes[here]);
            }
            self.write(row, value);
        }
    }

    #[inline(always)]
    fn scale<V: Vector>(mut self) {
        let Finish::Scale(slope) = self.finish else { return };
        for row in 0..self.rows {
            let slope: V = load(&slope[row * self.stride..][..self.columns]);
            self.write(row, self.sum::<V>(row).mul(slope));
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
