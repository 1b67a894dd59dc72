//! A block to its two files.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use bytemuck::{NoUninit, cast_slice};
use rayon::prelude::*;
use safetensors::Dtype as TensorType;

use super::atomic::{AtomicFile, FileEntry};
use super::block::{Block, Bundles};
use super::manifest::{BlockEntry, Naming};
use super::nearest::Nearest;
use super::settings::{Dtype, Settings};
use super::tensors::{TensorSource, write_tensors};
use crate::backend::cpu::dot;
use crate::error::Result;
use crate::factors::{Floats, Held, Int8, Int8Rows, LabelVec, ScanCopy, ScanRows, bundle_norm, residuals};

/// Writes a checked block's files under their names (not yet durable: see [`super::atomic::sync_directory`]).
pub(super) fn write_block(directory: &Path, settings: &Settings, block: &Block, naming: Naming) -> Result<BlockEntry> {
    let (lines, offsets) = lines(block)?;
    let scan = settings.scan.map(|kind| ScanCopy::new(kind, &block.features, settings.width));
    let mut tensors = tensors(settings, block, &offsets)?;
    if let Some(copy) = &scan {
        tensors.extend(scan_tensors(copy, block.rows(), settings.width));
    }
    let records = directory.join(naming.records(block.number));
    let factors = directory.join(naming.factors(block.number));
    let written = write_files(&records, &lines, &factors, tensors);
    if written.is_err() {
        // No manifest names them; what cannot be removed now is removed by a resume.
        let _ = std::fs::remove_file(records);
    }
    let (records, factors) = written?;
    let (rows, data_fingerprint) = (block.rows() as u64, block.data_fingerprint.clone());
    Ok(BlockEntry { number: block.number, rows, data_fingerprint, factors, records, removed: Vec::new() })
}

fn write_files(
    records: &Path,
    lines: &str,
    factors: &Path,
    tensors: Vec<TensorSource<'_>>,
) -> Result<(FileEntry, FileEntry)> {
    let records = AtomicFile::write(records, |file| file.write_all(lines.as_bytes()))?;
    let factors = AtomicFile::write(factors, |file| write_tensors(file, tensors))?;
    Ok((records, factors))
}

/// The records as JSON lines, and where each begins (and the last ends), `[n + 1]`.
fn lines(block: &Block) -> Result<(String, Vec<i64>)> {
    let mut lines = String::new();
    let mut offsets = vec![0];
    for (row, record) in block.records.iter().enumerate() {
        let line = record.to_line().ok_or_else(|| block.refuse(row, "its label holds a number that is not finite"))?;
        lines.push_str(&line);
        offsets.push(lines.len() as i64);
    }
    Ok((lines, offsets))
}

