//! The passes that the curvature of a whole network is fitted by: sums of both sides' second moments, and every
//! record's gradient in a basis of its own for each layer.
//!
//! The gradient of a linear layer's `[W b]` is `G = Σ_t δ_t ã_tᵀ`, ã = [a; 1], over a record's tokens. Its Kronecker
//! factors are sums of `ã ãᵀ` and of `δ δᵀ` over tokens; a layer of queries, keys and values is three outputs of one
//! input, each with a factor of its own. What is seen of the last step's queries are first tokens' δ, as the others'
//! are zero.

use std::sync::Mutex;

use super::network::{Network, Part, Ran, Seed, Source};
use super::pass::Pass;
use super::projection::Matrix;
use super::sink::{Linear, Operands, Sink};
use super::two_sided::TwoSided;
use crate::backend::cpu::Cpu;
use crate::backend::training::{Pair, Passed, Products, Training};
use crate::backend::{Backend, Precision, Rows};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::sync::lock;
use crate::tokens::{self, Encoding, MicroBatch, PackedBatch, Positions};

/// Runs a batch of some of a window's rows, and gives back their logits.
type RunBatch<'a> = dyn FnMut(&[usize], PackedBatch) -> Result<Vec<f32>> + 'a;
/// Takes a layer's turned gradients, `[records, outputs, inputs]`, and how many numbers those are.
type TakeLayer<'a, B> = dyn FnMut(usize, &<B as Backend>::Tensor, usize) -> Result<()> + 'a;

/// A linear layer of a network, as its curvature sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearLayer {
    /// Its weight's name in a checkpoint, without `.weight`; of queries, keys and values, the first's.
    pub name: String,
    /// Numbers it reads, the bias's 1 included.
    pub inputs: usize,
    /// Numbers it puts out.
    pub outputs: usize,
    /// How many layers of one input its outputs are of: three where they are queries, keys and values.
    pub blocks: usize,
}

/// Sums over the tokens of records that have been seen by a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// `Σ ã ãᵀ [inputs, inputs]`
    pub inputs: Vec<f64>,
    /// `Σ δ δᵀ [outputs, outputs]`
    pub outputs: Vec<f64>,
    /// How many tokens those were.
    pub rows: u64,
}

impl Moments {
    /// Adds others of the layer.
    fn add(&mut self, new: &Self) {
        self.inputs.iter_mut().zip(&new.inputs).for_each(|(sum, x)| *sum += x);
        self.outputs.iter_mut().zip(&new.outputs).for_each(|(sum, x)| *sum += x);
        self.rows += new.rows;
    }
}

/// Orthonormal bases of both sides of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Basis<'a> {
    /// `[inputs, inputs]`, a vector a row.
    pub inputs: &'a [f32],
    /// `[outputs, outputs]`, a vector a row.
    pub outputs: &'a [f32],
}

/// What a record's gradient of one layer is the sum of the outer products of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerFactors {
    /// ã `[R, inputs]`, the bias's 1 last.
    pub inputs: Vec<f32>,
    /// δ `[R, outputs]`
    pub outputs: Vec<f32>,
    /// Whose token's they are, by its place in the record, `[R]`. A layer that is used several times has several rows a
    /// token.
    pub tokens: Vec<u32>,
}

/// Told a layer's number, the records' places in the window, and their gradients `[records, outputs, inputs]` in the
/// layer's basis.
pub type Turned<'a> = &'a mut dyn FnMut(usize, &[usize], &[f32]) -> Result<()>;

/// A model whose gradients are looked at, layer by layer.
pub struct Observer {
    observe: Box<dyn Observe>,
    positions: Positions,
    batch_tokens: usize,
    layers: Vec<LinearLayer>,
}

impl Observer {
    /// Every linear layer of `model`, where it runs: on its first GPU, in f32 where it is in f16, or on the CPU in f32.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model without a head; what its files say, and the device fails at.
    pub fn new(model: &Model) -> Result<Self> {
        match model.gpus().first() {
            Some(gpu) => Self::on(gpu.unscaled(), model),
            None => Self::on(Cpu::new().shared_out(), model),
        }
    }

