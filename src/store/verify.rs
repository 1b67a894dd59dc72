//! Reading all of a store and telling everything that is wrong with it.

use std::fmt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::block::{Bundles, LabelFault, check_column};
use super::encode::gradient_norms;
use super::manifest::{BlockEntry, Manifest};
use super::nearest;
use super::reader::as_it_stands;
use super::settings::Settings;
use super::shard::Shard;
use crate::error::{Error, Result};
use crate::factors::{FactorRows, Floats, ScanCopy, ScanRows};

/// What [`verify`] found. Its `Display` is a report for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// The store.
    pub directory: PathBuf,
    /// Whether its job was finished.
    pub complete: bool,
    /// Finished blocks.
    pub blocks: usize,
    /// Records in them.
    pub rows: u64,
    /// Records that were there once and have been removed.
    pub removed: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
}

impl Verification {
    /// Whether nothing is wrong (an unfinished store may be sound).
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.complete { "finished" } else { "not finished" };
        let (blocks, rows, bytes) = (self.blocks, self.rows, self.bytes);
        write!(f, "{}: {state}, {blocks} blocks, {rows} records", self.directory.display())?;
        if self.removed > 0 {
            write!(f, " ({} removed)", self.removed)?;
        }
        writeln!(f, ", {bytes} bytes")?;
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        match self.problems.len() {
            0 => write!(f, "sound: every checksum fits, every record can be read"),
            1 => write!(f, "damaged: 1 problem"),
            many => write!(f, "damaged: {many} problems"),
        }
    }
}

/// Reads every byte of a store: checksums, then whether every record, label and number is one a search can use.
///
/// # Errors
/// If there is no manifest that can be trusted; damage elsewhere is reported, all of it, in [`Verification::problems`].
pub fn verify(directory: impl AsRef<Path>) -> Result<Verification> {
    let directory = directory.as_ref();
    as_it_stands(|| Manifest::read(directory), |manifest| check(directory, manifest), Verification::is_sound)
}

fn check(directory: &Path, manifest: &Manifest) -> Verification {
    let head = manifest.head.iter().map(|head| head.check_contents(directory)).collect::<Vec<_>>();
    let blocks: Vec<Result<()>> =
        manifest.blocks.par_iter().map(|block| verify_block(directory, block, manifest)).collect();
    let measured = manifest.recall.map(|told| match nearest::recall(directory, manifest)? {
        Some(found) if found != told => Err(Error::format(directory, "its recall is not what its blocks measured")),
        _ => Ok(()),
    });
    let problems = head
        .into_iter()
        .chain(blocks)
        .chain(measured)
        .filter_map(|outcome| outcome.err().map(|error| error.to_string()));
    Verification {
        directory: directory.to_owned(),
        complete: manifest.complete,
        blocks: manifest.blocks.len(),
        rows: manifest.blocks.iter().map(|block| block.rows).sum(),
        removed: manifest.removed(),
        bytes: manifest.files().map(|file| file.bytes).sum(),
        problems: problems.collect(),
    }
}

fn verify_block(directory: &Path, block: &BlockEntry, manifest: &Manifest) -> Result<()> {
    block.files().iter().try_for_each(|file| file.check_contents(directory))?;
    let shard = Shard::open(directory, block, &manifest.settings)?;
    check_removed(&shard, &block.removed)
        .and_then(|()| check_contents(&shard, manifest))
        .map_err(|reason| Error::format(directory.join(&block.factors.name), reason))?;
    (0..shard.rows()).try_for_each(|row| check_record(&shard, row))?;
    shard.release();
    Ok(())
}

/// Whether a record can be read, and says what each of its factors is of.
fn check_record(shard: &Shard, row: usize) -> Result<()> {
    let (record, offsets) = (shard.record(row)?, shard.factor_offsets());
    let expected = offsets.map(|offsets| (offsets[row + 1] - offsets[row]) as usize);
    let found = record.said.map(|said| said.parts.len());
    if expected == found {
        return Ok(());
    }
    let reason = format!("row {row}: expected what {expected:?} factors are of, found {found:?}");
    Err(shard.refuse_record(reason))
}

