//! Scores that are not made of factors, in the same scan.

use std::fmt;
use std::ops::Range;

use crate::error::Result;
use crate::store::{Shard, Store};

/// Gives scores of its own to a [`super::Form::scored`]; which bits they have must depend on the record and the query
/// alone.
pub trait Scorer: Sync + fmt::Debug {
    /// The scores of `rows` of shard `shard` for the scorer's queries `asked`, into `scores [asked, rows]`. None may be
    /// NaN.
    ///
    /// # Errors
    /// Where what they are made of cannot be read.
    fn score(&self, shard: usize, rows: Range<usize>, asked: &[usize], scores: &mut [f32]) -> Result<()>;

    /// How many bytes it reads in one pass.
    fn bytes(&self) -> usize;

    /// What each factor of row `row` of shard `shard` adds to its score for the scorer's query `asked`, where records
    /// have several and it can be told.
    fn parts(&self, _shard: usize, _row: usize, _asked: usize) -> Vec<f32> {
        Vec::new()
    }
}

/// The loss of each record under its own model, whatever the query: what the model has learned least, first.
#[derive(Clone, Copy, Debug)]
pub struct Losses<'a>(pub &'a Store);

impl Scorer for Losses<'_> {
    fn score(&self, shard: usize, rows: Range<usize>, asked: &[usize], scores: &mut [f32]) -> Result<()> {
        let losses = &self.0.shards()[shard].losses()[rows];
        for scores in scores.chunks_exact_mut(losses.len()).take(asked.len()) {
            scores.copy_from_slice(losses);
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.0.shards().iter().map(Shard::rows).sum::<usize>() * size_of::<f32>()
    }
}
