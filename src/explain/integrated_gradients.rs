//! Integrated gradients (Sundararajan, Taly & Yan 2017, eq. 1), with steps added until it is complete.
//!
//! `score_t = Σ_k w_k g_t(α_k) · (x_t − x'_t)`, g the gradient of the objective at `x' + α (x − x')`. The sum over
//! tokens should be `f(x) − f(x')`; what is missing is the convergence delta.

use std::sync::Arc;

use super::method::Options;
use super::probe::{Answer, Course, Point, Probe, Want};
use super::quadrature::Node;
use super::subject::{Scores, Sequence, Subject, values};
use super::{Baseline, Quadrature};
use crate::backend::{Fold, Objective};
use crate::error::Result;
use crate::model::Model;

/// Below this, a difference of outputs is as good as none: an error is not taken relative to less.
pub(crate) const LEAST_CHANGE: f64 = 1e-3;

pub(super) struct IntegratedGradients {
    sequence: Arc<Sequence>,
    baseline: Arc<[u32]>,
    objectives: Vec<Objective>,
    quadrature: Quadrature,
    tolerance: Option<f64>,
    max_steps: usize,
    /// Steps of the round to come.
    steps: usize,
    nodes: Vec<Node>,
    /// One an objective.
    integrals: Vec<Integral>,
}

/// What one objective has come to: it takes part in rounds until its own tolerance is met, so that its numbers are
/// those it has alone.
#[derive(Default)]
struct Integral {
    output: f64,
    baseline_output: f64,
    /// Each token's sum of the latest round it took part in.
    sums: Vec<f64>,
    /// The gradients of that round.
    steps: usize,
    /// Whether they met the tolerance; where none was asked for, there is nothing to meet.
    converged: Option<bool>,
    finished: bool,
}

impl IntegratedGradients {
    pub(super) fn new(model: &Model, subject: &Subject<'_>, options: &Options) -> Result<Self> {
        let integral = |output| Integral { output, ..Integral::default() };
        Ok(Self {
            sequence: subject.sequence(model),
            baseline: options.baseline.ids(0, model, subject)?,
            objectives: subject.objectives.clone(),
            quadrature: options.quadrature,
            tolerance: options.tolerance,
            max_steps: options.max_steps,
            steps: options.steps,
            nodes: Vec::new(),
            integrals: subject.outputs().into_iter().map(integral).collect(),
        })
    }

    fn probe(&self, alpha: f64, want: Want) -> Probe {
        let point = Point { baseline: self.baseline.clone(), alpha: alpha as f32, sigma: 0.0, sample: 0 };
        Probe::of(&self.sequence, Some(point), want)
    }
}

impl Integral {
    fn change(&self) -> f64 {
        self.output - self.baseline_output
    }

    fn delta(&self) -> f64 {
        self.sums.iter().sum::<f64>() - self.change()
    }

    fn meets(&self, tolerance: f64) -> bool {
        self.delta().abs() <= tolerance * self.change().abs().max(LEAST_CHANGE)
    }
}

impl Course for IntegratedGradients {
    fn probes(&mut self) -> Vec<Probe> {
        if self.integrals.iter().all(|integral| integral.finished) {
            return Vec::new();
        }
        let is_first = self.nodes.is_empty();
        self.nodes = self.quadrature.nodes(self.steps);
        let gradients = self.nodes.iter().map(|node| self.probe(node.alpha, Want::Gradient(Fold::Step)));
        gradients.chain(is_first.then(|| self.probe(0.0, Want::Logits))).collect()
    }

    fn take(&mut self, answers: Vec<Answer>) {
        if let Some(baseline) = answers.get(self.nodes.len()) {
            let outputs = values(&self.objectives, &baseline.logits);
            self.integrals.iter_mut().zip(outputs).for_each(|(integral, output)| integral.baseline_output = output);
        }
        let is_last = self.steps >= self.max_steps;
        for (target, integral) in self.integrals.iter_mut().enumerate().filter(|(_, integral)| !integral.finished) {
            integral.sums = vec![0.0; self.sequence.ids.len()];
            for (node, answer) in self.nodes.iter().zip(&answers) {
                let steps = integral.sums.iter_mut().zip(&answer.folded[target]);
                steps.for_each(|(sum, &step)| *sum += node.weight * f64::from(step));
            }
            integral.steps = self.steps;
            integral.converged = self.tolerance.map(|tolerance| integral.meets(tolerance));
            integral.finished = is_last || integral.converged != Some(false);
        }
        self.steps = (2 * self.steps).min(self.max_steps);
    }

    fn finish(&mut self) -> Vec<Scores> {
        let scores = |integral: &Integral| Scores {
            tokens: integral.sums.iter().map(|&x| x as f32).collect(),
            output: integral.output,
            baseline_output: Some(integral.baseline_output),
            convergence_delta: Some(integral.delta()),
            steps: Some(integral.steps as u64),
            converged: integral.converged,
            r_squared: None,
        };
        self.integrals.iter().map(scores).collect()
    }
}

/// One baseline is what a path starts from: drawing among several is gradient SHAP's.
pub(super) fn one_baseline(baseline: &Baseline) -> bool {
    baseline.len() == 1
}
