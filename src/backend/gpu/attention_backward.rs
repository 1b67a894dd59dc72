//! Launches `kernels/attention_backward_f32.cu` and the tensor-core kernels of `attention_backward_short.cuh`
//! (sequences of up to 128 tokens, of heads of up to 64 numbers) and `attention_backward_mma.cuh` (others).

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

/// The same at once, of short sequences: of heads that are not too wide.
macro_rules! short_names {
    ($number:literal) => {
        [concat!("attention_backward_short_", $number, "_32"), concat!("attention_backward_short_", $number, "_64")]
    };
}

pub(super) const F32: [&str; 12] = join(WHOLE_F32, DROPPED_F32);
const WHOLE_F32: [&str; 6] = names!("f32");
const DROPPED_F32: [&str; 6] = names!("dropout_f32");
pub(super) const F16: [&str; 8] = join(WHOLE_F16, SHORT_F16);
const WHOLE_F16: [&str; 6] = names!("f16");
const SHORT_F16: [&str; 2] = short_names!("f16");
pub(super) const BF16: [&str; 16] =
    join(join::<6, 6, 12>(WHOLE_BF16, DROPPED_BF16), join::<2, 2, 4>(SHORT_BF16, SHORT_DROPPED));
const WHOLE_BF16: [&str; 6] = names!("bf16");
const DROPPED_BF16: [&str; 6] = names!("dropout_bf16");
const SHORT_BF16: [&str; 2] = short_names!("bf16");
const SHORT_DROPPED: [&str; 2] = short_names!("dropout_bf16");

const fn join<const A: usize, const B: usize, const N: usize>(
    a: [&'static str; A],
    b: [&'static str; B],
) -> [&'static str; N] {
    let mut all = [""; N];
    let mut i = 0;
    while i < N {
        all[i] = if i < A { a[i] } else { b[i - A] };
        i += 1;
    }
    all
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
    let draws = dropout.map(|dropout| Draws::of(device, attended.batch, dropout)).transpose()?;
    assert!(draws.is_none() || number != Number::F16, "training is not in f16");
    let drawn: Vec<Argument> = draws.iter().flat_map(|draws| draws.arguments(device)).collect();
    let packed_at = |part: usize| device.address(packed, part * width);
    let packed_stride = Argument::from(parts * width);

    let at_once = queries == Rows::All && number != Number::F32 && operands.kernel < SHORT_F16.len();
    if at_once {
        let (sequences, count, longest) = batch.short(device);
        let mut arguments = vec![packed_at(0), packed_at(1), packed_at(2), packed_stride];
        arguments.extend(operands.views());
        arguments.extend([device.address(&d_out, 0), sequences, operands.starts(), heads.into(), head_width.into()]);
        arguments.extend(&drawn);
        let block = Block::of_sequences(&operands, longest, draws.is_some());
        if count > 0 {
            device.launch(block.name, block.shape(count, heads), &arguments)?;
        }
    }
    let tiles = |rows: Rows| if at_once { batch.long_tiles(device) } else { batch.tiles(device, rows) };
    let (of_queries, of_keys) = (tiles(queries), tiles(Rows::All));
    if of_queries.1 == 0 {
        return Ok(());
    }
    let rows = device.allocate(Number::F32, asking * heads * ROW)?;
    let names =
        if draws.is_some() { [DROPPED_F32, WHOLE_F16, DROPPED_BF16] } else { [WHOLE_F32, WHOLE_F16, WHOLE_BF16] };
    let shared = |tiles: Argument| {
        let mut arguments = operands.views().to_vec();
        arguments.extend([device.address(&d_out, 0), device.address(&rows, 0), tiles, operands.starts()]);
        arguments.extend(operands.sizes());
        arguments.extend(&drawn);
        arguments
    };

    let own = match &query {
        Some(query) => [device.address(query, 0), width.into()],
        None => [packed_at(0), packed_stride],
    };
    let block = Block::of_queries(&operands, &names);
    device.launch(block.name, block.shape(of_queries.1, heads), &[&own[..], &shared(of_queries.0)].concat())?;

    let own = [packed_at(parts - 2), packed_at(parts - 1), packed_stride];
    let block = Block::of_keys(&operands, &names, draws.is_some());
    device.launch(block.name, block.shape(of_keys.1, heads), &[&own[..], &shared(of_keys.0)].concat())
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

    /// With as many warps as the longest sequence has sixteens of tokens.
    fn of_sequences(operands: &Operands<'_>, longest: usize, drops: bool) -> Self {
        let (width, rows) = (WIDTHS[operands.kernel], longest.next_multiple_of(MMA_ROWS));
        let bf16 = if drops { SHORT_DROPPED } else { SHORT_BF16 };
        let name = if operands.number == Number::F16 { SHORT_F16 } else { bf16 }[operands.kernel];
        // Queries, keys, values and d_out; weights, in rows of eight numbers more.
        Self { name, threads: rows / MMA_ROWS * 32, shared_bytes: 2 * rows * (4 * width + rows + 8) }
    }

    fn shape(&self, tiles: usize, heads: usize) -> Shape {
        Shape { grid: [tiles, heads], threads: self.threads, shared_bytes: self.shared_bytes }
    }
}