/// All tensors of a block's file. The order is part of the format: equal blocks are equal bytes.
fn tensors<'a>(settings: &Settings, block: &'a Block, offsets: &'a [i64]) -> Result<Vec<TensorSource<'a>>> {
    let (n, k) = (block.rows(), settings.classes);
    let mut tensors = vec![
        source("indices", TensorType::I64, vec![n], &block.indices),
        source("record_offsets", TensorType::I64, vec![n + 1], offsets),
    ];
    if let Some(bundles) = &block.bundles {
        tensors.extend(bundle_tensors(settings, block, bundles)?);
    } else {
        tensors.push(label_tensor("labels", &block.labels, n, k));
        tensors.push(label_tensor("predictions", &block.predictions, n, k));
    }
    tensors.push(source("losses", TensorType::F32, vec![n], &block.losses));
    let final_set = (String::new(), &block.features, &block.deltas);
    let checkpoints = block.checkpoints.iter().enumerate();
    let checkpoints = checkpoints.map(|(c, (features, deltas))| (format!("checkpoint.{c}."), features, deltas));
    for (number, (prefix, features, deltas)) in std::iter::once(final_set).chain(checkpoints).enumerate() {
        let before = block.stored.integers.get(number);
        let kept = settings.dtype.kept(features, settings.width, before);
        let stored = kept.as_ref().map_or(Cow::Borrowed(features.as_slice()), |kept| kept.floats().to_f32().into());
        tensors.extend(factor_tensors(&prefix, settings, block, &stored, deltas)?);
        let shape = [stored.len() / settings.width, settings.width];
        match &kept {
            None => tensors.extend(feature_tensors(&prefix, Floats::F32(features), shape)),
            Some(kept) => {
                for tensor in feature_tensors(&prefix, kept.floats(), shape) {
                    tensors.push(tensor.into_owned());
                }
            }
        }
        if number == 0 && kept.is_some() {
            tensors.push(owned("feature_residuals".to_owned(), vec![n], &block.residuals(&stored, settings.width)?));
        }
    }
    if settings.dtype.rounds_to().is_some() {
        let nearest = block.nearest.as_ref().map_or(Cow::Owned(Nearest::default()), Cow::Borrowed);
        let (places, scores) = nearest.encode(block.number * settings.block_records);
        let shape = Nearest::shape(nearest.len()).to_vec();
        tensors.push(source("nearest_places", TensorType::U32, shape.clone(), &places).into_owned());
        tensors.push(owned("nearest_scores".to_owned(), shape, &scores));
    }
    Ok(tensors)
}

/// A scan copy's tensors, which the search takes for what they are: the residuals are bounds.
fn scan_tensors(copy: &ScanCopy, n: usize, e: usize) -> Vec<TensorSource<'_>> {
    let ScanRows { values, residuals } = copy.rows();
    let mut tensors = vec![source("scan.residuals", TensorType::F32, vec![n], residuals)];
    tensors.extend(feature_tensors("scan.", values, [n, e]));
    tensors
}

/// Features as they are held.
fn feature_tensors<'a>(prefix: &str, features: Floats<'a>, [n, e]: [usize; 2]) -> Vec<TensorSource<'a>> {
    let (name, shape) = (format!("{prefix}features"), vec![n, e]);
    let beside = |what, values: &'a [f32]| {
        source(&format!("{prefix}feature_{what}"), TensorType::F32, vec![values.len()], values)
    };
    match features {
        Floats::F32(values) => vec![source(&name, TensorType::F32, shape, values)],
        Floats::F16(values) => vec![source(&name, TensorType::F16, shape, values)],
        Floats::Bf16(values) => vec![source(&name, TensorType::BF16, shape, values)],
        Floats::Int8(Int8Rows { values, scales, shares, center }) => vec![
            beside("scales", scales),
            beside("shares", shares),
            beside("center", center),
            source(&name, TensorType::I8, shape, values),
        ],
    }
}

fn label_tensor<'a>(name: &str, labels: &'a LabelVec, n: usize, k: usize) -> TensorSource<'a> {
    match labels {
        LabelVec::Classes(classes) => source(name, TensorType::I64, vec![n], classes),
        LabelVec::Rows(values) => source(name, TensorType::F32, vec![n, k], values),
    }
}

/// δ, and the norms of it and of features as they are stored.
fn factor_tensors<'a>(
    prefix: &str,
    settings: &Settings,
    block: &Block,
    stored: &[f32],
    deltas: &'a [f32],
) -> Result<[TensorSource<'a>; 3]> {
    let (e, k) = (settings.width, settings.delta_width());
    let n = block.bundles.as_ref().map_or(block.rows(), |bundles| bundles.biases.len());
    let feature_norms = norms(block, "feature", stored, e, n)?;
    let delta_norms = norms(block, "delta", deltas, k, n)?;
    Ok([
        owned(format!("{prefix}feature_norms"), vec![n], &feature_norms),
        owned(format!("{prefix}delta_norms"), vec![n], &delta_norms),
        source(&format!("{prefix}deltas"), TensorType::F32, vec![n, k], deltas),
    ])
}

