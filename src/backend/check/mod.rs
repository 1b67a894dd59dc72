//! Every operation of a device against [`Reference`](type@Reference), on drawn inputs: what `doctor` runs on the user's
//! own machine.

mod gradients;
mod training;

pub use gradients::check_gradients;
pub use training::check_training;

use super::reference::Reference;
use super::{
    Activation, Attended, AttentionGradients, AttentionMap, AttentionShape, Backend, Columns, Embeddings, Fold, Norm,
    Objective, Path, Pooling, Rows, Stage, Step,
};
use crate::error::Result;
use crate::tokens::{Masked, PackedBatch};

/// One operation's outcome.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Check {
    /// The operation.
    pub operation: String,
    /// The largest difference from the reference, over the reference's largest magnitude.
    pub error: f64,
    /// What rounding alone can explain: the unit of the device's precision × the operation's longest sum.
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
/// T
const TOKENS: usize = LENGTHS[0] + LENGTHS[1] + LENGTHS[2] + LENGTHS[3];
/// E: no multiple of a vector's width.
const WIDTH: usize = 90;
/// E of most models, which devices hold otherwise.
const USUAL_WIDTHS: [usize; 3] = [384, 768, 1024];
/// H
const HEADS: usize = 6;
/// F
const INNER: usize = 200;
/// K
const CLASSES: usize = 3;

/// A layer of whole vectors, in rows beyond a tile.
const ROWS: usize = 130;
const INPUTS: usize = 512;
const OUTPUTS: usize = 264;

/// Runs every operation on `backend` and on the reference, and some one behind the other.
///
/// # Errors
/// Where the device fails.
pub fn check<B: Backend>(backend: &B) -> Result<Vec<Check>> {
    let (found, expected) = (outcomes(backend)?, outcomes(&Reference)?);
    let unit = backend.precision().unit();
    let compared = found.into_iter().zip(expected).map(|(found, expected)| compare(&found, &expected, unit));
    Ok(compared.chain([in_sequence(backend)?]).collect())
}

/// Operations that read and write over what the ones before have just written, nothing waited for in between, against
/// the same with each waited for: a device may begin one while another is at work, and the bits are to be the same.
fn in_sequence<B: Backend>(backend: &B) -> Result<Check> {
    const ROUNDS: usize = 4;
    let layer = backend.pack_linear(&numbers(OUTPUTS * INPUTS, 40), &numbers(OUTPUTS, 41), INPUTS, OUTPUTS)?;
    let norm = norm(backend, INPUTS)?;
    let run = |waits: bool| -> Result<Vec<f32>> {
        let (mut x, mut back) = (backend.tensor(ROWS * INPUTS)?, backend.tensor(ROWS * INPUTS)?);
        let mut out = backend.tensor(ROWS * OUTPUTS)?;
        backend.layer_norm(&mut x, &drawn(backend, ROWS * INPUTS, 42)?, &norm, ROWS)?;
        let wait = |tensor: &B::Tensor| if waits { backend.download(&mut [0.0], tensor) } else { Ok(()) };
        for _ in 0..ROUNDS {
            backend.linear(&mut out, &x, &layer, Activation::Gelu, None, ROWS)?;
            wait(&out)?;
            backend.linear_backward(&mut back, &out, &layer, None, Some(&x), ROWS)?;
            wait(&back)?;
            backend.layer_norm(&mut x, &back, &norm, ROWS)?;
            wait(&x)?;
        }
        let mut values = vec![0.0; ROWS * INPUTS];
        backend.download(&mut values, &x)?;
        Ok(values)
    };
    let outcome = |values| Outcome { operation: "one behind the other".to_owned(), values, depth: 0 };
    // No rounding explains a difference: its unit is 0.
    Ok(compare(&outcome(run(false)?), &outcome(run(true)?), 0.0))
}

struct Outcome {
    operation: String,
    values: Vec<f32>,
    /// Terms in the longest sum behind a value.
    depth: usize,
}

fn compare(found: &Outcome, expected: &Outcome, unit: f64) -> Check {
    let pairs = || found.values.iter().zip(&expected.values).map(|(&f, &e)| (f64::from(f), f64::from(e)));
    let scale = pairs().fold(f64::MIN_POSITIVE, |most, (_, e)| most.max(e.abs()));
    let error = pairs().fold(0.0, |most: f64, (f, e)| if f.is_nan() { f64::INFINITY } else { most.max((f - e).abs()) });
    // Half an ulp a rounding, and as many for the reference's own rounding to f32.
    let bound = unit * (found.depth as f64 + 1.0);
    Check { operation: found.operation.clone(), error: error / scale, bound }
}

