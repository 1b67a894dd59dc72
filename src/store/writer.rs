//! Making a store: block after block, each durable before the next, so that a killed run loses at most the block under
//! way.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::atomic::sync_directory;
use super::block::Block;
use super::directory::{Found, remove_leftovers};
use super::encode::write_block;
use super::head::{check_head, write_head};
use super::manifest::{Base, BlockEntry, Manifest, Naming};
use super::replace::settle;
use super::settings::{Difference, Part, Settings};
use super::shard::Shard;
use crate::error::{Error, Result};
use crate::factors::Head;
use crate::lock::Lock;
use crate::model::Problem;

/// A store being written. It holds the store's lock until dropped.
#[derive(Debug)]
pub struct StoreWriter {
    pub(super) directory: PathBuf,
    pub(super) manifest: Manifest,
    /// What the store was before, where data are added to it.
    pub(super) base: Option<Base>,
    /// Whether the directory is this writer's own making.
    made: bool,
    _lock: Lock,
}

impl StoreWriter {
    /// Begins a store in a new or empty directory (or in one where a store was begun and nothing is finished), or, with
    /// `resume`, goes on where an earlier run of the same job ended (a run that was killed before it wrote anything
    /// included, so that a batch script can always resume). Finished blocks are verified first.
    ///
    /// # Errors
    /// [`Error::Usage`] if the directory is in use or not empty, [`Error::Mismatch`] if the store in it was made with
    /// other settings, [`Error::Format`] if it is damaged.
    pub fn create(
        directory: impl AsRef<Path>,
        settings: Settings,
        part: Part,
        head: Option<&Head>,
        resume: bool,
    ) -> Result<Self> {
        let directory = directory.as_ref();
        check_request(&settings, part, head)?;
        let made = !directory.exists();
        fs::create_dir_all(directory).map_err(Error::io(directory))?;
        // Twice: a directory of something else is not to get even a lock, and what holds the lock may have changed all.
        let survey = || {
            let found = Found::survey(directory)?;
            let nothing_yet = found.has_manifest() && Manifest::read(directory).is_ok_and(|m| m.has_nothing_yet());
            found.check(directory, resume || nothing_yet)?;
            Ok::<_, Error>(found.has_manifest() && (resume || !nothing_yet))
        };
        survey()?;
        let lock = Lock::acquire(directory, "store")?;
        let manifest =
            if survey()? { go_on(directory, &settings, part)? } else { begin(directory, settings, part, head)? };
        Ok(Self { made, ..Self::new(directory, manifest, None, lock) })
    }

    pub(super) fn new(directory: &Path, manifest: Manifest, base: Option<Base>, lock: Lock) -> Self {
        Self { directory: directory.to_owned(), manifest, base, made: false, _lock: lock }
    }

    /// Whether block `number` is finished, of these data.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if it is finished, but of other data: the data file has changed since.
    pub fn has(&self, number: u64, data_fingerprint: &str) -> Result<bool> {
        let Ok(at) = self.manifest.position(number) else { return Ok(false) };
        let stored = &self.manifest.blocks[at].data_fingerprint;
        if stored == data_fingerprint || self.is_to_be_extended(&self.manifest.blocks[at]) {
            return Ok(stored == data_fingerprint);
        }
        let (first, name) = (number.saturating_mul(self.manifest.settings.block_records), self.directory.display());
        Err(Error::Mismatch(
            format!(
                "{name}: the data changed since the store was begun: block {number} (records from {first} on) has fingerprint \
                 {stored} in the store, {data_fingerprint} now"
            ),
            Some("index the changed data into a new directory".into()),
        ))
    }

    /// The numbers of the records that block `number` has, and of those that were removed from it, ascending; `None`
    /// where it is not finished.
    ///
    /// # Errors
    /// As [`StoreWriter::has`]; if the store is damaged.
    pub fn kept(&self, number: u64, data_fingerprint: &str) -> Result<Option<Vec<u64>>> {
        let Ok(at) = self.manifest.position(number) else { return Ok(None) };
        if !self.has(number, data_fingerprint)? {
            return Ok(None);
        }
        let entry = &self.manifest.blocks[at];
        let shard = Shard::open(&self.directory, entry, &self.manifest.settings)?;
        let mut kept = [shard.indices(), &entry.removed].concat();
        kept.sort_unstable();
        Ok(Some(kept))
    }

    /// Adds a block, in any order; where data are added, records to the last block. When this returns the block is on
    /// the disk and in the manifest.
    ///
    /// # Errors
    /// [`Error::Usage`] if a record's numbers cannot be stored (it is named), [`Error::Io`] if the disk is full; the
    /// store stays as it was.
    pub fn write(&mut self, block: &Block) -> Result<()> {
        if let Ok(at) = self.manifest.position(block.number)
            && self.is_to_be_extended(&self.manifest.blocks[at])
        {
            return self.extend(at, block);
        }
        let at = self.vacancy(block.number)?;
        block.check(&self.manifest.settings)?;
        let entry = write_block(&self.directory, &self.manifest.settings, block, Naming::Plain)?;
        sync_directory(&self.directory)?;
        self.insert(at, entry)
    }

