//! Where the scan reads training factors from: a store's mapped shards, or slices in memory.

use super::rows::RowSet;
use crate::factors::{Bundle, FactorRows, ScanRows};
use crate::store::Store;

/// Which model's factors: the one explained, or a checkpoint of its training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactorSet {
    /// The model whose predictions are explained.
    Final,
    /// Checkpoint number c, from 0.
    Checkpoint(usize),
    /// One vector a record of the model explained, where records have several factors: h alone, for what compares
    /// features.
    Mean,
}

/// Training factors in a fixed order, cut into shards anywhere: the cuts change no bit of any result.
pub trait Source: Sync {
    /// How many shards there are.
    fn shards(&self) -> usize;
    /// Records in shard `shard`.
    fn rows(&self, shard: usize) -> usize;
    /// The factors of shard `shard`, the same at every call; `None` where it does not hold this set.
    fn factors(&self, shard: usize, set: FactorSet) -> Option<FactorRows<'_>>;
    /// Where records have several factors, which rows of [`Source::factors`] are whose: record i's are `offsets[i] ..
    /// offsets[i + 1]` of the shard's, the same in every set; `None` where each row is a record, as in
    /// [`FactorSet::Mean`] always.
    fn factor_offsets(&self, _shard: usize, _set: FactorSet) -> Option<&[u64]> {
        None
    }
    /// The coordinate of each factor of shard `shard` that meets a query's bias; `None` where all are 1.
    fn factor_biases(&self, _shard: usize) -> Option<&[f32]> {
        None
    }
    /// The length of each record's whole gradient in shard `shard`, where records have several factors.
    fn gradient_norms(&self, _shard: usize) -> Option<&[f32]> {
        None
    }
    /// A copy of the model's own features for scans, of every row of shard `shard`, where there is one.
    fn scan(&self, _shard: usize) -> Option<ScanRows<'_>> {
        None
    }
    /// At least how far the features of each row of shard `shard` are from what they were before they were rounded to
    /// be stored, where they were: scores are of the stored ones, and a result tells which records would be in it by
    /// the others too.
    fn residuals(&self, _shard: usize) -> Option<&[f32]> {
        None
    }
    /// The number in the whole input of the record in row `row` of shard `shard`: what ties are ordered by.
    fn index(&self, shard: usize, row: usize) -> u64;
    /// A name for what shard `shard` holds that no other has: a device may keep it for searches to come. `None` where
    /// there is none.
    fn contents(&self, _shard: usize) -> Option<&str> {
        None
    }
    /// The rows that are searched, over all shards; `None` for all of them. The others are passed over as if they were
    /// not there, but for the numbers a form is given for each row.
    fn selection(&self) -> Option<&RowSet> {
        None
    }
    /// Told when a scan is through with a shard of a source larger than the memory budget: mapped pages may be given
    /// back.
    fn release(&self, _shard: usize) {}
}

/// Consecutive factors in memory, of records numbered from 0.
impl Source for FactorRows<'_> {
    fn shards(&self) -> usize {
        1
    }

    fn rows(&self, _shard: usize) -> usize {
        self.rows
    }

    fn factors(&self, _shard: usize, set: FactorSet) -> Option<FactorRows<'_>> {
        (set == FactorSet::Final).then_some(*self)
    }

    fn index(&self, _shard: usize, row: usize) -> u64 {
        row as u64
    }
}

/// A source of which only some rows are searched.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a, S: ?Sized> {
    /// Where the rows are.
    pub source: &'a S,
    /// The rows searched.
    pub rows: &'a RowSet,
}

impl<S: Source + ?Sized> Source for Selected<'_, S> {
    fn shards(&self) -> usize {
        self.source.shards()
    }

    fn rows(&self, shard: usize) -> usize {
        self.source.rows(shard)
    }

    fn factors(&self, shard: usize, set: FactorSet) -> Option<FactorRows<'_>> {
        self.source.factors(shard, set)
    }

    fn factor_offsets(&self, shard: usize, set: FactorSet) -> Option<&[u64]> {
        self.source.factor_offsets(shard, set)
    }

    fn factor_biases(&self, shard: usize) -> Option<&[f32]> {
        self.source.factor_biases(shard)
    }

    fn gradient_norms(&self, shard: usize) -> Option<&[f32]> {
        self.source.gradient_norms(shard)
    }

    fn index(&self, shard: usize, row: usize) -> u64 {
        self.source.index(shard, row)
    }

    fn scan(&self, shard: usize) -> Option<ScanRows<'_>> {
        self.source.scan(shard)
    }

    fn contents(&self, shard: usize) -> Option<&str> {
        self.source.contents(shard)
    }

    fn residuals(&self, shard: usize) -> Option<&[f32]> {
        self.source.residuals(shard)
    }

    fn selection(&self) -> Option<&RowSet> {
        Some(self.rows)
    }

    fn release(&self, shard: usize) {
        self.source.release(shard);
    }
}

