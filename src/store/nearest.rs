//! What the first records of a store find among all of it, by its features as computed and by what is stored of them:
//! what rounding cost.
//!
//! Features as computed are at hand only while their block is written, so each block keeps which of its records the
//! first ones find, both ways; what they find in the whole store is the best of all blocks. It is the same whatever the
//! jobs, kills, merges and additions were that made the store.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::manifest::Manifest;
use super::shard::Shard;
use crate::error::Result;

/// Nearest others of each record that asks.
const NEAREST: usize = 10;
/// A place in a list where there is nothing.
pub(super) const NONE: u32 = u32::MAX;

/// A record that is near to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Near {
    /// Its number in the whole input.
    pub(crate) number: u64,
    /// The cosine.
    pub(crate) score: f32,
}

/// Which records of a block are nearest to each of the store's first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Nearest {
    /// Of the record of each number: by features as computed, then as stored; the best first, of equals the lowest
    /// number.
    lists: Vec<[Vec<Near>; 2]>,
}

/// How well rounded features find what the features they were rounded from find: of the ten nearest others of each of
/// the store's first records, by the cosine, how many are among the ten nearest by both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recall {
    /// The records that asked.
    pub queries: u64,
    /// The nearest of all of them together.
    pub wanted: u64,
    /// Those of them that are found.
    pub found: u64,
}

impl Recall {
    /// The share that is found; 1 where there was nothing to find.
    pub fn share(&self) -> f64 {
        if self.wanted == 0 { 1.0 } else { self.found as f64 / self.wanted as f64 }
    }
}

impl Nearest {
    /// How many of a store's records ask, in blocks of so many: all of them are in its first block.
    pub(crate) fn queries(block_records: u64) -> u64 {
        block_records.min(1_000)
    }

    /// What the record numbered `query` finds, both ways.
    pub(crate) fn set(&mut self, query: u64, found: [Vec<Near>; 2]) {
        let query = query as usize;
        self.lists.resize(self.lists.len().max(query + 1), Default::default());
        self.lists[query] = found.map(|list| best(list, query as u64));
    }

    /// Both together.
    pub(super) fn extend(&mut self, other: Self) {
        self.lists.resize(self.lists.len().max(other.lists.len()), Default::default());
        for (query, (lists, others)) in self.lists.iter_mut().zip(other.lists).enumerate() {
            for (list, other) in lists.iter_mut().zip(others) {
                list.extend(other);
                *list = best(std::mem::take(list), query as u64);
            }
        }
    }

    /// Forgets the records whose number `keep` does not hold for.
    pub(super) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        for (query, lists) in self.lists.iter_mut().enumerate() {
            let asks = keep(query as u64);
            for list in lists {
                list.retain(|near| asks && keep(near.number));
            }
        }
    }

    /// How many lists there are: one a number, the last of a record that finds something.
    pub(super) fn len(&self) -> usize {
        self.lists
            .iter()
            .rposition(|[exact, stored]| !(exact.is_empty() && stored.is_empty()))
            .map_or(0, |last| last + 1)
    }

    /// Places in the block whose first number is `first`, and scores: `[len, 2, NEAREST]`.
    pub(super) fn encode(&self, first: u64) -> (Vec<u32>, Vec<f32>) {
        let lists = || self.lists[..self.len()].iter().flatten();
        let near = |list: &[Near], i: usize| list.get(i).copied();
        let place = |near: Option<Near>| near.map_or(NONE, |near| (near.number - first) as u32);
        (
            lists().flat_map(|list| (0..NEAREST).map(move |i| place(near(list, i)))).collect(),
            lists().flat_map(|list| (0..NEAREST).map(move |i| near(list, i).map_or(0.0, |near| near.score))).collect(),
        )
    }

    /// What [`Nearest::encode`] wrote.
    pub(super) fn decode(first: u64, places: &[u32], scores: &[f32]) -> Self {
        let list = |(places, scores): (&[u32], &[f32])| -> Vec<Near> {
            let near = |(&place, &score): (&u32, &f32)| Near { number: first + u64::from(place), score };
            places.iter().zip(scores).filter(|(place, _)| **place != NONE).map(near).collect()
        };
        let mut all = places.chunks(NEAREST).zip(scores.chunks(NEAREST)).map(list);
        let both = || Some([all.next()?, all.next()?]);
        Self { lists: std::iter::from_fn(both).collect() }
    }

    /// The shape of both, for so many lists.
    pub(super) fn shape(lists: usize) -> [usize; 3] {
        [lists, 2, NEAREST]
    }

    /// How many of the best by features as computed are among the best as stored, of the records that `ask`.
    fn recall(&self, ask: &BTreeSet<u64>) -> Recall {
        let mut recall = Recall { queries: ask.len() as u64, ..Recall::default() };
        for [exact, stored] in ask.iter().filter_map(|&query| self.lists.get(query as usize)) {
            recall.wanted += exact.len() as u64;
            recall.found +=
                exact.iter().filter(|near| stored.iter().any(|other| other.number == near.number)).count() as u64;
        }
        recall
    }
}

/// The best of some, each once, but the one that asks.
fn best(mut list: Vec<Near>, query: u64) -> Vec<Near> {
    list.retain(|near| near.number != query);
    list.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.number.cmp(&b.number)));
    list.dedup_by_key(|near| near.number);
    list.truncate(NEAREST);
    list
}

/// What was measured in all blocks of a whole store; `None` where features are stored as they are.
pub(super) fn recall(directory: &Path, manifest: &Manifest) -> Result<Option<Recall>> {
    if manifest.settings.dtype.rounds_to().is_none() {
        return Ok(None);
    }
    let (mut all, mut ask) = (Nearest::default(), BTreeSet::new());
    let queries = Nearest::queries(manifest.settings.block_records);
    for block in &manifest.blocks {
        let shard = Shard::open(directory, block, &manifest.settings)?;
        ask.extend(shard.indices().iter().take_while(|&&index| index < queries));
        all.extend(shard.nearest(manifest.settings.block_records).unwrap_or_default());
        shard.release();
    }
    Ok(Some(all.recall(&ask)))
}