/// What one backend made of every operation.
struct Outcomes<'a, B> {
    backend: &'a B,
    done: Vec<Outcome>,
}

impl<B: Backend> Outcomes<'_, B> {
    /// Keeps the first `len` numbers of `out`, the longest sum behind any of which has `depth` terms.
    fn keep(&mut self, operation: impl Into<String>, out: &B::Tensor, len: usize, depth: usize) -> Result<()> {
        let mut values = vec![0.0; len];
        self.backend.download(&mut values, out)?;
        self.done.push(Outcome { operation: operation.into(), values, depth });
        Ok(())
    }
}

fn outcomes<B: Backend>(backend: &B) -> Result<Vec<Outcome>> {
    let staged = backend.stage(drawn_batch())?;
    let mut outcomes = Outcomes { backend, done: Vec::new() };
    for width in [WIDTH, USUAL_WIDTHS[1]] {
        embedding(&mut outcomes, &staged, width)?;
    }
    masked_embedding(&mut outcomes)?;
    for width in [WIDTH].into_iter().chain(USUAL_WIDTHS) {
        normalisation(&mut outcomes, width)?;
    }
    rows(&mut outcomes)?;
    attention(&mut outcomes, &staged)?;
    heads(&mut outcomes, &staged)?;
    as_models_have_them(&mut outcomes, &staged)?;
    Ok(outcomes.done)
}

/// The embedding stage, on a path and off it.
fn embedding<B: Backend>(outcomes: &mut Outcomes<'_, B>, staged: &B::Batch, width: usize) -> Result<()> {
    let (backend, len) = (outcomes.backend, TOKENS * width);
    let (embeddings, mut out) = (embeddings(backend, width)?, backend.tensor(len)?);
    backend.embed(&mut out, &embeddings, staged)?;
    outcomes.keep(format!("embed{}", of_width(width)), &out, len, width)?;
    for stage in [Stage::Word, Stage::Output] {
        let name = |what: &str| format!("{what}{stage:?}){}", of_width(width));
        let path = backend.stage_path(drawn_path(stage))?;
        backend.embed_path(&mut out, &embeddings, staged, &path)?;
        outcomes.keep(name("embed_path ("), &out, len, width)?;
        let mut gradient = drawn(backend, len, 12)?;
        backend.embed_backward(&mut gradient, &embeddings, staged, &path)?;
        outcomes.keep(name("embed_backward ("), &gradient, len, 2 * width)?;
        for (fold, folded_len) in [(Fold::Step, TOKENS), (Fold::Norm, TOKENS), (Fold::Whole, len)] {
            let (mut folded, gradient) = (backend.results(folded_len)?, drawn(backend, len, 12)?);
            backend.fold(&mut folded, &gradient, &embeddings, staged, &path, fold)?;
            outcomes.keep(name(&format!("fold ({fold:?}, ")), &folded, folded_len, 2 * width)?;
        }
    }
    Ok(())
}

/// The embedding stage of texts with tokens replaced.
fn masked_embedding<B: Backend>(outcomes: &mut Outcomes<'_, B>) -> Result<()> {
    let (backend, masked) = (outcomes.backend, drawn_masks());
    let tokens = masked.lengths().tokens();
    let mut out = backend.tensor(tokens * WIDTH)?;
    backend.embed(&mut out, &embeddings(backend, WIDTH)?, &backend.stage_masked(masked)?)?;
    outcomes.keep("embed (masked)", &out, tokens * WIDTH, WIDTH)
}

/// Normalisation, there and back.
fn normalisation<B: Backend>(outcomes: &mut Outcomes<'_, B>, width: usize) -> Result<()> {
    let (backend, len) = (outcomes.backend, TOKENS * width);
    let (x, dy, norm) = (drawn(backend, len, 1)?, drawn(backend, len, 13)?, norm(backend, width)?);
    let mut out = backend.tensor(len)?;
    backend.layer_norm(&mut out, &x, &norm, TOKENS)?;
    outcomes.keep(format!("layer_norm{}", of_width(width)), &out, len, width)?;
    backend.layer_norm_backward(&mut out, &dy, &x, &norm, TOKENS)?;
    outcomes.keep(format!("layer_norm_backward{}", of_width(width)), &out, len, 2 * width)
}

/// How a check of another width than most is told.
fn of_width(width: usize) -> String {
    if width == WIDTH { String::new() } else { format!(", {width} wide") }
}

