//! NVIDIA GPUs, over the driver alone: kernels compiled from `kernels/` into this binary, launched through cudarc's
//! dynamically loaded bindings.
//!
//! The binary builds and starts where there is no CUDA. One launcher file a kernel stem; `device` is what they share.
//! Activations are stored in the precision's type, parameters that are not matrices in f32; sums are f32 always. A
//! row's bits depend neither on how many rows there are nor on the tiles they fall in.

mod attention;
mod attention_backward;
mod attention_map;
mod batch;
mod ceilings;
mod columns;
mod convert;
mod device;
mod dropout;
mod embed;
mod embed_path;
mod embed_sum;
mod follow;
mod gradients;
mod gradients_wgmma;
mod images;
mod layer_norm;
mod linear;
mod linear_wgmma;
mod losses;
mod objective;
mod optimizer;
mod pack;
mod pool;
mod projected;
mod resident;
mod search;
mod staging;
mod sums;
mod tensor;
mod tensor_map;
mod training;

pub use batch::Batch;
pub use ceilings::Ceilings;
pub use device::{Info, devices};
pub use embed_path::Path;
pub use images::compiler;
pub use linear::Linear;
pub use linear_wgmma::{Products, distrusted};
pub use projected::Sketch;
pub(crate) use resident::Key;
pub(crate) use search::{Asked, Chunk, Entry, FactorsOf, Found, MOST_KEPT, MOST_TERMS, Part, Weights};
pub use sums::Sums;
pub use tensor::Tensor;

use std::sync::{Arc, MutexGuard};

use self::device::Device;
use self::embed_path::OnPath;
use self::images::Image;
use self::linear::Finish;
use self::tensor::Number;
use super::{
    Activation, Attended, AttentionGradients, AttentionMap, Backend, Embeddings, Fold, Norm, Objective, Pooling,
    Precision, Step,
};
use crate::error::{Error, Result};
use crate::tokens::{Masked, PackedBatch};

/// Every kernel, by the stem of its file.
const KERNELS: [(&str, &[&str]); 37] = [
    ("attention_backward_bf16", &attention_backward::BF16),
    ("attention_backward_f16", &attention_backward::F16),
    ("attention_backward_f32", &attention_backward::F32),
    ("attention_bf16", &attention::BF16),
    ("attention_f16", &attention::F16),
    ("attention_f32", &attention::F32),
    ("attention_map", &attention_map::NAMES),
    ("ceilings", &ceilings::NAMES),
    ("columns", &columns::NAMES),
    ("convert", &convert::NAMES),
    ("dropout", &dropout::NAMES),
    ("embed", &embed::NAMES),
    ("embed_path", &embed_path::NAMES),
    ("embed_sum", &embed_sum::NAMES),
    ("follow", &follow::NAMES),
    ("gradients", &gradients::NAMES),
    ("gradients_bf16", &gradients::BF16),
    ("gradients_bf16_wgmma", &gradients_wgmma::BF16),
    ("gradients_f16", &gradients::F16),
    ("layer_norm", &layer_norm::NAMES),
    ("linear_bf16", &linear::BF16),
    ("linear_bf16_wgmma", &linear_wgmma::BF16),
    ("linear_bf16x3", &linear::BF16X3),
    ("linear_bf16x3_wgmma", &linear_wgmma::BF16X3),
    ("linear_f16", &linear::F16),
    ("linear_f16_wgmma", &linear_wgmma::F16),
    ("linear_f32", &linear::F32),
    ("losses", &losses::NAMES),
    ("objective", &objective::NAMES),
    ("optimizer", &optimizer::NAMES),
    ("pack", &pack::NAMES),
    ("pool", &pool::NAMES),
    ("projected", &projected::NAMES),
    ("search", &search::NAMES),
    ("search_bounds", &search::BOUNDS),
    ("search_bounds_wgmma", &search::WGMMA),
    ("sums", &sums::NAMES),
];

/// What a GPU computes in where nothing else is asked for: three bits more than bf16 at the same rate. What overflows
/// is run again in bf16.
const DEFAULT: Precision = Precision::F16;

/// A GPU, computing in one precision.
pub struct Gpu {
    device: Arc<Device>,
    precision: Precision,
    products: Products,
    /// The same of weight gradients.
    gradients: Products,
}

impl Gpu {
    /// Opens a device, by number.
    ///
    /// # Errors
    /// [`crate::Error::Device`]: no kernels in this binary, no driver or an old one, no such device, one too old.
    pub fn open(ordinal: usize, precision: Precision) -> Result<Self> {
        Self::open_with(ordinal, precision, images::embedded())
    }

    /// [`Gpu::open`] with other kernel images than this binary's.
    #[doc(hidden)]
    pub fn open_with(ordinal: usize, precision: Precision, images: &[Image]) -> Result<Self> {
        let precision = if precision == Precision::Auto { DEFAULT } else { precision };
        let device = Arc::new(Device::open(ordinal, images, &KERNELS)?);
        let products = match precision {
            Precision::F16 | Precision::Bf16 | Precision::Bf16x3 => linear_wgmma::choose(&device)?,
            Precision::Auto | Precision::F32 => Products::Mma,
        };
        let gradients = match (products, precision) {
            (Products::Wgmma, Precision::Bf16) => gradients_wgmma::choose(&device)?,
            _ => Products::Mma,
        };
        Ok(Self { device, precision, products, gradients })
    }

