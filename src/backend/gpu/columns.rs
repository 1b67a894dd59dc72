//! Launches `kernels/columns.cu`: gradients that are sums down the columns of rows.

use super::convert::stored_as;
use super::device::{Argument, Device, Shape};
use super::layer_norm;
use super::tensor::{Number, Tensor};
use crate::backend::training::{self, Pair, Tables};
use crate::error::Result;
use crate::tokens::PackedBatch;

pub(super) const NAMES: [&str; 9] =
    [STATISTICS[0], STATISTICS[1], STATISTICS[2], NORM[0], NORM[2], ROW[0], ROW[2], CHAIN[0], CHAIN[2]];
const STATISTICS: [&str; 3] = ["row_statistics_f32", "row_statistics_f16", "row_statistics_bf16"];
const NORM: [&str; 3] = ["norm_gradient_f32", "", "norm_gradient_bf16"];
const ROW: [&str; 3] = ["row_gradient_f32", "", "row_gradient_bf16"];
const CHAIN: [&str; 3] = ["row_chain_f32", "", "row_chain_bf16"];

/// Columns of a block, its threads, and those that bring a chunk of 16 bytes each.
const COLUMNS: usize = 16;
const THREADS: usize = 256;
const BRINGING: usize = 192;
/// Tiles under way.
const STAGES: usize = 4;
/// Warps of a block where each has a row of a table and so many columns.
const WARPS: usize = 4;
const STRIPE: usize = 128;
/// Bits of a word that are a row's number in its table; above them is which table.
const ROW_BITS: usize = 30;
/// Most tokens that one warp adds up.
const FEW: usize = 64;

/// A block's shared memory: tiles of so many operands under way, and two as f32.
fn shared_bytes(number: Number, operands: usize) -> usize {
    let rows = 16 * BRINGING / number.bytes() / COLUMNS;
    operands * (STAGES * 16 * BRINGING + 2 * 4 * COLUMNS * (rows + 4))
}

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
    let statistics = statistics(device, &x, epsilon, rows, width)?;
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
    device.launch(
        number.pick(NORM),
        Shape { grid, threads: THREADS, shared_bytes: shared_bytes(number, 2) },
        &arguments,
    )
}

/// Each row's mean, and what its normalisation multiplies by, `[rows, 2]`.
pub(super) fn statistics(device: &Device, x: &Tensor, epsilon: f32, rows: usize, width: usize) -> Result<Tensor> {
    let out = device.allocate(Number::F32, 2 * rows)?;
    let arguments = [device.address(&out, 0), device.address(x, 0), epsilon.into(), rows.into(), width.into()];
    device.launch(x.number.pick(STATISTICS), layer_norm::shape(rows, width, 1), &arguments)?;
    Ok(out)
}

/// Adds each token's row of `d_sum [T, width]` to the rows of the tables it names, tokens in their order.
pub(super) fn rows(
    device: &Device,
    number: Number,
    tables: Tables<&mut Tensor>,
    d_sum: &Tensor,
    host: &PackedBatch,
    width: usize,
) -> Result<()> {
    let tokens = host.tokens();
    assert!(tokens * width <= d_sum.len, "a buffer of fewer rows");
    if tokens * width == 0 {
        return Ok(());
    }
    let first = vec![0; tokens];
    let tables = [
        (Some(tables.word), &host.ids),
        (Some(tables.position), &host.positions),
        (tables.token_type, &host.type_ids),
        (tables.task, &first),
    ];
    let mut words = Vec::with_capacity(tables.len() * tokens);
    let (mut few, mut many) = (Vec::new(), Vec::new());
    // Words last: their runs are the shortest, and what begins last should not last long.
    for (place, (table, named)) in tables.iter().enumerate().rev() {
        let Some(table) = table else { continue };
        assert_eq!(table.number, Number::F32, "gradients of parameters are f32");
        let mut begin = words.len() as u32;
        for (row, end) in order_by_row(&mut words, named) {
            assert!((row + 1) * width <= table.len && row < 1 << ROW_BITS, "a table of fewer rows");
            let runs = if (end - begin) as usize <= FEW { &mut few } else { &mut many };
            runs.push([(place << ROW_BITS | row) as u32, begin, end]);
            begin = end;
        }
    }
    let (dy, ordered) = (stored_as(device, d_sum, number)?, words.len());
    words.extend_from_slice(few.as_flattened());
    words.extend_from_slice(many.as_flattened());
    let words = device.upload(Number::F32, bytemuck::cast_slice(&words))?;
    let mut arguments: Vec<Argument> = tables
        .iter()
        .map(|(table, _)| table.as_ref().map_or(Argument::Address(0), |table| device.address(table, 0)))
        .collect();
    arguments.extend([device.address(&dy, 0), device.address(&words, 0), device.address(&words, ordered)]);
    if !few.is_empty() {
        let of_few = [&arguments[..], &[few.len().into(), width.into()]].concat();
        let grid = [(few.len() * width.div_ceil(STRIPE)).div_ceil(WARPS), 1];
        device.launch(number.pick(ROW), Shape { grid, threads: WARPS * 32, shared_bytes: 0 }, &of_few)?;
    }
    if !many.is_empty() {
        arguments[6] = device.address(&words, ordered + 3 * few.len());
        arguments.push(width.into());
        let (grid, shared_bytes) = ([many.len(), width.div_ceil(COLUMNS)], shared_bytes(number, 1));
        device.launch(number.pick(CHAIN), Shape { grid, threads: THREADS, shared_bytes }, &arguments)?;
    }
    Ok(())
}

/// Puts tokens behind `order` by the row they name, in their own order where they name one; the rows that are named,
/// and where `order` ends after each.
fn order_by_row(order: &mut Vec<u32>, named: &[u32]) -> Vec<(usize, u32)> {
    let rows = named.iter().max().map_or(0, |&row| row as usize + 1);
    let mut ends = vec![0_u32; rows]; // until tokens are placed: how many name the row
    for &row in named {
        ends[row as usize] += 1;
    }
    let before = order.len();
    let mut end = before as u32;
    let mut distinct = Vec::new();
    for (row, count) in ends.iter_mut().enumerate().filter(|(_, count)| **count > 0) {
        end += *count;
        distinct.push((row, end));
        *count = end - *count; // where the row's next token goes
    }
    order.resize(before + named.len(), 0);
    for (token, &row) in named.iter().enumerate() {
        order[ends[row as usize] as usize] = token as u32;
        ends[row as usize] += 1;
    }
    distinct
}
