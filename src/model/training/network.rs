//! A network that is gone through forth and back, record by record, and never learns: what takes gradients is a
//! [`Sink`] of the caller's.

use std::path::PathBuf;
use std::sync::Mutex;

use super::Limits;
use super::net::Net;
use super::parameters::{Spec, specs};
use super::pass::Pass;
use super::projection::GradientsOf;
use super::sink::{Linear, Normalisation, Sink};
use super::tape::Tape;
use super::tree::Tree;
use crate::backend::Precision;
use crate::backend::training::{Named, Pair, Tables, Training};
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::encoder::distinct;
use crate::model::token_head::scale_for;
use crate::model::weights::Weights;
use crate::model::{Model, Problem, Task};
use crate::sync::lock;
use crate::tokens::PackedBatch;

/// Where a way back starts: told a record's place and its logits, fills in the gradient at them, `[K]`.
pub type Seed<'a> = &'a (dyn Fn(usize, &[f32], &mut [f32]) + Sync);

/// Where a network's parameters are.
#[derive(Clone)]
pub(super) struct Source {
    directory: PathBuf,
    config: Config,
    classes: usize,
}

impl Source {
    /// # Errors
    /// [`Error::Usage`] for a model without a head.
    pub(super) fn of(model: &Model) -> Result<Self> {
        check_head(model)?;
        Ok(Self { directory: model.directory().to_owned(), config: model.config().clone(), classes: model.classes() })
    }
}

/// What came of a batch beside its gradients.
pub(super) struct Ran {
    /// `[B, K]`
    pub(super) logits: Vec<f32>,
    /// What each record's gradients are larger by, `[B]`: a power of two, 1 but in f16.
    pub(super) scales: Vec<f32>,
}

/// Tokens in a pass at the least, where the user has not said: operations are shared out among threads.
const BATCH_TOKENS: usize = 2048;

/// A model's parameters on a device, and the tape of its passes.
pub(super) struct Network<B: Training> {
    pub(super) backend: B,
    net: Net<B>,
    tables: Tables<B::Tensor>,
    limits: Limits,
    /// Distinct layers of the encoder.
    layers: usize,
    linears: Vec<(usize, usize)>,
    names: Vec<String>,
    /// One batch at a time: its operations are shared out among the workers.
    tape: Mutex<Option<Tape<B>>>,
}

/// Which of a linear layer's outputs some operands are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// The first third of them: the last step's queries, of first tokens alone.
    Queries,
    /// The rest of them there.
    KeysAndValues,
}

impl<B: Training> Network<B> {
    /// # Errors
    /// What the model's files say, and the device fails at.
    pub(super) fn new(backend: B, source: &Source) -> Result<Self> {
        let Source { directory, config, classes } = source;
        let weights = Weights::open(directory, config.family.tensor_names().prefix)?;
        let (ids, schedule) = distinct(&config.schedule());
        let specs = specs(config, &ids, Task::Record, *classes);
        let host: Tree<Vec<f32>> = specs.map(|spec| spec.read(&weights))?;
        let tables = Tables {
            word: backend.upload(&host.tables.word)?,
            position: backend.upload(&host.tables.position)?,
            token_type: host.tables.token_type.as_ref().map(|table| backend.upload(table)).transpose()?,
            task: host.tables.task.as_ref().map(|table| backend.upload(table)).transpose()?,
        };
        Ok(Self {
            net: Net::pack(&backend, &host, config, schedule, (Task::Record, *classes))?,
            tables,
            limits: Limits {
                vocabulary: config.vocabulary,
                positions: config.positions,
                token_types: config.token_types,
            },
            layers: host.layers.len(),
            linears: sizes(&specs),
            names: names(&specs),
            tape: Mutex::default(),
            backend,
        })
    }

    /// Inputs, the bias's 1 included, and outputs of every linear layer, by its number: four of each of the encoder's
    /// distinct layers (queries, keys and values; attention's output; inner; outer), then the head's two, then what
    /// projects embeddings.
    pub(super) fn linears(&self) -> &[(usize, usize)] {
        &self.linears
    }

