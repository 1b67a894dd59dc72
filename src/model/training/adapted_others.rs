//! What is no linear layer, as AdamW would follow it (`adapted.rs` has the formula): normalisations' and embedding tables' parameters.
//!
//! A record has no gradient of most rows of a table, whose numbers are then `β₁ m / √(β₂ v + ε)` whatever the record: all of a table is projected like that once,
//! and of a record only what its own rows differ by.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::adam::{AdamMoments, LayerMoments};
use super::network::Network;
use super::others::{Other, Others, add_norm, downloaded, rows_of};
use super::pass::Pass;
use super::projection::{Projection, Slot};
use super::sink::Normalisation;
use crate::backend::training::Training;
use crate::backend::{Norm, Rows};
use crate::error::Result;
use crate::tokens::PackedBatch;

/// The projections of all of them, and their moments.
pub(super) struct AdaptedOthers {
    others: Others,
    /// By their numbers, from the others' first on.
    steps: Vec<Steps>,
    /// `[width]`: of tables that no token reads.
    unread: Vec<f32>,
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
    /// Of the slots that come after the linear layers', of which there are as many as the moments have.
    pub(super) fn new<B: Training>(
        network: &Network<B>,
        projection: &Projection,
        slots: &[Slot],
        width: usize,
        moments: &AdamMoments,
    ) -> Self {
        let others = Others::new(projection, slots, moments.layers().len());
        let betas = moments.betas();
        let steps = moments.others().iter().map(|moments| Steps { moments: moments.clone(), betas });
        let steps: Vec<Steps> = steps.collect();
        let mut unread = vec![0.0; width];
        for (number, _) in network.table_places() {
            let place = number - others.first;
            let (other, steps) = (&others.layers[place], &steps[place]);
            let nothing = vec![0.0; other.slot.outputs.whole];
            for row in 0..other.slot.inputs.whole {
                let of_row: Vec<f32> = steps.of_row(row, &nothing).map(|u| u as f32).collect();
                other.add(&mut unread, &of_row, row);
            }
        }
        Self { others, steps, unread }
    }

    /// Their part of a batch's gradients.
    pub(super) fn adapting<'a>(&'a self, batch: &'a PackedBatch) -> Adapting<'a> {
        let norms = self.others.layers.iter().map(|_| Vec::new()).collect();
        Adapting { of: self, batch, norms, out: self.unread.repeat(batch.sequences()) }
    }

    fn at(&self, number: usize) -> (&Other, &Steps) {
        (&self.others.layers[number - self.others.first], &self.steps[number - self.others.first])
    }
}

/// A batch's.
pub(super) struct Adapting<'a> {
    of: &'a AdaptedOthers,
    batch: &'a PackedBatch,
    /// Of each normalisation that the way back has come to, `[B, E, 2]`: a sum over all of its places is what is adapted.
    norms: Vec<Vec<f64>>,
    /// `[B, width]`, zero where linear layers' numbers go.
    out: Vec<f32>,
}

impl Adapting<'_> {
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
        let (batch, sums) = (self.batch, &mut self.norms[number - self.of.others.first]);
        sums.resize(batch.sequences() * 2 * width, 0.0);
        sums.par_chunks_mut(2 * width).enumerate().for_each(|(record, gradient)| {
            add_norm(gradient, rows_of(batch, rows, record), [&slopes, &read], norm.epsilon);
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
        let (of, batch, numbers) = (self.of, self.batch, self.of.unread.len());
        let tables: Vec<_> = network.table_places().into_iter().map(|(number, table)| (of.at(number), table)).collect();
        self.out.par_chunks_mut(numbers).enumerate().for_each(|(record, out)| {
            for ((other, steps), table) in &tables {
                let read = table.rows(batch);
                let mut gradients: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
                for token in batch.range(record) {
                    let row = read.map_or(0, |rows| rows[token] as usize);
                    let gradient = gradients.entry(row).or_insert_with(|| vec![0.0; width]);
                    let slopes = &slopes[token * width..][..width];
                    gradient.iter_mut().zip(slopes).for_each(|(sum, &d)| *sum += f64::from(d));
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
                let (other, steps) = (&of.others.layers[place], &of.steps[place]);
                let width = 2 * other.slot.outputs.whole;
                let gradient = &sums[record * width..][..width];
                let adapted: Vec<f64> = gradient.iter().enumerate().map(|(i, &g)| steps.step(i, g)).collect();
                other.add_columns(out, &adapted);
            }
        });
        self.out
    }
}
