//! A checkpoint's tensors by name, in f32: `model.safetensors`, or the shards of `model.safetensors.index.json`.
//!
//! Reads f32, f16 and bf16. Tensors nobody asks for (buffers, unused heads) are never touched; those asked for must
//! have the very shape the configuration gives them, and be finite. Pickled checkpoints are refused: unpickling runs
//! whatever code they hold.

mod file;
mod mapped;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use self::file::TensorFile;
use super::fingerprint::Fingerprint;
use crate::error::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A linear layer's parameters as PyTorch keeps them.
pub(super) struct Linear<'a> {
    /// `[outputs, inputs]`
    pub(super) weight: Cow<'a, [f32]>,
    /// `[outputs]`
    pub(super) bias: Cow<'a, [f32]>,
}

/// An open checkpoint.
pub(super) struct Weights {
    /// The file errors name: the single file, or the index.
    path: PathBuf,
    files: Vec<TensorFile>,
    /// Which file holds a tensor.
    places: HashMap<String, usize>,
    /// The family's prefix, with its dot.
    prefix: String,
    fingerprint: Fingerprint,
}

impl Weights {
    /// Opens the checkpoint in `dir`; names may be given with or without `prefix`.
    pub(super) fn open(dir: &Path, prefix: &str) -> Result<Self> {
        let (path, files) = open_files(dir)?;
        let places = files.iter().enumerate().flat_map(|(i, file)| file.names().into_iter().map(move |name| (name, i)));
        let places = places.collect();
        Ok(Self { path, files, places, prefix: format!("{prefix}."), fingerprint: Fingerprint::default() })
    }

    /// What has been read so far.
    pub(super) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// A name without the family's prefix, as it is asked for here.
    pub(super) fn bare<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(&self.prefix).unwrap_or(name)
    }

    /// Whether there is a tensor of this name.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// The rows of `name.weight`, whatever they are.
    pub(super) fn rows(&self, name: &str) -> Result<usize> {
        let name = format!("{name}.weight");
        let (file, found) = self.find(&name)?;
        let info = file.tensor(found).map(|(info, _)| info.shape.as_slice());
        match info {
            Some([rows, _]) if *rows > 0 => Ok(*rows),
            other => Err(Error::format(
                file.path(),
                format!("tensor \"{found}\": expected shape [classes, width], found {:?}", other.unwrap_or_default()),
            )),
        }
    }

    /// `name.weight [outputs, inputs]` and `name.bias [outputs]`.
    pub(super) fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear<'_>> {
        Ok(Linear {
            weight: self.tensor(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: self.tensor(&format!("{name}.bias"), &[outputs])?,
        })
    }

    /// A tensor in f32, borrowed from the file where it is f32 there.
    ///
    /// # Errors
    /// [`Error::Format`], naming the tensor, where it is missing, of another shape or type, or not finite.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>> {
        let (file, found) = self.find(name)?;
        let refuse = |reason: String| Error::format(file.path(), format!("tensor \"{found}\": {reason}"));
        let (info, bytes) = file.tensor(found).ok_or_else(|| refuse("missing".to_owned()))?;
        if info.shape != shape {
            return Err(refuse(format!("expected shape {shape:?}, found {:?}", info.shape)));
        }
        let values =
            decode(info, bytes).ok_or_else(|| refuse(format!("expected F32, F16 or BF16, found {}", info.dtype)))?;
        if let Some(at) = first_not_finite(&values) {
            return Err(refuse(format!("expected finite numbers, found {} at element {at}", values[at])));
        }
        self.fingerprint.add(name, shape, &values);
        Ok(values)
    }

    /// The file that holds a tensor, and its name there.
    fn find(&self, name: &str) -> Result<(&TensorFile, &str)> {
        let names = self.spellings(name);
        let found = names.iter().find_map(|name| self.places.get_key_value(name));
        let (found, file) = found.ok_or_else(|| {
            Error::format(&self.path, format!("tensor \"{}\" is missing", names[0])).with_hint(
                "config.json describes another architecture than the weights, or the checkpoint is incomplete",
            )
        })?;
        Ok((&self.files[*file], found))
    }

    /// The names a tensor may have: with and without the prefix, and with a normalisation's parameters as TensorFlow
    /// called them.
    fn spellings(&self, name: &str) -> Vec<String> {
        let old = name
            .strip_suffix("LayerNorm.weight")
            .map(|start| format!("{start}LayerNorm.gamma"))
            .or_else(|| name.strip_suffix("LayerNorm.bias").map(|start| format!("{start}LayerNorm.beta")));
        let names = std::iter::once(name.to_owned()).chain(old);
        names.flat_map(|name| [format!("{}{name}", self.prefix), name]).collect()
    }
}