    /// [`Observer::new`] on a device.
    ///
    /// # Errors
    /// As there; one that computes in f16.
    pub fn on<B: Training>(backend: B, model: &Model) -> Result<Self> {
        if backend.precision() == Precision::F16 {
            let message =
                "gradients that are added up over records are not computed in f16, where each has a scale of its own";
            return Err(Error::usage(message).with_hint("use --precision f32 or bf16"));
        }
        let network = Network::new(backend, &Source::of(model)?)?;
        let (layers, batch_tokens) = (layers(&network), network.batch_tokens());
        Ok(Self { observe: Box::new(Observed::new(network)), positions: model.positions(), batch_tokens, layers })
    }

    /// The layers, by number.
    pub fn layers(&self) -> &[LinearLayer] {
        &self.layers
    }

    /// Adds the sums of a window's records, each gradient taken from `seed`, to what [`Observer::moments`] tells: one
    /// f32 chain over its tokens, the same whatever `batch_tokens`; chains are added up in f64. Where it fails, what
    /// had been added is gone.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where `going` said so; what the device fails at.
    pub fn add_moments(
        &self,
        window: &[&Encoding],
        batch_tokens: Option<usize>,
        seed: Seed<'_>,
        going: &dyn Fn() -> bool,
    ) -> Result<()> {
        self.observe.add_moments(&self.layers, self.batches(window, batch_tokens), seed, going)
    }

    /// Hands over the sums of all windows, layer by layer, and forgets them.
    ///
    /// # Errors
    /// What the device fails at.
    pub fn moments(&self) -> Result<Vec<Moments>> {
        self.observe.moments(&self.layers)
    }

    /// Sets the bases of all layers, in their order, for [`Observer::turned`].
    ///
    /// # Errors
    /// What the device fails at.
    ///
    /// # Panics
    /// Where they are of other layers.
    pub fn set_bases(&mut self, bases: &[Basis<'_>]) -> Result<()> {
        assert_eq!(bases.len(), self.layers.len(), "a basis for every layer");
        self.observe.set_bases(bases)
    }

    /// Hands `to` the gradients of a window's records, layer by layer, from `seed`. Gives back logits `[window, K]`.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where `going` said so; what `to` says, and the device fails at.
    pub fn turned(
        &self,
        window: &[&Encoding],
        batch_tokens: Option<usize>,
        seed: Seed<'_>,
        going: &dyn Fn() -> bool,
        to: Turned<'_>,
    ) -> Result<Vec<f32>> {
        self.turning(window, batch_tokens, going, &mut |rows, batch| {
            let seed = |place: usize, z: &[f32], dz: &mut [f32]| seed(rows[place], z, dz);
            self.observe.turned(batch, &seed, &mut |layer, gradients| to(layer, rows, gradients))
        })
    }

    /// Adds the squares of a window's gradients in the bases, from `seed`, to what [`Observer::squares`] tells; nothing
    /// is handed over.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where `going` said so; what the device fails at.
    pub fn add_squares(
        &self,
        window: &[&Encoding],
        batch_tokens: Option<usize>,
        seed: Seed<'_>,
        going: &dyn Fn() -> bool,
    ) -> Result<()> {
        let mut add = |rows: &[usize], batch| self.observe.add_squares(batch, &|place, z, dz| seed(rows[place], z, dz));
        self.turning(window, batch_tokens, going, &mut add).map(drop)
    }

    /// The sums of squares since the bases were set, layer by layer, each `[outputs, inputs]`.
    ///
    /// # Errors
    /// What the device fails at.
    pub fn squares(&self) -> Result<Vec<Vec<f64>>> {
        self.observe.squares()
    }

    /// Sets the weights of all layers, in their order and each `[outputs, inputs]`, for [`Observer::weighted_squares`].
    ///
    /// # Errors
    /// What the device fails at.
    ///
    /// # Panics
    /// Where they are of other layers.
    pub fn set_weights(&mut self, weights: &[Vec<f64>]) -> Result<()> {
        let fits = |(layer, weights): (&LinearLayer, &Vec<f64>)| layer.inputs * layer.outputs == weights.len();
        assert!(
            weights.len() == self.layers.len() && self.layers.iter().zip(weights).all(fits),
            "weights of other layers"
        );
        self.observe.set_weights(weights)
    }

    /// The weighted sum of the squares of each of a window's gradients in the bases, from `seed`, over all layers; and
    /// logits `[window, K]`.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where `going` said so; what the device fails at.
    pub fn weighted_squares(
        &self,
        window: &[&Encoding],
        batch_tokens: Option<usize>,
        seed: Seed<'_>,
        going: &dyn Fn() -> bool,
    ) -> Result<(Vec<f64>, Vec<f32>)> {
        let mut sums = vec![0.0; window.len()];
        let logits = self.turning(window, batch_tokens, going, &mut |rows, batch| {
            let seed = |place: usize, z: &[f32], dz: &mut [f32]| seed(rows[place], z, dz);
            let (own, logits) = self.observe.weighted_squares(batch, &seed)?;
            rows.iter().zip(own).for_each(|(row, own)| sums[*row] = own);
            Ok(logits)
        })?;
        Ok((sums, logits))
    }

    /// Runs a window, so many records at a time as their gradients have room, told each batch's rows in the window.
    /// Logits `[window, K]`.
    fn turning(
        &self,
        window: &[&Encoding],
        batch_tokens: Option<usize>,
        going: &dyn Fn() -> bool,
        run: &mut RunBatch<'_>,
    ) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        let together = self.records_together();
        for (number, some) in window.chunks(together).enumerate() {
            for MicroBatch { mut rows, batch } in self.batches(some, batch_tokens) {
                if !going() {
                    return Err(Error::Interrupted);
                }
                for row in &mut rows {
                    *row += number * together;
                }
                let logits = run(&rows, batch)?;
                let classes = logits.len() / rows.len();
                all.resize(window.len() * classes, 0.0);
                for (row, z) in rows.iter().zip(logits.chunks_exact(classes)) {
                    all[row * classes..][..classes].copy_from_slice(z);
                }
            }
        }
        Ok(all)
    }

