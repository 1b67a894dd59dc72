//! What training asks of a device beyond [`Backend`]: gradients of parameters, dropout, the loss, and the optimiser's
//! step.
//!
//! **Every gradient is one chain over the tokens of a step**, in the order they are packed, whatever they are cut into:
//! an operation adds to what is there, so that micro-batches, and threads inside an operation, leave the bits alone.
//! Where a device adds up several tokens at once, they are of one sequence, which is in one micro-batch.
//!
//! What a device rounds is what goes through linear layers and attention: parameters, their gradients and moments are
//! f32 on every device ([`Backend::results`]), and a step rounds the parameters again for the next pass.

use rayon::prelude::*;

use super::cpu::simd::{Isa, Kernel, LANES, Vector};
pub use super::losses::{CrossEntropy, Guide, Loss};
pub use super::sketch::Sketch;
use super::{Attended, AttentionGradients, AttentionShape, Backend, Rows};
use crate::error::Result;
use crate::random::{Purpose, Stream};
use crate::tokens::PackedBatch;

/// A weight and a bias, or what belongs to each: gradients, moments, names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair<T> {
    /// Of a linear layer `[outputs, inputs]`, of a normalisation `[E]`.
    pub weight: T,
    /// `[outputs]`, `[E]`.
    pub bias: T,
}

/// The embedding tables, or their gradients.
#[derive(Clone, Copy, Debug)]
pub struct Tables<T> {
    /// `[V, E]`
    pub word: T,
    /// `[P, E]`
    pub position: T,
    /// `[types, E]`
    pub token_type: Option<T>,
    /// `[task types, E]`, of which every token gets row 0.
    pub task: Option<T>,
}

/// Terms whose slopes wait in memory at a time.
const TERMS: usize = 256;

/// Which numbers a place of the network drops in a pass: a function of the seed, the place, the epoch, the record, and
/// the number's own place in it, so that a record loses the same numbers in whatever batch and on whatever device.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    stream: Stream,
    /// A draw of sixteen bits below this is dropped.
    threshold: u32,
    /// What is kept is multiplied by this: the inverse of the share kept.
    scale: f32,
    site: u32,
    records: &'a [u32],
}

impl<'a> Dropout<'a> {
    /// At `rate` (to the nearest 2⁻¹⁶; `None` where that is zero), for a batch of these records. `site` is unique to
    /// the place and epoch.
    pub fn new(seed: u64, rate: f64, site: u32, records: &'a [u32]) -> Option<Self> {
        let threshold = (rate * 65536.0).round() as u32;
        let scale = (65536.0 / (65536.0 - f64::from(threshold))) as f32;
        let stream = Stream::new(seed, Purpose::Dropout);
        (threshold > 0 && threshold < 65536).then_some(Self { stream, threshold, scale, site, records })
    }

    /// What row `row` of sequence `sequence` is multiplied by: zero or the scale, each.
    pub fn factors(&self, out: &mut [f32], sequence: usize, row: u32) {
        self.factors_by(Isa::best(), out, sequence, row);
    }

    fn factors_by(&self, isa: Isa, out: &mut [f32], sequence: usize, row: u32) {
        isa.run(Drawing { dropout: self, out, row, record: self.records[sequence] });
    }

    /// What every draw is keyed by.
    pub(super) fn key(&self) -> [u32; 2] {
        self.stream.key()
    }

    /// The place and the epoch.
    pub(super) fn site(&self) -> u32 {
        self.site
    }

    /// A draw below this is dropped.
    pub(super) fn threshold(&self) -> u32 {
        self.threshold
    }

    /// What is kept is multiplied by this.
    pub(super) fn scale(&self) -> f32 {
        self.scale
    }

    /// The number of each sequence's record, `[B]`.
    pub(super) fn records(&self) -> &'a [u32] {
        self.records
    }

    /// The row number of a query's attention weights in a head.
    pub fn attention_row(head: usize, query: usize) -> u32 {
        (head << 16 | query) as u32
    }
}

/// The factors of a row: eight are of a block of draws, two of each word, the lower half first.
struct Drawing<'a> {
    dropout: &'a Dropout<'a>,
    out: &'a mut [f32],
    row: u32,
    record: u32,
}

