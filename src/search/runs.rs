//! Sorted runs of hits in a temporary file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::topk::{End, Hit};
use crate::error::{Error, Result};
use crate::sync::lock;

/// Runs of many queries in one file, which is made when first needed and has no name.
pub(super) struct Runs {
    folder: PathBuf,
    file: Option<Mutex<File>>,
    written: u64,
    /// By query.
    places: Vec<Vec<Place>>,
}

/// A run, sorted for one end and once more for the other: where in the file each order starts.
#[derive(Clone, Copy)]
struct Place {
    proponents: u64,
    opponents: u64,
    hits: usize,
}

impl Runs {
    /// No runs yet; their file will be in `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), file: None, written: 0, places: Vec::new() }
    }

    /// Appends `hits` as a run of `query`, and leaves them in some other order.
    pub(super) fn append(&mut self, query: usize, hits: &mut [Hit]) -> Result<()> {
        if hits.is_empty() {
            return Ok(());
        }
        let place = Place {
            proponents: self.write_sorted(End::Proponents, hits)?,
            opponents: self.write_sorted(End::Opponents, hits)?,
            hits: hits.len(),
        };
        self.places.resize(self.places.len().max(query + 1), Vec::new());
        self.places[query].push(place);
        Ok(())
    }

    fn write_sorted(&mut self, end: End, hits: &mut [Hit]) -> Result<u64> {
        hits.sort_unstable_by(|a, b| end.order(a, b));
        let start = self.written;
        for hits in hits.chunks(4096) {
            self.write(&hits.iter().flat_map(encode).collect::<Vec<u8>>())?;
        }
        Ok(start)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(Mutex::new(tempfile::tempfile_in(&self.folder).map_err(Error::io(&self.folder))?)),
        };
        let file = file.get_mut().unwrap_or_else(PoisonError::into_inner);
        file.write_all(bytes).map_err(Error::io(&self.folder))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// The runs of `query`, read in the order of `end`.
    pub(super) fn of(&self, query: usize, end: End) -> impl Iterator<Item = StoredRun<'_>> {
        self.places.get(query).into_iter().flatten().map(move |place| StoredRun {
            runs: self,
            next: if end == End::Proponents { place.proponents } else { place.opponents },
            left: place.hits,
        })
    }

    /// How many hits of `query` are in runs.
    pub(super) fn hits(&self, query: usize) -> usize {
        self.places.get(query).into_iter().flatten().map(|place| place.hits).sum()
    }

    fn read(&self, start: u64, bytes: &mut [u8]) -> Result<()> {
        let file = self.file.as_ref().expect("a run was written");
        let mut file = lock(file);
        file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(bytes)).map_err(Error::io(&self.folder))
    }
}

/// What is left to read of a run in one order.
pub(super) struct StoredRun<'a> {
    runs: &'a Runs,
    next: u64,
    left: usize,
}

impl StoredRun<'_> {
    /// The next `most` hits, or all that are left.
    pub(super) fn read(&mut self, most: usize) -> Result<Vec<Hit>> {
        let mut bytes = vec![0; most.min(self.left) * HIT_BYTES];
        self.runs.read(self.next, &mut bytes)?;
        self.next += bytes.len() as u64;
        self.left -= bytes.len() / HIT_BYTES;
        Ok(bytes.as_chunks().0.iter().map(decode).collect())
    }
}

/// Bytes of a hit in a file: row, index and score, little-endian.
const HIT_BYTES: usize = 8 + 8 + 4;

fn encode(hit: &Hit) -> [u8; HIT_BYTES] {
    let mut bytes = [0; HIT_BYTES];
    bytes[..8].copy_from_slice(&hit.row.to_le_bytes());
    bytes[8..16].copy_from_slice(&hit.index.to_le_bytes());
    bytes[16..].copy_from_slice(&hit.score.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; HIT_BYTES]) -> Hit {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    Hit { row: word(0), index: word(8), score: f32::from_le_bytes(std::array::from_fn(|i| bytes[16 + i])) }
}
