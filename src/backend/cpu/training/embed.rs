//! The sum of a token's table rows, and the rows that its gradient is added to: tokens in their order.

use crate::backend::table_row;
use crate::backend::training::Tables;
use crate::error::Result;
use crate::tokens::PackedBatch;

/// [`crate::backend::training::Training::embed_sum`]
pub(super) fn sum(out: &mut [f32], tables: Tables<&Vec<f32>>, batch: &PackedBatch, width: usize) -> Result<()> {
    for (token, out) in out.chunks_exact_mut(width.max(1)).take(batch.tokens()).enumerate() {
        out.copy_from_slice(table_row(tables.word, batch.ids[token], width, "token id")?);
        add(out, table_row(tables.position, batch.positions[token], width, "position")?);
        if let Some(table) = tables.token_type {
            add(out, table_row(table, batch.type_ids[token], width, "segment")?);
        }
        if let Some(table) = tables.task {
            add(out, &table[..width]);
        }
    }
    Ok(())
}

/// [`crate::backend::training::Training::embed_sum_backward`]
pub(super) fn backward(gradients: Tables<&mut Vec<f32>>, d_sum: &[f32], batch: &PackedBatch, width: usize) {
    let Tables { word, position, mut token_type, mut task } = gradients;
    let row = |row: u32| row as usize * width..(row as usize + 1) * width;
    for (token, d_sum) in d_sum.chunks_exact(width.max(1)).take(batch.tokens()).enumerate() {
        add(&mut word[row(batch.ids[token])], d_sum);
        add(&mut position[row(batch.positions[token])], d_sum);
        if let Some(table) = &mut token_type {
            add(&mut table[row(batch.type_ids[token])], d_sum);
        }
        if let Some(table) = &mut task {
            add(&mut table[..width], d_sum);
        }
    }
}

fn add(sum: &mut [f32], row: &[f32]) {
    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
}
