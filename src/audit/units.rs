//! What has a label of its own: a record, or of models that say something of tokens each of its words or masks.

use std::ops::Range;

use super::labelled::Classes;
use crate::error::Result;
use crate::factors::FactorRows;
use crate::search::{FactorSet, Source};
use crate::store::Store;
use crate::task;

/// The units of a store, numbered in the order of its rows: one a record, or one a factor.
#[derive(Clone, Debug)]
pub(super) struct Units<'a> {
    pub(super) store: &'a Store,
    /// Each shard's first, and their number.
    starts: Vec<usize>,
}

impl<'a> Units<'a> {
    pub(super) fn of(store: &'a Store) -> Self {
        let mut starts = vec![0];
        starts.extend(store.shards().iter().scan(0, |end, shard| {
            *end += shard.factor_count();
            Some(*end)
        }));
        Self { store, starts }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Whether a record has several.
    pub(super) fn are_parts(&self) -> bool {
        self.store.settings().tokens.is_some()
    }

    /// The units of each record, one record after another.
    pub(super) fn by_record(&self) -> Vec<Range<usize>> {
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

    /// `h` of a unit.
    pub(super) fn features(&self, unit: usize) -> Vec<f32> {
        let shard = self.starts.partition_point(|start| *start <= unit) - 1;
        let (factors, at) = (self.store.shards()[shard].factors(), unit - self.starts[shard]);
        factors.features.slice(at * factors.width..(at + 1) * factors.width).to_f32()
    }
}

/// Words and masks as records of their own.
impl Source for Units<'_> {
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

/// What is told together of the words of one record: an entity, as it is tagged or as it would rather be, with whatever it touches; or a word by itself.
pub(super) fn spans(
    records: &[Range<usize>],
    classes: &Classes,
    suggestions: &[usize],
    names: &[String],
) -> Vec<Range<usize>> {
    let name = |class: Option<usize>| class.and_then(|class| names.get(class)).map(String::as_str);
    let mut all = Vec::new();
    for record in records {
        let tagged = task::entities(record.clone().map(|unit| name(classes.labels[unit])));
        let suggested = task::entities(record.clone().map(|unit| name(Some(suggestions[unit]))));
        let mut entities: Vec<Range<usize>> = tagged.into_iter().chain(suggested).map(|(_, words)| words).collect();
        entities.sort_by_key(|words| (words.start, words.end));
        let (mut next, mut entities) = (0, entities.into_iter().peekable());
        while next < record.len() {
            let mut end = next + 1;
            while let Some(words) = entities.next_if(|words| words.start < end) {
                end = end.max(words.end);
            }
            all.push(record.start + next..record.start + end);
            next = end;
        }
    }
    all
}

/// What a store's records say of themselves: the fields of [`crate::store::Said`] where they have several units.
pub(super) fn have_labels(store: &Store) -> Result<Vec<bool>> {
    (0..store.rows())
        .map(|row| store.record(row).map(|record| record.said.is_some_and(|said| said.label.is_some())))
        .collect()
}
