//! Heads that say something of tokens: where an answer starts and ends, what each token is, which piece a mask hides.
//!
//! ```text
//! z_t = last(x_t)                                      answer spans, tags
//! z_t = last(LN(activation(dense(x_t))))               masked tokens; last is the word embeddings, with a bias
//! ```
//!
//! Their logits are computed for the tokens that are read ([`super::Reads`]), and what is asked of a sequence's is a
//! function of all its rows, so that its gradient begins on the host.

use super::config::Config;
use super::encoder::{Pass, Workspace};
use super::families::MaskHeadNames;
use super::weights::{Linear, Weights};
use super::{Outputs, Reads, Task};
use crate::backend::{Activation, Backend, Norm, Objective};
use crate::error::{Error, Result};
use crate::factors;
use crate::tokens::PackedBatch;

/// A head over tokens on a device.
pub(super) struct TokenHead<B: Backend> {
    transform: Option<Transform<B>>,
    /// `[K, E']`
    last: B::Linear,
    /// E': of what `last` reads.
    width: usize,
    classes: usize,
}

/// What stands before a masked-language model's last layer.
struct Transform<B: Backend> {
    /// `[E', E]`
    dense: B::Linear,
    activation: Activation,
    norm: Norm<B>,
    /// `[E', E']`, the identity: a linear layer's backward is the one operation that multiplies by a slope.
    identity: B::Linear,
}

/// Rows of a batch's tokens that are read.
#[derive(Debug, Default)]
pub(super) struct Picks {
    /// Among the tokens of the batch, ascending.
    rows: Vec<usize>,
    /// Where each sequence's end, `[B]`.
    ends: Vec<usize>,
    /// How many tokens each sequence has, `[B]`.
    lengths: Vec<usize>,
}

/// What a head said of a batch, and what its way back reads.
pub(super) struct Said<B: Backend> {
    pub(super) outputs: Outputs,
    pub(super) picks: Picks,
    /// `[T, E']`, the transform's activations and their slopes.
    pub(super) kept: Option<[B::Tensor; 2]>,
}

/// The power of two that each sequence's gradient was multiplied by where it began, and how many tokens the sequence
/// has; none where the device did that, and divides by it.
#[derive(Debug, Default)]
pub(super) struct Seeds(Vec<(f32, usize)>);

impl Picks {
    pub(super) fn new(batch: &PackedBatch, reads: &[Reads]) -> Self {
        let mut picks = Self::default();
        for (sequence, reads) in reads.iter().enumerate() {
            let tokens = batch.range(sequence);
            picks.rows.extend(reads.iter().map(|&token| tokens.start + token as usize));
            picks.ends.push(picks.rows.len());
            picks.lengths.push(tokens.len());
        }
        picks
    }

    /// The picked rows of `all [T, width]`.
    fn of(&self, all: &[f32], width: usize) -> Vec<f32> {
        self.rows.iter().flat_map(|row| &all[row * width..(row + 1) * width]).copied().collect()
    }

    /// `[tokens, width]` of zeros, and `picked` in its places.
    fn scattered(&self, picked: &[f32], tokens: usize, width: usize) -> Vec<f32> {
        let mut all = vec![0.0; tokens * width];
        for (row, values) in self.rows.iter().zip(picked.chunks_exact(width)) {
            all[row * width..(row + 1) * width].copy_from_slice(values);
        }
        all
    }

    /// Each sequence's gradient at its logits, `[n, classes]` for all, its largest number brought to [`SEED`] by a
    /// power of two.
    fn gradient(&self, logits: &[f32], objectives: &[Objective], classes: usize) -> (Vec<f32>, Seeds) {
        let (mut gradient, mut seeds, mut start) = (Vec::with_capacity(logits.len()), Seeds::default(), 0);
        for ((objective, &end), &length) in objectives.iter().zip(&self.ends).zip(&self.lengths) {
            let z: Vec<f64> = logits[start * classes..end * classes].iter().map(|&z| f64::from(z)).collect();
            let slopes = objective.gradient(&z);
            let scale = scale_for(slopes.iter().fold(0.0, |most, slope| slope.abs().max(most)));
            gradient.extend(slopes.iter().map(|slope| (slope * scale) as f32));
            seeds.0.push((scale as f32, length));
            start = end;
        }
        (gradient, seeds)
    }
}

