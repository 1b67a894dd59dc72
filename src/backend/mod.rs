//! The device: every operation the encoder is written in, as one trait, one method per operation.
//!
//! [`cpu`] and [`gpu`] are the devices; [`mod@reference`] is the slow and obvious one in f64 that judges every other.
//! Letters: B sequences in a batch, T tokens in it, E width, H heads, D head width, F inner width.
//!
//! Buffers are flat and row-major. An operation is told its number of rows: a buffer may be larger than what is used of
//! it, so that a workspace is allocated once and serves every batch. Outputs come first, then inputs, then sizes.
//!
//! **Same bits, whatever the batch**: a row of an output depends on its own sequence alone. Implementations keep one
//! order of summation, fixed by the operation's widths and by the sequence's own length, never by the number of rows.
//! No sequence is empty.

pub mod check;
pub mod cpu;
mod floats;
pub mod gpu;
mod losses;
pub mod path;
mod precision;
pub mod reference;
mod sketch;
pub mod training;

use std::sync::{Arc, MutexGuard};

use crate::error::{Error, Result};
use crate::numeric::softmax;
use crate::tokens::{Masked, PackedBatch};
pub use floats::Floats;
pub use path::{Path, Stage};
pub use precision::Precision;

/// What a linear layer applies to its sums, element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x`
    Identity,
    /// `x Φ(x)`, Φ the normal distribution function (by erf): `gelu`.
    Gelu,
    /// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`: `gelu_new`, `gelu_fast`, `gelu_pytorch_tanh`.
    GeluTanh,
    /// `x σ(1.702 x)`: `quick_gelu`.
    QuickGelu,
    /// `max(x, 0)`
    Relu,
    /// `x σ(x)`: `silu`, `swish`.
    Silu,
    /// `tanh(x)`
    Tanh,
}

/// How a sequence's hidden states become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's (`[CLS]`).
    First,
    /// The mean over tokens.
    Mean,
    /// The largest value of each dimension over tokens.
    Max,
    /// The sum over tokens divided by the square root of their number.
    MeanSqrtLength,
}

/// Which tokens of each sequence an operation computes its output for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Every token: T output rows.
    All,
    /// The first token of each sequence: B output rows.
    First,
}

impl Rows {
    /// How many those are of a batch.
    pub(crate) fn of(self, batch: &PackedBatch) -> usize {
        match self {
            Self::All => batch.tokens(),
            Self::First => batch.sequences(),
        }
    }

    /// Where a sequence's lie.
    pub(crate) fn range(self, batch: &PackedBatch, sequence: usize) -> std::ops::Range<usize> {
        match self {
            Self::All => batch.range(sequence),
            Self::First => sequence..sequence + 1,
        }
    }
}

/// Some columns of a row-major matrix: row r starts at `r * stride + offset`.
pub struct Columns<'a, T: ?Sized> {
    /// The matrix.
    pub tensor: &'a T,
    /// Elements from one row's start to the next's.
    pub stride: usize,
    /// The first column.
    pub offset: usize,
}

/// A layer normalisation's parameters.
pub struct Norm<B: Backend> {
    /// Scale, `[E]`.
    pub weight: B::Tensor,
    /// Shift, `[E]`.
    pub bias: B::Tensor,
    /// Added to the variance (biased, as everywhere in this field).
    pub epsilon: f32,
    /// E.
    pub width: usize,
}

/// The embedding stage's parameters: the sum of the tables' rows, then a layer normalisation.
pub struct Embeddings<B: Backend> {
    /// `[V, E]`, by token id.
    pub word: B::Tensor,
    /// `[P, E]`, by position.
    pub position: Option<B::Tensor>,
    /// `[types, E]`, by segment.
    pub token_type: Option<B::Tensor>,
    /// `[E]`, the same vector added to every token (ERNIE's task type 0).
    pub task: Option<B::Tensor>,
    /// Over E.
    pub norm: Norm<B>,
}

