//! What `audit dirty` writes: one record for each labelled training record, most suspect first.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::dirty_part::signal_kind;
use super::records::number;
use super::schema::{Kind, columns};
use crate::audit::{Dirty, Signal};
use crate::error::Result;
use crate::search::Hit;
use crate::store::Store;

/// Neighbours shown with a record.
pub(super) const SHOWN: usize = 5;

/// A training record whose label may be wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DirtyLabel {
    /// From 1, the most suspect.
    pub rank: u64,
    /// The record's number in the whole input.
    pub index: u64,
    /// Its id.
    pub id: String,
    /// What records are ranked by: greater is more suspect.
    pub score: f32,
    /// The label it has.
    pub label: String,
    /// The label it would rather have.
    pub suggested_label: String,
    /// What speaks against its label, in words.
    pub reason: String,
    /// By name, each signal that was computed.
    pub signals: Map<String, Value>,
    /// The nearest other training records, nearest first.
    pub neighbours: Vec<NearRecord>,
    /// Its first segment.
    pub text: String,
    /// Its second segment, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
}

/// A training record near another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NearRecord {
    /// The record's number in the whole input.
    pub index: u64,
    /// Its id.
    pub id: String,
    /// Its label, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The cosine of both records' features.
    pub score: f32,
    /// Its first segment.
    pub text: String,
    /// Its second segment, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
}

impl DirtyLabel {
    /// The record of rank `rank`, from 0.
    ///
    /// # Errors
    /// Where the store is damaged.
    pub fn of(store: &Store, dirty: &Dirty, rank: usize) -> Result<Self> {
        let row = dirty.ranking[rank];
        let (shard, at) = store.locate(row);
        let record = store.record(row)?;
        let hits = &dirty.neighbours[row];
        Ok(Self {
            rank: rank as u64 + 1,
            index: store.shards()[shard].indices()[at],
            id: record.id,
            score: dirty.scores[row],
            label: label_name(store, dirty.labels[row]).unwrap_or_default(),
            suggested_label: label_name(store, Some(dirty.suggestions[row])).unwrap_or_default(),
            reason: reason(store, dirty, row),
            signals: signals_of(&dirty.signals, row),
            neighbours: hits.iter().take(SHOWN).map(|hit| NearRecord::of(store, dirty, *hit)).collect::<Result<_>>()?,
            text: record.text,
            text_pair: record.pair,
        })
    }

    /// The Parquet columns.
    pub fn columns(signals: &[Signal]) -> Vec<(String, Kind)> {
        columns([
            ("rank", Kind::Integer),
            ("index", Kind::Integer),
            ("id", Kind::Text),
            ("score", Kind::Number),
            ("label", Kind::Text),
            ("suggested_label", Kind::Text),
            ("reason", Kind::Text),
            ("signals", signal_kind(signals)),
            ("neighbours", Kind::list(NearRecord::kind())),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
        ])
    }
}

impl NearRecord {
    /// The Parquet type.
    pub(super) fn kind() -> Kind {
        Kind::fields([
            ("index", Kind::Integer),
            ("id", Kind::Text),
            ("label", Kind::Text),
            ("score", Kind::Number),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
        ])
    }

    fn of(store: &Store, dirty: &Dirty, hit: Hit) -> Result<Self> {
        let row = hit.row as usize;
        let record = store.record(row)?;
        let label = label_name(store, dirty.labels[row]);
        let (text, text_pair) = (record.text, record.pair);
        Ok(Self { index: hit.index, id: record.id, label, score: hit.score, text, text_pair })
    }
}

fn label_name(store: &Store, class: Option<usize>) -> Option<String> {
    class.map(|class| store.settings().label_names.get(class).cloned().unwrap_or_else(|| format!("LABEL_{class}")))
}

/// Each signal's value of one that is judged.
pub(super) fn signals_of(signals: &[(Signal, Vec<f32>)], of: usize) -> Map<String, Value> {
    signals.iter().map(|(signal, values)| (signal.name().to_owned(), number(values[of]))).collect()
}

/// What those of two judges say who would have another class than the label: each its own class, or both the same.
pub(super) fn doubts(
    dirty: &Dirty,
    unit: usize,
    judges: [(Signal, &str); 2],
    name: &dyn Fn(usize) -> String,
) -> Option<String> {
    let [first, second] = judges.map(|(signal, who)| {
        let (_, margins) = dirty.signals.iter().find(|(other, _)| *other == signal)?;
        let (_, classes) = dirty.verdicts.iter().find(|(other, _)| *other == signal)?;
        // Of words a margin is above 0 where the label has less than half, and may still be the likeliest.
        (margins[unit] > 0.0 && Some(classes[unit]) != dirty.labels[unit]).then_some((who, classes[unit]))
    });
    match (first, second) {
        (Some((who, class)), Some((other, same))) if class == same => {
            Some(format!("{who} and {other} say {}", name(class)))
        }
        (first, second) => {
            let said = [first, second].into_iter().flatten().map(|(who, class)| format!("{who} say {}", name(class)));
            let said: Vec<String> = said.collect();
            (!said.is_empty()).then(|| said.join("; "))
        }
    }
}

/// Who would give the record another label, and how many of its neighbours have which.
fn reason(store: &Store, dirty: &Dirty, row: usize) -> String {
    let name = |class| label_name(store, Some(class)).unwrap_or_default();
    let said = doubts(dirty, row, [(Signal::Text, "its words"), (Signal::Confident, "its features")], &name);
    let hits = &dirty.neighbours[row];
    let same = hits.iter().filter(|hit| dirty.labels[hit.row as usize] == dirty.labels[row]).count();
    let near =
        (!hits.is_empty()).then(|| format!("{} of the {} nearest have another label", hits.len() - same, hits.len()));
    [said, near].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
