//! Which records of a pool are worth a label: those that come nearest to what the training data do not cover, no two of
//! them alike.

use std::collections::{BTreeSet, HashMap, HashSet};

/// What of a pool may be chosen for one target, nearest first: (index in the pool, similarity).
pub type Candidates = Vec<(u64, f32)>;

/// What is chosen, in order: (target, place among its candidates).
pub type Chosen = Vec<(usize, usize)>;

/// How records are chosen.
#[derive(Clone, Copy)]
pub struct SelectionOptions<'a> {
    /// How many at most.
    pub most: usize,
    /// How near to a target a chosen record must be.
    pub threshold: f32,
    /// Whether two records of the pool are so alike that a label for one is enough, as long as there are others.
    pub alike: &'a dyn Fn(u64, u64) -> bool,
}

impl SelectionOptions<'_> {
    fn differs(&self, index: u64, chosen: &[u64]) -> bool {
        chosen.iter().all(|&other| !(self.alike)(index, other))
    }
}

/// Takes turns: every target's nearest candidate, then every target's second, …, each candidate once (`TrustAI`'s
/// selection); those like one before come last.
pub fn round_robin(candidates: &[Candidates], options: &SelectionOptions<'_>) -> Chosen {
    let longest = candidates.iter().map(Vec::len).max().unwrap_or(0);
    let (mut seen, mut taken, mut chosen, mut passed_over) = (HashSet::new(), Vec::new(), Vec::new(), Vec::new());
    for place in 0..longest {
        for (target, candidates) in candidates.iter().enumerate() {
            if chosen.len() == options.most {
                return chosen;
            }
            let candidate = candidates.get(place).filter(|(_, score)| *score >= options.threshold);
            let Some(&(index, _)) = candidate else { continue };
            if !seen.insert(index) {
                continue;
            }
            if options.differs(index, &taken) {
                taken.push(index);
                chosen.push((target, place));
            } else {
                passed_over.push((target, place));
            }
        }
    }
    chosen.extend(passed_over);
    chosen.truncate(options.most);
    chosen
}

