//! Launches `kernels/attention_backward_f32.cu` and the tensor-core kernels of `attention_backward_mma.cuh`.

use super::Gpu;
use super::attention::{MMA_ROWS, MMA_WARPS, Operands, TILE, WIDTHS, f32_threads, warps};
use super::convert::stored_as;
use super::device::{Argument, Device, Shape};
use super::dropout::Draws;
use super::tensor::{Number, Tensor};
use crate::backend::training::Dropout;
use crate::backend::{Attended, AttentionGradients, AttentionShape, Rows};
use crate::error::Result;

/// A kernel for each width of heads: that of queries, then that of keys and values.
macro_rules! names {
    ($number:literal) => {
        [
            concat!("attention_backward_queries_", $number, "_32"),
            concat!("attention_backward_queries_", $number, "_64"),
            concat!("attention_backward_queries_", $number, "_128"),
            concat!("attention_backward_keys_", $number, "_32"),
            concat!("attention_backward_keys_", $number, "_64"),
            concat!("attention_backward_keys_", $number, "_128"),
        ]
    };
}

pub(super) const F32: [&str; 12] = both(WHOLE_F32, DROPPED_F32);
const WHOLE_F32: [&str; 6] = names!("f32");
const DROPPED_F32: [&str; 6] = names!("dropout_f32");
pub(super) const F16: [&str; 6] = names!("f16");
pub(super) const BF16: [&str; 12] = both(WHOLE_BF16, DROPPED_BF16);
const WHOLE_BF16: [&str; 6] = names!("bf16");
const DROPPED_BF16: [&str; 6] = names!("dropout_bf16");

const fn both([a, b, c, d, e, f]: [&'static str; 6], [g, h, i, j, k, l]: [&'static str; 6]) -> [&'static str; 12] {
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

/// Rows of the tiles that a block of f32 goes through.
const F32_TILE: usize = 32;
/// Numbers that the queries' kernel leaves of each for the keys'.
const ROW: usize = 4;

pub(super) fn backward(
    device: &Device,
    gradients: AttentionGradients<'_, Tensor>,
    d_out: &Tensor,
    attended: &Attended<'_, Gpu>,
    dropout: Option<&Dropout<'_>>,
) -> Result<()> {
    let AttentionGradients { packed, query } = gradients;
    let Attended { batch, shape: AttentionShape { heads, head_width, queries }, .. } = *attended;
    let (width, asking, number) = (heads * head_width, batch.asking(queries), packed.number);
    let parts = if queries == Rows::First { 2 } else { 3 };
    assert_eq!(query.is_some(), queries == Rows::First, "a place for first tokens' own queries");
    assert!(batch.tokens() * parts * width <= packed.len && asking * width <= d_out.len, "a buffer of fewer rows");
    let operands = Operands::new(device, attended, number)?;
    let d_out = stored_as(device, d_out, number)?;
    let rows = device.allocate(Number::F32, asking * heads * ROW)?;
    let draws = dropout.map(|dropout| Draws::of(device, attended.batch, dropout)).transpose()?;
    assert!(draws.is_none() || number != Number::F16, "training is not in f16");
    let names = if draws.is_some() { [DROPPED_F32, F16, DROPPED_BF16] } else { [WHOLE_F32, F16, WHOLE_BF16] };
    let shared = |tiles: (Argument, usize)| {
        let mut arguments = operands.views().to_vec();
        arguments.extend([device.address(&d_out, 0), device.address(&rows, 0), tiles.0, operands.starts()]);
        arguments.extend(operands.sizes());
        arguments.extend(draws.iter().flat_map(|draws| draws.arguments(device)));
        arguments
    };
    let packed_at = |part: usize| device.address(packed, part * width);
    let packed_stride = Argument::from(parts * width);

    let own = match &query {
        Some(query) => [device.address(query, 0), width.into()],
        None => [packed_at(0), packed_stride],
    };
    let tiles = batch.tiles(device, queries);
    let block = Block::of_queries(&operands, &names);
    device.launch(block.name, block.shape(tiles.1, heads), &[&own[..], &shared(tiles)].concat())?;

    let own = [packed_at(parts - 2), packed_at(parts - 1), packed_stride];
    let tiles = batch.tiles(device, Rows::All);
    let block = Block::of_keys(&operands, &names, draws.is_some());
    device.launch(block.name, block.shape(tiles.1, heads), &[&own[..], &shared(tiles)].concat())
}

/// A kernel and the size of its blocks.
struct Block {
    name: &'static str,
    threads: usize,
    shared_bytes: usize,
}

impl Block {
    /// `names`: of f32, f16 and bf16.
    fn of_queries(operands: &Operands<'_>, names: &[[&'static str; 6]; 3]) -> Self {
        let (width, warps) = (WIDTHS[operands.kernel], warps(operands.shape.queries));
        let (threads, shared_bytes) = match operands.number {
            // Queries and d_out; keys, and values or the slopes that take their place.
            Number::F32 => (f32_threads(width), 4 * (2 * TILE * width + F32_TILE * (width + width.max(TILE)))),
            _ => (warps * 32, 2 * width * (2 * warps * MMA_ROWS + 4 * TILE)),
        };
        Self { name: operands.number.pick(names.map(|names| names[operands.kernel])), threads, shared_bytes }
    }

    /// Draws take registers, so that fewer queries fit beside them.
    fn of_keys(operands: &Operands<'_>, names: &[[&'static str; 6]; 3], drops: bool) -> Self {
        let width = WIDTHS[operands.kernel];
        let most = if width > 64 { TILE / 2 } else { TILE };
        let tile = if drops { most / 2 } else { most };
        let f32_tile = if width > 64 { F32_TILE / 2 } else { F32_TILE };
        let (threads, shared_bytes) = match operands.number {
            // Keys and values; queries, d_out, and weights.
            Number::F32 => (f32_threads(width), 4 * (2 * TILE * width + f32_tile * (2 * width + TILE))),
            _ => (MMA_WARPS * 32, 2 * width * (2 * MMA_WARPS * MMA_ROWS + 4 * tile) + 2 * tile * ROW * 4),
        };
        let name = operands.number.pick(names.map(|names| names[WIDTHS.len() + operands.kernel]));
        Self { name, threads, shared_bytes }
    }

    fn shape(&self, tiles: usize, heads: usize) -> Shape {
        Shape { grid: [tiles, heads], threads: self.threads, shared_bytes: self.shared_bytes }
    }
}
