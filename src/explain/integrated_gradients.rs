//! Integrated gradients (Sundararajan, Taly & Yan 2017, eq. 1), with steps added until it is complete.
//!
//! `score_t = Σ_k w_k g_t(α_k) · (x_t − x'_t)`, g the gradient of the objective at `x' + α (x − x')`. The sum over tokens should be
//! `f(x) − f(x')`; what is missing is the convergence delta.

use std::sync::Arc;

use super::method::Options;
use super::probe::{Answer, Course, Point, Probe, Want};
use super::quadrature::Node;
use super::subject::{Scores, Sequence, Subject, values};
use super::{Baseline, Quadrature};
use crate::backend::{Fold, Objective};
use crate::error::Result;
use crate::model::Model;

/// Below this, a difference of outputs is as good as none: the tolerance is not taken relative to less.
const LEAST_CHANGE: f64 = 1e-3;

pub(super) struct IntegratedGradients {
    sequence: Arc<Sequence>,
    baseline: Arc<[u32]>,
    objectives: Vec<Objective>,
    outputs: Vec<f64>,
    quadrature: Quadrature,
    tolerance: Option<f64>,
    max_steps: usize,
    /// Steps of the round at hand.
    steps: usize,
    nodes: Vec<Node>,
    baseline_outputs: Option<Vec<f64>>,
    /// For each objective, each token's sum of the latest round.
    sums: Vec<Vec<f64>>,
    finished: bool,
}

impl IntegratedGradients {
    pub(super) fn new(model: &Model, subject: &Subject<'_>, options: &Options) -> Result<Self> {
        Ok(Self {
            sequence: subject.sequence(model),
            baseline: options.baseline.ids(0, model, subject)?,
            objectives: subject.objectives.clone(),
            outputs: subject.outputs(),
            quadrature: options.quadrature,
            tolerance: options.tolerance,
            max_steps: options.max_steps.max(options.steps),
            steps: options.steps,
            nodes: Vec::new(),
            baseline_outputs: None,
            sums: Vec::new(),
            finished: false,
        })
    }

    fn probe(&self, alpha: f64, want: Want) -> Probe {
        let point = Point { baseline: self.baseline.clone(), alpha: alpha as f32, sigma: 0.0, sample: 0 };
        Probe::of(&self.sequence, Some(point), want)
    }

    fn baseline_output(&self, target: usize) -> f64 {
        self.baseline_outputs.as_ref().map_or(0.0, |outputs| outputs[target])
    }

    fn delta(&self, target: usize) -> f64 {
        self.sums[target].iter().sum::<f64>() - (self.outputs[target] - self.baseline_output(target))
    }

    /// Whether every objective's delta is within the tolerance; where none was asked for, there is nothing to meet.
    fn converged(&self) -> Option<bool> {
        let tolerance = self.tolerance?;
        let met = |target: usize| {
            let change = (self.outputs[target] - self.baseline_output(target)).abs();
            self.delta(target).abs() <= tolerance * change.max(LEAST_CHANGE)
        };
        Some((0..self.objectives.len()).all(met))
    }
}

impl Course for IntegratedGradients {
    fn probes(&mut self) -> Vec<Probe> {
        if self.finished {
            return Vec::new();
        }
        self.nodes = self.quadrature.nodes(self.steps);
        let gradients = self.nodes.iter().map(|node| self.probe(node.alpha, Want::Gradient(Fold::Step)));
        let baseline = self.baseline_outputs.is_none().then(|| self.probe(0.0, Want::Logits));
        gradients.chain(baseline).collect()
    }

    fn take(&mut self, answers: Vec<Answer>) {
        if let Some(baseline) = answers.get(self.nodes.len()) {
            self.baseline_outputs = Some(values(&self.objectives, &baseline.logits));
        }
        self.sums = vec![vec![0.0; self.sequence.ids.len()]; self.objectives.len()];
        for (node, answer) in self.nodes.iter().zip(&answers) {
            for (sums, steps) in self.sums.iter_mut().zip(&answer.folded) {
                sums.iter_mut().zip(steps).for_each(|(sum, &step)| *sum += node.weight * f64::from(step));
            }
        }
        self.finished = self.converged() != Some(false) || self.steps >= self.max_steps;
        if !self.finished {
            self.steps = (2 * self.steps).min(self.max_steps);
        }
    }

    fn finish(&mut self) -> Vec<Scores> {
        let converged = self.converged();
        (0..self.objectives.len())
            .map(|target| Scores {
                tokens: self.sums[target].iter().map(|&x| x as f32).collect(),
                output: self.outputs[target],
                baseline_output: Some(self.baseline_output(target)),
                convergence_delta: Some(self.delta(target)),
                steps: Some(self.nodes.len() as u64),
                converged,
                r_squared: None,
            })
            .collect()
    }
}

/// One baseline is what a path starts from: drawing among several is gradient SHAP's.
pub(super) fn one_baseline(baseline: &Baseline) -> bool {
    baseline.len() == 1
}
