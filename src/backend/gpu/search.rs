//! Launches `kernels/search.cu`: rows that stream past queries, and both ends of each query's ranking in each group of rows.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaEvent;

use super::Gpu;
use super::device::{Argument, Device, Shape};
use super::resident::Key;
use super::tensor::{Number, Tensor};
use crate::error::Result;
use crate::factors::Floats;

pub(super) const NAMES: [&str; 4] = {
    let [a, b, c] = SCAN;
    [a, b, c, SELECT]
};
const SCAN: [&str; 3] = ["search_scan_f32", "search_scan_f16", "search_scan_bf16"];
const SELECT: &str = "search_select";

/// Rows and queries of a block of the scan.
const BLOCK: [usize; 2] = [64, 8];
/// Entries that are sorted at a time, and so kept of a query's end: an entry is 16 bytes of shared memory.
const MOST_ENTRIES: usize = 4096;
const FEWEST_ENTRIES: usize = 1024;
const ENTRY_BYTES: usize = 16;
/// Of an exact sum, 64 bits each.
const LIMBS: usize = 10;
/// Groups whose totals a block adds up in shared memory.
const SHARED_GROUPS: usize = 16;
/// Of memory, a part is left to a model at work and to the next store.
const KEPT_FREE: usize = 8;

/// The longest ends that are kept.
pub(crate) const MOST_KEPT: usize = MOST_ENTRIES / 4;

/// Queries side by side, pass by pass.
pub(crate) struct Asked {
    /// Q.
    pub(crate) queries: usize,
    /// E.
    pub(crate) width: usize,
    /// K.
    pub(crate) classes: usize,
    /// `[passes, Q, E]`
    pub(crate) features: Vec<f32>,
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
}

/// What a record weighs in a pass.
pub(crate) enum Weights {
    One,
    /// `δ_q·δ_i`: δ_q `[passes, Q, K]`.
    Deltas(Vec<f32>),
    /// `δ_i[c]`: c `[passes, Q]`.
    Classes(Vec<i32>),
}

/// Consecutive rows of a source.
pub(crate) struct Chunk<'a> {
    /// n.
    pub(crate) rows: usize,
    /// The number of the first over all chunks.
    pub(crate) first: usize,
    /// `[n, E]` of each set, of one type.
    pub(crate) features: Vec<Floats<'a>>,
    /// `[sets, n, K]`, empty where δ is not read.
    pub(crate) deltas: Vec<f32>,
    /// `[n]`, where scores are divided.
    pub(crate) norms: Option<Vec<f32>>,
    /// `[n]`: what ties are ordered by.
    pub(crate) indices: Vec<u64>,
    /// `[n]`, −1 for rows that are not searched; `None` where all are, in one group.
    pub(crate) groups: Option<Vec<i32>>,
    /// What the features are, where they may be asked for again.
    pub(crate) key: Option<Key>,
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
}

/// A search under way.
pub(crate) struct Search<'a> {
    device: &'a Device,
    asked: Asked,
    on_device: OnDevice,
    k: usize,
    /// Entries there is room for at each end.
    capacity: usize,
    /// How many each end has kept, `[Q, G, 2]`.
    kept: Vec<i32>,
    /// Rows that have passed.
    seen: usize,
}

/// The queries and what was found, on the device.
struct OnDevice {
    features: Tensor,
    biases: Tensor,
    weights: Option<Tensor>,
    norms: Tensor,
    sets: Tensor,
    rates: Tensor,
    after: Option<Tensor>,
    kept: Tensor,
    counts: Tensor,
    limits: Tensor,
    /// Of what is being scanned, and of what was kept.
    totals: Option<[Tensor; 2]>,
}

