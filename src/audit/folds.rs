//! Cross-validation over stored factors: what a head says of a record whose label it was not fitted to.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::Result;
use crate::factors::{self, FactorSource, KeepGoing, LabelledRows, Refit, RefitOptions, RefitTargets};
use crate::model::Problem;

/// Parts the records are cut into.
const FOLDS: usize = 5;

/// λ of the refits: so little that the head is as sharp as its features let it be.
const PENALTY: f64 = 0.01;

/// Which records go together. Runs of consecutive records take turns, so that data sorted by label are spread over every fold, and a fold is made of
/// views of what is there, not of copies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Folds {
    count: usize,
    run: usize,
}

impl Folds {
    /// For `rows` records: runs of up to 64, and at least 16 of them in a fold where there are so many records.
    pub(super) fn new(rows: usize) -> Self {
        Self { count: FOLDS, run: (rows / (16 * FOLDS)).clamp(1, 64) }
    }

    /// How many there are.
    pub(super) fn count(self) -> usize {
        self.count
    }

    /// The fold of record `row`.
    pub(super) fn of(self, row: usize) -> usize {
        row / self.run % self.count
    }

    /// The runs of `rows` records that begins at record `first`, cut where the fold changes.
    fn runs(self, first: usize, rows: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let end = first + rows;
        let starts = std::iter::successors(Some(first), move |at| Some((at / self.run + 1) * self.run));
        starts.take_while(move |at| *at < end).map(move |at| {
            let stop = ((at / self.run + 1) * self.run).min(end);
            (self.of(at), at - first..stop - first)
        })
    }
}

/// A source without the records of one fold.
struct Without<'a> {
    source: &'a dyn FactorSource,
    /// A piece of the source, and the rows of it that are left.
    pieces: Vec<(usize, Range<usize>)>,
}

impl<'a> Without<'a> {
    fn new(source: &'a dyn FactorSource, folds: Folds, left_out: usize) -> Self {
        let (mut first, mut pieces) = (0, Vec::<(usize, Range<usize>)>::new());
        for (piece, rows) in source.piece_rows().into_iter().enumerate() {
            for (_, run) in folds.runs(first, rows).filter(|(fold, _)| *fold != left_out) {
                match pieces.last_mut() {
                    Some((same, last)) if *same == piece && last.end == run.start => last.end = run.end,
                    _ => pieces.push((piece, run)),
                }
            }
            first += rows;
        }
        Self { source, pieces }
    }
}

impl FactorSource for Without<'_> {
    fn problem(&self) -> Problem {
        self.source.problem()
    }

    fn width(&self) -> usize {
        self.source.width()
    }

    fn classes(&self) -> usize {
        self.source.classes()
    }

    fn is_of_boundaries(&self) -> bool {
        self.source.is_of_boundaries()
    }

    fn piece_rows(&self) -> Vec<usize> {
        self.pieces.iter().map(|(_, rows)| rows.len()).collect()
    }

    fn piece(&self, i: usize) -> LabelledRows<'_> {
        let (piece, rows) = &self.pieces[i];
        self.source.piece(*piece).rows(rows.clone(), self.width(), self.classes())
    }
}

/// `p [N, K]`: the class probabilities of each record, by a head refitted to the records outside its fold.
///
/// # Errors
/// As [`factors::refit`].
pub(super) fn out_of_fold(source: &dyn FactorSource, keep_going: KeepGoing<'_>) -> Result<Vec<f32>> {
    let rows: usize = source.piece_rows().iter().sum();
    let (folds, classes) = (Folds::new(rows), source.classes());
    let options =
        RefitOptions { penalty: PENALTY, targets: RefitTargets::Gold, tolerance: 1e-4, ..RefitOptions::default() };
    let mut probabilities = vec![0.0; rows * classes];
    for fold in 0..folds.count() {
        let head = factors::refit(&Without::new(source, folds, fold), &options, keep_going)?;
        let (mut rest, mut first) = (probabilities.as_mut_slice(), 0);
        for (piece, rows) in source.piece_rows().into_iter().enumerate() {
            let (here, after) = rest.split_at_mut(rows * classes);
            predict_fold(&head, source.piece(piece), here, source.problem(), |row| folds.of(first + row) == fold);
            source.release(piece);
            (rest, first) = (after, first + rows);
        }
    }
    Ok(probabilities)
}

/// What `head` says of those rows of a piece that are in its fold.
fn predict_fold(
    head: &Refit,
    rows: LabelledRows<'_>,
    out: &mut [f32],
    problem: Problem,
    inside: impl Fn(usize) -> bool + Sync,
) {
    let classes = head.bias.len();
    let width = head.weight.len() / classes.max(1);
    out.par_chunks_exact_mut(classes).enumerate().filter(|(row, _)| inside(*row)).for_each(|(row, out)| {
        let features = rows.features.slice(row * width..(row + 1) * width);
        let logits: Vec<f32> = head.logits(&features.to_f32()).into_iter().map(|z| z as f32).collect();
        out.copy_from_slice(&factors::probabilities(problem, &logits));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_fold_and_folds_are_of_nearly_equal_size() {
        for rows in [1, 7, 79, 80, 5000, 100_003] {
            let folds = Folds::new(rows);
            let mut sizes = vec![0_usize; folds.count()];
            (0..rows).for_each(|row| sizes[folds.of(row)] += 1);
            assert!(sizes.iter().all(|size| size.abs_diff(rows / FOLDS) <= 64), "{rows}: {sizes:?}");
        }
    }

    #[test]
    fn runs_cover_their_rows_wherever_pieces_are_cut() {
        let folds = Folds::new(1000);
        for (first, rows) in [(0, 1000), (5, 3), (11, 500), (995, 5)] {
            let mut at = 0;
            for (fold, run) in folds.runs(first, rows) {
                assert_eq!(run.start, at);
                assert!(run.clone().all(|row| folds.of(first + row) == fold));
                at = run.end;
            }
            assert_eq!(at, rows);
        }
    }
}
