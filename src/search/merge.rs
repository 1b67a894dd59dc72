//! Sorted runs to one sorted stream.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::runs::StoredRun;
use super::topk::{End, Hit};
use crate::error::Result;

/// Hits to read of a run at a time, at the least: below this, seeks cost more than reading.
const LEAST_READ: usize = 256;

/// The hits of many runs in the order of one end.
pub(super) struct Merge<'a> {
    heads: BinaryHeap<Head>,
    cursors: Vec<Cursor<'a>>,
    failed: bool,
}

impl<'a> Merge<'a> {
    /// Merges `sorted` hits with runs already in the order of `end`, through read buffers of `memory` bytes in all.
    pub(super) fn new(end: End, sorted: Vec<Hit>, stored: Vec<StoredRun<'a>>, memory: usize) -> Result<Self> {
        let at_a_time = (memory / size_of::<Hit>() / stored.len().max(1)).max(LEAST_READ);
        let mut cursors = vec![Cursor { ready: sorted.into_iter(), stored: None, at_a_time }];
        cursors.extend(stored.into_iter().map(|run| Cursor {
            ready: Vec::new().into_iter(),
            stored: Some(run),
            at_a_time,
        }));
        let mut merge = Self { heads: BinaryHeap::with_capacity(cursors.len()), cursors, failed: false };
        for run in 0..merge.cursors.len() {
            merge.advance(end, run)?;
        }
        Ok(merge)
    }

    fn advance(&mut self, end: End, run: usize) -> Result<()> {
        let next = self.cursors[run].next()?;
        self.heads.extend(next.map(|hit| Head { end, hit, run }));
        Ok(())
    }

    fn pop(&mut self) -> Result<Option<Hit>> {
        let Some(Head { end, hit, run }) = self.heads.pop() else { return Ok(None) };
        self.advance(end, run)?;
        Ok(Some(hit))
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<Hit>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.pop();
        self.failed = next.is_err();
        next.transpose()
    }
}

/// A run being read.
struct Cursor<'a> {
    ready: std::vec::IntoIter<Hit>,
    stored: Option<StoredRun<'a>>,
    at_a_time: usize,
}

impl Cursor<'_> {
    fn next(&mut self) -> Result<Option<Hit>> {
        if let (0, Some(stored)) = (self.ready.len(), &mut self.stored) {
            self.ready = stored.read(self.at_a_time)?.into_iter();
        }
        Ok(self.ready.next())
    }
}

/// A run's next hit. A heap gives the greatest first, so "greater" is "earlier".
struct Head {
    end: End,
    hit: Hit,
    run: usize,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        self.end.order(&other.hit, &self.hit)
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}
