//! What of a store is searched, and how it is grouped: made once, before the first query.

use std::collections::HashMap;

use super::condition::{Condition, check_column, class_words, each_row, each_shard, select, written_label};
use super::sets::{SetFile, set_of_each_row};
use crate::error::{Error, Result};
use crate::search::{Groups, RowSet};
use crate::store::{Shard, Store, StoredRecord};

/// Which training records a search is over.
#[derive(Clone, Debug, Default)]
pub struct ScopeOptions {
    /// All of these must hold.
    pub conditions: Vec<Condition>,
    /// Of records with the same texts and the same label (whose factors, and so whose scores by any rule, are the same)
    /// only the first takes part.
    pub collapse_duplicates: bool,
    /// Give each group's own ends and total too: `label`, `predicted`, or a column kept at indexing.
    pub group_by: Option<String>,
    /// Give these sets' own ends and totals, and those of all other records.
    pub sets: Vec<SetFile>,
}

/// The rows searched, and their groups.
#[derive(Default)]
pub(super) struct Scope {
    /// `None` for all.
    pub(super) rows: Option<RowSet>,
    pub(super) grouping: Option<Grouping>,
    duplicates: Option<Duplicates>,
}

/// The groups of the rows searched and their names, in alphabetical order; the last may be that of records without one.
pub(super) struct Grouping {
    pub(super) groups: Groups,
    /// `None` for records that have no such value.
    pub(super) names: Vec<Option<String>>,
}

/// Rows that are the same record again.
#[derive(Default)]
struct Duplicates {
    /// The first of its kind, for each row that is another's copy.
    first_of: HashMap<usize, usize>,
    /// By the first of a kind of several: the second, and how many there are.
    copies: HashMap<usize, (usize, u64)>,
}

impl Scope {
    pub(super) fn new(store: &Store, options: &ScopeOptions) -> Result<Self> {
        let mut scope = Self::default();
        if !options.conditions.is_empty() {
            scope.rows = Some(select(store, &options.conditions)?);
        }
        if options.collapse_duplicates {
            scope.collapse(store)?;
        }
        if !options.sets.is_empty() {
            let of_rows = set_of_each_row(store, &options.sets)?;
            let mut values = Values::default();
            values.extend((0..store.rows()).map(|row| of_rows.get(&row).cloned()));
            let rows = scope.rows.as_ref();
            scope.grouping = Some(Grouping::of(&values, |row| rows.is_none_or(|rows| rows.contains(row))));
        } else if let Some(by) = &options.group_by {
            scope.grouping = Some(Grouping::new(store, by, scope.rows.as_ref())?);
        }
        Ok(scope)
    }

    /// How many records the hit's row stands for, where duplicates were collapsed: where it is not the first of its
    /// kind, all but that.
    pub(super) fn copies(&self, row: usize) -> Option<u64> {
        let first = self.stands_for(row);
        let all = self.duplicates.as_ref()?.copies.get(&first).map_or(1, |&(_, count)| count);
        Some(all - u64::from(row != first))
    }

    /// The row that stands for others where the first of them is left out.
    pub(super) fn next_copy(&self, first: usize) -> Option<usize> {
        self.duplicates.as_ref()?.copies.get(&first).map(|&(second, _)| second)
    }

    /// The row that stands for `row`: itself, or the first of its kind.
    pub(super) fn stands_for(&self, row: usize) -> usize {
        self.duplicates.as_ref().and_then(|duplicates| duplicates.first_of.get(&row)).copied().unwrap_or(row)
    }

