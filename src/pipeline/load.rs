//! A store's models, from where they were when it was made.

use std::path::Path;

use crate::error::{Error, Result};
use crate::model::{Device, LoadOptions, Model, Task, find};
use crate::search::Rule;
use crate::store::{Checkpoint, Settings, Store};

/// The model a store was made with, from where it was, or is said to be by `place`: with the head that the store's
/// factors are of, and texts cut as they were where `options` says nothing.
///
/// # Errors
/// [`Error::Usage`] where it is not there, or the store's factors were made elsewhere; as [`Model::load`].
pub fn load_model(store: &Store, place: Option<&str>, device: &Device, options: &LoadOptions) -> Result<Model> {
    let kept = store.settings();
    load_recorded(kept, &store.find_path(&kept.model), place, device, options)
}

/// The same of a store that need not be finished, whose model was last at `recorded`.
///
/// # Errors
/// As [`load_model`].
pub fn load_recorded(
    kept: &Settings,
    recorded: &Path,
    place: Option<&str>,
    device: &Device,
    options: &LoadOptions,
) -> Result<Model> {
    let max_length = options.max_length.or(Some(kept.max_length));
    let options = LoadOptions { max_length, masks: kept.task() == Task::Masks, ..*options };
    match place {
        Some(place) => Model::load(place, device.clone(), &options),
        None if kept.is_given() => Err(Error::usage("the store's factors were made elsewhere: it knows no model")
            .with_hint("use a store that was indexed by the model, without --from-factors")),
        None => {
            let recorded = recorded.to_string_lossy();
            find(&recorded).map_err(|error| {
                Error::usage(format!("the store's model is not where it was: {error}"))
                    .with_hint("say where it is now with --model DIR")
            })?;
            Model::load(&recorded, device.clone(), &options)
        }
    }
}

/// A store's checkpoints, in its order, for a rule that reads them; none for the others. Texts are cut as they were.
///
/// # Errors
/// As [`Model::load`].
pub fn load_checkpoints(store: &Store, rule: Rule, device: &Device, options: &LoadOptions) -> Result<Vec<Model>> {
    let kept = store.settings();
    let (max_length, masks) = (Some(kept.max_length), kept.task() == Task::Masks);
    let options = LoadOptions { max_length, masks, ..*options };
    let load = |checkpoint: &Checkpoint| {
        Model::load(&store.find_path(&checkpoint.path).to_string_lossy(), device.clone(), &options)
    };
    kept.checkpoints.iter().filter(|_| rule.reads_checkpoints()).map(load).collect()
}
