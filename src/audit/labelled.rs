//! The units of a store whose labels are to be judged.

use super::units::have_labels;
use crate::error::{Error, Result};
use crate::factors::{LabelUsed, Labels, Target};
use crate::model::{Problem, Task};
use crate::search::EachFactor;
use crate::store::Store;

/// The classes of a store's records, words or masks: those of their own labels, and those that the model says.
#[derive(Clone, Debug)]
pub(super) struct Classes {
    /// K.
    pub(super) count: usize,
    /// By unit; `None` where it has no label.
    pub(super) labels: Vec<Option<usize>>,
    /// By unit.
    pub(super) predictions: Vec<Option<usize>>,
}

impl Classes {
    /// # Errors
    /// [`Error::Usage`]: a store of another problem than single-label classification, of answers, or without a label.
    pub(super) fn of(units: &EachFactor<'_>) -> Result<Self> {
        let (store, settings) = (units.store(), units.store().settings());
        if settings.problem != Problem::SingleLabel {
            return Err(Error::usage("labels can be judged where each record has one class")
                .with_hint("the store's model is a regression, a multi-label classifier, or has no head"));
        }
        if settings.task() == Task::Spans {
            return Err(Error::usage("an answer is a place in its context, and has no class"));
        }
        expect_own_labels(store)?;
        let (labels, predictions) = if units.are_parts() { of_parts(units)? } else { of_records(store) };
        if labels.iter().all(Option::is_none) {
            return Err(Error::usage("no record of the store has a label"));
        }
        Ok(Self { count: settings.classes, labels, predictions })
    }
}

/// Refuses a store whose factors are against what the model says.
///
/// # Errors
/// [`Error::Usage`].
pub(super) fn expect_own_labels(store: &Store) -> Result<()> {
    if store.settings().target == LabelUsed::Predicted {
        return Err(Error::usage("the store's factors are of predicted labels, which there is nothing to say about")
            .with_hint("index the data again with --target gold"));
    }
    Ok(())
}

type BothClasses = (Vec<Option<usize>>, Vec<Option<usize>>);

fn of_records(store: &Store) -> BothClasses {
    let settings = store.settings();
    let of = |labels: Labels<'_>, rows: usize| -> Vec<Option<usize>> {
        let class = |row| match labels.target(row, settings.classes, settings.problem) {
            Some(Target::Class(class)) => Some(class),
            _ => None,
        };
        (0..rows).map(class).collect()
    };
    let shards = store.shards();
    let labels = shards.iter().flat_map(|shard| of(shard.labels(), shard.rows())).collect();
    let predictions = shards.iter().flat_map(|shard| of(shard.predictions(), shard.rows())).collect();
    (labels, predictions)
}

/// A factor's class is the word's own tag, unless its record has none; δ and that class are what the model says.
fn of_parts(units: &EachFactor<'_>) -> Result<BothClasses> {
    let own: Vec<bool> = have_labels(units.store())?;
    let labelled = units.by_record().into_iter().zip(own).flat_map(|(record, own)| record.map(move |_| own));
    let classes = units.store().shards().iter().flat_map(|shard| shard.factor_classes().unwrap_or_default());
    let labels = classes.zip(labelled).map(|(&class, own)| usize::try_from(class).ok().filter(|_| own)).collect();
    let k = units.store().settings().classes;
    let predictions = units.store().shards().iter().flat_map(|shard| {
        let (deltas, classes) = (shard.factors().deltas, shard.factor_classes().unwrap_or_default());
        deltas.chunks_exact(k).zip(classes).map(|(delta, &class)| Some(likeliest(delta, class as usize)))
    });
    Ok((labels, predictions.collect()))
}

/// Of probabilities from which 1 is taken at `class`.
fn likeliest(delta: &[f32], class: usize) -> usize {
    let p = |k: usize| delta[k] + f32::from(u8::from(k == class));
    (0..delta.len()).fold(0, |best, k| if p(k) > p(best) { k } else { best })
}
