//! Which features of a text are kept in each sample of a perturbation method.
//!
//! A sample's draws are a function of the seed, the record's tokens and the sample's number: asking for more samples
//! keeps those there were. Samples that come out alike are held once, with their number: short texts have few different
//! masks, and each needs the model once.

use std::collections::HashMap;

use crate::random::{Purpose, Stream};

/// The different masks of a record's samples, in the order in which they came first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    features: usize,
    /// For each mask, whether each feature is kept: `[masks, features]`.
    kept: Vec<bool>,
    /// How many samples have each mask.
    counts: Vec<u32>,
}

/// The second number of a draw's counter: no two ways of drawing share numbers.
#[derive(Clone, Copy)]
enum Design {
    Coins = 0,
    Removals = 1,
    Coalitions = 2,
}

impl Masks {
    /// Those of given samples, one row `[features]` a sample.
    ///
    /// # Panics
    /// Where a row has not so many features.
    pub fn from_rows(features: usize, rows: impl IntoIterator<Item = Vec<bool>>) -> Self {
        let mut masks = Self { features, ..Self::default() };
        let mut known: HashMap<Vec<bool>, usize> = HashMap::new();
        for row in rows {
            assert_eq!(row.len(), features, "a mask has one entry a feature");
            if let Some(&mask) = known.get(&row) {
                masks.counts[mask] += 1;
                continue;
            }
            masks.kept.extend_from_slice(&row);
            known.insert(row, masks.counts.len());
            masks.counts.push(1);
        }
        masks
    }

    /// Each feature kept with probability ½, the first sample whole: `TrustAI`'s.
    pub fn coins(features: usize, samples: usize, seed: u64, record: u32) -> Self {
        let draw = |sample: u32| {
            let bits = words(Design::Coins, seed, sample, record).flat_map(|word| (0..32).map(move |i| word >> i & 1));
            bits.take(features).map(|bit| bit == 1).collect()
        };
        Self::from_rows(features, whole(features).chain((1..samples as u32).map(draw)).take(samples))
    }

    /// A number of features from 1 to all, each as likely, and so many left out at random, the first sample whole:
    /// LIME's own.
    pub fn removals(features: usize, samples: usize, seed: u64, record: u32) -> Self {
        let draw = |sample: u32| {
            let mut words = words(Design::Removals, seed, sample, record);
            let size = if features == 0 { 0 } else { 1 + below(words.next(), features) };
            subset(features, size, &mut words).into_iter().map(|left_out| !left_out).collect()
        };
        Self::from_rows(features, whole(features).chain((1..samples as u32).map(draw)).take(samples))
    }

    /// Sizes k with probability ∝ 1/(k (features − k)), so many features kept at random, and after each the features
    /// that it leaves out (Covert & Lee 2021): Kernel SHAP's. An odd number of samples is rounded up.
    ///
    /// # Panics
    /// Where there are less than two features: they have no subset but the ends.
    pub fn coalitions(features: usize, samples: usize, seed: u64, record: u32) -> Self {
        assert!(features >= 2, "coalitions are drawn of two features or more");
        let sizes = Sizes::new(features);
        let pair = |sample: u32| {
            let mut words = words(Design::Coalitions, seed, sample, record);
            let kept = subset(features, sizes.draw(words.next()), &mut words);
            let rest = kept.iter().map(|kept| !kept).collect();
            [kept, rest]
        };
        Self::from_rows(features, (0..samples.div_ceil(2) as u32).flat_map(pair))
    }

    /// With a mask that keeps nothing before them.
    pub(super) fn after_nothing(mut self) -> Self {
        self.kept.splice(0..0, std::iter::repeat_n(false, self.features));
        self.counts.insert(0, 1);
        self
    }

    /// Every subset but none and all; the r-th, from 1, keeps feature i where bit i of r is set.
    ///
    /// # Panics
    /// Where they cannot be counted.
    pub fn proper_subsets(features: usize) -> Self {
        let end = Self::proper_subset_count(features).expect("subsets that can be counted") + 1;
        Self::from_rows(features, (1..end).map(|r| (0..features).map(|feature| r >> feature & 1 == 1).collect()))
    }

    /// How many subsets there are but none and all, where that fits 32 bits.
    pub fn proper_subset_count(features: usize) -> Option<usize> {
        (features < 32).then(|| (1_usize << features).saturating_sub(2))
    }

    /// How many different masks there can be.
    pub(super) fn most(features: usize) -> usize {
        1_usize.checked_shl(features as u32).unwrap_or(usize::MAX)
    }

    /// How many features there are.
    pub fn features(&self) -> usize {
        self.features
    }

    /// How many different masks there are.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many samples there are.
    pub fn samples(&self) -> u64 {
        self.counts.iter().map(|&count| u64::from(count)).sum()
    }

    /// Which features a mask keeps.
    ///
    /// # Panics
    /// Where there is no such mask.
    pub fn mask(&self, mask: usize) -> &[bool] {
        &self.kept[mask * self.features..(mask + 1) * self.features]
    }

    /// The masks, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &[bool]> {
        (0..self.len()).map(|mask| self.mask(mask))
    }

    /// How many features each mask keeps.
    pub fn sizes(&self) -> impl Iterator<Item = usize> {
        self.iter().map(|mask| mask.iter().filter(|&&kept| kept).count())
    }

    /// How many samples have each mask.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }
}

/// The sample that keeps everything.
fn whole(features: usize) -> impl Iterator<Item = Vec<bool>> {
    std::iter::once(vec![true; features])
}

/// The words of one sample's draws.
fn words(design: Design, seed: u64, sample: u32, record: u32) -> impl Iterator<Item = u32> {
    let stream = Stream::new(seed, Purpose::Masks);
    (0..).flat_map(move |block| stream.block([block, design as u32, sample, record]))
}

/// Uniform below `n`, without a bias worth the name (n 2⁻³²). Streams of words have no end.
fn below(word: Option<u32>, n: usize) -> usize {
    ((u64::from(word.unwrap_or_default()) * n as u64) >> 32) as usize
}

/// `size` of the features, each set as likely: the start of a Fisher–Yates shuffle.
fn subset(features: usize, size: usize, words: &mut impl Iterator<Item = u32>) -> Vec<bool> {
    let mut order: Vec<usize> = (0..features).collect();
    let mut chosen = vec![false; features];
    for place in 0..size {
        order.swap(place, place + below(words.next(), features - place));
        chosen[order[place]] = true;
    }
    chosen
}

/// The distribution of the sizes of coalitions.
struct Sizes {
    /// Up to each size from 1 on, the sum of 1/(k (M − k)).
    cumulative: Vec<f64>,
}

impl Sizes {
    fn new(features: usize) -> Self {
        let chance = |size: usize| 1.0 / (size * (features - size)) as f64;
        let sum = |sum: &mut f64, size| {
            *sum += chance(size);
            Some(*sum)
        };
        Self { cumulative: (1..features).scan(0.0, sum).collect() }
    }

    fn draw(&self, word: Option<u32>) -> usize {
        let share = (f64::from(word.unwrap_or_default()) + 0.5) / (32.0_f64).exp2();
        let point = share * self.cumulative.last().copied().unwrap_or_default();
        1 + self.cumulative.partition_point(|&sum| sum <= point).min(self.cumulative.len() - 1)
    }
}
