//! Launches `kernels/gradients.cu`, and `kernels/gradients_bf16.cu` on tensor cores.

use super::Gpu;
use super::batch::Part;
use super::convert::stored_as;
use super::device::{Argument, Device, Shape};
use super::tensor::{Number, Tensor};
use crate::backend::Rows;
use crate::backend::training::{Pair, Passed, Products};
use crate::error::Result;

pub(super) const NAMES: [&str; 3] = ["weight_gradient_f32_128x128", "weight_gradient_f32_64x64", "outer_products"];
pub(super) const BF16: [&str; 2] = ["weight_gradient_bf16_128x128", "weight_gradient_bf16_64x64"];

/// Outputs and inputs of the large and the small tile.
const TILES: [usize; 2] = [128, 64];
/// Rows of a step, two of which are under way; and of a product on tensor cores.
const ROWS: usize = 16;
/// Threads of a block, and steps under way, of each tile on tensor cores.
const MMA: [(usize, usize); 2] = [(256, 3), (128, 4)];
/// Elements of a block of `outer_products`.
const ELEMENTS: usize = 128;

/// `dw += dyᵀ x` and `db += Σ dy`, from output `first` of the gradients on; operands in f32 or in bf16.
pub(super) fn linear(
    device: &Device,
    number: Number,
    gradients: Pair<&mut Tensor>,
    first: usize,
    dy: &Tensor,
    x: &Tensor,
    passed: &Passed<'_, Gpu>,
) -> Result<()> {
    let &Passed { batch, rows: of, inputs, outputs } = passed;
    let (rows, Pair { weight, bias }) = (batch.asking(of), gradients);
    assert_ne!(number, Number::F16, "gradients would need scales of their own in f16");
    assert_eq!((weight.number, bias.number), (Number::F32, Number::F32), "gradients of parameters are f32");
    assert!(rows * outputs.max(inputs) < 1 << 31, "operands whose places are beyond 32 bits");
    assert!((first + outputs) * inputs <= weight.len && first + outputs <= bias.len, "gradients of fewer outputs");
    assert!(rows * outputs <= dy.len && rows * inputs <= x.len, "a buffer of fewer rows");
    if inputs * outputs == 0 {
        return Ok(());
    }
    let (dy, x) = (stored_as(device, dy, number)?, stored_as(device, x, number)?);
    let to = [device.address(weight, first * inputs), device.address(bias, first)];
    let mut arguments = to.to_vec();
    arguments.extend([device.address(&dy, 0), device.address(&x, 0)]);
    let grid = |tile: usize| [outputs.div_ceil(tile), inputs.div_ceil(tile)];
    let [tiles, _] = TILES.map(|tile| grid(tile).iter().product::<usize>());
    let place = usize::from(tiles < device.multiprocessors());
    let tile = TILES[place];
    let (name, threads, shared_bytes) = if number == Number::Bf16 {
        let (pieces, count) = batch.pieces(device, of);
        arguments.extend([pieces, count.into()]);
        let (threads, stages) = MMA[place];
        (BF16[place], threads, stages * 2 * (2 * ROWS) * 2 * tile)
    } else {
        arguments.push(rows.into());
        (NAMES[place], 256, 2 * 4 * ROWS * 2 * tile)
    };
    arguments.extend([inputs, outputs].map(Argument::from));
    device.launch(name, Shape { grid: grid(tile), threads, shared_bytes }, &arguments)
}

/// Each sequence's `Σ dyᵀ x`, added at its place of `out [B, stride]`.
pub(super) fn outer_products(
    device: &Device,
    out: &mut Tensor,
    dy: &Tensor,
    x: &Tensor,
    products: &Products<'_, Gpu>,
) -> Result<()> {
    let &Products { batch, rows, inputs, outputs, stride, offset } = products;
    let (sequences, asking) = (batch.host.sequences(), batch.asking(rows));
    assert!(offset + inputs * outputs <= stride && sequences * stride <= out.len, "a buffer of fewer numbers");
    assert!(asking * outputs <= dy.len && asking * inputs <= x.len, "a buffer of fewer rows");
    assert_eq!([&*out, dy, x].map(|tensor| tensor.number), [Number::F32; 3], "outer products are in f32");
    if inputs * outputs * sequences == 0 {
        return Ok(());
    }
    let arguments = [
        device.address(out, 0),
        device.address(dy, 0),
        device.address(x, 0),
        batch.part(device, Part::Starts),
        Argument::Integer(i32::from(rows == Rows::First)),
        inputs.into(),
        outputs.into(),
        stride.into(),
        offset.into(),
    ];
    let grid = [sequences, (inputs * outputs).div_ceil(ELEMENTS)];
    device.launch(NAMES[2], Shape { grid, threads: ELEMENTS, shared_bytes: 0 }, &arguments)
}
