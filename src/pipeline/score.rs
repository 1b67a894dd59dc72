//! One chunk through the model: labels resolved, texts tokenized on every core, packed by length, run, and put back in order.

use rayon::prelude::*;

use super::stream::Read;
use super::{Rejections, Settings};
use crate::dataset::{Place, Record};
use crate::error::Result;
use crate::factors::Target;
use crate::interrupt;
use crate::model::{Model, Outputs, Problem};
use crate::tokens::Encoding;

/// Records tokenized and sorted by length together: enough that batches are even, few enough that their tokens take little memory.
const WINDOW: usize = 4096;

/// A chunk of records and what each model said of them.
pub struct Chunk {
    /// The chunk's number: its records' numbers divided by the chunk size.
    pub number: u64,
    /// In input order; records that were rejected are not among them.
    pub records: Vec<Record>,
    /// Each record's gold label, resolved against the first model's classes.
    pub gold: Vec<Option<Target>>,
    /// One a model, in the order the models were given.
    pub passes: Vec<Pass>,
    /// blake3 of the records as read.
    pub digest: blake3::Hash,
    /// Tokens run, special tokens included.
    pub tokens: u64,
    /// Records cut to the maximum length.
    pub truncated: u64,
}

/// One model's outputs over a chunk.
pub struct Pass {
    /// E.
    pub width: usize,
    /// K.
    pub classes: usize,
    /// h and z of the chunk's records, in their order.
    pub outputs: Outputs,
}

impl Pass {
    fn new(model: &Model) -> Self {
        Self { width: model.width(), classes: model.classes(), outputs: Outputs::default() }
    }

    /// `h` of record i.
    pub fn features(&self, i: usize) -> &[f32] {
        &self.outputs.features[i * self.width..(i + 1) * self.width]
    }

    /// `z` of record i.
    pub fn logits(&self, i: usize) -> &[f32] {
        &self.outputs.logits[i * self.classes..(i + 1) * self.classes]
    }
}

pub(super) fn score(models: &[&Model], read: Read, settings: &Settings, rejections: &mut Rejections) -> Result<Chunk> {
    let (records, gold) = resolve_labels(models[0], read.records, &read.places, rejections)?;
    let passes = models.iter().map(|model| Pass::new(model)).collect();
    let mut chunk = Chunk { number: read.number, records, gold, passes, digest: read.digest, tokens: 0, truncated: 0 };
    for start in (0..chunk.records.len()).step_by(WINDOW) {
        let end = (start + WINDOW).min(chunk.records.len());
        run_window(models, &mut chunk, start..end, settings)?;
    }
    Ok(chunk)
}

/// A record whose label means nothing to the model is rejected like one that cannot be read. A headless model reads no labels.
fn resolve_labels(
    model: &Model,
    records: Vec<Record>,
    places: &[Place],
    rejections: &mut Rejections,
) -> Result<(Vec<Record>, Vec<Option<Target>>)> {
    if model.problem() == Problem::Headless {
        let none = vec![None; records.len()];
        return Ok((records, none));
    }
    let mut kept = Vec::with_capacity(records.len());
    let mut gold = Vec::with_capacity(records.len());
    for (record, place) in records.into_iter().zip(places) {
        match record.label.as_ref().map(|label| model.resolve_label(label)).transpose() {
            Ok(target) => {
                gold.push(target);
                kept.push(record);
            }
            Err(reason) => rejections.take(place.error(reason))?,
        }
    }
    Ok((kept, gold))
}

fn run_window(models: &[&Model], chunk: &mut Chunk, rows: std::ops::Range<usize>, settings: &Settings) -> Result<()> {
    let encodings: Vec<Encoding> =
        chunk.records[rows.clone()].par_iter().map(|record| models[0].encode(record)).collect::<Result<_>>()?;
    chunk.tokens += encodings.iter().map(|e| e.ids.len() as u64).sum::<u64>();
    chunk.truncated += encodings.iter().filter(|e| e.truncated).count() as u64;
    for (model, pass) in models.iter().zip(&mut chunk.passes) {
        let outputs = model.run(&encodings, settings.batch_tokens, &|_| !interrupt::asked())?;
        pass.outputs.features.extend(outputs.features);
        pass.outputs.logits.extend(outputs.logits);
    }
    Ok(())
}
