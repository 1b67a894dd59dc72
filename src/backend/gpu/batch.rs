//! A packed batch on the device: one copy with everything the kernels look up, and the tiles attention goes by.

use super::device::{Argument, Device};
use super::tensor::{Number, Tensor};
use crate::backend::Rows;
use crate::error::Result;
use crate::tokens::PackedBatch;

/// A packed batch on the device.
pub struct Batch {
    /// As the host had it.
    pub(super) host: PackedBatch,
    /// Every [`Part`], in their order.
    memory: Tensor,
    /// Where each begins.
    places: [usize; PARTS],
    tiles: usize,
}

/// What the device has of a batch, all words of 32 bits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// `[T]`
    Ids,
    /// `[T]`
    Positions,
    /// `[T]`
    Types,
    /// `[B + 1]`: where sequences begin among the tokens.
    Starts,
    /// `[tiles, 2]`: attention's, where every token asks.
    Tiles,
    /// `[B, 2]`: attention's, where first tokens ask.
    FirstTiles,
    /// `[T]`: the sequence each token is in.
    SequenceOf,
    /// f32 `[B]`: the power of two each sequence's gradient is multiplied by. Ones, until the kernel that starts a backward pass writes them.
    Scales,
}

const PARTS: usize = 8;

impl Batch {
    /// With attention's tiles of so many queries.
    pub(super) fn upload(device: &Device, host: PackedBatch, queries: usize) -> Result<Self> {
        let (tiles, sequences) = (tiles(&host, queries), host.sequences());
        let first: Vec<u32> = (0..sequences as u32).flat_map(|sequence| [sequence, 0]).collect();
        let sequence_of: Vec<u32> =
            (0..sequences).flat_map(|sequence| host.range(sequence).map(move |_| sequence as u32)).collect();
        let scales = vec![1.0_f32.to_bits(); sequences];
        let parts: [&[u32]; PARTS] = [
            &host.ids,
            &host.positions,
            &host.type_ids,
            &host.cu_seqlens,
            tiles.as_flattened(),
            &first,
            &sequence_of,
            &scales,
        ];
        let mut places = [0; PARTS];
        for part in 1..PARTS {
            places[part] = places[part - 1] + parts[part - 1].len();
        }
        let memory = device.upload(Number::F32, bytemuck::cast_slice(&parts.concat()))?;
        Ok(Self { host, memory, places, tiles: tiles.len() })
    }

    /// T, by the sequences' own ends: pooling is asked of batches without ids too.
    pub(super) fn tokens(&self) -> usize {
        self.host.cu_seqlens.last().map_or(0, |end| *end as usize)
    }

    /// Where a part begins.
    pub(super) fn part(&self, device: &Device, part: Part) -> Argument {
        device.address(&self.memory, self.places[part as usize])
    }

    /// Attention's tiles for these rows, and how many there are.
    pub(super) fn tiles(&self, device: &Device, rows: Rows) -> (Argument, usize) {
        match rows {
            Rows::All => (self.part(device, Part::Tiles), self.tiles),
            Rows::First => (self.part(device, Part::FirstTiles), self.host.sequences()),
        }
    }

    /// How many tokens ask.
    pub(super) fn asking(&self, rows: Rows) -> usize {
        match rows {
            Rows::All => self.tokens(),
            Rows::First => self.host.sequences(),
        }
    }
}

/// `[sequence, first query]` of each tile, those of the longest sequences first: they take longest.
fn tiles(batch: &PackedBatch, queries: usize) -> Vec<[u32; 2]> {
    let mut order: Vec<usize> = (0..batch.sequences()).collect();
    order.sort_by_key(|&sequence| std::cmp::Reverse(batch.range(sequence).len()));
    let of = |sequence: usize| {
        (0..batch.range(sequence).len()).step_by(queries).map(move |first| [sequence as u32, first as u32])
    };
    order.into_iter().flat_map(of).collect()
}
