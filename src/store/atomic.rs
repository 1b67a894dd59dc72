//! Files that are either whole or not there: written to a sibling name, synced, renamed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What the sibling's name ends in.
pub(super) const TEMPORARY: &str = ".tmp";

/// A finished file, as the manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileEntry {
    /// Its name in the store's directory.
    pub(super) name: String,
    /// Its size.
    pub(super) bytes: u64,
    /// BLAKE3 of its contents, hexadecimal.
    pub(super) checksum: String,
}

/// A file under way. It appears under its name at [`AtomicFile::commit`]; dropped before that, it leaves nothing
/// behind.
pub(super) struct AtomicFile {
    path: PathBuf,
    temporary: PathBuf,
    output: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
    committed: bool,
}

impl AtomicFile {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(TEMPORARY);
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(Error::io(&temporary))?;
        Ok(Self {
            path: path.to_owned(),
            temporary,
            output: BufWriter::with_capacity(1 << 18, file),
            hasher: blake3::Hasher::new(),
            bytes: 0,
            committed: false,
        })
    }

    /// Writes through `write`, then to the disk, then gives the file its name (which [`sync_directory`] makes durable).
    pub(super) fn write(path: &Path, write: impl FnOnce(&mut Self) -> io::Result<()>) -> Result<FileEntry> {
        let mut file = Self::create(path)?;
        write(&mut file).map_err(Error::io(path))?;
        file.commit()
    }

    pub(super) fn commit(mut self) -> Result<FileEntry> {
        self.output.flush().and_then(|()| self.output.get_ref().sync_all()).map_err(Error::io(&self.path))?;
        fs::rename(&self.temporary, &self.path).map_err(Error::io(&self.path))?;
        self.committed = true;
        Ok(FileEntry {
            name: self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            bytes: self.bytes,
            checksum: self.hasher.finalize().to_hex().to_string(),
        })
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing more can be done here where this fails too; a resume removes what is left.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> Result<()> {
    // Elsewhere than on Unix a directory cannot be opened as a file, and a rename is durable once it returns.
    if cfg!(unix) {
        File::open(directory).and_then(|file| file.sync_all()).map_err(Error::io(directory))?;
    }
    Ok(())
}

/// BLAKE3 of a file's contents, hexadecimal.
pub(super) fn checksum(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(Error::io(path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

impl FileEntry {
    /// Whether the file has the size the manifest says (a cheap test that catches every truncation).
    pub(super) fn check_size(&self, directory: &Path) -> Result<()> {
        let path = directory.join(&self.name);
        let found = fs::metadata(&path).map_err(Error::io(&path))?.len();
        if found == self.bytes {
            return Ok(());
        }
        Err(Error::format(&path, format!("expected {} bytes, found {found}", self.bytes)).with_hint(DAMAGED))
    }

    /// Whether the file's contents are those the manifest says. Reads all of it.
    pub(super) fn check_contents(&self, directory: &Path) -> Result<()> {
        self.check_size(directory)?;
        let path = directory.join(&self.name);
        if checksum(&path)? == self.checksum {
            return Ok(());
        }
        Err(Error::format(&path, "its checksum is not the one it was written with").with_hint(DAMAGED))
    }
}

const DAMAGED: &str = "the file was damaged after it was written: restore it from a copy, or index the data again";
