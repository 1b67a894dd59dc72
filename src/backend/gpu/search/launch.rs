//! Launches `kernels/search.cu`.

use std::ops::Range;

use super::bounds::{Bounding, Rounded};
use super::rounds::Scanned;
use super::rows::Sent;
use super::{Asked, ENTRY_BYTES, LIMBS, OnDevice, Search};
use crate::backend::gpu::device::{Argument, Device, Shape};
use crate::backend::gpu::resident::rounded;
use crate::backend::gpu::tensor::{Number, Tensor};
use crate::error::Result;

pub(crate) const NAMES: [&str; 12] = {
    let ([a, b, c], [d, e, f], [g, h, i]) = (SCAN, SCAN_ONE, RESCORE);
    [a, b, c, d, e, f, g, h, i, ADD, SELECT, GATHER]
};
const SCAN: [&str; 3] = ["search_scan_f32", "search_scan_f16", "search_scan_bf16"];
/// The same of one query.
const SCAN_ONE: [&str; 3] = ["search_scan_one_f32", "search_scan_one_f16", "search_scan_one_bf16"];
const RESCORE: [&str; 3] = ["search_rescore_f32", "search_rescore_f16", "search_rescore_bf16"];
const ADD: &str = "search_add";
const SELECT: &str = "search_select";
const GATHER: &str = "search_gather";

/// Rows and queries of a block of the scan, and of that of one query.
const BLOCK: [usize; 2] = [64, 8];
const BLOCK_OF_ONE: [usize; 2] = [128, 1];
/// Records that a block scores one by one, and whose factors' sums it adds up.
const RESCORED: usize = 16;
const ADDED: usize = 256;
/// Of a block that selects, beside entries: what its warps and bins count.
const CUT_BYTES: usize = 4 * (2 * 16 + 256 + 2);
/// Groups whose totals a block adds up in shared memory.
const SHARED_GROUPS: usize = 16;

