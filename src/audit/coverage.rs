//! What the training data do not cover: how near a record's nearest training records are, and which records of a pool would come nearer.

use std::collections::HashSet;

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

    /// The share of training records that are less covered by the others than a record of this mean similarity is by them all.
    pub fn percentile(&self, similarity: f32) -> f64 {
        self.sorted.partition_point(|other| *other < similarity) as f64 / self.sorted.len().max(1) as f64
    }
}

/// The mean of similarities; nothing is as far as can be.
pub fn mean(similarities: impl Iterator<Item = f32>) -> f32 {
    let (sum, count) = similarities.fold((0.0, 0), |(sum, count), x| (sum + x, count + 1));
    if count == 0 { -1.0 } else { sum / count as f32 }
}

/// Takes turns: every target's nearest candidate, then every target's second, …, each candidate once, those of at least `threshold`, until
/// there are `most` (`TrustAI`'s selection). Gives (target, place among its candidates).
pub fn round_robin(candidates: &[Vec<(u64, f32)>], most: usize, threshold: f32) -> Vec<(usize, usize)> {
    let longest = candidates.iter().map(Vec::len).max().unwrap_or(0);
    let mut seen = HashSet::new();
    let turns = (0..longest).flat_map(|place| (0..candidates.len()).map(move |target| (target, place)));
    turns
        .filter(|&(target, place)| {
            let candidate = candidates[target].get(place).filter(|(_, score)| *score >= threshold);
            candidate.is_some_and(|(index, _)| seen.insert(*index))
        })
        .take(most)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_take_turns_and_share_no_candidate() {
        let candidates = [vec![(1, 0.9), (2, 0.8), (3, 0.5)], vec![(1, 0.95), (4, 0.8)], vec![]];
        assert_eq!(round_robin(&candidates, 10, 0.7), [(0, 0), (0, 1), (1, 1)]);
        assert_eq!(round_robin(&candidates, 1, 0.7), [(0, 0)]);
    }

    #[test]
    fn a_percentile_counts_who_is_less_covered() {
        let coverage = Coverage { sorted: vec![0.1, 0.2, 0.3, 0.4] };
        assert_eq!((coverage.percentile(0.05), coverage.percentile(0.3), coverage.percentile(0.9)), (0.0, 0.5, 1.0));
        assert_eq!(mean([0.5, 1.0].into_iter()), 0.75);
    }
}
