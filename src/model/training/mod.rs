//! A model that learns: its parameters on a device, the pass that takes their gradients, and the step that follows
//! them.
//!
//! Forward and backward are [`crate::model`]'s own chain of operations over [`Training`], which adds to
//! [`crate::backend::Backend`] what parameters need. Weights of queries, keys and values are one parameter, one below
//! the other; the gradients of a shared layer's uses (ALBERT) are added up. What this refuses to do: choose batches,
//! rates or epochs, which is [`crate::train`]'s business.

mod adam;
mod adapted;
mod adapted_others;
mod adapted_whole;
mod answer;
mod backward;
mod blueprint;
mod checkpoint;
mod forward;
mod gradients;
mod learn;
mod lesson;
mod markers;
mod net;
mod network;
mod observer;
mod others;
mod parameters;
mod pass;
mod plain;
mod projection;
mod rates;
mod save;
mod sink;
mod tape;
mod tracer;
mod tree;
mod two_sided;
mod untrained;

pub use self::adam::AdamMoments;
pub use self::blueprint::{Blueprint, HeadPlan, Trainee};
pub use self::checkpoint::NamedTensor;
use self::gradients::Gradients;
pub use self::learn::{DropoutPass, Learn, Studied};
pub use self::lesson::{Lesson, Term, TokenLesson};
use self::lesson::{Reading, losses};
use self::net::Net;
pub use self::network::Seed;
pub use self::observer::{Basis, LayerFactors, LinearLayer, Moments, Observer, Turned};
use self::parameters::{Spec, specs};
use self::pass::{Guidance, Losing, Pass};
pub use self::projection::{DEFAULT_DIMENSION, GradientsOf, KeptLayer, ProjectedLayer, Projection, ProjectionKind};
pub use self::rates::DropoutRates;
use self::tape::Tape;
pub use self::tracer::Tracer;
use self::tree::Tree;
pub use self::untrained::{Shape, write_untrained};
use super::config::Config;
use super::encoder::distinct;
use super::weights::Weights;
use super::{Outputs, Problem, Reads, Task};
use crate::backend::Precision;
use crate::backend::training::{AdamStep, CrossEntropy, Guide, Stepped, Training};
use crate::error::{Error, Result};
use crate::tokens::PackedBatch;

/// A model in training on a device.
pub(super) struct Learner<B: Training> {
    backend: B,
    task: Task,
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

/// What came of a pass: each term's loss, and how many rows of logits there are.
struct Passed {
    losses: Vec<f64>,
    rows: usize,
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
    /// A checkpoint; a head it has not, or has for other classes, is drawn, and so are the `grown` last rows of the
    /// word embeddings.
    Checkpoint { weights: &'a Weights, keep_head: bool, grown: usize },
    /// Drawn, all of them.
    Drawn,
}

/// Refuses a model whose parameters and moments, which a state of its training holds, are more than the system would
/// ever give.
fn check_room(specs: &Tree<Spec>) -> Result<()> {
    let numbers: u128 = specs.leaves().into_iter().map(|spec| spec.len() as u128).sum();
    let bytes = 3 * size_of::<f32>() as u128 * numbers;
    let given = |bytes: usize| Vec::<u8>::new().try_reserve_exact(bytes).is_ok();
    if usize::try_from(bytes).is_ok_and(given) {
        return Ok(());
    }
    Err(Error::usage(format!(
        "a model of {numbers} parameters takes {} GiB to train, more than this machine has",
        bytes.div_ceil(1 << 30)
    ))
    .with_hint("config.json says how large it is: fewer layers, a smaller hidden size or vocabulary"))
}

impl<B: Training> Learner<B> {
    /// Puts a model's parameters on a device.
    pub(super) fn new(
        backend: B,
        config: &Config,
        (task, problem): (Task, Problem),
        classes: usize,
        first: &First<'_>,
        seed: u64,
    ) -> Result<Self> {
        let (ids, schedule) = distinct(&config.schedule());
        let specs = specs(config, &ids, task, classes);
        check_room(&specs)?;
        let mut number = 0;
        let host = specs.map(|spec| {
            number += 1;
            match first {
                // The word embeddings are the first.
                First::Checkpoint { weights, grown, .. } if number == 1 && *grown > 0 => {
                    spec.read_and_draw(weights, *grown, seed, config.initializer_range)
                }
                First::Checkpoint { weights, keep_head, .. } if !spec.head || (*keep_head && spec.is_in(weights)) => {
                    spec.read(weights)
                }
                _ => Ok(spec.draw(seed, number, config.initializer_range)),
            }
        })?;
        let zeros = || {
            specs.map(|spec| {
                let mut tensor = backend.results(spec.len())?;
                backend.clear(&mut tensor)?;
                Ok(tensor)
            })
        };
        let Config { vocabulary, positions, token_types, .. } = *config;
        Ok(Self {
            values: host.map(|values| backend.upload(values))?,
            gradients: Gradients::new(&backend, &specs, &schedule)?,
            moments: [zeros()?, zeros()?],
            net: Net::pack(&backend, &host, config, schedule, (task, classes))?,
            backend,
            task,
            problem,
            specs,
            tape: None,
            limits: Limits { vocabulary, positions, token_types },
        })
    }