/// Linear layers, forward and backward.
fn rows<B: Backend>(outcomes: &mut Outcomes<'_, B>) -> Result<()> {
    let backend = outcomes.backend;
    let (x, mut out) = (drawn(backend, TOKENS * WIDTH, 1)?, backend.tensor(TOKENS * WIDTH)?);

    let weights = backend.pack_linear(&numbers(WIDTH * INNER, 2), &numbers(INNER, 3), WIDTH, INNER)?;
    let (residual, dy) = (drawn(backend, TOKENS * INNER, 4)?, drawn(backend, TOKENS * INNER, 14)?);
    let (mut wide, mut slope) = (backend.tensor(TOKENS * INNER)?, backend.tensor(TOKENS * INNER)?);
    // Sums of these are exact in every precision, so that none is on another side of 0 where a slope jumps.
    let short = backend.pack_linear(&short_numbers(WIDTH * INNER, 2), &short_numbers(INNER, 3), WIDTH, INNER)?;
    let short_x = backend.upload(&short_numbers(TOKENS * WIDTH, 1))?;
    for activation in ACTIVATIONS {
        let (weights, x) = if activation == Activation::Relu { (&short, &short_x) } else { (&weights, &x) };
        backend.linear(&mut wide, x, weights, activation, Some(&residual), TOKENS)?;
        outcomes.keep(format!("linear ({activation:?})"), &wide, TOKENS * INNER, WIDTH)?;
        backend.linear_with_slope(&mut wide, &mut slope, x, weights, activation, TOKENS)?;
        outcomes.keep(format!("linear_with_slope ({activation:?})"), &wide, TOKENS * INNER, WIDTH)?;
        outcomes.keep(format!("linear_with_slope ({activation:?}, slope)"), &slope, TOKENS * INNER, WIDTH)?;
    }
    let dx = drawn(backend, TOKENS * WIDTH, 18)?;
    // Inputs of a width that every way of multiplying takes.
    let narrowing = backend.pack_linear(&numbers(INNER * WIDTH, 20), &numbers(WIDTH, 21), INNER, WIDTH)?;
    backend.linear(&mut out, &dy, &narrowing, Activation::Gelu, Some(&dx), TOKENS)?;
    outcomes.keep("linear (narrowing)", &out, TOKENS * WIDTH, INNER)?;
    for (name, slope, residual) in [("", None, None), (" past an activation", Some(&x), Some(&dx))] {
        backend.linear_backward(&mut out, &dy, &weights, slope, residual, TOKENS)?;
        outcomes.keep(format!("linear_backward{name}"), &out, TOKENS * WIDTH, INNER)?;
    }
    Ok(())
}

/// Layers of whole vectors, and heads of 64 and of 128: what nearly all models have, and what some devices have kernels
/// of their own for.
fn as_models_have_them<B: Backend>(outcomes: &mut Outcomes<'_, B>, staged: &B::Batch) -> Result<()> {
    let backend = outcomes.backend;
    let layer = backend.pack_linear(&numbers(OUTPUTS * INPUTS, 30), &numbers(OUTPUTS, 31), INPUTS, OUTPUTS)?;
    let (x, dy) = (drawn(backend, ROWS * INPUTS, 32)?, drawn(backend, ROWS * OUTPUTS, 33)?);
    let (of_inputs, of_outputs) = (drawn(backend, ROWS * INPUTS, 34)?, drawn(backend, ROWS * OUTPUTS, 35)?);
    let (mut out, mut slope) = (backend.tensor(ROWS * OUTPUTS)?, backend.tensor(ROWS * OUTPUTS)?);
    for (activation, residual) in
        [(Activation::Identity, None), (Activation::Identity, Some(&of_outputs)), (Activation::Gelu, None)]
    {
        backend.linear(&mut out, &x, &layer, activation, residual, ROWS)?;
        let beside = if residual.is_some() { ", with a residual" } else { "" };
        outcomes.keep(
            format!("linear ({activation:?}, {INPUTS} × {OUTPUTS}{beside})"),
            &out,
            ROWS * OUTPUTS,
            INPUTS,
        )?;
    }
    backend.linear_with_slope(&mut out, &mut slope, &x, &layer, Activation::Gelu, ROWS)?;
    for (name, values) in [("", &out), (", slope", &slope)] {
        outcomes.keep(
            format!("linear_with_slope (Gelu, {INPUTS} × {OUTPUTS}{name})"),
            values,
            ROWS * OUTPUTS,
            INPUTS,
        )?;
    }
    let mut dx = backend.tensor(ROWS * INPUTS)?;
    for (name, slope, residual) in
        [("", None, None), (", with slopes", Some(&of_inputs), None), (", with a residual", None, Some(&of_inputs))]
    {
        backend.linear_backward(&mut dx, &dy, &layer, slope, residual, ROWS)?;
        outcomes.keep(format!("linear_backward ({INPUTS} × {OUTPUTS}{name})"), &dx, ROWS * INPUTS, OUTPUTS)?;
    }
    for head_width in [64, 128] {
        let qkv = drawn(backend, TOKENS * 3 * head_width, 36)?;
        let view = |part: usize| Columns { tensor: &qkv, stride: 3 * head_width, offset: part * head_width };
        let shape = AttentionShape { heads: 1, head_width, queries: Rows::All };
        let attended = Attended { q: view(0), k: view(1), v: view(2), batch: staged, shape };
        let mut out = backend.tensor(TOKENS * head_width)?;
        backend.attention(&mut out, &attended)?;
        let depth = LENGTHS[LENGTHS.len() - 1] + head_width;
        outcomes.keep(format!("attention (heads of {head_width})"), &out, TOKENS * head_width, depth)?;
        let d_out = drawn(backend, TOKENS * head_width, 37)?;
        let mut packed = backend.tensor(TOKENS * 3 * head_width)?;
        backend.attention_backward(AttentionGradients { packed: &mut packed, query: None }, &d_out, &attended)?;
        let what = format!("attention_backward (heads of {head_width})");
        outcomes.keep(what, &packed, TOKENS * 3 * head_width, 2 * depth)?;
    }
    Ok(())
}

