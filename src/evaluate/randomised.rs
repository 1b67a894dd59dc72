//! The same network with other weights: what an explanation of it must not look like (Adebayo et al. 2018, *Sanity
//! Checks for Saliency Maps*).

use std::path::Path;

use crate::backend::cpu::Cpu;
use crate::error::Result;
use crate::model::{Blueprint, HeadPlan, Model};

/// Writes a model of `model`'s configuration, classes and tokenizer to the directory `to`, every weight drawn anew from
/// `seed`.
///
/// # Errors
/// [`crate::Error::Usage`] for a model without a head; what the file system says.
pub fn draw_anew(model: &Model, to: &Path, seed: u64) -> Result<()> {
    let plan = HeadPlan { names: model.class_names().names().to_vec(), problem: model.problem() };
    let blueprint = Blueprint::read(&model.directory().to_string_lossy(), true)?;
    blueprint.build(Cpu::new().shared_out(), plan, seed, Some(model.max_length()))?.save(to)
}
