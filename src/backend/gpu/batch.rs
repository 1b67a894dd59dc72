//! A packed batch on the device: one copy with everything the kernels look up, and the tiles attention goes by.

use std::sync::{Arc, Mutex};

use super::device::{Argument, Device};
use super::tensor::{Number, Tensor};
use crate::backend::Rows;
use crate::error::Result;
use crate::sync::lock;
use crate::tokens::{Masked, PackedBatch};

/// A packed batch on the device.
pub struct Batch {
    /// As the host had it; of masked texts, their lengths.
    pub(super) host: PackedBatch,
    /// The texts, of which [`Part::Ids`], [`Part::Positions`] and [`Part::Types`] are then.
    pub(super) masked: Option<Masked>,
    /// Every [`Part`], in their order.
    memory: Tensor,
    /// Where each begins.
    places: [usize; PARTS],
    tiles: usize,
    /// The tiles of sequences of more than [`SHORT`] tokens, which come first, and how many sequences those are.
    long: [usize; 2],
    pieces: usize,
    /// The records that dropout draws for, once it was asked to, and what they are on the device: all of a pass are for
    /// the same.
    records: Mutex<(Vec<u32>, Option<Arc<Tensor>>)>,
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
    /// `[B]`: the sequences, the longest first.
    ByLength,
    /// `[T]`: the sequence each token is in, where tokens may stand on paths.
    SequenceOf,
    /// f32 `[B]`: the power of two each sequence's gradient is multiplied by. Ones, until the kernel that starts a
    /// backward pass writes them.
    Scales,
    /// `[B]`: where each sequence's text begins among the texts' tokens, for masked ones.
    Texts,
    /// `[B]`: where each sequence's bits begin, for masked ones.
    Words,
    /// [`Masked::bits`]
    Bits,
    /// Runs of at most [`PIECE`] tokens of one sequence: the first's number × 32 and how many.
    Pieces,
    /// The same of first tokens: each by itself.
    FirstPieces,
}

const PARTS: usize = 14;
/// Tokens of the longest sequence that attention goes back through at once.
const SHORT: usize = 128;
/// Rows that a product of the tensor cores adds up at once.
const PIECE: usize = 16;

impl Batch {
    /// With attention's tiles of so many queries.
    pub(super) fn upload(device: &Device, host: PackedBatch, queries: usize) -> Result<Self> {
        Self::upload_any(device, host, None, queries)
    }

    /// Of each masked sequence, bits and two words to find them by; of each text its tokens, once.
    pub(super) fn upload_masked(device: &Device, masked: Masked, queries: usize) -> Result<Self> {
        Self::upload_any(device, masked.lengths(), Some(masked), queries)
    }

    fn upload_any(device: &Device, host: PackedBatch, masked: Option<Masked>, queries: usize) -> Result<Self> {
        let (by_length, sequences) = (by_length(&host), host.sequences());
        let tiles = tiles(&host, &by_length, queries);
        let is_long = |sequence: u32| host.range(sequence as usize).len() > SHORT;
        let long = [
            tiles.iter().take_while(|[sequence, _]| is_long(*sequence)).count(),
            by_length.iter().take_while(|&&sequence| is_long(sequence)).count(),
        ];
        let first: Vec<u32> = (0..sequences as u32).flat_map(|sequence| [sequence, 0]).collect();
        let on_paths = if masked.is_some() { 0 } else { sequences };
        let sequence_of: Vec<u32> =
            (0..on_paths).flat_map(|sequence| host.range(sequence).map(move |_| sequence as u32)).collect();
        let texts = masked.as_ref().map_or(&host, |masked| &masked.texts);
        let (starts, words, bits) = masked.as_ref().map_or_else(Default::default, places_of);
        let scales = vec![1.0_f32.to_bits(); sequences];
        let (pieces, first_pieces) = (pieces(&host), (0..sequences as u32).map(|row| row << 5 | 1).collect::<Vec<_>>());
        let parts: [&[u32]; PARTS] = [
            &texts.ids,
            &texts.positions,
            &texts.type_ids,
            &host.cu_seqlens,
            tiles.as_flattened(),
            &first,
            &by_length,
            &sequence_of,
            &scales,
            &starts,
            &words,
            bits,
            &pieces,
            &first_pieces,
        ];
        let mut places = [0; PARTS];
        for part in 1..PARTS {
            places[part] = places[part - 1] + parts[part - 1].len();
        }
        let memory = device.upload(Number::F32, bytemuck::cast_slice(&parts.concat()))?;
        let (tiles, pieces) = (tiles.len(), pieces.len());
        Ok(Self { host, masked, memory, places, tiles, long, pieces, records: Mutex::default() })
    }

