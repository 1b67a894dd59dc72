//! Launches `kernels/gradients.cu`.

use super::Gpu;
use super::batch::Part;
use super::device::{Argument, Device, Shape};
use super::tensor::Tensor;
use crate::backend::Rows;
use crate::backend::training::{self, Pair, Products};
use crate::error::Result;

pub(super) const NAMES: [&str; 3] = ["weight_gradient_128x128", "weight_gradient_64x64", "outer_products"];

/// Outputs and inputs of the large and the small tile.
const TILES: [usize; 2] = [128, 64];
/// Rows of a step, two of which are under way.
const ROWS: usize = 16;
/// Elements of a block of `outer_products`.
const ELEMENTS: usize = 128;

/// `dw += dyᵀ x` and `db += Σ dy`, from output `first` of the gradients on.
pub(super) fn linear(
    device: &Device,
    gradients: Pair<&mut Tensor>,
    first: usize,
    dy: &Tensor,
    x: &Tensor,
    shape: training::Shape,
) -> Result<()> {
    let training::Shape { rows, inputs, outputs } = shape;
    let Pair { weight, bias } = gradients;
    assert!((first + outputs) * inputs <= weight.len && first + outputs <= bias.len, "gradients of fewer outputs");
    assert!(rows * outputs <= dy.len && rows * inputs <= x.len, "a buffer of fewer rows");
    if inputs * outputs == 0 {
        return Ok(());
    }
    let arguments = [
        device.address(weight, first * inputs),
        device.address(bias, first),
        device.address(dy, 0),
        device.address(x, 0),
        rows.into(),
        inputs.into(),
        outputs.into(),
    ];
    let grid = |tile: usize| [outputs.div_ceil(tile), inputs.div_ceil(tile)];
    let [tiles, _] = TILES.map(|tile| grid(tile).iter().product::<usize>());
    let place = usize::from(tiles < device.multiprocessors());
    let tile = TILES[place];
    let shape = Shape { grid: grid(tile), threads: 256, shared_bytes: 2 * 4 * ROWS * 2 * tile };
    device.launch(NAMES[place], shape, &arguments)
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
