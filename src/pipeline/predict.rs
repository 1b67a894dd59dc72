//! `predict`: what the model says of each record.

use super::{Chunk, Chunking, Progress, Rejections, Settings, Summary, stream};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::factors;
use crate::model::{Model, Problem};
use crate::report::{Prediction, Probabilities, class_value};

/// Runs `model` over `dataset` and hands each record's prediction to `write`, in input order.
///
/// # Errors
/// [`Error::Usage`] for a model without a head; as [`stream`].
pub fn predict(
    model: &Model,
    dataset: Dataset,
    settings: &Settings,
    rejections: &mut Rejections,
    write: &mut (dyn FnMut(&Prediction) -> Result<()> + Send),
) -> Result<Summary> {
    if model.problem() == Problem::Headless {
        return Err(Error::usage(format!("{} has no classification head to predict with", model.name()))
            .with_hint("use a fine-tuned classifier or regressor, or train a head: `train --head-only`"));
    }
    let progress = Progress::new("predicting", dataset.bytes_total(), settings.quiet);
    let mut sink = |chunk: Chunk| (0..chunk.records.len()).try_for_each(|i| write(&prediction(model, &chunk, i)));
    stream(&[model], dataset, &Chunking::any(), settings, rejections, &progress, &mut sink)
}

fn prediction(model: &Model, chunk: &Chunk, i: usize) -> Prediction {
    let (problem, names) = (model.problem(), model.class_names().names());
    let logits = chunk.passes[0].logits(i);
    let probabilities = match problem {
        Problem::SingleLabel | Problem::MultiLabel => {
            names.iter().cloned().zip(factors::probabilities(problem, logits)).collect()
        }
        Problem::Regression | Problem::Headless => Vec::new(),
    };
    Prediction {
        id: chunk.records[i].id.clone(),
        index: chunk.records[i].index,
        label: chunk.gold[i].as_ref().map(|gold| class_value(gold, names)),
        predicted: class_value(&factors::predict(problem, logits), names),
        probabilities: Probabilities(probabilities),
        logits: logits.to_vec(),
    }
}
