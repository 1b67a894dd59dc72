//! Gradients of a whole model, record by record, and short enough to keep: one pass forth and back, in which no whole gradient is ever held.

use std::sync::{Mutex, PoisonError};

use super::adam::AdamMoments;
use super::adapted::Adapted;
use super::network::{Network, Seed, check_head, layers_of};
use super::others::{Adding, Others};
use super::pass::Pass;
use super::projection::{GradientsOf, KeptLayer, Projection, Slot};
use super::sink::{Linear, Normalisation, Operands, Sink};
use super::two_sided::TwoSided;
use crate::backend::cpu::Cpu;
use crate::backend::training::{Products, Training};
use crate::backend::{Norm, Rows};
use crate::error::{Error, Result};
use crate::model::{Model, Outputs};
use crate::tokens::{self, Encoding, MicroBatch, PackedBatch, Positions};

/// A model whose gradients are taken, projected.
pub struct Tracer {
    trace: Box<dyn Trace>,
    positions: Positions,
    width: usize,
    classes: usize,
    is_adapted: bool,
}

/// Tokens in a pass where the user has not said.
const BATCH_TOKENS: usize = 2048;

impl Tracer {
    /// The parameters of `model` that the projection is of, on the CPU.
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
        let sizes: Vec<_> = layers_of(model, projection.parameters).into_iter().map(|(size, _)| size).collect();
        let traced = Traced::new(Network::new(backend, model)?, *projection, &sizes)?;
        let (width, classes) = (traced.width, model.classes());
        Ok(Self { trace: Box::new(traced), positions: model.positions(), width, classes, is_adapted: false })
    }

    /// Gradients as AdamW would follow them at a checkpoint of the training with these `moments`, each of unit length, on the CPU: what [`Tracer::run`] is
    /// given as seeds must be gradients of losses.
    ///
    /// # Errors
    /// As [`Tracer::new`]; [`Error::Usage`] for a projection of more than linear layers.
    pub fn adapted(model: &Model, projection: &Projection, moments: &AdamMoments) -> Result<Self> {
        Self::adapted_on(Cpu::new().shared_out(), model, projection, moments)
    }

    /// [`Tracer::adapted`] on a device; from the products of both sides on, on the host.
    ///
    /// # Errors
    /// As there; what the device fails at.
    pub fn adapted_on<B: Training>(
        backend: B,
        model: &Model,
        projection: &Projection,
        moments: &AdamMoments,
    ) -> Result<Self> {
        if projection.parameters != GradientsOf::Linear {
            return Err(Error::usage("--adam: is of linear layers, not of all parameters")
                .with_hint("index without --parameters all"));
        }
        let adapted = Adapted::new(Network::new(backend, model)?, projection, moments)?;
        let (width, _) = Self::kept_of(model, projection)?;
        let (positions, classes) = (model.positions(), model.classes());
        Ok(Self { trace: Box::new(adapted), positions, width, classes, is_adapted: true })
    }

    /// Whether it takes losses' gradients, as AdamW would follow them.
    pub fn is_adapted(&self) -> bool {
        self.is_adapted
    }

    /// Numbers that would be kept of a record, and what they would be of, layer by layer.
    ///
    /// # Errors
    /// As [`Tracer::new`], as far as the projection goes.
    pub fn kept_of(model: &Model, projection: &Projection) -> Result<(usize, Vec<KeptLayer>)> {
        check_head(model)?;
        let (sizes, names): (Vec<_>, Vec<_>) = layers_of(model, projection.parameters).into_iter().unzip();
        let (slots, width) = projection.slots(&sizes)?;
        Ok((width, slots.iter().zip(names).map(|(slot, name)| slot.kept(name)).collect()))
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

/// A network on some device, whose gradients are taken.
trait Trace: Send + Sync {
    fn trace(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<Outputs>;
}

impl<B: Training> Trace for Adapted<B> {
    fn trace(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<Outputs> {
        self.run(batch, seed)
    }
}

struct Traced<B: Training> {
    network: Network<B>,
    projected: Projected<B>,
    /// What is no linear layer, where it is asked for.
    others: Option<Others>,
    width: usize,
    /// `[T, widest kept side]`: both sides of a layer, projected; and how many tokens there is room for.
    sides: Mutex<Option<([B::Tensor; 2], usize)>>,
}

/// Every linear layer's projections, packed, and the first of its places in a record's numbers.
struct Projected<B: Training> {
    layers: Vec<(TwoSided<B>, usize)>,
    widest: usize,
}

impl<B: Training> Traced<B> {
    fn new(network: Network<B>, projection: Projection, layers: &[(usize, usize)]) -> Result<Self> {
        let (slots, width) = projection.slots(layers)?;
        let linears = network.linears().len();
        let others = (slots.len() > linears).then(|| Others::new(&projection, &slots, linears));
        let slots = &slots[..linears];
        let layer = |slot: &Slot| -> Result<_> {
            let Slot { number, inputs, outputs, offset } = *slot;
            let matrices = (projection.matrix(number, inputs), projection.matrix(number, outputs));
            let split = network.is_split(number as usize);
            Ok((
                TwoSided::new(&network.backend, &matrices.0, &matrices.1, (inputs.whole, outputs.whole), split)?,
                offset,
            ))
        };
        let projected = Projected {
            layers: slots.iter().map(layer).collect::<Result<_>>()?,
            widest: slots.iter().map(|slot| slot.inputs.kept.max(slot.outputs.kept)).max().unwrap_or_default(),
        };
        Ok(Self { network, projected, others, width, sides: Mutex::default() })
    }
}

impl<B: Training> Trace for Traced<B> {
    fn trace(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<Outputs> {
        let (tokens, sequences, backend) = (batch.tokens(), batch.sequences(), &self.network.backend);
        let mut sides = self.sides.lock().unwrap_or_else(PoisonError::into_inner);
        if sides.as_ref().is_none_or(|(_, room)| tokens > *room) {
            *sides = None;
            let side = || backend.tensor(tokens * self.projected.widest);
            *sides = Some(([side()?, side()?], tokens));
        }
        let (sides, _) = sides.as_mut().expect("just made");
        let mut out = backend.tensor(sequences * self.width)?;
        backend.clear(&mut out)?;
        let (network, projected, width) = (&self.network, &self.projected, self.width);
        // Who else reads the tokens.
        let kept = self.others.as_ref().map(|others| (others, batch.clone()));
        let others = kept.as_ref().map(|(others, batch)| others.adding(batch, width));
        let mut sink = Contraction { network, projected, sides, out: &mut out, others, width };
        let logits = network.run(batch, seed, &mut sink)?;
        let of_others = sink.others.map(Adding::finish);
        let mut features = vec![0.0; sequences * width];
        backend.download(&mut features, &out)?;
        for (feature, other) in features.iter_mut().zip(of_others.iter().flatten()) {
            *feature += other;
        }
        Ok(Outputs { features, logits })
    }
}

/// Projects what a way back comes to, and adds the products of both sides up, record by record.
struct Contraction<'a, B: Training> {
    network: &'a Network<B>,
    projected: &'a Projected<B>,
    sides: &'a mut [B::Tensor; 2],
    /// `[B, width]`
    out: &'a mut B::Tensor,
    others: Option<Adding<'a>>,
    width: usize,
}

impl<B: Training> Sink<B> for Contraction<'_, B> {
    fn linear(&mut self, pass: &Pass<'_, B>, of: Linear, rows: Rows, operands: Operands<'_, B>) -> Result<()> {
        let (number, part) = self.network.place(of);
        let (both, offset) = &self.projected.layers[number];
        both.apply(pass, self.sides, part, rows, &operands)?;
        let products = Products {
            batch: pass.batch,
            rows,
            inputs: both.inputs,
            outputs: both.outputs,
            stride: self.width,
            offset: *offset,
        };
        let [dy, x] = &*self.sides;
        pass.backend.outer_products(self.out, dy, x, products)
    }

    fn norm(
        &mut self,
        pass: &Pass<'_, B>,
        of: Normalisation,
        norm: &Norm<B>,
        rows: Rows,
        operands: [&B::Tensor; 2],
    ) -> Result<()> {
        let network = self.network;
        self.others.as_mut().map_or(Ok(()), |others| others.norm((network, pass), of, norm, rows, operands))
    }

    fn tables(&mut self, pass: &Pass<'_, B>, d_sum: &B::Tensor, width: usize) -> Result<()> {
        let network = self.network;
        self.others.as_mut().map_or(Ok(()), |others| others.tables(network, pass, d_sum, width))
    }
}