/// Attention, its backward and its maps.
fn attention<B: Backend>(outcomes: &mut Outcomes<'_, B>, staged: &B::Batch) -> Result<()> {
    let backend = outcomes.backend;
    let qkv = drawn(backend, TOKENS * 3 * WIDTH, 5)?;
    let view = |part: usize| Columns { tensor: &qkv, stride: 3 * WIDTH, offset: part * WIDTH };
    let (sequences, head_width, longest) = (LENGTHS.len(), WIDTH / HEADS, LENGTHS[LENGTHS.len() - 1]);
    for (queries, rows) in [(Rows::All, TOKENS), (Rows::First, sequences)] {
        let shape = AttentionShape { heads: HEADS, head_width, queries };
        let attended = Attended { q: view(0), k: view(1), v: view(2), batch: staged, shape };
        let mut out = backend.tensor(rows * WIDTH)?;
        backend.attention(&mut out, &attended)?;
        outcomes.keep(format!("attention ({queries:?})"), &out, rows * WIDTH, longest + head_width)?;

        let (d_out, parts) = (drawn(backend, rows * WIDTH, 15)?, if queries == Rows::All { 3 } else { 2 });
        let (mut packed, mut query) = (backend.tensor(TOKENS * parts * WIDTH)?, backend.tensor(sequences * WIDTH)?);
        let gradients =
            AttentionGradients { packed: &mut packed, query: (queries == Rows::First).then_some(&mut query) };
        backend.attention_backward(gradients, &d_out, &attended)?;
        let depth = 2 * (longest + head_width);
        outcomes.keep(format!("attention_backward ({queries:?})"), &packed, TOKENS * parts * WIDTH, depth)?;
        if queries == Rows::First {
            outcomes.keep("attention_backward (First, queries)", &query, sequences * WIDTH, depth)?;
        }

        let pairs = LENGTHS.iter().map(|length| length * if queries == Rows::All { *length } else { 1 }).sum();
        for name in ["Weights", "Scores", "GradientWeights"] {
            let map = match name {
                "Weights" => AttentionMap::Weights,
                "Scores" => AttentionMap::Scores,
                _ => AttentionMap::GradientWeights(&d_out),
            };
            let mut out = backend.results(pairs)?;
            backend.attention_map(&mut out, &attended, map)?;
            outcomes.keep(format!("attention_map ({name}, {queries:?})"), &out, pairs, longest + head_width)?;
            if name == "Weights" {
                let (row, mut followed) = (drawn(backend, TOKENS, 19)?, backend.results(TOKENS)?);
                let step = Step { queries, own: 0.5, below: &[1.0, 0.5, 0.25, 2.0] };
                backend.follow(&mut followed, &row, &out, staged, step)?;
                outcomes.keep(format!("follow ({queries:?})"), &followed, TOKENS, longest + head_width)?;
            }
        }
    }
    Ok(())
}

