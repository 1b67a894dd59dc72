//! The kernels that `build.rs` compiled into this binary.

use crate::error::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// A kernel file's stem, and its machine code for every architecture.
pub(super) type Image = (&'static str, &'static [u8]);

/// What the embedded kernels were compiled by and for; `None` where there are none.
pub fn compiler() -> Option<&'static str> {
    NVCC
}

/// Those of this binary.
pub(super) fn embedded() -> &'static [Image] {
    IMAGES
}

/// Refuses a binary without kernels.
pub(super) fn check(images: &[Image]) -> Result<()> {
    if images.is_empty() {
        let hint = "build again where nvcc is found (CUDA 12 or 13: NVCC, CUDA_HOME or PATH), or run with --device cpu";
        return Err(Error::Device("this binary was built without GPU kernels".to_owned(), Some(hint.to_owned())));
    }
    Ok(())
}
