//! Which predictions can be trusted: evidence about each, and how often predictions of such evidence are right.
//!
//! Evidence is a few numbers a prediction (how sure the model is, what its nearest training records are labelled,
//! whether its reasons hold still). A logistic regression makes one probability of their ranks, as shares and
//! probabilities crowd at their ends, where mistakes and what is right differ by little; of a record whose label is
//! known it is fitted to the others, so that the calibration shown is one of predictions it has not seen.

use crate::error::{Error, Result};

/// Numbers that speak for or against each prediction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// What each number is.
    pub names: Vec<String>,
    /// `[n][names]`; NaN where a prediction has none of a kind.
    pub rows: Vec<Vec<f64>>,
}

/// How far each prediction can be trusted.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The probability that it is right; where nothing was fitted, how high its evidence ranks, from 0 to 1.
    pub trust: Vec<f64>,
    /// Of the fit to all labelled predictions: what a standard deviation of each evidence's ranks adds to the log-odds;
    /// `None` where nothing was fitted.
    pub weights: Option<Vec<f64>>,
}

/// Groups of labelled predictions that take turns at being left out.
const FOLDS: usize = 5;
/// Right, and wrong, predictions that a fit needs.
const LEAST: usize = 10;
/// λ of `Σ loss + (λ/2) ‖w‖²`, not on the bias.
const PENALTY: f64 = 1.0;
/// Newton steps; the objective is convex and small.
const STEPS: usize = 30;

/// Whether trust can be fitted to these predictions.
///
/// # Errors
/// [`Error::Usage`]: fewer than 10 right or 10 wrong ones.
pub fn check_known(right: &[Option<bool>]) -> Result<()> {
    let count = |wanted| right.iter().filter(|is| **is == Some(wanted)).count();
    if count(true) >= LEAST && count(false) >= LEAST {
        return Ok(());
    }
    Err(Error::usage(format!(
        "expected at least {LEAST} right and {LEAST} wrong predictions of known label, found {} and {}",
        count(true),
        count(false)
    ))
    .with_hint("give more records with labels"))
}

/// Fits trust to the predictions that are known to be right or wrong.
///
/// # Errors
/// As [`check_known`].
pub fn calibrate(evidence: &Evidence, right: &[Option<bool>]) -> Result<Calibration> {
    check_known(right)?;
    let rows = standardised(&ranked(&evidence.rows, evidence.names.len()), evidence.names.len());
    let known: Vec<usize> = (0..right.len()).filter(|&i| right[i].is_some()).collect();
    let fit = |leave_out: Option<usize>| {
        let learn = known.iter().enumerate().filter(|(place, _)| Some(place % FOLDS) != leave_out);
        let (x, y): (Vec<&[f64]>, Vec<bool>) =
            learn.map(|(_, &row)| (rows[row].as_slice(), right[row] == Some(true))).unzip();
        logistic(&x, &y, evidence.names.len())
    };
    let whole = fit(None);
    let mut trust: Vec<f64> = rows.iter().map(|row| probability(&whole, row)).collect();
    for fold in 0..FOLDS {
        let weights = fit(Some(fold));
        for &row in known.iter().skip(fold).step_by(FOLDS) {
            trust[row] = probability(&weights, &rows[row]);
        }
    }
    Ok(Calibration { trust, weights: Some(whole[..evidence.names.len()].to_vec()) })
}

/// Trust where too little is known to fit any: the mean, over what evidence a prediction has, of the share of the
/// others that have less.
pub fn by_ranks(evidence: &Evidence) -> Calibration {
    let width = evidence.names.len();
    let ranks = ranked(&evidence.rows, width);
    let of_column = |column: usize| ranks.iter().filter(|row| row[column].is_finite()).count();
    let others: Vec<f64> = (0..width).map(|column| of_column(column).saturating_sub(1).max(1) as f64).collect();
    let mean = |row: &Vec<f64>| {
        let shares = row.iter().zip(&others).map(|(rank, others)| rank / others).filter(|share| share.is_finite());
        let (count, sum) = shares.fold((0.0, 0.0), |(count, sum), share| (count + 1.0, sum + share));
        if count > 0.0 { sum / count } else { 0.0 }
    };
    Calibration { trust: ranks.iter().map(mean).collect(), weights: None }
}

