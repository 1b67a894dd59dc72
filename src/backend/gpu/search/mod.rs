//! Rows that stream past queries, and both ends of each query's ranking in each group of rows: `rows` is how rows come
//! to the device, `rounds` how many are scanned before the best are kept, and when the host looks, `launch` (of
//! `kernels/search.cu`) and `bounds` (of `kernels/search_bounds.cu`) what is launched.

mod bounds;
mod launch;
mod rounds;
mod rows;

use std::ops::Range;

use self::bounds::Bounding;
use self::rounds::Scanned;
use super::Gpu;
use super::device::Device;
use super::resident::Key;
use super::tensor::{Number, Tensor};
use crate::error::Result;

pub(crate) use self::bounds::MOST_TERMS;
pub(super) use self::bounds::{NAMES as BOUNDS, WGMMA};
pub(super) use self::launch::NAMES;
pub(crate) use self::rows::{Chunk, FactorsOf, Part};

/// Entries that are sorted at a time, and so kept of a query's end: an entry is 16 bytes of shared memory.
const MOST_ENTRIES: usize = 4096;
const FEWEST_ENTRIES: usize = 1024;
const ENTRY_BYTES: usize = 16;
/// Of an exact sum, 64 bits each.
const LIMBS: usize = 10;
const CHUNK_BYTES: Range<usize> = 64 << 20..512 << 20;
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
    /// Whether bounds may leave records out: where rates are 1, there is one set, one group, no total and nothing to
    /// come after.
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
    /// How many each end had kept when the host looked, `[Q, G, 2]`.
    kept: Vec<i32>,
    /// Rows that have passed, and those of them of which every score was computed, where they are searched.
    seen: usize,
    scored: usize,
    /// What is being scanned, all of it by bounds or none: nothing is known of how many records have reached an end.
    round: Vec<Scanned>,
    /// The rounds before it, from the first on, while the host has not looked at any: each is taken to have fitted.
    unseen: Option<Vec<Vec<Scanned>>>,
    /// Where bounds may leave records out, and it has been worth it.
    bounding: Option<Bounding>,
}

/// The queries and what was found, on the device.
struct OnDevice {
    /// The queries' features, and everything below that is a place, sent at once.
    memory: Tensor,
    biases: usize,
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
    /// Of each end; behind them, the first round with more than there is room for.
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
    /// Bytes of features that are best copied and scanned at a time: few launches, and a small part of the device's
    /// memory.
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

    /// Bytes a search may have for what it keeps of its queries. Where they are not free, it takes fewer queries at a
    /// time; to ask the driver takes longer than many a search.
    pub(crate) fn search_memory(&self) -> usize {
        self.info().memory / 16
    }

    /// Bytes of each query of each group, for ends of k.
    pub(crate) fn search_bytes(k: usize) -> usize {
        2 * capacity(k) * ENTRY_BYTES + 2 * LIMBS * size_of::<u64>()
    }

    /// Begins a search for the `k` ≤ [`MOST_KEPT`] best records at each end.
    pub(crate) fn search<'a>(&'a self, asked: Asked<'a>, k: usize) -> Result<Search<'a>> {
        assert!((1..=MOST_KEPT).contains(&k), "more records than are kept");
        let (device, capacity) = (&self.device, capacity(k));
        let on_device = OnDevice::new(device, &asked, capacity)?;
        let bounding = asked.bounds.then(|| Bounding::new(device, self.products, &asked, &on_device, k)).transpose()?;
        let kept = vec![0; asked.ends()];
        // Bounds want to know how many records passed them, and of many groups some lie together.
        let unseen = (bounding.is_none() && asked.groups == 1).then(Vec::new);
        Ok(Search {
            device,
            asked,
            on_device,
            k,
            capacity,
            kept,
            seen: 0,
            scored: 0,
            round: Vec::new(),
            unseen,
            bounding,
        })
    }
}

impl Asked<'_> {
    /// Of all queries and groups, two each.
    fn ends(&self) -> usize {
        2 * self.queries * self.groups
    }
}

