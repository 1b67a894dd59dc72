//! Launches `kernels/search.cu`: rows that stream past queries, and both ends of each query's ranking in each group of rows.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use cudarc::driver::CudaEvent;

use super::Gpu;
use super::device::{Argument, Device, Shape};
use super::resident::{Key, rounded};
use super::search_bounds::{Bounding, Rounded};
use super::tensor::{Number, Tensor};
use crate::error::Result;
use crate::factors::Floats;

pub(super) const NAMES: [&str; 12] = {
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
/// What sums of factors on their way to their records' may take.
const SUMS_BYTES: usize = 256 << 20;
/// Entries that are sorted at a time, and so kept of a query's end: an entry is 16 bytes of shared memory.
const MOST_ENTRIES: usize = 4096;
const FEWEST_ENTRIES: usize = 1024;
const ENTRY_BYTES: usize = 16;
/// Of an exact sum, 64 bits each.
const LIMBS: usize = 10;
/// Groups whose totals a block adds up in shared memory.
const SHARED_GROUPS: usize = 16;

const CHUNK_BYTES: Range<usize> = 64 << 20..512 << 20;
/// See [`Search::most_rows`].
const BOUNDED_GROWTH: usize = 3;

/// The longest ends that are kept.
pub(crate) const MOST_KEPT: usize = MOST_ENTRIES / 4;

/// Queries side by side, pass by pass.
pub(crate) struct Asked<'a> {
    /// Q.
    pub(crate) queries: usize,
    /// E.
    pub(crate) width: usize,
    /// K.
    pub(crate) classes: usize,
    /// `[passes, Q]` of `[E]`.
    pub(crate) features: Vec<&'a [f32]>,
    /// `[passes, Q]`
    pub(crate) biases: Vec<f32>,
    pub(crate) weights: Weights,
    /// `[Q]`
    pub(crate) norms: Vec<f32>,
    /// The factor set that each pass reads.
    pub(crate) sets: Vec<i32>,
    /// What each pass is multiplied by.
    pub(crate) rates: Vec<f32>,
    /// Whether a score is minus a distance.
    pub(crate) distance: bool,
    /// G.
    pub(crate) groups: usize,
    /// Whether each group's scores are added up.
    pub(crate) totals: bool,
    /// What each end, `[Q, G, 2]`, comes after; empty for ends that begin with the best.
    pub(crate) after: Vec<Entry>,
    /// Whether bounds may leave records out: where rates are 1, there is one set, one group, no total and nothing to come after.
    pub(crate) bounds: bool,
}

/// What a record weighs in a pass: 1 where there is neither.
#[derive(Default)]
pub(crate) struct Weights {
    /// `δ_i[c]`: c `[passes, Q]`, −1 for those that weigh otherwise; empty where all do.
    pub(crate) classes: Vec<i32>,
    /// `δ_q·δ_i`: δ_q `[passes, Q, K]`, zeros for those that weigh otherwise; empty where all do.
    pub(crate) deltas: Vec<f32>,
}

/// Consecutive rows of a source.
pub(crate) struct Chunk<'a> {
    /// n.
    pub(crate) rows: usize,
    /// The number of the first over all chunks.
    pub(crate) first: usize,
    /// Where records have several factors, which they are; else each is its own.
    pub(crate) factors: Option<FactorsOf>,
    /// `[f, E]` of each set, of one type, f the factors.
    pub(crate) features: Vec<Floats<'a>>,
    /// `[sets, f, K]`, where δ is read.
    pub(crate) deltas: Option<Part<'a, f32>>,
    /// `[n]`, where scores are divided.
    pub(crate) norms: Option<Part<'a, f32>>,
    /// `[n]`: what ties are ordered by.
    pub(crate) indices: Part<'a, u64>,
    /// `[n]`, −1 for rows that are not searched; `None` where all are, in one group.
    pub(crate) groups: Option<Vec<i32>>,
    /// What the features are, where they may be asked for again.
    pub(crate) key: Option<Key>,
}

/// Numbers that go with a chunk's features: made and sent where the device does not have them yet.
pub(crate) struct Part<'a, T> {
    /// What they are, where they may be asked for again.
    pub(crate) key: Option<Key>,
    pub(crate) len: usize,
    pub(crate) make: Box<dyn FnOnce() -> Vec<T> + 'a>,
}

