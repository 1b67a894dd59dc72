//! Launches `kernels/projected.cu`.

use super::Gpu;
use super::batch::{Batch, Part};
use super::columns;
use super::convert::stored_as;
use super::device::{Argument, Device, Shape};
use super::tensor::{Number, Tensor};
use crate::backend::Rows;
use crate::backend::training::{AdaptedStep, Named, NormProducts, Sketch as OnHost};
use crate::error::Result;

pub(super) const NAMES: [&str; 12] = {
    let ([a, b, c], [d, e, f], [g, h, i], [j, k, l]) = (SKETCH, NORM, LOOK_UP, ADAPT);
    [a, b, c, d, e, f, g, h, i, j, k, l]
};
const SKETCH: [&str; 3] = ["sketch_f32", "sketch_f16", "sketch_bf16"];
const NORM: [&str; 3] = ["norm_products_f32", "norm_products_f16", "norm_products_bf16"];
const LOOK_UP: [&str; 3] = ["look_up_f32", "look_up_f16", "look_up_bf16"];
const ADAPT: [&str; 3] = ["adapt_f32", "adapt_f16", "adapt_bf16"];

const THREADS: usize = 256;
/// Rows that an entry of a sketch is read for.
const TOGETHER: usize = 4;
/// Warps of a block of `norm_products`, and its columns.
const WARPS: usize = 4;
const STRIPE: usize = 128;
/// Rows that moments are read for.
const STEPS: usize = 8;

/// A sparse projection as the kernel goes through it, place by place.
pub struct Sketch {
    /// `[outputs + 1]`, `[inputs]` and `[outputs]`, in words of 32 bits.
    words: Tensor,
    inputs: usize,
    outputs: usize,
}

impl Sketch {
    pub(super) fn upload(device: &Device, sketch: &OnHost) -> Result<Self> {
        let (inputs, outputs) = (sketch.inputs(), sketch.outputs());
        assert!(inputs < 1 << 31, "coordinates whose numbers have no bit left for a sign");
        let mut entries: Vec<(usize, u32)> = (0..inputs as u32)
            .map(|i| {
                let (place, sign) = sketch.entry(i as usize);
                (place, i | u32::from(sign < 0.0) << 31)
            })
            .collect();
        entries.sort_by_key(|(place, _)| *place); // stable: a place's stay in their order
        let starts = (0..=outputs).map(|place| entries.partition_point(|(of, _)| *of < place) as u32);
        let mut words: Vec<u32> = starts.collect();
        words.extend(entries.iter().map(|(_, entry)| entry));
        words.extend(sketch.shift().iter().map(|shift| shift.to_bits()));
        Ok(Self { words: device.upload(Number::F32, bytemuck::cast_slice(&words))?, inputs, outputs })
    }

    /// `out [rows, outputs] = S x`.
    pub(super) fn apply(&self, device: &Device, out: &mut Tensor, x: &Tensor, rows: usize) -> Result<()> {
        let &Self { ref words, inputs, outputs } = self;
        assert!(rows * inputs <= x.len && rows * outputs <= out.len, "a buffer of fewer rows");
        let threads = rows.div_ceil(TOGETHER) * outputs;
        assert!(threads < 1 << 31, "more places than a launch has");
        if threads == 0 {
            return Ok(());
        }
        let x = stored_as(device, x, out.number)?;
        let arguments = [
            device.address(out, 0),
            device.address(&x, 0),
            device.address(words, 0),
            device.address(words, outputs + 1),
            device.address(words, outputs + 1 + inputs),
            rows.into(),
            inputs.into(),
            outputs.into(),
        ];
        let shape = Shape { grid: [threads.div_ceil(THREADS), 1], threads: THREADS, shared_bytes: 0 };
        device.launch(out.number.pick(SKETCH), shape, &arguments)
    }
}

