//! The Fisher information of a whole network, one block a linear layer, each in its Kronecker form.
//!
//! ```text
//! K-FAC    F ≈ E[ã ãᵀ] ⊗ E[Σ_t δ_t δ_tᵀ]            Martens and Grosse 2015; the first mean over tokens, the second over records
//! EK-FAC   F ≈ Q Λ Qᵀ, Λ_jk = E[(Q_Sᵀ G Q_A)²_jk]    George et al. 2018; Q the eigenvectors of K-FAC, G a record's whole gradient
//! ```
//!
//! `(F + λI)⁻¹ G = Q_S [(Q_Sᵀ G Q_A) / (Λ + λ)] Q_Aᵀ` (Grosse et al. 2023, "Studying large language model
//! generalization with influence functions"), λ a share of the layer's mean eigenvalue, each layer's own: so one number
//! suits layers of any size. Queries, keys and values are three layers.

use std::fmt;

use faer::Mat;
use serde::{Deserialize, Serialize};

use super::Target;
use super::kronecker::Eigen;
use super::loss::{loss_and_delta, probabilities};
use crate::error::Result;
use crate::model::{LinearLayer, Moments, Problem};
use crate::random::{Purpose, Stream, normal, uniform};

/// Which eigenvalues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FisherForm {
    /// Products of the factors'.
    Kfac,
    /// The second moments of gradients in the same eigenvectors.
    Ekfac,
}

impl fmt::Display for FisherForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kfac => "K-FAC",
            Self::Ekfac => "EK-FAC",
        })
    }
}

/// Whose labels the gradients are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FisherLabels {
    /// The model's own distribution: the Fisher information. By one draw a record, or exactly where the logits have one
    /// degree of freedom.
    #[default]
    Model,
    /// Those that the records' gradients were stored for: the empirical Fisher.
    Data,
}

/// A gradient at logits `[K]` whose second moment is the Fisher information in them: the loss's against a label that
/// the model would give, drawn by the seed and the record's number. Where every such gradient is a multiple of one, it
/// is that one, times the root of the mean square: nothing is drawn.
pub fn fisher_gradient(problem: Problem, logits: &[f32], seed: u64, record: u64, gradient: &mut [f32]) {
    let p = probabilities(problem, logits);
    let stream = Stream::new(seed, Purpose::FisherLabels);
    let word = |c: usize| stream.block([(c / 4) as u32, 0, record as u32, (record >> 32) as u32])[c % 4];
    let target = match (problem, logits) {
        (Problem::Headless, _) => return,
        (Problem::SingleLabel, &[a, b]) => {
            let root = root_variance(a - b);
            gradient.copy_from_slice(&[root, -root]);
            return;
        }
        (Problem::MultiLabel, &[z]) => {
            gradient[0] = root_variance(z);
            return;
        }
        (Problem::Regression, [_]) => {
            gradient[0] = std::f32::consts::SQRT_2;
            return;
        }
        // A squared error is minus the logarithm of a normal density of variance 1/2, and a constant.
        (Problem::Regression, _) => {
            let draw = |(c, out): (usize, &mut f32)| *out = std::f32::consts::SQRT_2 * normal(word(c));
            gradient.iter_mut().enumerate().for_each(draw);
            return;
        }
        (Problem::SingleLabel, _) => Target::Class(drawn(&p, uniform(word(0)))),
        (Problem::MultiLabel, _) => {
            Target::Classes(p.iter().enumerate().map(|(c, &p)| f32::from(u8::from(uniform(word(c)) < p))).collect())
        }
    };
    loss_and_delta(problem, logits, &target, gradient);
}

/// `√(σ(z) σ(−z))`
fn root_variance(z: f32) -> f32 {
    let half = (-f64::from(z).abs() / 2.0).exp();
    (half / (1.0 + half * half)) as f32
}

