//! Launches `kernels/follow.cu`.

use super::attention_map::offsets;
use super::batch::{Batch, Part};
use super::device::{Argument, Device, Shape};
use super::tensor::{Number, Tensor};
use crate::backend::{Rows, Step};
use crate::error::Result;

pub(super) const NAMES: [&str; 1] = ["follow"];

/// Columns of a block, and the warps that share their sums.
const COLUMNS: usize = 32;
const PARTS: usize = 8;

pub(super) fn follow(
    device: &Device,
    out: &mut Tensor,
    row: &Tensor,
    map: &Tensor,
    batch: &Batch,
    step: &Step<'_>,
) -> Result<()> {
    let (sequences, tokens) = (batch.host.sequences(), batch.tokens());
    let (offsets, pairs) = offsets(batch, step.queries)?;
    assert!(tokens <= out.len.min(row.len) && pairs <= map.len, "a buffer of fewer numbers");
    assert_eq!(sequences, step.below.len(), "a share for each sequence");
    assert!([&*out, row, map].iter().all(|tensor| tensor.number == Number::F32), "maps and their rows are results");
    if sequences == 0 {
        return Ok(());
    }
    let of_sequences =
        device.upload(Number::F32, bytemuck::cast_slice(&[&offsets, bytemuck::cast_slice(step.below)].concat()))?;
    let longest = (0..sequences).map(|sequence| batch.host.range(sequence).len()).max().unwrap_or(0);
    let arguments = [
        device.address(out, 0),
        device.address(row, 0),
        device.address(map, 0),
        device.address(&of_sequences, 0),
        device.address(&of_sequences, sequences),
        batch.part(device, Part::Starts),
        step.own.into(),
        Argument::Integer(i32::from(step.queries == Rows::First)),
    ];
    let grid = [sequences, longest.div_ceil(COLUMNS)];
    device.launch(NAMES[0], Shape { grid, threads: COLUMNS * PARTS, shared_bytes: 4 * COLUMNS * PARTS }, &arguments)
}
