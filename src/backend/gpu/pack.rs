//! Weight matrices in the layouts that kernels multiply by: packed on the host where they are loaded, on the device
//! (`kernels/pack.cu`) where they are trained, or turned for the way back.

use half::{bf16, f16};
use rayon::prelude::*;

use super::device::{Argument, Device, Shape};
use super::tensor::{Number, Tensor};
use crate::backend::Precision;
use crate::error::Result;

pub(super) const NAMES: [&str; 4] = [PACK[0], PACK[2], "turn_weight_32", "turn_weight_16"];
const PACK: [&str; 3] = ["pack_weight_f32", "", "pack_weight_bf16"];
/// Rows and columns of a matrix that a block packs or turns.
const TILE: usize = 32;

/// Columns permuted among themselves, and what biases are padded to.
pub(super) const GROUP: usize = 32;
/// Inputs of a step on the tensor cores.
pub(super) const STEP: usize = 32;

/// A weight matrix as it is loaded, `[outputs, inputs]`.
pub(super) struct Matrix {
    pub(super) weight: Vec<f32>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Matrix {
    /// As the precision's kernels read it:
    ///
    /// * f32: `[inputs, outputs rounded up to 4]`
    /// * f16, bf16: `[outputs rounded up to 32, inputs rounded up to 32]`, rows at [`packed_row`]
    /// * bf16x3: two of those, what each weight rounds to and what is left of it
    ///
    /// and zeros elsewhere.
    pub(super) fn pack(&self, precision: Precision) -> Vec<u8> {
        match precision {
            Precision::Auto | Precision::F32 => bytemuck::cast_slice(&self.columns()).to_vec(),
            Precision::F16 => self.permuted(|x| f16::from_f32(x).to_bits()),
            Precision::Bf16 => self.permuted(|x| bf16::from_f32(x).to_bits()),
            Precision::Bf16x3 => {
                let near = |x| bf16::from_f32(x);
                let left = |x: f32| bf16::from_f32(x - near(x).to_f32());
                [self.permuted(|x| near(x).to_bits()), self.permuted(|x| left(x).to_bits())].concat()
            }
        }
    }

    /// `[inputs, outputs rounded up to 4]`
    fn columns(&self) -> Vec<f32> {
        let stride = self.outputs.next_multiple_of(4);
        let mut columns = vec![0.0; self.inputs * stride];
        for (output, row) in self.weight.chunks_exact(self.inputs.max(1)).enumerate() {
            for (k, &x) in row.iter().enumerate() {
                columns[k * stride + output] = x;
            }
        }
        columns
    }

    /// `[outputs rounded up to 32, inputs rounded up to 32]`, each number in 16 bits.
    fn permuted(&self, round: impl Fn(f32) -> u16 + Sync) -> Vec<u8> {
        let stride = self.inputs.next_multiple_of(STEP);
        let mut packed = vec![0u16; self.permuted_bytes() / 2];
        packed.par_chunks_exact_mut(stride.max(1)).enumerate().for_each(|(place, to)| {
            let output = packed_output(place);
            if output < self.outputs {
                let row = &self.weight[output * self.inputs..][..self.inputs];
                to.iter_mut().zip(row).for_each(|(to, &x)| *to = round(x));
            }
        });
        bytemuck::cast_slice(&packed).to_vec()
    }

    fn permuted_bytes(&self) -> usize {
        2 * self.outputs.next_multiple_of(GROUP) * self.inputs.next_multiple_of(STEP)
    }
}

/// A weight matrix's place, and its sizes.
pub(super) struct Packing<'a> {
    pub(super) weight: &'a Tensor,
    /// Its first element.
    pub(super) first: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Packing<'_> {
    /// As [`Matrix::pack`] has it for what `out` stores, f32 or bf16; in the first, a layer's matrix is `turned`, in
    /// the other that for its way back. What is zero there stays so.
    pub(super) fn to(&self, device: &Device, out: &Tensor, turned: bool) -> Result<()> {
        let &Self { weight, first, inputs, outputs } = self;
        let stride =
            if turned { outputs } else { inputs }.next_multiple_of(if out.number == Number::F32 { 4 } else { STEP });
        assert!(first + inputs * outputs <= weight.len, "a weight of fewer numbers");
        assert!(stride * if turned { inputs } else { outputs } <= out.len, "a packed weight of another size");
        if inputs * outputs == 0 {
            return Ok(());
        }
        let arguments = [
            device.address(out, 0),
            device.address(weight, first),
            inputs.into(),
            outputs.into(),
            stride.into(),
            Argument::Integer(i32::from(turned)),
        ];
        let grid = [inputs.div_ceil(TILE), outputs.div_ceil(TILE)];
        device.launch(out.number.pick(PACK), tiles(grid, 4), &arguments)
    }
}

/// A packed matrix `[outputs, inputs]` of some precision the other way round, as that precision has it.
pub(super) fn turned(
    device: &Device,
    packed: &Tensor,
    precision: Precision,
    [inputs, outputs]: [usize; 2],
) -> Result<Tensor> {
    let number = packed.number;
    // Rows and their lengths, before and after; of split weights, of each of two parts.
    let (x, out, parts, name) = if number == Number::F32 {
        ([inputs, outputs.next_multiple_of(4)], [outputs, inputs.next_multiple_of(4)], 1, "turn_weight_32")
    } else {
        let [inputs, outputs] = [inputs.next_multiple_of(STEP), outputs.next_multiple_of(GROUP)];
        let parts = if precision == Precision::Bf16x3 { 2 } else { 1 };
        ([outputs, inputs], [inputs, outputs], parts, "turn_weight_16")
    };
    let [len, x_len] = [out, x].map(|[rows, stride]| rows * stride);
    assert_eq!(packed.len, parts * x_len, "a packed weight of another size");
    let turned = device.allocate(number, parts * len)?;
    let grid = [out[1].div_ceil(TILE), out[0].div_ceil(TILE)];
    for part in (0..parts).filter(|_| len > 0) {
        let places = [device.address(&turned, part * len), device.address(packed, part * x_len)];
        let sizes = [out, x].concat().into_iter().map(Argument::from);
        let arguments: Vec<Argument> = places.into_iter().chain(sizes).collect();
        device.launch(name, tiles(grid, number.bytes()), &arguments)?;
    }
    Ok(turned)
}

fn tiles(grid: [usize; 2], bytes: usize) -> Shape {
    Shape { grid, threads: 256, shared_bytes: bytes * TILE * (TILE + 1) }
}

/// Which column is packed at a row. Column `8 t + 2 j + e` of a group of 32 goes to `8 j + 2 t + e`: a product leaves
/// lane t of a quad with columns 2t and 2t + 1 of each eight; so they become its eight neighbours.
fn packed_output(row: usize) -> usize {
    let (group, place) = (row / GROUP, row % GROUP);
    let (j, t, e) = (place / 8, place % 8 / 2, place % 2);
    group * GROUP + 8 * t + 2 * j + e
}
