//! Launches `kernels/embed.cu`.

use super::batch::{Batch, Part};
use super::device::{Argument, Device};
use super::tensor::Tensor;
use super::{Gpu, layer_norm};
use crate::backend::{Embeddings, beyond_table};
use crate::error::Result;

pub(super) const NAMES: [&str; 6] = {
    let ([a, b, c], [d, e, f]) = (PLAIN, MASKED);
    [a, b, c, d, e, f]
};
const PLAIN: [&str; 3] = ["embed_f32", "embed_f16", "embed_bf16"];
const MASKED: [&str; 3] = ["embed_masked_f32", "embed_masked_f16", "embed_masked_bf16"];

pub(super) fn embed(device: &Device, out: &mut Tensor, embeddings: &Embeddings<Gpu>, batch: &Batch) -> Result<()> {
    let (width, tokens) = (embeddings.norm.width, batch.host.tokens());
    assert!(tokens * width <= out.len, "a buffer of fewer rows");
    check_tables(embeddings, batch)?;
    if tokens == 0 {
        return Ok(());
    }
    let mut arguments = vec![device.address(out, 0)];
    arguments.extend(stage_arguments(device, embeddings, batch));
    let names = if let Some(masked) = &batch.masked {
        arguments.extend([Part::Starts, Part::Texts, Part::Words, Part::Bits].map(|part| batch.part(device, part)));
        arguments.extend([batch.host.sequences().into(), Argument::Integer(masked.stand_in.cast_signed())]);
        MASKED
    } else {
        PLAIN
    };
    arguments.extend([tokens, width].map(Argument::from));
    device.launch(out.number.pick(names), layer_norm::shape(tokens, width, 1), &arguments)
}

/// The tables, the normalisation, and which rows the tokens look up.
pub(super) fn stage_arguments(device: &Device, embeddings: &Embeddings<Gpu>, batch: &Batch) -> [Argument; 10] {
    let norm = &embeddings.norm;
    let table = |table: &Option<Tensor>| table.as_ref().map_or(Argument::Address(0), |table| device.address(table, 0));
    [
        device.address(&embeddings.word, 0),
        table(&embeddings.position),
        table(&embeddings.token_type),
        table(&embeddings.task),
        device.address(&norm.weight, 0),
        device.address(&norm.bias, 0),
        norm.epsilon.into(),
        batch.part(device, Part::Ids),
        batch.part(device, Part::Positions),
        batch.part(device, Part::Types),
    ]
}

/// Kernels look rows up unasked: here it is seen that they are there.
pub(super) fn check_tables(embeddings: &Embeddings<Gpu>, batch: &Batch) -> Result<()> {
    let (masked, width) = (batch.masked.as_ref(), embeddings.norm.width);
    let host = masked.map_or(&batch.host, |masked| &masked.texts);
    let stand_in = masked.map(|masked| &masked.stand_in);
    check(Some(&embeddings.word), host.ids.iter().chain(stand_in), width, "token id")?;
    check(embeddings.position.as_ref(), &host.positions, width, "position")?;
    check(embeddings.token_type.as_ref(), &host.type_ids, width, "segment")
}

/// That a table, where there is one, has these rows.
pub(super) fn check<'a>(
    table: Option<&Tensor>,
    rows: impl IntoIterator<Item = &'a u32>,
    width: usize,
    name: &str,
) -> Result<()> {
    let Some(table) = table else { return Ok(()) };
    let count = table.len / width.max(1);
    match rows.into_iter().find(|row| **row as usize >= count) {
        None => Ok(()),
        Some(row) => Err(beyond_table(name, *row, count)),
    }
}
