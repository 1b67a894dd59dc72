//! Memory-mapped files: the only unsafe code of the store.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A file's contents, mapped read-only. Pages are read when touched.
#[derive(Debug)]
pub(super) struct FileMap(Option<Mmap>);

impl FileMap {
    /// Maps a whole file (an empty one has nothing to map).
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        if file.metadata().map_err(Error::io(path))?.len() == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the map is read-only and the files of a store are never written again once they have their name: a
        // writer only ever renames whole files into place, which leaves mapped ones untouched. Should someone else
        // rewrite one meanwhile, the values read are any bit patterns, which every type read from here (integers,
        // floats, checked UTF-8) allows.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        Ok(Self(Some(map)))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Tells the system that the whole file will be needed soon: it begins to read it, and this returns at once.
    pub(super) fn prefetch(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.0 {
            // Failure is no error: the advice is only advice.
            let _ = map.advise(memmap2::Advice::WillNeed);
        }
    }

    /// Tells the system that the pages won't be needed soon, so that a scan of a store larger than memory does not push
    /// out everything else. Touched again, they are read again.
    pub(super) fn release(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.0 {
            // SAFETY: DONTNEED loses private changes; a read-only map of a file has none, its pages come back from the
            // file. Failure is no error: the advice is only advice.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}
