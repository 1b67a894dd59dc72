//! A model that learns: its parameters on a device, the pass that takes their gradients, and the step that follows them.
//!
//! Forward and backward are [`crate::model`]'s own chain of operations over [`Training`], which adds to [`crate::backend::Backend`] what
//! parameters need. Weights of queries, keys and values are one parameter, one below the other; the gradients of a shared layer's uses
//! (ALBERT) are added up. What this refuses to do: choose batches, rates or epochs, which is [`crate::train`]'s business.

mod backward;
mod blueprint;
mod checkpoint;
mod forward;
mod found;
mod gradients;
mod net;
mod network;
mod observer;
mod parameters;
mod pass;
mod projection;
mod rates;
mod save;
mod sink;
mod tape;
mod tracer;
mod tree;
mod two_sided;

pub use self::blueprint::{Blueprint, HeadPlan, Trainee};
pub use self::checkpoint::NamedTensor;
pub use self::found::{Shape, found};
use self::gradients::Gradients;
use self::net::Net;
pub use self::network::Seed;
pub use self::observer::{Basis, LayerFactors, LinearLayer, Moments, Observer, Turned};
use self::parameters::{Spec, specs};
use self::pass::{Losing, Pass};
pub use self::projection::{DEFAULT_DIMENSION, ProjectedLayer, Projection, ProjectionKind};
pub use self::rates::DropoutRates;
use self::tape::Tape;
pub use self::tracer::Tracer;
use self::tree::Tree;
use super::config::Config;
use super::encoder::distinct;
use super::weights::Weights;
use super::{Outputs, Problem};
use crate::backend::training::{AdamStep, Loss, Training};
use crate::error::{Error, Result};
use crate::factors::Target;
use crate::tokens::PackedBatch;

/// What a record is to teach.
#[derive(Clone, Copy, Debug)]
pub struct Lesson<'a> {
    /// What its logits should have said.
    pub target: &'a Target,
    /// What its loss counts in the step's: its weight over the sum of the step's weights.
    pub share: f64,
    /// Its number, for what is dropped of it.
    pub record: u32,
}

/// What a pass drops: the same of a record in an epoch, whatever its batch.
#[derive(Clone, Copy, Debug)]
pub struct DropoutPass {
    /// Of all draws.
    pub seed: u64,
    /// From 0.
    pub epoch: u32,
    /// How much.
    pub rates: DropoutRates,
}

/// What a pass made of its records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Studied {
    /// Each record's loss, before its share.
    pub losses: Vec<f64>,
    /// `z [B, K]`
    pub logits: Vec<f32>,
}