/// The class at `u` of the distribution's sums.
fn drawn(p: &[f32], u: f32) -> usize {
    let mut sum = 0.0;
    let at = p.iter().position(|p| {
        sum += f64::from(*p);
        f64::from(u) < sum
    });
    at.unwrap_or(p.len() - 1)
}

/// One linear layer's Fisher information, in its eigenvectors.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerFisher {
    /// Whose.
    pub layer: LinearLayer,
    /// `Q_Aᵀ [inputs, inputs]`, an eigenvector a row.
    pub input_vectors: Vec<f32>,
    /// Of the mean of `ã ãᵀ` over tokens, ascending, `[inputs]`.
    pub input_values: Vec<f32>,
    /// `Q_Sᵀ [outputs, outputs]`, an eigenvector a row: zero but for the diagonal's blocks.
    pub output_vectors: Vec<f32>,
    /// Of the mean of `Σ_t δ δᵀ` over records, ascending in each block, `[outputs]`.
    pub output_values: Vec<f32>,
    /// EK-FAC's Λ `[outputs, inputs]`, where it was fitted.
    pub corrected: Option<Vec<f32>>,
}

impl LayerFisher {
    /// From the sums over `records` records.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] where a sum is not a number.
    pub fn new(layer: &LinearLayer, moments: &Moments, records: u64) -> Result<Self> {
        let (inputs, outputs) = (layer.inputs, layer.outputs);
        let width = outputs / layer.blocks;
        let side = |values: &[f64], whole: usize, first: usize, width: usize, count: u64| {
            let at = |i: usize, j: usize| values[(first + i) * whole + first + j] / count.max(1) as f64;
            Eigen::new(Mat::from_fn(width, width, at))
        };
        let input = side(&moments.inputs, inputs, 0, inputs, moments.rows)?;
        let mut output_vectors = vec![0.0; outputs * outputs];
        let mut output_values = Vec::with_capacity(outputs);
        for first in (0..outputs).step_by(width) {
            let eigen = side(&moments.outputs, outputs, first, width, records)?;
            for (row, vector) in rows(&eigen).chunks_exact(width).enumerate() {
                output_vectors[(first + row) * outputs + first..][..width].copy_from_slice(vector);
            }
            output_values.extend(eigen.values.iter().map(|&x| x as f32));
        }
        Ok(Self {
            layer: layer.clone(),
            input_vectors: rows(&input),
            input_values: input.values.iter().map(|&x| x as f32).collect(),
            output_vectors,
            output_values,
            corrected: None,
        })
    }

    /// `1 / (Λ + λ) [outputs, inputs]`, λ `damping` times the mean of Λ over each block; zero in a block that no
    /// gradient reaches.
    pub fn inverse(&self, form: FisherForm, damping: f64) -> Vec<f64> {
        let inputs = self.layer.inputs;
        let corrected = self.corrected.as_ref().filter(|_| form == FisherForm::Ekfac);
        let mut values: Vec<f64> = if let Some(corrected) = corrected {
            corrected.iter().map(|&x| f64::from(x)).collect()
        } else {
            let product = |&s: &f32| self.input_values.iter().map(move |&a| f64::from(s) * f64::from(a));
            self.output_values.iter().flat_map(product).collect()
        };
        let block = self.layer.outputs / self.layer.blocks * inputs;
        for block in values.chunks_exact_mut(block) {
            let mean = block.iter().sum::<f64>() / block.len() as f64;
            let damped = |x: f64| if mean > 0.0 { 1.0 / (x + damping * mean) } else { 0.0 };
            for x in block {
                *x = damped(*x);
            }
        }
        values
    }
}

