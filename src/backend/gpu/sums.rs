//! Launches `kernels/sums.cu`: sums in f64 that stay on the device.

use super::device::{Device, Shape};
use super::tensor::{Number, Tensor};
use crate::error::Result;

pub(super) const NAMES: [&str; 3] = ["add_squares", "weighted_squares", "add_to_sums"];

const THREADS: usize = 256;
/// Numbers of a row that a block of `weighted_squares` adds up.
const SPAN: usize = 4096;
/// Rows that it does this of.
const TOGETHER: usize = 8;

/// Numbers in f64 on the device.
pub struct Sums {
    /// Two words a number.
    words: Tensor,
    len: usize,
}

impl Sums {
    /// Of these values.
    pub(super) fn upload(device: &Device, values: &[f64]) -> Result<Self> {
        let words = device.upload(Number::F32, bytemuck::cast_slice(values))?;
        Ok(Self { words, len: values.len() })
    }

    /// What they are.
    pub(super) fn download(&self, device: &Device) -> Result<Vec<f64>> {
        let mut values = vec![0.0; self.len];
        device.download(&self.words, 8 * self.len, |bytes| read(&mut values, bytes))?;
        Ok(values)
    }

    /// `self += x`
    pub(super) fn add(&mut self, device: &Device, x: &Tensor) -> Result<()> {
        self.check(x, 1);
        if self.len == 0 {
            return Ok(());
        }
        let arguments = [device.address(&self.words, 0), device.address(x, 0), self.len.into()];
        device.launch(NAMES[2], self.each(), &arguments)
    }

    /// `self += Σ x²` over the rows of `x [rows, len]`, in their order.
    pub(super) fn add_squares(&mut self, device: &Device, x: &Tensor, rows: usize) -> Result<()> {
        self.check(x, rows);
        if rows * self.len == 0 {
            return Ok(());
        }
        let arguments = [device.address(&self.words, 0), device.address(x, 0), rows.into(), self.len.into()];
        device.launch(NAMES[0], self.each(), &arguments)
    }

    /// `Σ w x²` of each row of `x [rows, len]`, w these: of each 4096 numbers on the device, those sums in their order.
    pub(super) fn weighted_squares(&self, device: &Device, x: &Tensor, rows: usize) -> Result<Vec<f64>> {
        self.check(x, rows);
        let blocks = self.len.div_ceil(SPAN);
        if rows * blocks == 0 {
            return Ok(vec![0.0; rows]);
        }
        let sums = device.allocate(Number::F32, 2 * rows * blocks)?;
        let arguments = [
            device.address(&sums, 0),
            device.address(&self.words, 0),
            device.address(x, 0),
            rows.into(),
            blocks.into(),
            self.len.into(),
        ];
        let grid = [rows.div_ceil(TOGETHER) * blocks, 1];
        let shape = Shape { grid, threads: THREADS, shared_bytes: 8 * TOGETHER * THREADS };
        device.launch(NAMES[1], shape, &arguments)?;
        let mut parts = vec![0.0; rows * blocks];
        device.download(&sums, 8 * parts.len(), |bytes| read(&mut parts, bytes))?;
        Ok(parts.chunks_exact(blocks).map(|parts| parts.iter().sum()).collect())
    }

    /// A thread a number.
    fn each(&self) -> Shape {
        Shape { grid: [self.len.div_ceil(THREADS), 1], threads: THREADS, shared_bytes: 0 }
    }

    fn check(&self, x: &Tensor, rows: usize) {
        assert!(x.number == Number::F32 && rows * self.len <= x.len, "a buffer of fewer numbers, or of others");
    }
}

fn read(to: &mut [f64], bytes: &[u8]) {
    to.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, &x)| *to = f64::from_le_bytes(x));
}