impl Kernel for Drawing<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        const TOGETHER: usize = 8 * LANES;
        let Self { dropout, out, row, record } = self;
        let mut drawn = [0.0; TOGETHER];
        for (number, out) in out.chunks_mut(TOGETHER).enumerate() {
            let words = dropout.stream.sixteen_blocks([(number * LANES) as u32, row, record, dropout.site]);
            for block in 0..LANES {
                for i in 0..8 {
                    let draw = (words[i / 2][block] >> (16 * (i % 2))) & 0xFFFF;
                    drawn[8 * block + i] = if draw < dropout.threshold { 0.0 } else { dropout.scale };
                }
            }
            out.copy_from_slice(&drawn[..out.len()]);
        }
    }
}

/// One step of AdamW (Loshchilov & Hutter 2019, *Decoupled Weight Decay Regularization*, algorithm 2), as PyTorch
/// computes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// η, the schedule's factor in it.
    pub rate: f64,
    /// λ; zero for biases and normalisations.
    pub decay: f64,
    /// β₁, β₂
    pub betas: [f64; 2],
    /// ε
    pub epsilon: f64,
    /// Which step it is, from 1.
    pub number: u64,
    /// What the gradient is multiplied by first: clipping.
    pub scale: f64,
}

impl AdamStep {
    /// `1 − β₁ᵗ` and `√(1 − β₂ᵗ)`.
    pub fn corrections(&self) -> [f64; 2] {
        let [first, second] = self.betas.map(|beta| 1.0 - beta.powf(self.number as f64));
        [first, second.sqrt()]
    }

    /// As devices compute with it.
    pub(super) fn rounded(&self) -> RoundedStep {
        let [mean, deviation] = self.corrections();
        RoundedStep {
            kept: (1.0 - self.rate * self.decay) as f32,
            rate: (self.rate / mean) as f32,
            betas: self.betas.map(|beta| beta as f32),
            rests: self.betas.map(|beta| (1.0 - beta) as f32),
            deviation: deviation as f32,
            epsilon: self.epsilon as f32,
            scale: self.scale as f32,
        }
    }
}

/// What is the same for every number of a step, rounded once.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundedStep {
    /// `1 − ηλ`
    pub(super) kept: f32,
    /// `η / (1 − β₁ᵗ)`
    pub(super) rate: f32,
    pub(super) betas: [f32; 2],
    /// `1 − β`, rounded after the subtraction.
    pub(super) rests: [f32; 2],
    /// `√(1 − β₂ᵗ)`
    pub(super) deviation: f32,
    pub(super) epsilon: f32,
    pub(super) scale: f32,
}

/// A device that trains. Its operations are shared out among its workers: one batch at a time.
#[allow(clippy::missing_errors_doc)] // as for [`Backend`]
pub trait Training: Backend {
    /// Numbers in f64 on the device.
    type Sums: Send + Sync;
    /// A sparse projection, as the device applies it.
    type Sketch: Send + Sync;

    /// All numbers zero.
    fn clear(&self, tensor: &mut Self::Tensor) -> Result<()>;

    /// `sum [len] += x [len]`
    fn add(&self, sum: &mut Self::Tensor, x: &Self::Tensor, len: usize) -> Result<()>;

    /// Packs outputs `outputs` of `weight [.., inputs]` and `bias [..]` again, where an earlier packing of them is.
    fn repack_linear(
        &self,
        linear: &mut Self::Linear,
        parameters: Pair<&Self::Tensor>,
        outputs: std::ops::Range<usize>,
        inputs: usize,
    ) -> Result<()>;

    /// `out [len] = x [len]`
    fn copy(&self, out: &mut Self::Tensor, x: &Self::Tensor, len: usize) -> Result<()>;

    /// `out [T, E] = word[id] + position[pos] + token_type[type] + task[0]`: the embedding stage before its
    /// normalisation.
    fn embed_sum(
        &self,
        out: &mut Self::Tensor,
        tables: Tables<&Self::Tensor>,
        batch: &Self::Batch,
        width: usize,
    ) -> Result<()>;

    /// Adds each token's row of `d_sum [T, E]` to the gradients of the rows it is the sum of.
    fn embed_sum_backward(
        &self,
        gradients: Tables<&mut Self::Tensor>,
        d_sum: &Self::Tensor,
        batch: &Self::Batch,
        width: usize,
    ) -> Result<()>;

