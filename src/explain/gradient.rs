//! Methods that take gradients at the text itself or at drawn points near it.

use std::sync::Arc;

use super::method::{Method, Options};
use super::probe::{Answer, Course, Point, Probe, Want};
use super::subject::{Scores, Sequence, Subject, values};
use crate::backend::{Fold, Objective, Path};
use crate::error::Result;
use crate::model::Model;
use crate::random::{Purpose, Stream};

/// Saliency (Simonyan et al. 2013): the gradient's length. Input × gradient (Shrikumar et al. 2016): its product with
/// the embedding, which is the step from a baseline of zero.
pub(super) struct AtText {
    sequence: Arc<Sequence>,
    fold: Fold,
    outputs: Vec<f64>,
    answer: Option<Answer>,
    asked: bool,
}

impl AtText {
    pub(super) fn new(model: &Model, subject: &Subject<'_>, fold: Fold) -> Self {
        Self { sequence: subject.sequence(model), fold, outputs: subject.outputs(), answer: None, asked: false }
    }
}

impl Course for AtText {
    fn probes(&mut self) -> Vec<Probe> {
        if std::mem::replace(&mut self.asked, true) {
            return Vec::new();
        }
        let zero = vec![Path::ZERO; self.sequence.ids.len()].into();
        let point = Point { baseline: zero, alpha: 1.0, sigma: 0.0, sample: 0 };
        vec![Probe::of(&self.sequence, Some(point), Want::Gradient(self.fold))]
    }

    fn take(&mut self, answers: Vec<Answer>) {
        self.answer = answers.into_iter().next();
    }

    fn finish(&mut self) -> Vec<Scores> {
        let folded = self.answer.take().unwrap_or_default().folded;
        let scores = |(tokens, &output): (Vec<f32>, &f64)| Scores { tokens, output, ..Scores::default() };
        folded.into_iter().zip(&self.outputs).map(scores).collect()
    }
}

/// `SmoothGrad` (Smilkov et al. 2017, eq. 1): the length of the mean gradient at the text with noise.
pub(super) struct SmoothGrad {
    sequence: Arc<Sequence>,
    outputs: Vec<f64>,
    sigma: f32,
    samples: usize,
    /// For each objective, the sum of the gradients `[L, E]`.
    sums: Vec<Vec<f64>>,
    asked: usize,
}

/// Samples asked for in one round: whole gradients come back, so that few are held at a time.
const SMOOTH_ROUND: usize = 8;

impl SmoothGrad {
    pub(super) fn new(model: &Model, subject: &Subject<'_>, options: &Options) -> Self {
        Self {
            sequence: subject.sequence(model),
            outputs: subject.outputs(),
            sigma: options.sigma(Method::SmoothGrad, model),
            samples: options.samples_of(Method::SmoothGrad, subject.len()),
            sums: vec![Vec::new(); subject.objectives.len()],
            asked: 0,
        }
    }
}

impl Course for SmoothGrad {
    fn probes(&mut self) -> Vec<Probe> {
        let round = self.asked..self.samples.min(self.asked + SMOOTH_ROUND);
        self.asked = round.end;
        let zero: Arc<[u32]> = vec![Path::ZERO; self.sequence.ids.len()].into();
        let probe = |sample: usize| {
            let point = Point { baseline: zero.clone(), alpha: 1.0, sigma: self.sigma, sample: sample as u32 };
            Probe::of(&self.sequence, Some(point), Want::Gradient(Fold::Whole))
        };
        round.map(probe).collect()
    }

    fn take(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            for (sum, gradient) in self.sums.iter_mut().zip(answer.folded) {
                sum.resize(gradient.len(), 0.0);
                sum.iter_mut().zip(gradient).for_each(|(sum, x)| *sum += f64::from(x));
            }
        }
    }

    fn finish(&mut self) -> Vec<Scores> {
        let (length, samples) = (self.sequence.ids.len(), self.samples as f64);
        let norm = |gradient: &[f64]| (gradient.iter().map(|g| g * g).sum::<f64>().sqrt() / samples) as f32;
        let scores = |(sum, &output): (&Vec<f64>, &f64)| Scores {
            tokens: sum.chunks_exact((sum.len() / length).max(1)).map(norm).collect(),
            output,
            steps: Some(self.samples as u64),
            ..Scores::default()
        };
        self.sums.iter().zip(&self.outputs).map(scores).collect()
    }
}

