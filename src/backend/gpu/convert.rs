//! Launches `kernels/convert.cu`: operands that were uploaded in f32, for kernels that read what activations are stored
//! as.

use std::ops::Deref;

use super::device::{Device, Shape};
use super::tensor::{Number, Tensor};
use crate::error::Result;

pub(super) const NAMES: [&str; 3] = ["convert_f16", "convert_bf16", "split_bf16"];

/// Numbers of a block: eight a thread.
const NUMBERS: usize = 256 * 8;

/// A tensor as a kernel wants it: itself, or a converted copy.
pub(super) enum Operand<'a> {
    Itself(&'a Tensor),
    Converted(Tensor),
}

impl Deref for Operand<'_> {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        match self {
            Self::Itself(tensor) => tensor,
            Self::Converted(tensor) => tensor,
        }
    }
}

/// `x` stored as `number`.
pub(super) fn stored_as<'a>(device: &Device, x: &'a Tensor, number: Number) -> Result<Operand<'a>> {
    if x.number == number {
        return Ok(Operand::Itself(x));
    }
    assert_eq!(x.number, Number::F32, "activations of two types on one device");
    let out = device.allocate(number, x.len)?;
    round(device, &out, x, x.len)?;
    Ok(Operand::Converted(out))
}

/// The first `len` numbers of `x`, which is f32, to `out`, which is stored in less.
pub(super) fn round(device: &Device, out: &Tensor, x: &Tensor, len: usize) -> Result<()> {
    assert!(len <= out.len, "a buffer of fewer numbers");
    launch(device, out.number.pick(["", NAMES[0], NAMES[1]]), out, x, len)
}

/// The first `len` numbers of `x`, which is f32, as bf16 `[2, len]`: what each rounds to, and what is left of it.
pub(super) fn split(device: &Device, x: &Tensor, len: usize) -> Result<Tensor> {
    let out = device.allocate(Number::Bf16, 2 * len)?;
    launch(device, NAMES[2], &out, x, len)?;
    Ok(out)
}

fn launch(device: &Device, name: &str, out: &Tensor, x: &Tensor, len: usize) -> Result<()> {
    assert!(len <= x.len && x.number == Number::F32, "a buffer of fewer numbers, or of others");
    let shape = Shape { grid: [len.div_ceil(NUMBERS).max(1), 1], threads: 256, shared_bytes: 0 };
    device.launch(name, shape, &[device.address(out, 0), device.address(x, 0), len.into()])
}
