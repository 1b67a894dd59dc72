//! The model's last layer, kept with the factors it made: refits start from it and curvature is taken at it.

use std::borrow::Cow;
use std::path::Path;

use bytemuck::cast_slice;
use safetensors::Dtype;

use super::atomic::{AtomicFile, FileEntry};
use super::settings::Settings;
use super::tensors::{TensorFile, TensorSource, write_tensors};
use crate::error::{Error, Result};
use crate::factors::Head;

/// The file's name.
pub(super) const HEAD: &str = "head.safetensors";

/// Whether the shapes are what the settings say.
pub(super) fn check_head(head: &Head, settings: &Settings) -> Result<()> {
    let (weights, classes) = (settings.classes.checked_mul(settings.width), settings.classes);
    if weights == Some(head.weight.len()) && classes == head.bias.len() && classes > 0 {
        return Ok(());
    }
    Err(Error::usage(format!(
        "head: expected weight [{classes}, {}] and bias [{classes}], found {} and {} numbers",
        settings.width,
        head.weight.len(),
        head.bias.len()
    )))
}

/// Writes `weight [K, E]` and `bias [K]`.
pub(super) fn write_head(head: &Head, directory: &Path, settings: &Settings) -> Result<FileEntry> {
    let (k, e) = (settings.classes, settings.width);
    let tensor = |name: &str, shape: Vec<usize>, values| TensorSource {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape,
        data: Cow::Borrowed(cast_slice(values)),
    };
    let tensors = vec![tensor("weight", vec![k, e], &head.weight), tensor("bias", vec![k], &head.bias)];
    AtomicFile::write(&directory.join(HEAD), |file| write_tensors(file, tensors))
}

/// Reads what [`write_head`] wrote.
pub(super) fn read_head(directory: &Path, settings: &Settings) -> Result<Head> {
    let file = TensorFile::open(&directory.join(HEAD))?;
    let (k, e) = (settings.classes, settings.width);
    let weight = file.column::<f32>("weight", Dtype::F32, &[k, e])?;
    let bias = file.column::<f32>("bias", Dtype::F32, &[k])?;
    Ok(Head { weight: file.values(&weight).to_vec(), bias: file.values(&bias).to_vec() })
}
