//! A model that has learnt a data set, in a folder: trained where it is not there yet.

use std::path::Path;

use super::kept::Kept;
use super::retraining::{Retraining, plan};
use crate::backend::Precision;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::factors::RefitOptions;
use crate::model::{Blueprint, LoadOptions, Model};
use crate::pipeline::{Rejections, Settings};
use crate::train::{self, Labelled, TrainOptions, TrainPlan, train_head};

/// Notes in a folder what its models and stores are made of, and refuses one that was made of something else.
///
/// # Errors
/// [`crate::Error::Mismatch`] then; what the file system says.
pub(super) fn settle(folder: &Path, made_of: &serde_json::Value) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    Kept::open::<()>(Some(&folder.join("made-of.json")), made_of).map(|_| ())
}

/// Trains on `training` from `seed`, where `model` was loaded to, saves the model to the folder `to`, which appears
/// whole, and loads it; loads it alone where it is there. A training that was interrupted goes on.
///
/// # Errors
/// As training; what the file system says.
pub(super) fn learn(
    model: &Model,
    training: impl FnOnce() -> Result<Dataset>,
    to: &Path,
    retraining: &Retraining,
    seed: u64,
    settings: &Settings,
) -> Result<Model> {
    if !to.join("config.json").exists() {
        let mut trainee = match retraining {
            Retraining::Head(_) => Blueprint::read(&model.directory().to_string_lossy(), false)?.build_on(
                model.asked().0.first(),
                Precision::F32,
                plan(model),
                seed,
                Some(model.max_length()),
            )?,
            Retraining::Full(full) => full.begin(model, seed)?,
        };
        let mut none = Rejections::new(false, None);
        let examples = Labelled::read(training()?, None, &mut none)?.examples(&trainee, &mut none)?;
        let state = to.with_extension("under-way");
        match retraining {
            Retraining::Head(penalty) => {
                let refit = RefitOptions { penalty: *penalty, ..RefitOptions::default() };
                train_head(&mut trainee, &examples, &refit, settings.batch_tokens)?;
            }
            Retraining::Full(full) => {
                let learning = TrainOptions { seed, ..full.options.clone() };
                let plan = TrainPlan {
                    quiet: settings.quiet,
                    batch_tokens: settings.batch_tokens,
                    checkpoints: Some(state.clone()),
                    resume: true,
                    ..TrainPlan::default()
                };
                train::train(&mut trainee, &examples, &[], &learning, &plan, &mut |_| Ok(()))?;
            }
        }
        trainee.save(to)?;
        train::remove_state(&state)?;
    }
    let (device, precision) = model.asked();
    let load = LoadOptions { max_length: Some(model.max_length()), precision, ..LoadOptions::default() };
    Model::load(&to.to_string_lossy(), device.clone(), &load)
}