/// The factors of a chunk's records.
pub(crate) struct FactorsOf {
    /// `[n + 1]`: record i's are `offsets[i] .. offsets[i + 1]` of the chunk's.
    pub(crate) offsets: Vec<i32>,
    /// `[f]`: what a query's bias meets; `None` where all are 1.
    pub(crate) coordinates: Option<Vec<f32>>,
}

/// A kept record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) score: f32,
    /// Over all chunks.
    pub(crate) row: u32,
    pub(crate) index: u64,
}

/// What a query found in a group: the best first, at both ends.
pub(crate) struct Found {
    pub(crate) ends: [Vec<Entry>; 2],
    /// The exact sum of all scores, where it was asked for: signed, in units of 2⁻¹⁴⁹ · 2³²ⁱ.
    pub(crate) total: [i64; LIMBS],
    /// How many records were scored, where bounds left out the others.
    pub(crate) candidates: Option<u64>,
}

/// A search under way.
pub(crate) struct Search<'a> {
    device: &'a Device,
    asked: Asked<'a>,
    on_device: OnDevice,
    k: usize,
    /// Entries there is room for at each end.
    capacity: usize,
    /// How many each end has kept, `[Q, G, 2]`.
    kept: Vec<i32>,
    /// Rows that have passed, and those of them of which every score was computed, where they are searched.
    seen: usize,
    scored: usize,
    /// What is being scanned, all of it by bounds or none: nothing is known of how many records have reached an end.
    round: Vec<Scanned>,
    /// Where bounds may leave records out, and it has been worth it.
    bounding: Option<Bounding>,
}

/// The queries and what was found, on the device.
pub(super) struct OnDevice {
    /// The queries' features, and everything below that is a place, sent at once.
    pub(super) memory: Tensor,
    pub(super) biases: usize,
    classes: Option<usize>,
    weights: Option<usize>,
    norms: usize,
    sets: usize,
    rates: usize,
    after: Option<usize>,
    /// How many of those kept have their scores.
    scored: usize,
    limits: usize,
    kept: Tensor,
    counts: Tensor,
    /// Of what is being scanned, and of what was kept.
    totals: Option<[Tensor; 2]>,
}

/// Numbers of 32 bits that are sent together, each part from a multiple of 16 bytes on, behind others.
#[derive(Default)]
struct Words {
    /// How many those others are.
    start: usize,
    words: Vec<f32>,
}

impl Words {
    /// Where they begin.
    fn push(&mut self, part: &[f32]) -> usize {
        let place = (self.start + self.words.len()).next_multiple_of(4);
        self.words.resize(place - self.start, 0.0);
        self.words.extend_from_slice(part);
        place
    }

    /// The same, where there are any.
    fn push_some(&mut self, part: &[f32]) -> Option<usize> {
        (!part.is_empty()).then(|| self.push(part))
    }

    /// Those others, and these.
    fn behind<'w>(&'w self, others: &[&'w [f32]]) -> Vec<&'w [u8]> {
        others.iter().copied().chain([self.words.as_slice()]).map(bytemuck::cast_slice).collect()
    }
}

impl Gpu {
    /// Bytes of features that are best copied and scanned at a time: few launches, and a small part of the device's memory.
    pub(crate) fn chunk_bytes(&self) -> usize {
        (self.info().memory / 256).clamp(CHUNK_BYTES.start, CHUNK_BYTES.end)
    }

    /// Lets the next chunks be kept on the device in place of those that other searches left.
    pub(crate) fn begin_search(&self) {
        self.device.resident().begin();
    }

    /// Lets go of chunks that will not be asked for again.
    pub(crate) fn forget<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) {
        self.device.resident().forget_those(keys);
    }

    /// Bytes a search may have for what it keeps of its queries.
    pub(crate) fn search_memory(&self) -> usize {
        self.device.free_memory() / 4
    }

    /// Bytes of each query of each group, for ends of k.
    pub(crate) fn search_bytes(k: usize) -> usize {
        2 * capacity(k) * ENTRY_BYTES + 2 * LIMBS * size_of::<u64>()
    }

