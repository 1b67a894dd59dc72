//! Linear layers with every epilogue.

use super::activation::plain;
use super::support::{Numbers, assert_accurate, bits, cpus};
use half::bf16;
use wherefore::backend::cpu::Cpu;
use wherefore::backend::reference::Reference;
use wherefore::backend::{Activation, Backend, Precision};

/// A layer and what goes through it.
pub(super) struct Case {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl Case {
    pub(super) fn new([rows, inputs, outputs]: [usize; 3], scale: f32, seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        Self {
            x: numbers.vector(rows * inputs, scale),
            weight: numbers.vector(outputs * inputs, scale),
            bias: numbers.vector(outputs, scale),
            residual: numbers.vector(rows * outputs, scale),
            rows,
            inputs,
            outputs,
        }
    }

    /// With operands rounded, as a device stores them.
    pub(super) fn rounded(&self, round: impl Fn(f32) -> f32) -> Self {
        let all = |values: &[f32]| values.iter().map(|&x| round(x)).collect();
        let (x, weight, residual) = (all(&self.x), all(&self.weight), all(&self.residual));
        Self { x, weight, residual, bias: self.bias.clone(), ..*self }
    }

    /// Some of its rows by themselves.
    pub(super) fn part(&self, rows: std::ops::Range<usize>) -> Self {
        Self {
            x: self.x[rows.start * self.inputs..rows.end * self.inputs].to_vec(),
            residual: self.residual[rows.start * self.outputs..rows.end * self.outputs].to_vec(),
            weight: self.weight.clone(),
            bias: self.bias.clone(),
            rows: rows.len(),
            ..*self
        }
    }

    /// On some backend, into a buffer larger than it need be.
    pub(super) fn run<B: Backend>(&self, backend: &B, activation: Activation, with_residual: bool) -> B::Tensor {
        let layer = backend.pack_linear(&self.weight, &self.bias, self.inputs, self.outputs).unwrap();
        let (x, residual) = (backend.upload(&self.x).unwrap(), backend.upload(&self.residual).unwrap());
        let mut out = backend.tensor(self.rows * self.outputs + 5).unwrap();
        let residual = with_residual.then_some(&residual);
        backend.linear(&mut out, &x, &layer, activation, residual, self.rows).unwrap();
        out
    }

    fn cpu(&self, cpu: Cpu, activation: Activation, with_residual: bool) -> Vec<f32> {
        let mut out = self.run(&cpu, activation, with_residual);
        out.truncate(self.rows * self.outputs);
        out
    }

    /// Plain f32 loops.
    pub(super) fn plain(&self, activation: Activation, with_residual: bool) -> Vec<f32> {
        let element = |i: usize| {
            let (row, output) = (i / self.outputs, i % self.outputs);
            let x = &self.x[row * self.inputs..][..self.inputs];
            let weight = &self.weight[output * self.inputs..][..self.inputs];
            let sum: f32 = x.iter().zip(weight).map(|(a, b)| a * b).sum();
            let value = plain(activation, sum + self.bias[output]);
            if with_residual { value + self.residual[i] } else { value }
        };
        (0..self.rows * self.outputs).map(element).collect()
    }
}

/// Rows, inputs, outputs: around the edges of every tile (6, 14 rows; 16, 32 columns; 256 inputs; 240 rows).
pub(super) const SHAPES: [[usize; 3]; 16] = [
    [1, 1, 1],
    [1, 384, 2],
    [2, 7, 3],
    [3, 33, 16],
    [5, 16, 17],
    [6, 48, 33],
    [7, 1, 48],
    [8, 257, 31],
    [13, 300, 7],
    [14, 64, 64],
    [15, 255, 32],
    [29, 384, 48],
    [100, 16, 16],
    [241, 33, 35],
    [300, 7, 65],
    [31, 1000, 20],
];

/// The same around the edges of the tiles of `wgmma`, whose inputs are multiples of eight: 64 and 128 rows, 128 and 256
/// columns, 64 inputs a step, four steps round the ring.
pub(super) const ALIGNED_SHAPES: [[usize; 3]; 10] = [
    [1, 8, 1],
    [63, 64, 33],
    [65, 72, 127],
    [130, 40, 260],
    [128, 192, 256],
    [64, 256, 129],
    [129, 264, 257],
    [200, 520, 31],
    [400, 64, 300],
    [131, 328, 264],
];

/// On four multiprocessors some blocks make several tiles of these, large ones and small ones, each finished beside the
/// next one's products. Inputs and outputs may change places.
pub(super) const SHAPES_OF_SEVERAL_TILES: [[usize; 3]; 2] = [[130, 520, 520], [300, 264, 256]];

#[test]
fn error_over_odd_shapes_and_extreme_values() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for scale in [1e-20, 1e-3, 1.0, 1e15] {
            let case = Case::new(shape, scale, i as u64);
            let exact = case.run(&Reference, Activation::Identity, false);
            let plain = case.plain(Activation::Identity, false);
            let values = case.cpu(Cpu::new(), Activation::Identity, false);
            assert_accurate(&format!("{shape:?} × {scale}"), &values, &plain, &exact[..values.len()]);
        }
    }
}

