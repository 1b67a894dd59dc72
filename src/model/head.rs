//! From hidden states to features and logits: a family's classification head, a sentence model's pooling, or a head
//! over tokens.

use super::config::Config;
use super::encoder::{Back, Pass, Workspace};
use super::sentence::SentenceModel;
use super::token_head::{Picks, Said, Seeds, TokenHead};
use super::weights::{Linear, Weights};
use super::{Outputs, Reads};
use crate::backend::{Activation, Backend, Objective, Pooling, Rows};
use crate::error::{Error, Result};
use crate::factors;
use crate::tokens::PackedBatch;

/// What stands on the encoder.
pub(super) enum Head<B: Backend> {
    /// `h = activation(dense(x₀))`, `z = last(h)`, x₀ the first token's hidden state.
    Classifier(Classifier<B>),
    /// `h = pooling(x)`, its length made 1 where asked.
    Sentence(SentenceModel),
    /// One row of logits for each token that is read.
    Tokens(TokenHead<B>),
}

/// A classification head on a device.
pub(super) struct Classifier<B: Backend> {
    /// `[E, E]`
    dense: B::Linear,
    activation: Activation,
    /// `[K, E]`
    last: B::Linear,
    classes: usize,
}

impl<B: Backend> Head<B> {
    /// The family's classification head, and its last layer as the host keeps it.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub(super) fn load(backend: &B, weights: &Weights, config: &Config) -> Result<(Self, factors::Head)> {
        let (names, width) = (config.family.head_names(), config.width);
        let classes = weights.rows(names.last)?;
        let dense = weights.linear(names.dense, width, width)?;
        let Linear { weight, bias } = weights.linear(names.last, width, classes)?;
        let classifier = Classifier {
            dense: backend.pack_linear(&dense.weight, &dense.bias, width, width)?,
            activation: names.activation,
            last: backend.pack_linear(&weight, &bias, width, classes)?,
            classes,
        };
        let host = factors::Head { weight: weight.into_owned(), bias: bias.into_owned() };
        Ok((Self::Classifier(classifier), host))
    }

    /// Which of the encoder's last hidden states it reads.
    pub(super) fn rows(&self) -> Rows {
        match self {
            Self::Classifier(_) | Self::Sentence(SentenceModel { pooling: Pooling::First, .. }) => Rows::First,
            Self::Sentence(_) | Self::Tokens(_) => Rows::All,
        }
    }

    /// K.
    pub(super) fn classes(&self) -> usize {
        match self {
            Self::Classifier(classifier) => classifier.classes,
            Self::Sentence(_) => 0,
            Self::Tokens(head) => head.classes(),
        }
    }

    /// K of the logits that a workspace keeps: a row a sequence. A head over tokens has its own, as many rows as are
    /// read.
    pub(super) fn kept_classes(&self) -> usize {
        if matches!(self, Self::Tokens(_)) { 0 } else { self.classes() }
    }

    /// The width of its features, where that is not the encoder's.
    pub(super) fn width(&self) -> Option<usize> {
        if let Self::Tokens(head) = self { Some(head.width()) } else { None }
    }

    /// Which tokens of a batch are read; none for heads that have one row a sequence.
    ///
    /// # Errors
    /// [`Error::Usage`] where a head is asked for what it does not say.
    pub(super) fn picks(&self, batch: &PackedBatch, reads: &[Reads]) -> Result<Picks> {
        let expected = if matches!(self, Self::Tokens(_)) { batch.sequences() } else { 0 };
        if reads.len() == expected {
            return Ok(Picks::new(batch, reads));
        }
        Err(Error::usage(if expected == 0 {
            "this model says something of a text as a whole, and was asked about its tokens"
        } else {
            "this model says something of tokens (answers, tags or masks), and was asked about a text as a whole"
        }))
    }

    /// From the gradient of each sequence's objective at its logits to that of the hidden states the head read, in
    /// `hidden`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model without logits.
    pub(super) fn backward(&self, pass: &mut Pass<'_, B>, said: &Said<B>, objectives: &[Objective]) -> Result<Seeds> {
        match self {
            Self::Classifier(classifier) => classifier.backward(pass, objectives).map(|()| Seeds::default()),
            Self::Tokens(head) => head.backward(pass, said, objectives),
            Self::Sentence(_) => {
                Err(Error::usage("this model has no classification head: there are no logits to explain"))
            }
        }
    }

    /// Features and logits, from the hidden states the encoder left.
    pub(super) fn forward(&self, pass: &mut Pass<'_, B>, width: usize, picks: Picks) -> Result<Said<B>> {
        let outputs = match self {
            Self::Classifier(classifier) => classifier.forward(pass, width)?,
            Self::Sentence(model) => sentence(*model, pass, width)?,
            Self::Tokens(head) => return head.forward(pass, picks),
        };
        Ok(Said { outputs, picks, kept: None })
    }
}

impl<B: Backend> Classifier<B> {
    fn forward(&self, pass: &mut Pass<'_, B>, width: usize) -> Result<Outputs> {
        let Pass { backend, sequences, keep, .. } = *pass;
        let Workspace { hidden, sum, logits, back, .. } = pass.space;
        let mut outputs =
            Outputs { features: vec![0.0; sequences * width], logits: vec![0.0; sequences * self.classes] };
        match back {
            Some(back) if keep => {
                backend.linear_with_slope(sum, &mut back.head, hidden, &self.dense, self.activation, sequences)?;
            }
            _ => backend.linear(sum, hidden, &self.dense, self.activation, None, sequences)?,
        }
        backend.linear(logits, sum, &self.last, Activation::Identity, None, sequences)?;
        backend.download_all(&mut [(&mut outputs.features, sum), (&mut outputs.logits, logits)])?;
        Ok(outputs)
    }
}

impl<B: Backend> Classifier<B> {
    /// The gradient of each sequence's objective, from the logits to the hidden states the head read: `[B, E]`, in
    /// `hidden`.
    fn backward(&self, pass: &mut Pass<'_, B>, objectives: &[Objective]) -> Result<()> {
        let Pass { backend, batch, sequences, .. } = *pass;
        let Workspace { hidden, sum, logits, back, .. } = pass.space;
        let Some(Back { head, logits: gradient, .. }) = back else {
            return Err(Error::usage("a way back needs a forward pass that kept what it computed"));
        };
        backend.objective_gradient(gradient, logits, objectives, batch, self.classes)?;
        backend.linear_backward(sum, gradient, &self.last, Some(head), None, sequences)?;
        backend.linear_backward(hidden, sum, &self.dense, None, None, sequences)
    }
}

fn sentence<B: Backend>(model: SentenceModel, pass: &mut Pass<'_, B>, width: usize) -> Result<Outputs> {
    let Pass { backend, batch, sequences, .. } = *pass;
    let Workspace { hidden, sum, .. } = pass.space;
    let mut features = vec![0.0; sequences * width];
    if model.pooling == Pooling::First {
        // The encoder has left these rows and no others.
        backend.download(&mut features, hidden)?;
    } else {
        backend.pool(sum, hidden, batch, model.pooling, width)?;
        backend.download(&mut features, sum)?;
    }
    if model.normalize {
        features.chunks_exact_mut(width).for_each(normalize);
    }
    Ok(Outputs { features, logits: Vec::new() })
}

/// `x / max(‖x‖, 10⁻¹²)`, the norm in f64 and each quotient rounded once.
fn normalize(row: &mut [f32]) {
    let square: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let norm = square.sqrt().max(1e-12);
    for x in row {
        *x = (f64::from(*x) / norm) as f32;
    }
}
