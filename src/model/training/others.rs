//! Gradients of what is no linear layer, record by record and projected: normalisations' and embedding tables'. On the host, whatever the device: they are
//! few numbers a token, and asked for seldom.
//!
//! A normalisation's is `Σ_t [δ_t ⊙ x̂_t, δ_t] [E, 2]`, x̂ what it made of its input before its own scale and shift; a table's is `Σ_t δ_t e_tᵀ [E, rows]`, e_t the
//! unit vector of the row that token t read. Either is projected on both sides, as a linear layer's is.

use std::ops::Range;

use rayon::prelude::*;

use super::network::Network;
use super::pass::Pass;
use super::projection::{Matrix, Projection, Side, Slot};
use super::sink::Normalisation;
use crate::backend::training::Training;
use crate::backend::{Norm, Rows};
use crate::error::Result;
use crate::tokens::PackedBatch;

/// The projections of all of them, by their numbers, which go on from the linear layers'.
pub(super) struct Others {
    pub(super) first: usize,
    pub(super) layers: Vec<Other>,
}

pub(super) struct Other {
    pub(super) slot: Slot,
    /// P_out and P_in.
    output: Matrix<'static>,
    input: Matrix<'static>,
}

impl Others {
    /// Of the slots that come after the linear layers'.
    pub(super) fn new(projection: &Projection, slots: &[Slot], linears: usize) -> Self {
        let other = |slot: &Slot| Other {
            slot: *slot,
            output: projection.on_host(slot.number, slot.outputs),
            input: projection.on_host(slot.number, slot.inputs),
        };
        Self { first: linears, layers: slots[linears..].iter().map(other).collect() }
    }

    /// Their part of a batch's gradients.
    pub(super) fn adding<'a>(&'a self, batch: &'a PackedBatch, width: usize) -> Adding<'a> {
        Adding { others: self, batch, width, sums: vec![0.0; batch.sequences() * width] }
    }
}

/// Adds a batch's up.
pub(super) struct Adding<'a> {
    others: &'a Others,
    batch: &'a PackedBatch,
    width: usize,
    /// `[B, width]`, zero where linear layers' numbers go.
    sums: Vec<f32>,
}

impl Adding<'_> {
    /// What has come together.
    pub(super) fn finish(self) -> Vec<f32> {
        self.sums
    }

    /// A normalisation's: `dy` of what it put out, and `x` that it read.
    pub(super) fn norm<B: Training>(
        &mut self,
        (network, pass): (&Network<B>, &Pass<'_, B>),
        of: Normalisation,
        norm: &Norm<B>,
        rows: Rows,
        [dy, x]: [&B::Tensor; 2],
    ) -> Result<()> {
        let Some(number) = network.norm_place(of) else { return Ok(()) };
        let (width, count) = (norm.width, pass.rows(rows));
        let (slopes, read) = (downloaded(pass, dy, count * width)?, downloaded(pass, x, count * width)?);
        let (other, batch) = (&self.others.layers[number - self.others.first], self.batch);
        self.sums.par_chunks_mut(self.width).enumerate().for_each(|(record, out)| {
            let mut gradient = vec![0.0; 2 * width];
            add_norm(&mut gradient, rows_of(batch, rows, record), [&slopes, &read], norm.epsilon);
            other.add_columns(out, &gradient);
        });
        Ok(())
    }

    /// The tables': `d_sum [T, width]` of the sum of the rows read.
    pub(super) fn tables<B: Training>(
        &mut self,
        network: &Network<B>,
        pass: &Pass<'_, B>,
        d_sum: &B::Tensor,
        width: usize,
    ) -> Result<()> {
        let slopes = downloaded(pass, d_sum, pass.tokens * width)?;
        let tables: Vec<(&Other, Option<&[u32]>)> = network
            .table_places()
            .into_iter()
            .map(|(number, table)| (&self.others.layers[number - self.others.first], table.rows(self.batch)))
            .collect();
        let batch = self.batch;
        self.sums.par_chunks_mut(self.width).enumerate().for_each(|(record, out)| {
            for (other, rows) in &tables {
                for token in batch.range(record) {
                    let row = rows.map_or(0, |rows| rows[token] as usize);
                    other.add(out, &slopes[token * width..][..width], row);
                }
            }
        });
        Ok(())
    }
}

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Word,
    Position,
    TokenType,
    /// Every token reads its first row.
    Task,
}

impl Table {
    /// The row that each token reads.
    pub(super) fn rows(self, batch: &PackedBatch) -> Option<&[u32]> {
        match self {
            Self::Word => Some(&batch.ids),
            Self::Position => Some(&batch.positions),
            Self::TokenType => Some(&batch.type_ids),
            Self::Task => None,
        }
    }
}

impl Other {
    /// `out += (P_out G)(P_in)ᵀ` for a gradient `G [E, 2]` of scales and shifts.
    pub(super) fn add_columns(&self, out: &mut [f32], gradient: &[f64]) {
        for column in [0, 1] {
            let of_column: Vec<f32> = gradient.iter().skip(column).step_by(2).map(|&x| x as f32).collect();
            self.add(out, &of_column, column);
        }
    }

    /// `out += (P_out d)(P_in e)ᵀ`, e the unit vector of `column`.
    pub(super) fn add(&self, out: &mut [f32], d: &[f32], column: usize) {
        let Side { kept, whole, .. } = self.slot.inputs;
        let out = &mut out[self.slot.offset..][..self.slot.len()];
        let mut projected = vec![0.0; self.slot.outputs.kept];
        self.output.apply(&mut projected, d, (d.len(), d.len()));
        self.input.column(column, whole, |place, entry| {
            out.iter_mut().skip(place).step_by(kept).zip(&projected).for_each(|(out, d)| *out += d * entry);
        });
    }
}

/// Where a record's rows lie.
pub(super) fn rows_of(batch: &PackedBatch, rows: Rows, record: usize) -> Range<usize> {
    match rows {
        Rows::All => batch.range(record),
        Rows::First => record..record + 1,
    }
}

/// `gradient [E, 2] += Σ_t [δ_t ⊙ x̂_t, δ_t]` over a record's `rows` of slopes and of what was read.
pub(super) fn add_norm(gradient: &mut [f64], rows: Range<usize>, [slopes, read]: [&[f32]; 2], epsilon: f32) {
    let width = gradient.len() / 2;
    for row in rows {
        let (dy, x) = (&slopes[row * width..][..width], &read[row * width..][..width]);
        let (mean, deviation) = statistics(x, f64::from(epsilon));
        for ((pair, &dy), &x) in gradient.chunks_exact_mut(2).zip(dy).zip(x) {
            pair[0] += f64::from(dy) * (f64::from(x) - mean) / deviation;
            pair[1] += f64::from(dy);
        }
    }
}

pub(super) fn downloaded<B: Training>(pass: &Pass<'_, B>, tensor: &B::Tensor, len: usize) -> Result<Vec<f32>> {
    let mut values = vec![0.0; len];
    pass.backend.download(&mut values, tensor)?;
    Ok(values)
}

/// The mean, and the deviation that a normalisation divides by.
fn statistics(x: &[f32], epsilon: f64) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    (mean, (variance + epsilon).sqrt())
}