    /// `dw [outputs, inputs] += dyᵀ x` and `db [outputs] += Σ dy`, of `dy [rows, outputs]` and `x [rows, inputs]`, from
    /// output `first` of the gradients on.
    fn linear_parameters_backward(
        &self,
        gradients: Pair<&mut Self::Tensor>,
        first: usize,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        passed: Passed<'_, Self>,
    ) -> Result<()>;

    /// For each sequence b, `out[b] += Σ_t dy_t x_tᵀ [outputs, inputs]` over its rows t of `dy [rows, outputs]` and `x
    /// [rows, inputs]`, in their order, at a place of row b of `out [B, stride]`, a buffer of [`Backend::results`]:
    /// [`Training::linear_parameters_backward`] of each sequence by itself.
    fn outer_products(
        &self,
        out: &mut Self::Tensor,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        products: Products<'_, Self>,
    ) -> Result<()>;

    /// A sparse projection to the device.
    fn pack_sketch(&self, sketch: Sketch) -> Result<Self::Sketch>;

    /// `out [rows, outputs] = S x` of rows of `x [rows, inputs]`, S a sparse projection.
    fn sketch(&self, out: &mut Self::Tensor, x: &Self::Tensor, sketch: &Self::Sketch, rows: usize) -> Result<()>;

    /// For each sequence b, `out[b] = [Σ_t dy_t ∘ x̂_t, Σ_t dy_t]` over its rows t of `dy [rows, E]` and the normalised
    /// rows x̂ of `x [rows, E]`, in a buffer of [`Backend::results`] `[B, 2, E]`:
    /// [`Training::layer_norm_parameters_backward`] of each sequence by itself.
    fn norm_products(
        &self,
        out: &mut Self::Tensor,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        products: NormProducts<'_, Self>,
    ) -> Result<()>;

    /// `out [T, width]`: of each token the row of `table [.., width]` that it names.
    fn look_up(
        &self,
        out: &mut Self::Tensor,
        table: &Self::Tensor,
        named: Named,
        batch: &Self::Batch,
        width: usize,
    ) -> Result<()>;

