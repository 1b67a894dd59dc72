//! Which rows of a source are searched, and what group each belongs to.

use std::ops::Range;

/// A set of a source's rows, counted over all its shards: a bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowSet {
    words: Vec<u64>,
    rows: usize,
    count: usize,
}

impl RowSet {
    /// Those of `rows` rows for which `contains` holds.
    pub fn new(rows: usize, contains: impl Fn(usize) -> bool) -> Self {
        let word = |first: usize| {
            let bits = first..rows.min(first + 64);
            bits.fold(0, |word, row| word | u64::from(contains(row)) << (row - first))
        };
        let words: Vec<u64> = (0..rows).step_by(64).map(word).collect();
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        Self { words, rows, count }
    }

    /// How many rows there are, in the set or not.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many are in the set.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether `row` is in the set.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline]
    pub fn contains(&self, row: usize) -> bool {
        self.words[row / 64] >> (row % 64) & 1 == 1
    }

    /// How many of consecutive rows are in the set.
    pub fn count_in(&self, rows: Range<usize>) -> usize {
        rows.filter(|&row| self.contains(row)).count()
    }
}

/// Rows in groups: all of a source's rows, each in one group or in none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    of_row: Vec<u32>,
    counts: Vec<u64>,
}

/// Of rows in no group.
const NONE: u32 = u32::MAX;

impl Groups {
    /// The group of each row; groups are numbered from 0 and below `groups`.
    ///
    /// # Panics
    /// If a row's group is not below `groups`.
    pub fn new(groups: usize, of_rows: impl IntoIterator<Item = Option<u32>>) -> Self {
        let mut counts = vec![0; groups];
        let of_row = of_rows.into_iter().map(|group| match group {
            None => NONE,
            Some(group) => {
                counts[group as usize] += 1;
                group
            }
        });
        Self { of_row: of_row.collect(), counts }
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many rows each group has.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// How many rows there are, in a group or not.
    pub fn rows(&self) -> usize {
        self.of_row.len()
    }

    /// The group of `row`.
    #[inline]
    pub fn of(&self, row: usize) -> Option<usize> {
        let group = self.of_row[row];
        (group != NONE).then_some(group as usize)
    }
}
