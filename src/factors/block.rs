//! Passes over the training factors, in blocks of a fixed number of rows counted from the first record.
//!
//! The blocks are the same however the source is cut into pieces, and what they give is put together in their order: so
//! results have the same bits for any shards and any number of threads.

use std::ops::Range;
use std::sync::Mutex;

use faer::Mat;
use rayon::prelude::*;

use super::dense::slice_mut;
use super::source::{FactorSource, LabelUsed, LabelledRows, Labels};
use crate::error::{Error, Result};
use crate::model::Problem;
use crate::sync::lock;

/// Rows of a block, but the last.
pub(crate) const ROWS: usize = 1024;

/// Blocks whose results are in memory at a time. Bounds memory; changes no result.
pub(super) const WAVE: usize = 32;

/// The same where the result is the block itself.
const WAVE_OF_BLOCKS: usize = 8;

/// Asked between blocks; a pass is given up with [`Error::Interrupted`] where it answers `false`.
pub type KeepGoing<'a> = &'a (dyn Fn() -> bool + Sync);

/// Some consecutive records in f64, one a column.
pub(super) struct Block {
    /// The place of the first one in the source.
    pub(super) first: usize,
    /// How many records, R.
    pub(super) rows: usize,
    /// `h̃ = [h; s]`, `[E + 1, R]`: s is 1, of boundaries of answers 0.
    pub(super) inputs: Mat<f64>,
    /// δ as stored, `[K, R]`
    pub(super) deltas: Mat<f64>,
    /// What δ was taken against, `[K, R]`: one-hot, multi-hot or values.
    pub(super) targets: Mat<f64>,
    /// What each loss counts in a refit, `[R]`; empty where all count the same.
    weights: Vec<f64>,
}

impl Block {
    /// What the loss of record `r` counts in a refit.
    pub(super) fn weight(&self, r: usize) -> f64 {
        self.weights.get(r).copied().unwrap_or(1.0)
    }

    /// What the model put out, `[K, R]`: probabilities `p = δ + y`, or a regression's values `z = y + δ/2`.
    ///
    /// The one place where the model's outputs are recovered from its factors.
    pub(super) fn stored_outputs(&self, problem: Problem) -> Mat<f64> {
        let scale = if problem == Problem::Regression { 0.5 } else { 1.0 };
        Mat::from_fn(self.deltas.nrows(), self.rows, |c, r| self.targets[(c, r)] + scale * self.deltas[(c, r)])
    }
}

/// A source of factors, cut in blocks.
pub(super) struct Blocks<'a> {
    source: &'a dyn FactorSource,
    /// The first row of each piece, and N.
    starts: Vec<usize>,
    keep_going: KeepGoing<'a>,
    /// Blocks that have been passed, to be filled again: memory asked of the system for each is a quarter of a refit.
    spare: Mutex<Vec<Block>>,
}

impl<'a> Blocks<'a> {
    /// # Errors
    /// Where the source has no head to speak of, or no records.
    pub(super) fn new(source: &'a dyn FactorSource, keep_going: KeepGoing<'a>) -> Result<Self> {
        if source.problem() == Problem::Headless || source.classes() == 0 {
            let hint = "feature-dot, feature-cos and feature-euc need no head";
            return Err(Error::usage("the model has no head, so there is no loss to attribute").with_hint(hint));
        }
        if source.problem() == Problem::SingleLabel && source.classes() == 1 {
            return Err(
                Error::usage("a single-label head of one class has no loss").with_hint("one logit is a regression")
            );
        }
        source.check()?;
        let mut starts = vec![0];
        starts.extend(source.piece_rows().iter().scan(0, |total, rows| {
            *total += rows;
            Some(*total)
        }));
        let whole = |(piece, rows): (usize, usize)| source.piece(piece).deltas.len() == rows * source.classes();
        if !source.piece_rows().into_iter().enumerate().all(whole) {
            return Err(Error::usage("the store holds gradients of the whole model, not factors of its last layer")
                .with_hint("index without --gradients projected"));
        }
        if starts.last() == Some(&0) {
            return Err(Error::usage("there are no training records to learn from"));
        }
        Ok(Self { source, starts, keep_going, spare: Mutex::default() })
    }

    pub(super) fn problem(&self) -> Problem {
        self.source.problem()
    }