/// Raises the targets' coverage as fast as can be: at each step the candidate that adds most to `Σ_t w_t (sum of t's k
/// largest similarities)`.
///
/// `covered` has each target's k largest similarities to the training data, and `weights` what a target counts. The sum
/// is monotone and submodular, so that greedy steps reach at least 1 − 1/e of the best (Nemhauser, Wolsey & Fisher
/// 1978), and a gain that is no longer the largest need not be computed again until it is (Minoux 1978). Ties go to the
/// lower index.
pub fn greedy_coverage(
    candidates: &[Candidates],
    covered: &[Vec<f32>],
    weights: &[f32],
    options: &SelectionOptions<'_>,
) -> Chosen {
    let mut reach: HashMap<u64, Vec<(usize, usize, f32)>> = HashMap::new();
    for (target, list) in candidates.iter().enumerate() {
        for (place, &(index, score)) in list.iter().enumerate().filter(|(_, (_, score))| *score >= options.threshold) {
            reach.entry(index).or_default().push((target, place, score));
        }
    }
    let mut covered: Vec<Vec<f32>> = covered.to_vec();
    let gain = |covered: &[Vec<f32>], index: u64| -> f64 {
        let more = |&(target, _, score): &(usize, usize, f32)| {
            let least = covered[target].iter().copied().fold(f32::INFINITY, f32::min);
            f64::from(weights[target]) * f64::from((score - least).max(0.0))
        };
        reach[&index].iter().map(more).sum()
    };
    // Gains are positive, so that their bits are in the order of their values.
    let key = |gain: f64, index: u64| (gain.to_bits(), std::cmp::Reverse(index));
    let mut queue: BTreeSet<(u64, std::cmp::Reverse<u64>)> =
        reach.keys().map(|&index| key(gain(&covered, index), index)).collect();
    let (mut taken, mut chosen) = (Vec::new(), Vec::new());
    while chosen.len() < options.most {
        let Some((bits, std::cmp::Reverse(index))) = queue.pop_last() else { break };
        let now = gain(&covered, index);
        if now <= 0.0 {
            continue;
        }
        if now.to_bits() < bits && queue.last().is_some_and(|next| *next > key(now, index)) {
            queue.insert(key(now, index));
            continue;
        }
        if !options.differs(index, &taken) {
            continue;
        }
        let nearest = reach[&index].iter().fold(None, |best: Option<&(usize, usize, f32)>, this| match best {
            Some(best) if best.2 >= this.2 => Some(best),
            _ => Some(this),
        });
        let Some(&(target, place, _)) = nearest else { continue };
        for &(target, _, score) in &reach[&index] {
            let least = (0..covered[target].len()).min_by(|&a, &b| covered[target][a].total_cmp(&covered[target][b]));
            if let Some(least) = least.filter(|&least| covered[target][least] < score) {
                covered[target][least] = score;
            }
        }
        taken.push(index);
        chosen.push((target, place));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(most: usize, threshold: f32) -> SelectionOptions<'static> {
        SelectionOptions { most, threshold, alike: &|_, _| false }
    }

    #[test]
    fn targets_take_turns_and_share_no_candidate() {
        let candidates = [vec![(1, 0.9), (2, 0.8), (3, 0.5)], vec![(1, 0.95), (4, 0.8)], vec![]];
        assert_eq!(round_robin(&candidates, &options(10, 0.7)), [(0, 0), (0, 1), (1, 1)]);
        assert_eq!(round_robin(&candidates, &options(1, 0.7)), [(0, 0)]);
        let alike = |most| SelectionOptions { alike: &|a, b| a + b == 3, ..options(most, 0.7) };
        assert_eq!(round_robin(&candidates, &alike(2)), [(0, 0), (1, 1)]);
        assert_eq!(round_robin(&candidates, &alike(10)), [(0, 0), (1, 1), (0, 1)]);
    }

    #[test]
    fn what_covers_two_targets_comes_before_what_covers_one_better() {
        let candidates = [vec![(7, 0.9), (8, 0.8)], vec![(8, 0.8)]];
        let chosen = greedy_coverage(&candidates, &[vec![0.5], vec![0.5]], &[1.0, 1.0], &options(10, 0.0));
        assert_eq!(chosen, [(0, 1), (0, 0)]);
        let weighed = greedy_coverage(&candidates, &[vec![0.5], vec![0.5]], &[10.0, 1.0], &options(1, 0.0));
        assert_eq!(weighed, [(0, 0)]);
    }

    /// Greedy as its definition reads.
    fn plain(candidates: &[Candidates], covered: &[Vec<f32>], most: usize) -> Vec<u64> {
        let mut covered = covered.to_vec();
        let mut chosen: Vec<u64> = Vec::new();
        while chosen.len() < most {
            let mut all: Vec<u64> = candidates.iter().flatten().map(|(index, _)| *index).collect();
            all.sort_unstable();
            all.dedup();
            let gain = |index: u64| -> f64 {
                let of = |(list, covered): (&Candidates, &Vec<f32>)| {
                    let score = list.iter().find(|(other, _)| *other == index).map_or(-1.0, |found| found.1);
                    let least = covered.iter().copied().fold(f32::INFINITY, f32::min);
                    f64::from((score - least).max(0.0))
                };
                candidates.iter().zip(&covered).map(of).sum()
            };
            let best = all.into_iter().filter(|index| !chosen.contains(index)).map(|index| (gain(index), index));
            let best = best.fold((0.0, 0), |best, this| if this.0 > best.0 { this } else { best });
            if best.0 <= 0.0 {
                break;
            }
            for (list, covered) in candidates.iter().zip(&mut covered) {
                let score = list.iter().find(|(other, _)| *other == best.1).map_or(-1.0, |found| found.1);
                covered.sort_by(f32::total_cmp);
                covered[0] = covered[0].max(score);
            }
            chosen.push(best.1);
        }
        chosen
    }

    proptest! {
        #[test]
        fn lazy_steps_are_greedy_steps(scores in proptest::collection::vec(proptest::collection::vec(0_u8..64, 12), 1..6)) {
            let candidates: Vec<Candidates> = scores
                .iter()
                .map(|row| row.iter().enumerate().map(|(index, &s)| (index as u64, f32::from(s) / 64.0)).collect())
                .collect();
            let covered = vec![vec![0.25, 0.5]; candidates.len()];
            let weights = vec![1.0; candidates.len()];
            let chosen = greedy_coverage(&candidates, &covered, &weights, &options(8, 0.0));
            let indices: Vec<u64> = chosen.iter().map(|&(target, place)| candidates[target][place].0).collect();
            prop_assert_eq!(indices, plain(&candidates, &covered, 8));
        }
    }
}