    /// A tape that holds a batch of so many tokens, of which so many rows are read.
    fn room(&mut self, tokens: usize, rows: usize) -> Result<()> {
        if !self.tape.as_ref().is_some_and(|tape| tape.holds(tokens)) {
            // Freed before the larger one is made.
            self.tape = None;
        }
        let tape = match &mut self.tape {
            Some(tape) => tape,
            none => none.insert(Tape::new(&self.backend, &self.net.sizes, tokens)?),
        };
        tape.hold_rows(&self.backend, &self.net.sizes, rows)
    }

    /// Runs a batch forward on a tape that holds it.
    fn forward(
        &mut self,
        batch: &B::Batch,
        (tokens, sequences): (usize, usize),
        losing: Option<Losing<'_>>,
    ) -> Result<()> {
        self.room(tokens, sequences)?;
        let pass = Pass { backend: &self.backend, batch, tokens, sequences, losing, guidance: None };
        self.net.forward(&pass, self.tape.as_mut().expect("just made"), &self.values.tables)
    }

    fn download(&self, tensor: &B::Tensor, len: usize) -> Result<Vec<f32>> {
        let mut values = vec![0.0; len];
        self.backend.download(&mut values, tensor)?;
        Ok(values)
    }

    /// Refuses what another kind of model is asked.
    fn expect(&self, is_so: bool) -> Result<()> {
        if is_so { Ok(()) } else { Err(Error::usage(format!("this is not asked of a head of {:?}", self.task))) }
    }

    /// A batch through a network that says something of tokens; and back from the losses, where there are terms.
    fn pass_tokens(
        &mut self,
        batch: PackedBatch,
        reading: Reading,
        losing: Option<Losing<'_>>,
        terms: Option<&[CrossEntropy]>,
    ) -> Result<Passed> {
        let (tokens, sequences) = (batch.tokens(), batch.sequences());
        let (chosen, rows) = match reading {
            Reading::All => (None, tokens),
            Reading::Chosen(cut) => {
                let rows = cut.sequences();
                (Some((self.backend.stage(cut)?, rows)), rows)
            }
        };
        self.room(tokens, rows)?;
        let batch = self.backend.stage(batch)?;
        let backend = &self.backend;
        let pass = Pass { backend, batch: &batch, tokens, sequences, losing, guidance: None };
        let read =
            chosen.as_ref().map(|(batch, sequences)| Pass { batch, sequences: *sequences, losing: None, ..pass });
        let read = read.as_ref().unwrap_or(&pass);
        let tape = self.tape.as_mut().expect("just made");
        self.net.encode(&pass, tape, &self.values.tables)?;
        self.net.answer(read, tape)?;
        let Some(terms) = terms else { return Ok(Passed { losses: Vec::new(), rows }) };
        let len = rows * self.net.sizes.classes;
        let losses = backend.cross_entropies(&mut tape.back.logits, &tape.logits, len, terms)?;
        self.net.answer_back(read, tape, &mut self.gradients)?;
        self.net.encode_back(&pass, tape, &mut self.gradients)?;
        Ok(Passed { losses, rows })
    }

    /// The tape of the last pass.
    fn tape(&self) -> &Tape<B> {
        self.tape.as_ref().expect("a pass has just left one")
    }
}

impl<B: Training> Learn for Learner<B> {
    fn task(&self) -> Task {
        self.task
    }

    fn problem(&self) -> Problem {
        self.problem
    }

    fn precision(&self) -> Precision {
        self.backend.precision()
    }

    fn classes(&self) -> usize {
        self.net.sizes.classes
    }

    fn width(&self) -> usize {
        self.net.sizes.width
    }