/// One shard in memory.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The model's own factors.
    pub factors: FactorRows<'a>,
    /// Those of each checkpoint, of the same records.
    pub checkpoints: Vec<FactorRows<'a>>,
    /// The records' numbers in the whole input, `[n]`.
    pub indices: &'a [u64],
}

impl Source for [View<'_>] {
    fn shards(&self) -> usize {
        self.len()
    }

    fn rows(&self, shard: usize) -> usize {
        self[shard].factors.rows
    }

    fn factors(&self, shard: usize, set: FactorSet) -> Option<FactorRows<'_>> {
        match set {
            FactorSet::Final => Some(self[shard].factors),
            FactorSet::Checkpoint(c) => self[shard].checkpoints.get(c).copied(),
            FactorSet::Mean => None,
        }
    }

    fn index(&self, shard: usize, row: usize) -> u64 {
        self[shard].indices[row]
    }
}

impl Source for Store {
    fn shards(&self) -> usize {
        Store::shards(self).len()
    }

    fn rows(&self, shard: usize) -> usize {
        Store::shards(self)[shard].rows()
    }

    fn factors(&self, shard: usize, set: FactorSet) -> Option<FactorRows<'_>> {
        let shard = &Store::shards(self)[shard];
        match set {
            FactorSet::Final => Some(shard.factors()),
            FactorSet::Checkpoint(c) if c < self.settings().checkpoints.len() => Some(shard.checkpoint(c)),
            FactorSet::Checkpoint(_) => None,
            FactorSet::Mean => shard.means(),
        }
    }

    fn factor_offsets(&self, shard: usize, set: FactorSet) -> Option<&[u64]> {
        if set == FactorSet::Mean { None } else { Store::shards(self)[shard].factor_offsets() }
    }

    fn factor_biases(&self, shard: usize) -> Option<&[f32]> {
        Store::shards(self)[shard].factor_biases()
    }

    fn gradient_norms(&self, shard: usize) -> Option<&[f32]> {
        Store::shards(self)[shard].gradient_norms()
    }

    fn index(&self, shard: usize, row: usize) -> u64 {
        Store::shards(self)[shard].indices()[row]
    }

    fn scan(&self, shard: usize) -> Option<ScanRows<'_>> {
        Store::shards(self)[shard].scan()
    }

    fn contents(&self, shard: usize) -> Option<&str> {
        Some(Store::shards(self)[shard].checksum())
    }

    fn residuals(&self, shard: usize) -> Option<&[f32]> {
        Store::shards(self)[shard].residuals()
    }

    fn release(&self, shard: usize) {
        Store::shards(self)[shard].release();
    }
}

/// The factors of one record of a store whose records have several; `None` where there is no such set of them.
pub fn stored_bundle(store: &Store, row: usize, set: FactorSet) -> Option<Bundle> {
    let (shard, place) = store.locate(row);
    let factors = store.factors(shard, set)?;
    let offsets = store.factor_offsets(shard, set)?;
    let shard = &store.shards()[shard];
    let own = offsets[place] as usize..offsets[place + 1] as usize;
    let (e, k) = (factors.width, factors.classes);
    Some(Bundle {
        features: factors.features.slice(own.start * e..own.end * e).to_f32(),
        deltas: factors.deltas[own.start * k..own.end * k].to_vec(),
        biases: shard.factor_biases().map_or_else(|| vec![1.0; own.len()], |biases| biases[own.clone()].to_vec()),
        classes: shard.factor_classes()?[own].iter().map(|&class| class as usize).collect(),
        loss: f64::from(shard.losses()[place]),
    })
}
