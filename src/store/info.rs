//! What a store is, at a glance: the manifest alone is read.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::manifest::Manifest;
use super::nearest::Recall;
use super::settings::{Part, Settings};
use crate::error::Result;
use crate::model::Task;

/// What a store is. Its `Display` is for people; serialized, it is for programs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Info {
    /// The store.
    pub directory: PathBuf,
    /// Whether its job is finished.
    pub complete: bool,
    /// The job.
    pub part: Part,
    /// Finished blocks.
    pub blocks: usize,
    /// Records in them.
    pub rows: u64,
    /// Records that were there once and have been removed.
    pub removed: u64,
    /// Records of the whole input, where known.
    pub records: Option<u64>,
    /// Of the data of the blocks, where the job is finished.
    pub data_fingerprint: Option<String>,
    /// On the disk.
    pub bytes: u64,
    /// How well rounded features find what the features as computed find, where they were rounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<Recall>,
    /// What made it.
    pub settings: Settings,
}

/// Reads a store's manifest, finished or not.
///
/// # Errors
/// If there is none, or it is damaged.
pub fn info(directory: impl AsRef<Path>) -> Result<Info> {
    let directory = directory.as_ref();
    let manifest = Manifest::read(directory)?;
    Ok(Info {
        directory: directory.to_owned(),
        complete: manifest.complete,
        part: manifest.part,
        blocks: manifest.blocks.len(),
        rows: manifest.blocks.iter().map(|block| block.rows).sum(),
        removed: manifest.removed(),
        records: manifest.records,
        bytes: manifest.files().map(|file| file.bytes).sum(),
        recall: manifest.recall,
        data_fingerprint: manifest.data_fingerprint,
        settings: manifest.settings,
    })
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        let state = if self.complete { "finished" } else { "not finished" };
        let part = if self.part == Part::WHOLE { String::new() } else { format!(", part {}", self.part) };
        writeln!(f, "store        {} ({state}{part})", self.directory.display())?;
        writeln!(f, "records      {} in {} blocks of {}", self.rows, self.blocks, settings.block_records)?;
        if self.removed > 0 {
            writeln!(f, "removed      {} records", self.removed)?;
        }
        writeln!(f, "size         {} bytes", self.bytes)?;
        writeln!(f, "model        {} ({})", settings.model, settings.model_fingerprint)?;
        writeln!(f, "head         {}", settings.head_fingerprint)?;
        writeln!(f, "tokenizer    {}, at most {} tokens", settings.tokenizer_fingerprint, settings.max_length)?;
        writeln!(f, "data         {}", self.data_fingerprint.as_deref().unwrap_or("not all read yet"))?;
        writeln!(
            f,
            "problem      {}, {} classes: {}",
            name(settings.problem),
            settings.classes,
            settings.label_names.join(", ")
        )?;
        let of = match settings.task() {
            _ if settings.tokens.is_none() => None,
            Task::Spans => Some("the boundaries of its answer"),
            Task::Masks => Some("its masks"),
            Task::Tags | Task::Record => Some("its words"),
        };
        if let Some(of) = of {
            writeln!(f, "factors      one for each of {of}")?;
        }
        let (dtype, target) = (name(settings.dtype), name(settings.target));
        write!(f, "features     {} numbers each, {dtype}; target {target}", settings.width)?;
        if let Some(precision) = settings.precision {
            write!(f, "\nprecision    {precision}")?;
        }
        if let Some(recall) = &self.recall {
            let (share, queries) = (100.0 * recall.share(), recall.queries);
            write!(f, "\nrecall       {share:.2} % of the 10 nearest, by the first {queries} records")?;
        }
        if let Some(scan) = settings.scan {
            write!(f, "\nscan copy    {}", name(scan))?;
        }
        if let Some(projection) = settings.gradients {
            write!(f, "\ngradients    of the whole model, {} projection, seed {}", projection.kind, projection.seed)?;
        }
        if !settings.columns.is_empty() {
            write!(f, "\ncolumns      {}", settings.columns.join(", "))?;
        }
        for checkpoint in &settings.checkpoints {
            write!(f, "\ncheckpoint   {} (learning rate {})", checkpoint.path, checkpoint.learning_rate)?;
        }
        Ok(())
    }
}

/// As the manifest has it, and as the command line does.
fn name(value: impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
