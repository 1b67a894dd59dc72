//! Weight gradients by `kernels/gradients_bf16_wgmma.cu`, on devices of compute capability 9.0, and whether they are
//! made by it: as for layers (`linear_wgmma.rs`) the kernels have to be there, and to add up drawn matrices as they
//! should when a device is opened.

use half::bf16;

use super::device::Device;
use super::gradients::Tile;
use super::linear_wgmma::{Products, trust};
use super::tensor::{Number, Tensor};
use super::tensor_map;
use crate::backend::check::{numbers, short_numbers};
use crate::error::Result;

pub(super) const BF16: [&str; 3] =
    ["weight_gradient_bf16_wgmma_128x256", "weight_gradient_bf16_wgmma_128x128", "weight_gradient_bf16_wgmma_64x128"];

/// Steps of 64 rows: four, six and eight. A smaller tile reads more bytes a product.
pub(super) const TILES: [Tile; 3] = [
    Tile { name: BF16[0], outputs: 128, inputs: 256, threads: 256, rows: 4 * 64, time: 100 },
    Tile { name: BF16[1], outputs: 128, inputs: 128, threads: 256, rows: 6 * 64, time: 60 },
    Tile { name: BF16[2], outputs: 64, inputs: 128, threads: 128, rows: 8 * 64, time: 38 },
];

/// Whether a layer of these widths is for these kernels: rows begin at multiples of 16 bytes.
pub(super) fn takes(inputs: usize, outputs: usize) -> bool {
    tensor_map::takes(inputs) && tensor_map::takes(outputs)
}

/// The way of a device whose layers are multiplied by `wgmma`, in bf16.
pub(super) fn choose(device: &Device) -> Result<Products> {
    if BF16.iter().any(|name| !device.has(name)) {
        return Ok(Products::Mma);
    }
    trust(device, BF16[0], || passes(device))
}

/// Rows of a batch: the last of a piece, pieces of a step and steps of a ring are in parts. Inputs and outputs: beyond
/// a tile of each.
const TRIAL: ([u32; 4], [usize; 2]) = ([70, 9, 513, 130], [264, 136]);

/// Sums that are exact in any order are to be what they are; others are to have the same bits by each tile.
fn passes(device: &Device) -> Result<bool> {
    let (lengths, [inputs, outputs]) = TRIAL;
    let rows = lengths.iter().sum::<u32>() as usize;
    let (dy, x, before) =
        (short_numbers(rows * outputs, 1), short_numbers(rows * inputs, 2), short_numbers(outputs * (inputs + 1), 3));
    let mut expected = before.clone();
    for (dy, x) in dy.chunks_exact(outputs).zip(x.chunks_exact(inputs)) {
        let (weight, bias) = expected.split_at_mut(outputs * inputs);
        for ((dy, weight), bias) in dy.iter().zip(weight.chunks_exact_mut(inputs)).zip(bias) {
            weight.iter_mut().zip(x).for_each(|(sum, x)| *sum += dy * x);
            *bias += dy;
        }
    }
    if by_each(device, &dy, &x, &before)?.iter().any(|found| *found != expected) {
        return Ok(false);
    }
    let found = by_each(device, &numbers(rows * outputs, 4), &numbers(rows * inputs, 5), &before)?;
    Ok(found.windows(2).all(|two| two[0] == two[1]))
}

/// What each tile makes of gradients that are `before`: weights, then the bias.
fn by_each(device: &Device, dy: &[f32], x: &[f32], before: &[f32]) -> Result<Vec<Vec<f32>>> {
    let (lengths, [inputs, outputs]) = TRIAL;
    let mut pieces = Vec::new();
    let mut first = 0;
    for length in lengths {
        pieces.extend((0..length).step_by(16).map(|past| (first + past) << 5 | 16.min(length - past)));
        first += length;
    }
    let short = |values: &[f32]| -> Result<Tensor> {
        let values: Vec<u16> = values.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
        device.upload(Number::Bf16, bytemuck::cast_slice(&values))
    };
    let (dy, x, pieces_there) = (short(dy)?, short(x)?, device.upload(Number::F32, bytemuck::cast_slice(&pieces))?);
    let by = |tile: &Tile| {
        let gradient = device.upload(Number::F32, bytemuck::cast_slice(before))?;
        let arguments = [
            device.address(&gradient, 0),
            device.address(&gradient, outputs * inputs),
            device.address(&dy, 0),
            device.address(&x, 0),
            device.address(&pieces_there, 0),
            pieces.len().into(),
            inputs.into(),
            outputs.into(),
        ];
        tile.launch(device, Number::Bf16, [inputs, outputs], &arguments)?;
        let mut values = vec![0.0; before.len()];
        device.download(&gradient, 4 * values.len(), |bytes| Number::F32.read(&mut values, bytes))?;
        Ok(values)
    };
    TILES.iter().map(by).collect()
}
