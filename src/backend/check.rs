//! Every operation of a device against [`Reference`], on drawn inputs: what `doctor` runs on the user's own machine.

use super::reference::Reference;
use super::{Activation, AttentionShape, Backend, Columns, Embeddings, Norm, Pooling, Rows};
use crate::error::Result;
use crate::tokens::PackedBatch;

/// One operation's outcome.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Check {
    /// The operation.
    pub operation: String,
    /// The largest difference from the reference, over the reference's largest magnitude.
    pub error: f64,
    /// What rounding alone can explain: f32's unit roundoff × the operation's longest sum.
    pub bound: f64,
}

impl Check {
    /// Whether rounding explains the error.
    pub fn passed(&self) -> bool {
        self.error <= self.bound
    }
}

/// Sequence lengths: one token, odd, a multiple of everything, long.
const LENGTHS: [usize; 4] = [1, 37, 64, 200];
/// E: no multiple of a vector's width.
const WIDTH: usize = 90;
/// H
const HEADS: usize = 6;
/// F
const INNER: usize = 200;

/// Runs every operation on `backend` and on the reference.
///
/// # Errors
/// Where the device fails.
pub fn check<B: Backend>(backend: &B) -> Result<Vec<Check>> {
    let (found, expected) = (outcomes(backend)?, outcomes(&Reference)?);
    Ok(found.into_iter().zip(expected).map(|(found, expected)| compare(&found, &expected)).collect())
}

struct Outcome {
    operation: String,
    values: Vec<f32>,
    /// Terms in the longest sum behind a value.
    depth: usize,
}

fn compare(found: &Outcome, expected: &Outcome) -> Check {
    let pairs = || found.values.iter().zip(&expected.values).map(|(&f, &e)| (f64::from(f), f64::from(e)));
    let scale = pairs().fold(f64::MIN_POSITIVE, |most, (_, e)| most.max(e.abs()));
    let error = pairs().fold(0.0, |most: f64, (f, e)| if f.is_nan() { f64::INFINITY } else { most.max((f - e).abs()) });
    // Half an ulp a rounding, and as many for the reference's own rounding to f32.
    let bound = f64::from(f32::EPSILON) * (found.depth as f64 + 1.0);
    Check { operation: found.operation.clone(), error: error / scale, bound }
}

fn outcomes<B: Backend>(backend: &B) -> Result<Vec<Outcome>> {
    let batch = drawn_batch();
    let (tokens, sequences) = (batch.tokens(), batch.sequences());
    let staged = backend.stage(batch)?;
    let mut outcomes = Vec::new();
    let mut keep = |operation: String, out: &B::Tensor, len: usize, depth: usize| -> Result<()> {
        let mut values = vec![0.0; len];
        backend.download(&mut values, out)?;
        outcomes.push(Outcome { operation, values, depth });
        Ok(())
    };

    let mut out = backend.tensor(tokens * WIDTH)?;
    backend.embed(&mut out, &embeddings(backend)?, &staged)?;
    keep("embed".into(), &out, tokens * WIDTH, WIDTH)?;

    let x = drawn(backend, tokens * WIDTH, 1)?;
    backend.layer_norm(&mut out, &x, &norm(backend)?, tokens)?;
    keep("layer_norm".into(), &out, tokens * WIDTH, WIDTH)?;

    let weights = backend.pack_linear(&numbers(WIDTH * INNER, 2), &numbers(INNER, 3), WIDTH, INNER)?;
    let residual = drawn(backend, tokens * INNER, 4)?;
    for activation in ACTIVATIONS {
        let mut out = backend.tensor(tokens * INNER)?;
        backend.linear(&mut out, &x, &weights, activation, Some(&residual), tokens)?;
        keep(format!("linear ({activation:?})"), &out, tokens * INNER, WIDTH)?;
    }

    let qkv = drawn(backend, tokens * 3 * WIDTH, 5)?;
    let view = |part: usize| Columns { tensor: &qkv, stride: 3 * WIDTH, offset: part * WIDTH };
    for (queries, rows) in [(Rows::All, tokens), (Rows::First, sequences)] {
        let shape = AttentionShape { heads: HEADS, head_width: WIDTH / HEADS, queries };
        let mut out = backend.tensor(rows * WIDTH)?;
        backend.attention(&mut out, view(0), view(1), view(2), &staged, shape)?;
        keep(format!("attention ({queries:?})"), &out, rows * WIDTH, LENGTHS[LENGTHS.len() - 1] + WIDTH / HEADS)?;
    }

    for pooling in [Pooling::First, Pooling::Mean, Pooling::Max, Pooling::MeanSqrtLength] {
        let mut out = backend.tensor(sequences * WIDTH)?;
        backend.pool(&mut out, &x, &staged, pooling, WIDTH)?;
        keep(format!("pool ({pooling:?})"), &out, sequences * WIDTH, LENGTHS[LENGTHS.len() - 1])?;
    }
    Ok(outcomes)
}

const ACTIVATIONS: [Activation; 7] = [
    Activation::Identity,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::Silu,
    Activation::Tanh,
];

const VOCABULARY: usize = 50;

fn drawn_batch() -> PackedBatch {
    let mut batch = PackedBatch { cu_seqlens: vec![0], ..PackedBatch::default() };
    for length in LENGTHS {
        for position in 0..length {
            batch.ids.push((batch.ids.len() * 7 % VOCABULARY) as u32);
            batch.type_ids.push(u32::from(position > length / 2));
            batch.positions.push(position as u32);
        }
        batch.cu_seqlens.push(batch.ids.len() as u32);
    }
    batch
}

fn embeddings<B: Backend>(backend: &B) -> Result<Embeddings<B>> {
    Ok(Embeddings {
        word: drawn(backend, VOCABULARY * WIDTH, 6)?,
        position: Some(drawn(backend, LENGTHS[LENGTHS.len() - 1] * WIDTH, 7)?),
        token_type: Some(drawn(backend, 2 * WIDTH, 8)?),
        task: Some(drawn(backend, WIDTH, 9)?),
        norm: norm(backend)?,
    })
}

fn norm<B: Backend>(backend: &B) -> Result<Norm<B>> {
    let (weight, bias) = (drawn(backend, WIDTH, 10)?, drawn(backend, WIDTH, 11)?);
    Ok(Norm { weight, bias, epsilon: 1e-12, width: WIDTH })
}

fn drawn<B: Backend>(backend: &B, len: usize, stream: u64) -> Result<B::Tensor> {
    backend.upload(&numbers(len, stream))
}

/// Numbers in [−1, 1) that depend on their place and stream alone (SplitMix64, Steele et al. 2014).
fn numbers(len: usize, stream: u64) -> Vec<f32> {
    let mix = |i: usize| {
        let mut z = (stream << 32 | i as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (0..len).map(|i| (mix(i) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}
