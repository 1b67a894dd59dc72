//! Sets of training records that a user names: files of ids, and groups.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::condition::each_row;
use super::scope::Grouping;
use crate::error::{Error, Result};
use crate::store::Store;

/// A file of ids of training records, one a line, or JSONL with the field `id`, such as an audit's; as text `FILE` or
/// `NAME=FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetFile {
    /// What it is called: as the file, where nothing is said.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

impl FromStr for SetFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').unwrap_or(("", text));
        let path = PathBuf::from(path);
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        match (name, stem) {
            ("", None) => Err(format!("expected FILE or NAME=FILE, found {text:?}")),
            ("", Some(stem)) => Ok(Self { name: stem.to_owned(), path }),
            (name, _) => Ok(Self { name: name.to_owned(), path }),
        }
    }
}

impl SetFile {
    /// Its name, and the rows of the store that it is of.
    ///
    /// # Errors
    /// [`Error::Usage`] for a file without ids, and an id that the store has not; what the file system says.
    pub fn rows(&self, store: &Store) -> Result<(String, Vec<usize>)> {
        let mut wanted = self.ids()?;
        let ids = each_row(store, true, |_, _, record| record.map(|record| record.id.clone()))?;
        let is_in = |(_, id): &(usize, Option<String>)| id.as_ref().is_some_and(|id| wanted.remove(id));
        let rows: Vec<usize> = ids.into_iter().enumerate().filter(is_in).map(|(row, _)| row).collect();
        if let Some(id) = wanted.first() {
            return Err(Error::usage(format!("{}: no record of the store has id {id:?}", self.path.display()))
                .with_hint("one id a line, or JSONL with the field `id`"));
        }
        Ok((self.name.clone(), rows))
    }

    fn ids(&self) -> Result<BTreeSet<String>> {
        let text = std::fs::read_to_string(&self.path).map_err(Error::io(&self.path))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let ids: BTreeSet<String> = lines.map(id_of).collect();
        if ids.is_empty() {
            return Err(Error::usage(format!("{}: expected ids of training records, found none", self.path.display())));
        }
        Ok(ids)
    }
}

/// A line's `id`, where it is an object that has one; else the line.
fn id_of(line: &str) -> String {
    match serde_json::from_str::<Map<String, Value>>(line).ok().and_then(|object| object.get("id").cloned()) {
        Some(Value::String(id)) => id,
        Some(id) => id.to_string(),
        None => line.to_owned(),
    }
}

/// The rows of each set, by its name; no record may be in two.
pub(super) fn set_of_each_row(store: &Store, sets: &[SetFile]) -> Result<HashMap<usize, String>> {
    let mut of_rows = HashMap::new();
    for set in sets {
        let (name, rows) = set.rows(store)?;
        for row in rows {
            if let Some(other) = of_rows.insert(row, name.clone()) {
                let id = store.record(row)?.id;
                return Err(Error::usage(format!("--set: record {id} is in two sets, {other} and {name}")));
            }
        }
    }
    Ok(of_rows)
}

/// The rows of each group of `by` (label, predicted, or a column kept at indexing), in alphabetical order.
///
/// # Errors
/// [`Error::Usage`] for a column that the store has not kept.
pub fn grouped_rows(store: &Store, by: &str) -> Result<Vec<(String, Vec<usize>)>> {
    let grouping = Grouping::new(store, by, None)?;
    let mut rows = vec![Vec::new(); grouping.names.len()];
    for row in 0..grouping.groups.rows() {
        if let Some(group) = grouping.groups.of(row) {
            rows[group].push(row);
        }
    }
    let name = |name: Option<String>| name.unwrap_or_else(|| format!("no {by}"));
    Ok(grouping.names.into_iter().map(name).zip(rows).collect())
}