    /// K.
    pub(super) fn classes(&self) -> usize {
        self.source.classes()
    }

    /// See [`FactorSource::is_of_boundaries`].
    pub(super) fn is_of_boundaries(&self) -> bool {
        self.source.is_of_boundaries()
    }

    /// E + 1.
    pub(super) fn inputs(&self) -> usize {
        self.source.width() + 1
    }

    /// N.
    pub(super) fn rows(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Hands `map` every block, from any thread, and `reduce` what it made of them, in order.
    pub(super) fn fold<T: Send>(&self, map: impl Fn(&Block) -> T + Sync, mut reduce: impl FnMut(T)) -> Result<()> {
        let map = |block: Block| {
            let made = map(&block);
            self.put_back(block);
            made
        };
        self.waves(WAVE, map, |results| results.into_iter().for_each(&mut reduce))
    }

    /// Hands `reduce` the blocks themselves, several at a time and in order, each with what `map` made of it.
    pub(super) fn several<T: Send>(
        &self,
        map: impl Fn(&Block) -> T + Sync,
        mut reduce: impl FnMut(&[(Block, T)]),
    ) -> Result<()> {
        self.waves(
            WAVE_OF_BLOCKS,
            |block| {
                let made = map(&block);
                (block, made)
            },
            |wave| {
                reduce(&wave);
                for (block, _) in wave {
                    self.put_back(block);
                }
            },
        )
    }

    fn waves<T: Send>(
        &self,
        blocks: usize,
        map: impl Fn(Block) -> T + Sync,
        mut reduce: impl FnMut(Vec<T>),
    ) -> Result<()> {
        let mut released = 0;
        for first in (0..self.rows()).step_by(blocks * ROWS) {
            let end = self.rows().min(first + blocks * ROWS);
            let starts: Vec<usize> = (first..end).step_by(ROWS).collect();
            let results = starts.into_par_iter().map(|start| Ok(map(self.load(start)?)));
            reduce(results.collect::<Result<_>>()?);
            released = self.release(released, end);
        }
        Ok(())
    }

    /// Tells the source that its pieces up to row `end` have been passed; gives back the number of those pieces.
    fn release(&self, released: usize, end: usize) -> usize {
        let done = self.starts.partition_point(|&start| start <= end) - 1;
        (released..done).for_each(|piece| self.source.release(piece));
        done.max(released)
    }

    fn put_back(&self, block: Block) {
        lock(&self.spare).push(block);
    }

    /// A block of `rows` records to be filled: no targets, and anything for inputs and δ.
    fn room(&self, rows: usize) -> Block {
        let spare = {
            let mut spare = lock(&self.spare);
            let fits = spare.iter().position(|block| block.rows == rows);
            fits.map(|at| spare.swap_remove(at))
        };
        if let Some(mut block) = spare {
            block.targets.fill(0.0);
            block.weights.clear();
            return block;
        }
        Block {
            first: 0,
            rows,
            inputs: Mat::zeros(self.inputs(), rows),
            deltas: Mat::zeros(self.classes(), rows),
            targets: Mat::zeros(self.classes(), rows),
            weights: Vec::new(),
        }
    }

    fn load(&self, start: usize) -> Result<Block> {
        if !(self.keep_going)() {
            return Err(Error::Interrupted);
        }
        let mut block = Block { first: start, ..self.room(ROWS.min(self.rows() - start)) };
        let end = start + block.rows;
        let mut piece = self.starts.partition_point(|&first| first <= start) - 1;
        let mut next = start;
        while next < end {
            let (first, last) = (self.starts[piece], self.starts[piece + 1]);
            let stop = last.min(end);
            if next < stop {
                if let Some(weights) = self.source.weights(piece) {
                    block.weights.resize(block.rows, 1.0);
                    block.weights[next - start..stop - start].copy_from_slice(&weights[next - first..stop - first]);
                }
                let rows = (next - first..stop - first, next - start);
                block.copy(&self.source.piece(piece), rows, self.is_of_boundaries(), first)?;
            }
            next = stop;
            piece += 1;
        }
        Ok(block)
    }
}

impl Block {
    /// Copies `rows` of a piece, whose first is row `first` of the source, to the columns from `column` on.
    fn copy(
        &mut self,
        piece: &LabelledRows<'_>,
        (rows, column): (Range<usize>, usize),
        of_boundaries: bool,
        first: usize,
    ) -> Result<()> {
        let width = self.inputs.nrows() - 1;
        for (row, column) in rows.zip(column..) {
            let input = slice_mut(&mut self.inputs, column);
            piece.features.decode(row * width, &mut input[..width]);
            input[width] = if of_boundaries { 0.0 } else { 1.0 };
            let delta = slice_mut(&mut self.deltas, column);
            let classes = delta.len();
            for (delta, &stored) in delta.iter_mut().zip(&piece.deltas[row * classes..]) {
                *delta = f64::from(stored);
            }
            if !fill_target(slice_mut(&mut self.targets, column), piece, row) {
                return Err(Error::usage(format!(
                    "training record {}: no label among the {classes} classes",
                    first + row
                )));
            }
        }
        Ok(())
    }
}

/// The label that row's δ was taken against into `target [K]`; `false` where there is none that fits.
fn fill_target(target: &mut [f64], piece: &LabelledRows<'_>, row: usize) -> bool {
    let own = piece.used == LabelUsed::Gold && !missing(piece.labels, row, target.len());
    match if own { piece.labels } else { piece.predictions } {
        Labels::Classes(ids) => {
            let class = usize::try_from(ids[row]).ok().and_then(|class| target.get_mut(class));
            class.map(|target| *target = 1.0).is_some()
        }
        Labels::Rows(values) => {
            let row = &values[row * target.len()..][..target.len()];
            target.iter_mut().zip(row).for_each(|(target, &value)| *target = f64::from(value));
            row.iter().all(|value| value.is_finite())
        }
    }
}

fn missing(labels: Labels<'_>, row: usize, classes: usize) -> bool {
    match labels {
        Labels::Classes(ids) => ids[row] < 0,
        Labels::Rows(values) => values[row * classes..][..classes].iter().any(|value| value.is_nan()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::factors::{InMemory, LabelVec};

    fn source(labels: LabelVec, weights: Vec<f64>) -> InMemory {
        let rows = ROWS + 100;
        let numbers = |count: usize| (0..count).map(|i| (i % 89) as f32 - 40.5).collect();
        let (features, deltas) = (numbers(rows * 5), numbers(rows * 3));
        let problem = Problem::SingleLabel;
        InMemory { problem, width: 5, classes: 3, features, deltas, labels, weights, rows_at_a_time: 333 }
    }

    #[test]
    fn nothing_is_left_of_what_was_in_a_block_s_memory() {
        let rows = ROWS + 100;
        let classes = || LabelVec::Classes((0..rows as i64).map(|i| i % 3).collect());
        let values = LabelVec::Rows((0..3 * rows).map(|i| (i % 7) as f32).collect());
        let weights = (0..rows).map(|i| (i % 5) as f64).collect();
        for source in [source(classes(), Vec::new()), source(classes(), weights), source(values, Vec::new())] {
            let blocks = Blocks::new(&source, &|| true).unwrap();
            for start in [0, ROWS] {
                let expected = blocks.load(start).unwrap();
                let mut used = blocks.room(expected.rows);
                used.first = 77;
                for numbers in [&mut used.inputs, &mut used.deltas, &mut used.targets] {
                    numbers.fill(f64::NAN);
                }
                used.weights = vec![f64::NAN; used.rows];
                blocks.put_back(used);
                let found = blocks.load(start).unwrap();
                assert!(lock(&blocks.spare).is_empty(), "its memory was used again");
                assert_eq!((found.first, found.rows, &found.weights), (start, expected.rows, &expected.weights));
                assert_eq!((found.inputs, found.deltas), (expected.inputs, expected.deltas));
                assert_eq!(found.targets, expected.targets);
            }
        }
    }

    #[test]
    fn a_pass_keeps_no_more_blocks_than_are_in_memory_at_a_time() {
        let classes = LabelVec::Classes(vec![1; ROWS + 100]);
        let source = source(classes, Vec::new());
        let blocks = Blocks::new(&source, &|| true).unwrap();
        for _ in 0..3 {
            blocks.fold(|block| block.rows, |_| ()).unwrap();
            blocks.several(|block| block.rows, |wave| assert_eq!(wave.len(), 2)).unwrap();
            assert_eq!(lock(&blocks.spare).len(), 2, "one of each size");
        }
    }
}
