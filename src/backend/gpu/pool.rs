//! Launches `kernels/pool.cu`.

use super::batch::{Batch, Part};
use super::convert::stored_as;
use super::device::{Argument, Device, Shape};
use super::tensor::Tensor;
use crate::backend::Pooling;
use crate::error::Result;

pub(super) const NAMES: [&str; 6] = {
    let ([a, b, c], [d, e, f]) = (POOL, ADD);
    [a, b, c, d, e, f]
};
const POOL: [&str; 3] = ["pool_f32", "pool_f16", "pool_bf16"];
const ADD: [&str; 3] = ["add_to_first_f32", "add_to_first_f16", "add_to_first_bf16"];

/// Columns of a block.
const COLUMNS: usize = 128;

pub(super) fn pool(
    device: &Device,
    out: &mut Tensor,
    x: &Tensor,
    batch: &Batch,
    pooling: Pooling,
    width: usize,
) -> Result<()> {
    let (sequences, tokens) = (batch.host.sequences(), batch.tokens());
    assert!(sequences * width <= out.len && tokens * width <= x.len, "a buffer of fewer rows");
    let kind = match pooling {
        Pooling::First => 0,
        Pooling::Mean => 1,
        Pooling::Max => 2,
        Pooling::MeanSqrtLength => 3,
    };
    let shape = Shape { grid: [sequences, width.div_ceil(COLUMNS)], threads: COLUMNS, shared_bytes: 0 };
    let x = stored_as(device, x, out.number)?;
    let arguments = [
        device.address(out, 0),
        device.address(&x, 0),
        batch.part(device, Part::Starts),
        width.into(),
        Argument::Integer(kind),
    ];
    device.launch(out.number.pick(POOL), shape, &arguments)
}

/// Adds row b of `rows [B, width]` to the first token of sequence b in `x [T, width]`.
pub(super) fn add_to_first(device: &Device, x: &mut Tensor, rows: &Tensor, batch: &Batch, width: usize) -> Result<()> {
    let (sequences, tokens) = (batch.host.sequences(), batch.tokens());
    assert!(sequences * width <= rows.len && tokens * width <= x.len, "a buffer of fewer rows");
    let shape = Shape { grid: [sequences, width.div_ceil(COLUMNS)], threads: COLUMNS, shared_bytes: 0 };
    let rows = stored_as(device, rows, x.number)?;
    let arguments = [device.address(x, 0), device.address(&rows, 0), batch.part(device, Part::Starts), width.into()];
    device.launch(x.number.pick(ADD), shape, &arguments)
}