    /// Opens devices that share work, by their numbers.
    ///
    /// # Errors
    /// As [`Gpu::open`]; devices whose kernels differ, and with them results.
    pub fn open_all(ordinals: &[usize], precision: Precision) -> Result<Vec<Self>> {
        let mut opened: Vec<Self> =
            ordinals.iter().map(|&ordinal| Self::open(ordinal, precision)).collect::<Result<_>>()?;
        let unlike = opened.windows(2).find(|two| two[0].info().capability != two[1].info().capability);
        if let Some([one, other]) = unlike {
            let found = format!("{} beside {}: expected devices of one compute capability", other.name(), one.name());
            let hint = "devices share work whose results are the same on each: name those of one kind, as in --device cuda:0,1";
            return Err(Error::Device(found, Some(hint.to_owned())));
        }
        let all_by_wgmma = |way: fn(&Self) -> Products| opened.iter().all(|gpu| way(gpu) == Products::Wgmma);
        let (products, gradients) = (all_by_wgmma(|gpu| gpu.products), all_by_wgmma(|gpu| gpu.gradients));
        for gpu in &mut opened {
            gpu.products = if products { Products::Wgmma } else { Products::Mma };
            gpu.gradients = if gradients { Products::Wgmma } else { Products::Mma };
        }
        Ok(opened)
    }

    /// By which instructions its tensor cores multiply. Results of the two differ by roundings.
    pub fn products(&self) -> Products {
        self.products
    }

    /// The same device, by `mma.sync`.
    #[doc(hidden)]
    #[must_use]
    pub fn by_mma(&self) -> Self {
        Self { products: Products::Mma, gradients: Products::Mma, ..self.shared() }
    }

    /// The same device once more: buffers of one are buffers of the other.
    #[must_use]
    pub fn shared(&self) -> Self {
        Self { device: Arc::clone(&self.device), ..*self }
    }

    /// The same device in f32 where it computes in f16, in which sums over records would need one scale for all.
    #[must_use]
    pub fn unscaled(&self) -> Self {
        let precision = if self.precision == Precision::F16 { Precision::F32 } else { self.precision };
        Self { precision, ..self.shared() }
    }

    /// The stems of the kernel files an image is needed for.
    #[doc(hidden)]
    pub fn stems() -> [&'static str; KERNELS.len()] {
        KERNELS.map(|(stem, _)| stem)
    }

    /// What is known of the device.
    pub fn info(&self) -> &Info {
        self.device.info()
    }

    /// What activations are stored as.
    fn number(&self) -> Number {
        match self.precision {
            Precision::F16 => Number::F16,
            Precision::Bf16 => Number::Bf16,
            Precision::Auto | Precision::F32 | Precision::Bf16x3 => Number::F32,
        }
    }
}

impl Backend for Gpu {
    type Tensor = Tensor;
    type Linear = Linear;
    type Batch = Batch;
    type Path = Path;

    fn name(&self) -> String {
        self.device.info().title()
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    /// f16 ends at 65504; bf16 goes as far as f32.
    fn wider(&self) -> Option<Self> {
        (self.precision == Precision::F16).then(|| Self { precision: Precision::Bf16, ..self.shared() })
    }

    /// Two, so that one batch's results travel while the next is computed.
    fn workers(&self) -> usize {
        2
    }

    /// Tiles of 128 tokens on the multiprocessors a third at a time: a layer of width 768 then is a whole wave, 5632 on
    /// an H100.
    fn batch_tokens(&self) -> usize {
        self.device.multiprocessors().div_ceil(3).max(8) * 128
    }

    /// Of what is free an eighth is left for results, for batches on their way, and to others.
    fn room(&self, numbers: usize) -> usize {
        let free = self.device.free_memory();
        free / 8 * 7 / self.workers() / (numbers * self.number().bytes()).max(1)
    }

    fn tensor(&self, len: usize) -> Result<Tensor> {
        self.device.allocate(self.number(), len)
    }

    fn results(&self, len: usize) -> Result<Tensor> {
        self.device.allocate(Number::F32, len)
    }

    fn upload(&self, values: &[f32]) -> Result<Tensor> {
        self.device.upload(Number::F32, bytemuck::cast_slice(values))
    }

    fn download(&self, out: &mut [f32], tensor: &Tensor) -> Result<()> {
        self.download_all(&mut [(out, tensor)])
    }

    fn download_all(&self, wanted: &mut [(&mut [f32], &Tensor)]) -> Result<()> {
        let mut buffers = Vec::with_capacity(wanted.len());
        for &(ref out, tensor) in &*wanted {
            assert!(out.len() <= tensor.len, "more numbers than the buffer has");
            buffers.push(tensor.memory.slice(..out.len() * tensor.number.bytes()));
        }
        self.device.fetch(&buffers, |place, bytes| {
            let (out, tensor) = &mut wanted[place];
            tensor.number.read(out, bytes);
        })
    }

    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        Some(self.device.turn())
    }

