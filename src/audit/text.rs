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

/// For a [`Classifier`] that is told how many classes there are when it is made.
const ANY: usize = 0;

/// `p [N, K]` of each bag, by a softmax regression fitted to the bags outside its fold.
pub(super) fn out_of_fold(
    bags: &Bags,
    folds: &Folds,
    labels: &[Option<usize>],
    classes: usize,
    seed: u64,
    keep_going: KeepGoing<'_>,
) -> Result<Vec<f32>> {
    // Loops of a length that the compiler knows are most of the time.
    match classes {
        2 => of_classes::<2>(bags, folds, labels, classes, seed, keep_going),
        3 => of_classes::<3>(bags, folds, labels, classes, seed, keep_going),
        4 => of_classes::<4>(bags, folds, labels, classes, seed, keep_going),
        5 => of_classes::<5>(bags, folds, labels, classes, seed, keep_going),
        _ => of_classes::<ANY>(bags, folds, labels, classes, seed, keep_going),
    }
}

/// [`out_of_fold`] of `K` classes.
fn of_classes<const K: usize>(
    bags: &Bags,
    folds: &Folds,
    labels: &[Option<usize>],
    classes: usize,
    seed: u64,
    keep_going: KeepGoing<'_>,
) -> Result<Vec<f32>> {
    let order = shuffled(labels, seed);
    let models: Vec<Classifier<K>> = (0..folds.count())
        .into_par_iter()
        .map(|fold| {
            let mut model = Classifier::new(bags.width(), classes, PENALTY / order.len() as f32);
            let (mut features, mut slopes) = (Vec::new(), vec![0.0; classes]);
            for epoch in 0..EPOCHS {
                // Another order each time, from one permutation: every record moves on by as many places.
                let turn = epoch * order.len() / EPOCHS;
                for &(row, label) in order[turn..].iter().chain(&order[..turn]) {
                    if folds.of(row) != fold {
                        features.clear();
                        features.extend(bags.row(row));
                        model.learn(&features, label, &mut slopes);
                    }
                }
                if !keep_going() {
                    return Err(Error::Interrupted);
                }
            }
            Ok(model)
        })
        .collect::<Result<_>>()?;
    let mut p = vec![0.0; bags.rows() * classes];
    p.par_chunks_exact_mut(classes.max(1)).enumerate().for_each_init(Vec::new, |features, (row, p)| {
        features.clear();
        features.extend(bags.row(row));
        models[folds.of(row)].probabilities(features, p);
    });
    Ok(p)
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
struct Classifier<const K: usize> {
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

impl<const K: usize> Classifier<K> {
    fn new(width: usize, classes: usize, penalty: f32) -> Self {
        Self { classes, penalty, steps: 0, weights: vec![0.0; width * classes], scale: 1.0, bias: vec![0.0; classes] }
    }

    /// K.
    #[inline(always)]
    fn classes(&self) -> usize {
        if K == ANY { self.classes } else { K }
    }

    /// Learns a record with these buckets and values; `slopes [K]` is room.
    fn learn(&mut self, features: &[(usize, f32)], label: usize, slopes: &mut [f32]) {
        let classes = self.classes();
        let slopes = &mut slopes[..classes];
        self.probabilities(features, slopes);
        slopes[label] -= 1.0;
        self.steps += 1;
        let rate = RATE / (self.steps as f32).powf(0.25);
        self.scale *= 1.0 - rate * self.penalty;
        for (bucket, x) in features {
            let (here, x) = (&mut self.weights[bucket * classes..][..classes], rate * x / self.scale);
            here.iter_mut().zip(&*slopes).for_each(|(weight, slope)| *weight -= slope * x);
        }
        self.bias.iter_mut().zip(&*slopes).for_each(|(bias, slope)| *bias -= BIAS_RATE * rate * slope);
        if self.scale < LEAST_SCALE {
            self.weights.iter_mut().for_each(|weight| *weight *= self.scale);
            self.scale = 1.0;
        }
    }

    /// Into `z [K]`.
    fn probabilities(&self, features: &[(usize, f32)], z: &mut [f32]) {
        let classes = self.classes();
        let z = &mut z[..classes];
        z.fill(0.0);
        for (bucket, x) in features {
            let here = &self.weights[bucket * classes..][..classes];
            z.iter_mut().zip(here).for_each(|(z, weight)| *z += weight * x);
        }
        z.iter_mut().zip(&self.bias).for_each(|(z, bias)| *z = *z * self.scale + bias);
        let largest = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for z in &mut *z {
            *z = (*z - largest).exp();
        }
        let sum: f32 = z.iter().sum();
        for z in z {
            *z /= sum;
        }
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
    fn classes_that_the_compiler_knows_are_as_any() {
        let text =
            |row: usize| (0..12).map(|i| ((row * 31 + i * i * 7) % 97).to_string()).collect::<Vec<_>>().join(" ");
        let bags = Bags::read(120, 10, |row| Ok::<_, ()>((text(row), None))).unwrap();
        let folds = Folds::new(&(0..120).map(|row| row..row + 1).collect::<Vec<_>>(), &(0..120).collect::<Vec<_>>());
        for classes in 1..8 {
            let labels: Vec<_> = (0..120).map(|row| (row % 11 != 0).then_some(row * row % 13 % classes)).collect();
            let bits = |p: Result<Vec<f32>>| p.unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let any = bits(of_classes::<ANY>(&bags, &folds, &labels, classes, 3, &|| true));
            assert_eq!(any.len(), 120 * classes);
            assert_eq!(bits(out_of_fold(&bags, &folds, &labels, classes, 3, &|| true)), any, "{classes} classes");
        }
    }

    #[test]
    fn shuffling_keeps_every_labelled_record() {
        let labels = [Some(1), None, Some(0), Some(1), Some(0)];
        let mut order = shuffled(&labels, 3);
        order.sort_unstable();
        assert_eq!(order, [(0, 1), (2, 0), (3, 1), (4, 0)]);
    }
}