/// A view of queries, keys or values: [`Columns`] of a device's tensor.
pub type Heads<'a, B> = Columns<'a, <B as Backend>::Tensor>;

/// What an attention read: `q`, `k` and `v` of [`Backend::attention`].
pub struct Attended<'a, B: Backend> {
    /// One row a token, or a sequence ([`Rows::First`]).
    pub q: Heads<'a, B>,
    /// One row a token.
    pub k: Heads<'a, B>,
    /// One row a token.
    pub v: Heads<'a, B>,
    /// Which tokens go together.
    pub batch: &'a B::Batch,
    /// The sizes.
    pub shape: AttentionShape,
}

/// Where the gradients of an attention's operands go.
pub struct AttentionGradients<'a, T> {
    /// [`Rows::All`]: `[T, 3E]`, gradients of q, k and v side by side; [`Rows::First`]: `[T, 2E]`, those of k and v.
    pub packed: &'a mut T,
    /// [`Rows::First`]: `[B, E]`, that of q.
    pub query: Option<&'a mut T>,
}

/// What an attention map shows of each pair of tokens, over the H heads.
pub enum AttentionMap<'a, B: Backend> {
    /// The mean of the softmax's weights.
    Weights,
    /// The sum of the scaled scores `q·k/√D`, before any softmax.
    Scores,
    /// The mean of the positive part of weight × its gradient (Chefer et al. 2021, eq. 5), for the gradient of the
    /// attention's output.
    GradientWeights(&'a B::Tensor),
}

/// A layer's step of [`Backend::follow`].
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Which tokens asked in the map.
    pub queries: Rows,
    /// What the row itself is multiplied by.
    pub own: f32,
    /// What each sequence's product with its map is, `[B]`.
    pub below: &'a [f32],
}

/// The function of a sequence's logits whose gradient is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Objective {
    /// `softmax(z)_c`
    Softmax(usize),
    /// `σ(z_c)`
    Sigmoid(usize),
    /// `z_c`
    Logit(usize),
    /// `z_c − z_a`
    Difference(usize, usize),
    /// A sum over parts of the logits, for heads that give several rows of them a sequence.
    Sum(Arc<[Term]>),
}

/// An objective over some of a sequence's logits, and what it counts in a sum.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// What it is multiplied by.
    pub weight: f64,
    /// Which logits it is of.
    pub part: Part,
    /// What it is of them.
    pub objective: Objective,
}

/// Some of a sequence's logits `[R, K]`: a row of them, or a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The K logits of row r, of rows this wide.
    Row(usize, usize),
    /// Logit k of every row, of rows this wide.
    Column(usize, usize),
}

impl Part {
    /// The places of its logits among `len`.
    fn places(self, len: usize) -> impl Iterator<Item = usize> {
        let (places, step) = match self {
            Self::Row(row, width) => (row * width..(row + 1) * width, 1),
            Self::Column(column, width) => (column..len, width),
        };
        places.step_by(step)
    }
}

impl Term {
    fn logits(&self, z: &[f64]) -> Vec<f64> {
        self.part.places(z.len()).map(|place| z[place]).collect()
    }
}

impl Objective {
    /// Whether there is all it names among `len` logits.
    pub(crate) fn is_of(&self, len: usize) -> bool {
        match *self {
            Self::Softmax(c) | Self::Sigmoid(c) | Self::Logit(c) => c < len,
            Self::Difference(c, a) => c < len && a < len,
            Self::Sum(ref terms) => terms.iter().all(|term| {
                let logits = match term.part {
                    Part::Row(row, width) if (row + 1).checked_mul(width).is_some_and(|end| end <= len) => width,
                    Part::Column(column, width) if column < width.min(len) => (len - column).div_ceil(width),
                    _ => return false,
                };
                term.objective.is_of(logits)
            }),
        }
    }

    /// Its value at logits `z`.
    pub fn value(&self, z: &[f64]) -> f64 {
        match *self {
            Self::Softmax(c) => softmax(z.iter().copied())[c],
            Self::Sigmoid(c) => sigmoid(z[c]),
            Self::Logit(c) => z[c],
            Self::Difference(c, a) => z[c] - z[a],
            Self::Sum(ref terms) => terms.iter().map(|term| term.weight * term.objective.value(&term.logits(z))).sum(),
        }
    }

