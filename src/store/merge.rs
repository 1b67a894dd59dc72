//! Many parts of one data set into one store, byte for byte what a single job would have written.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rayon::prelude::*;

use super::atomic::{AtomicFile, FileEntry, sync_directory};
use super::head::read_head;
use super::manifest::Manifest;
use super::reader::{Located, blocks_of, check_all_together, open_part};
use super::settings::{Part, Settings};
use super::shard::Shard;
use super::writer::StoreWriter;
use crate::dataset::IdCheck;
use crate::error::{Error, Result};

/// Puts the stores of all `--shard` jobs of one data set together. Every file's checksum is verified on the way; files
/// are hard-linked where the file system can (shards never change), and copied elsewhere. Killed, it can be called
/// again; called again when done, it changes nothing, where the parts are still what they were.
///
/// # Errors
/// [`Error::Mismatch`] if the parts are not of one data set, or are not all of it, or have one id twice; those of
/// [`super::Store::open`] and [`StoreWriter::create`] (the directory must be new, empty, or what an earlier call left
/// with the same parts).
pub fn merge<P: AsRef<Path>>(directory: impl AsRef<Path>, parts: &[P]) -> Result<()> {
    let directory = directory.as_ref();
    let parts = parts.iter().map(|part| open_part(part.as_ref())).collect::<Result<Vec<_>>>()?;
    let Some(first) = parts.first() else {
        return Err(Error::usage("no part was given to merge"));
    };
    check_all_together(&parts)?;
    let blocks = blocks_of(&parts)?;
    let records = check_whole(&first.1, &blocks)?;
    check_ids(&first.1.settings, &blocks)?;

    let head = first.1.head.as_ref().map(|file| {
        file.check_contents(first.0)?;
        read_head(first.0, &first.1.settings)
    });
    let mut settings = first.1.settings.clone();
    // What is known of some is not known of all.
    settings.precision = settings.precision.filter(|_| parts.iter().all(|part| part.1.settings.precision.is_some()));
    let mut writer = StoreWriter::create(directory, settings, Part::WHOLE, head.transpose()?.as_ref(), true)?;
    let missing = missing(&writer, blocks, records)?;
    let settled: Vec<_> = missing.iter().map(|(_, block)| block.settled()).collect();
    let files = missing.iter().zip(&settled).flat_map(|((source, block), settled)| {
        block.files().into_iter().zip(settled.files()).map(|(file, to)| (*source, file, to.name.as_str()))
    });
    let files: Vec<_> = files.collect();
    files.par_iter().try_for_each(|(source, file, name)| take(source, directory, file, name))?;
    settled.into_iter().try_for_each(|block| writer.adopt(block))?;
    sync_directory(directory)?;
    writer.finish(records)
}

/// Whether the blocks are all blocks of the data; gives the number of input records.
fn check_whole(manifest: &Manifest, blocks: &[Located<'_>]) -> Result<u64> {
    let records = manifest.records.unwrap_or_default();
    let expected = Part::WHOLE.blocks(records, manifest.settings.block_records);
    let mut found = blocks.iter().map(|(_, block)| block.number);
    // Both ascend, and no part has a block beyond the data: the first that differs is missing.
    match expected.into_iter().find(|number| found.next() != Some(*number)) {
        None => Ok(records),
        Some(number) => {
            let part = Part { index: number % manifest.part.count, count: manifest.part.count };
            Err(Error::Mismatch(
                format!("block {number} of the data is in none of the parts given: part {part} is missing"),
                Some("give the stores of all parts".into()),
            ))
        }
    }
}

/// An id is one record's alone, which jobs that add to their parts can each see of their own part only.
fn check_ids(settings: &Settings, blocks: &[Located<'_>]) -> Result<()> {
    let mut ids = IdCheck::new();
    for (source, block) in blocks {
        let shard = Shard::open(source, block, settings)?;
        for (row, &index) in shard.indices().iter().enumerate() {
            let id = shard.record(row)?.id;
            let is_new = if id == index.to_string() { ids.insert_number(index) } else { ids.insert(&id) };
            if !is_new {
                let hint = format!("take one out: `wherefore store remove {} --indexes {index}`", source.display());
                return Err(Error::Mismatch(format!("record {index}: another record has its id `{id}`"), Some(hint)));
            }
        }
        shard.release();
    }
    Ok(())
}

/// The blocks that an earlier call has not put there yet; what else is there is to be what the parts have.
fn missing<'a>(writer: &StoreWriter, blocks: Vec<Located<'a>>, records: u64) -> Result<Vec<Located<'a>>> {
    let there = &writer.manifest;
    let refuse = |what: String| {
        let name = writer.directory().display();
        let message = format!("{name}: the store that is there is not what the parts make: {what}");
        Err(Error::Mismatch(message, Some("merge into a new directory".into())))
    };
    if let (true, Some(found)) = (there.complete, there.records.filter(|found| *found != records)) {
        return refuse(format!("expected {records} input records, found {found}"));
    }
    if let Some(more) = writer.finished().find(|number| !blocks.iter().any(|(_, block)| block.number == *number)) {
        return refuse(format!("it has a block {more}"));
    }
    let mut missing = Vec::new();
    for (source, block) in blocks {
        match there.position(block.number).map(|at| &there.blocks[at]) {
            Ok(found) if found.settled() == block.settled() => {}
            Ok(found) => {
                let [expected, found] = [block, found].map(|block| format!("{} records", block.rows));
                let found = if expected == found { "others".to_owned() } else { found };
                return refuse(format!("block {}: expected {expected}, found {found}", block.number));
            }
            Err(_) => missing.push((source, block)),
        }
    }
    Ok(missing)
}

/// Links or copies a file into the store, and verifies what is there then.
fn take(source: &Path, directory: &Path, file: &FileEntry, name: &str) -> Result<()> {
    let (from, to) = (source.join(&file.name), directory.join(name));
    file.check_contents(source)?;
    if fs::hard_link(&from, &to).is_ok() {
        return Ok(());
    }
    let mut input = File::open(&from).map_err(Error::io(&from))?;
    let written = AtomicFile::write(&to, |output| io::copy(&mut input, output).map(drop))?;
    if written.checksum == file.checksum {
        return Ok(());
    }
    Err(Error::format(&from, "it changed while it was copied"))
}