    /// T.
    pub(super) fn tokens(&self) -> usize {
        self.host.tokens()
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

    /// The tiles of sequences too long to be gone back through at once, and how many there are.
    pub(super) fn long_tiles(&self, device: &Device) -> (Argument, usize) {
        (self.part(device, Part::Tiles), self.long[0])
    }

    /// The other sequences, how many there are, and the tokens of the longest.
    pub(super) fn short(&self, device: &Device) -> (Argument, usize, usize) {
        let long = self.long[1];
        let list = device.address(&self.memory, self.places[Part::ByLength as usize] + long);
        let lengths = (0..self.host.sequences()).map(|sequence| self.host.range(sequence).len());
        (list, self.host.sequences() - long, lengths.filter(|&length| length <= SHORT).max().unwrap_or(0))
    }

    /// The pieces these rows are added up by, and how many there are.
    pub(super) fn pieces(&self, device: &Device, rows: Rows) -> (Argument, usize) {
        match rows {
            Rows::All => (self.part(device, Part::Pieces), self.pieces),
            Rows::First => (self.part(device, Part::FirstPieces), self.host.sequences()),
        }
    }

    /// The records of its sequences, on the device.
    pub(super) fn records(&self, device: &Device, records: &[u32]) -> Result<Arc<Tensor>> {
        let mut kept = lock(&self.records);
        let (named, there) = &mut *kept;
        if let Some(there) = there.as_ref().filter(|_| named == records) {
            return Ok(Arc::clone(there));
        }
        let sent = Arc::new(device.upload(Number::F32, bytemuck::cast_slice(records))?);
        *kept = (records.to_vec(), Some(Arc::clone(&sent)));
        Ok(sent)
    }

    /// How many tokens ask.
    pub(super) fn asking(&self, rows: Rows) -> usize {
        rows.of(&self.host)
    }
}

/// Where each sequence's text begins, where its bits do, and the bits.
fn places_of(masked: &Masked) -> (Vec<u32>, Vec<u32>, &[u32]) {
    let starts = masked.of.iter().map(|&text| masked.texts.cu_seqlens[text as usize]).collect();
    (starts, masked.word_starts(), &masked.bits)
}

/// [`Part::Pieces`], sequence by sequence.
fn pieces(batch: &PackedBatch) -> Vec<u32> {
    let of = |sequence: usize| {
        let tokens = batch.range(sequence);
        tokens.clone().step_by(PIECE).map(move |first| (first << 5 | PIECE.min(tokens.end - first)) as u32)
    };
    (0..batch.sequences()).flat_map(of).collect()
}

/// [`Part::ByLength`]: what takes longest begins first.
fn by_length(batch: &PackedBatch) -> Vec<u32> {
    let mut order: Vec<u32> = (0..batch.sequences() as u32).collect();
    order.sort_by_key(|&sequence| std::cmp::Reverse(batch.range(sequence as usize).len()));
    order
}

/// `[sequence, first query]` of each tile, sequence by sequence in this order.
fn tiles(batch: &PackedBatch, order: &[u32], queries: usize) -> Vec<[u32; 2]> {
    let of = |&sequence: &u32| {
        (0..batch.range(sequence as usize).len()).step_by(queries).map(move |first| [sequence, first as u32])
    };
    order.iter().flat_map(of).collect()
}
