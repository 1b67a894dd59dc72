//! What is no linear layer, as AdamW would follow it (`adapted.rs` has the formula): normalisations' and embedding
//! tables' parameters.
//!
//! A record has no gradient of most rows of a table, whose numbers are then `β₁ m / √(β₂ v + ε)` whatever the record:
//! all of a table is projected like that once, and of a record only what its own rows differ by.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::adam::{AdamMoments, LayerMoments};
use super::network::Network;
use super::pass::Pass;
use super::projection::{Matrix, Projection, Side, Slot};
use super::sink::Normed;
use crate::backend::training::Training;
use crate::error::Result;
use crate::tokens::PackedBatch;

/// The projections of all of them, and their moments.
pub(super) struct AdaptedOthers {
    /// The first of their numbers, which go on from the linear layers'.
    first: usize,
    /// By their numbers.
    others: Vec<(Other, Steps)>,
    /// `[width]`: of tables that no token reads.
    unread: Vec<f32>,
}

struct Other {
    slot: Slot,
    /// P_out and P_in.
    output: Matrix<'static>,
    input: Matrix<'static>,
}

/// What an AdamW's step of each of some parameters is made of.
struct Steps {
    moments: LayerMoments,
    betas: [f64; 2],
}

impl Steps {
    /// `u` of parameter i, by one record's gradient.
    fn step(&self, i: usize, g: f64) -> f64 {
        let ([beta1, beta2], LayerMoments { first, second }) = (self.betas, &self.moments);
        let above = beta1 * f64::from(first[i]) + (1.0 - beta1) * g;
        above / (beta2 * f64::from(second[i]) + (1.0 - beta2) * g * g + super::adapted::EPSILON).sqrt()
    }

    /// Of row `row` of a table, by its gradient.
    fn of_row<'a>(&'a self, row: usize, gradient: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        gradient.iter().enumerate().map(move |(j, &g)| self.step(row * gradient.len() + j, g))
    }
}

impl AdaptedOthers {
    /// Of the slots that come after the linear layers', of which there are as many as the moments have; none where
    /// there are no others.
    pub(super) fn of<B: Training>(
        network: &Network<B>,
        projection: &Projection,
        slots: &[Slot],
        width: usize,
        moments: &AdamMoments,
    ) -> Option<Self> {
        if slots.len() == moments.layers().len() {
            return None;
        }
        let (first, betas) = (moments.layers().len(), moments.betas());
        let other = |(slot, moments): (&Slot, &LayerMoments)| {
            let (output, input) =
                (projection.on_host(slot.number, slot.outputs), projection.on_host(slot.number, slot.inputs));
            (Other { slot: *slot, output, input }, Steps { moments: moments.clone(), betas })
        };
        let others: Vec<_> = slots[first..].iter().zip(moments.others()).map(other).collect();
        let mut unread = vec![0.0; width];
        for (number, _) in network.table_places() {
            let (other, steps) = &others[number - first];
            let nothing = vec![0.0; other.slot.outputs.whole];
            for row in 0..other.slot.inputs.whole {
                let of_row: Vec<f32> = steps.of_row(row, &nothing).map(|u| u as f32).collect();
                other.add(&mut unread, &of_row, row);
            }
        }
        Some(Self { first, others, unread })
    }

    /// Their part of a batch's gradients.
    pub(super) fn adapting<'a>(&'a self, batch: &'a PackedBatch) -> Adapting<'a> {
        let norms = self.others.iter().map(|_| Vec::new()).collect();
        Adapting { of: self, batch, scales: Vec::new(), norms, out: self.unread.repeat(batch.sequences()) }
    }

    fn at(&self, number: usize) -> &(Other, Steps) {
        &self.others[number - self.first]
    }
}

/// A batch's.
pub(super) struct Adapting<'a> {
    of: &'a AdaptedOthers,
    batch: &'a PackedBatch,
    /// What each record's gradients are larger by.
    scales: Vec<f32>,
    /// Of each normalisation that the way back has come to, `[B, E, 2]`: a sum over all of its places is what is
    /// adapted.
    norms: Vec<Vec<f64>>,
    /// `[B, width]`, zero where linear layers' numbers go.
    out: Vec<f32>,
}