    fn study_guided(
        &mut self,
        batch: PackedBatch,
        lessons: &[Lesson<'_>],
        guides: &[Guide<'_>],
        dropout: Option<DropoutPass>,
    ) -> Result<Studied> {
        let size = self.limits.check(&batch)?;
        self.expect(self.task == Task::Record)?;
        let losses = losses(self.problem, self.net.sizes.classes, lessons)?;
        if lessons.len() != size.1 {
            return Err(Error::usage(format!("a batch of {} records with lessons for {}", size.1, lessons.len())));
        }
        check_guides(&batch, guides)?;
        let starts = batch.cu_seqlens.clone();
        let guidance = (!guides.is_empty()).then_some(Guidance { starts: &starts, guides });
        let records: Vec<u32> = lessons.iter().map(|lesson| lesson.record).collect();
        let losing = dropout.map(|DropoutPass { seed, epoch, rates }| Losing { seed, epoch, rates, records: &records });
        let batch = self.backend.stage(batch)?;
        self.forward(&batch, size, losing)?;
        let (tokens, sequences) = size;
        let pass = Pass { backend: &self.backend, batch: &batch, tokens, sequences, losing, guidance };
        let tape = self.tape.as_mut().expect("a pass has just left one");
        let losses =
            self.backend.loss_gradient(&mut tape.back.logits, &tape.logits, &losses, self.net.sizes.classes)?;
        self.net.backward(&pass, tape, &mut self.gradients)?;
        let guided = if guides.is_empty() { Vec::new() } else { std::mem::take(&mut tape.back.guided) };
        let logits = self.download(&self.tape().logits, sequences * self.net.sizes.classes)?;
        Ok(Studied { losses, logits, guided })
    }

    fn study_tokens(
        &mut self,
        batch: PackedBatch,
        lessons: &[TokenLesson<'_>],
        dropout: Option<DropoutPass>,
    ) -> Result<Studied> {
        let (_, sequences) = self.limits.check(&batch)?;
        self.expect(self.task != Task::Record)?;
        if lessons.len() != sequences {
            return Err(Error::usage(format!("a batch of {sequences} records with lessons for {}", lessons.len())));
        }
        let reading = Reading::of_lessons(self.task, &batch, lessons);
        let mut terms = Vec::new();
        for (sequence, lesson) in lessons.iter().enumerate() {
            for term in lesson.terms {
                terms.push(term.over(batch.range(sequence), &reading, &self.net.sizes, lesson.share)?);
            }
        }
        let records: Vec<u32> = lessons.iter().map(|lesson| lesson.record).collect();
        let losing = dropout.map(|DropoutPass { seed, epoch, rates }| Losing { seed, epoch, rates, records: &records });
        let passed = self.pass_tokens(batch, reading, losing, Some(&terms))?;
        let mut losses = passed.losses.into_iter();
        let mean = |lesson: &TokenLesson<'_>| {
            let own = losses.by_ref().take(lesson.terms.len());
            own.sum::<f64>() / lesson.terms.len().max(1) as f64
        };
        Ok(Studied { losses: lessons.iter().map(mean).collect(), logits: Vec::new(), guided: Vec::new() })
    }

    fn read(&mut self, batch: PackedBatch, reads: &[Reads]) -> Result<Outputs> {
        let (_, sequences) = self.limits.check(&batch)?;
        self.expect(self.task != Task::Record)?;
        if reads.len() != sequences {
            return Err(Error::usage(format!("a batch of {sequences} records of which {} are read", reads.len())));
        }
        let reading = Reading::new(self.task, &batch, reads.iter().map(|tokens| tokens.to_vec()));
        let starts = &batch.cu_seqlens;
        let rows = starts.iter().zip(reads).flat_map(|(start, tokens)| tokens.iter().map(move |token| start + token));
        let rows: Vec<usize> = rows.map(|token| reading.row(token as usize)).collect();
        let all = self.pass_tokens(batch, reading, None, None)?.rows;
        let (tape, sizes) = (self.tape(), self.net.sizes);
        let taken = |tensor: &B::Tensor, width: usize| -> Result<Vec<f32>> {
            let values = self.download(tensor, all * width)?;
            Ok(rows.iter().flat_map(|row| &values[row * width..(row + 1) * width]).copied().collect())
        };
        Ok(Outputs {
            features: taken(&tape.features, sizes.feature_width)?,
            logits: taken(&tape.logits, sizes.classes)?,
        })
    }

    fn answer(&mut self, batch: PackedBatch) -> Result<Outputs> {
        let size = self.limits.check(&batch)?;
        self.expect(self.task == Task::Record)?;
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
        let leaves = self.gradients.tree.leaves().into_iter().zip(self.specs.leaves());
        let gradients: Vec<_> = leaves.map(|(gradient, spec)| (gradient, spec.len())).collect();
        Ok(self.backend.squared_norms(&gradients)?.into_iter().sum::<f64>().sqrt())
    }

    fn step(&mut self, step: &AdamStep) -> Result<()> {
        self.gradients.gather(&self.backend, &self.specs)?;
        let [first, second] = &mut self.moments;
        let moments = first.leaves_mut().into_iter().zip(second.leaves_mut());
        let values = self.values.leaves_mut().into_iter().zip(self.gradients.tree.leaves_mut());
        let parameters = values.zip(moments).zip(self.specs.leaves());
        let stepped = parameters.map(|(((value, gradient), (first, second)), spec)| Stepped {
            value,
            moments: [first, second],
            gradient,
            decays: spec.decays(),
        });
        self.backend.adam_steps(stepped.collect(), step)?;
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
        let last = self.values.head.last.as_mut();
        let last =
            last.ok_or_else(|| Error::usage("a last layer that is the word embeddings is not fitted by itself"))?;
        (last.weight, last.bias) = (self.backend.upload(weight)?, self.backend.upload(bias)?);
        self.net.repack(&self.backend, &self.values)
    }
}

/// Refuses guides that are not of the batch: none, or one a sequence, with a mark a token or none at all.
fn check_guides(batch: &PackedBatch, guides: &[Guide<'_>]) -> Result<()> {
    let fits = |(sequence, guide): (usize, &Guide<'_>)| {
        guide.marked.is_empty() || guide.marked.len() == batch.range(sequence).len()
    };
    if guides.is_empty() || (guides.len() == batch.sequences() && guides.iter().enumerate().all(fits)) {
        return Ok(());
    }
    Err(Error::usage(format!("a batch of {} records with {} guides of other tokens", batch.sequences(), guides.len())))
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
