//! Whether products of 16-bit operands are made by `kernels/linear_wgmma.cuh`, on devices of compute capability 9.0, or
//! by `mma.sync` as everywhere else.
//!
//! A layer's rows are all computed by one of the two, whatever their number, because the order of sums inside a product
//! is the device's and need not be the same for both. Which one is settled when a device is opened: the kernels have to
//! be there, the environment variable `WHEREFORE_TENSOR_CORES=mma` must not ask for the other, and they have to
//! multiply drawn matrices as they should.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::env;
use std::sync::{Mutex, OnceLock};

use half::{bf16, f16};

use super::device::Device;
use super::linear::{Blocks, Finish, Linear, Tile};
use super::tensor::{Number, Tensor};
use crate::backend::check::{numbers, short_numbers};
use crate::backend::{Activation, Precision};
use crate::error::{Error, Result};
use crate::sync::lock;

/// The large and the small tile's kernel, forward and backward.
pub(super) const F16: [&str; 4] = [
    "linear_f16_wgmma_128x256",
    "linear_f16_wgmma_64x128",
    "linear_backward_f16_wgmma_128x256",
    "linear_backward_f16_wgmma_64x128",
];
pub(super) const BF16: [&str; 4] = [
    "linear_bf16_wgmma_128x256",
    "linear_bf16_wgmma_64x128",
    "linear_backward_bf16_wgmma_128x256",
    "linear_backward_bf16_wgmma_64x128",
];

pub(super) const BF16X3: [&str; 4] = [
    "linear_bf16x3_wgmma_128x256",
    "linear_bf16x3_wgmma_64x128",
    "linear_backward_bf16x3_wgmma_128x256",
    "linear_backward_bf16x3_wgmma_64x128",
];

/// Two warpgroups that multiply and one that brings, or one and one; four steps of 64 inputs, nine barriers (and room
/// for a tenth), and a row of biases for every sixteen rows.
pub(super) const TILES_F16: [Tile; 2] = tiles(F16, 1);
pub(super) const TILES_BF16: [Tile; 2] = tiles(BF16, 1);
pub(super) const TILES_BF16X3: [Tile; 2] = tiles(BF16X3, 2);

const fn tiles(names: [&'static str; 4], parts: usize) -> [Tile; 2] {
    [tile(names, 0, [128, 256], 384, 1, parts), tile(names, 1, [64, 128], 256, 2, parts)]
}

const fn tile(
    names: [&'static str; 4],
    place: usize,
    [rows, columns]: [usize; 2],
    threads: usize,
    resident: usize,
    parts: usize,
) -> Tile {
    let shared_bytes = 4 * 2 * 64 * (rows + columns) + 8 * 10 + rows / 16 * 4 * columns;
    let (name, backward, blocks) = (names[place], names[place + 2], Blocks::Resident(resident));
    Tile { name, backward, rows, columns, threads, shared_bytes, blocks, parts }
}

/// Rows that one copy brings, of x and of the weights.
pub(super) const X_BOX: u32 = 64;
pub(super) const WEIGHT_BOX: u32 = 128;

/// By which of the tensor cores' instructions 16-bit operands are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Products {
    /// `mma.sync`, which every device has.
    Mma,
    /// `wgmma`, operands brought by the copy engine: compute capability 9.0.
    Wgmma,
}

impl Products {
    /// `mma` or `wgmma`, as the environment variable has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mma => "mma",
            Self::Wgmma => "wgmma",
        }
    }
}

/// The environment variable that names the instructions to be used.
const VARIABLE: &str = "WHEREFORE_TENSOR_CORES";

static DISTRUSTED: OnceLock<String> = OnceLock::new();

/// What there is to say where `wgmma` was tried when a device was opened, and multiplied wrongly.
pub fn distrusted() -> Option<&'static str> {
    DISTRUSTED.get().map(String::as_str)
}

