//! FAISS's own file of an `IndexFlatIP` (`faiss/impl/index_write.cpp`), little-endian:
//!
//! ```text
//! "IxFI" · d i32 · ntotal i64 · 2²⁰ i64 · 2²⁰ i64 · is_trained u8 · metric i32 (0: inner product) · n·d u64 · n·d f32
//! ```

use std::path::Path;

use bytemuck::cast_slice;

use super::super::Progress;
use super::each_shard;
use crate::error::{Error, Result};
use crate::report::Destination;
use crate::store::Store;

/// Writes the features as f32; the id that FAISS answers with is a record's row in the store, removed and skipped
/// records not counted.
pub(super) fn write(store: &Store, out: &Path, progress: &Progress) -> Result<()> {
    let (n, width) = (store.rows() as u64, store.settings().width);
    let d = i32::try_from(width).map_err(|_| Error::usage("the features are too wide for FAISS"))?;
    let mut file = Destination::create(Some(out))?;
    let mut header = b"IxFI".to_vec();
    header.extend(d.to_le_bytes());
    header.extend(n.to_le_bytes());
    // Two fields that FAISS writes and does not read.
    header.extend([(1_i64 << 20).to_le_bytes(); 2].concat());
    header.push(1);
    header.extend(0_i32.to_le_bytes());
    header.extend((n * width as u64).to_le_bytes());
    file.write(&header)?;
    each_shard(store, progress, |_, shard| file.write(cast_slice(&shard.factors().features.to_f32())))?;
    file.finish()
}
