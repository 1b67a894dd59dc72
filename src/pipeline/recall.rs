//! What rounding features costs, measured while both are at hand: what a store's first records find in each block, by
//! the features as computed and by those that are stored.

use crate::backend::cpu::dot;
use crate::error::Result;
use crate::factors::{FactorRows, Floats};
use crate::interrupt;
use crate::search::{Form, Hits, Options, Query, search};
use crate::store::{Block, Dtype, Near, Nearest, StoreWriter};

/// Nearest of each record that asks, itself among them.
const NEAREST: usize = 11;

/// The first records of a store, which ask.
pub(super) struct First {
    /// Records numbered below this one ask.
    pub(super) below: u64,
    width: usize,
    numbers: Vec<u64>,
    /// As computed, `[n, E]`.
    features: Vec<f32>,
}

impl First {
    /// None yet, of features of `width` in blocks of so many records; `None` where they are stored as they are.
    pub(super) fn new(dtype: Dtype, width: usize, block_records: u64) -> Option<Self> {
        let below = Nearest::queries(block_records);
        let rounds = dtype != Dtype::F32 && width > 0;
        rounds.then(|| Self { below, width, numbers: Vec::new(), features: Vec::new() })
    }

    /// Those of some records that are among the first, and not known yet.
    pub(super) fn meet(&mut self, numbers: &[u64], features: &[f32]) {
        let known = self.numbers.last().copied();
        for (&number, row) in numbers.iter().zip(features.chunks_exact(self.width)) {
            if number < self.below && known.is_none_or(|known| number > known) {
                self.numbers.push(number);
                self.features.extend_from_slice(row);
            }
        }
    }

    /// What they find in a block that `writer` is to be given.
    pub(super) fn find(&self, block: &Block, writer: &StoreWriter) -> Result<Nearest> {
        let (before, of_before, mut stored) = writer.stored(block)?;
        // Where not all of the first were known when a block was begun, the others find what was in it then: it is
        // among the first itself.
        let again = before.last().is_some_and(|&last| last < self.below);
        let mut numbers = block.indices.clone();
        let mut exact = block.features.clone();
        if again {
            let place = |number| self.numbers.binary_search(number).ok();
            let features =
                before.iter().filter_map(place).flat_map(|i| &self.features[i * self.width..(i + 1) * self.width]);
            exact.splice(0..0, features.copied());
            stored.splice(0..0, of_before);
            numbers.splice(0..0, before);
        }
        let queries: Vec<Query> = self.features.chunks_exact(self.width).map(|h| Query::feature(h.to_vec())).collect();
        let [exact, stored] = [exact, stored].map(|features| self.nearest(&features, &queries));
        let mut nearest = Nearest::default();
        for ((&query, exact), stored) in self.numbers.iter().zip(exact?).zip(stored?) {
            let near = |hits: Hits| {
                let hits = hits.proponents.into_iter();
                hits.map(|hit| Near { number: numbers[hit.row as usize], score: hit.score }).collect()
            };
            nearest.set(query, [near(exact), near(stored)]);
        }
        Ok(nearest)
    }

    /// The rows nearest to each query.
    fn nearest(&self, features: &[f32], queries: &[Query]) -> Result<Vec<Hits>> {
        let width = self.width;
        let norms: Vec<f32> = features.chunks_exact(width).map(|row| dot(row, row).sqrt()).collect();
        let rows = FactorRows {
            rows: norms.len(),
            width,
            classes: 0,
            features: Floats::F32(features),
            deltas: &[],
            feature_norms: &norms,
            delta_norms: &[],
        };
        let go_on = |_, _| !interrupt::asked();
        let options = Options { progress: Some(&go_on), ..Options::default() };
        search(&rows, &Form::feature_cos(), queries, NEAREST, &options)
    }
}
