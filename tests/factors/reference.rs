//! The judge: losses, the refit's objective and the last layer's Hessian, written out in f64 with no thought for speed.

use wherefore::factors::{InMemory, LabelVec};
use wherefore::model::Problem;

/// Training records in f64, each with a weight.
#[derive(Clone)]
pub(super) struct Records {
    pub(super) problem: Problem,
    pub(super) classes: usize,
    /// `[h; 1]`
    pub(super) inputs: Vec<Vec<f64>>,
    pub(super) targets: Vec<Vec<f64>>,
    pub(super) weights: Vec<f64>,
}

impl Records {
    pub(super) fn new(source: &InMemory) -> Self {
        let widen = |row: &[f32]| row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let input = |h: &[f32]| [widen(h), vec![1.0]].concat();
        let one_hot = |&id: &i64| (0..source.classes).map(|c| f64::from(u8::from(c as i64 == id))).collect();
        let targets: Vec<Vec<f64>> = match &source.labels {
            LabelVec::Classes(ids) => ids.iter().map(one_hot).collect(),
            LabelVec::Rows(rows) => rows.chunks_exact(source.classes).map(widen).collect(),
        };
        Self {
            problem: source.problem,
            classes: source.classes,
            inputs: source.features.chunks_exact(source.width).map(input).collect(),
            weights: vec![1.0; targets.len()],
            targets,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.inputs.len()
    }

    /// K (E + 1)
    fn parameters(&self) -> usize {
        self.classes * self.inputs[0].len()
    }

    /// `∇` of `(1/N) Σ w_i loss_i + (λ/2) ‖W‖²`, class after class.
    pub(super) fn gradient(&self, head: &[f64], penalty: f64) -> Vec<f64> {
        let mut gradient: Vec<f64> = head.iter().map(|w| penalty * w).collect();
        for i in 0..self.rows() {
            let delta = delta(self.problem, &logits(head, &self.inputs[i]), &self.targets[i]);
            let share = self.weights[i] / self.rows() as f64;
            for (g, value) in gradient.iter_mut().zip(outer(&delta, &self.inputs[i])) {
                *g += share * value;
            }
        }
        gradient
    }

    /// The Hessian of the same, the outputs of record i given by `outputs(i)`.
    pub(super) fn hessian(&self, outputs: impl Fn(usize) -> Vec<f64>, penalty: f64) -> Vec<Vec<f64>> {
        let (inputs, parameters) = (self.inputs[0].len(), self.parameters());
        let mut hessian = vec![vec![0.0; parameters]; parameters];
        for i in 0..self.rows() {
            let curvature = output_curvature(self.problem, &outputs(i));
            let share = self.weights[i] / self.rows() as f64;
            for (row, out) in hessian.iter_mut().enumerate() {
                for (column, out) in out.iter_mut().enumerate() {
                    let products = self.inputs[i][row % inputs] * self.inputs[i][column % inputs];
                    *out += share * curvature[row / inputs][column / inputs] * products;
                }
            }
        }
        (0..parameters).for_each(|p| hessian[p][p] += penalty);
        hessian
    }

    /// The minimum, by plain Newton steps.
    pub(super) fn refit(&self, penalty: f64) -> Vec<f64> {
        let mut head = vec![0.0; self.parameters()];
        for _ in 0..30 {
            let gradient = self.gradient(&head, penalty);
            let hessian = self.hessian(|i| outputs(self.problem, &logits(&head, &self.inputs[i])), penalty);
            head.iter_mut().zip(solve(hessian, gradient)).for_each(|(w, step)| *w -= step);
        }
        head
    }
}

pub(super) fn logits(head: &[f64], input: &[f64]) -> Vec<f64> {
    head.chunks_exact(input.len()).map(|w| dot(w, input)).collect()
}

pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

pub(super) fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

/// `δ h̃ᵀ`, class after class.
pub(super) fn outer(delta: &[f64], input: &[f64]) -> Vec<f64> {
    delta.iter().flat_map(|d| input.iter().map(move |x| d * x)).collect()
}

pub(super) fn loss(problem: Problem, z: &[f64], target: &[f64]) -> f64 {
    match problem {
        Problem::SingleLabel => {
            let largest = z.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = z.iter().map(|z| (z - largest).exp()).sum();
            largest + total.ln() - dot(z, target)
        }
        Problem::MultiLabel => z.iter().zip(target).map(|(z, y)| z.max(0.0) + (-z.abs()).exp().ln_1p() - y * z).sum(),
        _ => z.iter().zip(target).map(|(z, y)| (z - y).powi(2)).sum(),
    }
}

/// Probabilities, or a regression's values.
pub(super) fn outputs(problem: Problem, z: &[f64]) -> Vec<f64> {
    match problem {
        Problem::SingleLabel => {
            let largest = z.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = z.iter().map(|z| (z - largest).exp()).sum();
            z.iter().map(|z| (z - largest).exp() / total).collect()
        }
        Problem::MultiLabel => z.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect(),
        _ => z.to_vec(),
    }
}

pub(super) fn delta(problem: Problem, z: &[f64], target: &[f64]) -> Vec<f64> {
    let scale = if problem == Problem::Regression { 2.0 } else { 1.0 };
    outputs(problem, z).iter().zip(target).map(|(p, y)| scale * (p - y)).collect()
}

fn output_curvature(problem: Problem, p: &[f64]) -> Vec<Vec<f64>> {
    let entry = |c: usize, d: usize| match problem {
        Problem::Regression => 2.0 * f64::from(u8::from(c == d)),
        _ if c == d => p[c] * (1.0 - p[c]),
        Problem::SingleLabel => -p[c] * p[d],
        _ => 0.0,
    };
    (0..p.len()).map(|c| (0..p.len()).map(|d| entry(c, d)).collect()).collect()
}

/// `matrix⁻¹ x`, by Gaussian elimination with partial pivoting.
pub(super) fn solve(mut matrix: Vec<Vec<f64>>, mut x: Vec<f64>) -> Vec<f64> {
    let n = x.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| matrix[i][k].abs().total_cmp(&matrix[j][k].abs())).expect("a row");
        matrix.swap(k, pivot);
        x.swap(k, pivot);
        let (row, value) = (matrix[k].clone(), x[k]);
        for i in k + 1..n {
            let factor = matrix[i][k] / row[k];
            matrix[i].iter_mut().zip(&row).skip(k).for_each(|(a, b)| *a -= factor * b);
            x[i] -= factor * value;
        }
    }
    for k in (0..n).rev() {
        let known = dot(&matrix[k][k + 1..], &x[k + 1..]);
        x[k] = (x[k] - known) / matrix[k][k];
    }
    x
}
