//! Launches `kernels/dropout.cu`.

use std::sync::Arc;

use super::Gpu;
use super::batch::{Batch, Part};
use super::convert::stored_as;
use super::device::{Argument, Device, Shape};
use super::tensor::Tensor;
use crate::backend::Rows;
use crate::backend::training::{Dropout, Place};
use crate::error::Result;

pub(super) const NAMES: [&str; 2] = [BY_NUMBER[0], BY_NUMBER[2]];
const BY_NUMBER: [&str; 3] = ["dropout_f32", "", "dropout_bf16"];

const THREADS: usize = 256;
/// Numbers of a thread, which share a block of draws.
const NUMBERS: usize = 8;

/// What kernels draw a dropout's factors from.
pub(super) struct Draws {
    records: Arc<Tensor>,
    numbers: [Argument; 5],
}

impl Draws {
    pub(super) fn of(device: &Device, batch: &Batch, dropout: &Dropout<'_>) -> Result<Self> {
        let [low, high] = dropout.key().map(u32::cast_signed);
        let numbers = [
            Argument::Integer(low),
            Argument::Integer(high),
            Argument::Integer(dropout.site().cast_signed()),
            Argument::Integer(dropout.threshold().cast_signed()),
            Argument::Float(dropout.scale()),
        ];
        Ok(Self { records: batch.records(device, dropout.records())?, numbers })
    }

    /// Records, key, site, threshold and scale.
    pub(super) fn arguments(&self, device: &Device) -> [Argument; 6] {
        let [low, high, site, threshold, scale] = self.numbers;
        [device.address(&self.records, 0), low, high, site, threshold, scale]
    }
}

/// `out = x ∘ factors + residual`
pub(super) fn dropout(
    device: &Device,
    out: &mut Tensor,
    x: &Tensor,
    residual: Option<&Tensor>,
    dropout: &Dropout<'_>,
    place: &Place<'_, Gpu>,
) -> Result<()> {
    let &Place { batch, rows: of, width } = place;
    let rows = batch.asking(of);
    assert!(rows * width <= out.len.min(x.len), "a buffer of fewer rows");
    assert!(residual.is_none_or(|residual| rows * width <= residual.len), "a residual of fewer rows");
    if rows * width == 0 {
        return Ok(());
    }
    let draws = Draws::of(device, batch, dropout)?;
    let x = stored_as(device, x, out.number)?;
    let residual = residual.map(|residual| stored_as(device, residual, out.number)).transpose()?;
    let mut arguments = vec![
        device.address(out, 0),
        device.address(&x, 0),
        residual.as_ref().map_or(Argument::Address(0), |residual| device.address(residual, 0)),
        if of == Rows::All { batch.part(device, Part::SequenceOf) } else { Argument::Address(0) },
        batch.part(device, Part::Starts),
    ];
    arguments.extend(draws.arguments(device));
    arguments.extend([rows, width].map(Argument::from));
    let grid = [(rows * width.div_ceil(NUMBERS)).div_ceil(THREADS), 1];
    device.launch(out.number.pick(BY_NUMBER), Shape { grid, threads: THREADS, shared_bytes: 0 }, &arguments)
}
