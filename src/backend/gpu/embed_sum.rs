//! Launches `kernels/embed_sum.cu`.

use super::batch::{Batch, Part};
use super::device::{Argument, Device};
use super::embed::check;
use super::layer_norm;
use super::tensor::Tensor;
use crate::backend::training::Tables;
use crate::error::Result;

pub(super) const NAMES: [&str; 3] = ["embed_sum_f32", "embed_sum_f16", "embed_sum_bf16"];

/// `out [T, E] = word[id] + position[pos] + token_type[type] + task[0]`
pub(super) fn sum(
    device: &Device,
    out: &mut Tensor,
    tables: Tables<&Tensor>,
    batch: &Batch,
    width: usize,
) -> Result<()> {
    let (host, tokens) = (&batch.host, batch.tokens());
    assert!(tokens * width <= out.len, "a buffer of fewer rows");
    check(Some(tables.word), &host.ids, width, "token id")?;
    check(Some(tables.position), &host.positions, width, "position")?;
    check(tables.token_type, &host.type_ids, width, "segment")?;
    if tokens == 0 {
        return Ok(());
    }
    let table = |table: Option<&Tensor>| table.map_or(Argument::Address(0), |table| device.address(table, 0));
    let arguments = [
        device.address(out, 0),
        device.address(tables.word, 0),
        device.address(tables.position, 0),
        table(tables.token_type),
        table(tables.task),
        batch.part(device, Part::Ids),
        batch.part(device, Part::Positions),
        batch.part(device, Part::Types),
        tokens.into(),
        width.into(),
    ];
    device.launch(out.number.pick(NAMES), layer_norm::shape(tokens, width, 1), &arguments)
}