/// Each column's ranks from 0 on, the mean of them where values are the same; what is missing stays so.
fn ranked(rows: &[Vec<f64>], width: usize) -> Vec<Vec<f64>> {
    let mut out = vec![vec![f64::NAN; width]; rows.len()];
    for column in 0..width {
        let mut order: Vec<usize> = (0..rows.len()).filter(|&row| rows[row][column].is_finite()).collect();
        order.sort_by(|&a, &b| rows[a][column].total_cmp(&rows[b][column]));
        let mut first = 0;
        for ties in order.chunk_by(|&a, &b| rows[a][column] == rows[b][column]) {
            let rank = first as f64 + (ties.len() - 1) as f64 / 2.0;
            for &row in ties {
                out[row][column] = rank;
            }
            first += ties.len();
        }
    }
    out
}

/// Each column less its mean, over its deviation; what is missing, or does not vary, is 0.
fn standardised(rows: &[Vec<f64>], width: usize) -> Vec<Vec<f64>> {
    let mut out = vec![vec![0.0; width]; rows.len()];
    for column in 0..width {
        let values: Vec<f64> = rows.iter().map(|row| row[column]).filter(|x| x.is_finite()).collect();
        let n = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / n;
        let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
        for (out, row) in out.iter_mut().zip(rows) {
            if deviation > 1e-12 && row[column].is_finite() {
                out[column] = (row[column] - mean) / deviation;
            }
        }
    }
    out
}

fn probability(weights: &[f64], row: &[f64]) -> f64 {
    let z = row.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>() + weights[row.len()];
    1.0 / (1.0 + (-z).exp())
}

/// `[w; b]` of a logistic regression, by Newton's method (iteratively reweighted least squares).
fn logistic(x: &[&[f64]], y: &[bool], width: usize) -> Vec<f64> {
    let size = width + 1;
    let mut weights = vec![0.0; size];
    for _ in 0..STEPS {
        let mut gradient: Vec<f64> = (0..size).map(|i| if i < width { PENALTY * weights[i] } else { 0.0 }).collect();
        let mut hessian = vec![vec![0.0; size]; size];
        for (i, row) in hessian.iter_mut().enumerate() {
            row[i] = if i < width { PENALTY } else { 1e-9 };
        }
        for (row, &is) in x.iter().zip(y) {
            let p = probability(&weights, row);
            let value = |i: usize| if i < width { row[i] } else { 1.0 };
            for i in 0..size {
                gradient[i] += (p - f64::from(u8::from(is))) * value(i);
                for (j, sum) in hessian[i].iter_mut().enumerate() {
                    *sum += p * (1.0 - p) * value(i) * value(j);
                }
            }
        }
        let step = solve(hessian, gradient);
        weights.iter_mut().zip(&step).for_each(|(w, step)| *w -= step);
        if step.iter().all(|step| step.abs() < 1e-10) {
            break;
        }
    }
    weights
}

/// `A x = b` of a symmetric positive definite A, by elimination.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for column in 0..n {
        for row in column + 1..n {
            let factor = a[row][column] / a[column][column];
            let pivot = a[column].clone();
            a[row].iter_mut().zip(&pivot).skip(column).for_each(|(x, y)| *x -= factor * y);
            b[row] -= factor * b[column];
        }
    }
    for column in (0..n).rev() {
        for k in column + 1..n {
            b[column] -= a[column][k] * b[k];
        }
        b[column] /= a[column][column];
    }
    b
}

/// Predictions of like trust.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Bin {
    /// How many.
    pub count: usize,
    /// Their mean trust.
    pub trust: f64,
    /// The share of them that is right.
    pub accuracy: f64,
}

/// Predictions of known label in `bins` groups of equal size by trust, the least trusted first, and the expected
/// calibration error `Σ (n_b / n) |trust_b − accuracy_b|` (Guo et al. 2017, over groups of equal size).
pub fn reliability(trust: &[f64], right: &[Option<bool>], bins: usize) -> (Vec<Bin>, f64) {
    let mut known: Vec<(f64, bool)> = trust.iter().zip(right).filter_map(|(t, is)| is.map(|is| (*t, is))).collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    let bins = bins.clamp(1, known.len().max(1));
    let bin = |number: usize| {
        let part = &known[number * known.len() / bins..(number + 1) * known.len() / bins];
        let n = part.len().max(1) as f64;
        Bin {
            count: part.len(),
            trust: part.iter().map(|(trust, _)| trust).sum::<f64>() / n,
            accuracy: part.iter().filter(|(_, is)| *is).count() as f64 / n,
        }
    };
    let bins: Vec<Bin> = (0..bins).map(bin).collect();
    let off = bins.iter().map(|bin| bin.count as f64 * (bin.trust - bin.accuracy).abs()).sum::<f64>();
    (bins, off / known.len().max(1) as f64)
}