/// Whether a shard's numbers are what a writer would have let through; `Err` holds what is not.
fn check_contents(shard: &Shard, manifest: &Manifest) -> Result<(), String> {
    let settings = &manifest.settings;
    check_indices(shard, settings.block_records, manifest.records)?;
    match shard.bundles() {
        Some(bundles) => check_bundles(shard, &bundles, settings)?,
        None => check_labels(shard, settings)?,
    }
    check_finite("loss", shard.losses())?;
    check_factors(&shard.factors())?;
    check_norms("feature residual", shard.residuals().unwrap_or_default())?;
    check_scan(shard, settings)?;
    (0..settings.checkpoints.len()).try_for_each(|c| check_factors(&shard.checkpoint(c)))
}

fn check_indices(shard: &Shard, block_records: u64, records: Option<u64>) -> Result<(), String> {
    let indices = shard.indices();
    let inside = indices.iter().all(|index| index / block_records == shard.number());
    let below = indices.last().zip(records).is_none_or(|(last, records)| *last < records);
    if inside && below && indices.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    Err("record numbers do not ascend inside the block".into())
}

fn check_removed(shard: &Shard, removed: &[u64]) -> Result<(), String> {
    match removed.iter().find(|index| shard.indices().binary_search(index).is_ok()) {
        None => Ok(()),
        Some(index) => Err(format!("record {index} was removed, and is there")),
    }
}

fn check_labels(shard: &Shard, settings: &Settings) -> Result<(), String> {
    let check = |what, column, may_lack| {
        check_column(column, settings.problem, shard.rows(), settings.classes, may_lack).map_err(|fault| match fault {
            LabelFault::Row(row) => format!("row {row}: its {what} is not one the model can have"),
            LabelFault::Shape => format!("{what}s: wrong kind or number"),
        })
    };
    check("label", shard.labels(), true)?;
    check("prediction", shard.predictions(), false)
}

/// Whether what is kept of records with several factors is what is made of those.
fn check_bundles(shard: &Shard, bundles: &Bundles, settings: &Settings) -> Result<(), String> {
    check_all("class", &bundles.classes, |class| (0..settings.classes as i64).contains(class))?;
    check_finite("bias coordinate", &bundles.biases)?;
    shard.means().iter().try_for_each(check_factors)?;
    let (stored, factors) = (shard.gradient_norms().unwrap_or_default(), shard.factors());
    if gradient_norms(settings, bundles, &factors.features.to_f32(), factors.deltas) == stored {
        return Ok(());
    }
    Err("the gradients' norms are not those of the factors".into())
}

fn check_factors(factors: &FactorRows<'_>) -> Result<(), String> {
    match factors.features {
        Floats::F32(values) => check_finite("feature", values)?,
        Floats::F16(values) => check_all("feature", values, |value| value.is_finite())?,
        Floats::Bf16(values) => check_all("feature", values, |value| value.is_finite())?,
        Floats::Int8(rows) => check_finite("feature", &rows.to_f32())?,
    }
    check_finite("delta", factors.deltas)?;
    check_norms("feature norm", factors.feature_norms)?;
    check_norms("delta norm", factors.delta_norms)
}

/// Whether a scan copy is the one that is made of the features: a search trusts its bounds.
fn check_scan(shard: &Shard, settings: &Settings) -> Result<(), String> {
    let (Some(kind), Some(stored)) = (settings.scan, shard.scan()) else { return Ok(()) };
    let made = ScanCopy::new(kind, &shard.factors().features.to_f32(), settings.width);
    let decoded = |rows: ScanRows<'_>| rows.values.to_f32();
    if decoded(stored) == decoded(made.rows()) && stored.residuals == made.rows().residuals {
        return Ok(());
    }
    Err("the copy for scans is not one of the features".into())
}

fn check_norms(what: &str, norms: &[f32]) -> Result<(), String> {
    check_all(what, norms, |norm| norm.is_finite() && *norm >= 0.0)
}

fn check_finite(what: &str, values: &[f32]) -> Result<(), String> {
    check_all(what, values, |value| value.is_finite())
}

fn check_all<T>(what: &str, values: &[T], allowed: impl Fn(&T) -> bool) -> Result<(), String> {
    match values.iter().position(|value| !allowed(value)) {
        None => Ok(()),
        Some(at) => Err(format!("{what} number {at} is not one that can be searched")),
    }
}
