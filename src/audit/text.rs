//! A linear classifier of texts, by cross-validation: it has never seen the label that it judges, nor that of a copy.

use rayon::prelude::*;

use super::folds::Folds;
use super::ngrams::Bags;
use crate::error::{Error, Result};
use crate::factors::KeepGoing;
use crate::random::{Purpose, Stream};

/// Passes over the records.
const EPOCHS: usize = 10;
/// The first step down a slope; the t-th is this over the fourth root of t. Rows have unit length, so that no step is
/// too long.
const RATE: f32 = 3.0;
/// N times the penalty λ of `(1/N) Σ loss + (λ/2) ‖W‖²`: rare n-grams are not to remember single labels.
const PENALTY: f32 = 0.2;

/// Every record moves the bias, but few the weight of an n-gram.
const BIAS_RATE: f32 = 0.01;
/// Where the weights' scale is multiplied in, so that it never vanishes.
const LEAST_SCALE: f32 = 1e-6;

/// `p [N, K]` of each bag, by a softmax regression fitted to the bags outside its fold.
pub(super) fn out_of_fold(
    bags: &Bags,
    folds: &Folds,
    labels: &[Option<usize>],
    classes: usize,
    seed: u64,
    keep_going: KeepGoing<'_>,
) -> Result<Vec<f32>> {
    let order = shuffled(labels, seed);
    let models: Vec<Classifier> = (0..folds.count())
        .into_par_iter()
        .map(|fold| {
            let mut model = Classifier::new(bags.width(), classes, PENALTY / order.len() as f32);
            for epoch in 0..EPOCHS {
                // Another order each time, from one permutation: every record moves on by as many places.
                let turn = epoch * order.len() / EPOCHS;
                for &(row, label) in order[turn..].iter().chain(&order[..turn]) {
                    if folds.of(row) != fold {
                        model.learn(bags, row, label);
                    }
                }
                if !keep_going() {
                    return Err(Error::Interrupted);
                }
            }
            Ok(model)
        })
        .collect::<Result<_>>()?;
    Ok((0..bags.rows()).into_par_iter().flat_map_iter(|row| models[folds.of(row)].probabilities(bags, row)).collect())
}

/// The labelled records in an order drawn from the seed.
fn shuffled(labels: &[Option<usize>], seed: u64) -> Vec<(usize, usize)> {
    let mut order: Vec<(usize, usize)> =
        labels.iter().enumerate().filter_map(|(row, label)| label.map(|label| (row, label))).collect();
    let draws = Stream::new(seed, Purpose::Shuffle);
    draws.shuffle(&mut order, |last| ((last >> 32) as u32, last as u32));
    order
}

/// Softmax regression, learnt a record at a time by stochastic gradient descent (Bottou 2012, "Stochastic gradient
/// descent tricks").
struct Classifier {
    classes: usize,
    /// λ
    penalty: f32,
    /// Steps taken.
    steps: u64,
    /// `[buckets, K]`, to be multiplied by `scale`: the penalty shrinks all weights by one number.
    weights: Vec<f32>,
    scale: f32,
    /// `[K]`
    bias: Vec<f32>,
}

impl Classifier {
    fn new(width: usize, classes: usize, penalty: f32) -> Self {
        Self { classes, penalty, steps: 0, weights: vec![0.0; width * classes], scale: 1.0, bias: vec![0.0; classes] }
    }

    fn learn(&mut self, bags: &Bags, row: usize, label: usize) {
        let mut slopes = self.probabilities(bags, row);
        slopes[label] -= 1.0;
        self.steps += 1;
        let rate = RATE / (self.steps as f32).powf(0.25);
        self.scale *= 1.0 - rate * self.penalty;
        for (bucket, x) in bags.row(row) {
            let (here, x) = (&mut self.weights[bucket * self.classes..][..self.classes], rate * x / self.scale);
            here.iter_mut().zip(&slopes).for_each(|(weight, slope)| *weight -= slope * x);
        }
        self.bias.iter_mut().zip(&slopes).for_each(|(bias, slope)| *bias -= BIAS_RATE * rate * slope);
        if self.scale < LEAST_SCALE {
            self.weights.iter_mut().for_each(|weight| *weight *= self.scale);
            self.scale = 1.0;
        }
    }

    fn probabilities(&self, bags: &Bags, row: usize) -> Vec<f32> {
        let mut z = vec![0.0; self.classes];
        for (bucket, x) in bags.row(row) {
            let here = &self.weights[bucket * self.classes..][..self.classes];
            z.iter_mut().zip(here).for_each(|(z, weight)| *z += weight * x);
        }
        z.iter_mut().zip(&self.bias).for_each(|(z, bias)| *z = *z * self.scale + bias);
        let largest = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for z in &mut z {
            *z = (*z - largest).exp();
        }
        let sum: f32 = z.iter().sum();
        for z in &mut z {
            *z /= sum;
        }
        z
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_label_is_seen_through() {
        let texts: Vec<String> = (0..200)
            .map(|i| if i % 2 == 0 { format!("good film number {i}") } else { format!("bad film number {i}") })
            .collect();
        let mut labels: Vec<Option<usize>> = (0..200).map(|i| Some(i % 2)).collect();
        labels[10] = Some(1);
        let bags = Bags::read(200, 14, |row| Ok::<_, ()>((texts[row].clone(), None))).unwrap();
        let folds = Folds::new(&(0..200).map(|row| row..row + 1).collect::<Vec<_>>(), &(0..200).collect::<Vec<_>>());
        let p = out_of_fold(&bags, &folds, &labels, 2, 0, &|| true).unwrap();
        assert!(p[10 * 2] > 0.8, "{}", p[10 * 2]);
        assert!((0..200).all(|row| p[row * 2 + row % 2] > 0.5));
    }

    #[test]
    fn shuffling_keeps_every_labelled_record() {
        let labels = [Some(1), None, Some(0), Some(1), Some(0)];
        let mut order = shuffled(&labels, 3);
        order.sort_unstable();
        assert_eq!(order, [(0, 1), (2, 0), (3, 1), (4, 0)]);
    }
}