    /// Begins a search for the `k` ≤ [`MOST_KEPT`] best records at each end.
    pub(crate) fn search<'a>(&'a self, asked: Asked<'a>, k: usize) -> Result<Search<'a>> {
        assert!((1..=MOST_KEPT).contains(&k), "more records than are kept");
        let (device, groups) = (&self.device, asked.queries * asked.groups);
        let (ends, capacity) = (2 * groups, capacity(k));
        let limits: Vec<f32> = (0..ends).map(|end| [f32::NEG_INFINITY, f32::INFINITY][end % 2]).collect();
        assert!(asked.after.is_empty() || asked.after.len() == ends, "an entry for each end");
        let after: Vec<f32> = asked.after.iter().flat_map(Entry::words).collect();
        let zeros = |len| device.upload(Number::F32, &vec![0; 4 * len]);
        let mut words = Words { start: asked.features.len() * asked.width, ..Words::default() };
        let on_device = OnDevice {
            biases: words.push(&asked.biases),
            classes: words.push_some(bytemuck::cast_slice(&asked.weights.classes)),
            weights: words.push_some(&asked.weights.deltas),
            norms: words.push(&asked.norms),
            sets: words.push(bytemuck::cast_slice(&asked.sets)),
            rates: words.push(&asked.rates),
            after: words.push_some(&after),
            scored: words.push(&vec![0.0; ends]),
            limits: words.push(&limits),
            memory: device.upload_parts(Number::F32, &words.behind(&asked.features))?,
            kept: device.allocate(Number::F32, ends * capacity * ENTRY_BYTES / 4)?,
            counts: zeros(ends)?,
            totals: if asked.totals {
                let sums = || zeros(groups * LIMBS * 2);
                Some([sums()?, sums()?])
            } else {
                None
            },
        };
        let bounding = asked.bounds.then(|| Bounding::new(device, self.products, &asked, &on_device, k)).transpose()?;
        let (kept, round) = (vec![0; ends], Vec::new());
        Ok(Search { device, asked, on_device, k, capacity, kept, seen: 0, scored: 0, round, bounding })
    }

    /// Begins to copy a chunk to the device, beside what is computed there; of features that are there already there is nothing to copy.
    pub(crate) fn send(&self, chunk: Chunk<'_>) -> Result<Sent> {
        let device = &self.device;
        let words = |values: &[f32]| device.send(Number::F32, &[bytemuck::cast_slice(values)]);
        let integers = |values: &[i32]| words(bytemuck::cast_slice(values));
        let factors = |of: FactorsOf| -> Result<_> {
            let coordinates = of.coordinates.as_deref().map(words).transpose()?;
            Ok(SentFactors { on_device: integers(&of.offsets)?, offsets: of.offsets, coordinates })
        };
        Ok(Sent {
            rows: chunk.rows,
            first: chunk.first,
            features: self.features(&chunk)?,
            deltas: chunk.deltas.map(|deltas| self.part(deltas)).transpose()?,
            norms: chunk.norms.map(|norms| self.part(norms)).transpose()?,
            indices: self.part(chunk.indices)?,
            groups: chunk.groups.as_deref().map(integers).transpose()?,
            group_of: chunk.groups,
            factors: chunk.factors.map(factors).transpose()?,
            key: chunk.key,
            rounded: OnceCell::new(),
            arrived: device.sent()?,
        })
    }

    /// A part on the device, or sent, and kept there where there is room.
    fn part<T: bytemuck::NoUninit>(&self, part: Part<'_, T>) -> Result<Arc<Tensor>> {
        let Part { key, len, make } = part;
        let send = || self.device.send(Number::F32, &[bytemuck::cast_slice(&make())]);
        self.device.resident_or(key, len * size_of::<T>(), send)
    }

    /// The sets one behind the other, as they are stored: those on the device, or sent, and kept there where there is room.
    fn features(&self, chunk: &Chunk<'_>) -> Result<Arc<Tensor>> {
        let (device, sets) = (&self.device, &chunk.features);
        let number = sets.first().map_or(Number::F32, number_of);
        assert!(sets.iter().all(|set| i32::try_from(set.len()).is_ok()), "kernels count a chunk's numbers in 31 bits");
        assert!(sets.iter().all(|set| number_of(set) == number), "factor sets of several types");
        let bytes = sets.iter().map(Floats::len).sum::<usize>() * number.bytes();
        device.resident_or(chunk.key, bytes, || {
            let parts: Vec<Cow<'_, [u8]>> = sets.iter().map(stored).collect();
            device.send(number, &parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())
        })
    }
}

