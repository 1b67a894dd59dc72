//! Gradients of a whole model, record by record, and short enough to keep: one pass forth and back, in which no whole gradient is ever held.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::adam::AdamMoments;
use super::adapted::Adapted;
use super::network::{Network, Ran, Seed, Source, check_head, layers_of};
use super::others::{Adding, Others};
use super::pass::Pass;
use super::projection::{KeptLayer, Projection, Slot};
use super::sink::{Linear, Normalisation, Operands, Sink};
use super::two_sided::TwoSided;
use crate::backend::cpu::Cpu;
use crate::backend::training::{Products, Training};
use crate::backend::{Backend, Norm, Rows};
use crate::error::{Error, Result};
use crate::model::widening::{Behind, Open};
use crate::model::{Model, Outputs};
use crate::tokens::{self, Encoding, MicroBatch, PackedBatch, Positions};

/// A model whose gradients are taken, projected.
pub struct Tracer {
    /// The same network on each device.
    devices: Vec<Box<dyn Trace>>,
    positions: Positions,
    batch_tokens: usize,
    width: usize,
    classes: usize,
    is_adapted: bool,
}

impl Tracer {
    /// The parameters of `model` that the projection is of, where the model runs: on its GPUs in its precision, or on the CPU in f32.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model without a head, or a projection that leaves a layer nothing; what its files say, and the device fails at.
    pub fn new(model: &Model, projection: &Projection) -> Result<Self> {
        match model.gpus().as_slice() {
            [] => Self::on(Cpu::new().shared_out(), model, projection),
            gpus => Self::on_all(gpus.iter().map(|gpu| gpu.shared()).collect(), model, projection),
        }
    }

    /// [`Tracer::new`] on a device.
    ///
    /// # Errors
    /// As there.
    pub fn on<B: Training>(backend: B, model: &Model, projection: &Projection) -> Result<Self> {
        Self::on_all(vec![backend], model, projection)
    }

    /// [`Tracer::new`] on devices of a kind, which share the batches.
    ///
    /// # Errors
    /// As there.
    fn on_all<B: Training>(backends: Vec<B>, model: &Model, projection: &Projection) -> Result<Self> {
        let sizes: Vec<_> = layers_of(model, projection.parameters).into_iter().map(|(size, _)| size).collect();
        let (source, width) = (Source::of(model)?, projection.slots(&sizes)?.1);
        let open = |backend| Traced::open(backend, source.clone(), *projection, sizes.clone(), model.traced_again());
        let devices: Vec<_> = backends.into_iter().map(open).collect::<Result<_>>()?;
        let batch_tokens = devices.iter().map(|device| device.batch_tokens()).min().unwrap_or(1);
        Ok(Self {
            devices,
            positions: model.positions(),
            batch_tokens,
            width,
            classes: model.classes(),
            is_adapted: false,
        })
    }

