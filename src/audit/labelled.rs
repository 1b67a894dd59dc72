//! The records of a store whose labels are to be judged.

use crate::error::{Error, Result};
use crate::factors::{LabelUsed, Labels, Target};
use crate::model::Problem;
use crate::store::Store;

/// The classes of a store's records: those of their own labels, and those that the model says.
pub(super) struct Classes {
    /// K.
    pub(super) count: usize,
    /// By row; `None` where a record has no label.
    pub(super) labels: Vec<Option<usize>>,
    /// By row.
    pub(super) predictions: Vec<Option<usize>>,
}

impl Classes {
    /// # Errors
    /// [`Error::Usage`]: a store of another problem than single-label classification, or without a label.
    pub(super) fn of(store: &Store) -> Result<Self> {
        let settings = store.settings();
        if settings.problem != Problem::SingleLabel {
            return Err(Error::usage("labels can be judged where each record has one class")
                .with_hint("the store's model is a regression, a multi-label classifier, or has no head"));
        }
        if settings.target == LabelUsed::Predicted {
            return Err(Error::usage(
                "the store's factors are of predicted labels, which there is nothing to say about",
            )
            .with_hint("index the data again with --target gold"));
        }
        let of = |labels: Labels<'_>, rows: usize| -> Vec<Option<usize>> {
            let class = |row| match labels.target(row, settings.classes, settings.problem) {
                Some(Target::Class(class)) => Some(class),
                _ => None,
            };
            (0..rows).map(class).collect()
        };
        let shards = store.shards();
        let labels: Vec<_> = shards.iter().flat_map(|shard| of(shard.labels(), shard.rows())).collect();
        if labels.iter().all(Option::is_none) {
            return Err(Error::usage("no record of the store has a label"));
        }
        let predictions = shards.iter().flat_map(|shard| of(shard.predictions(), shard.rows())).collect();
        Ok(Self { count: settings.classes, labels, predictions })
    }
}
