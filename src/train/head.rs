//! Training of the last layer alone: one pass for the features, then the one minimum of a convex objective.

use super::Example;
use crate::error::{Error, Result};
use crate::factors::{InMemory, LabelVec, Refit, RefitOptions, Target, refit};
use crate::interrupt;
use crate::model::{Problem, Trainee};
use crate::tokens::{MicroBatch, pack};

/// Refits the last layer to the features that the rest gives `examples`, and puts it in place. Each loss counts its
/// record's weight over their mean: a record of weight 2 is one that is there twice.
///
/// # Errors
/// As [`refit`]; [`Error::Usage`] where no record has a weight above 0; what the device fails at.
pub fn train_head(
    trainee: &mut Trainee,
    examples: &[Example],
    options: &RefitOptions,
    batch_tokens: Option<usize>,
) -> Result<Refit> {
    let mean = examples.iter().map(|example| example.weight).sum::<f64>() / examples.len().max(1) as f64;
    if mean <= 0.0 {
        return Err(Error::usage("weights: expected at least one record of a weight above 0"));
    }
    let weights = examples.iter().map(|example| example.weight / mean).collect();
    let source = InMemory { weights, ..features(trainee, examples, batch_tokens)? };
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
        weights: Vec::new(),
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
