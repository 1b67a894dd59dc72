//! Launches `kernels/optimizer.cu`.

use std::ops::Range;

use super::convert;
use super::device::{Argument, Device, Shape};
use super::tensor::{Number, Tensor};
use crate::backend::training::{AdamStep, RoundedStep, Stepped};
use crate::error::Result;

pub(super) const NAMES: [&str; 5] = ["adam_step", ADD[0], ADD[2], "copy_numbers", "squared_sums"];
const ADD: [&str; 3] = ["add_numbers_f32", "", "add_numbers_bf16"];

const THREADS: usize = 256;
/// Numbers of a block of those kernels that go through a list of tensors.
const SPAN: usize = 4096;

/// A thread a number.
fn each(len: usize) -> Shape {
    Shape { grid: [len.div_ceil(THREADS), 1], threads: THREADS, shared_bytes: 0 }
}

/// Tensors that a kernel goes through together, and the blocks that takes.
struct List {
    tensors: Tensor,
    count: usize,
    blocks: usize,
}

impl List {
    /// Of each tensor the places of its parts (value, both moments, gradient: 0 where a kernel does not look), how many
    /// numbers it has, and what factor is its own. As `Listed` of the kernels has it.
    fn send(device: &Device, tensors: impl Iterator<Item = ([u64; 4], usize, f32)>) -> Result<Self> {
        let (mut words, mut count, mut blocks) = (Vec::new(), 0, 0);
        for (places, len, factor) in tensors.filter(|(_, len, _)| *len > 0) {
            words.extend(places);
            words.extend([blocks as u64 | (len as u64) << 32, u64::from(factor.to_bits())]);
            (count, blocks) = (count + 1, blocks + len.div_ceil(SPAN));
        }
        Ok(Self { tensors: device.upload(Number::F32, bytemuck::cast_slice(&words))?, count, blocks })
    }

    fn launch(
        &self,
        device: &Device,
        name: &str,
        before: &[Argument],
        after: &[Argument],
        shared_bytes: usize,
    ) -> Result<()> {
        let own = [device.address(&self.tensors, 0), self.count.into()];
        let shape = Shape { grid: [self.blocks, 1], threads: THREADS, shared_bytes };
        device.launch(name, shape, &[before, &own, after].concat())
    }
}

/// One step of AdamW of every parameter.
pub(super) fn adam_steps(device: &Device, parameters: &[Stepped<'_, Tensor>], step: &AdamStep) -> Result<()> {
    let factors = [step.rounded(), AdamStep { decay: 0.0, ..*step }.rounded()];
    let list = List::send(
        device,
        parameters.iter().map(|Stepped { value, moments: [first, second], gradient, decays }| {
            let (len, parts) = (value.len, [&**value, &**first, &**second, &**gradient]);
            assert!(len <= first.len.min(second.len).min(gradient.len), "moments of fewer numbers");
            assert_eq!(parts.map(|part| part.number), [Number::F32; 4], "a step is of f32, and in f32");
            (parts.map(|part| device.place(part, 0)), len, factors[usize::from(!decays)].kept)
        }),
    )?;
    if list.blocks == 0 {
        return Ok(());
    }
    let [RoundedStep { rate, betas, rests, deviation, epsilon, scale, .. }, _] = factors;
    let numbers = [rate, betas[0], betas[1], rests[0], rests[1], deviation, epsilon, scale];
    list.launch(device, "adam_step", &[], &numbers.map(Argument::from), 0)
}

/// The sum of squares of each: of each 4096 numbers on the device, those sums in f64 in their order.
pub(super) fn squared_norms(device: &Device, tensors: &[(&Tensor, usize)]) -> Result<Vec<f64>> {
    let places = tensors.iter().map(|&(tensor, len)| {
        assert!(len <= tensor.len && tensor.number == Number::F32, "a buffer of fewer numbers");
        ([0, 0, 0, device.place(tensor, 0)], len, 0.0)
    });
    let list = List::send(device, places)?;
    let mut values = vec![0.0_f32; list.blocks];
    if list.blocks > 0 {
        let sums = device.allocate(Number::F32, list.blocks)?;
        list.launch(device, "squared_sums", &[device.address(&sums, 0)], &[], 4 * THREADS / 32)?;
        device.download(&sums, 4 * list.blocks, |bytes| Number::F32.read(&mut values, bytes))?;
    }
    let mut values = values.into_iter().map(f64::from);
    Ok(tensors.iter().map(|(_, len)| values.by_ref().take(len.div_ceil(SPAN)).sum()).collect())
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