    /// `out [rows, n]`: of each row of gradients `x [rows, n]`, a buffer of [`Backend::results`], what AdamW would do
    /// by it.
    fn adapt(&self, out: &mut Self::Tensor, x: &Self::Tensor, step: AdaptedStep<'_, Self::Tensor>) -> Result<()>;

    /// These numbers.
    fn sums(&self, values: &[f64]) -> Result<Self::Sums>;

    /// What they have come to.
    fn read_sums(&self, sums: &Self::Sums) -> Result<Vec<f64>>;

    /// `sums [n] += x [n]`, of a buffer of [`Backend::results`].
    fn add_to_sums(&self, sums: &mut Self::Sums, x: &Self::Tensor) -> Result<()>;

    /// `sums [n] += Σ_r x_r²` in f64 over the rows of `x [rows, n]`, a buffer of [`Backend::results`], in their order.
    fn add_squares(&self, sums: &mut Self::Sums, x: &Self::Tensor, rows: usize) -> Result<()>;

    /// `Σ_i w_i x_ri²` in f64 of each row of `x [rows, n]`, a buffer of [`Backend::results`], by weights `[n]`.
    fn weighted_squares(&self, weights: &Self::Sums, x: &Self::Tensor, rows: usize) -> Result<Vec<f64>>;

    /// `dw [E] += Σ dy ∘ x̂` and `db [E] += Σ dy`, of `dy [rows, E]` and the normalised rows x̂ of `x [rows, E]`.
    fn layer_norm_parameters_backward(
        &self,
        gradients: Pair<&mut Self::Tensor>,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        epsilon: f32,
        shape: Shape,
    ) -> Result<()>;

    /// `out = x ∘ factors + residual`, one row a token ([`Rows::All`]) or a sequence, of `width` numbers.
    fn dropout(
        &self,
        out: &mut Self::Tensor,
        x: &Self::Tensor,
        residual: Option<&Self::Tensor>,
        dropout: &Dropout<'_>,
        place: Place<'_, Self>,
    ) -> Result<()>;

    /// [`Backend::attention`] with its weights dropped.
    fn attention_dropout(
        &self,
        out: &mut Self::Tensor,
        attended: &Attended<'_, Self>,
        dropout: &Dropout<'_>,
    ) -> Result<()>;

    /// [`Backend::attention_backward`] with the same weights dropped.
    fn attention_dropout_backward(
        &self,
        gradients: AttentionGradients<'_, Self::Tensor>,
        d_out: &Self::Tensor,
        attended: &Attended<'_, Self>,
        dropout: &Dropout<'_>,
    ) -> Result<()>;

    /// Adds the gradients of guides, one a sequence, to those of an attention of first tokens; `starts` are the
    /// sequences'. Gives back each one's loss, 0 where it has none.
    fn guide_attention(
        &self,
        gradients: AttentionGradients<'_, Self::Tensor>,
        attended: &Attended<'_, Self>,
        starts: &[u32],
        guides: &[Guide<'_>],
    ) -> Result<Vec<f64>> {
        let AttentionShape { heads, head_width, .. } = attended.shape;
        let (width, tokens) = (heads * head_width, starts.last().map_or(0, |end| *end as usize));
        let (mut queries, mut keys) = (vec![0.0_f32; guides.len() * width], vec![0.0_f32; tokens * 2 * width]);
        self.download(&mut queries, attended.q.tensor)?;
        self.download(&mut keys, attended.k.tensor)?;
        let (mut d_queries, mut d_keys) = (vec![0.0_f32; queries.len()], vec![0.0_f32; keys.len()]);
        let mut losses = vec![0.0; guides.len()];
        for (sequence, guide) in guides.iter().enumerate().filter(|(_, guide)| !guide.marked.is_empty()) {
            let (own, first) = (sequence * width, starts[sequence] as usize);
            losses[sequence] = guide.add_gradient(
                attended.shape,
                |e| f64::from(queries[own + e]),
                |token, e| f64::from(keys[(first + token) * 2 * width + e]),
                &mut |e, slope| d_queries[own + e] += slope as f32,
                &mut |token, e, slope| d_keys[(first + token) * 2 * width + e] += slope as f32,
            );
        }
        self.add(gradients.packed, &self.upload(&d_keys)?, d_keys.len())?;
        if let Some(query) = gradients.query {
            self.add(query, &self.upload(&d_queries)?, d_queries.len())?;
        }
        Ok(losses)
    }

    /// `dz [B, K]`: the gradient of each sequence's loss at its logits `z [B, K]`, times its share. Gives back the
    /// losses themselves.
    fn loss_gradient(
        &self,
        dz: &mut Self::Tensor,
        z: &Self::Tensor,
        losses: &[(Loss<'_>, f64)],
        classes: usize,
    ) -> Result<Vec<f64>>;

    /// `dz [len]`: the gradient of the sum of some losses at logits `z [len]`. Gives back the losses themselves.
    fn cross_entropies(
        &self,
        dz: &mut Self::Tensor,
        z: &Self::Tensor,
        len: usize,
        terms: &[CrossEntropy],
    ) -> Result<Vec<f64>> {
        cross_entropies(self, dz, z, len, terms)
    }

    /// Of each tensor the sum of the squares of its first numbers: each 4096 by themselves, those sums in f64 in their
    /// order.
    fn squared_norms(&self, tensors: &[(&Self::Tensor, usize)]) -> Result<Vec<f64>>;

    /// One step of AdamW of each parameter: its numbers and moments in place, and its gradient zeros.
    fn adam_steps(&self, parameters: Vec<Stepped<'_, Self::Tensor>>, step: &AdamStep) -> Result<()>;
}

/// [`Training::cross_entropies`] on the host, in f64.
pub(super) fn cross_entropies<B: Training>(
    backend: &B,
    dz: &mut B::Tensor,
    z: &B::Tensor,
    len: usize,
    terms: &[CrossEntropy],
) -> Result<Vec<f64>> {
    let (mut logits, mut slopes) = (vec![0.0; len], vec![0.0_f32; len]);
    backend.download(&mut logits, z)?;
    let mut losses = Vec::with_capacity(terms.len());
    for terms in terms.chunks(TERMS) {
        let of = |term: &CrossEntropy| term.to_gradient(|place| f64::from(logits[place]));
        let found: Vec<(f64, Vec<f64>)> = terms.par_iter().map(of).collect();
        for (term, (loss, gradient)) in terms.iter().zip(found) {
            losses.push(loss);
            term.places(&gradient).for_each(|(place, slope)| slopes[place] += slope as f32);
        }
    }
    backend.copy(dz, &backend.upload(&slopes)?, len)?;
    Ok(losses)
}

/// A parameter in a step.
pub struct Stepped<'a, T> {
    /// Its numbers.
    pub value: &'a mut T,
    /// Those of its gradient.
    pub moments: [&'a mut T; 2],
    /// Of the loss.
    pub gradient: &'a mut T,
    /// Whether decay is for it.
    pub decays: bool,
}

/// Rows that went through a layer, and its widths.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows.
    pub rows: usize,
    /// Numbers in each on the way in.
    pub inputs: usize,
    /// And on the way out.
    pub outputs: usize,
}

/// What went through a linear layer, and its widths.
pub struct Passed<'a, B: Backend> {
    /// The sequences.
    pub batch: &'a B::Batch,
    /// One row a token, or a sequence.
    pub rows: Rows,
    /// Numbers in a row on the way in.
    pub inputs: usize,
    /// And on the way out.
    pub outputs: usize,
}

/// Whose products are added up, and where they go.
pub struct Products<'a, B: Backend> {
    /// The sequences.
    pub batch: &'a B::Batch,
    /// One row a token, or a sequence.
    pub rows: Rows,
    /// Numbers in a row of x.
    pub inputs: usize,
    /// Numbers in a row of dy.
    pub outputs: usize,
    /// Numbers in a row of what is added to.
    pub stride: usize,
    /// The first of them that is added to.
    pub offset: usize,
}

/// Whose normalisation's gradients are added up.
pub struct NormProducts<'a, B: Backend> {
    /// The sequences.
    pub batch: &'a B::Batch,
    /// One row a token, or a sequence.
    pub rows: Rows,
    /// Added to the variance.
    pub epsilon: f32,
    /// E.
    pub width: usize,
}

/// Which number of a token names a row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Its id.
    Word,
    /// Its position.
    Position,
    /// Its segment.
    TokenType,
    /// None: every token has the first row.
    Task,
}

