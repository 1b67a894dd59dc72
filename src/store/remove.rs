//! Taking records out of a finished store: a request that somebody's text be deleted, without indexing the rest again.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::directory::remove_leftovers;
use super::fisher::Fisher;
use super::manifest::{BlockEntry, Manifest};
use super::reader::open_part;
use super::replace::{commit, settle, write_next};
use super::shard::Shard;
use crate::error::Result;
use crate::lock::Lock;

/// Which records to take out.
#[derive(Clone, Debug, Default)]
pub struct Removal {
    /// By id.
    pub ids: HashSet<String>,
    /// By number in the whole input.
    pub indices: BTreeSet<u64>,
}

/// What [`remove`] did. Its `Display` is for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The numbers of the records that are gone now and were there before.
    pub removed: Vec<u64>,
    /// Records left.
    pub rows: u64,
    /// Blocks written anew.
    pub blocks: usize,
    /// Ids and numbers asked for that the store does not hold (any more).
    pub not_found: Vec<String>,
    /// Whether the whole network's curvature, which was fitted to them too, was deleted.
    pub curvature: bool,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "removed {} records in {} blocks, {} left", self.removed.len(), self.blocks, self.rows)?;
        if self.curvature {
            write!(f, "\nthe curvature that was fitted to them, too, is gone: `wherefore curvature` fits it again")?;
        }
        self.not_found.iter().try_for_each(|what| write!(f, "\nnot in the store: {what}"))
    }
}

/// Takes records out of a store: their texts, ids and factors are written nowhere any more. The others keep their
/// numbers, and every search, refit and curvature is that of a store whose input had skipped the removed ones. The
/// blocks concerned are written anew (and verified first), all others are untouched; it happens at one instant, before
/// which the store is the old one, after which the new one, however the process ends. A curvature of the whole network
/// that lies in the store knows them too, and is deleted just before.
///
/// Where features are eight-bit integers, those of a block are held from the mean of its first few, which stays what it
/// was.
///
/// Copies of the data outside the store, and what the file system keeps of deleted files, are not this function's
/// business.
///
/// # Errors
/// Those of [`super::Store::open`]; where another process is writing to the store, or the disk is full: the store then
/// stays as it was.
pub fn remove(directory: impl AsRef<Path>, removal: &Removal) -> Result<Removed> {
    let directory = directory.as_ref();
    open_part(directory)?;
    let _lock = Lock::acquire(directory, "store")?;
    let manifest = settle(directory, open_part(directory)?.1)?;
    let found: Vec<Vec<Found>> =
        manifest.blocks.par_iter().map(|block| find(directory, &manifest, block, removal)).collect::<Result<_>>()?;
    let mut changed = manifest.clone();
    for (entry, found) in changed.blocks.iter_mut().zip(&found).filter(|(_, found)| !found.is_empty()) {
        *entry = without(directory, &manifest, entry, found)?;
    }
    let found: Vec<Found> = found.into_iter().flatten().collect();
    let blocks = changed.blocks.iter().zip(&manifest.blocks).filter(|(new, old)| new != old).count();
    let curvature = blocks > 0 && Fisher::delete(directory)?;
    if blocks > 0 {
        changed.measure(directory)?;
        changed = commit(directory, changed)?;
    } else {
        remove_leftovers(directory, Some(&manifest))?; // of one that was killed when all was done but this
    }
    Ok(Removed {
        removed: found.iter().map(|found| found.index).collect(),
        rows: changed.blocks.iter().map(|block| block.rows).sum(),
        blocks,
        not_found: not_found(removal, &found),
        curvature,
    })
}

/// A record that is to go.
struct Found {
    index: u64,
    id: String,
}

fn find(directory: &Path, manifest: &Manifest, block: &BlockEntry, removal: &Removal) -> Result<Vec<Found>> {
    let shard = Shard::open(directory, block, &manifest.settings)?;
    let mut found = Vec::new();
    for (row, &index) in shard.indices().iter().enumerate() {
        let by_index = removal.indices.contains(&index);
        if !by_index && removal.ids.is_empty() {
            continue;
        }
        let id = shard.record(row)?.id;
        if by_index || removal.ids.contains(&id) {
            found.push(Found { index, id });
        }
    }
    shard.release();
    Ok(found)
}

/// A block's new files, without some of its records.
fn without(directory: &Path, manifest: &Manifest, entry: &BlockEntry, found: &[Found]) -> Result<BlockEntry> {
    entry.files().iter().try_for_each(|file| file.check_contents(directory))?;
    let gone: BTreeSet<u64> = found.iter().map(|found| found.index).collect();
    let shard = Shard::open(directory, entry, &manifest.settings)?;
    let mut block = shard.to_block(entry, manifest.settings.block_records)?;
    block.retain(|index| !gone.contains(&index));
    let removed: BTreeSet<u64> = gone.into_iter().chain(entry.removed.iter().copied()).collect();
    write_next(directory, manifest, &block, removed.into_iter().collect())
}

fn not_found(removal: &Removal, found: &[Found]) -> Vec<String> {
    let ids: HashSet<&str> = found.iter().map(|found| found.id.as_str()).collect();
    let indices: HashSet<u64> = found.iter().map(|found| found.index).collect();
    let mut missing: Vec<String> =
        removal.ids.iter().filter(|id| !ids.contains(id.as_str())).map(|id| format!("id `{id}`")).collect();
    missing.sort();
    missing
        .extend(removal.indices.iter().filter(|index| !indices.contains(index)).map(|index| format!("number {index}")));
    missing
}
