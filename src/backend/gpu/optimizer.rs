//! Launches `kernels/optimizer.cu`.

use std::ops::Range;

use super::convert;
use super::device::{Argument, Device, Shape};
use super::tensor::{Number, Tensor};
use crate::backend::training::AdamStep;
use crate::error::Result;

pub(super) const NAMES: [&str; 7] = ["adam_step", ADD[0], ADD[2], "copy_numbers", "squared_sums", PACK[0], PACK[2]];
const ADD: [&str; 3] = ["add_numbers_f32", "", "add_numbers_bf16"];
const PACK: [&str; 3] = ["pack_weight_f32", "", "pack_weight_bf16"];

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
    let numbers = [&*parameter, first, second, gradient].map(|tensor| tensor.number);
    assert_eq!(numbers, [Number::F32; 4], "a step is of f32, and in f32");
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
    device.launch("adam_step", each(len), &arguments)
}

/// `sum += x`, of x in f32.
pub(super) fn add(device: &Device, sum: &mut Tensor, x: &Tensor, len: usize) -> Result<()> {
    of_two(device, sum.number.pick(ADD), sum, x, 0..len)
}

/// `out = x`, of x in f32, rounded where `out` is stored in less.
pub(super) fn copy(device: &Device, out: &mut Tensor, x: &Tensor, len: usize) -> Result<()> {
    if out.number == Number::F32 { copy_from(device, out, x, 0..len) } else { convert::round(device, out, x, len) }
}

/// Some of x's numbers to the start of `out`, both f32.
pub(super) fn copy_from(device: &Device, out: &mut Tensor, x: &Tensor, range: Range<usize>) -> Result<()> {
    of_two(device, "copy_numbers", out, x, range)
}

fn of_two(device: &Device, name: &str, out: &mut Tensor, x: &Tensor, range: Range<usize>) -> Result<()> {
    assert!(range.len() <= out.len && range.end <= x.len, "a buffer of fewer numbers");
    assert_eq!(x.number, Number::F32, "what is added or copied is f32");
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
    device.launch("squared_sums", shape, &[device.address(&sums, 0), device.address(tensor, 0), len.into()])?;
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
    /// As [`Matrix::pack`](super::pack::Matrix::pack) has it for what `out` stores, f32 or bf16; in the first, a layer's matrix is `turned`, in the other
    /// that for its way back. What is zero there stays so.
    pub(super) fn to(&self, device: &Device, out: &Tensor, turned: bool) -> Result<()> {
        let &Self { weight, first, inputs, outputs } = self;
        let stride =
            if turned { outputs } else { inputs }.next_multiple_of(if out.number == Number::F32 { 4 } else { 32 });
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
        device.launch(
            out.number.pick(PACK),
            Shape { grid, threads: THREADS, shared_bytes: 4 * PACKED * (PACKED + 1) },
            &arguments,
        )
    }
}