    /// As many as have their gradients of the largest layer in a quarter of a GiB: told by the model alone, as the
    /// order of records is.
    fn records_together(&self) -> usize {
        let largest = self.layers.iter().map(|layer| layer.inputs * layer.outputs).max().unwrap_or(1);
        ((1 << 26) / largest).clamp(1, 256)
    }

    /// Both sides of every layer's gradient of a window's records, `[window][layers]`, from `seed`; and logits
    /// `[window, K]`.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where `going` said so; what the device fails at.
    pub fn factors(
        &self,
        window: &[&Encoding],
        batch_tokens: Option<usize>,
        seed: Seed<'_>,
        going: &dyn Fn() -> bool,
    ) -> Result<(Vec<Vec<LayerFactors>>, Vec<f32>)> {
        let (mut all, mut all_logits) = (vec![Vec::new(); window.len()], Vec::new());
        for MicroBatch { rows, batch } in self.batches(window, batch_tokens) {
            if !going() {
                return Err(Error::Interrupted);
            }
            let (factors, logits) = self.observe.factors(batch, &|place, z, dz| seed(rows[place], z, dz))?;
            let classes = logits.len() / rows.len();
            all_logits.resize(window.len() * classes, 0.0);
            for ((row, factors), z) in rows.into_iter().zip(factors).zip(logits.chunks_exact(classes)) {
                all[row] = factors;
                all_logits[row * classes..][..classes].copy_from_slice(z);
            }
        }
        Ok((all, all_logits))
    }

    fn batches(&self, window: &[&Encoding], batch_tokens: Option<usize>) -> Vec<MicroBatch> {
        tokens::pack(window, self.positions, batch_tokens.unwrap_or(self.batch_tokens))
    }
}

fn layers<B: Training>(network: &Network<B>) -> Vec<LinearLayer> {
    let layer = |(number, (name, &(inputs, outputs))): (usize, (&String, &(usize, usize)))| LinearLayer {
        name: name.clone(),
        inputs,
        outputs,
        blocks: if network.is_split(number) { 3 } else { 1 },
    };
    network.names().iter().zip(network.linears()).enumerate().map(layer).collect()
}

/// A network on some device.
trait Observe: Send + Sync {
    fn add_moments(
        &self,
        layers: &[LinearLayer],
        batches: Vec<MicroBatch>,
        seed: Seed<'_>,
        going: &dyn Fn() -> bool,
    ) -> Result<()>;

    fn moments(&self, layers: &[LinearLayer]) -> Result<Vec<Moments>>;