/// `out [B, 2, E]`: each sequence's `Σ dy ∘ x̂` and `Σ dy`; operands in what activations are stored as.
pub(super) fn norm(
    device: &Device,
    number: Number,
    out: &mut Tensor,
    dy: &Tensor,
    x: &Tensor,
    products: &NormProducts<'_, Gpu>,
) -> Result<()> {
    let &NormProducts { batch, rows, epsilon, width } = products;
    let (sequences, asking) = (batch.host.sequences(), batch.asking(rows));
    assert!(asking * width <= dy.len.min(x.len) && 2 * sequences * width <= out.len, "a buffer of fewer rows");
    assert_eq!(out.number, Number::F32, "sums over a sequence are f32");
    if sequences * width == 0 {
        return Ok(());
    }
    let (dy, x) = (stored_as(device, dy, number)?, stored_as(device, x, number)?);
    let statistics = columns::statistics(device, &x, epsilon, asking, width)?;
    let arguments = [
        device.address(out, 0),
        device.address(&dy, 0),
        device.address(&x, 0),
        device.address(&statistics, 0),
        batch.part(device, Part::Starts),
        Argument::Integer(i32::from(rows == Rows::First)),
        width.into(),
    ];
    let grid = [sequences, width.div_ceil(STRIPE)];
    let shape = Shape { grid, threads: WARPS * 32, shared_bytes: 4 * WARPS * 2 * STRIPE };
    device.launch(number.pick(NORM), shape, &arguments)
}

/// `out [T, width]`: of each token the row of `table [·, width]` that it names.
pub(super) fn look_up(
    device: &Device,
    out: &mut Tensor,
    table: &Tensor,
    named: Named,
    batch: &Batch,
    width: usize,
) -> Result<()> {
    let (tokens, host) = (batch.tokens(), &batch.host);
    assert!(tokens * width <= out.len && tokens * width < 1 << 31, "a buffer of fewer rows");
    assert_eq!(table.number, Number::F32, "tables are f32");
    let most = named.rows(host).map_or(Some(0), |rows| rows.iter().max().copied());
    let Some(most) = most.filter(|_| tokens * width > 0) else { return Ok(()) };
    assert!((most as usize + 1) * width <= table.len, "a table of fewer rows");
    let part = match named {
        Named::Word => batch.part(device, Part::Ids),
        Named::Position => batch.part(device, Part::Positions),
        Named::TokenType => batch.part(device, Part::Types),
        Named::Task => Argument::Address(0),
    };
    let arguments = [device.address(out, 0), device.address(table, 0), part, tokens.into(), width.into()];
    let shape = Shape { grid: [(tokens * width).div_ceil(THREADS), 1], threads: THREADS, shared_bytes: 0 };
    device.launch(out.number.pick(LOOK_UP), shape, &arguments)
}

/// `out [rows, n]`: what AdamW would do by each row of `x [rows, n]`.
pub(super) fn adapt(device: &Device, out: &mut Tensor, x: &Tensor, step: &AdaptedStep<'_, Tensor>) -> Result<()> {
    let &AdaptedStep { drift, floor, rests, scales, len } = step;
    let rows = scales.len();
    assert!(len <= drift.len.min(floor.len) && rows * len <= x.len.min(out.len), "a buffer of fewer numbers");
    let all_f32 = [drift, floor, x].iter().all(|tensor| tensor.number == Number::F32);
    assert!(all_f32, "moments and gradients are f32");
    assert!(len < 1 << 31, "more numbers than a launch has");
    if rows * len == 0 {
        return Ok(());
    }
    let unscale: Vec<f32> = scales.iter().map(|scale| 1.0 / scale).collect();
    let unscale = device.upload(Number::F32, bytemuck::cast_slice(&unscale))?;
    let arguments = [
        device.address(out, 0),
        device.address(x, 0),
        device.address(drift, 0),
        device.address(floor, 0),
        device.address(&unscale, 0),
        rests[0].into(),
        rests[1].into(),
        rows.into(),
        len.into(),
    ];
    let shape = Shape { grid: [len.div_ceil(THREADS), rows.div_ceil(STEPS)], threads: THREADS, shared_bytes: 0 };
    device.launch(out.number.pick(ADAPT), shape, &arguments)
}