    fn stage(&self, batch: PackedBatch) -> Result<Batch> {
        Batch::upload(&self.device, batch, attention::TILE)
    }

    fn stage_masked(&self, masked: Masked) -> Result<Batch> {
        Batch::upload_masked(&self.device, masked, attention::TILE)
    }

    fn stage_path(&self, path: super::Path) -> Result<Path> {
        Path::upload(&self.device, path)
    }

    fn pack_linear(&self, weight: &[f32], bias: &[f32], inputs: usize, outputs: usize) -> Result<Linear> {
        Linear::pack(&self.device, self.precision, self.products, weight, bias, inputs, outputs)
    }

    fn embed(&self, out: &mut Tensor, embeddings: &Embeddings<Self>, batch: &Batch) -> Result<()> {
        embed::embed(&self.device, out, embeddings, batch)
    }

    fn layer_norm(&self, out: &mut Tensor, x: &Tensor, norm: &Norm<Self>, rows: usize) -> Result<()> {
        layer_norm::layer_norm(&self.device, out, x, norm, rows)
    }

    fn linear(
        &self,
        out: &mut Tensor,
        x: &Tensor,
        weights: &Linear,
        activation: Activation,
        residual: Option<&Tensor>,
        rows: usize,
    ) -> Result<()> {
        weights.forward(&self.device, out, x, Finish { activation, slope: None, residual }, rows)
    }

    fn attention(&self, out: &mut Tensor, attended: &Attended<'_, Self>) -> Result<()> {
        attention::attention(&self.device, out, attended, None)
    }

    fn pool(&self, out: &mut Tensor, x: &Tensor, batch: &Batch, pooling: Pooling, width: usize) -> Result<()> {
        pool::pool(&self.device, out, x, batch, pooling, width)
    }

    fn embed_path(&self, out: &mut Tensor, embeddings: &Embeddings<Self>, batch: &Batch, path: &Path) -> Result<()> {
        OnPath { device: &self.device, embeddings, batch, path }.embed(out)
    }

    fn linear_with_slope(
        &self,
        out: &mut Tensor,
        slope: &mut Tensor,
        x: &Tensor,
        weights: &Linear,
        activation: Activation,
        rows: usize,
    ) -> Result<()> {
        weights.forward(&self.device, out, x, Finish { activation, slope: Some(slope), residual: None }, rows)
    }

    fn linear_backward(
        &self,
        dx: &mut Tensor,
        dy: &Tensor,
        weights: &Linear,
        slope: Option<&Tensor>,
        residual: Option<&Tensor>,
        rows: usize,
    ) -> Result<()> {
        weights.backward(&self.device, dx, dy, slope, residual, rows)
    }

    fn layer_norm_backward(
        &self,
        dx: &mut Tensor,
        dy: &Tensor,
        x: &Tensor,
        norm: &Norm<Self>,
        rows: usize,
    ) -> Result<()> {
        layer_norm::backward(&self.device, dx, dy, x, norm, rows)
    }

    fn attention_backward(
        &self,
        gradients: AttentionGradients<'_, Tensor>,
        d_out: &Tensor,
        attended: &Attended<'_, Self>,
    ) -> Result<()> {
        attention_backward::backward(&self.device, gradients, d_out, attended, None)
    }

    fn attention_map(
        &self,
        out: &mut Tensor,
        attended: &Attended<'_, Self>,
        map: AttentionMap<'_, Self>,
    ) -> Result<()> {
        attention_map::map(&self.device, out, attended, &map, self.number())
    }

    fn follow(&self, out: &mut Tensor, row: &Tensor, map: &Tensor, batch: &Batch, step: Step<'_>) -> Result<()> {
        follow::follow(&self.device, out, row, map, batch, &step)
    }

    fn add_to_first(&self, x: &mut Tensor, rows: &Tensor, batch: &Batch, width: usize) -> Result<()> {
        pool::add_to_first(&self.device, x, rows, batch, width)
    }

    fn objective_gradient(
        &self,
        dz: &mut Tensor,
        z: &Tensor,
        objectives: &[Objective],
        batch: &Batch,
        classes: usize,
    ) -> Result<()> {
        objective::gradient(&self.device, dz, z, objectives, batch, classes)
    }

    fn embed_backward(
        &self,
        gradient: &mut Tensor,
        embeddings: &Embeddings<Self>,
        batch: &Batch,
        path: &Path,
    ) -> Result<()> {
        OnPath { device: &self.device, embeddings, batch, path }.backward(gradient)
    }

    fn fold(
        &self,
        out: &mut Tensor,
        gradient: &Tensor,
        embeddings: &Embeddings<Self>,
        batch: &Batch,
        path: &Path,
        fold: Fold,
    ) -> Result<()> {
        OnPath { device: &self.device, embeddings, batch, path }.fold(out, gradient, fold)
    }
}
