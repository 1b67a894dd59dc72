//! Launches `kernels/optimizer.cu`.

use std::ops::Range;

use super::device::{Argument, Device, Shape};
use super::tensor::{Number, Tensor};
use crate::backend::training::AdamStep;
use crate::error::Result;

pub(super) const NAMES: [&str; 5] = ["adam_step", "add_numbers", "copy_numbers", "squared_sums", "pack_weight"];

const THREADS: usize = 256;
/// Numbers whose squares are summed on the device.
const SQUARES: usize = 4096;
/// Rows and columns of a matrix that a block packs.
const PACKED: usize = 32;

/// A thread a number.
fn each(len: usize) -> Shape {
    Shape { grid: [len.div_ceil(THREADS), 1], threads: THREADS, shared_bytes: 0 }
}

/// One step of AdamW.
pub(super) fn adam_step(
    device: &Device,
    parameter: &mut Tensor,
    [first, second]: [&mut Tensor; 2],
    gradient: &Tensor,
    step: &AdamStep,
) -> Result<()> {
    let len = parameter.len;
    assert!(len <= first.len.min(second.len).min(gradient.len), "moments of fewer numbers");
    if len == 0 {
        return Ok(());
    }
    let factors = step.rounded();
    let numbers = [
        factors.kept,
        factors.rate,
        factors.betas[0],
        factors.betas[1],
        factors.rests[0],
        factors.rests[1],
        factors.deviation,
        factors.epsilon,
        factors.scale,
    ];
    let mut arguments: Vec<Argument> =
        [&*parameter, first, second, gradient].map(|tensor| device.address(tensor, 0)).to_vec();
    arguments.extend(numbers.map(Argument::from));
    arguments.push(len.into());
    device.launch(NAMES[0], each(len), &arguments)
}

/// `sum += x`
pub(super) fn add(device: &Device, sum: &mut Tensor, x: &Tensor, len: usize) -> Result<()> {
    of_two(device, NAMES[1], sum, x, 0..len)
}

/// `out = x`
pub(super) fn copy(device: &Device, out: &mut Tensor, x: &Tensor, len: usize) -> Result<()> {
    copy_from(device, out, x, 0..len)
}

/// Some of x's numbers to the start of `out`.
pub(super) fn copy_from(device: &Device, out: &mut Tensor, x: &Tensor, range: Range<usize>) -> Result<()> {
    of_two(device, NAMES[2], out, x, range)
}

fn of_two(device: &Device, name: &str, out: &mut Tensor, x: &Tensor, range: Range<usize>) -> Result<()> {
    assert!(range.len() <= out.len && range.end <= x.len, "a buffer of fewer numbers");
    if range.is_empty() {
        return Ok(());
    }
    let arguments = [device.address(out, 0), device.address(x, range.start), range.len().into()];
    device.launch(name, each(range.len()), &arguments)
}

/// The sum of squares: of each 4096 numbers on the device, those sums in f64 in their order.
pub(super) fn squared_norm(device: &Device, tensor: &Tensor, len: usize) -> Result<f64> {
    assert!(len <= tensor.len, "a buffer of fewer numbers");
    let blocks = len.div_ceil(SQUARES);
    if blocks == 0 {
        return Ok(0.0);
    }
    let sums = device.allocate(Number::F32, blocks)?;
    let shape = Shape { grid: [blocks, 1], threads: THREADS, shared_bytes: 4 * THREADS / 32 };
    device.launch(NAMES[3], shape, &[device.address(&sums, 0), device.address(tensor, 0), len.into()])?;
    let mut values = vec![0.0; blocks];
    device.download(&sums, 4 * blocks, |bytes| Number::F32.read(&mut values, bytes))?;
    Ok(values.into_iter().map(f64::from).sum())
}

/// A weight matrix's place, and its sizes.
pub(super) struct Packing<'a> {
    pub(super) weight: &'a Tensor,
    /// Its first element.
    pub(super) first: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Packing<'_> {
    /// As f32 kernels read it: `[inputs, outputs rounded up to 4]`, or `[outputs, inputs rounded up to 4]` for the way back.
    pub(super) fn to(&self, device: &Device, out: &Tensor, turned: bool) -> Result<()> {
        let &Self { weight, first, inputs, outputs } = self;
        let stride = if turned { outputs } else { inputs }.next_multiple_of(4);
        assert!(first + inputs * outputs <= weight.len, "a weight of fewer numbers");
        assert!(stride * if turned { inputs } else { outputs } <= out.len, "a packed weight of another size");
        if inputs * outputs == 0 {
            return Ok(());
        }
        let arguments = [
            device.address(out, 0),
            device.address(weight, first),
            inputs.into(),
            outputs.into(),
            stride.into(),
            Argument::Integer(i32::from(turned)),
        ];
        let grid = [inputs.div_ceil(PACKED), outputs.div_ceil(PACKED)];
        device.launch(NAMES[4], Shape { grid, threads: THREADS, shared_bytes: 4 * PACKED * (PACKED + 1) }, &arguments)
    }
}
