//! Launches `kernels/attention_map.cu`.

use super::Gpu;
use super::attention::{Operands, TILE};
use super::batch::{Batch, Part};
use super::convert::stored_as;
use super::device::{Argument, Device, Shape};
use super::tensor::{Number, Tensor};
use crate::backend::{Attended, AttentionMap, AttentionShape, Rows};
use crate::error::{Error, Result};

/// Queries and keys of a block, and the threads of a query.
const ROWS: usize = 32;
const PARTS: usize = 4;

pub(super) const NAMES: [&str; 3] = ["attention_map_f32", "attention_map_f16", "attention_map_bf16"];

pub(super) fn map(
    device: &Device,
    out: &mut Tensor,
    attended: &Attended<'_, Gpu>,
    map: &AttentionMap<'_, Gpu>,
    number: Number,
) -> Result<()> {
    let Attended { batch, shape: AttentionShape { heads, head_width, queries }, .. } = *attended;
    let (offsets, pairs) = offsets(batch, queries)?;
    assert!(pairs <= out.len, "a buffer of fewer rows");
    assert_eq!(out.number, Number::F32, "maps are results");
    let operands = Operands::new(device, attended, number)?;
    let offsets = device.upload(Number::F32, bytemuck::cast_slice(&offsets))?;
    let (kind, d_out) = match map {
        AttentionMap::Weights => (0, None),
        AttentionMap::Scores => (1, None),
        AttentionMap::GradientWeights(d_out) => (2, Some(stored_as(device, d_out, number)?)),
    };
    let (tiles, count) = batch.tiles(device, queries);
    let mut arguments = vec![device.address(out, 0), device.address(&offsets, 0), Argument::Integer(kind)];
    arguments.extend(operands.views());
    arguments.extend([
        d_out.as_ref().map_or(Argument::Address(0), |d_out| device.address(d_out, 0)),
        batch.part(device, Part::Scales),
        tiles,
        operands.starts(),
    ]);
    arguments.extend(operands.sizes());
    let shared_bytes = 4 * 4 * ROWS * (head_width.next_multiple_of(4) | 4);
    debug_assert!(heads > 0);
    let grid = [count, if queries == Rows::All { TILE / ROWS } else { 1 }];
    device.launch(number.pick(NAMES), Shape { grid, threads: ROWS * PARTS, shared_bytes }, &arguments)
}

/// Where each sequence's pairs begin, and how many there are.
pub(super) fn offsets(batch: &Batch, queries: Rows) -> Result<(Vec<u32>, usize)> {
    let mut pairs = 0;
    let mut offsets = Vec::with_capacity(batch.host.sequences());
    for sequence in 0..batch.host.sequences() {
        offsets.push(u32::try_from(pairs).map_err(|_| too_many())?);
        let length = batch.host.range(sequence).len();
        pairs += if queries == Rows::First { length } else { length * length };
    }
    Ok((offsets, pairs))
}

fn too_many() -> Error {
    Error::Device("attention maps: the batch has more than 2³² pairs of tokens".to_owned(), None)
        .with_hint("take fewer tokens at a time with --batch-tokens")
}
