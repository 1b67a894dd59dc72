//! Launches `kernels/search_bounds.cu`: of many queries' scores, bounds from products of rounded numbers on tensor
//! cores.

use super::{Asked, OnDevice};
use crate::backend::gpu::device::{Argument, Device, Shape};
use crate::backend::gpu::linear::Tile;
use crate::backend::gpu::linear_wgmma::{Products, TILES_F16, WEIGHT_BOX, X_BOX};
use crate::backend::gpu::pack::{GROUP, STEP};
use crate::backend::gpu::tensor::{Number, Tensor};
use crate::backend::gpu::tensor_map::TensorMap;
use crate::error::Result;

pub(crate) const NAMES: [&str; 7] = {
    let [a, b, c] = ROUND;
    [a, b, c, ROUND_QUERIES, SCREEN, BOUND, BOUND_TERMS]
};
const ROUND: [&str; 3] = ["search_round_f32", "search_round_f16", "search_round_bf16"];
const ROUND_QUERIES: &str = "search_round_queries";
const SCREEN: &str = "search_screen";
const BOUND: &str = "search_bound";
/// The same for queries of several terms.
const BOUND_TERMS: &str = "search_bound_terms";
/// The same for queries of one term, on devices that have `wgmma`.
pub(crate) const WGMMA: [&str; 1] = ["search_bound_wgmma_128x256"];

/// Terms of a query that a lane has side by side.
pub(crate) const MOST_TERMS: usize = 8;

/// Rows and columns of a block, and its shared memory: three stages of 32 inputs.
const BLOCK: [usize; 2] = [128, 64];
const SHARED_BYTES: usize = 3 * 2 * 32 * (BLOCK[0] + BLOCK[1]);
/// Rows that a block rounds, and rows and columns that it makes screens of.
const ROUNDED_ROWS: usize = 8;
const SCREENED: usize = 256;
/// Numbers of a screen, and of a row's or a column's side.
const SCREEN_LEN: usize = 4;
const SIDE_LEN: usize = 4;
/// Rounded rows begin at multiples of 16 bytes.
const ALIGNMENT: usize = 8;

/// Pairs that must be looked at for each record that is scored, beyond those that every search begins with: reading
/// one, far away in memory, takes about as long as the scores of so many.
const PAIRS_A_CANDIDATE: usize = 64;

/// Queries as bounds are found from them, and what that has been worth.
pub(super) struct Bounding {
    /// `own_halves` and `own_sides` of the kernel.
    halves: Tensor,
    sides: Tensor,
    columns: usize,
    terms: usize,
    products: Products,
    /// How many records were scored for each query, `[Q]`.
    pub(super) candidates: Tensor,
    begun_with: usize,
    scored: usize,
    pairs: usize,
}

impl Bounding {
    /// For ends of k.
    pub(super) fn new(
        device: &Device,
        products: Products,
        asked: &Asked<'_>,
        on_device: &OnDevice,
        k: usize,
    ) -> Result<Self> {
        let (passes, terms) = (asked.rates.len(), asked.rates.len().next_power_of_two());
        assert!(terms <= MOST_TERMS, "more terms than a lane has");
        let columns = asked.queries * terms;
        let (rows, stride) = (columns.next_multiple_of(GROUP), asked.width.next_multiple_of(STEP));
        let halves = device.allocate(Number::F16, rows * stride)?;
        let sides = device.allocate(Number::F32, SIDE_LEN * rows)?;
        let arguments = [
            device.address(&halves, 0),
            device.address(&sides, 0),
            device.address(&on_device.memory, 0),
            device.address(&on_device.memory, on_device.biases),
            asked.queries.into(),
            passes.into(),
            terms.into(),
            asked.width.into(),
        ];
        let shape = Shape { grid: [rows / ROUNDED_ROWS, 1], threads: 32 * ROUNDED_ROWS, shared_bytes: 0 };
        device.launch(ROUND_QUERIES, shape, &arguments)?;
        Ok(Self {
            halves,
            sides,
            columns,
            terms,
            products,
            candidates: device.upload(Number::F32, &vec![0; 4 * asked.queries])?,
            begun_with: asked.queries * 2 * (4 * k + 64),
            scored: 0,
            pairs: 0,
        })
    }

    /// Whether scoring so many candidates more, of so many pairs, takes no longer than all those pairs' scores. Where
    /// they do not `fit`, they will be looked at again.
    pub(super) fn is_worth(&mut self, candidates: usize, pairs: usize, fit: bool) -> bool {
        let (scored, pairs) = (self.scored + candidates, self.pairs + pairs);
        let worth = scored.saturating_sub(self.begun_with) * PAIRS_A_CANDIDATE <= pairs;
        if worth && fit {
            (self.scored, self.pairs) = (scored, pairs);
        }
        worth
    }

