//! Launches `kernels/linear_f32.cu` and the tensor-core kernels of `linear_mma.cuh` and `linear_wgmma.cuh`.

use std::ops::Range;
use std::sync::OnceLock;

use super::convert::{Operand, split, stored_as};
use super::device::{Argument, Device, Shape};
use super::linear_wgmma::{self, Products};
use super::optimizer;
use super::pack::{GROUP, Matrix, Packing, STEP, turned};
use super::tensor::{Number, Tensor};
use super::tensor_map::{self, TensorMap};
use crate::backend::training::Pair;
use crate::backend::{Activation, Precision};
use crate::error::Result;

/// The large and the small tile's kernel, forward and backward.
pub(super) const F32: [&str; 4] =
    ["linear_f32_128x64", "linear_f32_64x64", "linear_backward_f32_128x64", "linear_backward_f32_64x64"];
pub(super) const F16: [&str; 4] =
    ["linear_f16_128x128", "linear_f16_64x64", "linear_backward_f16_128x128", "linear_backward_f16_64x64"];
pub(super) const BF16: [&str; 4] =
    ["linear_bf16_128x128", "linear_bf16_64x64", "linear_backward_bf16_128x128", "linear_backward_bf16_64x64"];
pub(super) const BF16X3: [&str; 4] =
    ["linear_bf16x3_128x64", "linear_bf16x3_64x64", "linear_backward_bf16x3_128x64", "linear_backward_bf16x3_64x64"];

/// A linear layer on the device.
pub struct Linear {
    /// As the precision's kernels read it.
    weight: Tensor,
    /// f32 `[outputs rounded up to 32]`
    bias: Tensor,
    inputs: usize,
    outputs: usize,
    precision: Precision,
    /// Where its widths allow it.
    products: Products,
    /// The weights the other way round, for the way back; made when first wanted.
    transposed: OnceLock<Tensor>,
}

/// A kernel, and the tile of the output that each of its blocks makes.
pub(super) struct Tile {
    pub(super) name: &'static str,
    /// The same for the way back.
    pub(super) backward: &'static str,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) threads: usize,
    pub(super) shared_bytes: usize,
    pub(super) blocks: Blocks,
    /// Of each number, where the copy engine brings operands: 2 where they are split.
    pub(super) parts: usize,
}

/// Who makes a product's tiles.
#[derive(Clone, Copy)]
pub(super) enum Blocks {
    /// A block each.
    OneATile,
    /// So many blocks a multiprocessor, all of them between them: operands are brought by the copy engine.
    Resident(usize),
    /// The same, by so many in all.
    InAll(usize),
}

/// The large and the small tile of `linear_f32.cu`: two stages of 16 inputs, rows of x padded to 20.
const TILES_F32: [Tile; 2] = [
    tile(F32, 0, [128, 64], 128, 2 * 4 * (128 * 20 + 16 * 64)),
    tile(F32, 1, [64, 64], 256, 2 * 4 * (64 * 20 + 16 * 64)),
];
/// Those of 16-bit operands: three and four stages.
const TILES_F16: [Tile; 2] = tiles_16(F16);
const TILES_BF16: [Tile; 2] = tiles_16(BF16);
/// Those of split operands: rows of x in f32 padded to 40, weights twice; three and two stages.
const TILES_BF16X3: [Tile; 2] = [
    tile(BF16X3, 0, [128, 64], 256, 3 * (128 * 160 + 2 * 64 * 64)),
    tile(BF16X3, 1, [64, 64], 128, 2 * (64 * 160 + 2 * 64 * 64)),
];

