//! How the weights of a linear layer lie: in panels of columns, k-major, in f32 or rounded to bf16; columns beyond the
//! last are zero.

use super::bf16::{self, Instructions, LeftPairs, PairLine};
use super::gemm::{Left, Line, Target, panel_lines, product};
use super::simd::{Isa, LANES, Vector};
use crate::backend::Precision;

/// `[inputs, outputs]`, packed.
pub(super) struct Weights {
    panels: Panels,
    inputs: usize,
    /// Vectors side by side in a panel.
    lines: usize,
}

enum Panels {
    /// f32: panels of `[inputs][lines]`.
    Exact(Vec<Line>),
    /// bf16 as f32, two inputs turned around as [`bf16::turn_pairs`] has them.
    Turned(Vec<Line>),
    /// bf16: panels of `[pairs][lines]`.
    Pairs(Vec<PairLine>, Instructions),
}

/// The inputs of some rows, as the weights multiply them.
#[derive(Clone, Copy)]
pub(super) enum Operand<'a> {
    /// As they are.
    Numbers(&'a [f32]),
    Pairs(&'a [u32]),
}

/// Room for inputs on their way to an [`Operand`].
#[derive(Default)]
pub(super) struct Scratch {
    numbers: Vec<f32>,
    pairs: Vec<u32>,
}

impl Weights {
    /// All zero.
    pub(super) fn new(isa: Isa, precision: Precision, inputs: usize, outputs: usize) -> Self {
        let lines = panel_lines(isa);
        let panels = outputs.div_ceil(lines * LANES);
        let panels = match (precision, Instructions::of(isa)) {
            (Precision::Bf16, Some(instructions)) => {
                Panels::Pairs(vec![PairLine::ZERO; panels * inputs.div_ceil(2) * lines], instructions)
            }
            (Precision::Bf16, None) => Panels::Turned(vec![Line::ZERO; panels * inputs.next_multiple_of(2) * lines]),
            _ => Panels::Exact(vec![Line::ZERO; panels * inputs * lines]),
        };
        Self { panels, inputs, lines }
    }

    /// What a row has of numbers or pairs.
    fn inner(&self) -> usize {
        match self.panels {
            Panels::Exact(_) => self.inputs,
            Panels::Turned(_) => self.inputs.next_multiple_of(2),
            Panels::Pairs(..) => self.inputs.div_ceil(2),
        }
    }

    /// Where input `k` of an output is: its line, its lane, and its half of a pair.
    fn place(&self, k: usize, output: usize) -> (usize, usize, usize) {
        let (panel, column) = (output / (self.lines * LANES), output % (self.lines * LANES));
        let k_there = match self.panels {
            Panels::Exact(_) => k,
            Panels::Turned(_) => k ^ 1,
            Panels::Pairs(..) => k / 2,
        };
        ((panel * self.inner() + k_there) * self.lines + column / LANES, column % LANES, k % 2)
    }

    /// The weight of input `k` in `output`.
    pub(super) fn get(&self, k: usize, output: usize) -> f32 {
        let (line, lane, half) = self.place(k, output);
        match &self.panels {
            Panels::Exact(panels) | Panels::Turned(panels) => panels[line].0[lane],
            Panels::Pairs(panels, _) => panels[line].get(lane, half),
        }
    }

    /// The weights of one output, `[inputs]`.
    pub(super) fn set_output(&mut self, output: usize, row: &[f32]) {
        let (first, lane, _) = self.place(0, output);
        let lines = self.lines;
        match &mut self.panels {
            Panels::Exact(panels) => {
                for (line, &x) in panels[first..].iter_mut().step_by(lines).zip(row) {
                    line.0[lane] = x;
                }
            }
            _ => row.iter().enumerate().for_each(|(k, &x)| self.set(k, output, x)),
        }
    }

    /// The weights of one input, `[outputs]`.
    pub(super) fn set_input(&mut self, k: usize, row: &[f32]) {
        for (vector, part) in row.chunks(LANES).enumerate() {
            let (line, ..) = self.place(k, vector * LANES);
            match &mut self.panels {
                Panels::Exact(panels) => panels[line].0[..part.len()].copy_from_slice(part),
                _ => part.iter().enumerate().for_each(|(lane, &x)| self.set(k, vector * LANES + lane, x)),
            }
        }
    }

    fn set(&mut self, k: usize, output: usize, x: f32) {
        let (line, lane, half) = self.place(k, output);
        match &mut self.panels {
            Panels::Exact(panels) => panels[line].0[lane] = x,
            Panels::Turned(panels) => panels[line].0[lane] = bf16::round(x),
            Panels::Pairs(panels, _) => panels[line].set(lane, half, x),
        }
    }

    /// `x [rows, inputs]` made ready.
    pub(super) fn operand<'a>(&self, x: &'a [f32], scratch: &'a mut Scratch) -> Operand<'a> {
        match self.panels {
            Panels::Exact(_) => Operand::Numbers(x),
            Panels::Turned(_) => {
                bf16::turn_pairs(&mut scratch.numbers, x, self.inputs);
                Operand::Numbers(&scratch.numbers)
            }
            Panels::Pairs(_, instructions) => {
                instructions.pair_up(&mut scratch.pairs, x, self.inputs);
                Operand::Pairs(&scratch.pairs)
            }
        }
    }

    /// `target [rows, panel] = rows of x, from number `first` on, times a panel`.
    #[inline(always)]
    pub(super) fn multiply<V: Vector>(
        &self,
        target: &mut Target<'_>,
        x: Operand<'_>,
        (first, rows): (usize, usize),
        panel: usize,
    ) {
        let inner = self.inner();
        let start = panel * inner * self.lines;
        match (&self.panels, x) {
            (Panels::Exact(panels) | Panels::Turned(panels), Operand::Numbers(values)) => {
                let left = Left { values: &values[first * inner..], stride: inner, rows };
                product::<V>(target, left, &panels[start..], inner);
            }
            (Panels::Pairs(panels, instructions), Operand::Pairs(values)) => {
                let left = LeftPairs { values: &values[first * inner..], inner, rows };
                instructions.product(target, left, &panels[start..]);
            }
            _ => unreachable!("inputs made ready for other weights"),
        }
    }
}