fn open_files(dir: &Path) -> Result<(PathBuf, Vec<TensorFile>)> {
    let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
    if single.is_file() {
        let file = TensorFile::open(&single)?;
        return Ok((single, vec![file]));
    }
    if index.is_file() {
        let files = open_shards(dir, &index)?;
        return Ok((index, files));
    }
    Err(no_weights(dir))
}

fn no_weights(dir: &Path) -> Error {
    const PICKLED: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
    let refused = Error::format(dir.join(SINGLE), format!("no such file, and no {INDEX}"));
    match PICKLED.into_iter().find(|name| dir.join(name).is_file()) {
        Some(name) => {
            Error::format(dir.join(name), format!("pickled weights are not read; expected {SINGLE} beside it"))
                .with_hint(format!("convert them: python scripts/to_safetensors.py {}", dir.display()))
        }
        None => refused,
    }
}

/// The files an index names, each checked to hold what the index says it does.
fn open_shards(dir: &Path, index: &Path) -> Result<Vec<TensorFile>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let bytes = std::fs::read(index).map_err(Error::io(index))?;
    let map =
        serde_json::from_slice::<Index>(&bytes).map_err(|error| Error::format(index, error.to_string()))?.weight_map;
    let names: BTreeSet<&String> = map.values().collect();
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        if name.contains(['/', '\\']) {
            return Err(Error::format(index, format!("expected a file's name, found \"{name}\"")));
        }
        let file = TensorFile::open(&dir.join(name))?;
        let absent = map.iter().filter(|(_, place)| *place == name).find(|(tensor, _)| file.tensor(tensor).is_none());
        if let Some((tensor, _)) = absent {
            return Err(Error::format(file.path(), format!("tensor \"{tensor}\" is missing; {INDEX} says it is here")));
        }
        files.push(file);
    }
    Ok(files)
}

/// The numbers of a tensor's bytes, `None` for types a model's parameters do not have.
fn decode<'a>(info: &TensorInfo, bytes: &'a [u8]) -> Option<Cow<'a, [f32]>> {
    match info.dtype {
        Dtype::F32 => Some(decode_f32(bytes)),
        Dtype::F16 => Some(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
        Dtype::BF16 => Some(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
        _ => None,
    }
}

fn decode_f32(bytes: &[u8]) -> Cow<'_, [f32]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(values) if cfg!(target_endian = "little") => Cow::Borrowed(values),
        // A header whose length is not a multiple of four leaves the numbers unaligned.
        _ => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    }
}

fn first_not_finite(values: &[f32]) -> Option<usize> {
    const CHUNK: usize = 1 << 16;
    // Without an early way out of a chunk, its loop becomes vector code.
    let all_finite = |chunk: &[f32]| chunk.iter().fold(true, |all, x| all & x.is_finite());
    let (chunk, numbers) = values.par_chunks(CHUNK).enumerate().find_first(|(_, chunk)| !all_finite(chunk))?;
    Some(chunk * CHUNK + numbers.iter().position(|x| !x.is_finite())?)
}
