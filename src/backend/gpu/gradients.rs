//! Launches `kernels/gradients.cu`, and on tensor cores `kernels/gradients_bf16.cu` and `kernels/gradients_f16.cu`, or
//! as `gradients_wgmma.rs` says.

use super::Gpu;
use super::batch::Part;
use super::convert::stored_as;
use super::device::{Argument, Device, Shape};
use super::gradients_wgmma;
use super::linear_wgmma::Products as By;
use super::tensor::{Number, Tensor};
use crate::backend::Rows;
use crate::backend::training::{Pair, Passed, Products};
use crate::error::Result;

pub(super) const NAMES: [&str; 6] = [
    WEIGHT_F32[0].name,
    WEIGHT_F32[1].name,
    WEIGHT_F32[2].name,
    WEIGHT_F32[3].name,
    OUTER_F32[0].name,
    OUTER_F32[1].name,
];
pub(super) const BF16: [&str; 4] = [WEIGHT_BF16[0].name, WEIGHT_BF16[1].name, OUTER_BF16[0].name, OUTER_BF16[1].name];
pub(super) const F16: [&str; 2] = [OUTER_F16[0].name, OUTER_F16[1].name];

const WEIGHT_F32: [Tile; 4] = [
    Tile::f32("weight_gradient_f32_96x192", [96, 192], 80),
    Tile::f32("weight_gradient_f32_128x128", [128, 128], 70),
    Tile::f32("weight_gradient_f32_96x64", [96, 64], 32),
    Tile::f32("weight_gradient_f32_64x64", [64, 64], 24),
];
const OUTER_F32: [Tile; 2] =
    [Tile::f32("outer_products_f32_128x128", [128, 128], 70), Tile::f32("outer_products_f32_64x64", [64, 64], 24)];
const WEIGHT_BF16: [Tile; 2] = Tile::mma(["weight_gradient_bf16_128x128", "weight_gradient_bf16_64x64"]);
const OUTER_BF16: [Tile; 2] = Tile::mma(["outer_products_bf16_128x128", "outer_products_bf16_64x64"]);
const OUTER_F16: [Tile; 2] = Tile::mma(["outer_products_f16_128x128", "outer_products_f16_64x64"]);

/// A kernel's tile of a sum of outer products.
pub(super) struct Tile {
    pub(super) name: &'static str,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) threads: usize,
    /// Rows of both operands that a block has in shared memory.
    pub(super) rows: usize,
    /// How long one takes of a multiprocessor's time, by the estimate of its kind.
    pub(super) time: usize,
}

impl Tile {
    /// Three steps of sixteen rows.
    const fn f32(name: &'static str, [outputs, inputs]: [usize; 2], time: usize) -> Self {
        Self { name, outputs, inputs, threads: 256, rows: 3 * 16, time }
    }