/// Gradient SHAP, or expected gradients (Erion et al. 2021, eq. 6): the mean over samples of `g · (x + σn − b)` at a
/// drawn point between a drawn baseline b and the text with noise.
pub(super) struct GradientShap {
    sequence: Arc<Sequence>,
    objectives: Vec<Objective>,
    outputs: Vec<f64>,
    /// One a sample.
    points: Vec<Point>,
    /// Each sample's baseline, as a number of those there are.
    drawn: Vec<usize>,
    baselines: Vec<Arc<[u32]>>,
    sums: Vec<Vec<f64>>,
    /// For each objective, the mean over samples of its value at the baseline.
    baseline_outputs: Vec<f64>,
    asked: bool,
}

impl GradientShap {
    pub(super) fn new(model: &Model, subject: &Subject<'_>, options: &Options) -> Result<Self> {
        let baselines =
            (0..options.baseline.len()).map(|b| options.baseline.ids(b, model, subject)).collect::<Result<Vec<_>>>()?;
        let positions = Stream::new(options.seed, Purpose::PathPosition);
        let choices = Stream::new(options.seed, Purpose::Baseline);
        let samples = 0..options.samples_of(Method::GradientShap, subject.len()) as u32;
        let choose = |sample: u32| choices.below(baselines.len() as u32, sample, subject.draw) as usize;
        let drawn: Vec<usize> = samples.clone().map(choose).collect();
        let sigma = options.sigma(Method::GradientShap, model);
        let point = |(sample, &baseline): (u32, &usize)| Point {
            baseline: baselines[baseline].clone(),
            alpha: positions.position(sample, subject.draw),
            sigma,
            sample,
        };
        let length = subject.len();
        Ok(Self {
            sequence: subject.sequence(model),
            objectives: subject.objectives.clone(),
            outputs: subject.outputs(),
            points: samples.zip(&drawn).map(point).collect(),
            drawn,
            baselines,
            sums: vec![vec![0.0; length]; subject.objectives.len()],
            baseline_outputs: vec![0.0; subject.objectives.len()],
            asked: false,
        })
    }
}

impl Course for GradientShap {
    fn probes(&mut self) -> Vec<Probe> {
        if std::mem::replace(&mut self.asked, true) {
            return Vec::new();
        }
        let probe = |point: Point, want| Probe::of(&self.sequence, Some(point), want);
        let gradients = self.points.iter().map(|point| probe(point.clone(), Want::Gradient(Fold::Step)));
        let start = |baseline: &Arc<[u32]>| Point { baseline: baseline.clone(), alpha: 0.0, sigma: 0.0, sample: 0 };
        gradients.chain(self.baselines.iter().map(|b| probe(start(b), Want::Logits))).collect()
    }

    fn take(&mut self, answers: Vec<Answer>) {
        let (gradients, starts) = answers.split_at(self.points.len());
        let share = (self.points.len() as f64).recip();
        for answer in gradients {
            for (sum, step) in self.sums.iter_mut().zip(&answer.folded) {
                sum.iter_mut().zip(step).for_each(|(sum, &x)| *sum += share * f64::from(x));
            }
        }
        for &baseline in &self.drawn {
            let values = values(&self.objectives, &starts[baseline].logits);
            self.baseline_outputs.iter_mut().zip(values).for_each(|(mean, value)| *mean += share * value);
        }
    }

    fn finish(&mut self) -> Vec<Scores> {
        let scores = |target: usize| {
            let (output, baseline) = (self.outputs[target], self.baseline_outputs[target]);
            Scores {
                tokens: self.sums[target].iter().map(|&x| x as f32).collect(),
                output,
                baseline_output: Some(baseline),
                convergence_delta: Some(self.sums[target].iter().sum::<f64>() - (output - baseline)),
                steps: Some(self.points.len() as u64),
                ..Scores::default()
            }
        };
        (0..self.outputs.len()).map(scores).collect()
    }
}
