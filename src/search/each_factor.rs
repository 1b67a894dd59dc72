//! The factors of records that have several, as records of their own.

use std::ops::Range;

use super::source::{FactorSet, Source};
use crate::factors::FactorRows;
use crate::store::Store;

/// Every factor of a store as a row, one record's after another's. Where records have one, the rows are the records.
#[derive(Clone, Debug)]
pub struct EachFactor<'a> {
    store: &'a Store,
    /// Each shard's first, and their number.
    starts: Vec<usize>,
}

impl<'a> EachFactor<'a> {
    /// Of all records of a store.
    pub fn of(store: &'a Store) -> Self {
        let mut starts = vec![0];
        starts.extend(store.shards().iter().scan(0, |end, shard| {
            *end += shard.factor_count();
            Some(*end)
        }));
        Self { store, starts }
    }

    /// F.
    pub fn count(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Whose they are.
    pub fn store(&self) -> &'a Store {
        self.store
    }

    /// Whether records have several.
    pub fn are_parts(&self) -> bool {
        self.store.settings().tokens.is_some()
    }

    /// Those of each record.
    pub fn by_record(&self) -> Vec<Range<usize>> {
        let of_shard = |shard: usize| {
            let (first, shard) = (self.starts[shard], &self.store.shards()[shard]);
            let ends = |row: usize| match shard.factor_offsets() {
                Some(offsets) => first + offsets[row] as usize..first + offsets[row + 1] as usize,
                None => first + row..first + row + 1,
            };
            (0..shard.rows()).map(ends).collect::<Vec<_>>()
        };
        (0..self.store.shards().len()).flat_map(of_shard).collect()
    }

    /// `h` of one.
    pub fn features(&self, factor: usize) -> Vec<f32> {
        let shard = self.starts.partition_point(|start| *start <= factor) - 1;
        let (factors, at) = (self.store.shards()[shard].factors(), factor - self.starts[shard]);
        factors.features.slice(at * factors.width..(at + 1) * factors.width).to_f32()
    }
}

impl Source for EachFactor<'_> {
    fn shards(&self) -> usize {
        self.store.shards().len()
    }

    fn rows(&self, shard: usize) -> usize {
        self.starts[shard + 1] - self.starts[shard]
    }

    fn factors(&self, shard: usize, set: FactorSet) -> Option<FactorRows<'_>> {
        (set == FactorSet::Final).then(|| self.store.shards()[shard].factors())
    }

    fn index(&self, shard: usize, row: usize) -> u64 {
        (self.starts[shard] + row) as u64
    }

    fn release(&self, shard: usize) {
        self.store.shards()[shard].release();
    }
}
