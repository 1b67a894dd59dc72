//! The embedding stage: rows of the tables added up, then normalised, a token at a time.

use super::Cpu;
use super::layer_norm::layer_norm;
use crate::backend::{Embeddings, table_row};
use crate::error::Result;
use crate::tokens::PackedBatch;

/// `out [T, E] = LN(word + position + token type + task)`; fails where a token is beyond a table.
pub(super) fn embed(cpu: Cpu, out: &mut [f32], embeddings: &Embeddings<Cpu>, batch: &PackedBatch) -> Result<()> {
    let width = embeddings.norm.width;
    let out = &mut out[..batch.tokens() * width];
    for (token, out) in out.chunks_exact_mut(width.max(1)).enumerate() {
        out.copy_from_slice(table_row(&embeddings.word, batch.ids[token], width, "token id")?);
        if let Some(table) = &embeddings.position {
            add(out, table_row(table, batch.positions[token], width, "position")?);
        }
        if let Some(table) = &embeddings.token_type {
            add(out, table_row(table, batch.type_ids[token], width, "segment")?);
        }
        if let Some(task) = &embeddings.task {
            add(out, &task[..width]);
        }
    }
    layer_norm(cpu.isa, out, (&embeddings.norm).into());
    Ok(())
}

fn add(sum: &mut [f32], row: &[f32]) {
    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
}
