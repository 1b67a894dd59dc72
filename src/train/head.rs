//! Training of the last layer alone: one pass for the features, then the one minimum of a convex objective.

use super::Example;
use crate::error::Result;
use crate::factors::{InMemory, LabelVec, Refit, RefitOptions, Target, refit};
use crate::interrupt;
use crate::model::{Problem, Trainee};
use crate::tokens::{MicroBatch, pack};

/// Refits the last layer to the features that the rest gives `examples`, and puts it in place. Weights are not used.
///
/// # Errors
/// As [`refit`]; what the device fails at.
pub fn train_head(
    trainee: &mut Trainee,
    examples: &[Example],
    options: &RefitOptions,
    batch_tokens: Option<usize>,
) -> Result<Refit> {
    let source = features(trainee, examples, batch_tokens)?;
    let refit = refit(&source, options, &|| !interrupt::asked())?;
    let rounded = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    trainee.learner().set_head(&rounded(&refit.weight), &rounded(&refit.bias))?;
    Ok(refit)
}

/// Records packed together.
const WINDOW: usize = 4096;
/// Tokens in a pass where the user has not said.
const BATCH_TOKENS: usize = 2048;

fn features(trainee: &mut Trainee, examples: &[Example], batch_tokens: Option<usize>) -> Result<InMemory> {
    let (problem, positions) = (trainee.problem(), trainee.positions());
    let learner = trainee.learner();
    let (width, classes) = (learner.width(), learner.classes());
    let mut features = vec![0.0; examples.len() * width];
    for (number, window) in examples.chunks(WINDOW).enumerate() {
        let window: Vec<&Example> = window.iter().collect();
        for MicroBatch { rows, batch } in pack(&window, positions, batch_tokens.unwrap_or(BATCH_TOKENS)) {
            interrupt::check()?;
            let outputs = learner.answer(batch)?;
            for (row, h) in rows.iter().zip(outputs.features.chunks_exact(width)) {
                features[(number * WINDOW + row) * width..][..width].copy_from_slice(h);
            }
        }
    }
    // A refit to gold labels starts from zero and reads no δ.
    let deltas = vec![0.0; examples.len() * classes];
    Ok(InMemory {
        problem,
        width,
        classes,
        features,
        deltas,
        labels: labels(problem, examples),
        rows_at_a_time: 65_536,
    })
}

fn labels(problem: Problem, examples: &[Example]) -> LabelVec {
    let class = |example: &Example| match &example.target {
        Target::Class(class) => *class as i64,
        Target::Classes(_) | Target::Values(_) => -1,
    };
    let row = |example: &Example| match &example.target {
        Target::Classes(values) | Target::Values(values) => values.clone(),
        Target::Class(_) => Vec::new(),
    };
    match problem {
        Problem::SingleLabel => LabelVec::Classes(examples.iter().map(class).collect()),
        _ => LabelVec::Rows(examples.iter().flat_map(row).collect()),
    }
}