const fn tiles_16(names: [&'static str; 4]) -> [Tile; 2] {
    [tile(names, 0, [128, 128], 256, 3 * 2 * 128 * 64), tile(names, 1, [64, 64], 128, 4 * 2 * 64 * 64)]
}

/// The large (`place` 0) or the small tile of a precision.
const fn tile(
    names: [&'static str; 4],
    place: usize,
    [rows, columns]: [usize; 2],
    threads: usize,
    shared_bytes: usize,
) -> Tile {
    let (name, backward, blocks) = (names[place], names[place + 2], Blocks::OneATile);
    Tile { name, backward, rows, columns, threads, shared_bytes, blocks, parts: 1 }
}

/// What is done with a layer's sums.
pub(super) struct Finish<'a> {
    pub(super) activation: Activation,
    /// Where the activation's slope goes, where it is wanted.
    pub(super) slope: Option<&'a mut Tensor>,
    pub(super) residual: Option<&'a Tensor>,
}

impl Linear {
    /// Packs `weight [outputs, inputs]` and `bias [outputs]`.
    pub(super) fn pack(
        device: &Device,
        precision: Precision,
        products: Products,
        weight: &[f32],
        bias: &[f32],
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        assert_eq!(weight.len(), inputs * outputs, "a weight matrix that is not outputs × inputs");
        assert_eq!(bias.len(), outputs, "a bias that is not one number an output");
        let matrix = Matrix { weight: weight.to_vec(), inputs, outputs };
        let mut padded = bias.to_vec();
        padded.resize(outputs.next_multiple_of(GROUP), 0.0);
        Ok(Self {
            weight: upload(device, &matrix, precision)?,
            bias: device.upload(Number::F32, bytemuck::cast_slice(&padded))?,
            inputs,
            outputs,
            precision,
            products,
            transposed: OnceLock::new(),
        })
    }

    /// Packs outputs `outputs` of other parameters in the place of these, on the device. In f32 or bf16, which training
    /// is in.
    pub(super) fn repack(
        &mut self,
        device: &Device,
        parameters: Pair<&Tensor>,
        outputs: Range<usize>,
        inputs: usize,
    ) -> Result<()> {
        let exact = self.precision == Precision::F32;
        assert!(exact || self.precision == Precision::Bf16, "what is packed again is in f32 or bf16");
        assert_eq!((inputs, outputs.len()), (self.inputs, self.outputs), "parameters of another layer");
        let packing =
            Packing { weight: parameters.weight, first: outputs.start * inputs, inputs, outputs: outputs.len() };
        packing.to(device, &self.weight, exact)?;
        if let Some(transposed) = self.transposed.get() {
            packing.to(device, transposed, !exact)?;
        }
        optimizer::copy_from(device, &mut self.bias, parameters.bias, outputs)
    }

    /// `out [rows, outputs] = activation(x [rows, inputs] · weightᵀ + bias) + residual`.
    pub(super) fn forward(
        &self,
        device: &Device,
        out: &mut Tensor,
        x: &Tensor,
        finish: Finish<'_>,
        rows: usize,
    ) -> Result<()> {
        self.forward_by(self.tile(device, rows, self.inputs, self.outputs), device, out, x, finish, rows)
    }

    /// [`Linear::forward`] by a kernel of the caller's choice.
    pub(super) fn forward_by(
        &self,
        tile: &Tile,
        device: &Device,
        out: &mut Tensor,
        x: &Tensor,
        finish: Finish<'_>,
        rows: usize,
    ) -> Result<()> {
        let Finish { activation, slope, residual } = finish;
        assert!(rows * self.outputs <= out.len && rows * self.inputs <= x.len, "a buffer of fewer rows");
        assert!(residual.is_none_or(|residual| rows * self.outputs <= residual.len), "a residual of fewer rows");
        assert!(slope.as_ref().is_none_or(|slope| rows * self.outputs <= slope.len), "slopes of fewer rows");
        if rows == 0 || self.outputs == 0 {
            return Ok(());
        }
        let x = stored_as(device, x, out.number)?;
        let residual = residual.map(|residual| stored_as(device, residual, out.number)).transpose()?;
        let of_parts = tile.parts_of(device, &x, rows * self.inputs)?;
        let operands = [of_parts.as_ref().unwrap_or(&x), &self.weight];
        let [x, weight] = tile.operands(device, operands, [rows, self.inputs, self.outputs])?;
        let arguments = [
            device.address(out, 0),
            slope.map_or(Argument::Address(0), |slope| device.address(slope, 0)),
            x,
            weight,
            device.address(&self.bias, 0),
            address(device, residual.as_ref()),
            Argument::Integer(number_of(activation)),
            rows.into(),
            self.inputs.into(),
            self.outputs.into(),
        ];
        device.launch(tile.name, tile.shape(device, rows, self.outputs), &arguments)
    }

    /// `dx [rows, inputs] = (dy [rows, outputs] · weight) ∘ slope + residual`.
    pub(super) fn backward(
        &self,
        device: &Device,
        dx: &mut Tensor,
        dy: &Tensor,
        slope: Option<&Tensor>,
        residual: Option<&Tensor>,
        rows: usize,
    ) -> Result<()> {
        self.backward_by(self.tile(device, rows, self.outputs, self.inputs), device, dx, dy, [slope, residual], rows)
    }

    /// [`Linear::backward`] by a kernel of the caller's choice.
    pub(super) fn backward_by(
        &self,
        tile: &Tile,
        device: &Device,
        dx: &mut Tensor,
        dy: &Tensor,
        [slope, residual]: [Option<&Tensor>; 2],
        rows: usize,
    ) -> Result<()> {
        assert!(rows * self.inputs <= dx.len && rows * self.outputs <= dy.len, "a buffer of fewer rows");
        let beside = || [slope, residual].into_iter().flatten();
        assert!(beside().all(|tensor| rows * self.inputs <= tensor.len), "slopes or a residual of fewer rows");
        if rows == 0 || self.inputs == 0 {
            return Ok(());
        }
        let dy = stored_as(device, dy, dx.number)?;
        let slope = slope.map(|slope| stored_as(device, slope, dx.number)).transpose()?;
        let residual = residual.map(|residual| stored_as(device, residual, dx.number)).transpose()?;
        let of_parts = tile.parts_of(device, &dy, rows * self.outputs)?;
        let operands = [of_parts.as_ref().unwrap_or(&dy), self.transposed(device)?];
        let [dy, weight] = tile.operands(device, operands, [rows, self.outputs, self.inputs])?;
        let arguments = [
            device.address(dx, 0),
            dy,
            weight,
            address(device, slope.as_ref()),
            address(device, residual.as_ref()),
            rows.into(),
            self.outputs.into(),
            self.inputs.into(),
        ];
        device.launch(tile.backward, tile.shape(device, rows, self.inputs), &arguments)
    }

    /// The weights the other way round. Two workers may both turn them; one of theirs is kept.
    fn transposed(&self, device: &Device) -> Result<&Tensor> {
        if let Some(transposed) = self.transposed.get() {
            return Ok(transposed);
        }
        let transposed = turned(device, &self.weight, self.precision, [self.inputs, self.outputs])?;
        Ok(self.transposed.get_or_init(|| transposed))
    }

    /// The large tile where there are enough of them to keep the device busy. The bits are the same.
    fn tile(&self, device: &Device, rows: usize, inputs: usize, columns: usize) -> &'static Tile {
        let wgmma = self.products == Products::Wgmma && tensor_map::takes(inputs);
        let [large, small] = match self.precision {
            Precision::Auto | Precision::F32 => &TILES_F32,
            Precision::F16 if wgmma => &linear_wgmma::TILES_F16,
            Precision::F16 => &TILES_F16,
            Precision::Bf16 if wgmma => &linear_wgmma::TILES_BF16,
            Precision::Bf16 => &TILES_BF16,
            Precision::Bf16x3 if wgmma => &linear_wgmma::TILES_BF16X3,
            Precision::Bf16x3 => &TILES_BF16X3,
        };
        if large.count(rows, columns) >= device.multiprocessors() { large } else { small }
    }
}

