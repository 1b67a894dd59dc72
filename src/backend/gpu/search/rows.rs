//! How a chunk's rows come to the device.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaEvent;

use crate::backend::Floats;
use crate::backend::gpu::Gpu;
use crate::backend::gpu::resident::Key;
use crate::backend::gpu::tensor::{Number, Tensor};
use crate::error::Result;

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

impl Gpu {
    /// Begins to copy a chunk to the device, beside what is computed there; of features that are there already there is
    /// nothing to copy.
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

    /// The sets one behind the other, as they are stored: those on the device, or sent, and kept there where there is
    /// room.
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
    pub(super) rows: usize,
    pub(super) first: usize,
    pub(super) features: Arc<Tensor>,
    pub(super) deltas: Option<Arc<Tensor>>,
    pub(super) norms: Option<Arc<Tensor>>,
    pub(super) indices: Arc<Tensor>,
    pub(super) groups: Option<Tensor>,
    group_of: Option<Vec<i32>>,
    pub(super) factors: Option<SentFactors>,
    pub(super) key: Option<Key>,
    /// What bounds are found from, once they are.
    pub(super) rounded: OnceCell<Arc<Tensor>>,
    /// When all of it is there.
    pub(super) arrived: CudaEvent,
}

/// Where each record's factors are.
pub(super) struct SentFactors {
    pub(super) offsets: Vec<i32>,
    pub(super) on_device: Tensor,
    pub(super) coordinates: Option<Tensor>,
}

impl Sent {
    /// The rows of factors that records have.
    pub(super) fn factors(&self, records: &Range<usize>) -> Range<usize> {
        match &self.factors {
            None => records.clone(),
            Some(SentFactors { offsets, .. }) => offsets[records.start] as usize..offsets[records.end] as usize,
        }
    }

    /// Bytes of the features, and of everything that takes room on the device for this search alone.
    pub(super) fn bytes(&self) -> [usize; 2] {
        let bytes = |tensor: &Tensor| tensor.len * tensor.number.bytes();
        let kept =
            [Some(&self.features), self.deltas.as_ref(), self.norms.as_ref(), Some(&self.indices), self.rounded.get()];
        let alone =
            kept.into_iter().flatten().filter(|tensor| Arc::strong_count(tensor) == 1).map(|tensor| bytes(tensor));
        let of_factors = self.factors.iter().flat_map(|of| [Some(&of.on_device), of.coordinates.as_ref()]).flatten();
        let own = self.groups.iter().chain(of_factors).map(bytes);
        [bytes(&self.features), alone.chain(own).sum()]
    }

    /// How many of these records are searched.
    pub(super) fn searched(&self, records: &Range<usize>) -> usize {
        let groups = self.group_of.as_ref().map(|groups| &groups[records.clone()]);
        groups.map_or(records.len(), |groups| groups.iter().filter(|&&group| group >= 0).count())
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
