//! Gradients of a whole model, record by record, and short enough to keep: one pass forth and back, in which no whole gradient is ever held.

use std::sync::{Mutex, PoisonError};

use super::Limits;
use super::net::Net;
use super::parameters::{Spec, specs};
use super::pass::Pass;
use super::projection::{Projection, Side, Slot};
use super::sink::{Linear, Normalisation, Operands, Sink};
use super::tape::Tape;
use super::tree::Tree;
use crate::backend::cpu::Cpu;
use crate::backend::training::{Products, Tables, Training};
use crate::backend::{Activation, Norm, Rows};
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::encoder::distinct;
use crate::model::weights::Weights;
use crate::model::{Model, Outputs, Problem, Task};
use crate::tokens::{self, Encoding, MicroBatch, PackedBatch, Positions};

/// Where a way back starts: told a record's place and its logits, fills in the gradient at them, `[K]`.
pub type Seed<'a> = &'a dyn Fn(usize, &[f32], &mut [f32]);

/// A model whose gradients are taken, projected.
pub struct Tracer {
    trace: Box<dyn Trace>,
    positions: Positions,
    width: usize,
    classes: usize,
}

/// Tokens in a pass where the user has not said.
const BATCH_TOKENS: usize = 2048;

impl Tracer {
    /// The weights and biases of every linear layer of `model`, on the CPU.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model without a head, or a projection that leaves a layer nothing; what its files say.
    pub fn new(model: &Model, projection: &Projection) -> Result<Self> {
        Self::on(Cpu::new().shared_out(), model, projection)
    }

    /// [`Tracer::new`] on a device.
    ///
    /// # Errors
    /// As there; what the device fails at.
    pub fn on<B: Training>(backend: B, model: &Model, projection: &Projection) -> Result<Self> {
        check_head(model)?;
        let config = model.config();
        let weights = Weights::open(model.directory(), config.family.tensor_names().prefix)?;
        let traced = Traced::new(backend, config, &weights, model.classes(), *projection)?;
        let (width, classes) = (traced.width, model.classes());
        Ok(Self { trace: Box::new(traced), positions: model.positions(), width, classes })
    }

    /// Numbers that would be kept of a record.
    ///
    /// # Errors
    /// As [`Tracer::new`], as far as the projection goes.
    pub fn width_of(model: &Model, projection: &Projection) -> Result<usize> {
        check_head(model)?;
        let (ids, _) = distinct(&model.config().schedule());
        Ok(projection.slots(&sizes(&specs(model.config(), &ids, Task::Record, model.classes())))?.1)
    }

    /// Numbers kept of a record.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Projected gradients (in the place of features) and logits of a window of records, in its order. `batch_tokens` bounds a pass; it never
    /// changes the numbers. `going` is asked between passes.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where `going` said so; what the device fails at.
    pub fn run(
        &self,
        window: &[&Encoding],
        batch_tokens: Option<usize>,
        seed: Seed<'_>,
        going: &dyn Fn() -> bool,
    ) -> Result<Outputs> {
        let (width, classes) = (self.width, self.classes);
        let mut all = Outputs { features: vec![0.0; window.len() * width], logits: vec![0.0; window.len() * classes] };
        for MicroBatch { rows, batch } in tokens::pack(window, self.positions, batch_tokens.unwrap_or(BATCH_TOKENS)) {
            if !going() {
                return Err(Error::Interrupted);
            }
            let outputs = self.trace.trace(batch, &|place, z, dz| seed(rows[place], z, dz))?;
            for (place, row) in rows.into_iter().enumerate() {
                let (features, logits) = (&outputs.features[place * width..], &outputs.logits[place * classes..]);
                all.features[row * width..][..width].copy_from_slice(&features[..width]);
                all.logits[row * classes..][..classes].copy_from_slice(&logits[..classes]);
            }
        }
        Ok(all)
    }
}

fn check_head(model: &Model) -> Result<()> {
    if model.problem() == Problem::Headless {
        let message = format!("{}: a model without a head has no loss to take gradients of", model.name());
        return Err(
            Error::usage(message).with_hint("use a fine-tuned classifier or regressor, or index features alone")
        );
    }
    Ok(())
}