impl Tile {
    /// Of an output.
    fn count(&self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.rows) * columns.div_ceil(self.columns)
    }

    fn shape(&self, device: &Device, rows: usize, columns: usize) -> Shape {
        let count = self.count(rows, columns);
        let grid = match self.blocks {
            Blocks::OneATile => [rows.div_ceil(self.rows), columns.div_ceil(self.columns)],
            Blocks::Resident(blocks) => [count.min(blocks * device.multiprocessors()), 1],
            Blocks::InAll(blocks) => [count.min(blocks), 1],
        };
        Shape { grid, threads: self.threads, shared_bytes: self.shared_bytes }
    }

    /// The first numbers of x apart, where the kernel wants them so.
    fn parts_of(&self, device: &Device, x: &Tensor, len: usize) -> Result<Option<Tensor>> {
        (self.parts > 1).then(|| split(device, x, len)).transpose()
    }

    /// x `[rows, inputs]` and packed weights, as the kernel takes them.
    fn operands(&self, device: &Device, [x, weight]: [&Tensor; 2], shape: [usize; 3]) -> Result<[Argument; 2]> {
        if matches!(self.blocks, Blocks::OneATile) {
            return Ok([x, weight].map(|operand| device.address(operand, 0)));
        }
        let [rows, inputs, outputs] = shape;
        // Of split operands one part lies below the other.
        let packed = [self.parts * outputs.next_multiple_of(GROUP), inputs.next_multiple_of(STEP)];
        let x = TensorMap::of(device, x, [self.parts * rows, inputs], linear_wgmma::X_BOX)?;
        Ok([x, TensorMap::of(device, weight, packed, linear_wgmma::WEIGHT_BOX)?].map(Argument::Map))
    }
}

/// A matrix to the device, as the precision's kernels read it.
fn upload(device: &Device, matrix: &Matrix, precision: Precision) -> Result<Tensor> {
    let number = match precision {
        Precision::Auto | Precision::F32 => Number::F32,
        Precision::F16 => Number::F16,
        Precision::Bf16 | Precision::Bf16x3 => Number::Bf16,
    };
    device.upload(number, &matrix.pack(precision))
}

/// Of an operand there may not be.
fn address(device: &Device, operand: Option<&Operand<'_>>) -> Argument {
    operand.map_or(Argument::Address(0), |operand| device.address(operand, 0))
}

/// As `kernels/activation.cuh` counts them.
fn number_of(activation: Activation) -> i32 {
    match activation {
        Activation::Identity => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::QuickGelu => 3,
        Activation::Relu => 4,
        Activation::Silu => 5,
        Activation::Tanh => 6,
    }
}