impl Named {
    /// The row that each token of a batch names.
    pub(crate) fn rows(self, batch: &PackedBatch) -> Option<&[u32]> {
        match self {
            Self::Word => Some(&batch.ids),
            Self::Position => Some(&batch.positions),
            Self::TokenType => Some(&batch.type_ids),
            Self::Task => None,
        }
    }
}

/// `u = (β₁ m + (1 − β₁) g) / √(β₂ v + ε + (1 − β₂) g²)`, a record's gradient g as AdamW follows it by the moments of a
/// training.
#[derive(Clone, Copy, Debug)]
pub struct AdaptedStep<'a, T> {
    /// `β₁ m`, `[n]`
    pub drift: &'a T,
    /// `β₂ v + ε`, `[n]`
    pub floor: &'a T,
    /// `1 − β₁` and `1 − β₂`
    pub rests: [f32; 2],
    /// What each row's gradient was multiplied by: a power of two, `[rows]`.
    pub scales: &'a [f32],
    /// n
    pub len: usize,
}

/// Which rows of which batch a dropout is of.
pub struct Place<'a, B: Backend> {
    /// The sequences.
    pub batch: &'a B::Batch,
    /// One row a token, or a sequence.
    pub rows: Rows,
    /// Numbers in a row.
    pub width: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_of_one_block_of_draws_after_another_on_every_instruction_set() {
        let dropout = Dropout::new(7, 0.25, 3, &[5, u32::MAX]).unwrap();
        for (length, sequence, row) in [(0, 0, 0), (1, 1, 9), (8, 0, 1), (127, 1, 2), (128, 0, 3), (300, 1, u32::MAX)] {
            let block = |number: usize| dropout.stream.block([number as u32, row, dropout.records[sequence], 3]);
            let expected = |i: usize| {
                let draw = block(i / 8)[i % 8 / 2] >> (16 * (i % 2)) & 0xFFFF;
                if draw < dropout.threshold { 0.0 } else { dropout.scale }
            };
            let expected: Vec<f32> = (0..length).map(expected).collect();
            for isa in Isa::all() {
                let mut found = vec![f32::NAN; length];
                dropout.factors_by(isa, &mut found, sequence, row);
                assert_eq!(found, expected, "{length} on {}", isa.name());
            }
        }
    }
}
