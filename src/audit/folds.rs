//! Cross-validation over stored factors: what a head says of a record whose label it was not fitted to.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::Result;
use crate::factors::{self, FactorSource, FoldsOf, KeepGoing, LabelledRows, Refit, RefitOptions, RefitTargets};

/// Parts the records are cut into.
const FOLDS: usize = 5;

/// λ of the refits: so little that the head is as sharp as its features let it be.
const PENALTY: f64 = 0.01;

/// Which records go together. Runs of consecutive records take turns, so that data sorted by label are spread over
/// every fold, and a fold is made of views of what is there. The words of a record stay together, and so do records
/// that say the same: who judges one has not learnt the other.
#[derive(Clone, Debug)]
pub(super) struct Folds(Vec<u8>);

impl Folds {
    /// For records of these units each, and what each says ([`super::redundant::sayings`]): runs of up to 64 that say
    /// something new, and at least 16 runs in a fold where there are so many.
    pub(super) fn new(records: &[Range<usize>], sayings: &[usize]) -> Self {
        let distinct = sayings.iter().max().map_or(0, |last| last + 1);
        let run = (distinct / (16 * FOLDS)).clamp(1, 64);
        let of_record =
            |(units, saying): (&Range<usize>, usize)| units.clone().map(move |_| (saying / run % FOLDS) as u8);
        Self(records.iter().zip(sayings.iter().copied()).flat_map(of_record).collect())
    }

    /// How many there are.
    #[expect(clippy::unused_self, reason = "of these folds")]
    pub(super) fn count(&self) -> usize {
        FOLDS
    }

    /// The fold of a unit.
    pub(super) fn of(&self, unit: usize) -> usize {
        usize::from(self.0[unit])
    }
}

/// `p [N, K]`: the class probabilities of each unit, by a head refitted to those outside its fold.
///
/// # Errors
/// As [`factors::refit`].
pub(super) fn out_of_fold(source: &dyn FactorSource, folds: &Folds, keep_going: KeepGoing<'_>) -> Result<Vec<f32>> {
    let rows: usize = source.piece_rows().iter().sum();
    let classes = source.classes();
    let options =
        RefitOptions { penalty: PENALTY, targets: RefitTargets::Gold, tolerance: 1e-4, ..RefitOptions::default() };
    let heads = factors::refit_without(
        FoldsOf { count: folds.count(), of: &|row| folds.of(row) },
        source,
        &options,
        keep_going,
    )?;
    let mut probabilities = vec![0.0; rows * classes];
    let (mut rest, mut first) = (probabilities.as_mut_slice(), 0);
    for (piece, rows) in source.piece_rows().into_iter().enumerate() {
        let (here, after) = rest.split_at_mut(rows * classes);
        predict(|row| &heads[folds.of(first + row)], source.piece(piece), here, source);
        source.release(piece);
        (rest, first) = (after, first + rows);
    }
    Ok(probabilities)
}

/// What each row's head says of it.
fn predict<'a>(
    head: impl Fn(usize) -> &'a Refit + Sync,
    rows: LabelledRows<'_>,
    out: &mut [f32],
    source: &dyn FactorSource,
) {
    let (width, problem) = (source.width(), source.problem());
    out.par_chunks_exact_mut(source.classes()).enumerate().for_each(|(row, out)| {
        let features = rows.features.slice(row * width..(row + 1) * width);
        let logits: Vec<f32> = head(row).logits(&features.to_f32()).into_iter().map(|z| z as f32).collect();
        out.copy_from_slice(&factors::probabilities(problem, &logits));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_fold_and_folds_are_of_nearly_equal_size() {
        for rows in [1, 7, 79, 80, 5000, 100_003] {
            let folds =
                Folds::new(&(0..rows).map(|row| row..row + 1).collect::<Vec<_>>(), &(0..rows).collect::<Vec<_>>());
            let mut sizes = vec![0_usize; folds.count()];
            (0..rows).for_each(|row| sizes[folds.of(row)] += 1);
            assert!(sizes.iter().all(|size| size.abs_diff(rows / FOLDS) <= 64), "{rows}: {sizes:?}");
        }
        let of_words = Folds::new(&[0..3, 3..3, 3..9], &[0, 1, 2]);
        assert_eq!((0..9).map(|word| of_words.of(word)).collect::<Vec<_>>(), [0, 0, 0, 2, 2, 2, 2, 2, 2]);
    }

    #[test]
    fn records_that_say_the_same_are_in_one_fold() {
        let folds = Folds::new(&[0..1, 1..2, 2..3, 3..5, 5..6], &[0, 1, 2, 1, 3]);
        assert_eq!((0..6).map(|unit| folds.of(unit)).collect::<Vec<_>>(), [0, 1, 2, 1, 1, 3]);
    }
}