/// A network on some device, whose gradients are taken.
trait Trace: Send + Sync {
    fn trace(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<Outputs>;
}

struct Traced<B: Training> {
    backend: B,
    net: Net<B>,
    tables: Tables<B::Tensor>,
    projected: Projected<B>,
    width: usize,
    limits: Limits,
    /// One batch at a time: its operations are shared out among the workers.
    space: Mutex<Option<Space<B>>>,
}

/// The buffers of one pass.
struct Space<B: Training> {
    tape: Tape<B>,
    /// `[T, widest kept side]`: both sides of a layer, projected.
    sides: [B::Tensor; 2],
}

/// Every linear layer's projections, packed.
struct Projected<B: Training> {
    /// Of each distinct layer of the encoder: queries, keys and values; attention's output; inner; outer.
    layers: Vec<[Both<B>; 4]>,
    schedule: Vec<usize>,
    embedding: Option<Both<B>>,
    dense: Both<B>,
    last: Both<B>,
    widest: usize,
}

/// One layer's.
struct Both<B: Training> {
    slot: Slot,
    /// `[k_in, inputs]`, the bias's 1 its bias.
    inputs: B::Linear,
    /// `[k_out, outputs]`
    outputs: B::Linear,
    /// The same of the first third of the outputs, and of the rest.
    split: Option<[B::Linear; 2]>,
}

impl<B: Training> Traced<B> {
    fn new(backend: B, config: &Config, weights: &Weights, classes: usize, projection: Projection) -> Result<Self> {
        let (ids, schedule) = distinct(&config.schedule());
        let specs = specs(config, &ids, Task::Record, classes);
        let host: Tree<Vec<f32>> = specs.map(|spec| spec.read(weights))?;
        let net = Net::pack(&backend, &host, config, schedule.clone(), (Task::Record, classes))?;
        let tables = Tables {
            word: backend.upload(&host.tables.word)?,
            position: backend.upload(&host.tables.position)?,
            token_type: host.tables.token_type.as_ref().map(|table| backend.upload(table)).transpose()?,
            task: host.tables.task.as_ref().map(|table| backend.upload(table)).transpose()?,
        };
        let (slots, width) = projection.slots(&sizes(&specs))?;
        let projected = Projected::new(&backend, &slots, host.layers.len(), projection, schedule)?;
        let Config { vocabulary, positions, token_types, .. } = *config;
        let limits = Limits { vocabulary, positions, token_types };
        Ok(Self { backend, net, tables, projected, width, limits, space: Mutex::default() })
    }
}

impl<B: Training> Trace for Traced<B> {
    fn trace(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<Outputs> {
        let (tokens, sequences) = self.limits.check(&batch)?;
        let (backend, classes) = (&self.backend, self.net.sizes.classes);
        let batch = backend.stage(batch)?;
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        if !space.as_ref().is_some_and(|space| space.tape.holds(tokens)) {
            *space = None;
            let side = || backend.tensor(tokens * self.projected.widest);
            *space = Some(Space { tape: Tape::new(backend, &self.net.sizes, tokens)?, sides: [side()?, side()?] });
        }
        let Space { tape, sides } = space.as_mut().expect("just made");
        let pass = Pass { backend, batch: &batch, tokens, sequences, losing: None, guidance: None };
        self.net.forward(&pass, tape, &self.tables)?;
        let mut logits = vec![0.0; sequences * classes];
        backend.download(&mut logits, &tape.logits)?;
        let mut seeds = vec![0.0; sequences * classes];
        let rows = logits.chunks_exact(classes).zip(seeds.chunks_exact_mut(classes));
        rows.enumerate().for_each(|(place, (z, dz))| seed(place, z, dz));
        backend.copy(&mut tape.back.logits, &backend.upload(&seeds)?, seeds.len())?;
        let mut out = backend.tensor(sequences * self.width)?;
        backend.clear(&mut out)?;
        let mut sink = Contraction { projected: &self.projected, sides, out: &mut out, width: self.width };
        self.net.backward(&pass, tape, &mut sink)?;
        let mut features = vec![0.0; sequences * self.width];
        backend.download(&mut features, &out)?;
        Ok(Outputs { features, logits })
    }
}

/// Inputs, the bias's 1 included, and outputs of every linear layer: four of each of the encoder's, then the head's, then what projects
/// embeddings.
fn sizes(specs: &Tree<Spec>) -> Vec<(usize, usize)> {
    let of_layers =
        specs.layers.iter().flat_map(|layer| [&layer.projection, &layer.attention_out, &layer.inner, &layer.outer]);
    let pairs = of_layers.chain(&specs.head.dense).chain(&specs.head.last).chain(&specs.embedding_projection);
    pairs.map(|pair| (pair.weight.len() / pair.bias.len() + 1, pair.bias.len())).collect()
}

impl<B: Training> Projected<B> {
    /// Of slots in the order of [`sizes`].
    fn new(backend: &B, slots: &[Slot], layers: usize, projection: Projection, schedule: Vec<usize>) -> Result<Self> {
        let widest = slots.iter().map(|slot| slot.inputs.kept.max(slot.outputs.kept)).max().unwrap_or_default();
        let pack = |slot: &Slot, split: bool| Both::new(backend, &projection, *slot, split);
        let (of_layers, of_head) = slots.split_at(4 * layers);
        let layer = |four: &[Slot]| -> Result<_> {
            Ok([pack(&four[0], true)?, pack(&four[1], false)?, pack(&four[2], false)?, pack(&four[3], false)?])
        };
        Ok(Self {
            layers: of_layers.chunks_exact(4).map(layer).collect::<Result<_>>()?,
            schedule,
            dense: pack(&of_head[0], false)?,
            last: pack(&of_head[1], false)?,
            embedding: of_head.get(2).map(|slot| pack(slot, false)).transpose()?,
            widest,
        })
    }