    /// Gradients as AdamW would follow them at a checkpoint of the training with these `moments`, each of unit length, on the CPU: what [`Tracer::run`] is
    /// given as seeds must be gradients of losses.
    ///
    /// # Errors
    /// As [`Tracer::new`]; [`Error::Mismatch`] for moments of fewer layers than the projection is of.
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
        let sizes: Vec<_> = layers_of(model, projection.parameters).into_iter().map(|(size, _)| size).collect();
        let network = Network::new(backend, &Source::of(model)?)?;
        let adapted: Box<dyn Trace> = Box::new(Adapted::new(network, projection, &sizes, moments)?);
        let (width, _) = Self::kept_of(model, projection)?;
        let (positions, classes, batch_tokens) = (model.positions(), model.classes(), adapted.batch_tokens());
        Ok(Self { devices: vec![adapted], positions, batch_tokens, width, classes, is_adapted: true })
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
        going: &(dyn Fn() -> bool + Sync),
    ) -> Result<Outputs> {
        let (width, classes) = (self.width, self.classes);
        let batches = tokens::pack(window, self.positions, batch_tokens.unwrap_or(self.batch_tokens));
        let (waiting, stopped) = (Mutex::new(batches.into_iter()), AtomicBool::new(false));
        // What stops one device stops all.
        let work = |device: &dyn Trace| -> Result<Vec<(Vec<usize>, Outputs)>> {
            let mut finished = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let Some(MicroBatch { rows, batch }) = lock(&waiting).next() else { break };
                let seed = |place: usize, z: &[f32], dz: &mut [f32]| seed(rows[place], z, dz);
                let traced = if going() { device.trace(batch, &seed) } else { Err(Error::Interrupted) };
                match traced {
                    Ok(outputs) => finished.push((rows, outputs)),
                    Err(error) => {
                        stopped.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
            Ok(finished)
        };
        let work = &work;
        let finished: Vec<_> = match &*self.devices {
            [one] => vec![work(&**one)],
            several => thread::scope(|scope| {
                let threads: Vec<_> = several.iter().map(|device| scope.spawn(move || work(&**device))).collect();
                threads.into_iter().map(|thread| thread.join().expect("a worker does not panic")).collect()
            }),
        };
        let mut all = Outputs { features: vec![0.0; window.len() * width], logits: vec![0.0; window.len() * classes] };
        for (rows, outputs) in finished.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten() {
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
    /// Tokens in a pass where the user has not said.
    fn batch_tokens(&self) -> usize;
    fn trace(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<Outputs>;
}

impl<B: Training> Trace for Adapted<B> {
    fn batch_tokens(&self) -> usize {
        self.network().batch_tokens()
    }

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
    sides: Mutex<Option<Sides<B>>>,
    /// Tokens there was no room for.
    no_room: AtomicUsize,
    /// The same network in a precision that holds more, where this one overflows.
    wide: Option<Behind<dyn Trace>>,
    /// How many that took.
    again: Arc<AtomicU64>,
}

type Sides<B> = ([<B as Backend>::Tensor; 2], usize);

/// Every linear layer's projections, packed, and the first of its places in a record's numbers.
struct Projected<B: Training> {
    layers: Vec<(TwoSided<B>, usize)>,
    widest: usize,
}

impl<B: Training> Traced<B> {
    /// `layers` are the sizes of all whose gradients are taken, the linear ones first.
    fn open(
        backend: B,
        source: Source,
        projection: Projection,
        layers: Vec<(usize, usize)>,
        again: Arc<AtomicU64>,
    ) -> Result<Box<dyn Trace>> {
        let (wider, network) = (backend.wider(), Network::new(backend, &source)?);
        let (slots, width) = projection.slots(&layers)?;
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
        let behind = |backend| {
            let again = Arc::clone(&again);
            Behind::new(Box::new(move || Self::open(backend, source, projection, layers, again)) as Open<dyn Trace>)
        };
        let wide = wider.map(behind);
        Ok(Box::new(Self {
            network,
            projected,
            others,
            width,
            sides: Mutex::default(),
            no_room: AtomicUsize::new(usize::MAX),
            wide,
            again,
        }))
    }

    /// A batch that the device has room for.
    fn trace_whole(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<Outputs> {
        let (tokens, sequences, backend) = (batch.tokens(), batch.sequences(), &self.network.backend);
        let mut sides = lock(&self.sides);
        if sides.as_ref().is_none_or(|(_, room)| tokens > *room) {
            *sides = None;
            let side = || backend.tensor(tokens * self.projected.widest);
            *sides = Some(([side()?, side()?], tokens));
        }
        let (sides, _) = sides.as_mut().expect("just made");
        let mut out = backend.results(sequences * self.width)?;
        backend.clear(&mut out)?;
        let (network, projected, width) = (&self.network, &self.projected, self.width);
        // Who else reads the tokens.
        let kept = self.others.as_ref().map(|others| (others, batch.clone()));
        let others = kept.as_ref().map(|(others, batch)| others.adding(batch, width));
        let mut sink = Contraction { network, projected, sides, out: &mut out, others, width };
        let Ran { logits, scales } = network.run(batch, seed, &mut sink)?;
        let of_others = sink.others.map(Adding::finish);
        let mut features = vec![0.0; sequences * width];
        backend.download(&mut features, &out)?;
        for (feature, other) in features.iter_mut().zip(of_others.iter().flatten()) {
            *feature += other;
        }
        for (features, scale) in features.chunks_exact_mut(width).zip(scales) {
            for feature in features {
                *feature /= scale;
            }
        }
        Ok(Outputs { features, logits })
    }

    /// In halves where the device has no room for it whole.
    fn trace_in_parts(&self, batch: &PackedBatch, seed: Seed<'_>) -> Result<Outputs> {
        let (tokens, sequences) = (batch.tokens(), batch.sequences());
        if sequences == 1 || tokens < self.no_room.load(Ordering::Relaxed) {
            match self.trace_whole(batch.clone(), seed) {
                Err(Error::OutOfMemory(..)) if sequences > 1 => {
                    *lock(&self.sides) = None;
                    self.no_room.fetch_min(tokens, Ordering::Relaxed);
                }
                outputs => return outputs,
            }
        }
        let middle = sequences / 2;
        let mut outputs = self.trace_in_parts(&batch.part(0..middle), seed)?;
        let seed_of_rest = |place: usize, z: &[f32], dz: &mut [f32]| seed(middle + place, z, dz);
        let rest = self.trace_in_parts(&batch.part(middle..sequences), &seed_of_rest)?;
        outputs.features.extend(rest.features);
        outputs.logits.extend(rest.logits);
        Ok(outputs)
    }

    /// Takes again what overflowed, each record by itself: its numbers do not depend on its neighbours, nor theirs on it.
    fn rescue(&self, batch: &PackedBatch, seed: Seed<'_>, outputs: &mut Outputs) -> Result<()> {
        let Some(wide) = &self.wide else { return Ok(()) };
        let classes = outputs.logits.len() / batch.sequences();
        let finite = |values: &[f32]| values.iter().all(|x| x.is_finite());
        let rows = outputs.features.chunks_exact_mut(self.width).zip(outputs.logits.chunks_exact_mut(classes));
        for (record, (features, logits)) in rows.enumerate().filter(|(_, (f, z))| !(finite(f) && finite(z))) {
            let alone = wide.get()?.trace(batch.part(record..record + 1), &|_, z, dz| seed(record, z, dz))?;
            features.copy_from_slice(&alone.features);
            logits.copy_from_slice(&alone.logits);
            self.again.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl<B: Training> Trace for Traced<B> {
    fn batch_tokens(&self) -> usize {
        self.network.batch_tokens()
    }

    fn trace(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<Outputs> {
        let mut outputs = self.trace_in_parts(&batch, seed)?;
        self.rescue(&batch, seed, &mut outputs)?;
        Ok(outputs)
    }
}

/// What these locks guard is never left half-changed, whatever a thread died of.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