/// Eigenvectors as rows.
fn rows(eigen: &Eigen) -> Vec<f32> {
    let n = eigen.values.len();
    (0..n).flat_map(|j| eigen.vectors.col_as_slice(j).iter().map(|&x| x as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean of `δ δᵀ` over draws.
    fn second_moment(problem: Problem, logits: &[f32], draws: u64) -> Vec<f64> {
        let k = logits.len();
        let (mut sum, mut delta) = (vec![0.0; k * k], vec![0.0; k]);
        for record in 0..draws {
            fisher_gradient(problem, logits, 7, record, &mut delta);
            for (at, sum) in sum.iter_mut().enumerate() {
                *sum += f64::from(delta[at / k]) * f64::from(delta[at % k]) / draws as f64;
            }
        }
        sum
    }

    /// The loss's second derivative in the logits, which that is the mean of.
    fn curvature(problem: Problem, logits: &[f32]) -> Vec<f64> {
        let (k, p) = (logits.len(), probabilities(problem, logits));
        let entry = |at: usize| {
            let (i, j) = (at / k, at % k);
            let (p, q, same) = (f64::from(p[i]), f64::from(p[j]), f64::from(u8::from(i == j)));
            match problem {
                Problem::SingleLabel => same * p - p * q,
                Problem::MultiLabel => same * p * (1.0 - p),
                Problem::Regression | Problem::Headless => 2.0 * same,
            }
        };
        (0..k * k).map(entry).collect()
    }

    #[test]
    fn drawn_gradients_have_the_curvature_of_the_loss() {
        for problem in [Problem::SingleLabel, Problem::MultiLabel, Problem::Regression] {
            let logits = [0.5, -1.0, 1.5];
            let found = second_moment(problem, &logits, 20_000);
            for (found, expected) in found.iter().zip(curvature(problem, &logits)) {
                // A product of two δ varies by 8 at the most (a regression's): six standard errors of its mean.
                assert!(
                    (found - expected).abs() < 6.0 * 8.0_f64.sqrt() / 20_000_f64.sqrt(),
                    "{problem:?}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_drawn_where_one_gradient_says_all() {
        let cases: [(Problem, &[f32]); 5] = [
            (Problem::SingleLabel, &[2.0, -1.0]),
            (Problem::SingleLabel, &[40.0, -40.0]),
            (Problem::MultiLabel, &[0.3]),
            (Problem::MultiLabel, &[-60.0]),
            (Problem::Regression, &[0.7]),
        ];
        for (problem, logits) in cases {
            for (found, expected) in second_moment(problem, logits, 1).iter().zip(curvature(problem, logits)) {
                let expected = if problem == Problem::SingleLabel {
                    // 1 − p loses digits: e^−d / (1 + e^−d)² does not.
                    let e = (-f64::from((logits[0] - logits[1]).abs())).exp();
                    expected.signum() * e / (1.0 + e) / (1.0 + e)
                } else {
                    expected
                };
                assert!(
                    (found - expected).abs() <= 1e-6 * expected.abs(),
                    "{problem:?} {logits:?}: {found:e} {expected:e}"
                );
            }
        }
    }

    #[test]
    fn a_layer_that_no_gradient_reaches_takes_no_part() {
        let layer = LinearLayer { name: "a".into(), inputs: 2, outputs: 3, blocks: 3 };
        let moments = Moments {
            inputs: vec![4.0, 0.0, 0.0, 2.0],
            outputs: vec![8.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0],
            rows: 2,
        };
        let fitted = LayerFisher::new(&layer, &moments, 4).unwrap();
        assert_eq!(
            (fitted.input_values.as_slice(), fitted.output_values.as_slice()),
            ([1.0, 2.0].as_slice(), [2.0, 0.0, 0.5].as_slice())
        );
        // Each block's λ is of its own mean: 3 and 0.75.
        let inverse = fitted.inverse(FisherForm::Kfac, 1.0);
        let expected = [1.0 / 5.0, 1.0 / 7.0, 0.0, 0.0, 1.0 / 1.25, 1.0 / 1.75];
        inverse.iter().zip(expected).for_each(|(x, y)| assert!((x - y).abs() < 1e-12, "{inverse:?}"));
    }
}
