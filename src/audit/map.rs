//! The data map: where each training record stands by how sure, and how steadily, the training was of its label
//! (Swayamdipta et al. 2020, "Dataset cartography").

use crate::error::{Error, Result};
use crate::store::{Shard, Store};
use crate::train::Dynamics;

/// What the training made of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// Sure of its label, always: such records help to get going, and most can be spared.
    Easy,
    /// Now sure, now not: these teach the most.
    Ambiguous,
    /// Steadily unsure.
    Hard,
    /// Hard, and never once predicted as labelled: the label may be wrong.
    Suspect,
}

impl Region {
    /// As results have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Easy => "easy",
            Self::Ambiguous => "ambiguous",
            Self::Hard => "hard",
            Self::Suspect => "suspect",
        }
    }
}

/// The share of records, those of the greatest variability, that are ambiguous.
const AMBIGUOUS: usize = 3;
/// Where a record is neither: confidence from which it is easy.
const EASY: f64 = 0.5;

/// Each record's region, by row of the dynamics.
pub fn regions(dynamics: &Dynamics) -> Vec<Region> {
    let variability: Vec<f64> = (0..dynamics.records()).map(|row| dynamics.variability(row)).collect();
    let mut sorted = variability.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let from = sorted.get(sorted.len() / AMBIGUOUS).copied().unwrap_or(0.0);
    let region = |row: usize| match () {
        () if dynamics.correctness(row) == 0.0 => Region::Suspect,
        () if variability[row] > from => Region::Ambiguous,
        () if dynamics.confidence(row) >= EASY => Region::Easy,
        () => Region::Hard,
    };
    (0..dynamics.records()).map(region).collect()
}

/// How many records of a store a training's dynamics say nothing of: it was not trained on them.
pub fn without_dynamics(store: &Store, dynamics: &Dynamics) -> usize {
    let indices = store.shards().iter().flat_map(Shard::indices);
    indices.filter(|&&index| dynamics.row_of(index).is_none()).count()
}

/// Refuses dynamics of other data than a store's: they are joined by the records' numbers, which any data have.
///
/// # Errors
/// [`Error::Mismatch`]: other classes, a record of another id, or none that both have; what the store cannot be read
/// for.
pub fn expect_same_records(store: &Store, dynamics: &Dynamics) -> Result<()> {
    let mismatch = |what: &str, expected: &str, found: &str| {
        let place = dynamics.directory().display();
        let reason =
            format!("{place}: dynamics of a training on other data: {what}: expected {expected}, found {found}");
        Err(Error::Mismatch(reason, Some("give what train --dynamics wrote for the data of this store".to_owned())))
    };
    let (classes, names) = (&dynamics.header().classes, &store.settings().label_names);
    if classes != names && !names.is_empty() {
        return mismatch("classes", &names.join(", "), &classes.join(", "));
    }
    let mut joined = false;
    for row in 0..store.rows() {
        let (shard, at) = store.locate(row);
        let index = store.shards()[shard].indices()[at];
        let Some(found) = dynamics.row_of(index).map(|row| &dynamics.ids()[row]) else { continue };
        let id = store.record(row)?.id;
        if id != *found {
            return mismatch(&format!("record {index}"), &format!("id {id:?}"), &format!("{found:?}"));
        }
        joined = true;
    }
    if joined { Ok(()) } else { mismatch("records", "some of the store's", "none") }
}
