//! The directory of a store: what is in it before a writer begins, and what a killed one left.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::atomic::TEMPORARY;
use super::head::HEAD;
use super::manifest::{MANIFEST, Manifest};
use crate::error::{Error, Result};
use crate::lock::LOCK;

/// The names of what a directory holds, the lock's apart.
pub(super) struct Found(Vec<String>);

impl Found {
    pub(super) fn survey(directory: &Path) -> Result<Self> {
        let mut found = names(directory)?;
        found.retain(|name| name != LOCK);
        Ok(Self(found))
    }

    /// Whether there is a store's manifest.
    pub(super) fn has_manifest(&self) -> bool {
        self.0.iter().any(|name| name == MANIFEST)
    }

    /// Whether a store may be begun here, or gone on with.
    pub(super) fn check(&self, directory: &Path, resume: bool) -> Result<()> {
        let name = directory.display();
        if !resume && !self.0.is_empty() {
            return Err(Error::usage(format!("{name}: the directory is not empty"))
                .with_hint("go on with the store in it by `--resume`, or give another directory"));
        }
        if self.has_manifest() {
            return Ok(());
        }
        // The manifest is written before the first shard: without it shards are no killed run's leftovers, but a
        // damaged store.
        if self.0.iter().any(|name| is_shard(name)) {
            return Err(Error::format(directory, format!("there are shards, but no {MANIFEST}"))
                .with_hint("restore the manifest from a copy, or index the data into another directory"));
        }
        if !self.0.iter().all(|name| is_ours(name)) {
            return Err(Error::usage(format!("{name}: the directory holds something else than a store"))
                .with_hint("give a new directory"));
        }
        Ok(())
    }
}

/// Removes the files of ours that no manifest names: a killed run's.
pub(super) fn remove_leftovers(directory: &Path, manifest: Option<&Manifest>) -> Result<()> {
    let files = manifest.iter().flat_map(|manifest| manifest.files()).map(|file| file.name.as_str());
    let named: HashSet<&str> = files.chain(manifest.map(|_| MANIFEST)).collect();
    for name in names(directory)?.iter().filter(|name| is_ours(name) && !named.contains(name.as_str())) {
        let path = directory.join(name);
        fs::remove_file(&path).map_err(Error::io(&path))?;
    }
    Ok(())
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory).map_err(Error::io(directory))?;
    let name = |entry: std::io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    entries.map(name).collect::<std::io::Result<_>>().map_err(Error::io(directory))
}

/// Whether a store has a file of this name, finished or under way.
fn is_ours(name: &str) -> bool {
    is_shard(name) || [MANIFEST, HEAD].contains(&finished_name(name))
}

fn is_shard(name: &str) -> bool {
    let numbered = finished_name(name).strip_prefix("shard-");
    let number = numbered.and_then(|rest| rest.strip_suffix(".safetensors").or_else(|| rest.strip_suffix(".jsonl")));
    let number = number.map(|number| number.strip_suffix(".next").unwrap_or(number));
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

fn finished_name(name: &str) -> &str {
    name.strip_suffix(TEMPORARY).unwrap_or(name)
}
