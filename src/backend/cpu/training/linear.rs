//! The gradient of a linear layer's weights, `dw += dyᵀ x`: the product of [`gemm`](super::super::gemm) down the
//! tokens.
//!
//! x is packed into panels once; each thread takes some outputs, turns their columns of dy into rows, and runs them
//! over every panel. An element's chain goes on from what is in the gradient, so that cutting the tokens into
//! micro-batches changes nothing.

use std::cell::RefCell;
use std::mem;

use rayon::prelude::*;

use super::super::gemm::{Left, Line, Panel, Target, lines, panel_lines, strip};
use super::super::simd::{Isa, Kernel, LANES, Vector};
use crate::backend::cpu::Cpu;
use crate::backend::training::Shape;

/// Most outputs a task takes, and fewest.
const OUTPUTS: (usize, usize) = (48, 12);
/// Bytes of a task's turned columns that stay in the second-level cache.
const RESIDENT_BYTES: usize = 192 * 1024;
/// Tokens of a panel that stay in the first-level cache.
const TOKENS: usize = 256;
/// Numbers in a row of the widest panel.
const WIDEST: usize = 2 * LANES;

thread_local! {
    /// The panels of the last call, for the next: taken out while in use, as a thread that waits may take up another
    /// call.
    static PANELS: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    static TURNED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// [`crate::backend::training::Training::linear_parameters_backward`]
pub(super) fn backward(cpu: Cpu, weight: &mut [f32], bias: &mut [f32], dy: &[f32], x: &[f32], shape: Shape) {
    let Shape { rows, inputs, outputs } = shape;
    if rows == 0 || inputs == 0 || outputs == 0 {
        return;
    }
    let mut panels = PANELS.take();
    pack(cpu.isa, &mut panels, &x[..rows * inputs], shape);
    let task = (RESIDENT_BYTES / 4 / rows).clamp(OUTPUTS.1, OUTPUTS.0).min(outputs.div_ceil(4).max(OUTPUTS.1));
    let parts = weight.par_chunks_mut(task * inputs).zip(bias.par_chunks_mut(task));
    parts.enumerate().for_each(|(number, (weight, bias))| {
        let mut turned = TURNED.take();
        let first = number * task;
        cpu.isa.run(Task { weight, bias, first, dy, panels: &panels, turned: &mut turned, shape });
        TURNED.set(turned);
    });
    PANELS.set(mem::take(&mut panels));
}

/// `x [rows, inputs]` in panels of its columns, each `[rows][lines]`; what is beyond the last column is zero.
fn pack(isa: Isa, panels: &mut Vec<Line>, x: &[f32], shape: Shape) {
    let lines = panel_lines(isa);
    let (width, length) = (lines * LANES, shape.rows * lines);
    let count = shape.inputs.div_ceil(width);
    if panels.len() < count * length {
        panels.resize(count * length, Line::ZERO);
    }
    panels[..count * length].par_chunks_mut(length).enumerate().for_each(|(panel, packed)| {
        for (row, packed) in x.chunks_exact(shape.inputs).zip(packed.chunks_exact_mut(lines)) {
            let columns = &row[panel * width..shape.inputs.min((panel + 1) * width)];
            for (line, part) in packed.iter_mut().zip(columns.chunks(LANES).chain(std::iter::repeat(&[][..]))) {
                line.0[..part.len()].copy_from_slice(part);
                line.0[part.len()..].fill(0.0);
            }
        }
    });
}

/// Some outputs' rows of the gradient.
struct Task<'a> {
    /// `[some, inputs]`
    weight: &'a mut [f32],
    /// `[some]`
    bias: &'a mut [f32],
    /// Which output is the first.
    first: usize,
    dy: &'a [f32],
    panels: &'a [Line],
    /// `[some][rows]`: their columns of dy.
    turned: &'a mut Vec<f32>,
    shape: Shape,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        self.turn();
        let Shape { rows, inputs, .. } = self.shape;
        let (lines, height) = (lines::<V>(), self.bias.len());
        let width = lines * LANES;
        let mut sums = [0.0; OUTPUTS.0 * WIDEST];
        for (number, panel) in
            self.panels[..inputs.div_ceil(width) * rows * lines].chunks_exact(rows * lines).enumerate()
        {
            let columns = number * width..inputs.min((number + 1) * width);
            for (sums, weight) in sums.chunks_exact_mut(width).zip(self.weight.chunks_exact(inputs)) {
                sums[..columns.len()].copy_from_slice(&weight[columns.clone()]);
            }
            for start in (0..rows).step_by(TOKENS) {
                let end = rows.min(start + TOKENS);
                let left = Left { values: &self.turned[start..], stride: rows, rows: height };
                let here = Panel { lines: &panel[start * lines..end * lines], resume: true, next: &[] };
                strip::<V>(&mut Target { values: &mut sums, stride: width }, left, here);
            }
            for (sums, weight) in sums.chunks_exact(width).zip(self.weight.chunks_exact_mut(inputs)) {
                weight[columns.clone()].copy_from_slice(&sums[..columns.len()]);
            }
        }
    }
}

impl Task<'_> {
    /// Turns the columns of dy, and adds them up.
    #[inline(always)]
    fn turn(&mut self) {
        let Shape { rows, outputs, .. } = self.shape;
        let height = self.bias.len();
        if self.turned.len() < height * rows {
            self.turned.resize(height * rows, 0.0);
        }
        // Sixteen rows at a time: each line of the turned columns is written whole.
        for start in (0..rows).step_by(LANES) {
            let end = rows.min(start + LANES);
            for output in 0..height {
                let column = &mut self.turned[output * rows..][start..end];
                let mut sum = self.bias[output];
                for (row, x) in (start..end).zip(column) {
                    *x = self.dy[row * outputs + self.first + output];
                    sum += *x;
                }
                self.bias[output] = sum;
            }
        }
    }
}