#[test]
fn error_of_every_epilogue() {
    use Activation::{Gelu, GeluTanh, Identity, QuickGelu, Relu, Silu, Tanh};
    for activation in [Identity, Gelu, GeluTanh, QuickGelu, Relu, Silu, Tanh] {
        for with_residual in [false, true] {
            let case = Case::new([23, 40, 37], 1.5, 9);
            let exact = case.run(&Reference, activation, with_residual);
            let plain = case.plain(activation, with_residual);
            let values = case.cpu(Cpu::new(), activation, with_residual);
            assert_accurate(&format!("{activation:?}, {with_residual}"), &values, &plain, &exact[..values.len()]);
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let case = Case::new(shape, 1.0, 50 + i as u64);
        let results: Vec<_> = cpus().iter().map(|cpu| bits(&case.cpu(*cpu, Activation::Gelu, true))).collect();
        assert!(results.iter().all(|r| *r == results[0]), "{shape:?}");
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_company() {
    let case = Case::new([260, 400, 21], 1.0, 3);
    let whole = case.cpu(Cpu::new(), Activation::Gelu, true);
    for (start, rows) in [(0, 1), (0, 259), (259, 1), (17, 5), (100, 33), (1, 240)] {
        let alone = case.part(start..start + rows).cpu(Cpu::new(), Activation::Gelu, true);
        assert_eq!(bits(&alone), bits(&whole[start * 21..(start + rows) * 21]), "rows {start} to {}", start + rows);
    }
}

#[test]
fn an_element_is_one_chain_of_fused_multiply_adds() {
    let case = Case::new([9, 777, 19], 1.0, 4);
    let chain = |i: usize| {
        let (x, weight) = (&case.x[i / 19 * 777..][..777], &case.weight[i % 19 * 777..][..777]);
        x.iter().zip(weight).fold(0.0, |sum: f32, (x, w)| x.mul_add(*w, sum)) + case.bias[i % 19]
    };
    let expected: Vec<f32> = (0..9 * 19).map(chain).collect();
    assert_eq!(bits(&case.cpu(Cpu::new(), Activation::Identity, false)), bits(&expected));
}

#[test]
fn nan_stays_in_its_row() {
    let mut case = Case::new([8, 20, 18], 1.0, 5);
    case.x[3 * 20 + 7] = f32::NAN;
    let out = case.cpu(Cpu::new(), Activation::Gelu, false);
    for (row, values) in out.chunks(18).enumerate() {
        assert!(values.iter().all(|x| x.is_nan() == (row == 3)), "row {row}");
    }
}

fn in_bf16(cpu: Cpu) -> Cpu {
    cpu.in_precision(Precision::Bf16).unwrap()
}

/// Inputs and weights as bf16 has them: what is then computed is held to what f32 is held to.
#[test]
fn in_bf16_operands_are_rounded_and_nothing_else() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for scale in [1e-15, 1.0, 1e15] {
            let case = Case::new(shape, scale, 100 + i as u64);
            let rounded = case.rounded(|x| bf16::from_f32(x).to_f32());
            let rounded = Case { residual: case.residual.clone(), ..rounded };
            let exact = rounded.run(&Reference, Activation::Identity, true);
            let plain = rounded.plain(Activation::Identity, true);
            let values = case.cpu(in_bf16(Cpu::new()), Activation::Identity, true);
            assert_accurate(&format!("{shape:?} × {scale}"), &values, &plain, &exact[..values.len()]);
        }
    }
}

#[test]
fn bf16_has_the_same_bits_on_every_instruction_set_and_in_any_company() {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        let case = Case::new(shape, 1.0, 150 + i as u64);
        let on = |cpu: &Cpu| bits(&case.cpu(in_bf16(*cpu), Activation::Gelu, true));
        let results: Vec<_> = cpus().iter().map(on).collect();
        assert!(results.iter().all(|r| *r == results[0]), "{shape:?}");
        let last = case.part(shape[0] - 1..shape[0]).cpu(in_bf16(Cpu::new()), Activation::Gelu, true);
        assert_eq!(bits(&last), results[0][(shape[0] - 1) * shape[2]..], "{shape:?}");
    }
}

#[test]
fn bf16_is_an_even_rounding_and_knows_no_subnormals() {
    let bits = [1.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -1e-39, 3.4e38, f32::NAN];
    let expected = [1.0, 1.0, 1.0 + 4.0 / 256.0, 0.0, f32::INFINITY, f32::NAN];
    for cpu in cpus() {
        for (x, expected) in bits.into_iter().zip(expected) {
            let mut case = Case::new([1, 1, 1], 1.0, 0);
            (case.x[0], case.weight[0], case.bias[0]) = (x, 1.0, 0.0);
            let found = case.cpu(in_bf16(cpu), Activation::Identity, false)[0];
            assert!(found == expected || found.is_nan() && expected.is_nan(), "{x}: {found} on {cpu:?}");
        }
    }
}
