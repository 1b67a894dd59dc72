//! Where a probe stands between a baseline and its own embeddings.
//!
//! With x a token's embedding, x' its baseline's and n normal noise, the path runs from `x'` to `x + σn`, and the probe
//! stands at `(1 − α) x' + α (x + σn)`. Integrated gradients, gradient SHAP and smoothed gradients are all sums over
//! such points.

use crate::error::{Error, Result};
use crate::random::{Purpose, Stream, normal};

/// Which embedding a path moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// The row of the word table; position, segment and task are added afterwards, and stay the text's own.
    #[default]
    Word,
    /// The embedding stage's output, after its layer normalisation (and before any projection).
    Output,
}

/// The points of a batch's sequences on their paths.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Path {
    /// What is moved.
    pub stage: Stage,
    /// The baseline's token ids, `[T]`; [`Path::ZERO`] is a vector of zeros.
    pub baseline: Vec<u32>,
    /// α of each sequence, `[B]`.
    pub alpha: Vec<f32>,
    /// σ of each sequence, `[B]`.
    pub sigma: Vec<f32>,
    /// Which draw of noise: sample and record of each sequence, `[B]`.
    pub draws: Vec<[u32; 2]>,
    /// The seed of the noise.
    pub seed: u64,
}

impl Path {
    /// The baseline id of a zero embedding.
    pub const ZERO: u32 = u32::MAX;

    /// Refuses a path that is not one of a batch of `tokens` in `sequences`.
    ///
    /// # Errors
    /// [`Error::Usage`]
    pub fn check(&self, tokens: usize, sequences: usize) -> Result<()> {
        let lengths = [self.alpha.len(), self.sigma.len(), self.draws.len()];
        if self.baseline.len() != tokens || lengths != [sequences; 3] {
            return Err(Error::usage("path: expected a baseline for each token and a point for each sequence"));
        }
        Ok(())
    }

    /// Fills `noise` with the `σn` of a token's embedding: `token` counts from the sequence's own first.
    pub fn draw_noise(&self, noise: &mut [f32], sequence: usize, token: usize) {
        let sigma = self.sigma[sequence];
        if sigma == 0.0 {
            return noise.fill(0.0);
        }
        let [sample, record] = self.draws[sequence];
        let stream = Stream::new(self.seed, Purpose::EmbeddingNoise);
        for (block, four) in noise.chunks_mut(4).enumerate() {
            let words = stream.block([block as u32, token as u32, sample, record]);
            four.iter_mut().zip(words).for_each(|(x, word)| *x = sigma * normal(word));
        }
    }
}
