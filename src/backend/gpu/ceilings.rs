//! What a device could do at most, measured: launches `kernels/ceilings.cu`.

use std::time::Instant;

use super::Gpu;
use super::device::{Argument, Device, Shape};
use super::tensor::{Number, Tensor};
use crate::backend::Precision;
use crate::error::Result;

pub(super) const NAMES: [&str; 3] = ["ceiling_copy", "ceiling_fma", "ceiling_mma"];

/// The largest rates of a device.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Ceilings {
    /// Bytes read and written by a copy within the device, in GB/s.
    pub copy_gbs: f64,
    /// Multiply-adds in f32, two operations each, in GFLOP/s.
    pub fma_gflops: f64,
    /// Products of f16 on the tensor cores through `mma.sync`, in GFLOP/s: what newer instructions reach beyond it is
    /// not measured.
    pub mma_gflops: f64,
}

impl Ceilings {
    /// Of matrix products in a precision, in GFLOP/s.
    pub fn of(&self, precision: Precision) -> f64 {
        match precision {
            Precision::Auto | Precision::F32 => self.fma_gflops,
            Precision::Bf16x3 => self.mma_gflops / 3.0,
            Precision::F16 | Precision::Bf16 => self.mma_gflops,
        }
    }
}

/// How long a measured launch takes at least: what else a launch costs is then little.
const SECONDS: f64 = 0.02;
const THREADS: usize = 256;
/// Blocks for each multiprocessor: enough to fill it.
const BLOCKS: usize = 8;

impl Gpu {
    /// Measures for a fraction of a second.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn ceilings(&self) -> Result<Ceilings> {
        let device = &self.device;
        let threads = device.multiprocessors() * BLOCKS * THREADS;
        let out = device.allocate(Number::F32, threads)?;
        let chains =
            |name| rate(device, &out, |steps| launch(device, name, &[Argument::Float(0.5), steps.into()], &out));
        Ok(Ceilings {
            copy_gbs: copy(device)?,
            fma_gflops: chains("ceiling_fma")? * (threads * 16 * 2) as f64 / 1e9,
            mma_gflops: chains("ceiling_mma")? * (threads / 32 * 8 * 4096) as f64 / 1e9,
        })
    }
}

/// GB moved a second: by copies far larger than the second-level cache, where there is room.
fn copy(device: &Device) -> Result<f64> {
    let bytes = device.free_memory().min(1 << 29) / 4 / 16 * 16;
    let (from, to) = (device.allocate(Number::F32, bytes / 4)?, device.allocate(Number::F32, bytes / 4)?);
    let arguments = [device.address(&from, 0), (bytes / 16).into()];
    let copies =
        rate(device, &to, |copies| (0..copies).try_for_each(|_| launch(device, "ceiling_copy", &arguments, &to)))?;
    Ok(copies * 2.0 * bytes as f64 / 1e9)
}

fn launch(device: &Device, name: &str, arguments: &[Argument], out: &Tensor) -> Result<()> {
    let shape = Shape { grid: [device.multiprocessors() * BLOCKS, 1], threads: THREADS, shared_bytes: 0 };
    device.launch(name, shape, &[&[device.address(out, 0)], arguments].concat())
}

/// Steps a second, of as many as take long enough.
fn rate(device: &Device, out: &Tensor, run: impl Fn(usize) -> Result<()>) -> Result<f64> {
    let mut steps = 1;
    loop {
        let began = Instant::now();
        run(steps)?;
        device.download(out, 4, |_| ())?;
        let seconds = began.elapsed().as_secs_f64();
        if seconds >= SECONDS || steps >= 1 << 28 {
            return Ok(steps as f64 / seconds);
        }
        steps *= 2;
    }
}