/// What gradients begin at, the largest of each record's: f16 holds a thousand times as much, and 2⁻³⁰ of it.
const SEED: f64 = 64.0;

/// The power of two that brings `size` to `[SEED, 2 SEED)`; 1 where there is nothing to scale.
pub(super) fn scale_for(size: f64) -> f64 {
    if size > 0.0 && size.is_finite() { (SEED / size).log2().ceil().clamp(-100.0, 100.0).exp2() } else { 1.0 }
}

impl Seeds {
    /// What a sequence's gradient is larger by.
    pub(super) fn scale(&self, sequence: usize) -> f32 {
        self.0.get(sequence).map_or(1.0, |(scale, _)| *scale)
    }

    /// Takes the scales off what came of each token, `values [T, width]`.
    pub(super) fn divide(&self, mut values: &mut [f32]) {
        let tokens = self.0.iter().map(|(_, length)| length).sum::<usize>().max(1);
        let width = values.len() / tokens;
        for &(scale, length) in &self.0 {
            let (own, rest) = values.split_at_mut(length * width);
            for value in own {
                *value /= scale;
            }
            values = rest;
        }
    }
}

impl<B: Backend> TokenHead<B> {
    /// The head of a task, and its last layer as the host keeps it where that is small.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub(super) fn load(
        backend: &B,
        weights: &Weights,
        config: &Config,
        task: Task,
    ) -> Result<(Self, Option<factors::Head>)> {
        if task == Task::Masks {
            return Ok((Self::of_masks(backend, weights, config)?, None));
        }
        let name = last_layer(task);
        let (width, classes) = (config.width, weights.rows(name)?);
        if task == Task::Spans && classes != 2 {
            return Err(Error::usage(format!(
                "{name}: expected two outputs, an answer's start and end, found {classes}"
            )));
        }
        let Linear { weight, bias } = weights.linear(name, width, classes)?;
        let last = backend.pack_linear(&weight, &bias, width, classes)?;
        let host = factors::Head { weight: weight.into_owned(), bias: bias.into_owned() };
        Ok((Self { transform: None, last, width, classes }, Some(host)))
    }

    fn of_masks(backend: &B, weights: &Weights, config: &Config) -> Result<Self> {
        let names = config.family.mask_head_names();
        let MaskHeadNames { dense, activation, norm, decoder, .. } = *names;
        let Config { width: inputs, embedding_width: width, vocabulary: classes, .. } = *config;
        let tied = config.tied.then(|| config.family.tensor_names().word.to_owned());
        let words = tied.unwrap_or_else(|| format!("{decoder}.weight"));
        let [own, other] = names.biases(config.tied);
        let bias = if weights.contains(&own) { own } else { other };
        let (words, bias) = (weights.tensor(&words, &[classes, width])?, weights.tensor(&bias, &[classes])?);
        let norm = |part: &str| backend.upload(&weights.tensor(&format!("{norm}.{part}"), &[width])?);
        let mut identity = vec![0.0; width * width];
        identity.iter_mut().step_by(width + 1).for_each(|one| *one = 1.0);
        let Linear { weight, bias: offset } = weights.linear(dense, inputs, width)?;
        let transform = Transform {
            dense: backend.pack_linear(&weight, &offset, inputs, width)?,
            activation: activation.unwrap_or(config.activation),
            norm: Norm { weight: norm("weight")?, bias: norm("bias")?, epsilon: config.epsilon, width },
            identity: backend.pack_linear(&identity, &vec![0.0; width], width, width)?,
        };
        let last = backend.pack_linear(&words, &bias, width, classes)?;
        Ok(Self { transform: Some(transform), last, width, classes })
    }

    /// E'.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// K.
    pub(super) fn classes(&self) -> usize {
        self.classes
    }

    /// Features (where there will be no way back) and logits of the tokens that are read.
    pub(super) fn forward(&self, pass: &mut Pass<'_, B>, picks: Picks) -> Result<Said<B>> {
        let Pass { backend, tokens, keep, .. } = *pass;
        let hidden = &pass.space.hidden;
        let transformed = self.transform.as_ref().map(|transform| transform.forward(pass, self.width)).transpose()?;
        let states = transformed.as_ref().map_or(hidden, |(states, _)| states);
        let (rows, every) = (picks.rows.len(), picks.rows.len() == tokens);
        let mut features = Vec::new();
        if !(every && keep) {
            let mut all = vec![0.0; tokens * self.width];
            backend.download(&mut all, states)?;
            features = picks.of(&all, self.width);
        }
        let (mut z, mut logits) = (backend.tensor(rows * self.classes)?, vec![0.0; rows * self.classes]);
        if every {
            backend.linear(&mut z, states, &self.last, Activation::Identity, None, rows)?;
        } else {
            backend.linear(&mut z, &backend.upload(&features)?, &self.last, Activation::Identity, None, rows)?;
        }
        backend.download(&mut logits, &z)?;
        let kept = transformed.and_then(|(_, kept)| kept);
        Ok(Said { outputs: Outputs { features, logits }, picks, kept })
    }

    /// The gradient of each sequence's objective at every token's hidden state, in `hidden`: zero but for those that
    /// were read.
    pub(super) fn backward(&self, pass: &mut Pass<'_, B>, said: &Said<B>, objectives: &[Objective]) -> Result<Seeds> {
        let Pass { backend, tokens, .. } = *pass;
        let Workspace { hidden, .. } = pass.space;
        let Said { outputs, picks, kept } = said;
        let (gradient, seeds) = picks.gradient(&outputs.logits, objectives, self.classes);
        match (&self.transform, kept) {
            (None, _) => {
                let dz = backend.upload(&picks.scattered(&gradient, tokens, self.classes))?;
                backend.linear_backward(hidden, &dz, &self.last, None, None, tokens)?;
            }
            (Some(transform), Some([dense, slope])) => {
                let rows = picks.rows.len();
                let (dz, mut read) = (backend.upload(&gradient)?, backend.tensor(rows * self.width)?);
                backend.linear_backward(&mut read, &dz, &self.last, None, None, rows)?;
                let mut values = vec![0.0; rows * self.width];
                backend.download(&mut values, &read)?;
                let all = backend.upload(&picks.scattered(&values, tokens, self.width))?;
                let (mut sums, mut past) = (backend.tensor(tokens * self.width)?, backend.tensor(tokens * self.width)?);
                backend.layer_norm_backward(&mut past, &all, dense, &transform.norm, tokens)?;
                backend.linear_backward(&mut sums, &past, &transform.identity, Some(slope), None, tokens)?;
                backend.linear_backward(hidden, &sums, &transform.dense, None, None, tokens)?;
            }
            (Some(_), None) => return Err(Error::usage("a way back needs a forward pass that kept what it computed")),
        }
        Ok(seeds)
    }
}

/// Normalised states of every token, and what their backward reads.
type Transformed<T> = (T, Option<[T; 2]>);

impl<B: Backend> Transform<B> {
    fn forward(&self, pass: &Pass<'_, B>, width: usize) -> Result<Transformed<B::Tensor>> {
        let Pass { backend, tokens, keep, .. } = *pass;
        let hidden = &pass.space.hidden;
        let (mut dense, mut states) = (backend.tensor(tokens * width)?, backend.tensor(tokens * width)?);
        let slope = if keep {
            let mut slope = backend.tensor(tokens * width)?;
            backend.linear_with_slope(&mut dense, &mut slope, hidden, &self.dense, self.activation, tokens)?;
            Some(slope)
        } else {
            backend.linear(&mut dense, hidden, &self.dense, self.activation, None, tokens)?;
            None
        };
        backend.layer_norm(&mut states, &dense, &self.norm, tokens)?;
        Ok((states, slope.map(|slope| [dense, slope])))
    }
}

/// What the last layer of a task's head is called, in every family.
pub(super) const fn last_layer(task: Task) -> &'static str {
    match task {
        Task::Spans => "qa_outputs",
        Task::Tags | Task::Record | Task::Masks => "classifier",
    }
}