    /// Its gradient at logits `z`.
    pub fn gradient(&self, z: &[f64]) -> Vec<f64> {
        let mut gradient = vec![0.0; z.len()];
        match *self {
            Self::Softmax(c) => {
                let p = softmax(z.iter().copied());
                gradient.iter_mut().zip(&p).for_each(|(slope, other)| *slope = -p[c] * other);
                // 1 − p_c as the sum of the others keeps its digits where p_c is nearly 1.
                gradient[c] = p[c] * p.iter().enumerate().filter(|(k, _)| *k != c).map(|(_, p)| p).sum::<f64>();
            }
            Self::Sigmoid(c) => gradient[c] = sigmoid(z[c]) * sigmoid(-z[c]),
            Self::Logit(c) => gradient[c] = 1.0,
            Self::Difference(c, a) => {
                gradient[c] += 1.0;
                gradient[a] -= 1.0;
            }
            Self::Sum(ref terms) => {
                for term in terms.iter() {
                    let slopes = term.objective.gradient(&term.logits(z));
                    term.part.places(z.len()).zip(slopes).for_each(|(at, slope)| gradient[at] += term.weight * slope);
                }
            }
        }
        gradient
    }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// How a gradient `g` at an embedding becomes numbers of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// `g · (x + σn − x')`, the step from the path's start to its end: one number.
    Step,
    /// `‖g‖₂`: one number.
    Norm,
    /// `g` itself: as many numbers as the embedding is wide.
    Whole,
}

