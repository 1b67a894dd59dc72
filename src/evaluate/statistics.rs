//! What is said of many numbers at once: means with bootstrap intervals, and correlations.

use serde::{Deserialize, Serialize};

use crate::numeric::ranks;
use crate::random::{Purpose, Stream};

/// A mean, and where it would fall in 95 of 100 data sets drawn like this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Of all values.
    pub mean: f64,
    /// The 2.5 % quantile of the bootstrap's means.
    pub low: f64,
    /// The 97.5 % quantile.
    pub high: f64,
}

/// Resamples of a bootstrap: more would move the third digit.
const RESAMPLES: u32 = 1000;

impl Measure {
    /// The mean of `values`, and its percentile bootstrap interval (Efron 1979) over `RESAMPLES` draws of the seed;
    /// nothing of no values. The draws depend on the number of values alone, so that measures of the same records move
    /// together.
    pub fn of(values: &[f64], seed: u64) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let stream = Stream::new(seed, Purpose::Bootstrap);
        let n = values.len();
        let mean_of = |resample: u32| {
            let drawn = (0..n as u32).map(|place| values[stream.below(n as u32, place, resample) as usize]);
            drawn.sum::<f64>() / n as f64
        };
        let mut means: Vec<f64> = (0..RESAMPLES).map(mean_of).collect();
        means.sort_by(f64::total_cmp);
        let quantile = |share: f64| means[((f64::from(RESAMPLES) - 1.0) * share).round() as usize];
        Some(Self { mean: values.iter().sum::<f64>() / n as f64, low: quantile(0.025), high: quantile(0.975) })
    }
}

/// Pearson's correlation of two lists; nothing where either does not vary.
///
/// # Panics
/// Where they are not of one length.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "a correlation is of pairs");
    let n = x.len() as f64;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / n;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let product = |a: &[f64], a_mean: f64, b: &[f64], b_mean: f64| {
        a.iter().zip(b).map(|(a, b)| (a - a_mean) * (b - b_mean)).sum::<f64>()
    };
    let (xx, yy) = (product(x, mean_x, x, mean_x), product(y, mean_y, y, mean_y));
    // Numbers that are one number but for rounding do not vary.
    let varies = |sum: f64, mean: f64| sum > n * (f64::EPSILON * mean).powi(2) && sum > 0.0;
    (varies(xx, mean_x) && varies(yy, mean_y))
        .then(|| (product(x, mean_x, y, mean_y) / (xx.sqrt() * yy.sqrt())).clamp(-1.0, 1.0))
}

/// Spearman's rank correlation: Pearson's of the ranks, ties sharing their mean rank; nothing where either is all one
/// tie.
///
/// # Panics
/// Where they are not of one length.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    pearson(&ranks(x), &ranks(y))
}

/// Average precision: the mean, over positives in the order of falling scores, of the share of positives up to there;
/// ties by position. Nothing where there is no positive.
///
/// # Panics
/// Where there is not a label for each score.
pub fn average_precision(scores: &[f64], positive: &[bool]) -> Option<f64> {
    assert_eq!(scores.len(), positive.len(), "a label for each score");
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let (mut found, mut sum) = (0.0, 0.0);
    for (place, _) in order.iter().enumerate().filter(|(_, i)| positive[**i]) {
        found += 1.0;
        sum += found / (place as f64 + 1.0);
    }
    (found > 0.0).then(|| sum / found)
}
