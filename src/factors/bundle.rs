//! The factors of a record whose gradient is a sum of several: answers in a context, tags of words, pieces behind
//! masks.
//!
//! | said of tokens | a factor a … | δ | h | s |
//! |---|---|---|---|---|
//! | answer spans | boundary (start, end) of each window that holds the answer | 1 at the boundary's output | `Σ_t δ_t h_t`, `δ_t = softmax(z)_t − [t is the boundary]` over the window's tokens | 0 |
//! | tags | word, at its first token | `softmax(z) − onehot(tag)` | h of that token | 1 |
//! | masks | mask | `softmax(z) − onehot(piece)` | h of that token | 1 |
//!
//! Refits and curvature are over factors: the head's objective is the mean loss of a factor, so that influence over F
//! of them is what a record's factors together change. Answers have no refit, which needs every token's h where a store
//! keeps the sum; their curvature is the empirical Fisher information of their boundaries ([`super::Curvature`]).
//!
//! The gradient of the record's loss with respect to the last layer's `[W; b]` is `Σ_f δ_f [h_f; s_f]ᵀ`, where the loss
//! is summed over its factors. (transformers has the mean of start and end, and the mean over a batch's tags: gradients
//! of those are ours over a constant of the batch.) A boundary's softmax is over positions, so one output's gradient is
//! a sum over tokens, and adding a number to all its logits changes nothing: hence s = 0.

use super::Target;
use super::loss::loss_and_delta;
use crate::model::Problem;
use crate::numeric::softmax_in_place;

/// F factors, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bundle {
    /// `h [F, E]`
    pub features: Vec<f32>,
    /// `δ [F, K]`
    pub deltas: Vec<f32>,
    /// s, `[F]`: the coordinate that meets the bias.
    pub biases: Vec<f32>,
    /// The class that each δ was taken against, `[F]`: a tag, a piece; of a boundary, its output.
    pub classes: Vec<usize>,
    /// The sum of the factors' losses.
    pub loss: f64,
}

impl Bundle {
    /// F.
    pub fn len(&self) -> usize {
        self.biases.len()
    }

    /// E.
    pub fn width(&self) -> usize {
        self.features.len() / self.len().max(1)
    }

    /// K.
    pub fn outputs(&self) -> usize {
        self.deltas.len() / self.len().max(1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.biases.is_empty()
    }

    /// Adds the factor of one row of logits `[K]` of features `[E]` against `class`.
    pub fn push_class(&mut self, features: &[f32], logits: &[f32], class: usize) {
        let mut delta = vec![0.0; logits.len()];
        self.loss += f64::from(loss_and_delta(Problem::SingleLabel, logits, &Target::Class(class), &mut delta));
        self.features.extend_from_slice(features);
        self.deltas.extend(delta);
        self.biases.push(1.0);
        self.classes.push(class);
    }

    /// Adds the factor of column `output` of `logits [T, K]`, a softmax over tokens of `features [T, E]`, against the
    /// token `place`.
    pub fn push_boundary(&mut self, features: &[f32], logits: &[f32], outputs: usize, output: usize, place: usize) {
        let mut p: Vec<f64> = logits.iter().skip(output).step_by(outputs).map(|&z| f64::from(z)).collect();
        let width = features.len() / p.len().max(1);
        let z = p[place];
        self.loss += softmax_in_place(&mut p) - z;
        // Σ_t δ_t h_t, as Σ p_t (h_t − h_place): what is small keeps its digits.
        let mut sum = vec![0.0; width];
        let own = &features[place * width..][..width];
        for (h, &p) in features.chunks_exact(width).zip(&p) {
            for ((sum, &h), &own) in sum.iter_mut().zip(h).zip(own) {
                *sum += p * (f64::from(h) - f64::from(own));
            }
        }
        self.features.extend(sum.into_iter().map(|sum: f64| sum as f32));
        self.deltas.extend((0..outputs).map(|k| f32::from(k == output)));
        self.biases.push(0.0);
        self.classes.push(output);
    }

    /// Some of the factors; their loss is not told apart.
    #[must_use]
    pub fn only(&self, factor: usize) -> Self {
        let (e, k) = (self.width(), self.outputs());
        Self {
            features: self.features[factor * e..][..e].to_vec(),
            deltas: self.deltas[factor * k..][..k].to_vec(),
            biases: vec![self.biases[factor]],
            classes: vec![self.classes[factor]],
            loss: self.loss,
        }
    }

    /// The length of the whole gradient.
    pub fn norm(&self) -> f64 {
        bundle_norm(&self.features, &self.deltas, &self.biases, self.width(), self.outputs())
    }

    /// The same with δ over the length of the whole gradient, as that is stored: 0 where that is 0.
    #[must_use]
    pub fn to_unit(&self) -> Self {
        let norm = self.norm() as f32;
        let scaled = |&delta: &f32| if norm == 0.0 { 0.0 } else { delta / norm };
        Self { deltas: self.deltas.iter().map(scaled).collect(), ..self.clone() }
    }

    /// The gradient itself, `Σ_f δ_f [h_f; s_f]ᵀ`, `[K, E + 1]`, row-major.
    pub fn gradient(&self) -> Vec<f64> {
        gradient(&self.features, &self.deltas, &self.biases, self.width(), self.outputs())
    }
}

/// `‖Σ_f δ_f [h_f; s_f]ᵀ‖` of `features [F, E]`, `deltas [F, K]` and `biases [F]`, in f64: of the matrix where that is
/// small, else by pairs.
pub(crate) fn bundle_norm(features: &[f32], deltas: &[f32], biases: &[f32], e: usize, k: usize) -> f64 {
    let f = biases.len();
    if k <= f {
        return gradient(features, deltas, biases, e, k).iter().map(|g| g * g).sum::<f64>().sqrt();
    }
    let dot = |values: &[f32], width: usize, a: usize, b: usize| -> f64 {
        let pairs = values[a * width..][..width].iter().zip(&values[b * width..][..width]);
        pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let pair = |a: usize, b: usize| {
        dot(deltas, k, a, b) * (dot(features, e, a, b) + f64::from(biases[a]) * f64::from(biases[b]))
    };
    let all = (0..f).flat_map(|a| (0..=a).map(move |b| (a, b)));
    let square: f64 = all.map(|(a, b)| if a == b { pair(a, a) } else { 2.0 * pair(a, b) }).sum();
    square.max(0.0).sqrt()
}

fn gradient(features: &[f32], deltas: &[f32], biases: &[f32], e: usize, k: usize) -> Vec<f64> {
    let mut sum = vec![0.0; k * (e + 1)];
    for (f, &bias) in biases.iter().enumerate() {
        let h = &features[f * e..][..e];
        for (row, &delta) in sum.chunks_exact_mut(e + 1).zip(&deltas[f * k..][..k]) {
            let delta = f64::from(delta);
            row.iter_mut().zip(h).for_each(|(sum, &h)| *sum += delta * f64::from(h));
            row[e] += delta * f64::from(bias);
        }
    }
    sum
}

/// The mean of some rows of `features [n, E]`, in f64; zeros where there are none.
pub fn mean_features(features: &[f32], width: usize, rows: impl IntoIterator<Item = usize>) -> Vec<f32> {
    let (mut sum, mut count) = (vec![0.0_f64; width], 0.0);
    for row in rows {
        count += 1.0;
        sum.iter_mut().zip(&features[row * width..]).for_each(|(sum, &h)| *sum += f64::from(h));
    }
    sum.into_iter().map(|sum| (sum / f64::max(count, 1.0)) as f32).collect()
}