impl Gpu {
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
    pub(crate) fn search(&self, asked: Asked, k: usize) -> Result<Search<'_>> {
        assert!((1..=MOST_KEPT).contains(&k), "more records than are kept");
        let (device, groups) = (&self.device, asked.queries * asked.groups);
        let (ends, capacity) = (2 * groups, capacity(k));
        let words = |values: &[f32]| device.upload(Number::F32, bytemuck::cast_slice(values));
        let limits: Vec<f32> = (0..ends).map(|end| [f32::NEG_INFINITY, f32::INFINITY][end % 2]).collect();
        let weights = match &asked.weights {
            Weights::One => None,
            Weights::Deltas(deltas) => Some(words(deltas)?),
            Weights::Classes(classes) => Some(words(bytemuck::cast_slice(classes))?),
        };
        assert!(asked.after.is_empty() || asked.after.len() == ends, "an entry for each end");
        let after: Vec<u8> = asked.after.iter().flat_map(Entry::bytes).collect();
        let sums = || words(&vec![0.0; groups * LIMBS * 2]);
        let on_device = OnDevice {
            features: words(&asked.features)?,
            biases: words(&asked.biases)?,
            weights,
            norms: words(&asked.norms)?,
            sets: words(bytemuck::cast_slice(&asked.sets))?,
            rates: words(&asked.rates)?,
            after: (!after.is_empty()).then(|| device.upload(Number::F32, &after)).transpose()?,
            kept: device.allocate(Number::F32, ends * capacity * ENTRY_BYTES / 4)?,
            counts: words(&vec![0.0; ends])?,
            limits: words(&limits)?,
            totals: if asked.totals { Some([sums()?, sums()?]) } else { None },
        };
        Ok(Search { device, asked, on_device, k, capacity, kept: vec![0; ends], seen: 0 })
    }

    /// Begins to copy a chunk to the device, beside what is computed there; of features that are there already there is nothing to copy.
    pub(crate) fn send(&self, chunk: &Chunk<'_>) -> Result<Sent> {
        let device = &self.device;
        let words = |values: &[f32]| device.send(Number::F32, &[bytemuck::cast_slice(values)]);
        Ok(Sent {
            rows: chunk.rows,
            first: chunk.first,
            features: self.features(chunk)?,
            deltas: (!chunk.deltas.is_empty()).then(|| words(&chunk.deltas)).transpose()?,
            norms: chunk.norms.as_deref().map(words).transpose()?,
            indices: device.send(Number::F32, &[bytemuck::cast_slice(&chunk.indices)])?,
            groups: chunk.groups.as_deref().map(|groups| words(bytemuck::cast_slice(groups))).transpose()?,
            arrived: device.sent()?,
        })
    }

    /// The sets one behind the other, as they are stored: those on the device, or sent, and kept there where there is room.
    fn features(&self, chunk: &Chunk<'_>) -> Result<Arc<Tensor>> {
        let (device, resident) = (&self.device, self.device.resident());
        if let Some(features) = chunk.key.as_ref().and_then(|key| resident.get(key)) {
            return Ok(features);
        }
        let parts: Vec<(Number, Cow<'_, [u8]>)> = chunk.features.iter().map(stored).collect();
        let number = parts.first().map_or(Number::F32, |part| part.0);
        assert!(
            chunk.features.iter().all(|set| i32::try_from(set.len()).is_ok()),
            "kernels count a chunk's numbers in 31 bits"
        );
        assert!(parts.iter().all(|part| part.0 == number), "factor sets of several types");
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.1.as_ref()).collect();
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let has_room = || device.free_memory().saturating_sub(bytes) > device.info().memory / KEPT_FREE;
        let keep = chunk.key.filter(|_| has_room() || (resident.forget_unread() && has_room()));
        let features = Arc::new(device.send(number, &parts)?);
        if let Some(key) = keep {
            resident.keep(key, &features);
        }
        Ok(features)
    }
}

/// A chunk's rows on the device, or on their way to it.
pub(crate) struct Sent {
    rows: usize,
    first: usize,
    features: Arc<Tensor>,
    deltas: Option<Tensor>,
    norms: Option<Tensor>,
    indices: Tensor,
    groups: Option<Tensor>,
    /// When all of it is there.
    arrived: CudaEvent,
}

/// A chunk that is being scanned.
pub(crate) struct Scanning {
    rows: Sent,
    /// What is being scanned, and what is to be scanned after it, the last first.
    range: Range<usize>,
    left: Vec<Range<usize>>,
}