/// How well the top of one ranking of words holds in another, most important first: `(1/|X|) Σ_i (1/i) #{j ≤ i : x_j
/// among the first i of X'}`, `TrustAI`'s mean average precision. 1 for the same ranking, 0 where nothing is shared or
/// either is empty.
pub(crate) fn shared_tops(words: &[String], others: &[String]) -> f64 {
    let (mut seen, mut sum) = (std::collections::HashSet::new(), 0.0);
    for i in 1..=words.len() {
        seen.extend(others.get(i - 1));
        sum += words[..i].iter().filter(|word| seen.contains(word)).count() as f64 / i as f64;
    }
    if words.is_empty() { 0.0 } else { sum / words.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn agreement_is_that_of_the_published_definition() {
        assert_eq!(shared_tops(&words("a b c"), &words("a b c")), 1.0);
        assert_eq!(shared_tops(&words("a b"), &words("c d")), 0.0);
        // Repeated words count repeatedly, as there.
        assert_eq!(shared_tops(&words("a a b"), &words("a b c")), 1.0);
        // i = 1: 0; i = 2: both of two; i = 3: two of three.
        let found = shared_tops(&words("b a x"), &words("a b c"));
        assert!((found - (0.0 + 1.0 + 2.0 / 3.0) / 3.0).abs() < 1e-12);
    }

    /// Evidence of which the first number makes a prediction right with probability σ(2 x), and the second says
    /// nothing.
    fn drawn(n: usize) -> (Evidence, Vec<Option<bool>>) {
        let uniform = |i: usize, k: u64| {
            let mut x = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (k << 40);
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        };
        let rows: Vec<Vec<f64>> = (0..n).map(|i| vec![4.0 * uniform(i, 1) - 2.0, uniform(i, 2)]).collect();
        let right = |(i, row): (usize, &Vec<f64>)| Some(uniform(i, 3) < 1.0 / (1.0 + (-2.0 * row[0]).exp()));
        let right = rows.iter().enumerate().map(right).collect();
        (Evidence { names: vec!["says".into(), "says nothing".into()], rows }, right)
    }

    #[test]
    fn trust_is_how_often_such_predictions_are_right() {
        let (mut evidence, mut right) = drawn(4000);
        right[7] = None;
        evidence.rows[8][1] = f64::NAN;
        let calibration = calibrate(&evidence, &right).unwrap();
        let weights = calibration.weights.clone().unwrap();
        // A standard deviation of the first is 4/√12, of which σ(2 x) makes 2.31 log-odds.
        assert!((weights[0] - 2.31).abs() < 0.25 && weights[1].abs() < 0.15, "{calibration:?}");
        let (bins, off) = reliability(&calibration.trust, &right, 10);
        assert!(off < 0.03 && bins.iter().map(|bin| bin.count).sum::<usize>() == 3999, "{off}");
        assert!(bins[0].accuracy < 0.1 && bins[9].accuracy > 0.9);
    }

    #[test]
    fn ranks_are_shared_by_ties_and_of_nothing_there_is_none() {
        let rows: Vec<Vec<f64>> = [0.9, f64::NAN, 0.5, 0.9, 0.99].map(|x| vec![x]).into();
        let ranks: Vec<f64> = ranked(&rows, 1).concat();
        assert!(ranks[1].is_nan());
        assert_eq!([ranks[0], ranks[2], ranks[3], ranks[4]], [1.5, 0.0, 1.5, 3.0]);
    }

    /// So that what crowds at an end is told apart as well as what is spread.
    #[test]
    fn only_the_order_of_evidence_counts() {
        let (evidence, right) = drawn(300);
        let mut crowded = evidence.clone();
        crowded.rows.iter_mut().for_each(|row| row[0] = 1.0 - 10.0_f64.powf(-2.0 - row[0]));
        assert_eq!(calibrate(&crowded, &right).unwrap(), calibrate(&evidence, &right).unwrap());
    }

    #[test]
    fn too_little_to_learn_from_is_refused() {
        let (evidence, right) = drawn(12);
        assert!(calibrate(&evidence, &right).unwrap_err().to_string().contains("at least 10 right"));
    }

    #[test]
    fn where_little_is_known_more_evidence_is_more_trust() {
        let rows = vec![vec![0.9, 3.0], vec![0.2, 1.0], vec![0.5, f64::NAN], vec![0.5, 2.0]];
        let evidence = Evidence { names: vec!["a".into(), "b".into()], rows };
        let found = by_ranks(&evidence);
        assert_eq!(found, Calibration { trust: vec![1.0, 0.0, 0.5, 0.5], weights: None });
        assert_eq!(by_ranks(&Evidence { rows: vec![vec![f64::NAN; 2]], ..evidence }).trust, [0.0]);
    }
}