/// Whose the factors are, and what is kept of each record beside them.
fn bundle_tensors<'a>(settings: &Settings, block: &Block, bundles: &'a Bundles) -> Result<Vec<TensorSource<'a>>> {
    let (n, e, f) = (block.rows(), settings.width, bundles.biases.len());
    let mean_norms = norms(block, "feature", &bundles.means, e, n)?;
    let gradient_norms = gradient_norms(settings, bundles, &block.features, &block.deltas);
    let mut tensors = vec![
        source("factor_offsets", TensorType::I64, vec![n + 1], &bundles.offsets),
        source("factor_classes", TensorType::I64, vec![f], &bundles.classes),
        owned("gradient_norms".to_owned(), vec![n], &gradient_norms),
        owned("mean_feature_norms".to_owned(), vec![n], &mean_norms),
        source("mean_features", TensorType::F32, vec![n, e], &bundles.means),
    ];
    if settings.has_biases() {
        tensors.push(source("factor_biases", TensorType::F32, vec![f], &bundles.biases));
    }
    Ok(tensors)
}

/// The length of each record's gradient, `[n]`.
pub(super) fn gradient_norms(settings: &Settings, bundles: &Bundles, features: &[f32], deltas: &[f32]) -> Vec<f32> {
    let (e, k) = (settings.width, settings.delta_width());
    let own = |ends: &[u64]| {
        let (from, to) = (ends[0] as usize, ends[1] as usize);
        bundle_norm(&features[from * e..to * e], &deltas[from * k..to * k], &bundles.biases[from..to], e, k) as f32
    };
    bundles.offsets.par_windows(2).map(own).collect()
}

impl Dtype {
    /// Features in fewer bits, where they are stored in such, after those that are stored already.
    pub(super) fn kept(self, features: &[f32], width: usize, before: Option<&Int8>) -> Option<Held> {
        self.rounds_to().map(|kind| Held::new(kind, features, width, before))
    }
}

impl Block {
    /// How far each record's features are from what is `stored` of them: as was once found, or as they are now.
    fn residuals(&self, stored: &[f32], width: usize) -> Result<Vec<f32>> {
        let mut all = self.stored.residuals.clone();
        let known = all.len();
        all.extend(residuals(&self.features[known * width..], &stored[known * width..], width));
        match all.iter().position(|r| !r.is_finite()) {
            None => Ok(all),
            Some(row) => Err(self.refuse(row, "its features are too large for the store's number type")),
        }
    }
}

/// `‖row‖` of `n` rows, by the one fixed-order dot product of the program.
fn norms(block: &Block, what: &str, values: &[f32], width: usize, n: usize) -> Result<Vec<f32>> {
    if width == 0 {
        return Ok(vec![0.0; n]);
    }
    let norms: Vec<f32> = values.chunks_exact(width).map(|row| dot(row, row).sqrt()).collect();
    match norms.iter().position(|norm| !norm.is_finite()) {
        None => Ok(norms),
        Some(at) => {
            let several = block.bundles.as_ref().filter(|_| n != block.rows());
            let row = several.map_or(at, |bundles| bundles.record_of(at));
            Err(block.refuse(row, &format!("its {what}s are too large for the store's number type")))
        }
    }
}

fn source<'a, T: NoUninit>(name: &str, dtype: TensorType, shape: Vec<usize>, values: &'a [T]) -> TensorSource<'a> {
    TensorSource { name: name.to_owned(), dtype, shape, data: Cow::Borrowed(cast_slice(values)) }
}

fn owned(name: String, shape: Vec<usize>, values: &[f32]) -> TensorSource<'static> {
    TensorSource { name, dtype: TensorType::F32, shape, data: bytes(values) }
}

fn bytes<T: NoUninit>(values: &[T]) -> Cow<'static, [u8]> {
    Cow::Owned(cast_slice(values).to_vec())
}
