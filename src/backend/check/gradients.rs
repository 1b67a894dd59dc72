//! What gradients of single records ask of a device, in every precision it has, against the reference.

use super::{Check, LENGTHS, Outcome, Outcomes, TOKENS, VOCABULARY, WIDTH, compare, drawn, drawn_batch, numbers};
use crate::backend::Rows;
use crate::backend::reference::Reference;
use crate::backend::training::{AdaptedStep, Named, NormProducts, Products, Sketch, Tables, Training};
use crate::error::Result;

/// Numbers on either side: of a narrow layer, and of one that is cut into tiles.
const SIDES: [[usize; 2]; 2] = [[9, 5], [136, 72]];

/// Runs every operation of records' gradients on `backend` and on the reference.
///
/// # Errors
/// Where the device fails.
pub fn check_gradients<B: Training>(backend: &B) -> Result<Vec<Check>> {
    let (found, expected) = (outcomes(backend)?, outcomes(&Reference)?);
    let unit = backend.precision().unit();
    Ok(found.into_iter().zip(expected).map(|(found, expected)| compare(&found, &expected, unit)).collect())
}

fn outcomes<B: Training>(backend: &B) -> Result<Vec<Outcome>> {
    let staged = backend.stage(drawn_batch())?;
    let mut outcomes = Outcomes { backend, done: Vec::new() };
    tables(&mut outcomes, &staged)?;
    for sides in SIDES {
        products(&mut outcomes, &staged, sides)?;
    }
    sketch(&mut outcomes)?;
    norms(&mut outcomes, &staged)?;
    named(&mut outcomes, &staged)?;
    adapted(&mut outcomes)?;
    squares(&mut outcomes)?;
    Ok(outcomes.done)
}

/// The embedding tables' sum.
fn tables<B: Training>(outcomes: &mut Outcomes<'_, B>, staged: &B::Batch) -> Result<()> {
    let backend = outcomes.backend;
    let positions = LENGTHS[LENGTHS.len() - 1];
    let (word, position) = (drawn(backend, VOCABULARY * WIDTH, 8)?, drawn(backend, positions * WIDTH, 9)?);
    let (types, mut sum) = (drawn(backend, 2 * WIDTH, 10)?, backend.tensor(TOKENS * WIDTH)?);
    let of = Tables { word: &word, position: &position, token_type: Some(&types), task: None };
    backend.embed_sum(&mut sum, of, staged, WIDTH)?;
    outcomes.keep("embed_sum", &sum, TOKENS * WIDTH, 3)
}

/// Each sequence's own sum of outer products, added to what is there.
fn products<B: Training>(
    outcomes: &mut Outcomes<'_, B>,
    staged: &B::Batch,
    [inputs, outputs]: [usize; 2],
) -> Result<()> {
    let backend = outcomes.backend;
    let (x, dy) = (drawn(backend, TOKENS * inputs, 13)?, drawn(backend, TOKENS * outputs, 14)?);
    let stride = inputs * outputs + 3;
    let mut out = drawn(backend, LENGTHS.len() * stride, 15)?;
    let of = Products { batch: staged, rows: Rows::All, inputs, outputs, stride, offset: 2 };
    backend.outer_products(&mut out, &dy, &x, of)?;
    let what = format!("outer_products ({outputs} × {inputs})");
    outcomes.keep(what, &out, LENGTHS.len() * stride, LENGTHS[LENGTHS.len() - 1])
}

/// Rows projected sparsely: runs of sixteen, and what goes round the end of so few places.
fn sketch<B: Training>(outcomes: &mut Outcomes<'_, B>) -> Result<()> {
    let (backend, kept) = (outcomes.backend, 21);
    let x = drawn(backend, TOKENS * WIDTH, 20)?;
    let sketch = Sketch::new(WIDTH + 1, kept, |run| (run * 8 % kept, 0x5A96 >> (run % 3))).with_one();
    let mut out = backend.tensor(TOKENS * kept)?;
    backend.sketch(&mut out, &x, &backend.pack_sketch(sketch)?, TOKENS)?;
    outcomes.keep("sketch", &out, TOKENS * kept, WIDTH)
}

/// Each sequence's own sums of a normalisation's gradients.
fn norms<B: Training>(outcomes: &mut Outcomes<'_, B>, staged: &B::Batch) -> Result<()> {
    let (backend, sequences) = (outcomes.backend, LENGTHS.len());
    let (x, dy) = (drawn(backend, TOKENS * WIDTH, 21)?, drawn(backend, TOKENS * WIDTH, 22)?);
    for rows in [Rows::All, Rows::First] {
        let mut out = backend.results(2 * sequences * WIDTH)?;
        backend.norm_products(&mut out, &dy, &x, NormProducts { batch: staged, rows, epsilon: 1e-5, width: WIDTH })?;
        let depth = WIDTH + if rows == Rows::All { LENGTHS[LENGTHS.len() - 1] } else { 1 };
        outcomes.keep(format!("norm_products ({rows:?})"), &out, 2 * sequences * WIDTH, depth)?;
    }
    Ok(())
}

/// Rows of tables by what tokens name.
fn named<B: Training>(outcomes: &mut Outcomes<'_, B>, staged: &B::Batch) -> Result<()> {
    let (backend, width) = (outcomes.backend, 7);
    let rows = VOCABULARY.max(LENGTHS[LENGTHS.len() - 1]);
    let (table, mut out) = (drawn(backend, rows * width, 23)?, backend.tensor(TOKENS * width)?);
    for named in [Named::Word, Named::Position, Named::TokenType, Named::Task] {
        backend.look_up(&mut out, &table, named, staged, width)?;
        outcomes.keep(format!("look_up ({named:?})"), &out, TOKENS * width, 1)?;
    }
    Ok(())
}

/// AdamW's steps by several rows of gradients, which are larger by powers of two.
fn adapted<B: Training>(outcomes: &mut Outcomes<'_, B>) -> Result<()> {
    let (backend, len, scales) = (outcomes.backend, 300, [1.0, 8.0, 0.25, 1.0, 2.0, 1.0, 1.0, 16.0, 1.0, 4.0]);
    let (x, drift) = (drawn(backend, scales.len() * len, 24)?, drawn(backend, len, 25)?);
    let floor: Vec<f32> = numbers(len, 26).into_iter().map(|x| 0.01 + x.abs()).collect();
    let (floor, mut out) = (backend.upload(&floor)?, backend.tensor(scales.len() * len)?);
    backend.adapt(
        &mut out,
        &x,
        AdaptedStep { drift: &drift, floor: &floor, rests: [0.1, 0.001], scales: &scales, len },
    )?;
    outcomes.keep("adapt", &out, scales.len() * len, 3)
}

/// Sums in f64, as f32 in the end.
fn squares<B: Training>(outcomes: &mut Outcomes<'_, B>) -> Result<()> {
    let (backend, rows, len) = (outcomes.backend, 3, 5000);
    let weights: Vec<f64> = numbers(len, 19).into_iter().map(|x| f64::from(x).abs()).collect();
    let (x, mut sums) = (drawn(backend, rows * len, 18)?, backend.sums(&weights)?);
    backend.add_squares(&mut sums, &x, rows)?;
    backend.add_to_sums(&mut sums, &x)?;
    let weighted = backend.weighted_squares(&sums, &x, rows)?;
    for (operation, values) in
        [("add_squares and add_to_sums", backend.read_sums(&sums)?), ("weighted_squares", weighted)]
    {
        let values = values.into_iter().map(|x| x as f32).collect();
        outcomes.done.push(Outcome { operation: operation.into(), values, depth: 1 });
    }
    Ok(())
}
