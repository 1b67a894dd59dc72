//! Another pair of files in the place of a finished block's, whole or not at all.
//!
//! A manifest names files by name and checksum, so a file cannot take another's name before the manifest knows it. New
//! files are therefore written under names of their own (`shard-00003.next.safetensors`), then one manifest names them
//! all: that is the instant of change. Only then do they get the plain names, by links, and a second manifest names
//! those; a killed process leaves this step to the next writer.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::atomic::{AtomicFile, FileEntry, sync_directory};
use super::block::Block;
use super::directory::remove_leftovers;
use super::encode::write_block;
use super::manifest::{BlockEntry, Manifest, Naming};
use crate::error::{Error, Result};

/// Writes `block` beside the finished block it is to replace; `removed` are the numbers of the records it once had.
pub(super) fn write_next(
    directory: &Path,
    manifest: &Manifest,
    block: &Block,
    removed: Vec<u64>,
) -> Result<BlockEntry> {
    block.check(&manifest.settings)?;
    let entry = write_block(directory, &manifest.settings, block, Naming::Next)?;
    Ok(BlockEntry { removed, ..entry })
}

/// Makes `changed`, whose blocks' new files are written, the store's manifest, and gives those files their plain names.
pub(super) fn commit(directory: &Path, changed: Manifest) -> Result<Manifest> {
    sync_directory(directory)?;
    changed.write(directory)?;
    settle(directory, changed)
}

/// Gives every file that the manifest names its plain name, and then removes those that no manifest names.
pub(super) fn settle(directory: &Path, manifest: Manifest) -> Result<Manifest> {
    let mut settled = manifest.clone();
    for block in &mut settled.blocks {
        *block = block.settled();
    }
    if settled == manifest {
        return Ok(manifest);
    }
    let pairs = manifest.files().zip(settled.files());
    let renamed: Vec<(&FileEntry, &FileEntry)> = pairs.filter(|(from, to)| from.name != to.name).collect();
    renamed.iter().try_for_each(|(from, to)| link(directory, &from.name, &to.name))?;
    sync_directory(directory)?;
    settled.write(directory)?;
    remove_leftovers(directory, Some(&settled))?;
    Ok(settled)
}

/// Gives a file a second name, in place of what has it now; readers that have that open keep it.
fn link(directory: &Path, from: &str, to: &str) -> Result<()> {
    let (from, to) = (directory.join(from), directory.join(to));
    match fs::remove_file(&to) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io(&to)(error)),
        _ => {}
    }
    if fs::hard_link(&from, &to).is_ok() {
        return Ok(());
    }
    let mut input = fs::File::open(&from).map_err(Error::io(&from))?;
    AtomicFile::write(&to, |output| std::io::copy(&mut input, output).map(drop))?;
    Ok(())
}