    /// Their weights' names in a checkpoint; of several one below the other, the first's.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether a linear layer is one of queries, keys and values.
    pub(super) fn is_split(&self, number: usize) -> bool {
        number < 4 * self.layers && number.is_multiple_of(4)
    }

    /// The number of a linear layer that a way back comes to, and which of its outputs.
    pub(super) fn place(&self, of: Linear) -> (usize, Part) {
        let step = |step: usize, which: usize| 4 * self.net.schedule[step] + which;
        let whole = |number: usize| (number, Part::Whole);
        match of {
            Linear::Projection(number) => whole(step(number, 0)),
            Linear::Query(number) => (step(number, 0), Part::Queries),
            Linear::KeyValue(number) => (step(number, 0), Part::KeysAndValues),
            Linear::AttentionOut(number) => whole(step(number, 1)),
            Linear::Inner(number) => whole(step(number, 2)),
            Linear::Outer(number) => whole(step(number, 3)),
            Linear::Dense => whole(4 * self.layers),
            Linear::Last => whole(4 * self.layers + 1),
            Linear::EmbeddingProjection => whole(4 * self.layers + 2),
        }
    }

    /// The number of a normalisation; none of one that no head on records has.
    pub(super) fn norm_place(&self, of: Normalisation) -> Option<usize> {
        let step = |step: usize, which: usize| 1 + 2 * self.net.schedule[step] + which;
        let place = match of {
            Normalisation::Embedding => 0,
            Normalisation::Attention(number) => step(number, 0),
            Normalisation::Outer(number) => step(number, 1),
            Normalisation::Head => return None,
        };
        Some(self.linears.len() + place)
    }

    /// The numbers of the tables.
    pub(super) fn table_places(&self) -> Vec<(usize, Named)> {
        let first = self.linears.len() + 1 + 2 * self.layers;
        (first..).zip(tables(&self.tables)).map(|(number, (table, _))| (number, table)).collect()
    }

    /// How often a way back comes to each linear layer.
    pub(super) fn visits(&self) -> Vec<usize> {
        let mut visits = vec![0; self.linears.len()];
        for &layer in &self.net.schedule {
            (0..4).for_each(|which| visits[4 * layer + which] += 1);
        }
        visits[4 * self.layers..].fill(1);
        // The last step comes to queries by themselves.
        visits[4 * self.net.schedule[self.net.schedule.len() - 1]] += 1;
        visits
    }

    /// Tokens in a pass where the user has not said: what suits the device, and it has room for.
    pub(super) fn batch_tokens(&self) -> usize {
        let room = self.backend.room(Tape::<B>::numbers_a_token(&self.net.sizes));
        self.backend.batch_tokens().max(BATCH_TOKENS).min(room).max(1)
    }

    /// Runs a batch forth, and back from `seed` to `sink`. In f16 every record's seed is scaled, and so is all that
    /// comes to the sink.
    pub(super) fn run(&self, batch: PackedBatch, seed: Seed<'_>, sink: &mut impl Sink<B>) -> Result<Ran> {
        let (tokens, sequences) = self.limits.check(&batch)?;
        let (backend, classes) = (&self.backend, self.net.sizes.classes);
        let batch = backend.stage(batch)?;
        let mut tape = lock(&self.tape);
        if !tape.as_ref().is_some_and(|tape| tape.holds(tokens)) {
            // Freed before the larger one is made.
            *tape = None;
            *tape = Some(Tape::new(backend, &self.net.sizes, tokens)?);
        }
        let tape = tape.as_mut().expect("just made");
        let pass = Pass { backend, batch: &batch, tokens, sequences, losing: None, guidance: None };
        self.net.forward(&pass, tape, &self.tables)?;
        let mut logits = vec![0.0; sequences * classes];
        backend.download(&mut logits, &tape.logits)?;
        let (mut seeds, mut scales) = (vec![0.0; sequences * classes], vec![1.0; sequences]);
        let rows = logits.chunks_exact(classes).zip(seeds.chunks_exact_mut(classes)).zip(&mut scales);
        for (place, ((z, dz), scale)) in rows.enumerate() {
            seed(place, z, dz);
            if backend.precision() == Precision::F16 {
                *scale = scale_for(dz.iter().fold(0.0, |most, slope| f64::from(slope.abs()).max(most))) as f32;
                for slope in dz.iter_mut() {
                    *slope *= *scale;
                }
            }
        }
        backend.copy(&mut tape.back.logits, &backend.upload(&seeds)?, seeds.len())?;
        sink.scaled(&scales);
        self.net.backward(&pass, tape, sink)?;
        Ok(Ran { logits, scales })
    }
}