/// The way of a device, in precisions whose operands have 16 bits.
pub(super) fn choose(device: &Device) -> Result<Products> {
    let wanted = env::var(VARIABLE).is_ok_and(|name| name == Products::Mma.name());
    if wanted || [F16, BF16, BF16X3].iter().flatten().any(|name| !device.has(name)) {
        return Ok(Products::Mma);
    }
    trust(device, F16[0], || {
        let exact = [exact_sums(SHAPE, DRAWS), exact_sums(SEVERAL_TILES, DRAWS_OF_SEVERAL)];
        for precision in [Precision::F16, Precision::Bf16, Precision::Bf16x3] {
            if !(Trial { device, precision, exact: &exact }).passes()? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// What is used after a trial of a device's kernels, one of which is named. It is made once in a process, however often
/// the device is opened.
pub(super) fn trust(device: &Device, kernel: &'static str, passes: impl FnOnce() -> Result<bool>) -> Result<Products> {
    static PASSED: Mutex<BTreeMap<(usize, &str), bool>> = Mutex::new(BTreeMap::new());
    let mut passed = lock(&PASSED);
    let passed = match passed.entry((device.info().ordinal, kernel)) {
        Entry::Occupied(known) => *known.get(),
        Entry::Vacant(unknown) => *unknown.insert(passes().map_err(without)?),
    };
    if passed {
        return Ok(Products::Wgmma);
    }
    let title = device.info().title();
    DISTRUSTED.get_or_init(|| {
        format!("{title}: wgmma gave other products than it should when it was tried: mma.sync was used instead")
    });
    Ok(Products::Mma)
}

/// A failed device cannot be used any more: the next run has to know better.
fn without(error: Error) -> Error {
    if matches!(error, Error::Device(..)) {
        error.with_hint(format!("{VARIABLE}=mma goes without wgmma"))
    } else {
        error
    }
}

/// Rows, inputs, outputs: beyond a tile in each, steps beyond a turn of the ring, and the last of each in parts.
const SHAPE: [usize; 3] = [150, 328, 290];
/// Rows, inner width, columns of whole vectors, in several tiles: what one block makes one after another, finishing
/// each beside the next one's steps.
const SEVERAL_TILES: [usize; 3] = [130, 520, 264];

/// The streams that x and weights of sums that are exact are drawn from.
const DRAWS: [u64; 2] = [1, 2];
const DRAWS_OF_SEVERAL: [u64; 2] = [5, 6];

/// A layer that `wgmma` is tried with.
struct Trial<'a> {
    device: &'a Device,
    precision: Precision,
    /// The sums of the two shapes, which are the same in any precision.
    exact: &'a [Vec<f32>; 2],
}

impl Trial<'_> {
    /// Sums that are exact in any order are to be what they are; others are to have the same bits by both tiles.
    fn passes(&self) -> Result<bool> {
        let [rows, inputs, outputs] = SHAPE;
        let [x, weight] = short_operands(SHAPE, DRAWS);
        let expected: Vec<f32> = self.exact[0].iter().map(|&sum| self.round(sum)).collect();
        if self.products(&x, &weight)?.iter().any(|found| *found != expected) {
            return Ok(false);
        }
        let [large, small] = self.products(&numbers(rows * inputs, 3), &numbers(outputs * inputs, 4))?;
        Ok(large == small && self.keeps_what_is_small()? && self.finishes_beside_the_next_tile()?)
    }

    /// The same of several tiles a block, on the way there with biases and a residual and on the way back with slopes,
    /// each rounded as it is stored.
    fn finishes_beside_the_next_tile(&self) -> Result<bool> {
        let ([rows, inner, columns], device) = (SEVERAL_TILES, self.device);
        let [x, weight] = short_operands(SEVERAL_TILES, DRAWS_OF_SEVERAL);
        let (bias, others) = (short_numbers(columns, 7), short_numbers(rows * columns, 8));
        let upload = |values: &[f32]| device.upload(Number::F32, bytemuck::cast_slice(values));
        let (x_there, others_there) = (upload(&x)?, upload(&others)?);
        let pack = |weight: &[f32], bias: &[f32], inputs, outputs| {
            Linear::pack(device, self.precision, Products::Wgmma, weight, bias, inputs, outputs)
        };
        let there = pack(&weight, &bias, inner, columns)?;
        let turned: Vec<f32> = (0..inner * columns).map(|i| weight[i % columns * inner + i / columns]).collect();
        let back = pack(&turned, &vec![0.0; inner], columns, inner)?;
        let one_after_another = |tile: &Tile| Tile { blocks: Blocks::InAll(1), ..*tile };
        let found = [
            self.by_both_tiles(rows * columns, |tile, out| {
                let finish = Finish { activation: Activation::Identity, slope: None, residual: Some(&others_there) };
                there.forward_by(&one_after_another(tile), device, out, &x_there, finish, rows)
            })?,
            self.by_both_tiles(rows * columns, |tile, out| {
                back.backward_by(&one_after_another(tile), device, out, &x_there, [Some(&others_there), None], rows)
            })?,
        ];
        let sums = &self.exact[1];
        let expected: [Vec<f32>; 2] = [
            (0..sums.len()).map(|i| self.round(self.round(sums[i] + bias[i % columns]) + others[i])).collect(),
            (0..sums.len()).map(|i| self.round(self.round(sums[i]) * others[i])).collect(),
        ];
        Ok(found.iter().zip(&expected).all(|(found, expected)| found.iter().all(|found| found == expected)))
    }

    /// Whether what is added to 1 is there when the 1 is taken off again, but for 2⁻²³ each: what bounds on scores rely
    /// on.
    fn keeps_what_is_small(&self) -> Result<bool> {
        let ([rows, inputs, outputs], small) = (SHAPE, 2.0_f32.powi(-10));
        let row = |last: f32| {
            (0..inputs).map(move |i| {
                if i == 0 {
                    1.0
                } else if i + 1 == inputs {
                    last
                } else {
                    small
                }
            })
        };
        let repeated = |count: usize, last: f32| -> Vec<f32> { (0..count).flat_map(|_| row(last)).collect() };
        let [large, _] = self.products(&repeated(rows, -1.0), &repeated(outputs, 1.0))?;
        let (added, lost) = ((inputs - 2) as f32 * small * small, inputs as f32 * 2.0_f32.powi(-23));
        let unit = self.precision.unit() as f32;
        Ok(large.iter().all(|sum| (sum - added).abs() <= lost + added * unit))
    }

    /// What results are stored as, and the tiles that make them.
    fn stored(&self) -> (Number, &'static [Tile; 2]) {
        match self.precision {
            Precision::F16 => (Number::F16, &TILES_F16),
            Precision::Bf16 => (Number::Bf16, &TILES_BF16),
            Precision::Auto | Precision::F32 | Precision::Bf16x3 => (Number::F32, &TILES_BF16X3),
        }
    }

    fn round(&self, x: f32) -> f32 {
        match self.stored().0 {
            Number::F16 => f16::from_f32(x).to_f32(),
            Number::Bf16 => bf16::from_f32(x).to_f32(),
            Number::F32 => x,
        }
    }

    /// x · weightᵀ of [`SHAPE`], by both tiles.
    fn products(&self, x: &[f32], weight: &[f32]) -> Result<[Vec<f32>; 2]> {
        let ([rows, inputs, outputs], device) = (SHAPE, self.device);
        let layer =
            Linear::pack(device, self.precision, Products::Wgmma, weight, &vec![0.0; outputs], inputs, outputs)?;
        let x = device.upload(Number::F32, bytemuck::cast_slice(x))?;
        self.by_both_tiles(rows * outputs, |tile, out| {
            let finish = Finish { activation: Activation::Identity, slope: None, residual: None };
            layer.forward_by(tile, device, out, &x, finish, rows)
        })
    }

    /// The results that `run` makes by each of the two tiles.
    fn by_both_tiles(&self, len: usize, run: impl Fn(&Tile, &mut Tensor) -> Result<()>) -> Result<[Vec<f32>; 2]> {
        let (number, tiles) = self.stored();
        let by = |tile: &Tile| -> Result<Vec<f32>> {
            let (mut out, mut values) = (self.device.allocate(number, len)?, vec![0.0; len]);
            run(tile, &mut out)?;
            self.device.download(&out, len * number.bytes(), |bytes| number.read(&mut values, bytes))?;
            Ok(values)
        };
        Ok([by(&tiles[0])?, by(&tiles[1])?])
    }
}

/// x `[rows, inputs]` and weights `[outputs, inputs]` of numbers whose sums are exact.
fn short_operands([rows, inputs, outputs]: [usize; 3], [x, weight]: [u64; 2]) -> [Vec<f32>; 2] {
    [short_numbers(rows * inputs, x), short_numbers(outputs * inputs, weight)]
}

/// x · weightᵀ of those.
fn exact_sums(shape: [usize; 3], draws: [u64; 2]) -> Vec<f32> {
    let ([rows, inputs, outputs], [x, weight]) = (shape, short_operands(shape, draws));
    let row = |row: usize| &x[row * inputs..][..inputs];
    let weights = |output: usize| &weight[output * inputs..][..inputs];
    let sum = |i: usize| row(i / outputs).iter().zip(weights(i % outputs)).map(|(x, weight)| x * weight).sum();
    (0..rows * outputs).map(sum).collect()
}