/// A device and the operations on it. One method, one operation; no method knows a model family.
///
/// # Errors
/// [`Error::OutOfMemory`] where the device has no room, [`Error::Device`] where it fails, and from [`Backend::embed`]
/// [`Error::Mismatch`] where a token is beyond a table. A buffer smaller than the sizes say is the caller's mistake,
/// and panics.
#[allow(clippy::missing_errors_doc)] // the same for every method: above
pub trait Backend: Send + Sync + Sized + 'static {
    /// A flat buffer of numbers on the device.
    type Tensor: Send + Sync;
    /// A linear layer's weight and bias, in the layout the device multiplies by.
    type Linear: Send + Sync;
    /// A packed batch on the device.
    type Batch: Send;
    /// Where the sequences of a batch stand on their paths, on the device.
    type Path: Send;

    /// The device, as it is written beside results.
    fn name(&self) -> String;
    /// What matrix products are computed in, never [`Precision::Auto`].
    fn precision(&self) -> Precision;
    /// The same device in a precision that holds larger numbers, where this one's overflow at what models compute: for
    /// those records alone.
    fn wider(&self) -> Option<Self> {
        None
    }
    /// How many batches run at the same time, each by one worker.
    fn workers(&self) -> usize;
    /// Tokens in a batch where the user has not said.
    fn batch_tokens(&self) -> usize;

    /// Tokens of a batch that there is memory for, where each worker keeps so many numbers of a token.
    fn room(&self, _numbers: usize) -> usize {
        usize::MAX
    }

    /// A buffer of `len` numbers, contents unspecified.
    fn tensor(&self, len: usize) -> Result<Self::Tensor>;
    /// A buffer for numbers that go back to the host, contents unspecified: f32, where the device stores what it works
    /// on in less.
    fn results(&self, len: usize) -> Result<Self::Tensor> {
        self.tensor(len)
    }
    /// A buffer with these contents.
    fn upload(&self, values: &[f32]) -> Result<Self::Tensor>;
    /// The first `out.len()` numbers of a buffer.
    fn download(&self, out: &mut [f32], tensor: &Self::Tensor) -> Result<()>;
    /// [`Backend::download`] of several, which waits but once: for what was computed until now, and not for what others
    /// begin meanwhile.
    fn download_all(&self, wanted: &mut [(&mut [f32], &Self::Tensor)]) -> Result<()> {
        wanted.iter_mut().try_for_each(|(out, tensor)| self.download(out, tensor))
    }
    /// Held while a batch's work is handed to a device that does one thing after another, so that no other batch's
    /// comes in between: each is done, and its results are fetched, while the next one's runs.
    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        None
    }
    /// A batch to the device.
    fn stage(&self, batch: PackedBatch) -> Result<Self::Batch>;
    /// Masked texts to the device, as [`Backend::stage`] would take them expanded.
    fn stage_masked(&self, masked: Masked) -> Result<Self::Batch> {
        self.stage(masked.expanded())
    }
    /// Paths to the device.
    fn stage_path(&self, path: Path) -> Result<Self::Path>;
    /// Packs `weight [outputs, inputs]` and `bias [outputs]`.
    fn pack_linear(&self, weight: &[f32], bias: &[f32], inputs: usize, outputs: usize) -> Result<Self::Linear>;

    /// `out [T, E] = LN(word[id] + position[pos] + token_type[type] + task)`.
    fn embed(&self, out: &mut Self::Tensor, embeddings: &Embeddings<Self>, batch: &Self::Batch) -> Result<()>;

    /// `out [rows, E] = (x − mean) / √(var + ε) · weight + bias`, over each row of `x [rows, E]`.
    fn layer_norm(&self, out: &mut Self::Tensor, x: &Self::Tensor, norm: &Norm<Self>, rows: usize) -> Result<()>;

    /// `out [rows, outputs] = activation(x [rows, inputs] · weightᵀ + bias) + residual [rows, outputs]`.
    fn linear(
        &self,
        out: &mut Self::Tensor,
        x: &Self::Tensor,
        weights: &Self::Linear,
        activation: Activation,
        residual: Option<&Self::Tensor>,
        rows: usize,
    ) -> Result<()>;

    /// `out [T or B, H·D] = softmax(q kᵀ / √D) v` in each sequence and head; head h is columns `h·D .. (h+1)·D` of each
    /// view.
    fn attention(&self, out: &mut Self::Tensor, attended: &Attended<'_, Self>) -> Result<()>;

    /// `out [B, width]` from `x [T, width]`.
    fn pool(
        &self,
        out: &mut Self::Tensor,
        x: &Self::Tensor,
        batch: &Self::Batch,
        pooling: Pooling,
        width: usize,
    ) -> Result<()>;

    /// [`Backend::embed`] at a point of each sequence's path: see [`Path`].
    fn embed_path(
        &self,
        out: &mut Self::Tensor,
        embeddings: &Embeddings<Self>,
        batch: &Self::Batch,
        path: &Self::Path,
    ) -> Result<()>;

    /// [`Backend::linear`] without a residual, and what its backward needs: with sums `s = x · weightᵀ + bias`,
    /// `out [rows, outputs] = activation(s)` and `slope [rows, outputs] = activation'(s)`.
    fn linear_with_slope(
        &self,
        out: &mut Self::Tensor,
        slope: &mut Self::Tensor,
        x: &Self::Tensor,
        weights: &Self::Linear,
        activation: Activation,
        rows: usize,
    ) -> Result<()>;

    /// From the gradient of a linear layer's sums to that of its inputs, past the activation that made them where its
    /// `slope` is given, and added to the gradient that goes around both: `dx [rows, inputs] = (dy [rows, outputs] ·
    /// weight) ∘ slope + residual`.
    fn linear_backward(
        &self,
        dx: &mut Self::Tensor,
        dy: &Self::Tensor,
        weights: &Self::Linear,
        slope: Option<&Self::Tensor>,
        residual: Option<&Self::Tensor>,
        rows: usize,
    ) -> Result<()>;

    /// `dx [rows, E]` from `dy [rows, E]`, for [`Backend::layer_norm`] of `x [rows, E]`.
    fn layer_norm_backward(
        &self,
        dx: &mut Self::Tensor,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        norm: &Norm<Self>,
        rows: usize,
    ) -> Result<()>;

    /// The gradients of an attention's operands, from that of its output `d_out [T or B, E]`. Its weights are computed
    /// again, never kept.
    fn attention_backward(
        &self,
        gradients: AttentionGradients<'_, Self::Tensor>,
        d_out: &Self::Tensor,
        attended: &Attended<'_, Self>,
    ) -> Result<()>;

    /// `out`: for each sequence of L tokens in turn, `[L, L]` numbers (`[1, L]` where only first tokens ask): row i is
    /// what token i sees in each other. A buffer of [`Backend::results`].
    fn attention_map(
        &self,
        out: &mut Self::Tensor,
        attended: &Attended<'_, Self>,
        map: AttentionMap<'_, Self>,
    ) -> Result<()>;

    /// A row vector one layer down through attention maps, in each sequence: `out [T] = own · row + below_b (row A)`,
    /// with A the sequence's part of `map`, as [`Backend::attention_map`] left it; where first tokens alone asked, row
    /// A is the first's number times A's one row. `out`, `row` and `map` are f32 on every device: buffers of
    /// [`Backend::results`] or [`Backend::upload`].
    fn follow(
        &self,
        out: &mut Self::Tensor,
        row: &Self::Tensor,
        map: &Self::Tensor,
        batch: &Self::Batch,
        step: Step<'_>,
    ) -> Result<()>;

    /// Adds row b of `rows [B, width]` to the first token of sequence b in `x [T, width]`: the backward of
    /// [`Pooling::First`].
    fn add_to_first(&self, x: &mut Self::Tensor, rows: &Self::Tensor, batch: &Self::Batch, width: usize) -> Result<()>;

    /// `dz [B, classes]`, the gradient of each sequence's objective at its logits `z [B, classes]`: where a backward
    /// pass starts.
    ///
    /// A device that stores gradients in few bits may multiply each sequence's by a power of two of its own, which it
    /// notes in the batch: [`Backend::fold`] and [`AttentionMap::GradientWeights`] divide by it.
    fn objective_gradient(
        &self,
        dz: &mut Self::Tensor,
        z: &Self::Tensor,
        objectives: &[Objective],
        batch: &Self::Batch,
        classes: usize,
    ) -> Result<()>;

    /// From the gradient of the embedding stage's output to that of what [`Path`] moves, in place: past the layer
    /// normalisation where that is the word embeddings ([`Stage::Word`]), unchanged where it is the output itself.
    /// Without a path, as for its end.
    fn embed_backward(
        &self,
        gradient: &mut Self::Tensor,
        embeddings: &Embeddings<Self>,
        batch: &Self::Batch,
        path: &Self::Path,
    ) -> Result<()>;

    /// `out`: what `fold` makes of each token's gradient `[T, E]`, `[T]` or `[T, E]` numbers. A buffer of
    /// [`Backend::results`].
    fn fold(
        &self,
        out: &mut Self::Tensor,
        gradient: &Self::Tensor,
        embeddings: &Embeddings<Self>,
        batch: &Self::Batch,
        path: &Self::Path,
        fold: Fold,
    ) -> Result<()>;
}

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// H.
    pub heads: usize,
    /// D.
    pub head_width: usize,
    /// Which tokens ask.
    pub queries: Rows,
}

/// Row `row` of an embedding table `[rows, width]`, or why there is none: a tokenizer that is not this model's.
fn table_row<'a, N>(table: &'a [N], row: u32, width: usize, name: &str) -> Result<&'a [N]> {
    let start = row as usize * width;
    table.get(start..start + width).ok_or_else(|| beyond_table(name, row, table.len() / width.max(1)))
}

/// Of a row that an embedding table of `rows` does not have.
fn beyond_table(name: &str, row: u32, rows: usize) -> Error {
    Error::Mismatch(format!("{name} {row} is beyond the model's table of {rows}"), None)
        .with_hint("check that the tokenizer, the maximum length and the weights are of one model")
}
