//! New data onto a finished store: the same store, record for record and byte for byte, as one made of all the data in
//! one go.
//!
//! The numbers go on where they ended. Full blocks are not touched; the last block, where it is not full, is written
//! anew with the first of the new records in it, and takes its own place at one instant (see [`super::replace`]). While
//! data are being added the manifest says what the store was before, so that a killed run can be gone on with, from the
//! same new data.

use std::path::Path;

use super::block::Block;
use super::directory::remove_leftovers;
use super::manifest::{Base, BlockEntry, Manifest};
use super::record::StoredRecord;
use super::replace::{commit, settle, write_next};
use super::settings::{Part, Settings};
use super::shard::Shard;
use super::writer::{StoreWriter, check_same_job, verify_files};
use crate::dataset::{Digest, Record};
use crate::error::{Error, Result};
use crate::factors::{Floats, Int8};
use crate::lock::Lock;

impl StoreWriter {
    /// Opens a finished store to add data to, or one that an earlier, interrupted call was adding data to. What is
    /// there is verified first; nothing changes before the first block is written.
    ///
    /// # Errors
    /// As [`StoreWriter::create`]; if there is no finished store.
    pub fn append(directory: impl AsRef<Path>, settings: &Settings, part: Part) -> Result<Self> {
        let directory = directory.as_ref();
        // Before the lock, so that nothing is put into a directory that is no store.
        Manifest::read(directory)?;
        let lock = Lock::acquire(directory, "store")?;
        let manifest = Manifest::read(directory)?;
        check_same_job(directory, &manifest, settings, part)?;
        let base = base(directory, &manifest)?;
        verify_files(directory, &manifest)?;
        remove_leftovers(directory, Some(&manifest))?;
        let manifest = settle(directory, manifest)?;
        Ok(Self::new(directory, manifest, Some(base), lock))
    }

    /// Where the data that are added begin: the number of their first record, and the fingerprint that their first
    /// block goes on from.
    ///
    /// # Errors
    /// If the store's own fingerprint is none.
    pub fn begins_at(&self) -> Result<(u64, Digest)> {
        let Some(base) = &self.base else { return Ok((0, Digest::default())) };
        let digest = base.last_fingerprint.as_deref().map_or(Ok(Digest::default()), str::parse);
        Ok((base.records, digest.map_err(|reason| Error::format(&self.directory, reason))?))
    }

    /// Hands `each` the number and id of every record that was in the store before data were added.
    ///
    /// # Errors
    /// If the store is damaged.
    pub fn each_id(&self, mut each: impl FnMut(u64, &str)) -> Result<()> {
        let first_added = self.base.as_ref().map_or(0, |base| base.records);
        for block in &self.manifest.blocks {
            let shard = Shard::open(&self.directory, block, &self.manifest.settings)?;
            for (row, &index) in shard.indices().iter().enumerate().filter(|(_, index)| **index < first_added) {
                each(index, &shard.record(row)?.id);
            }
            shard.release();
        }
        Ok(())
    }

    /// The records that are there and are numbered below `end`, which are in the first block.
    ///
    /// # Errors
    /// If the store is damaged.
    pub(crate) fn records_below(&self, end: u64) -> Result<Vec<Record>> {
        let Some(entry) = self.manifest.blocks.first().filter(|entry| entry.number == 0) else { return Ok(Vec::new()) };
        let shard = Shard::open(&self.directory, entry, &self.manifest.settings)?;
        let rows = shard.indices().iter().enumerate().take_while(|(_, index)| **index < end);
        let record = |(row, &index)| {
            let StoredRecord { id, text, pair, label, .. } = shard.record(row)?;
            Ok(Record { index, id, text, pair, label, ..Record::default() })
        };
        rows.map(record).collect()
    }

    /// Whether `entry` is the block that was not full, with nothing added to it yet.
    pub(super) fn is_to_be_extended(&self, entry: &BlockEntry) -> bool {
        let Some(Base { records, last_fingerprint: Some(fingerprint) }) = &self.base else { return false };
        entry.number == records / self.manifest.settings.block_records && entry.data_fingerprint == *fingerprint
    }

    /// Writes the block at `at` anew, with `block`'s records after its own.
    pub(super) fn extend(&mut self, at: usize, block: &Block) -> Result<()> {
        let entry = &self.manifest.blocks[at];
        let mut whole = Shard::open(&self.directory, entry, &self.manifest.settings)?
            .to_block(entry, self.manifest.settings.block_records)?;
        block.check(&self.manifest.settings)?;
        whole.extend(block.clone());
        let entry = write_next(&self.directory, &self.manifest, &whole, entry.removed.clone())?;
        let mut changed = self.under_way();
        changed.blocks[at] = entry;
        self.manifest = commit(&self.directory, changed)?;
        Ok(())
    }

    /// How a block's features will be stored, decoded, `[n, E]`; before them the numbers, and the stored features, of
    /// the records that are in it already.
    ///
    /// # Errors
    /// If the store is damaged.
    pub(crate) fn stored(&self, block: &Block) -> Result<(Vec<u64>, Vec<f32>, Vec<f32>)> {
        let Manifest { settings, blocks, .. } = &self.manifest;
        let entry = self.manifest.position(block.number).ok().map(|at| &blocks[at]);
        let entry = entry.filter(|entry| self.is_to_be_extended(entry));
        let shard = entry.map(|entry| Shard::open(&self.directory, entry, settings)).transpose()?;
        let features = shard.as_ref().map(|shard| shard.factors().features);
        let integers =
            features.and_then(|features| if let Floats::Int8(rows) = features { Some(Int8::of(rows)) } else { None });
        let of_before = features.map(|features| features.to_f32()).unwrap_or_default();
        // Halves are rounded one by one; integers go on from those before.
        let known = if integers.is_some() { of_before.len() } else { 0 };
        let mut all = vec![0.0; known];
        all.extend(&block.features);
        let kept = settings.dtype.kept(&all, settings.width, integers.as_ref());
        let stored = kept.map_or(all, |kept| kept.floats().to_f32()).split_off(known);
        Ok((shard.map(|shard| shard.indices().to_vec()).unwrap_or_default(), of_before, stored))
    }

    /// The manifest as it is while data are being added.
    pub(super) fn under_way(&self) -> Manifest {
        let mut manifest = self.manifest.clone();
        if let (Some(base), None) = (&self.base, &manifest.base) {
            manifest.base = Some(base.clone());
            (manifest.complete, manifest.records, manifest.data_fingerprint) = (false, None, None);
            manifest.recall = None;
        }
        manifest
    }
}

/// What the store was before.
fn base(directory: &Path, manifest: &Manifest) -> Result<Base> {
    match (&manifest.base, manifest.records) {
        (Some(base), _) => Ok(base.clone()),
        (None, Some(records)) if manifest.complete => {
            let last = records / manifest.settings.block_records;
            let entry = manifest.position(last).ok().map(|at| &manifest.blocks[at]);
            Ok(Base { records, last_fingerprint: entry.map(|entry| entry.data_fingerprint.clone()) })
        }
        _ => Err(Error::format(directory, "the store is not finished, so nothing can be added to it")
            .with_hint("finish it first: the `wherefore index` command that began it, with `--resume`")),
    }
}