/// A chunk's rows on the device, or on their way to it.
pub(crate) struct Sent {
    rows: usize,
    first: usize,
    features: Arc<Tensor>,
    deltas: Option<Arc<Tensor>>,
    norms: Option<Arc<Tensor>>,
    indices: Arc<Tensor>,
    groups: Option<Tensor>,
    group_of: Option<Vec<i32>>,
    factors: Option<SentFactors>,
    key: Option<Key>,
    /// What bounds are found from, once they are.
    rounded: OnceCell<Arc<Tensor>>,
    /// When all of it is there.
    arrived: CudaEvent,
}

/// Where each record's factors are.
struct SentFactors {
    offsets: Vec<i32>,
    on_device: Tensor,
    coordinates: Option<Tensor>,
}

impl Sent {
    /// The rows of factors that records have.
    fn factors(&self, records: &Range<usize>) -> Range<usize> {
        match &self.factors {
            None => records.clone(),
            Some(SentFactors { offsets, .. }) => offsets[records.start] as usize..offsets[records.end] as usize,
        }
    }

    /// Whether the device keeps it in any case.
    fn stays(&self) -> bool {
        Arc::strong_count(&self.features) > 1
    }

    /// How many of these records are searched.
    fn searched(&self, records: &Range<usize>) -> usize {
        let groups = self.group_of.as_ref().map(|groups| &groups[records.clone()]);
        groups.map_or(records.len(), |groups| groups.iter().filter(|&&group| group >= 0).count())
    }
}

/// Some of a chunk's rows.
struct Scanned {
    rows: Rc<Sent>,
    range: Range<usize>,
}

impl Scanned {
    /// The first so many rows, and the others.
    fn split_at(self, middle: usize) -> [Self; 2] {
        let Range { start, end } = self.range;
        let part = |range| Self { rows: Rc::clone(&self.rows), range };
        [part(start..start + middle), part(start + middle..end)]
    }
}

