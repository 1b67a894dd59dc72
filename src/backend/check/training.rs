//! What training asks of a device, against the reference.

use super::{Check, HEADS, LENGTHS, Outcome, Outcomes, TOKENS, VOCABULARY, WIDTH, compare, drawn, drawn_batch};
use crate::backend::reference::Reference;
use crate::backend::training::{AdamStep, Dropout, Pair, Passed, Place, Shape, Stepped, Tables, Training};
use crate::backend::{Attended, AttentionGradients, AttentionShape, Columns, Rows};
use crate::error::Result;

/// Inner width of the checked layer, and numbers a step is taken of.
const OUTPUTS: usize = 70;
/// Which record each sequence is.
const RECORDS: [u32; LENGTHS.len()] = [3, 1, 4, 1 << 20];

/// Runs every operation of training on `backend` and on the reference.
///
/// # Errors
/// Where the device fails.
pub fn check_training<B: Training>(backend: &B) -> Result<Vec<Check>> {
    let (found, expected) = (outcomes(backend)?, outcomes(&Reference)?);
    let unit = backend.precision().unit();
    Ok(found.into_iter().zip(expected).map(|(found, expected)| compare(&found, &expected, unit)).collect())
}

fn outcomes<B: Training>(backend: &B) -> Result<Vec<Outcome>> {
    let staged = backend.stage(drawn_batch())?;
    let mut outcomes = Outcomes { backend, done: Vec::new() };
    parameters(&mut outcomes, &staged)?;
    tables(&mut outcomes, &staged)?;
    dropped(&mut outcomes, &staged)?;
    step(&mut outcomes)?;
    Ok(outcomes.done)
}

/// Gradients of a linear layer's and a normalisation's parameters, added to what is there.
fn parameters<B: Training>(outcomes: &mut Outcomes<'_, B>, staged: &B::Batch) -> Result<()> {
    let backend = outcomes.backend;
    let (x, dy) = (drawn(backend, TOKENS * WIDTH, 1)?, drawn(backend, TOKENS * OUTPUTS, 2)?);
    let (mut weight, mut bias) = (drawn(backend, OUTPUTS * WIDTH, 3)?, drawn(backend, OUTPUTS, 4)?);
    let passed = Passed { batch: staged, rows: Rows::All, inputs: WIDTH, outputs: OUTPUTS };
    let gradients = Pair { weight: &mut weight, bias: &mut bias };
    backend.linear_parameters_backward(gradients, 0, &dy, &x, passed)?;
    outcomes.keep("linear_parameters_backward", &weight, OUTPUTS * WIDTH, TOKENS)?;
    outcomes.keep("linear_parameters_backward (bias)", &bias, OUTPUTS, TOKENS)?;
    let (dy, mut weight, mut bias) =
        (drawn(backend, TOKENS * WIDTH, 5)?, drawn(backend, WIDTH, 6)?, drawn(backend, WIDTH, 7)?);
    let shape = Shape { rows: TOKENS, inputs: WIDTH, outputs: WIDTH };
    let gradients = Pair { weight: &mut weight, bias: &mut bias };
    backend.layer_norm_parameters_backward(gradients, &dy, &x, 1e-12, shape)?;
    outcomes.keep("layer_norm_parameters_backward", &weight, WIDTH, TOKENS + WIDTH)?;
    outcomes.keep("layer_norm_parameters_backward (bias)", &bias, WIDTH, TOKENS)
}

/// The embedding tables' gradients.
fn tables<B: Training>(outcomes: &mut Outcomes<'_, B>, staged: &B::Batch) -> Result<()> {
    let backend = outcomes.backend;
    let positions = LENGTHS[LENGTHS.len() - 1];
    let (mut word, mut position) = (drawn(backend, VOCABULARY * WIDTH, 8)?, drawn(backend, positions * WIDTH, 9)?);
    let (mut types, d_sum) = (drawn(backend, 2 * WIDTH, 10)?, drawn(backend, TOKENS * WIDTH, 11)?);
    let gradients = Tables { word: &mut word, position: &mut position, token_type: Some(&mut types), task: None };
    backend.embed_sum_backward(gradients, &d_sum, staged, WIDTH)?;
    outcomes.keep("embed_sum_backward (words)", &word, VOCABULARY * WIDTH, TOKENS)?;
    outcomes.keep("embed_sum_backward (segments)", &types, 2 * WIDTH, TOKENS)
}

/// Dropout of rows, and of attention's weights there and back.
fn dropped<B: Training>(outcomes: &mut Outcomes<'_, B>, staged: &B::Batch) -> Result<()> {
    let backend = outcomes.backend;
    let dropout = Dropout::new(7, 0.25, 3, &RECORDS).expect("a rate above zero");
    let (x, mut out) = (drawn(backend, TOKENS * WIDTH, 1)?, backend.tensor(TOKENS * WIDTH)?);
    let place = Place { batch: staged, rows: Rows::All, width: WIDTH };
    backend.dropout(&mut out, &x, Some(&x), &dropout, place)?;
    outcomes.keep("dropout", &out, TOKENS * WIDTH, 1)?;

    let qkv = drawn(backend, TOKENS * 3 * WIDTH, 12)?;
    let view = |part: usize| Columns { tensor: &qkv, stride: 3 * WIDTH, offset: part * WIDTH };
    let shape = AttentionShape { heads: HEADS, head_width: WIDTH / HEADS, queries: Rows::All };
    let attended = Attended { q: view(0), k: view(1), v: view(2), batch: staged, shape };
    let depth = LENGTHS[LENGTHS.len() - 1] + WIDTH / HEADS;
    backend.attention_dropout(&mut out, &attended, &dropout)?;
    outcomes.keep("attention_dropout", &out, TOKENS * WIDTH, depth)?;
    let mut packed = backend.tensor(TOKENS * 3 * WIDTH)?;
    let gradients = AttentionGradients { packed: &mut packed, query: None };
    backend.attention_dropout_backward(gradients, &x, &attended, &dropout)?;
    outcomes.keep("attention_dropout_backward", &packed, TOKENS * 3 * WIDTH, 2 * depth)
}

/// A step of the optimiser.
fn step<B: Training>(outcomes: &mut Outcomes<'_, B>) -> Result<()> {
    let backend = outcomes.backend;
    let (mut value, mut gradient) = (drawn(backend, TOKENS, 16)?, drawn(backend, TOKENS, 17)?);
    let mut moments = [backend.results(TOKENS)?, backend.results(TOKENS)?];
    moments.iter_mut().try_for_each(|moment| backend.clear(moment))?;
    let step = AdamStep { rate: 0.01, decay: 0.1, betas: [0.9, 0.999], epsilon: 1e-8, number: 1, scale: 0.5 };
    let [first, second] = &mut moments;
    let moments = [first, second];
    backend.adam_steps(vec![Stepped { value: &mut value, moments, gradient: &mut gradient, decays: true }], &step)?;
    outcomes.keep("adam_step", &value, TOKENS, 8)
}
