//! Launches `kernels/columns.cu`: gradients that are sums down the columns of rows.

use super::convert::stored_as;
use super::device::{Device, Shape};
use super::layer_norm;
use super::tensor::{Number, Tensor};
use crate::backend::training::{self, Pair};
use crate::error::Result;

pub(super) const NAMES: [&str; 6] = [STATISTICS[0], STATISTICS[2], NORM[0], NORM[2], ROW[0], ROW[2]];
const STATISTICS: [&str; 3] = ["row_statistics_f32", "", "row_statistics_bf16"];
const NORM: [&str; 3] = ["norm_gradient_f32", "", "norm_gradient_bf16"];
const ROW: [&str; 3] = ["row_gradient_f32", "", "row_gradient_bf16"];

/// Columns of a block, its threads, and the rows that it has in shared memory.
const COLUMNS: usize = 32;
const THREADS: usize = 256;
const TILE: usize = 64;

/// `dw += Σ dy ∘ x̂` and `db += Σ dy`; operands in f32 or in bf16.
pub(super) fn norm(
    device: &Device,
    number: Number,
    gradients: Pair<&mut Tensor>,
    dy: &Tensor,
    x: &Tensor,
    epsilon: f32,
    shape: training::Shape,
) -> Result<()> {
    let (rows, width) = (shape.rows, shape.inputs);
    let Pair { weight, bias } = gradients;
    assert!(width <= weight.len.min(bias.len) && rows * width <= dy.len.min(x.len), "a buffer of fewer rows");
    if rows * width == 0 {
        return Ok(());
    }
    let (dy, x) = (stored_as(device, dy, number)?, stored_as(device, x, number)?);
    let statistics = device.allocate(Number::F32, 2 * rows)?;
    let arguments = [device.address(&statistics, 0), device.address(&x, 0), epsilon.into(), rows.into(), width.into()];
    device.launch(number.pick(STATISTICS), layer_norm::shape(rows, width, 1), &arguments)?;
    let arguments = [
        device.address(weight, 0),
        device.address(bias, 0),
        device.address(&dy, 0),
        device.address(&x, 0),
        device.address(&statistics, 0),
        rows.into(),
        width.into(),
    ];
    let grid = [width.div_ceil(COLUMNS), 1];
    device.launch(number.pick(NORM), Shape { grid, threads: THREADS, shared_bytes: 2 * 4 * TILE * COLUMNS }, &arguments)
}

/// Adds each token's row of `dy [T, width]` to the row of `table` it names, tokens in their order.
pub(super) fn rows(
    device: &Device,
    number: Number,
    table: &mut Tensor,
    dy: &Tensor,
    named: &[u32],
    width: usize,
) -> Result<()> {
    assert!(named.len() * width <= dy.len, "a buffer of fewer rows");
    assert!(named.iter().all(|&row| (row as usize + 1) * width <= table.len), "a table of fewer rows");
    if named.is_empty() || width == 0 {
        return Ok(());
    }
    let dy = stored_as(device, dy, number)?;
    let mut order: Vec<u32> = (0..named.len() as u32).collect();
    order.sort_by_key(|&token| named[token as usize]); // stable: tokens stay in their order
    let (mut distinct, mut segments) = (Vec::new(), vec![0]);
    for tokens in order.chunk_by(|&one, &next| named[one as usize] == named[next as usize]) {
        distinct.push(named[tokens[0] as usize]);
        segments.push(segments[segments.len() - 1] + tokens.len() as u32);
    }
    let count = distinct.len();
    let words = device.upload(Number::F32, bytemuck::cast_slice(&[distinct, segments, order].concat()))?;
    let arguments = [
        device.address(table, 0),
        device.address(&dy, 0),
        device.address(&words, 0),
        device.address(&words, count),
        device.address(&words, 2 * count + 1),
        width.into(),
    ];
    let grid = [count, width.div_ceil(COLUMNS)];
    device.launch(dy.number.pick(ROW), Shape { grid, threads: THREADS, shared_bytes: 4 * TILE * COLUMNS }, &arguments)
}