/// What stands on the encoder: pooling, its backward, and the gradient that starts a backward pass.
fn heads<B: Backend>(outcomes: &mut Outcomes<'_, B>, staged: &B::Batch) -> Result<()> {
    let backend = outcomes.backend;
    let (x, sequences) = (drawn(backend, TOKENS * WIDTH, 1)?, LENGTHS.len());
    for pooling in [Pooling::First, Pooling::Mean, Pooling::Max, Pooling::MeanSqrtLength] {
        let mut out = backend.tensor(sequences * WIDTH)?;
        backend.pool(&mut out, &x, staged, pooling, WIDTH)?;
        outcomes.keep(format!("pool ({pooling:?})"), &out, sequences * WIDTH, LENGTHS[LENGTHS.len() - 1])?;
    }
    let (mut sum, rows) = (drawn(backend, TOKENS * WIDTH, 1)?, drawn(backend, sequences * WIDTH, 16)?);
    backend.add_to_first(&mut sum, &rows, staged, WIDTH)?;
    outcomes.keep("add_to_first", &sum, TOKENS * WIDTH, 1)?;
    let objectives = [Objective::Softmax(2), Objective::Sigmoid(0), Objective::Logit(1), Objective::Difference(1, 2)];
    let (z, mut dz) = (drawn(backend, sequences * CLASSES, 17)?, backend.tensor(sequences * CLASSES)?);
    backend.objective_gradient(&mut dz, &z, &objectives, staged, CLASSES)?;
    // Each sequence's may be multiplied by a power of two of its own.
    let mut values = vec![0.0; sequences * CLASSES];
    backend.download(&mut values, &dz)?;
    for row in values.chunks_exact_mut(CLASSES) {
        let largest = row.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        for x in row {
            *x /= largest;
        }
    }
    outcomes.done.push(Outcome { operation: "objective_gradient".into(), values, depth: CLASSES });
    Ok(())
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

/// Each text three times, other tokens replaced each time.
fn drawn_masks() -> Masked {
    let of: Vec<u32> = (0..3 * LENGTHS.len() as u32).map(|sequence| sequence / 3).collect();
    let bits = of.iter().enumerate().flat_map(|(sequence, &text)| {
        let length = LENGTHS[text as usize];
        Masked::bits_of(length, (0..length).filter(move |token| token * 7 % 3 == sequence % 3))
    });
    Masked { texts: drawn_batch(), bits: bits.collect(), of, stand_in: VOCABULARY as u32 - 1 }
}

/// Every sequence elsewhere on its path: from zero, from other tokens, with noise and without.
fn drawn_path(stage: Stage) -> Path {
    let baseline = |token: usize| if token < 60 { Path::ZERO } else { (token * 11 % VOCABULARY) as u32 };
    Path {
        stage,
        baseline: (0..TOKENS).map(baseline).collect(),
        alpha: vec![0.0, 0.375, 1.0, 0.8],
        sigma: vec![0.0, 0.1, 0.0, 0.5],
        draws: (0..4).map(|sequence| [sequence, 7 * sequence]).collect(),
        seed: 5,
    }
}

fn embeddings<B: Backend>(backend: &B, width: usize) -> Result<Embeddings<B>> {
    Ok(Embeddings {
        word: drawn(backend, VOCABULARY * width, 6)?,
        position: Some(drawn(backend, LENGTHS[LENGTHS.len() - 1] * width, 7)?),
        token_type: Some(drawn(backend, 2 * width, 8)?),
        task: Some(drawn(backend, width, 9)?),
        norm: norm(backend, width)?,
    })
}

fn norm<B: Backend>(backend: &B, width: usize) -> Result<Norm<B>> {
    let (weight, bias) = (drawn(backend, width, 10)?, drawn(backend, width, 11)?);
    Ok(Norm { weight, bias, epsilon: 1e-12, width })
}

fn drawn<B: Backend>(backend: &B, len: usize, stream: u64) -> Result<B::Tensor> {
    backend.upload(&numbers(len, stream))
}

/// The same, of seven bits.
pub(super) fn short_numbers(len: usize, stream: u64) -> Vec<f32> {
    numbers(len, stream).into_iter().map(|x| (x * 64.0).floor() / 64.0).collect()
}

/// Numbers in [−1, 1) that depend on their place and stream alone (SplitMix64, Steele et al. 2014).
pub(crate) fn numbers(len: usize, stream: u64) -> Vec<f32> {
    let mix = |i: usize| {
        let mut z = (stream << 32 | i as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (0..len).map(|i| (mix(i) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}
