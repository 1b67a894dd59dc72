//! The device: every operation the encoder is written in, as one trait, one method per operation.
//!
//! [`cpu`] is the CPU implementation; [`mod@reference`] is the slow and obvious one in f64 that judges every other.
//! Letters: B sequences in a batch, T tokens in it, E width, H heads, D head width, F inner width.
//!
//! Buffers are flat and row-major. An operation is told its number of rows: a buffer may be larger than what is used of it, so that a
//! workspace is allocated once and serves every batch. Outputs come first, then inputs, then sizes.
//!
//! **Same bits, whatever the batch**: a row of an output depends on its own sequence alone. Implementations keep one order of
//! summation, fixed by the operation's widths and by the sequence's own length, never by the number of rows. No sequence is empty.

pub mod check;
pub mod cpu;
pub mod reference;

use crate::error::{Error, Result};
use crate::tokens::PackedBatch;

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

/// Some columns of a row-major matrix: row r starts at `r * stride + offset`.
pub struct Columns<'a, T> {
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

/// A device and the operations on it. One method, one operation; no method knows a model family.
///
/// # Errors
/// [`Error::Device`] where the device has no room or fails, and from [`Backend::embed`] [`Error::Mismatch`] where a token is beyond
/// a table. A buffer smaller than the sizes say is the caller's mistake, and panics.
#[allow(clippy::missing_errors_doc)] // the same for every method: above
pub trait Backend: Send + Sync + Sized + 'static {
    /// A flat buffer of numbers on the device.
    type Tensor: Send + Sync;
    /// A linear layer's weight and bias, in the layout the device multiplies by.
    type Linear: Send + Sync;
    /// A packed batch on the device.
    type Batch: Send;

    /// How many batches run at the same time, each by one worker.
    fn workers(&self) -> usize;
    /// Tokens in a batch where the user has not said.
    fn batch_tokens(&self) -> usize;

    /// A buffer of `len` numbers, contents unspecified.
    fn tensor(&self, len: usize) -> Result<Self::Tensor>;
    /// A buffer with these contents.
    fn upload(&self, values: &[f32]) -> Result<Self::Tensor>;
    /// The first `out.len()` numbers of a buffer.
    fn download(&self, out: &mut [f32], tensor: &Self::Tensor) -> Result<()>;
    /// A batch to the device.
    fn stage(&self, batch: PackedBatch) -> Result<Self::Batch>;
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

    /// `out [T or B, H·D] = softmax(q kᵀ / √D) v` in each sequence and head; head h is columns `h·D .. (h+1)·D` of each view.
    /// With [`Rows::First`], `q` and `out` hold one row a sequence; `k` and `v` always one a token.
    fn attention(
        &self,
        out: &mut Self::Tensor,
        q: Columns<'_, Self::Tensor>,
        k: Columns<'_, Self::Tensor>,
        v: Columns<'_, Self::Tensor>,
        batch: &Self::Batch,
        shape: AttentionShape,
    ) -> Result<()>;

    /// `out [B, width]` from `x [T, width]`.
    fn pool(
        &self,
        out: &mut Self::Tensor,
        x: &Self::Tensor,
        batch: &Self::Batch,
        pooling: Pooling,
        width: usize,
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
    table.get(start..start + width).ok_or_else(|| {
        let rows = table.len() / width.max(1);
        Error::Mismatch(format!("{name} {row} is beyond the model's table of {rows}"), None)
            .with_hint("check that the tokenizer, the maximum length and the weights are of one model")
    })
}