    /// Bounds the scores of as many rows as `of_pairs` has, the first of them row `start` of its chunk; `kept` and
    /// `sizes` are the kernel's.
    pub(super) fn launch(
        &self,
        device: &Device,
        (rounded, start, rows): (&Rounded<'_>, usize, usize),
        of_pairs: &[Argument],
        kept: &[Argument; 4],
        sizes: &[Argument; 3],
    ) -> Result<()> {
        let columns = self.columns.next_multiple_of(GROUP);
        let (halves, own_halves) = (rounded.halves(device, start), device.place(&self.halves, 0));
        let sides = [device.address(rounded.made, SIDE_LEN * start), device.address(&self.sides, 0)];
        let own = [
            Argument::Address(halves),
            sides[0],
            rounded.stride().into(),
            Argument::Address(own_halves),
            sides[1],
            columns.into(),
        ];
        let grid = [rows.div_ceil(BLOCK[0]), self.columns.div_ceil(BLOCK[1])];
        let shape = Shape { grid, threads: 256, shared_bytes: SHARED_BYTES };
        if self.terms > 1 {
            let arguments = [of_pairs, kept, &own, &[self.terms.into()], sizes].concat();
            return device.launch(BOUND_TERMS, shape, &arguments);
        }
        let screens = self.screens(device, rows, of_pairs, &[&[kept[2]], &sides[..]].concat(), sizes)?;
        let screens = [device.address(&screens[0], 0), device.address(&screens[1], 0)];
        // Of few columns most of a large tile would be multiplied for nothing.
        if self.products == Products::Mma || self.columns <= BLOCK[1] {
            return device.launch(BOUND, shape, &[of_pairs, kept, &screens, &own, sizes].concat());
        }
        let map = |address, shape, rows| TensorMap::at(device, address, Number::F16, shape, rows).map(Argument::Map);
        let halves = map(halves, [rows, rounded.stride()], X_BOX)?;
        let own_halves = map(own_halves, [columns, rounded.width.next_multiple_of(STEP)], WEIGHT_BOX)?;
        let own = [halves, sides[0], own_halves, sides[1], columns.into()];
        let Tile { rows: of_rows, columns: of_columns, threads, shared_bytes, .. } = TILES_F16[0];
        let tiles = rows.div_ceil(of_rows) * columns.div_ceil(of_columns);
        let shape = Shape { grid: [tiles.min(device.multiprocessors()), 1], threads, shared_bytes };
        device.launch(WGMMA[0], shape, &[of_pairs, kept, &screens, &own, sizes].concat())
    }

    /// What pairs of these rows and all queries pass or fail by the limits there are: of the rows, and of all columns
    /// of whole tiles.
    fn screens(
        &self,
        device: &Device,
        rows: usize,
        of_pairs: &[Argument],
        limits_and_sides: &[Argument],
        sizes: &[Argument; 3],
    ) -> Result<[Tensor; 2]> {
        let columns = self.columns.next_multiple_of(TILES_F16[0].columns);
        let make = |count: usize| device.allocate(Number::F32, SCREEN_LEN * count);
        let screens = [make(rows)?, make(columns)?];
        let own = [device.address(&screens[0], 0), device.address(&screens[1], 0)];
        let arguments = [of_pairs, &own, limits_and_sides, &[columns.into()], sizes].concat();
        // A warp has only rows, or only columns.
        let blocks = (rows.next_multiple_of(32) + columns).div_ceil(SCREENED);
        device.launch(SCREEN, Shape { grid: [blocks, 1], threads: SCREENED, shared_bytes: 0 }, &arguments)?;
        Ok(screens)
    }
}

/// A chunk's rows as bounds are found from them.
pub(super) struct Rounded<'a> {
    /// `sides`, then `halves` where they are not the features.
    pub(super) made: &'a Tensor,
    pub(super) features: &'a Tensor,
    pub(super) rows: usize,
    pub(super) width: usize,
}

impl Rounded<'_> {
    /// Whether features are multiplied as they are stored.
    fn as_stored(number: Number, width: usize) -> bool {
        number == Number::F16 && width.is_multiple_of(ALIGNMENT)
    }

    /// From one row to the next.
    fn stride(&self) -> usize {
        self.width.next_multiple_of(ALIGNMENT)
    }

    /// Where they begin.
    fn halves(&self, device: &Device, row: usize) -> u64 {
        let start = row * self.stride();
        if Self::as_stored(self.features.number, self.width) {
            device.place(self.features, start)
        } else {
            device.place(self.made, 4 * self.rows + start / 2)
        }
    }

    /// Bytes of what [`Rounded::make`] makes.
    pub(super) fn bytes(number: Number, rows: usize, width: usize) -> usize {
        let halves = if Self::as_stored(number, width) { 0 } else { width.next_multiple_of(ALIGNMENT) };
        rows * (16 + 2 * halves)
    }

    /// Rounds `features [rows, width]`.
    pub(super) fn make(device: &Device, features: &Tensor, rows: usize, width: usize) -> Result<Tensor> {
        let made = device.allocate(Number::F32, Self::bytes(features.number, rows, width) / 4)?;
        let rounded = Rounded { made: &made, features, rows, width };
        let stored = Self::as_stored(features.number, width);
        let arguments = [
            Argument::Address(if stored { 0 } else { rounded.halves(device, 0) }),
            device.address(&made, 0),
            device.address(features, 0),
            rows.into(),
            width.into(),
            rounded.stride().into(),
        ];
        let shape = Shape { grid: [rows.div_ceil(ROUNDED_ROWS), 1], threads: 32 * ROUNDED_ROWS, shared_bytes: 0 };
        device.launch(features.number.pick(ROUND), shape, &arguments)?;
        Ok(made)
    }
}