impl Adapting<'_> {
    /// Told before any gradient comes.
    pub(super) fn scaled(&mut self, scales: &[f32]) {
        self.scales = scales.to_vec();
    }

    /// A normalisation's.
    pub(super) fn norm<B: Training>(
        &mut self,
        (network, pass): (&Network<B>, &Pass<'_, B>),
        Normed { of, norm, rows, dy, x }: Normed<'_, B>,
    ) -> Result<()> {
        let Some(number) = network.norm_place(of) else { return Ok(()) };
        let (width, count) = (norm.width, pass.rows(rows));
        let (slopes, read) = (downloaded(pass, dy, count * width)?, downloaded(pass, x, count * width)?);
        let (batch, scales, sums) = (self.batch, &self.scales, &mut self.norms[number - self.of.first]);
        sums.resize(batch.sequences() * 2 * width, 0.0);
        sums.par_chunks_mut(2 * width).enumerate().for_each(|(record, gradient)| {
            add_norm(gradient, rows.range(batch, record), [&slopes, &read], norm.epsilon, scales[record]);
        });
        Ok(())
    }

    /// The tables': `d_sum [T, E]` of the sum of the rows read.
    pub(super) fn tables<B: Training>(
        &mut self,
        network: &Network<B>,
        pass: &Pass<'_, B>,
        d_sum: &B::Tensor,
        width: usize,
    ) -> Result<()> {
        let slopes = downloaded(pass, d_sum, pass.tokens * width)?;
        let (of, batch, scales, numbers) = (self.of, self.batch, &self.scales, self.of.unread.len());
        let tables: Vec<_> = network.table_places().into_iter().map(|(number, named)| (of.at(number), named)).collect();
        self.out.par_chunks_mut(numbers).enumerate().for_each(|(record, out)| {
            for ((other, steps), named) in &tables {
                let read = named.rows(batch);
                let mut gradients: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
                for token in batch.range(record) {
                    let row = read.map_or(0, |rows| rows[token] as usize);
                    let gradient = gradients.entry(row).or_insert_with(|| vec![0.0; width]);
                    let slopes = &slopes[token * width..][..width];
                    let scale = f64::from(scales[record]);
                    gradient.iter_mut().zip(slopes).for_each(|(sum, &d)| *sum += f64::from(d) / scale);
                }
                let nothing = vec![0.0; width];
                for (row, gradient) in gradients {
                    let both = steps.of_row(row, &gradient).zip(steps.of_row(row, &nothing));
                    let apart: Vec<f32> = both.map(|(own, unread)| (own - unread) as f32).collect();
                    other.add(out, &apart, row);
                }
            }
        });
        Ok(())
    }

    /// What has come together.
    pub(super) fn finish(mut self) -> Vec<f32> {
        let (of, norms, numbers) = (self.of, &self.norms, self.of.unread.len());
        self.out.par_chunks_mut(numbers).enumerate().for_each(|(record, out)| {
            for (place, sums) in norms.iter().enumerate().filter(|(_, sums)| !sums.is_empty()) {
                let (other, steps) = &of.others[place];
                let width = 2 * other.slot.outputs.whole;
                let gradient = &sums[record * width..][..width];
                let adapted: Vec<f64> = gradient.iter().enumerate().map(|(i, &g)| steps.step(i, g)).collect();
                other.add_columns(out, &adapted);
            }
        });
        self.out
    }
}

impl Other {
    /// `out += (P_out G)(P_in)ᵀ` for a gradient `G [E, 2]` of scales and shifts.
    fn add_columns(&self, out: &mut [f32], gradient: &[f64]) {
        for column in [0, 1] {
            let of_column: Vec<f32> = gradient.iter().skip(column).step_by(2).map(|&x| x as f32).collect();
            self.add(out, &of_column, column);
        }
    }

    /// `out += (P_out d)(P_in e)ᵀ`, e the unit vector of `column`.
    fn add(&self, out: &mut [f32], d: &[f32], column: usize) {
        let Side { kept, whole, .. } = self.slot.inputs;
        let out = &mut out[self.slot.offset..][..self.slot.len()];
        let mut projected = vec![0.0; self.slot.outputs.kept];
        self.output.apply(&mut projected, d, (d.len(), d.len()));
        self.input.column(column, whole, |place, entry| {
            out.iter_mut().skip(place).step_by(kept).zip(&projected).for_each(|(out, d)| *out += d * entry);
        });
    }
}

/// `gradient [E, 2] += Σ_t [δ_t ⊙ x̂_t, δ_t]` over a record's `rows` of slopes, larger by `scale`, and of what was
/// read.
fn add_norm(gradient: &mut [f64], rows: Range<usize>, [slopes, read]: [&[f32]; 2], epsilon: f32, scale: f32) {
    let width = gradient.len() / 2;
    for row in rows {
        let (dy, x) = (&slopes[row * width..][..width], &read[row * width..][..width]);
        let (mean, deviation) = statistics(x, f64::from(epsilon));
        for ((pair, &dy), &x) in gradient.chunks_exact_mut(2).zip(dy).zip(x) {
            let slope = f64::from(dy) / f64::from(scale);
            pair[0] += slope * (f64::from(x) - mean) / deviation;
            pair[1] += slope;
        }
    }
}

fn downloaded<B: Training>(pass: &Pass<'_, B>, tensor: &B::Tensor, len: usize) -> Result<Vec<f32>> {
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
