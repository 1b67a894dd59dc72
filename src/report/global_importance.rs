//! What `explain --method norm-lime` writes: one record for each class and feature that spoke for it.

use serde::{Deserialize, Serialize};

use super::schema::{Kind, columns};
use crate::explain::GlobalWeight;

/// How much a token or word speaks for a class, over all records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GlobalImportance {
    /// The class's name.
    pub class: String,
    /// From 1, within the class.
    pub rank: u64,
    /// A token as the tokenizer has it, or a word as the texts have it.
    pub feature: String,
    /// NormLIME's: the mean over the occurrences that speak for the class of `w²/Σ|w|`.
    pub weight: f64,
    /// How many occurrences those are.
    pub count: u64,
}

impl GlobalImportance {
    /// Weights as [`crate::explain::NormLime::finish`] orders them, ranked within their classes.
    pub fn list(weights: impl IntoIterator<Item = GlobalWeight>) -> Vec<Self> {
        let mut list: Vec<Self> = Vec::new();
        for GlobalWeight { class, feature, weight, count } in weights {
            let before = list.last().filter(|last| last.class == class).map_or(0, |last| last.rank);
            list.push(Self { class, rank: before + 1, feature, weight, count });
        }
        list
    }

    /// The Parquet columns.
    pub fn columns() -> Vec<(String, Kind)> {
        columns([
            ("class", Kind::Text),
            ("rank", Kind::Integer),
            ("feature", Kind::Text),
            ("weight", Kind::Number),
            ("count", Kind::Integer),
        ])
    }
}
