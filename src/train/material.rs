//! What a training goes through again and again: records with labels, or sequences whose tokens teach something.

use std::borrow::Cow;

use super::{Example, Metric, Metrics, Moment, Tally, TrainOptions};
use crate::backend::training::{Guide, Loss};
use crate::error::Result;
use crate::factors::Target;
use crate::interrupt;
use crate::model::{DropoutPass, Learn, Lesson, Problem, Studied, Trainee};
use crate::tokens::{Encoding, MicroBatch, PackedBatch, pack};

/// Tokens in a pass where the user has not said: enough for every thread, and for products to be worth their packing.
pub(super) const BATCH_TOKENS: usize = 2048;
/// Sequences packed together when only answers are asked for.
const WINDOW: usize = 4096;

/// One thing to learn from.
pub trait Material: Clone + Send + Sync {
    /// Its tokens.
    fn encoding(&self) -> &Encoding;
    /// What its loss counts, against the others'.
    fn weight(&self) -> f64;
    /// Its number in the input, and its id.
    fn name(&self) -> (u64, &str);
    /// What its weight is multiplied by: how many losses of one kind it brings.
    fn mass(&self) -> f64 {
        1.0
    }
    /// The tokens that its attention is drawn to, one a token; empty where there are none.
    fn rationale(&self) -> &[bool] {
        &[]
    }
    /// What is learnt of it in an epoch, where that is drawn anew each time; `row` is its place in the training data.
    fn in_epoch(&self, _seed: u64, _epoch: u32, _row: u32) -> Cow<'_, Self> {
        Cow::Borrowed(self)
    }
    /// What decides its part in a training, beside its tokens and its weight.
    fn digest(&self) -> String;
    /// One pass forth and back over a batch of such, each with its share of the step's loss and its place in the
    /// training data.
    ///
    /// # Errors
    /// As [`Learn::study`] and [`Learn::study_tokens`].
    fn study(
        learner: &mut dyn Learn,
        batch: PackedBatch,
        taught: &[Taught<'_, Self>],
        dropout: Option<DropoutPass>,
    ) -> Result<Studied>;
    /// What logits say of it, for training dynamics.
    fn moment(&self, _problem: Problem, _logits: &[f32]) -> Option<Moment> {
        None
    }
    /// What better means, where the user has not said.
    fn metric(options: &TrainOptions, trainee: &Trainee) -> Metric;
    /// Predicts some, nothing dropped, and says how good that was.
    ///
    /// # Errors
    /// What the device fails at; [`crate::Error::Interrupted`].
    fn evaluate(trainee: &mut Trainee, examples: &[Self], batch_tokens: Option<usize>) -> Result<Metrics>;
}

/// One of a pass.
pub struct Taught<'a, M> {
    /// What it is.
    pub of: &'a M,
    /// What each of its losses counts in the step's.
    pub share: f64,
    /// What its attention counts in it.
    pub guided: f64,
    /// Its place in the training data.
    pub row: u32,
}

impl Material for Example {
    fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    fn weight(&self) -> f64 {
        self.weight
    }

    fn name(&self) -> (u64, &str) {
        (self.index, &self.id)
    }

    fn rationale(&self) -> &[bool] {
        &self.rationale
    }

    fn digest(&self) -> String {
        if self.rationale.is_empty() {
            return format!("{:?}", self.target);
        }
        format!("{:?} {:?}", self.target, self.rationale)
    }

    fn study(
        learner: &mut dyn Learn,
        batch: PackedBatch,
        taught: &[Taught<'_, Self>],
        dropout: Option<DropoutPass>,
    ) -> Result<Studied> {
        let lessons: Vec<Lesson<'_>> = taught
            .iter()
            .map(|&Taught { of, share, row, .. }| Lesson { target: &of.target, share, record: row })
            .collect();
        if !taught.iter().any(|taught| taught.guided > 0.0 && !taught.of.rationale.is_empty()) {
            return learner.study(batch, &lessons, dropout);
        }
        let guides: Vec<Guide<'_>> =
            taught.iter().map(|taught| Guide { marked: &taught.of.rationale, share: taught.guided }).collect();
        learner.study_guided(batch, &lessons, &guides, dropout)
    }

    fn moment(&self, problem: Problem, logits: &[f32]) -> Option<Moment> {
        Moment::of(problem, logits, &self.target)
    }

    fn metric(options: &TrainOptions, trainee: &Trainee) -> Metric {
        options.metric(trainee.problem())
    }

    fn evaluate(trainee: &mut Trainee, examples: &[Self], batch_tokens: Option<usize>) -> Result<Metrics> {
        let mut logits = vec![Vec::new(); examples.len()];
        each_batch(trainee, examples, batch_tokens, |trainee, rows, batch| {
            let learner = trainee.learner();
            let outputs = learner.answer(batch)?;
            let found = outputs.logits.chunks_exact(learner.classes().max(1));
            rows.iter().zip(found).for_each(|(row, z)| logits[*row] = z.to_vec());
            Ok(())
        })?;
        let mut tally = Tally::new(trainee.problem(), trainee.learner().classes());
        for (example, logits) in examples.iter().zip(logits) {
            let mut z: Vec<f64> = logits.iter().map(|&z| f64::from(z)).collect();
            let loss = loss_of(&example.target).to_gradient(&mut z);
            tally.add(&logits, &example.target, loss);
        }
        Ok(tally.finish())
    }
}

/// Hands over batches of `examples`, with each sequence's place among them. A window at a time: sorted by length as a
/// whole, a set would be packed a little tighter and held twice.
pub(super) fn each_batch<M: Material>(
    trainee: &mut Trainee,
    examples: &[M],
    batch_tokens: Option<usize>,
    mut run: impl FnMut(&mut Trainee, &[usize], PackedBatch) -> Result<()>,
) -> Result<()> {
    let positions = trainee.positions();
    for (number, window) in examples.chunks(WINDOW).enumerate() {
        let window: Vec<&Encoding> = window.iter().map(Material::encoding).collect();
        for MicroBatch { rows, batch } in pack(&window, positions, batch_tokens.unwrap_or(BATCH_TOKENS)) {
            interrupt::check()?;
            let rows: Vec<usize> = rows.into_iter().map(|row| number * WINDOW + row).collect();
            run(trainee, &rows, batch)?;
        }
    }
    Ok(())
}

fn loss_of(target: &Target) -> Loss<'_> {
    match target {
        Target::Class(class) => Loss::CrossEntropy(*class),
        Target::Classes(classes) => Loss::Sigmoid(classes),
        Target::Values(values) => Loss::Squared(values),
    }
}