/// A model that can be trained, on whatever device.
pub trait Learn: Send + Sync {
    /// What is learned.
    fn problem(&self) -> Problem;
    /// K.
    fn classes(&self) -> usize;
    /// E: the width of the features.
    fn width(&self) -> usize;
    /// Runs a batch forth and back, and adds the gradients of the sum of its losses, each times its share, to those there are.
    ///
    /// # Errors
    /// [`Error::Usage`] where lessons are not of the batch or of the problem; what the device fails at.
    fn study(&mut self, batch: PackedBatch, lessons: &[Lesson<'_>], dropout: Option<DropoutPass>) -> Result<Studied>;
    /// Features and logits of a batch, nothing dropped.
    ///
    /// # Errors
    /// What the device fails at.
    fn answer(&mut self, batch: PackedBatch) -> Result<Outputs>;
    /// `‖g‖₂` over all gradients.
    ///
    /// # Errors
    /// What the device fails at.
    fn gradient_norm(&mut self) -> Result<f64>;
    /// One step against the gradients, which are then forgotten. Biases and normalisations do not decay.
    ///
    /// # Errors
    /// What the device fails at.
    fn step(&mut self, step: &AdamStep) -> Result<()>;
    /// The parameters by the names `transformers` saves them under.
    ///
    /// # Errors
    /// What the device fails at.
    fn parameters(&self) -> Result<Vec<NamedTensor>>;
    /// Their gradients, by the same names.
    ///
    /// # Errors
    /// What the device fails at.
    fn gradients(&mut self) -> Result<Vec<NamedTensor>>;
    /// All that decides what comes next: parameters and moments.
    ///
    /// # Errors
    /// What the device fails at.
    fn state(&self) -> Result<Vec<NamedTensor>>;
    /// Takes up what [`Learn::state`] gave.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where it is another model's.
    fn restore(&mut self, state: &[NamedTensor]) -> Result<()>;
    /// Puts other numbers in the place of the last layer: `weight [K, E]` and `bias [K]`.
    ///
    /// # Errors
    /// What the device fails at.
    fn set_head(&mut self, weight: &[f32], bias: &[f32]) -> Result<()>;
}

/// A model in training on a device.
pub struct Learner<B: Training> {
    backend: B,
    problem: Problem,
    specs: Tree<Spec>,
    values: Tree<B::Tensor>,
    gradients: Gradients<B>,
    /// Running means of each gradient and its square.
    moments: [Tree<B::Tensor>; 2],
    net: Net<B>,
    tape: Option<Tape<B>>,
    limits: Limits,
}

/// How large the embedding tables are.
#[derive(Clone, Copy)]
struct Limits {
    vocabulary: usize,
    positions: usize,
    token_types: usize,
}

/// Where first values come from.
pub(super) enum First<'a> {
    /// A checkpoint; a head it has not, or has for other classes, is drawn.
    Checkpoint { weights: &'a Weights, keep_head: bool },
    /// Drawn, all of them.
    Drawn,
}

impl<B: Training> Learner<B> {
    /// Puts a model's parameters on a device.
    pub(super) fn new(
        backend: B,
        config: &Config,
        problem: Problem,
        classes: usize,
        first: &First<'_>,
        seed: u64,
    ) -> Result<Self> {
        let (ids, schedule) = distinct(&config.schedule());
        let specs = specs(config, &ids, classes);
        let mut number = 0;
        let host = specs.map(|spec| {
            number += 1;
            match first {
                First::Checkpoint { weights, keep_head } if !spec.head || (*keep_head && spec.is_in(weights)) => {
                    spec.read(weights)
                }
                _ => Ok(spec.draw(seed, number)),
            }
        })?;
        let zeros = || {
            specs.map(|spec| {
                let mut tensor = backend.tensor(spec.len())?;
                backend.clear(&mut tensor)?;
                Ok(tensor)
            })
        };
        let Config { vocabulary, positions, token_types, .. } = *config;
        Ok(Self {
            values: host.map(|values| backend.upload(values))?,
            gradients: Gradients::new(&backend, &specs, &schedule)?,
            moments: [zeros()?, zeros()?],
            net: Net::pack(&backend, &host, config, schedule, classes)?,
            backend,
            problem,
            specs,
            tape: None,
            limits: Limits { vocabulary, positions, token_types },
        })
    }

    /// Runs a batch forward on a tape that holds it.
    fn forward(
        &mut self,
        batch: &B::Batch,
        (tokens, sequences): (usize, usize),
        losing: Option<Losing<'_>>,
    ) -> Result<()> {
        if !self.tape.as_ref().is_some_and(|tape| tape.holds(tokens)) {
            // Freed before the larger one is made.
            self.tape = None;
        }
        let tape = match &mut self.tape {
            Some(tape) => tape,
            none => none.insert(Tape::new(&self.backend, &self.net.sizes, tokens)?),
        };
        let pass = Pass { backend: &self.backend, batch, tokens, sequences, losing };
        self.net.forward(&pass, tape, &self.values.tables)
    }

    fn download(&self, tensor: &B::Tensor, len: usize) -> Result<Vec<f32>> {
        let mut values = vec![0.0; len];
        self.backend.download(&mut values, tensor)?;
        Ok(values)
    }

    /// The tape of the last pass.
    fn tape(&self) -> &Tape<B> {
        self.tape.as_ref().expect("a pass has just left one")
    }
}

impl<B: Training> Learn for Learner<B> {
    fn problem(&self) -> Problem {
        self.problem
    }

    fn classes(&self) -> usize {
        self.net.sizes.classes
    }

    fn width(&self) -> usize {
        self.net.sizes.width
    }

    fn study(&mut self, batch: PackedBatch, lessons: &[Lesson<'_>], dropout: Option<DropoutPass>) -> Result<Studied> {
        let size = self.limits.check(&batch)?;
        let losses = losses(self.problem, self.net.sizes.classes, lessons)?;
        if lessons.len() != size.1 {
            return Err(Error::usage(format!("a batch of {} records with lessons for {}", size.1, lessons.len())));
        }
        let records: Vec<u32> = lessons.iter().map(|lesson| lesson.record).collect();
        let losing = dropout.map(|DropoutPass { seed, epoch, rates }| Losing { seed, epoch, rates, records: &records });
        let batch = self.backend.stage(batch)?;
        self.forward(&batch, size, losing)?;
        let (tokens, sequences) = size;
        let pass = Pass { backend: &self.backend, batch: &batch, tokens, sequences, losing };
        let tape = self.tape.as_mut().expect("a pass has just left one");
        let losses =
            self.backend.loss_gradient(&mut tape.back.logits, &tape.logits, &losses, self.net.sizes.classes)?;
        self.net.backward(&pass, tape, &mut self.gradients)?;
        let logits = self.download(&self.tape().logits, sequences * self.net.sizes.classes)?;
        Ok(Studied { losses, logits })
    }

    fn answer(&mut self, batch: PackedBatch) -> Result<Outputs> {
        let size = self.limits.check(&batch)?;
        let batch = self.backend.stage(batch)?;
        self.forward(&batch, size, None)?;
        let (tape, sizes) = (self.tape(), self.net.sizes);
        Ok(Outputs {
            features: self.download(&tape.features, size.1 * sizes.width)?,
            logits: self.download(&tape.logits, size.1 * sizes.classes)?,
        })
    }

    fn gradient_norm(&mut self) -> Result<f64> {
        self.gradients.gather(&self.backend, &self.specs)?;
        let pairs = self.gradients.tree.leaves().into_iter().zip(self.specs.leaves());
        let squares = pairs.map(|(gradient, spec)| self.backend.squared_norm(gradient, spec.len()));
        Ok(squares.sum::<Result<f64>>()?.sqrt())
    }

    fn step(&mut self, step: &AdamStep) -> Result<()> {
        self.gradients.gather(&self.backend, &self.specs)?;
        let [first, second] = &mut self.moments;
        let moments = first.leaves_mut().into_iter().zip(second.leaves_mut());
        let values = self.values.leaves_mut().into_iter().zip(self.gradients.tree.leaves_mut());
        for (((value, gradient), (first, second)), spec) in values.zip(moments).zip(self.specs.leaves()) {
            let step = AdamStep { decay: if spec.decays() { step.decay } else { 0.0 }, ..*step };
            self.backend.adam_step(value, [first, second], gradient, &step)?;
            self.backend.clear(gradient)?;
        }
        self.net.repack(&self.backend, &self.values)
    }

    fn parameters(&self) -> Result<Vec<NamedTensor>> {
        self.named(&self.values, "")
    }

    fn gradients(&mut self) -> Result<Vec<NamedTensor>> {
        self.gradients.gather(&self.backend, &self.specs)?;
        self.named(&self.gradients.tree, "")
    }

    fn state(&self) -> Result<Vec<NamedTensor>> {
        let mut state = self.named(&self.values, checkpoint::VALUE)?;
        for (moment, prefix) in self.moments.iter().zip(checkpoint::MOMENTS) {
            state.extend(self.named(moment, prefix)?);
        }
        Ok(state)
    }

    fn restore(&mut self, state: &[NamedTensor]) -> Result<()> {
        self.restore_state(state)
    }

    fn set_head(&mut self, weight: &[f32], bias: &[f32]) -> Result<()> {
        self.values.head.last.weight = self.backend.upload(weight)?;
        self.values.head.last.bias = self.backend.upload(bias)?;
        self.net.repack(&self.backend, &self.values)
    }
}

/// Each record's loss and share; refuses targets of another problem.
fn losses<'a>(problem: Problem, classes: usize, lessons: &[Lesson<'a>]) -> Result<Vec<(Loss<'a>, f64)>> {
    let loss = |lesson: &Lesson<'a>| match (problem, lesson.target) {
        (Problem::SingleLabel, Target::Class(class)) if *class < classes => Ok(Loss::CrossEntropy(*class)),
        (Problem::MultiLabel, Target::Classes(targets)) if targets.len() == classes => Ok(Loss::Sigmoid(targets)),
        (Problem::Regression, Target::Values(values)) if values.len() == classes => Ok(Loss::Squared(values)),
        (problem, target) => {
            Err(Error::usage(format!("a {problem:?} head of {classes} outputs cannot learn {target:?}")))
        }
    };
    lessons.iter().map(|lesson| Ok((loss(lesson)?, lesson.share))).collect()
}

impl Limits {
    /// Refuses what would look outside a table. Tokens and sequences, where it does not.
    fn check(self, batch: &PackedBatch) -> Result<(usize, usize)> {
        let outside = |ids: &[u32], limit: usize| ids.iter().any(|id| *id as usize >= limit);
        let types = self.token_types > 0 && outside(&batch.type_ids, self.token_types);
        if batch.sequences() == 0 {
            return Err(Error::usage("batch: expected at least one sequence"));
        }
        if outside(&batch.ids, self.vocabulary) || outside(&batch.positions, self.positions) || types {
            return Err(Error::Mismatch(
                "a batch has tokens, positions or segments beyond the model's tables".to_owned(),
                Some("the tokenizer is of another model than the weights".to_owned()),
            ));
        }
        Ok((batch.tokens(), batch.sequences()))
    }
}