    /// Three and four steps of thirty-two.
    const fn mma([large, small]: [&'static str; 2]) -> [Self; 2] {
        [
            Self { name: large, outputs: 128, inputs: 128, threads: 256, rows: 3 * 32, time: 100 },
            Self { name: small, outputs: 64, inputs: 64, threads: 128, rows: 4 * 32, time: 24 },
        ]
    }

    /// The one of a kind by which a layer's gradient is done first: bits are the same by any.
    pub(super) fn of(tiles: &'static [Self], device: &Device, widths: [usize; 2]) -> &'static Self {
        let rounds = |tile: &Self| tile.grid(widths).iter().product::<usize>().div_ceil(device.multiprocessors());
        tiles.iter().min_by_key(|tile| rounds(tile) * tile.time).expect("a kind has tiles")
    }

    /// Blocks of a layer of these inputs and outputs.
    fn grid(&self, [inputs, outputs]: [usize; 2]) -> [usize; 2] {
        [outputs.div_ceil(self.outputs), inputs.div_ceil(self.inputs)]
    }

    fn shape(&self, number: Number, grid: [usize; 2]) -> Shape {
        let shared_bytes = self.rows * (self.outputs + self.inputs) * number.bytes();
        Shape { grid, threads: self.threads, shared_bytes }
    }

    /// Adds to a layer's gradients.
    pub(super) fn launch(
        &self,
        device: &Device,
        number: Number,
        widths: [usize; 2],
        arguments: &[Argument],
    ) -> Result<()> {
        device.launch(self.name, self.shape(number, self.grid(widths)), arguments)
    }
}

/// `dw += dyᵀ x` and `db += Σ dy`, from output `first` of the gradients on; operands in f32, or in bf16 `by` one of the
/// tensor cores' instructions. Which is settled by widths, never by rows: an element's bits are to be the same in any
/// batch.
pub(super) fn linear(
    device: &Device,
    (number, by): (Number, By),
    gradients: Pair<&mut Tensor>,
    first: usize,
    dy: &Tensor,
    x: &Tensor,
    passed: &Passed<'_, Gpu>,
) -> Result<()> {
    let &Passed { batch, rows: of, inputs, outputs } = passed;
    let (rows, Pair { weight, bias }) = (batch.asking(of), gradients);
    assert_ne!(number, Number::F16, "gradients would need scales of their own in f16");
    assert_eq!((weight.number, bias.number), (Number::F32, Number::F32), "gradients of parameters are f32");
    assert!(rows * outputs.max(inputs) < 1 << 31, "operands whose places are beyond 32 bits");
    assert!((first + outputs) * inputs <= weight.len && first + outputs <= bias.len, "gradients of fewer outputs");
    assert!(rows * outputs <= dy.len && rows * inputs <= x.len, "a buffer of fewer rows");
    if inputs * outputs == 0 {
        return Ok(());
    }
    let (dy, x) = (stored_as(device, dy, number)?, stored_as(device, x, number)?);
    let to = [device.address(weight, first * inputs), device.address(bias, first)];
    let mut arguments = to.to_vec();
    arguments.extend([device.address(&dy, 0), device.address(&x, 0)]);
    if number == Number::Bf16 {
        let (pieces, count) = batch.pieces(device, of);
        arguments.extend([pieces, count.into()]);
    } else {
        arguments.push(rows.into());
    }
    arguments.extend([inputs, outputs].map(Argument::from));
    let tiles: &[Tile] = match (number, by) {
        (Number::F32, _) => &WEIGHT_F32,
        (_, By::Wgmma) if gradients_wgmma::takes(inputs, outputs) => &gradients_wgmma::TILES,
        _ => &WEIGHT_BF16,
    };
    Tile::of(tiles, device, [inputs, outputs]).launch(device, number, [inputs, outputs], &arguments)
}

/// Each sequence's `Σ dyᵀ x`, added at its place of `out [B, stride]`; operands in what activations are stored as.
pub(super) fn outer_products(
    device: &Device,
    number: Number,
    out: &mut Tensor,
    dy: &Tensor,
    x: &Tensor,
    products: &Products<'_, Gpu>,
) -> Result<()> {
    let &Products { batch, rows, inputs, outputs, stride, offset } = products;
    let (sequences, asking) = (batch.host.sequences(), batch.asking(rows));
    assert!(offset + inputs * outputs <= stride && sequences * stride <= out.len, "a buffer of fewer numbers");
    assert!(asking * outputs <= dy.len && asking * inputs <= x.len, "a buffer of fewer rows");
    assert_eq!(out.number, Number::F32, "sums of outer products are f32");
    if inputs * outputs * sequences == 0 {
        return Ok(());
    }
    let (dy, x) = (stored_as(device, dy, number)?, stored_as(device, x, number)?);
    let arguments = [
        device.address(out, 0),
        device.address(&dy, 0),
        device.address(&x, 0),
        batch.part(device, Part::Starts),
        Argument::Integer(i32::from(rows == Rows::First)),
        inputs.into(),
        outputs.into(),
        stride.into(),
        offset.into(),
    ];
    let [large, small]: &'static [Tile; 2] = match number {
        Number::F32 => &OUTER_F32,
        Number::F16 => &OUTER_F16,
        Number::Bf16 => &OUTER_BF16,
    };
    let blocks = |tile: &Tile| sequences * tile.grid([inputs, outputs]).iter().product::<usize>();
    // A small tile for narrow layers, where most of a large one would be beyond them, and where large ones would leave
    // multiprocessors idle.
    let narrow = inputs.min(outputs) <= small.outputs || blocks(large) < device.multiprocessors();
    let tile = if narrow { small } else { large };
    assert!(blocks(tile) < 1 << 31, "more blocks than a launch has");
    device.launch(tile.name, tile.shape(number, [blocks(tile), 1]), &arguments)
}