impl Search<'_> {
    pub(super) fn launch_scan(&self, rows: &Sent, range: &Range<usize>) -> Result<()> {
        let (device, asked, queries) = (self.device, &self.asked, &self.on_device);
        let factors = rows.factors(range);
        let sums = rows.factors.is_some().then(|| device.allocate(Number::F32, asked.queries * factors.len()));
        let sums = sums.transpose()?;
        let keeping = self.keeping();
        let totals = optional(device, queries.totals.as_ref().map(|totals| &totals[0]), 0);
        let own = [
            asked.groups.into(),
            self.of_queries(queries.after),
            // Of the sums of factors there is no total.
            if sums.is_some() { Argument::Address(0) } else { totals },
            optional(device, sums.as_ref(), 0),
        ];
        let (kernels, block) = if asked.queries == 1 { (SCAN_ONE, BLOCK_OF_ONE) } else { (SCAN, BLOCK) };
        let grid = [factors.len().div_ceil(block[0]) * asked.queries.div_ceil(block[1]), 1];
        let shared_bytes = if sums.is_some() { 0 } else { self.bytes_of_totals(block[1]) };
        if !factors.is_empty() {
            let arguments = [&self.of_pairs(rows, range)[..], &keeping, &own, &self.sizes()].concat();
            device.launch(
                rows.features.number.pick(kernels),
                Shape { grid, threads: 256, shared_bytes },
                &arguments,
            )?;
        }
        let (Some(of), Some(sums)) = (&rows.factors, sums) else { return Ok(()) };
        let [norms, indices, group_of] = self.of_records(rows, range);
        let arguments = [
            device.address(&sums, 0),
            device.address(&of.on_device, range.start),
            norms,
            indices,
            group_of,
            (rows.first + range.start).into(),
            range.len().into(),
            factors.len().into(),
            self.of_queries(Some(queries.norms)),
            asked.queries.into(),
        ];
        let arguments = [&arguments[..], &keeping, &own[..2], &[totals]].concat();
        let grid = [range.len().div_ceil(ADDED), asked.queries];
        device.launch(ADD, Shape { grid, threads: ADDED, shared_bytes: self.bytes_of_totals(1) }, &arguments)
    }

    /// Shared memory for the totals of a block's queries.
    fn bytes_of_totals(&self, queries: usize) -> usize {
        let Asked { totals, groups, .. } = self.asked;
        if totals && groups <= SHARED_GROUPS { queries * groups * LIMBS * size_of::<u64>() } else { 0 }
    }

    pub(super) fn launch_bounds(&self, bounding: &Bounding, Scanned { rows, range }: &Scanned) -> Result<()> {
        let (device, width) = (self.device, self.asked.width);
        if rows.rounded.get().is_none() {
            let make = || Rounded::make(device, &rows.features, rows.rows, width);
            let bytes = Rounded::bytes(rows.features.number, rows.rows, width);
            let made = device.resident_or(rows.key.as_ref().map(rounded), bytes, make)?;
            rows.rounded.get_or_init(|| made);
        }
        let made = rows.rounded.get().expect("just made");
        let part = (&Rounded { made, features: &rows.features, rows: rows.rows, width }, range.start, range.len());
        bounding.launch(device, part, &self.of_pairs(rows, range), &self.keeping(), &self.sizes())
    }

    /// Gives those of these rows that bounds have put behind what was kept their scores.
    pub(super) fn launch_rescore(
        &self,
        bounding: &Bounding,
        Scanned { rows, range }: &Scanned,
        counts: &[i32],
    ) -> Result<()> {
        let (device, queries) = (self.device, &self.on_device);
        let most = counts.iter().zip(&self.kept).map(|(count, kept)| count - kept).max().unwrap_or(0) as usize;
        if most == 0 {
            return Ok(());
        }
        let own = [
            device.address(&queries.kept, 0),
            device.address(&queries.counts, 0),
            device.address(&queries.memory, queries.scored),
            device.address(&bounding.candidates, 0),
            self.capacity.into(),
        ];
        let arguments = [&self.of_pairs(rows, range)[..], &own, &self.sizes()].concat();
        let shape = Shape { grid: [most.div_ceil(RESCORED), counts.len()], threads: 16 * RESCORED, shared_bytes: 0 };
        device.launch(rows.features.number.pick(RESCORE), shape, &arguments)
    }

    pub(super) fn launch_select(&mut self) -> Result<()> {
        let own = |tensor| self.device.address(tensor, 0);
        let OnDevice { memory, kept, counts, totals, .. } = &self.on_device;
        let [scored, limits] =
            [self.on_device.scored, self.on_device.limits].map(|place| self.device.address(memory, place));
        let [pending, totals] = match totals {
            Some([pending, totals]) => [own(pending), own(totals)],
            None => [Argument::Address(0); 2],
        };
        let (k, capacity) = (self.k.into(), self.capacity.into());
        let overflowed = self.device.address(counts, self.ends());
        let round = self.unseen.as_ref().map_or(0, Vec::len).into();
        let arguments = [own(kept), own(counts), overflowed, scored, limits, pending, totals, k, capacity, round];
        let shared_bytes = self.capacity * ENTRY_BYTES + CUT_BYTES;
        let shape = Shape { grid: [self.ends() / 2, 2], threads: 512, shared_bytes };
        self.device.launch(SELECT, shape, &arguments)
    }

    /// The arguments of every kernel that pairs rows with queries, for the factors of these records.
    fn of_pairs(&self, rows: &Sent, records: &Range<usize>) -> [Argument; 18] {
        let (device, asked, queries) = (self.device, &self.asked, &self.on_device);
        let factors = rows.factors(records);
        let coordinates = rows.factors.as_ref().and_then(|factors| factors.coordinates.as_ref());
        let own = |place| self.of_queries(place);
        // Of several factors a record, what is the record's own is asked when they are added up.
        let [norms, indices, group_of] =
            if rows.factors.is_some() { [Argument::Address(0); 3] } else { self.of_records(rows, records) };
        [
            device.address(&rows.features, factors.start * asked.width),
            optional(device, rows.deltas.as_deref(), factors.start * asked.classes),
            optional(device, coordinates, factors.start),
            norms,
            indices,
            group_of,
            (rows.first + records.start).into(),
            factors.len().into(),
            rows.factors(&(0..rows.rows)).len().into(),
            own(Some(0)),
            own(Some(queries.biases)),
            own(queries.weights),
            own(queries.classes),
            own(Some(queries.norms)),
            own(Some(queries.sets)),
            own(Some(queries.rates)),
            asked.queries.into(),
            asked.rates.len().into(),
        ]
    }

    /// Norms, indices and groups.
    fn of_records(&self, rows: &Sent, records: &Range<usize>) -> [Argument; 3] {
        [
            optional(self.device, rows.norms.as_deref(), records.start),
            self.device.address(&rows.indices, 2 * records.start),
            optional(self.device, rows.groups.as_ref(), records.start),
        ]
    }

    /// What is kept, how many, what they must reach, and how many there is room for.
    fn keeping(&self) -> [Argument; 4] {
        let OnDevice { kept, counts, limits, .. } = &self.on_device;
        let own = |tensor| self.device.address(tensor, 0);
        [own(kept), own(counts), self.of_queries(Some(*limits)), self.capacity.into()]
    }

    /// What was sent with the queries, or nothing.
    fn of_queries(&self, place: Option<usize>) -> Argument {
        place.map_or(Argument::Address(0), |place| self.device.address(&self.on_device.memory, place))
    }

    fn sizes(&self) -> [Argument; 3] {
        let Asked { width, classes, distance, .. } = self.asked;
        [width.into(), classes.into(), Argument::Integer(i32::from(distance))]
    }

    /// Both ends of all queries, `[Q, G, 2]` of `1 + k` entries, without the room beyond; the first holds how many
    /// there are, and which round was the first with too many.
    pub(super) fn gather(&self) -> Result<Tensor> {
        let (device, ends) = (self.device, self.ends());
        let gathered = device.allocate(Number::F32, ends * (1 + self.k) * ENTRY_BYTES / 4)?;
        let OnDevice { kept, counts, .. } = &self.on_device;
        let arguments = [
            device.address(&gathered, 0),
            device.address(kept, 0),
            device.address(counts, 0),
            device.address(counts, ends),
            self.k.into(),
            self.capacity.into(),
        ];
        device.launch(GATHER, Shape { grid: [ends, 1], threads: 128, shared_bytes: 0 }, &arguments)?;
        Ok(gathered)
    }
}

/// A buffer's address from an element on, or none.
fn optional(device: &Device, tensor: Option<&Tensor>, element: usize) -> Argument {
    tensor.map_or(Argument::Address(0), |tensor| device.address(tensor, element))
}
