//! Numbers on the device, and what they are stored as.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};
use half::{bf16, f16};

/// What a number is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    F32,
    F16,
    Bf16,
}

impl Number {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// One of three names: for f32, f16 and bf16.
    pub(super) fn pick(self, [f32, f16, bf16]: [&'static str; 3]) -> &'static str {
        match self {
            Self::F32 => f32,
            Self::F16 => f16,
            Self::Bf16 => bf16,
        }
    }

    /// What is stored, as f32.
    pub(super) fn read(self, to: &mut [f32], bytes: &[u8]) {
        let words = || bytes.as_chunks().0.iter();
        match self {
            Self::F32 => to.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, &x)| *to = f32::from_le_bytes(x)),
            Self::F16 => to.iter_mut().zip(words()).for_each(|(to, &x)| *to = f16::from_le_bytes(x).to_f32()),
            Self::Bf16 => to.iter_mut().zip(words()).for_each(|(to, &x)| *to = bf16::from_le_bytes(x).to_f32()),
        }
    }
}

/// A flat buffer of numbers on the device.
pub struct Tensor {
    /// Of one that was sent: dropped before its memory is.
    #[expect(dead_code, reason = "it works by being dropped")]
    pub(super) order: Option<Order>,
    pub(super) memory: CudaSlice<u8>,
    pub(super) number: Number,
    /// Numbers in it.
    pub(super) len: usize,
}

/// Memory of one stream that the kernels of another use: it is freed when they have run.
pub(super) struct Order {
    pub(super) used: Arc<CudaStream>,
    pub(super) freed: Arc<CudaStream>,
}

impl Drop for Order {
    /// A device that has failed uses nothing any more.
    fn drop(&mut self) {
        self.freed.join(&self.used).unwrap_or_default();
    }
}