    /// Leaves in only the first of each kind. Kinds are told apart by 128 bits of a hash.
    fn collapse(&mut self, store: &Store) -> Result<()> {
        store.expect_texts("--collapse-duplicates")?;
        let kinds = each_row(store, true, |_, _, record| record.map(kind))?;
        let mut first: HashMap<[u8; 16], usize> = HashMap::new();
        let mut duplicates = Duplicates::default();
        for (row, kind) in kinds.into_iter().enumerate() {
            let (Some(kind), true) = (kind, self.rows.as_ref().is_none_or(|rows| rows.contains(row))) else { continue };
            let one = *first.entry(kind).or_insert(row);
            if one != row {
                duplicates.first_of.insert(row, one);
                duplicates.copies.entry(one).or_insert((row, 1)).1 += 1;
            }
        }
        let selected = |row: usize| self.rows.as_ref().is_none_or(|rows| rows.contains(row));
        let rows = RowSet::new(store.rows(), |row| selected(row) && !duplicates.first_of.contains_key(&row));
        (self.rows, self.duplicates) = (Some(rows), Some(duplicates));
        Ok(())
    }
}

/// A hash of what a record's factors are made of.
fn kind(record: &StoredRecord) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    let label = record.label.as_ref().map(written_label);
    for part in [Some(&record.text), record.pair.as_ref(), label.as_ref()] {
        hasher.update(&part.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
        hasher.update(part.map_or(b"".as_slice(), |text| text.as_bytes()));
    }
    let digest = hasher.finalize();
    std::array::from_fn(|i| digest.as_bytes()[i])
}

impl Grouping {
    pub(super) fn new(store: &Store, by: &str, rows: Option<&RowSet>) -> Result<Self> {
        let headless = store.settings().classes == 0;
        let value = |shard: &Shard, row: usize, record: Option<&StoredRecord>| match by {
            "label" if headless => record.and_then(|record| record.label.as_ref()).map(written_label),
            "label" => class_words(store, shard.labels(), row),
            "predicted" => class_words(store, shard.predictions(), row),
            column => record.and_then(|record| record.columns.get(column)).cloned(),
        };
        let is_column = !matches!(by, "label" | "predicted");
        if !is_column && store.settings().tokens.is_some() {
            return Err(Error::usage(format!("--group-by {by}: the store's records have no one class"))
                .with_hint("group by a column kept at indexing"));
        }
        if is_column {
            check_column(store, by, &format!("--group-by {by}"))?;
        }
        let mut values = Values::default();
        each_shard(store, is_column || headless, value, |of_rows| values.extend(of_rows))?;
        Ok(Self::of(&values, |row| rows.is_none_or(|rows| rows.contains(row))))
    }

    /// Groups in alphabetical order, of the rows that are searched.
    fn of(values: &Values, searched: impl Fn(usize) -> bool) -> Self {
        let mut found = vec![false; values.numbers.len() + 1];
        let of_row = |row: usize| values.of_rows[row].map_or(values.numbers.len(), |number| number as usize);
        (0..values.of_rows.len()).filter(|&row| searched(row)).for_each(|row| found[of_row(row)] = true);
        let mut names: Vec<(Option<&str>, usize)> =
            values.numbers.iter().map(|(name, &number)| (Some(name.as_str()), number as usize)).collect();
        names.sort_unstable();
        names.push((None, values.numbers.len()));
        names.retain(|&(_, number)| found[number]);
        let mut groups = vec![0; found.len()];
        for (&(_, number), group) in names.iter().zip(0..) {
            groups[number] = group;
        }
        let of_rows = (0..values.of_rows.len()).map(|row| searched(row).then(|| groups[of_row(row)]));
        let grouped = Groups::new(names.len(), of_rows);
        Self { groups: grouped, names: names.into_iter().map(|(name, _)| name.map(str::to_owned)).collect() }
    }
}

/// The value of each row, each value kept once.
#[derive(Default)]
struct Values {
    numbers: HashMap<String, u32>,
    of_rows: Vec<Option<u32>>,
}

impl Values {
    fn extend(&mut self, of_rows: impl IntoIterator<Item = Option<String>>) {
        for value in of_rows {
            let next = self.numbers.len() as u32;
            self.of_rows.push(value.map(|value| *self.numbers.entry(value).or_insert(next)));
        }
    }
}