/// Refuses a model that has no loss.
pub(super) fn check_head(model: &Model) -> Result<()> {
    if model.problem() == Problem::Headless {
        let message = format!("{}: a model without a head has no loss to take gradients of", model.name());
        return Err(
            Error::usage(message).with_hint("use a fine-tuned classifier or regressor, or index features alone")
        );
    }
    Ok(())
}

/// Inputs, outputs and name of every layer whose gradients are taken of a model: the linear ones by their numbers, then
/// the others.
pub(super) fn layers_of(model: &Model, parameters: GradientsOf) -> Vec<((usize, usize), String)> {
    let (ids, _) = distinct(&model.config().schedule());
    let specs = specs(model.config(), &ids, Task::Record, model.classes());
    let mut layers: Vec<_> = sizes(&specs).into_iter().zip(names(&specs)).collect();
    if parameters == GradientsOf::All {
        let norm = |pair: &Pair<Spec>| ((2, pair.bias.len()), name(&pair.weight));
        layers.extend(norms(&specs).map(norm));
        let table = |(_, spec): (Named, &Spec)| {
            let [rows, width] = [0, 1].map(|axis| spec.parts[0].1[axis]);
            ((rows, width), name(spec))
        };
        layers.extend(tables(&specs.tables).map(table));
    }
    layers
}

fn sizes(specs: &Tree<Spec>) -> Vec<(usize, usize)> {
    let size = |pair: &Pair<Spec>| (pair.weight.len() / pair.bias.len() + 1, pair.bias.len());
    linears(specs).map(size).collect()
}

fn names(specs: &Tree<Spec>) -> Vec<String> {
    linears(specs).map(|pair| name(&pair.weight)).collect()
}

/// A parameter's, without `.weight`.
fn name(spec: &Spec) -> String {
    spec.parts[0].0.trim_end_matches(".weight").to_owned()
}

/// Every linear layer, in the order of their numbers.
pub(super) fn linears(specs: &Tree<Spec>) -> impl Iterator<Item = &Pair<Spec>> {
    let of_layers =
        specs.layers.iter().flat_map(|layer| [&layer.projection, &layer.attention_out, &layer.inner, &layer.outer]);
    of_layers.chain(&specs.head.dense).chain(&specs.head.last).chain(&specs.embedding_projection)
}

/// Every normalisation, in the order of their numbers.
pub(super) fn norms(specs: &Tree<Spec>) -> impl Iterator<Item = &Pair<Spec>> {
    let of_layers = specs.layers.iter().flat_map(|layer| [&layer.attention_norm, &layer.outer_norm]);
    std::iter::once(&specs.embedding_norm).chain(of_layers)
}

/// Every table, in the order of their numbers.
pub(super) fn tables<T>(tables: &Tables<T>) -> impl Iterator<Item = (Named, &T)> {
    let Tables { word, position, token_type, task } = tables;
    let always = [(Named::Word, word), (Named::Position, position)];
    always
        .into_iter()
        .chain(token_type.iter().map(|table| (Named::TokenType, table)))
        .chain(task.iter().map(|table| (Named::Task, table)))
}
