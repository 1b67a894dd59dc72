//! What the training data do not cover: how near a record's nearest training records are.

use super::neighbours::nearest_of;
use crate::error::Result;
use crate::search::Options;
use crate::store::Store;

/// How near training records are to each other: the measure of how near is near.
#[derive(Clone, Debug, PartialEq)]
pub struct Coverage {
    /// Mean similarities, ascending.
    sorted: Vec<f32>,
}

impl Coverage {
    /// Of up to `sample` training records, evenly spread, the mean cosine to their `k` nearest others.
    ///
    /// # Errors
    /// Where the search is interrupted.
    pub fn of(store: &Store, k: usize, sample: usize, options: &Options<'_>) -> Result<Self> {
        let step = store.rows().div_ceil(sample.max(1)).max(1);
        let rows: Vec<usize> = (0..store.rows()).step_by(step).collect();
        let nearest = nearest_of(store, &rows, k, options)?;
        let mut sorted: Vec<f32> =
            nearest.iter().filter(|hits| !hits.is_empty()).map(|hits| mean(hits.iter().map(|hit| hit.score))).collect();
        sorted.sort_by(f32::total_cmp);
        Ok(Self { sorted })
    }

    /// The share of training records that are less covered by the others than a record of this mean similarity is by
    /// them all.
    pub fn percentile(&self, similarity: f32) -> f64 {
        self.sorted.partition_point(|other| *other < similarity) as f64 / self.sorted.len().max(1) as f64
    }
}

/// The mean of similarities; nothing is as far as can be.
pub fn mean(similarities: impl Iterator<Item = f32>) -> f32 {
    let (sum, count) = similarities.fold((0.0, 0), |(sum, count), x| (sum + x, count + 1));
    if count == 0 { -1.0 } else { sum / count as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_counts_who_is_less_covered() {
        let coverage = Coverage { sorted: vec![0.1, 0.2, 0.3, 0.4] };
        assert_eq!((coverage.percentile(0.05), coverage.percentile(0.3), coverage.percentile(0.9)), (0.0, 0.5, 1.0));
        assert_eq!(mean([0.5, 1.0].into_iter()), 0.75);
    }
}
