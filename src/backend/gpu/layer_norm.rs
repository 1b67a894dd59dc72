//! Launches `kernels/layer_norm.cu`.

use super::Gpu;
use super::convert::stored_as;
use super::device::{Device, Shape};
use super::tensor::Tensor;
use crate::backend::Norm;
use crate::error::Result;

pub(super) const NAMES: [&str; 6] = {
    let ([a, b, c], [d, e, f]) = (FORWARD, BACKWARD);
    [a, b, c, d, e, f]
};
const FORWARD: [&str; 3] = ["layer_norm_f32", "layer_norm_f16", "layer_norm_bf16"];
const BACKWARD: [&str; 3] = ["layer_norm_backward_f32", "layer_norm_backward_f16", "layer_norm_backward_bf16"];

/// Rows of a block, one a warp, where there is room for so many.
const ROWS: usize = 4;
/// What every device has for a block.
const SHARED_BYTES: usize = 99 << 10;

/// A grid of one warp a row, with room for so many rows of this width a warp in shared memory.
pub(super) fn shape(rows: usize, width: usize, held: usize) -> Shape {
    let row_bytes = held * width.next_multiple_of(4) * 4;
    let warps = (SHARED_BYTES / row_bytes.max(1)).clamp(1, ROWS);
    Shape { grid: [rows.div_ceil(warps), 1], threads: warps * 32, shared_bytes: warps * row_bytes }
}

pub(super) fn layer_norm(device: &Device, out: &mut Tensor, x: &Tensor, norm: &Norm<Gpu>, rows: usize) -> Result<()> {
    assert!(rows * norm.width <= out.len.min(x.len), "a buffer of fewer rows");
    if rows == 0 {
        return Ok(());
    }
    let x = stored_as(device, x, out.number)?;
    let arguments = [
        device.address(out, 0),
        device.address(&x, 0),
        device.address(&norm.weight, 0),
        device.address(&norm.bias, 0),
        norm.epsilon.into(),
        rows.into(),
        norm.width.into(),
    ];
    device.launch(out.number.pick(FORWARD), shape(rows, norm.width, 1), &arguments)
}

/// `dx` from `dy`, for the normalisation of `x`.
pub(super) fn backward(
    device: &Device,
    dx: &mut Tensor,
    dy: &Tensor,
    x: &Tensor,
    norm: &Norm<Gpu>,
    rows: usize,
) -> Result<()> {
    assert!(rows * norm.width <= dx.len.min(dy.len).min(x.len), "a buffer of fewer rows");
    if rows == 0 {
        return Ok(());
    }
    let (dy, x) = (stored_as(device, dy, dx.number)?, stored_as(device, x, dx.number)?);
    let arguments = [
        device.address(dx, 0),
        device.address(&dy, 0),
        device.address(&x, 0),
        device.address(&norm.weight, 0),
        norm.epsilon.into(),
        rows.into(),
        norm.width.into(),
    ];
    device.launch(dx.number.pick(BACKWARD), shape(rows, norm.width, 2), &arguments)
}
