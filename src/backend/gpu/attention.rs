//! Launches `kernels/attention_f32.cu` and the tensor-core kernels of `attention_mma.cuh`.

use super::Gpu;
use super::batch::{Batch, Part};
use super::convert::{Operand, stored_as};
use super::device::{Argument, Device, Shape};
use super::dropout::Draws;
use super::tensor::{Number, Tensor};
use crate::backend::training::Dropout;
use crate::backend::{Attended, AttentionShape, Rows};
use crate::error::{Error, Result};

pub(super) const F32: [&str; 6] = {
    let ([a, b, c], [d, e, f]) = (WHOLE_F32, DROPPED_F32);
    [a, b, c, d, e, f]
};
const WHOLE_F32: [&str; 3] = ["attention_f32_32", "attention_f32_64", "attention_f32_128"];
const DROPPED_F32: [&str; 3] = ["attention_dropout_f32_32", "attention_dropout_f32_64", "attention_dropout_f32_128"];
pub(super) const F16: [&str; 3] = ["attention_f16_32", "attention_f16_64", "attention_f16_128"];
pub(super) const BF16: [&str; 6] = {
    let ([a, b, c], [d, e, f]) = (WHOLE_BF16, DROPPED_BF16);
    [a, b, c, d, e, f]
};
const WHOLE_BF16: [&str; 3] = ["attention_bf16_32", "attention_bf16_64", "attention_bf16_128"];
const DROPPED_BF16: [&str; 3] =
    ["attention_dropout_bf16_32", "attention_dropout_bf16_64", "attention_dropout_bf16_128"];

/// The widest heads of each kernel.
pub(super) const WIDTHS: [usize; 3] = [32, 64, 128];
/// Queries of one tile where every token asks, and keys of one.
pub(super) const TILE: usize = 64;
/// Queries of a warp, and warps of a block, on the tensor cores.
pub(super) const MMA_ROWS: usize = 16;
pub(super) const MMA_WARPS: usize = TILE / MMA_ROWS;

/// Warps of a row of tiles on the tensor cores: one is enough where a sequence has one query.
pub(super) fn warps(queries: Rows) -> usize {
    if queries == Rows::First { 1 } else { MMA_WARPS }
}

/// Threads of an f32 kernel for heads of this width: a warp has 32 rows, or of wide heads 16.
pub(super) fn f32_threads(width: usize) -> usize {
    32 * TILE / if width > 64 { 16 } else { 32 }
}

/// What an attention reads, stored as its kernels read it.
pub(super) struct Operands<'a> {
    device: &'a Device,
    views: [(Operand<'a>, usize, usize); 3],
    batch: &'a Batch,
    pub(super) shape: AttentionShape,
    pub(super) number: Number,
    /// Which of a kernel's [`WIDTHS`].
    pub(super) kernel: usize,
}

impl<'a> Operands<'a> {
    pub(super) fn new(device: &'a Device, attended: &Attended<'a, Gpu>, number: Number) -> Result<Self> {
        let Attended { q, k, v, batch, shape } = attended;
        let width = shape.head_width;
        let Some(kernel) = WIDTHS.iter().position(|most| width <= *most) else {
            let found = format!("attention heads of width {width}: the GPU's kernels have up to 128");
            return Err(Error::Device(found, None).with_hint("run with --device cpu"));
        };
        let view = |view: &crate::backend::Heads<'a, Gpu>| -> Result<_> {
            Ok((stored_as(device, view.tensor, number)?, view.stride, view.offset))
        };
        Ok(Self { device, views: [view(q)?, view(k)?, view(v)?], batch, shape: *shape, number, kernel })
    }

    /// q, k and v with their strides.
    pub(super) fn views(&self) -> [Argument; 6] {
        let [q, k, v] = &self.views;
        let address = |(tensor, _, offset): &(Operand<'_>, usize, usize)| self.device.address(tensor, *offset);
        [address(q), q.1.into(), address(k), k.1.into(), address(v), v.1.into()]
    }

    /// Whether first tokens alone ask, and the heads.
    pub(super) fn sizes(&self) -> [Argument; 3] {
        let first = Argument::Integer(i32::from(self.shape.queries == Rows::First));
        [first, self.shape.heads.into(), self.shape.head_width.into()]
    }

    pub(super) fn starts(&self) -> Argument {
        self.batch.part(self.device, Part::Starts)
    }

    /// The number's own of three kernels' names, by the width of the heads.
    pub(super) fn pick(&self, f32: [&'static str; 3], f16: [&'static str; 3], bf16: [&'static str; 3]) -> &'static str {
        self.number.pick([f32[self.kernel], f16[self.kernel], bf16[self.kernel]])
    }
}

/// With its weights dropped where training asks, which is in f32 or bf16.
pub(super) fn attention(
    device: &Device,
    out: &mut Tensor,
    attended: &Attended<'_, Gpu>,
    dropout: Option<&Dropout<'_>>,
) -> Result<()> {
    let Attended { batch, shape: AttentionShape { heads, head_width: width, queries }, .. } = *attended;
    assert!(batch.asking(queries) * heads * width <= out.len, "a buffer of fewer rows");
    let operands = Operands::new(device, attended, out.number)?;
    let (tiles, count) = batch.tiles(device, queries);
    let mut arguments = vec![device.address(out, 0)];
    arguments.extend(operands.views());
    arguments.extend([tiles, operands.starts()]);
    arguments.extend(operands.sizes());
    let (threads, shared_bytes) = match out.number {
        Number::F32 => block_f32(WIDTHS[operands.kernel]),
        Number::F16 | Number::Bf16 => block_mma(queries, WIDTHS[operands.kernel]),
    };
    let draws = dropout.map(|dropout| Draws::of(device, attended.batch, dropout)).transpose()?;
    let (f32, bf16) = if let Some(draws) = &draws {
        assert_ne!(out.number, Number::F16, "training is not in f16");
        arguments.extend(draws.arguments(device));
        (DROPPED_F32, DROPPED_BF16)
    } else {
        (WHOLE_F32, WHOLE_BF16)
    };
    device.launch(operands.pick(f32, F16, bf16), Shape { grid: [count, heads], threads, shared_bytes }, &arguments)
}

/// Threads and shared memory of a block: queries, values, and keys or the weights that take their place.
fn block_f32(width: usize) -> (usize, usize) {
    (f32_threads(width), 4 * TILE * (2 * width + width.max(TILE)))
}

/// The same: queries, and two tiles of keys and values under way.
fn block_mma(queries: Rows, width: usize) -> (usize, usize) {
    let warps = warps(queries);
    (warps * 32, 2 * width * (warps * MMA_ROWS + 4 * TILE))
}
