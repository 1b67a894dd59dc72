//! Launches `kernels/gradients.cu`, and on tensor cores `kernels/gradients_bf16.cu` and `kernels/gradients_f16.cu`, or as `gradients_wgmma.rs` says.

use super::Gpu;
use super::batch::Part;
use super::convert::stored_as;
use super::device::{Argument, Device, Shape};
use super::gradients_wgmma;
use super::linear_wgmma::Products as By;
use super::tensor::{Number, Tensor};
use crate::backend::Rows;
use crate::backend::training::{Pair, Passed, Products};
use crate::error::Result;

/// The large and the small tile's kernel: of all rows, and of each sequence's own.
pub(super) const NAMES: [&str; 4] = [WEIGHT_F32[0], WEIGHT_F32[1], OUTER_F32[0], OUTER_F32[1]];
pub(super) const BF16: [&str; 4] = [WEIGHT_BF16[0], WEIGHT_BF16[1], OUTER_BF16[0], OUTER_BF16[1]];
pub(super) const F16: [&str; 2] = ["outer_products_f16_128x128", "outer_products_f16_64x64"];
const WEIGHT_F32: [&str; 2] = ["weight_gradient_f32_128x128", "weight_gradient_f32_64x64"];
const WEIGHT_BF16: [&str; 2] = ["weight_gradient_bf16_128x128", "weight_gradient_bf16_64x64"];
const OUTER_F32: [&str; 2] = ["outer_products_f32_128x128", "outer_products_f32_64x64"];
const OUTER_BF16: [&str; 2] = ["outer_products_bf16_128x128", "outer_products_bf16_64x64"];

/// Outputs and inputs of the large and the small tile.
const TILES: [usize; 2] = [128, 64];
/// Rows of a step, two of which are under way; and of a product on tensor cores.
const ROWS: usize = 16;
/// Threads of a block, and steps under way, of each tile on tensor cores.
const MMA: [(usize, usize); 2] = [(256, 3), (128, 4)];

/// `dw += dyᵀ x` and `db += Σ dy`, from output `first` of the gradients on; operands in f32, or in bf16 `by` one of the tensor cores' instructions. Which is
/// settled by widths, never by rows: an element's bits are to be the same in any batch.
pub(super) fn linear(
    device: &Device,
    (number, by): (Number, By),
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
    let place = place_of(device, grid(TILES[0]).iter().product());
    let wgmma = by == By::Wgmma && gradients_wgmma::takes(inputs, outputs);
    if number == Number::Bf16 {
        let (pieces, count) = batch.pieces(device, of);
        arguments.extend([pieces, count.into()]);
    } else {
        arguments.push(rows.into());
    }
    arguments.extend([inputs, outputs].map(Argument::from));
    if wgmma {
        return gradients_wgmma::launch(device, [inputs, outputs], &arguments);
    }
    let name = number.pick([WEIGHT_F32[place], "", WEIGHT_BF16[place]]);
    device.launch(name, shape(number, place, grid(TILES[place])), &arguments)
}

/// The small tile, where large ones would leave multiprocessors idle.
fn place_of(device: &Device, large_tiles: usize) -> usize {
    usize::from(large_tiles < device.multiprocessors())
}

/// Two steps of rows under way in exact f32, or as many as [`MMA`] says of twice as many rows.
fn shape(number: Number, place: usize, grid: [usize; 2]) -> Shape {
    let (threads, numbers) = match (number, MMA[place]) {
        (Number::F32, _) => (256, 2 * ROWS),
        (_, (threads, stages)) => (threads, stages * 2 * ROWS),
    };
    Shape { grid, threads, shared_bytes: numbers * 2 * TILES[place] * number.bytes() }
}

/// Each sequence's `Σ dyᵀ x`, added at its place of `out [B, stride]`; operands in what activations are stored as.
pub(super) fn outer_products(
    device: &Device,
    number: Number,
    out: &mut Tensor,
    dy: &Tensor,
    x: &Tensor,
    products: &Products<'_, Gpu>,
) -> Result<()> {
    let &Products { batch, rows, inputs, outputs, stride, offset } = products;
    let (sequences, asking) = (batch.host.sequences(), batch.asking(rows));
    assert!(offset + inputs * outputs <= stride && sequences * stride <= out.len, "a buffer of fewer numbers");
    assert!(asking * outputs <= dy.len && asking * inputs <= x.len, "a buffer of fewer rows");
    assert_eq!(out.number, Number::F32, "sums of outer products are f32");
    if inputs * outputs * sequences == 0 {
        return Ok(());
    }
    let (dy, x) = (stored_as(device, dy, number)?, stored_as(device, x, number)?);
    let arguments = [
        device.address(out, 0),
        device.address(&dy, 0),
        device.address(&x, 0),
        batch.part(device, Part::Starts),
        Argument::Integer(i32::from(rows == Rows::First)),
        inputs.into(),
        outputs.into(),
        stride.into(),
        offset.into(),
    ];
    let blocks = |tile: usize| sequences * outputs.div_ceil(tile) * inputs.div_ceil(tile);
    // A small tile for narrow layers: most of a large one would be beyond them.
    let narrow = inputs.min(outputs) <= TILES[1];
    let place = if narrow { 1 } else { place_of(device, blocks(TILES[0])) };
    assert!(blocks(TILES[place]) < 1 << 31, "more blocks than a launch has");
    let name = number.pick([OUTER_F32[place], F16[place], OUTER_BF16[place]]);
    device.launch(name, shape(number, place, [blocks(TILES[place]), 1]), &arguments)
}