    /// A layer's projections, and which of the outputs' packings is of its operands.
    fn of(&self, linear: Linear) -> Option<(&Both<B>, &B::Linear)> {
        let step = |step: usize, which: usize| &self.layers[self.schedule[step]][which];
        match linear {
            Linear::EmbeddingProjection => self.embedding.as_ref().map(Both::whole),
            Linear::Projection(number) => Some(step(number, 0).whole()),
            Linear::Query(number) => step(number, 0).part(0),
            Linear::KeyValue(number) => step(number, 0).part(1),
            Linear::AttentionOut(number) => Some(step(number, 1).whole()),
            Linear::Inner(number) => Some(step(number, 2).whole()),
            Linear::Outer(number) => Some(step(number, 3).whole()),
            Linear::Dense => Some(self.dense.whole()),
            Linear::Last => Some(self.last.whole()),
        }
    }
}

impl<B: Training> Both<B> {
    fn whole(&self) -> (&Self, &B::Linear) {
        (self, &self.outputs)
    }

    fn part(&self, which: usize) -> Option<(&Self, &B::Linear)> {
        self.split.as_ref().map(|split| (self, &split[which]))
    }

    fn new(backend: &B, projection: &Projection, slot: Slot, split: bool) -> Result<Self> {
        let Slot { number, inputs, outputs, .. } = slot;
        let input = projection.matrix(number, inputs);
        let bias: Vec<f32> = input.chunks_exact(inputs.whole).map(|row| row[inputs.whole - 1]).collect();
        let output = projection.matrix(number, outputs);
        let columns = |first: usize, count: usize| columns(backend, &output, outputs, first, count);
        let third = outputs.whole / 3;
        let both = || -> Result<_> { Ok([columns(0, third)?, columns(third, outputs.whole - third)?]) };
        Ok(Self {
            slot,
            inputs: backend.pack_linear(
                &taken(&input, inputs.whole, 0, inputs.whole - 1),
                &bias,
                inputs.whole - 1,
                inputs.kept,
            )?,
            outputs: columns(0, outputs.whole)?,
            split: split.then(both).transpose()?,
        })
    }
}

/// Some columns of `matrix [kept, whole]`, packed.
fn columns<B: Training>(backend: &B, matrix: &[f32], side: Side, first: usize, count: usize) -> Result<B::Linear> {
    backend.pack_linear(&taken(matrix, side.whole, first, count), &vec![0.0; side.kept], count, side.kept)
}

fn taken(matrix: &[f32], whole: usize, first: usize, count: usize) -> Vec<f32> {
    matrix.chunks_exact(whole).flat_map(|row| &row[first..first + count]).copied().collect()
}

/// Projects what a way back comes to, and adds the products of both sides up, record by record.
struct Contraction<'a, B: Training> {
    projected: &'a Projected<B>,
    sides: &'a mut [B::Tensor; 2],
    /// `[B, width]`
    out: &'a mut B::Tensor,
    width: usize,
}

impl<B: Training> Sink<B> for Contraction<'_, B> {
    fn linear(&mut self, pass: &Pass<'_, B>, of: Linear, rows: Rows, operands: Operands<'_, B>) -> Result<()> {
        let Some((both, of_outputs)) = self.projected.of(of) else { return Ok(()) };
        let (backend, count, [dy, x]) = (pass.backend, pass.rows(rows), &mut *self.sides);
        backend.linear(dy, operands.dy, of_outputs, Activation::Identity, None, count)?;
        backend.linear(x, operands.x, &both.inputs, Activation::Identity, None, count)?;
        let Slot { inputs, outputs, offset, .. } = both.slot;
        let products = Products {
            batch: pass.batch,
            rows,
            inputs: inputs.kept,
            outputs: outputs.kept,
            stride: self.width,
            offset,
        };
        backend.outer_products(self.out, dy, x, products)
    }

    fn norm(&mut self, _: &Pass<'_, B>, _: Normalisation, _: &Norm<B>, _: Rows, _: [&B::Tensor; 2]) -> Result<()> {
        Ok(())
    }

    fn tables(&mut self, _: &Pass<'_, B>, _: &B::Tensor, _: usize) -> Result<()> {
        Ok(())
    }
}