    /// Declares the part complete: `records` is the number of records in the whole input.
    ///
    /// # Errors
    /// [`Error::Usage`] if blocks are missing, [`Error::Mismatch`] if the store has blocks that the data have not.
    pub fn finish(mut self, records: u64) -> Result<()> {
        self.check_blocks(records)?;
        if self.manifest.complete && self.manifest.records == Some(records) {
            return Ok(());
        }
        if self.manifest.complete && self.base.is_none() {
            return Err(self.grown(&format!("{records} records")));
        }
        (self.manifest.complete, self.manifest.base) = (true, None);
        self.manifest.records = Some(records);
        self.manifest.data_fingerprint = Some(self.manifest.combined_fingerprint());
        self.manifest.measure(&self.directory)?;
        self.manifest.write(&self.directory)
    }

    /// Gives up: a directory that was made for this store goes again where no block was finished; what was there before
    /// stays.
    pub fn abandon(&self) {
        if self.made && self.manifest.has_nothing_yet() && remove_leftovers(&self.directory, None).is_ok() {
            Lock::remove_with(&self.directory);
        }
    }

    /// The store's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Finished blocks, ascending.
    pub fn finished(&self) -> impl Iterator<Item = u64> {
        self.manifest.blocks.iter().map(|block| block.number)
    }

    /// Takes over finished files that already lie in the directory under their names; the manifest is written by
    /// [`StoreWriter::finish`].
    pub(super) fn adopt(&mut self, entry: BlockEntry) -> Result<()> {
        let at = self.vacancy(entry.number)?;
        self.manifest.blocks.insert(at, entry);
        Ok(())
    }

    /// Where block `number` belongs in the manifest.
    fn vacancy(&self, number: u64) -> Result<usize> {
        if !self.manifest.part.owns(number) {
            let part = self.manifest.part;
            return Err(Error::usage(format!("block {number} does not belong to part {part}")));
        }
        match self.manifest.position(number) {
            Ok(_) => Err(Error::usage(format!("block {number} is in the store already"))),
            Err(_) if self.manifest.complete && self.base.is_none() => Err(self.grown(&format!("a block {number}"))),
            Err(at) => Ok(at),
        }
    }

    /// The manifest in memory stays that on the disk, also where the disk is full.
    fn insert(&mut self, at: usize, entry: BlockEntry) -> Result<()> {
        let mut changed = self.under_way();
        changed.blocks.insert(at, entry);
        changed.write(&self.directory)?;
        self.manifest = changed;
        Ok(())
    }

    fn check_blocks(&self, records: u64) -> Result<()> {
        let block_records = self.manifest.settings.block_records;
        let mut expected = self.manifest.part.blocks(records, block_records);
        let missing = expected.find(|number| self.manifest.position(*number).is_err());
        if let Some(number) = missing {
            return Err(Error::usage(format!("{}: block {number} is missing", self.directory.display())));
        }
        match self.manifest.blocks.last() {
            Some(last) if last.number >= records.div_ceil(block_records) => Err(Error::Mismatch(
                format!(
                    "{}: has block {}, but the data end at {records} records",
                    self.directory.display(),
                    last.number
                ),
                Some("the data file has become shorter: index it into a new directory".into()),
            )),
            _ => Ok(()),
        }
    }

    fn grown(&self, found: &str) -> Error {
        let (name, records) = (self.directory.display(), self.manifest.records.unwrap_or_default());
        Error::Mismatch(
            format!("{name}: the store was finished with {records} records, and the data now have {found}"),
            Some(
                "add data that are in another file with `--append`; index a file that has changed into a new directory"
                    .into(),
            ),
        )
    }
}

fn check_request(settings: &Settings, part: Part, head: Option<&Head>) -> Result<()> {
    settings.check().and_then(|()| part.check()).map_err(Error::usage)?;
    match head {
        Some(_) if settings.problem == Problem::Headless => Err(Error::usage("a headless model has no head")),
        Some(head) => check_head(head, settings),
        None => Ok(()),
    }
}

pub(super) fn check_same_job(directory: &Path, manifest: &Manifest, settings: &Settings, part: Part) -> Result<()> {
    let of_part =
        || Difference { told: format!("part: {} in one, {part} in the other", manifest.part), precision: None };
    let difference = manifest.settings.difference(settings).or_else(|| (manifest.part != part).then(of_part));
    let Some(Difference { told, precision }) = difference else { return Ok(()) };
    let same = precision.map_or("the same settings".to_owned(), |precision| format!("`--precision {precision}`"));
    Err(Error::Mismatch(
        format!("{}: the store was begun with other settings than this run's: {told}", directory.display()),
        Some(format!("go on with {same}, or give another directory")),
    ))
}

/// A store with nothing in it but the head.
fn begin(directory: &Path, settings: Settings, part: Part, head: Option<&Head>) -> Result<Manifest> {
    remove_leftovers(directory, None)?;
    let head = head.map(|head| write_head(head, directory, &settings)).transpose()?;
    let manifest = Manifest::new(settings, part, head);
    manifest.write(directory)?;
    Ok(manifest)
}

/// The store an earlier run left: what is finished is verified, what is not is removed.
fn go_on(directory: &Path, settings: &Settings, part: Part) -> Result<Manifest> {
    let manifest = Manifest::read(directory)?;
    check_same_job(directory, &manifest, settings, part)?;
    if manifest.base.is_some() {
        return Err(Error::usage(format!("{}: data are being added to this store", directory.display()))
            .with_hint("go on with `--append` and the data that are being added"));
    }
    verify_files(directory, &manifest)?;
    remove_leftovers(directory, Some(&manifest))?;
    settle(directory, manifest)
}

/// Whether every file is what it was written as.
pub(super) fn verify_files(directory: &Path, manifest: &Manifest) -> Result<()> {
    let files: Vec<_> = manifest.files().collect();
    files.par_iter().try_for_each(|file| file.check_contents(directory))
}
