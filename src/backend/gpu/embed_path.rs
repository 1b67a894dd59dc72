//! Launches `kernels/embed_path.cu`: the embedding stage at points of paths, its backward, and what is made of the
//! gradients.

use super::batch::{Batch, Part};
use super::device::{Argument, Device};
use super::embed::{check, check_tables, stage_arguments};
use super::tensor::{Number, Tensor};
use super::{Gpu, layer_norm};
use crate::backend::{self, Embeddings, Fold, Stage};
use crate::error::Result;
use crate::random::{Purpose, Stream};

pub(super) const NAMES: [&str; 9] = {
    let ([a, b, c], [d, e, f], [g, h, i]) = (FORWARD, BACKWARD, FOLD);
    [a, b, c, d, e, f, g, h, i]
};
const FORWARD: [&str; 3] = ["embed_path_f32", "embed_path_f16", "embed_path_bf16"];
const BACKWARD: [&str; 3] = ["embed_backward_f32", "embed_backward_f16", "embed_backward_bf16"];
const FOLD: [&str; 3] = ["fold_f32", "fold_f16", "fold_bf16"];

/// Where the sequences of a batch stand on their paths, on the device.
pub struct Path {
    host: backend::Path,
    /// Words of 32 bits: baseline `[T]`, α `[B]`, σ `[B]`, draws `[B, 2]`.
    memory: Tensor,
}

impl Path {
    pub(super) fn upload(device: &Device, host: backend::Path) -> Result<Self> {
        let words: [&[u32]; 4] = [
            &host.baseline,
            bytemuck::cast_slice(&host.alpha),
            bytemuck::cast_slice(&host.sigma),
            host.draws.as_flattened(),
        ];
        let memory = device.upload(Number::F32, bytemuck::cast_slice(&words.concat()))?;
        Ok(Self { host, memory })
    }
}

/// An embedding stage whose tokens stand on paths.
pub(super) struct OnPath<'a> {
    pub(super) device: &'a Device,
    pub(super) embeddings: &'a Embeddings<Gpu>,
    pub(super) batch: &'a Batch,
    pub(super) path: &'a Path,
}

impl OnPath<'_> {
    /// The stage's output at each token's point.
    pub(super) fn embed(&self, out: &mut Tensor) -> Result<()> {
        assert!(self.batch.tokens() * self.width() <= out.len, "a buffer of fewer rows");
        self.launch(out.number.pick(FORWARD), 2, &[self.device.address(out, 0)])
    }

    /// The gradient at what the path moves, from that at the stage's output, in place.
    pub(super) fn backward(&self, gradient: &mut Tensor) -> Result<()> {
        assert!(self.batch.tokens() * self.width() <= gradient.len, "a buffer of fewer rows");
        match self.path.host.stage {
            Stage::Output => Ok(()),
            Stage::Word => self.launch(gradient.number.pick(BACKWARD), 2, &[self.device.address(gradient, 0)]),
        }
    }

    /// What `fold` makes of each token's gradient, over the scale it was seeded with: in f32, whatever gradients are
    /// stored as.
    pub(super) fn fold(&self, out: &mut Tensor, gradient: &Tensor, fold: Fold) -> Result<()> {
        let (tokens, width) = (self.batch.tokens(), self.width());
        let (kind, len, held) = match fold {
            Fold::Step => (0, tokens, 3),
            Fold::Norm => (1, tokens, 1),
            Fold::Whole => (2, tokens * width, 0),
        };
        assert!(len <= out.len && tokens * width <= gradient.len, "a buffer of fewer rows");
        assert_eq!(out.number, Number::F32, "folded gradients are results");
        let arguments = [
            self.device.address(out, 0),
            self.device.address(gradient, 0),
            self.batch.part(self.device, Part::Scales),
            Argument::Integer(kind),
        ];
        self.launch(gradient.number.pick(FOLD), held, &arguments)
    }

    fn width(&self) -> usize {
        self.embeddings.norm.width
    }

    /// A kernel of one warp a token, with room for so many rows of it.
    fn launch(&self, name: &str, held: usize, own: &[Argument]) -> Result<()> {
        let (tokens, host) = (self.batch.tokens(), &self.path.host);
        host.check(tokens, self.batch.host.sequences())?;
        assert!(self.batch.masked.is_none(), "masked texts stand on no path");
        check_tables(self.embeddings, self.batch)?;
        let baseline = host.baseline.iter().filter(|id| **id != backend::Path::ZERO);
        check(Some(&self.embeddings.word), baseline, self.width(), "token id")?;
        if tokens == 0 {
            return Ok(());
        }
        let mut arguments = own.to_vec();
        arguments.extend(stage_arguments(self.device, self.embeddings, self.batch));
        arguments.extend(self.path_arguments());
        arguments.extend([tokens, self.width()].map(Argument::from));
        self.device.launch(name, layer_norm::shape(tokens, self.width(), held), &arguments)
    }

    fn path_arguments(&self) -> [Argument; 9] {
        let host = &self.path.host;
        let (tokens, sequences) = (host.baseline.len(), host.alpha.len());
        let path = |element| self.device.address(&self.path.memory, element);
        let [low, high] = Stream::new(host.seed, Purpose::EmbeddingNoise).key().map(u32::cast_signed);
        [
            path(0),
            self.batch.part(self.device, Part::SequenceOf),
            self.batch.part(self.device, Part::Starts),
            path(tokens),
            path(tokens + sequences),
            path(tokens + 2 * sequences),
            Argument::Integer(low),
            Argument::Integer(high),
            Argument::Integer(i32::from(host.stage == Stage::Output)),
        ]
    }
}