    fn factors(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<(Vec<Vec<LayerFactors>>, Vec<f32>)>;

    fn set_bases(&mut self, bases: &[Basis<'_>]) -> Result<()>;

    fn turned(
        &self,
        batch: PackedBatch,
        seed: Seed<'_>,
        to: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<Vec<f32>>;

    fn add_squares(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<Vec<f32>>;

    fn squares(&self) -> Result<Vec<Vec<f64>>>;

    fn set_weights(&mut self, weights: &[Vec<f64>]) -> Result<()>;

    fn weighted_squares(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<(Vec<f64>, Vec<f32>)>;
}

struct Observed<B: Training> {
    network: Network<B>,
    /// Of each layer, in each of its places; none before the first window.
    moments: Mutex<Option<Vec<Vec<Sums<B>>>>>,
    bases: Vec<TwoSided<B>>,
    /// Of each layer, since the bases were set.
    squares: Mutex<Vec<B::Sums>>,
    weights: Vec<B::Sums>,
    space: Mutex<Space<B>>,
}

/// Buffers that are used again, each with how many numbers it holds.
struct Space<B: Training> {
    /// `[T, widest]`: both sides of a layer, turned.
    sides: Option<([B::Tensor; 2], usize)>,
    /// Of gradients.
    free: Vec<(B::Tensor, usize)>,
}

impl<B: Training> Observed<B> {
    fn new(network: Network<B>) -> Self {
        let space = Mutex::new(Space { sides: None, free: Vec::new() });
        Self {
            network,
            moments: Mutex::default(),
            bases: Vec::new(),
            squares: Mutex::default(),
            weights: Vec::new(),
            space,
        }
    }

    /// Turns a batch's gradients, and hands `to` each layer's, `[records, outputs, inputs]`, and how many numbers those
    /// are. Gives back logits.
    fn turn(&self, batch: PackedBatch, seed: Seed<'_>, to: &mut TakeLayer<'_, B>) -> Result<Vec<f32>> {
        let mut space = lock(&self.space);
        let widest = self.bases.iter().map(|both| both.inputs.max(both.outputs)).max().unwrap_or_default();
        let needed = batch.tokens() * widest;
        if space.sides.as_ref().is_none_or(|(_, room)| needed > *room) {
            space.sides = None;
            let side = || self.network.backend.tensor(needed);
            space.sides = Some(([side()?, side()?], needed));
        }
        let Space { sides, free } = &mut *space;
        let visits = self.network.visits();
        let gradients = visits.iter().map(|_| None).collect();
        let (sides, _) = sides.as_mut().expect("just made");
        let mut turning = Turning { network: &self.network, bases: &self.bases, sides, free, visits, gradients, to };
        Ok(self.network.run(batch, seed, &mut turning)?.logits)
    }
}

impl<B: Training> Observe for Observed<B> {
    fn add_moments(
        &self,
        layers: &[LinearLayer],
        batches: Vec<MicroBatch>,
        seed: Seed<'_>,
        going: &dyn Fn() -> bool,
    ) -> Result<()> {
        // What a failure leaves half-added is never put back.
        let uses = lock(&self.moments).take().unwrap_or_else(|| layers.iter().map(|_| Vec::new()).collect());
        let mut adding = Adding { network: &self.network, layers, uses, come_to: vec![0; layers.len()] };
        for MicroBatch { rows, batch } in batches {
            if !going() {
                return Err(Error::Interrupted);
            }
            adding.come_to.fill(0);
            self.network.run(batch, &|place, z, dz| seed(rows[place], z, dz), &mut adding)?;
        }
        let mut uses = adding.uses;
        uses.iter_mut().flatten().try_for_each(|sums| sums.end_chains(&self.network.backend))?;
        *lock(&self.moments) = Some(uses);
        Ok(())
    }

    fn moments(&self, layers: &[LinearLayer]) -> Result<Vec<Moments>> {
        let of_layer = |(uses, layer): (&Vec<Sums<B>>, &LinearLayer)| {
            let mut uses = uses.iter().map(|sums| sums.read(&self.network.backend, layer));
            let mut all = uses.next().expect("a way back comes to every layer")?;
            uses.try_for_each(|new| new.map(|new| all.add(&new)))?;
            Ok(all)
        };
        lock(&self.moments).take().iter().flatten().zip(layers).map(of_layer).collect()
    }

    fn factors(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<(Vec<Vec<LayerFactors>>, Vec<f32>)> {
        let starts = batch.cu_seqlens.clone();
        let layers = vec![LayerFactors::default(); self.network.linears().len()];
        let records = vec![layers; batch.sequences()];
        let mut keeping = Keeping { network: &self.network, starts, records };
        let Ran { logits, .. } = self.network.run(batch, seed, &mut keeping)?;
        Ok((keeping.records, logits))
    }

    fn set_bases(&mut self, bases: &[Basis<'_>]) -> Result<()> {
        let Network { backend, .. } = &self.network;
        let both = |(number, basis): (usize, &Basis<'_>)| {
            let (shape, split) = (self.network.linears()[number], self.network.is_split(number));
            let [inputs, outputs] = [basis.inputs, basis.outputs].map(|basis| Matrix::Dense(basis.into()));
            TwoSided::new(backend, &inputs, &outputs, shape, split)
        };
        self.bases = bases.iter().enumerate().map(both).collect::<Result<_>>()?;
        let zeros = |both: &TwoSided<B>| backend.sums(&vec![0.0; both.inputs * both.outputs]);
        *lock(&self.squares) = self.bases.iter().map(zeros).collect::<Result<_>>()?;
        Ok(())
    }

    fn turned(
        &self,
        batch: PackedBatch,
        seed: Seed<'_>,
        to: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let mut host = Vec::new();
        self.turn(batch, seed, &mut |layer, gradients, len| {
            host.resize(len, 0.0);
            self.network.backend.download(&mut host, gradients)?;
            to(layer, &host)
        })
    }

    fn add_squares(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<Vec<f32>> {
        let (mut squares, records) = (lock(&self.squares), batch.sequences());
        let mut add = |layer: usize, gradients: &B::Tensor, _| {
            self.network.backend.add_squares(&mut squares[layer], gradients, records)
        };
        self.turn(batch, seed, &mut add)
    }

    fn squares(&self) -> Result<Vec<Vec<f64>>> {
        lock(&self.squares).iter().map(|sums| self.network.backend.read_sums(sums)).collect()
    }

    fn set_weights(&mut self, weights: &[Vec<f64>]) -> Result<()> {
        self.weights = weights.iter().map(|weights| self.network.backend.sums(weights)).collect::<Result<_>>()?;
        Ok(())
    }

    fn weighted_squares(&self, batch: PackedBatch, seed: Seed<'_>) -> Result<(Vec<f64>, Vec<f32>)> {
        let records = batch.sequences();
        let mut sums = vec![0.0; records];
        let logits = self.turn(batch, seed, &mut |layer, gradients, _| {
            let own = self.network.backend.weighted_squares(&self.weights[layer], gradients, records)?;
            sums.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
            Ok(())
        })?;
        Ok((sums, logits))
    }
}

/// A layer's sums on the device, in one of its places in the network: layers that are used again have a chain for each,
/// so that batches do not come between its terms.
struct Sums<B: Training> {
    /// `Σ a aᵀ` and `Σ a`.
    inputs: Square<B>,
    /// `Σ δ δᵀ`, and `Σ δ`, which nobody reads.
    outputs: Square<B>,
    /// The same of the last step's queries, and of its keys and values, where they have come by themselves.
    parts: [Option<Square<B>>; 2],
    rows: u64,
}

/// Sums of the products of some numbers, and of themselves.
struct Square<B: Training> {
    /// Of the window that is added up, in f32.
    chain: Pair<B::Tensor>,
    /// Of those before it.
    all: Pair<Total<B>>,
}

/// Sums in f64 where they are made, or where there is no room for those beside all else, on the host.
enum Total<B: Training> {
    OnDevice(B::Sums),
    OnHost(Vec<f64>),
}

impl<B: Training> Total<B> {
    fn zeros(backend: &B, len: usize) -> Result<Self> {
        let zeros = vec![0.0; len];
        match backend.sums(&zeros) {
            Err(Error::OutOfMemory(..)) => Ok(Self::OnHost(zeros)),
            sums => sums.map(Self::OnDevice),
        }
    }

    fn add(&mut self, backend: &B, chain: &B::Tensor) -> Result<()> {
        match self {
            Self::OnDevice(sums) => backend.add_to_sums(sums, chain),
            Self::OnHost(sums) => {
                let mut values = vec![0.0; sums.len()];
                backend.download(&mut values, chain)?;
                sums.iter_mut().zip(values).for_each(|(sum, x)| *sum += f64::from(x));
                Ok(())
            }
        }
    }

    fn read(&self, backend: &B) -> Result<Vec<f64>> {
        match self {
            Self::OnDevice(sums) => backend.read_sums(sums),
            Self::OnHost(sums) => Ok(sums.clone()),
        }
    }
}

impl<B: Training> Square<B> {
    fn new(backend: &B, width: usize) -> Result<Self> {
        let zeros = |len: usize| -> Result<B::Tensor> {
            let mut tensor = backend.results(len)?;
            backend.clear(&mut tensor)?;
            Ok(tensor)
        };
        let none = |len: usize| Total::zeros(backend, len);
        let (products, numbers) = (width * width, width);
        Ok(Self {
            chain: Pair { weight: zeros(products)?, bias: zeros(numbers)? },
            all: Pair { weight: none(products)?, bias: none(numbers)? },
        })
    }

    fn end_chain(&mut self, backend: &B) -> Result<()> {
        let Self { chain, all } = self;
        for (chain, all) in [(&mut chain.weight, &mut all.weight), (&mut chain.bias, &mut all.bias)] {
            all.add(backend, chain)?;
            backend.clear(chain)?;
        }
        Ok(())
    }
}

impl<B: Training> Sums<B> {
    fn new(backend: &B, layer: &LinearLayer) -> Result<Self> {
        let (inputs, outputs) = (Square::new(backend, layer.inputs - 1)?, Square::new(backend, layer.outputs)?);
        Ok(Self { inputs, outputs, parts: [None, None], rows: 0 })
    }

    fn end_chains(&mut self, backend: &B) -> Result<()> {
        let mut all = [&mut self.inputs, &mut self.outputs].into_iter().chain(self.parts.iter_mut().flatten());
        all.try_for_each(|square| square.end_chain(backend))
    }

    /// With the bias's 1, and the parts, put in their places.
    fn read(&self, backend: &B, layer: &LinearLayer) -> Result<Moments> {
        let width = layer.inputs - 1;
        let Pair { weight, bias } = &self.inputs.all;
        let (square, sum) = (weight.read(backend)?, bias.read(backend)?);
        let mut inputs = Vec::with_capacity(layer.inputs * layer.inputs);
        for (row, sum) in square.chunks_exact(width).zip(&sum) {
            inputs.extend(row.iter().chain([sum]));
        }
        inputs.extend(sum.iter().chain([&(self.rows as f64)]));
        let whole = layer.outputs;
        let mut outputs = self.outputs.all.weight.read(backend)?;
        let third = whole / 3;
        for (part, (first, width)) in self.parts.iter().zip([(0, third), (third, whole - third)]) {
            let Some(part) = part else { continue };
            for (row, values) in part.all.weight.read(backend)?.chunks_exact(width).enumerate() {
                let to = &mut outputs[(first + row) * whole + first..][..width];
                to.iter_mut().zip(values).for_each(|(to, &x)| *to += x);
            }
        }
        Ok(Moments { inputs, outputs, rows: self.rows })
    }
}

/// Adds both sides' products up.
struct Adding<'a, B: Training> {
    network: &'a Network<B>,
    layers: &'a [LinearLayer],
    /// Of each layer.
    uses: Vec<Vec<Sums<B>>>,
    /// How many of them this way back has been past.
    come_to: Vec<usize>,
}

impl<B: Training> Sink<B> for Adding<'_, B> {
    fn linear(&mut self, pass: &Pass<'_, B>, of: Linear, rows: Rows, operands: Operands<'_, B>) -> Result<()> {
        let Operands { dy, x, inputs, outputs } = operands;
        let ((number, part), backend) = (self.network.place(of), pass.backend);
        // Queries come by themselves in one place alone; there, keys and values bring the input.
        let place = if part == Part::Queries { 0 } else { self.come_to[number] };
        if part != Part::Queries {
            self.come_to[number] += 1;
        }
        let uses = &mut self.uses[number];
        while uses.len() <= place {
            uses.push(Sums::new(backend, &self.layers[number])?);
        }
        let sums = &mut uses[place];
        let add = |to: &mut Square<B>, x: &B::Tensor, width: usize| {
            let Pair { weight, bias } = &mut to.chain;
            let passed = Passed { batch: pass.batch, rows, inputs: width, outputs: width };
            backend.linear_parameters_backward(Pair { weight, bias }, 0, x, x, passed)
        };
        if part != Part::Queries {
            add(&mut sums.inputs, x, inputs)?;
            sums.rows += pass.rows(rows) as u64;
        }
        let to = match part {
            Part::Whole => &mut sums.outputs,
            Part::Queries | Part::KeysAndValues => {
                let of_part = &mut sums.parts[usize::from(part == Part::KeysAndValues)];
                match of_part {
                    Some(to) => to,
                    none => none.insert(Square::new(backend, outputs)?),
                }
            }
        };
        add(to, dy, outputs)
    }
}

/// Turns every record's gradient of a layer, and hands it over when the way back has come past all uses of the layer.
struct Turning<'a, B: Training> {
    network: &'a Network<B>,
    bases: &'a [TwoSided<B>],
    sides: &'a mut [B::Tensor; 2],
    free: &'a mut Vec<(B::Tensor, usize)>,
    /// How often each layer will still be come to.
    visits: Vec<usize>,
    gradients: Vec<Option<(B::Tensor, usize)>>,
    to: &'a mut TakeLayer<'a, B>,
}

impl<B: Training> Turning<'_, B> {
    /// Zeros for at least `len` numbers.
    fn zeros(&mut self, backend: &B, len: usize) -> Result<(B::Tensor, usize)> {
        let fitting = self.free.iter().position(|(_, room)| *room >= len);
        let mut buffer = match fitting {
            Some(place) => self.free.swap_remove(place),
            None => (backend.results(len)?, len),
        };
        backend.clear(&mut buffer.0)?;
        Ok(buffer)
    }
}

impl<B: Training> Sink<B> for Turning<'_, B> {
    fn linear(&mut self, pass: &Pass<'_, B>, of: Linear, rows: Rows, operands: Operands<'_, B>) -> Result<()> {
        let ((number, part), backend) = (self.network.place(of), pass.backend);
        let both = &self.bases[number];
        let stride = both.inputs * both.outputs;
        let len = pass.sequences * stride;
        both.apply(pass, self.sides, part, rows, &operands)?;
        let mut buffer = match self.gradients[number].take() {
            Some(buffer) => buffer,
            None => self.zeros(backend, len)?,
        };
        let products =
            Products { batch: pass.batch, rows, inputs: both.inputs, outputs: both.outputs, stride, offset: 0 };
        let [dy, x] = &*self.sides;
        backend.outer_products(&mut buffer.0, dy, x, products)?;
        self.visits[number] -= 1;
        if self.visits[number] > 0 {
            self.gradients[number] = Some(buffer);
            return Ok(());
        }
        (self.to)(number, &buffer.0, len)?;
        self.free.push(buffer);
        Ok(())
    }
}

/// Keeps both sides of what a way back comes to, record by record.
struct Keeping<'a, B: Training> {
    network: &'a Network<B>,
    /// Each record's first token, and the number of tokens.
    starts: Vec<u32>,
    records: Vec<Vec<LayerFactors>>,
}

impl<B: Training> Sink<B> for Keeping<'_, B> {
    fn linear(&mut self, pass: &Pass<'_, B>, of: Linear, rows: Rows, operands: Operands<'_, B>) -> Result<()> {
        let ((number, part), count) = (self.network.place(of), pass.rows(rows));
        let Operands { dy, x, inputs, outputs } = operands;
        let (mut read, mut slopes) = (vec![0.0; count * inputs], vec![0.0; count * outputs]);
        pass.backend.download(&mut read, x)?;
        pass.backend.download(&mut slopes, dy)?;
        let whole = self.network.linears()[number].1;
        let first = if part == Part::KeysAndValues { whole - outputs } else { 0 };
        for (record, kept) in self.records.iter_mut().enumerate() {
            let own = match rows {
                Rows::All => self.starts[record] as usize..self.starts[record + 1] as usize,
                Rows::First => record..record + 1,
            };
            let kept = &mut kept[number];
            for (token, row) in own.enumerate() {
                kept.inputs.extend(read[row * inputs..][..inputs].iter().chain([&1.0]));
                let start = kept.outputs.len();
                kept.outputs.resize(start + whole, 0.0);
                kept.outputs[start + first..][..outputs].copy_from_slice(&slopes[row * outputs..][..outputs]);
                kept.tokens.push(token as u32);
            }
        }
        Ok(())
    }
}
