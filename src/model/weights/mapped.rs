//! A whole file as bytes, mapped and not read.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps the file at `path`.
///
/// # Errors
/// [`Error::Io`] where it cannot be opened or mapped.
#[allow(unsafe_code)]
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io(path))?;
    // SAFETY: the bytes are only ever read as numbers, for which every bit pattern is valid. Another process that
    // shortens the file while it is being loaded ends this one by a signal; that is the price of mapping, and every
    // reader of this format pays it.
    unsafe { Mmap::map(&file) }.map_err(Error::io(path))
}