/// Rounds: what is scanned before anybody looks at how many records have reached an end. There is room for all that are expected to, in any order
/// that does not favour them; where there was not, nothing has been kept yet, and half as many rows are scanned again.
impl Search<'_> {
    /// Scores a chunk's rows. When this returns they may still be being scanned, those before them no longer where the device keeps none of them.
    pub(crate) fn scan(&mut self, rows: Sent) -> Result<()> {
        if self.round.iter().any(|scanned| !scanned.rows.stays()) {
            self.settle()?;
        }
        self.device.await_sent(&rows.arrived)?;
        let (rows, mut start) = (Rc::new(rows), 0);
        while start < rows.rows {
            let room = self.most_rows().saturating_sub(self.rows_in_round());
            if room == 0 {
                self.settle()?;
                continue;
            }
            let end = self.fitting(&rows, start..rows.rows.min(start + room));
            self.launch(Scanned { rows: Rc::clone(&rows), range: start..end })?;
            start = end;
        }
        Ok(())
    }

    /// Rows of a round: at first as many as there is room to keep, then some times as many as there were. Of m times as many, m k are expected to reach
    /// the limit of before: half of the room is for those that are not expected. What bounds let through is scored one by one, so that limits are kept closer.
    fn most_rows(&self) -> usize {
        let most = self.capacity / (2 * self.k) - 1;
        let growth = if self.bounds() { most.min(BOUNDED_GROWTH) } else { most };
        (self.seen * growth).max(self.capacity)
    }

    /// Whether the round goes by bounds. Limits come first: without them every record is a candidate.
    fn bounds(&self) -> bool {
        self.bounding.is_some() && self.seen >= self.capacity
    }

    fn rows_in_round(&self) -> usize {
        self.round.iter().map(|scanned| scanned.range.len()).sum()
    }

    /// Adds rows to the round.
    fn launch(&mut self, scanned: Scanned) -> Result<()> {
        match &self.bounding {
            Some(bounding) if self.bounds() => self.launch_bounds(bounding, &scanned)?,
            _ => self.launch_scan(&scanned.rows, &scanned.range)?,
        }
        self.round.push(scanned);
        Ok(())
    }

    /// Waits for the round, and keeps the best of it.
    fn settle(&mut self) -> Result<()> {
        if self.round.is_empty() {
            return Ok(());
        }
        let counts = self.counts()?;
        let fit = counts.iter().all(|&count| count as usize <= self.capacity);
        if !self.is_worth(&counts, fit) {
            self.restore()?;
            self.bounding = None;
            let round = std::mem::take(&mut self.round);
            round.into_iter().try_for_each(|scanned| self.launch(scanned))?;
            return self.settle();
        }
        if !fit {
            self.restore()?;
            return self.scan_halves();
        }
        if let Some(bounding) = self.bounding.as_ref().filter(|_| self.bounds()) {
            self.round.iter().try_for_each(|scanned| self.launch_rescore(bounding, scanned, &counts))?;
        } else {
            self.scored += self.round.iter().map(|scanned| scanned.rows.searched(&scanned.range)).sum::<usize>();
        }
        self.kept = counts.into_iter().map(|count| count.min(self.k as i32)).collect();
        self.launch_select()?;
        self.seen += self.rows_in_round();
        self.round.clear();
        Ok(())
    }

    /// Whether bounds, where these came of them, leave out enough.
    fn is_worth(&mut self, counts: &[i32], fit: bool) -> bool {
        let (bounds, rows) = (self.bounds(), self.rows_in_round());
        let Some(bounding) = self.bounding.as_mut().filter(|_| bounds) else { return true };
        let candidates = counts.iter().zip(&self.kept).map(|(count, kept)| (count - kept) as usize).sum();
        bounding.is_worth(candidates, self.asked.queries * rows, fit)
    }

    /// Two rounds in place of this one, each again two where it has to be: `capacity − k` rows always fit.
    fn scan_halves(&mut self) -> Result<()> {
        let mut middle = self.rows_in_round().div_ceil(2);
        let mut halves = [Vec::new(), Vec::new()];
        for scanned in std::mem::take(&mut self.round) {
            let here = middle.min(scanned.range.len());
            middle -= here;
            for (half, part) in halves.iter_mut().zip(scanned.split_at(here)) {
                if !part.range.is_empty() {
                    half.push(part);
                }
            }
        }
        for half in halves {
            half.into_iter().try_for_each(|scanned| self.launch(scanned))?;
            self.settle()?;
        }
        Ok(())
    }

    /// Where to end, so that there is room for the sums of these records' factors.
    fn fitting(&self, rows: &Sent, records: Range<usize>) -> usize {
        let Some(SentFactors { offsets, .. }) = &rows.factors else { return records.end };
        let most = i64::from(offsets[records.start]) + (SUMS_BYTES / 4 / self.asked.queries) as i64;
        let fitting = offsets[records.start + 1..=records.end].partition_point(|&end| i64::from(end) <= most);
        records.end.min(records.start + fitting.max(1))
    }

    fn launch_scan(&self, rows: &Sent, range: &Range<usize>) -> Result<()> {
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
        let grid = [factors.len().div_ceil(block[0]), asked.queries.div_ceil(block[1])];
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

    fn launch_bounds(&self, bounding: &Bounding, Scanned { rows, range }: &Scanned) -> Result<()> {
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
    fn launch_rescore(&self, bounding: &Bounding, Scanned { rows, range }: &Scanned, counts: &[i32]) -> Result<()> {
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

    fn launch_select(&mut self) -> Result<()> {
        let own = |tensor| self.device.address(tensor, 0);
        let OnDevice { memory, kept, counts, totals, .. } = &self.on_device;
        let [scored, limits] =
            [self.on_device.scored, self.on_device.limits].map(|place| self.device.address(memory, place));
        let [pending, totals] = match totals {
            Some([pending, totals]) => [own(pending), own(totals)],
            None => [Argument::Address(0); 2],
        };
        let (k, capacity) = (self.k.into(), self.capacity.into());
        let arguments = [own(kept), own(counts), scored, limits, pending, totals, k, capacity];
        let shared_bytes = self.capacity * ENTRY_BYTES;
        let shape = Shape { grid: [self.kept.len() / 2, 2], threads: 512, shared_bytes };
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

    /// How many records have reached each end; what is beyond the capacity was only counted.
    fn counts(&self) -> Result<Vec<i32>> {
        self.download(&self.on_device.counts, self.kept.len())
    }

    fn download(&self, integers: &Tensor, len: usize) -> Result<Vec<i32>> {
        let read = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&word| i32::from_le_bytes(word)).collect();
        self.device.download(integers, 4 * len, read)
    }

    /// As if what was scanned last had not been.
    fn restore(&mut self) -> Result<()> {
        self.on_device.counts = self.device.upload(Number::F32, bytemuck::cast_slice(&self.kept))?;
        if let Some([pending, _]) = &mut self.on_device.totals {
            *pending = self.device.upload(Number::F32, &vec![0; pending.len * 4])?;
        }
        Ok(())
    }

    /// What each query found in each group, `[Q, G]`.
    pub(crate) fn finish(mut self) -> Result<Vec<Found>> {
        self.settle()?;
        let groups = self.kept.len() / 2;
        let totals = match &self.on_device.totals {
            None => vec![[0; LIMBS]; groups],
            Some([_, totals]) => self.device.download(totals, groups * LIMBS * 8, |bytes| {
                let limbs: Vec<i64> = bytes.as_chunks().0.iter().map(|&limb| i64::from_le_bytes(limb)).collect();
                limbs.as_chunks().0.to_vec()
            })?,
        };
        // Bounds are of queries in one group.
        let bounded = self.bounding.as_ref().map(|bounding| self.download(&bounding.candidates, groups)).transpose()?;
        let candidates = |query: usize| bounded.as_ref().map(|counts| self.scored as u64 + counts[query] as u64);
        let (gathered, end_bytes) = (self.gather()?, self.k * ENTRY_BYTES);
        self.device.download(&gathered, self.kept.len() * end_bytes, |bytes| {
            let end = |number: usize| {
                let (entries, _) = bytes[number * end_bytes..].as_chunks();
                entries[..self.kept[number] as usize].iter().map(Entry::read).collect()
            };
            let found = |(group, total)| {
                let ends = [end(2 * group), end(2 * group + 1)];
                Found { ends, total, candidates: candidates(group) }
            };
            totals.into_iter().enumerate().map(found).collect()
        })
    }

    /// Both ends of all queries, `[Q, G, 2, k]`, without the room beyond.
    fn gather(&self) -> Result<Tensor> {
        let (device, ends) = (self.device, self.kept.len());
        let gathered = device.allocate(Number::F32, ends * self.k * ENTRY_BYTES / 4)?;
        let [to, from, counts] =
            [&gathered, &self.on_device.kept, &self.on_device.counts].map(|tensor| device.address(tensor, 0));
        let arguments = [to, from, counts, self.k.into(), self.capacity.into()];
        device.launch(GATHER, Shape { grid: [ends, 1], threads: 128, shared_bytes: 0 }, &arguments)?;
        Ok(gathered)
    }
}

/// A buffer's address from an element on, or none.
fn optional(device: &Device, tensor: Option<&Tensor>, element: usize) -> Argument {
    tensor.map_or(Argument::Address(0), |tensor| device.address(tensor, element))
}

/// Entries there is room for at each end of k.
fn capacity(k: usize) -> usize {
    (4 * k).next_power_of_two().clamp(FEWEST_ENTRIES, MOST_ENTRIES)
}

impl Entry {
    fn read(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let (words, _) = bytes.as_chunks();
        let [score, row, low, high] = [0, 1, 2, 3].map(|word: usize| u32::from_le_bytes(words[word]));
        Self { score: f32::from_bits(score), row, index: u64::from(high) << 32 | u64::from(low) }
    }

    fn words(&self) -> [f32; ENTRY_BYTES / 4] {
        [self.score.to_bits(), self.row, self.index as u32, (self.index >> 32) as u32].map(f32::from_bits)
    }
}

/// Numbers as they are stored; integers as the numbers they stand for.
fn stored<'a>(set: &Floats<'a>) -> Cow<'a, [u8]> {
    match *set {
        Floats::F32(values) => bytemuck::cast_slice(values).into(),
        Floats::F16(values) => bytemuck::cast_slice(values).into(),
        Floats::Bf16(values) => bytemuck::cast_slice(values).into(),
        Floats::Int8(rows) => bytemuck::cast_slice(&rows.to_f32()).to_vec().into(),
    }
}

/// As what numbers of this type lie on the device.
fn number_of(set: &Floats<'_>) -> Number {
    match set {
        Floats::F32(_) | Floats::Int8(_) => Number::F32,
        Floats::F16(_) => Number::F16,
        Floats::Bf16(_) => Number::Bf16,
    }
}
