//! Gradients of a whole model, record by record, and short enough to keep: one pass forth and back, in which no whole
//! gradient is ever held.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::adam::AdamMoments;
use super::adapted::Adapted;
use super::adapted_whole::AdaptedWhole;
use super::network::{Network, Seed, Source, check_head, layers_of};
use super::plain::Plain;
use super::projection::{KeptLayer, Projection};
use crate::backend::cpu::Cpu;
use crate::backend::training::Training;
use crate::error::{Error, Result};
use crate::model::widening::{Behind, Open};
use crate::model::{Model, Outputs};
use crate::sync::lock;
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
    /// The parameters of `model` that the projection is of, where the model runs: on its GPUs in its precision, or on
    /// the CPU in f32.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model without a head, or a projection that leaves a layer nothing; what its files say,
    /// and the device fails at.
    pub fn new(model: &Model, projection: &Projection) -> Result<Self> {
        match model.gpus().as_slice() {
            [] => Self::on(Cpu::new().shared_out(), model, projection),
            gpus => Self::on_all(gpus.iter().map(|gpu| gpu.shared()).collect(), model, projection, &Way::Plain),
        }
    }

    /// [`Tracer::new`] on a device.
    ///
    /// # Errors
    /// As there.
    pub fn on<B: Training>(backend: B, model: &Model, projection: &Projection) -> Result<Self> {
        Self::on_all(vec![backend], model, projection, &Way::Plain)
    }

    /// Gradients as AdamW would follow them at a checkpoint of the training with these `moments`, each of unit length,
    /// where the model runs: what [`Tracer::run`] is given as seeds must be gradients of losses.
    ///
    /// # Errors
    /// As [`Tracer::new`]; [`Error::Mismatch`] for moments of fewer layers than the projection is of.
    pub fn adapted(model: &Model, projection: &Projection, moments: &AdamMoments) -> Result<Self> {
        let moments = Arc::new(moments.clone());
        match model.gpus().as_slice() {
            [] => Self::on_all(vec![Cpu::new().shared_out()], model, projection, &Way::AdaptedByRows(moments)),
            gpus => Self::on_all(
                gpus.iter().map(|gpu| gpu.shared()).collect(),
                model,
                projection,
                &Way::AdaptedWhole(moments),
            ),
        }
    }

    /// [`Tracer::adapted`] on a device that has room for whole gradients of some records' layers.
    ///
    /// # Errors
    /// As there; what the device fails at.
    pub fn adapted_on<B: Training>(
        backend: B,
        model: &Model,
        projection: &Projection,
        moments: &AdamMoments,
    ) -> Result<Self> {
        Self::on_all(vec![backend], model, projection, &Way::AdaptedWhole(Arc::new(moments.clone())))
    }

    /// On devices of a kind, which share the batches.
    fn on_all<B: Training>(backends: Vec<B>, model: &Model, projection: &Projection, way: &Way) -> Result<Self> {
        let sizes: Vec<_> = layers_of(model, projection.parameters).into_iter().map(|(size, _)| size).collect();
        let (source, width) = (Source::of(model)?, projection.slots(&sizes)?.1);
        let traced = Traced { source, projection: *projection, sizes, way: way.clone(), again: model.traced_again() };
        let devices: Vec<_> = backends.into_iter().map(|backend| traced.on(backend)).collect::<Result<_>>()?;
        let batch_tokens = devices.iter().map(|device| device.batch_tokens()).min().unwrap_or(1);
        Ok(Self {
            devices,
            positions: model.positions(),
            batch_tokens,
            width,
            classes: model.classes(),
            is_adapted: !matches!(way, Way::Plain),
        })
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

    /// Projected gradients (in the place of features) and logits of a window of records, in its order. `batch_tokens`
    /// bounds a pass; it never changes the numbers. `going` is asked between passes.
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

/// What is done to records' gradients, and how.
#[derive(Clone)]
enum Way {
    /// They are projected as they are.
    Plain,
    /// Adapted by these moments, some rows of a layer at a time.
    AdaptedByRows(Arc<AdamMoments>),
    /// Adapted by these moments, a whole layer of several records at a time.
    AdaptedWhole(Arc<AdamMoments>),
}

/// How a batch's records become a few numbers each.
pub(super) trait Take<B: Training>: Send + Sync {
    /// Those, and logits.
    fn take(&self, network: &Network<B>, batch: PackedBatch, seed: Seed<'_>) -> Result<Outputs>;

    /// Records of a pass at the most.
    fn most_records(&self) -> usize {
        usize::MAX
    }

    /// Frees what is kept for the next batch.
    fn let_go(&self) {}
}

/// What is traced.
#[derive(Clone)]
struct Traced {
    source: Source,
    projection: Projection,
    /// Of all layers whose gradients are taken, the linear ones first.
    sizes: Vec<(usize, usize)>,
    way: Way,
    /// How many records were traced again.
    again: Arc<AtomicU64>,
}

impl Traced {
    fn on<B: Training>(&self, backend: B) -> Result<Box<dyn Trace>> {
        let (wider, network) = (backend.wider(), Network::new(backend, &self.source)?);
        let (projection, (slots, width)) = (&self.projection, self.projection.slots(&self.sizes)?);
        let take: Box<dyn Take<B>> = match &self.way {
            Way::Plain => Box::new(Plain::new(&network, projection, &slots, width)?),
            Way::AdaptedByRows(moments) => Box::new(Adapted::new(&network, projection, &slots, width, moments)?),
            Way::AdaptedWhole(moments) => Box::new(AdaptedWhole::new(&network, projection, &slots, width, moments)?),
        };
        let behind = |backend| {
            let traced = self.clone();
            Behind::new(Box::new(move || traced.on(backend)) as Open<dyn Trace>)
        };
        Ok(Box::new(OnDevice {
            network,
            take,
            width,
            no_room: AtomicUsize::new(usize::MAX),
            wide: wider.map(behind),
            again: Arc::clone(&self.again),
        }))
    }
}

struct OnDevice<B: Training> {
    network: Network<B>,
    take: Box<dyn Take<B>>,
    width: usize,
    /// Tokens there was no room for.
    no_room: AtomicUsize,
    /// The same network in a precision that holds more, where this one overflows.
    wide: Option<Behind<dyn Trace>>,
    /// How many that took.
    again: Arc<AtomicU64>,
}

impl<B: Training> OnDevice<B> {
    /// In halves where it is too many records, or the device has no room for it whole.
    fn trace_in_parts(&self, batch: &PackedBatch, seed: Seed<'_>) -> Result<Outputs> {
        let (tokens, sequences) = (batch.tokens(), batch.sequences());
        let fits = sequences <= self.take.most_records() && tokens < self.no_room.load(Ordering::Relaxed);
        if sequences == 1 || fits {
            match self.take.take(&self.network, batch.clone(), seed) {
                Err(Error::OutOfMemory(..)) if sequences > 1 => {
                    self.take.let_go();
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

    /// Takes again what overflowed, each record by itself: its numbers do not depend on its neighbours, nor theirs on
    /// it.
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

impl<B: Training> Trace for OnDevice<B> {
    fn batch_tokens(&self) -> usize {
        self.network.batch_tokens()
    }

    fn trace(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<Outputs> {
        let mut outputs = self.trace_in_parts(&batch, seed)?;
        self.rescue(&batch, seed, &mut outputs)?;
        Ok(outputs)
    }
}
