//! One `.safetensors` file: a length, a JSON header, and the tensors' bytes, mapped.
//!
//! The header is believed only after it has been checked against the file: its length, and that the tensors' offsets
//! cover the data exactly, in order, with no gap, no overlap and sizes that agree with shape and type.

use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo};

use super::mapped;
use crate::error::{Error, Result};

/// Bytes of the header's length.
const LENGTH: usize = 8;
/// The format's own limit on a header.
const MAX_HEADER: u64 = 100_000_000;

/// A mapped and checked file.
pub(super) struct TensorFile {
    path: PathBuf,
    bytes: Mmap,
    metadata: Metadata,
    /// Where the tensors' bytes begin.
    data: usize,
}

impl TensorFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let bytes = mapped::map(path)?;
        let header = header(&bytes).map_err(|reason| Error::format(path, reason))?;
        let metadata: Metadata =
            serde_json::from_slice(header).map_err(|error| Error::format(path, format!("damaged header: {error}")))?;
        let data = LENGTH + header.len();
        if metadata.data_len() != bytes.len() - data {
            return Err(Error::format(
                path,
                format!(
                    "truncated or damaged: expected {} bytes of tensors behind the header, found {}",
                    metadata.data_len(),
                    bytes.len() - data
                ),
            )
            .with_hint("download or copy the file again"));
        }
        Ok(Self { path: path.to_owned(), bytes, metadata, data })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Every tensor's name.
    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// A tensor's type, shape and bytes.
    pub(super) fn tensor(&self, name: &str) -> Option<(&TensorInfo, &[u8])> {
        let info = self.metadata.info(name)?;
        let (start, end) = info.data_offsets;
        Some((info, &self.bytes[self.data + start..self.data + end]))
    }
}

/// The header's bytes.
fn header(bytes: &[u8]) -> Result<&[u8], String> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
        return Err(format!("truncated: expected at least {LENGTH} bytes, found {}", bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(format!("not a safetensors file: expected a header of at most {MAX_HEADER} bytes, found {length}"));
    }
    rest.get(..length as usize).ok_or_else(|| {
        format!("truncated: expected a header of {length} bytes, found {} behind its length", rest.len())
    })
}
