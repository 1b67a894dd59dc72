//! Launches `kernels/search.cu`: rows that stream past queries, and both ends of each query's ranking.

use super::Gpu;
use super::device::{Argument, Device, Shape};
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
}

/// A kept record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) score: f32,
    /// Over all chunks.
    pub(crate) row: u32,
    pub(crate) index: u64,
}

/// A search under way.
pub(crate) struct Search<'a> {
    device: &'a Device,
    asked: Asked,
    on_device: OnDevice,
    k: usize,
    /// Entries there is room for at each end.
    capacity: usize,
    /// How many each end has kept, `[Q, 2]`.
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
    kept: Tensor,
    counts: Tensor,
    limits: Tensor,
}

impl Gpu {
    /// Begins a search for the `k` ≤ [`MOST_KEPT`] best records at each end.
    pub(crate) fn search(&self, asked: Asked, k: usize) -> Result<Search<'_>> {
        assert!((1..=MOST_KEPT).contains(&k), "more records than are kept");
        let (device, ends) = (&self.device, 2 * asked.queries);
        let capacity = (4 * k).next_power_of_two().clamp(FEWEST_ENTRIES, MOST_ENTRIES);
        let words = |values: &[f32]| device.upload(Number::F32, bytemuck::cast_slice(values));
        let limits: Vec<f32> = (0..ends).map(|end| [f32::NEG_INFINITY, f32::INFINITY][end % 2]).collect();
        let weights = match &asked.weights {
            Weights::One => None,
            Weights::Deltas(deltas) => Some(words(deltas)?),
            Weights::Classes(classes) => Some(words(bytemuck::cast_slice(classes))?),
        };
        let on_device = OnDevice {
            features: words(&asked.features)?,
            biases: words(&asked.biases)?,
            weights,
            norms: words(&asked.norms)?,
            sets: words(bytemuck::cast_slice(&asked.sets))?,
            rates: words(&asked.rates)?,
            kept: device.allocate(Number::F32, ends * capacity * ENTRY_BYTES / 4)?,
            counts: words(&vec![0.0; ends])?,
            limits: words(&limits)?,
        };
        Ok(Search { device, asked, on_device, k, capacity, kept: vec![0; ends], seen: 0 })
    }
}

impl Search<'_> {
    /// How many rows are best taken next: at first as many as there is room to keep, then as many again as there were, since few of them will be
    /// among the best.
    pub(crate) fn next_rows(&self) -> usize {
        self.seen.max(self.capacity)
    }

    /// Scores a chunk's rows, and keeps the best.
    pub(crate) fn take(&mut self, chunk: &Chunk<'_>) -> Result<()> {
        let on_device = ChunkOnDevice::upload(self.device, chunk)?;
        let mut ranges = Vec::from([(0, chunk.rows)]);
        while let Some((start, end)) = ranges.pop() {
            let rows = start..end;
            self.launch_scan(chunk, &on_device, &rows)?;
            if self.all_fit()? {
                self.launch_select()?;
                self.seen += rows.len();
            } else {
                // Nothing has been kept of them yet. Half of them, and half again: `capacity − k` rows always fit.
                self.restore_counts()?;
                let middle = usize::midpoint(start, end);
                ranges.extend([(middle, end), (start, middle)]);
            }
        }
        Ok(())
    }

    fn launch_scan(&self, chunk: &Chunk<'_>, rows: &ChunkOnDevice, range: &std::ops::Range<usize>) -> Result<()> {
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
            (chunk.first + range.start).into(),
            range.len().into(),
            chunk.rows.into(),
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
            asked.width.into(),
            asked.classes.into(),
            Argument::Integer(i32::from(asked.distance)),
        ];
        let grid = [range.len().div_ceil(BLOCK[0]), asked.queries.div_ceil(BLOCK[1])];
        device.launch(rows.features.number.pick(SCAN), Shape { grid, threads: 256, shared_bytes: 0 }, &arguments)
    }

    fn launch_select(&mut self) -> Result<()> {
        let own = |tensor| self.device.address(tensor, 0);
        let OnDevice { kept, counts, limits, .. } = &self.on_device;
        let arguments = [own(kept), own(counts), own(limits), self.k.into(), self.capacity.into()];
        let shared_bytes = self.capacity * ENTRY_BYTES;
        let shape = Shape { grid: [self.asked.queries, 2], threads: 512, shared_bytes };
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

    fn restore_counts(&mut self) -> Result<()> {
        self.on_device.counts = self.device.upload(Number::F32, bytemuck::cast_slice(&self.kept))?;
        Ok(())
    }

    /// The best of each query, the highest first and the lowest first.
    pub(crate) fn finish(self) -> Result<Vec<[Vec<Entry>; 2]>> {
        let bytes = self.kept.len() * self.capacity * ENTRY_BYTES;
        let end_bytes = self.capacity * ENTRY_BYTES;
        self.device.download(&self.on_device.kept, bytes, |bytes| {
            let end = |number: usize| {
                let (entries, _) = bytes[number * end_bytes..].as_chunks();
                entries[..self.kept[number] as usize].iter().map(Entry::read).collect()
            };
            (0..self.asked.queries).map(|query| [end(2 * query), end(2 * query + 1)]).collect()
        })
    }
}

impl Entry {
    fn read(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let (words, _) = bytes.as_chunks();
        let [score, row, low, high] = [0, 1, 2, 3].map(|word: usize| u32::from_le_bytes(words[word]));
        Self { score: f32::from_bits(score), row, index: u64::from(high) << 32 | u64::from(low) }
    }
}

/// A chunk's rows on the device.
struct ChunkOnDevice {
    features: Tensor,
    deltas: Option<Tensor>,
    norms: Option<Tensor>,
    indices: Tensor,
}

impl ChunkOnDevice {
    fn upload(device: &Device, chunk: &Chunk<'_>) -> Result<Self> {
        let words = |values: &[f32]| device.upload(Number::F32, bytemuck::cast_slice(values));
        Ok(Self {
            features: upload_features(device, &chunk.features)?,
            deltas: (!chunk.deltas.is_empty()).then(|| words(&chunk.deltas)).transpose()?,
            norms: chunk.norms.as_deref().map(words).transpose()?,
            indices: device.upload(Number::F32, bytemuck::cast_slice(&chunk.indices))?,
        })
    }
}

/// The sets one behind the other, as they are stored.
fn upload_features(device: &Device, sets: &[Floats<'_>]) -> Result<Tensor> {
    let bytes = |set: &Floats<'_>| -> (Number, Vec<u8>) {
        match set {
            Floats::F32(values) => (Number::F32, bytemuck::cast_slice(values).to_vec()),
            Floats::F16(values) => (Number::F16, bytemuck::cast_slice(values).to_vec()),
            Floats::Bf16(values) => (Number::Bf16, bytemuck::cast_slice(values).to_vec()),
        }
    };
    let parts: Vec<_> = sets.iter().map(bytes).collect();
    let number = parts.first().map_or(Number::F32, |part| part.0);
    assert!(parts.iter().all(|part| part.0 == number), "factor sets of several types");
    let all: Vec<u8> = parts.into_iter().flat_map(|part| part.1).collect();
    device.upload(number, &all)
}