impl OnDevice {
    fn new(device: &Device, asked: &Asked<'_>, capacity: usize) -> Result<Self> {
        let ends = asked.ends();
        let limits: Vec<f32> = (0..ends).map(|end| [f32::NEG_INFINITY, f32::INFINITY][end % 2]).collect();
        assert!(asked.after.is_empty() || asked.after.len() == ends, "an entry for each end");
        let after: Vec<f32> = asked.after.iter().flat_map(Entry::words).collect();
        let zeros = |len| {
            let mut zeros = device.allocate(Number::F32, len)?;
            device.clear(&mut zeros).map(|()| zeros)
        };
        let mut words = Words { start: asked.features.len() * asked.width, ..Words::default() };
        Ok(Self {
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
            counts: zeros(2 * ends)?,
            totals: if asked.totals {
                let sums = || zeros(ends / 2 * LIMBS * 2);
                Some([sums()?, sums()?])
            } else {
                None
            },
        })
    }
}

impl Search<'_> {
    fn ends(&self) -> usize {
        self.asked.ends()
    }

    /// How many records have reached each end, what is beyond the capacity only counted; and the first round that is
    /// over and had too many.
    fn counts(&self) -> Result<(Vec<i32>, Option<usize>)> {
        let mut counts = self.download(&self.on_device.counts, 2 * self.ends())?;
        let overflowed = counts.split_off(self.ends());
        Ok((counts, overflowed.into_iter().map(|round| round as usize).filter(|&round| round > 0).min()))
    }

    fn download(&self, integers: &Tensor, len: usize) -> Result<Vec<i32>> {
        let read = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&word| i32::from_le_bytes(word)).collect();
        self.device.download(integers, 4 * len, read)
    }

    /// As if what was scanned last had not been.
    fn restore(&mut self) -> Result<()> {
        let counts = [&self.kept[..], &vec![0; self.ends()]].concat();
        self.on_device.counts = self.device.upload(Number::F32, bytemuck::cast_slice(&counts))?;
        if let Some([pending, _]) = &mut self.on_device.totals {
            self.device.clear(pending)?;
        }
        Ok(())
    }

    /// What each query found in each group, `[Q, G]`.
    pub(crate) fn finish(mut self) -> Result<Vec<Found>> {
        self.end_round()?;
        let (ends, end_bytes) = (self.ends(), (1 + self.k) * ENTRY_BYTES);
        let found: Vec<Vec<Entry>> = self.device.download(&self.gather()?, ends * end_bytes, |bytes| {
            bytes.as_chunks().0.chunks_exact(1 + self.k).map(|end| end.iter().map(Entry::read).collect()).collect()
        })?;
        // The first of an end is no entry.
        if let Some(round) = found.iter().map(|end| end[0].row as usize).filter(|&round| round > 0).min() {
            self.start_over(round)?;
            return self.finish();
        }
        let totals = match &self.on_device.totals {
            None => vec![[0; LIMBS]; ends / 2],
            Some([_, totals]) => self.device.download(totals, ends / 2 * LIMBS * 8, |bytes| {
                let limbs: Vec<i64> = bytes.as_chunks().0.iter().map(|&limb| i64::from_le_bytes(limb)).collect();
                limbs.as_chunks().0.to_vec()
            })?,
        };
        // Bounds are of queries in one group.
        let bounded =
            self.bounding.as_ref().map(|bounding| self.download(&bounding.candidates, ends / 2)).transpose()?;
        let candidates = |query: usize| bounded.as_ref().map(|counts| self.scored as u64 + counts[query] as u64);
        let entries = |end: &Vec<Entry>| end[1..][..end[0].score.to_bits() as usize].to_vec();
        let of_group = |(group, (total, ends)): (usize, ([i64; LIMBS], &[Vec<Entry>; 2]))| Found {
            ends: ends.each_ref().map(entries),
            total,
            candidates: candidates(group),
        };
        Ok(totals.into_iter().zip(found.as_chunks().0).enumerate().map(of_group).collect())
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

    fn words(&self) -> [f32; ENTRY_BYTES / 4] {
        [self.score.to_bits(), self.row, self.index as u32, (self.index >> 32) as u32].map(f32::from_bits)
    }
}