impl Search<'_> {
    /// Begins to score a chunk's rows: at first as many as there is room to keep, then as many again as there were, since few of them will be
    /// among the best.
    pub(crate) fn begin(&self, rows: Sent) -> Result<Scanning> {
        self.device.await_sent(&rows.arrived)?;
        let mut scanning = Scanning { left: std::iter::once(0..rows.rows).collect(), range: 0..0, rows };
        self.next(&mut scanning)?;
        Ok(scanning)
    }

    /// Scores what is left of a chunk, and keeps the best.
    pub(crate) fn complete(&mut self, mut scanning: Scanning) -> Result<()> {
        while !scanning.range.is_empty() {
            let Range { start, end } = scanning.range;
            if self.all_fit()? {
                self.launch_select()?;
                self.seen += end - start;
            } else {
                // Nothing has been kept of them yet. Half of them, and half again: `capacity − k` rows always fit.
                self.restore()?;
                let middle = usize::midpoint(start, end);
                scanning.left.extend([middle..end, start..middle]);
            }
            self.next(&mut scanning)?;
        }
        Ok(())
    }

    /// Begins to scan the next rows there are, none where there are none.
    fn next(&self, scanning: &mut Scanning) -> Result<()> {
        scanning.range = 0..0;
        let Some(Range { start, end }) = scanning.left.pop() else { return Ok(()) };
        let middle = end.min(start + self.seen.max(self.capacity));
        if middle < end {
            scanning.left.push(middle..end);
        }
        scanning.range = start..middle;
        if scanning.range.is_empty() { Ok(()) } else { self.launch_scan(&scanning.rows, &scanning.range) }
    }

    fn launch_scan(&self, rows: &Sent, range: &Range<usize>) -> Result<()> {
        let (device, asked, queries) = (self.device, &self.asked, &self.on_device);
        let optional = |tensor: Option<&Tensor>, element| match tensor {
            Some(tensor) => device.address(tensor, element),
            None => Argument::Address(0),
        };
        let weights = queries.weights.as_ref();
        let deltas = weights.filter(|_| matches!(asked.weights, Weights::Deltas(_)));
        let classes = weights.filter(|_| matches!(asked.weights, Weights::Classes(_)));
        let own = |tensor| device.address(tensor, 0);
        let arguments = [
            device.address(&rows.features, range.start * asked.width),
            optional(rows.deltas.as_ref(), range.start * asked.classes),
            optional(rows.norms.as_ref(), range.start),
            device.address(&rows.indices, 2 * range.start),
            optional(rows.groups.as_ref(), range.start),
            (rows.first + range.start).into(),
            range.len().into(),
            rows.rows.into(),
            own(&queries.features),
            own(&queries.biases),
            optional(deltas, 0),
            optional(classes, 0),
            own(&queries.norms),
            own(&queries.sets),
            own(&queries.rates),
            asked.queries.into(),
            asked.rates.len().into(),
            own(&queries.kept),
            own(&queries.counts),
            own(&queries.limits),
            self.capacity.into(),
            asked.groups.into(),
            optional(queries.after.as_ref(), 0),
            optional(queries.totals.as_ref().map(|totals| &totals[0]), 0),
            asked.width.into(),
            asked.classes.into(),
            Argument::Integer(i32::from(asked.distance)),
        ];
        let in_shared = asked.totals && asked.groups <= SHARED_GROUPS;
        let shared_bytes = if in_shared { BLOCK[1] * asked.groups * LIMBS * size_of::<u64>() } else { 0 };
        let grid = [range.len().div_ceil(BLOCK[0]), asked.queries.div_ceil(BLOCK[1])];
        device.launch(rows.features.number.pick(SCAN), Shape { grid, threads: 256, shared_bytes }, &arguments)
    }

    fn launch_select(&mut self) -> Result<()> {
        let own = |tensor| self.device.address(tensor, 0);
        let OnDevice { kept, counts, limits, totals, .. } = &self.on_device;
        let [pending, totals] = match totals {
            Some([pending, totals]) => [own(pending), own(totals)],
            None => [Argument::Address(0); 2],
        };
        let arguments = [own(kept), own(counts), own(limits), pending, totals, self.k.into(), self.capacity.into()];
        let shared_bytes = self.capacity * ENTRY_BYTES;
        let shape = Shape { grid: [self.kept.len() / 2, 2], threads: 512, shared_bytes };
        self.device.launch(SELECT, shape, &arguments)
    }

    /// Whether there was room for every record that reached a limit; notes how many each end will keep.
    fn all_fit(&mut self) -> Result<bool> {
        let read = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&word| i32::from_le_bytes(word)).collect();
        let counts: Vec<i32> = self.device.download(&self.on_device.counts, 4 * self.kept.len(), read)?;
        if counts.iter().any(|&count| count as usize > self.capacity) {
            return Ok(false);
        }
        self.kept = counts.into_iter().map(|count| count.min(self.k as i32)).collect();
        Ok(true)
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
    pub(crate) fn finish(self) -> Result<Vec<Found>> {
        let groups = self.kept.len() / 2;
        let totals = match &self.on_device.totals {
            None => vec![[0; LIMBS]; groups],
            Some([_, totals]) => self.device.download(totals, groups * LIMBS * 8, |bytes| {
                let limbs: Vec<i64> = bytes.as_chunks().0.iter().map(|&limb| i64::from_le_bytes(limb)).collect();
                limbs.as_chunks().0.to_vec()
            })?,
        };
        let end_bytes = self.capacity * ENTRY_BYTES;
        self.device.download(&self.on_device.kept, self.kept.len() * end_bytes, |bytes| {
            let end = |number: usize| {
                let (entries, _) = bytes[number * end_bytes..].as_chunks();
                entries[..self.kept[number] as usize].iter().map(Entry::read).collect()
            };
            let found = |(group, total)| Found { ends: [end(2 * group), end(2 * group + 1)], total };
            totals.into_iter().enumerate().map(found).collect()
        })
    }
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

    fn bytes(&self) -> [u8; ENTRY_BYTES] {
        let words = [self.score.to_bits(), self.row, self.index as u32, (self.index >> 32) as u32];
        bytemuck::cast(words.map(u32::to_le))
    }
}

/// Numbers as they are stored; integers as the numbers they stand for.
fn stored<'a>(set: &Floats<'a>) -> (Number, Cow<'a, [u8]>) {
    match *set {
        Floats::F32(values) => (Number::F32, bytemuck::cast_slice(values).into()),
        Floats::F16(values) => (Number::F16, bytemuck::cast_slice(values).into()),
        Floats::Bf16(values) => (Number::Bf16, bytemuck::cast_slice(values).into()),
        Floats::Int8(rows) => (Number::F32, bytemuck::cast_slice(&rows.to_f32()).to_vec().into()),
    }
}
