//! A proof of a user's own model on some of their own records: does it do here what the formulas say?

use std::path::Path;

use super::{Rejections, Settings};
use crate::backend::check::Check;
use crate::backend::cpu::dot;
use crate::backend::reference::Reference;
use crate::backend::{self, Fold, Objective};
use crate::dataset::{Dataset, Record};
use crate::error::{Error, Result};
use crate::factors::{self, FactorRows, Floats, Target};
use crate::model::{Answers, Ask, LoadOptions, Model, Outputs, Probes, Problem};
use crate::search::{self, Form, Options, Query};
use crate::tokens::{Encoding, PackedBatch};

/// Records looked at: enough to meet every length, few enough for the f64 reference.
const RECORDS: usize = 48;
/// Records that the f64 reference runs.
const REFERENCE_RECORDS: usize = 8;

/// Runs the proof.
///
/// # Errors
/// Where the records cannot be read or run; a check that fails is a result, not an error.
pub fn prove(model: &Model, dataset: Dataset, settings: &Settings, rejections: &mut Rejections) -> Result<Vec<Check>> {
    let records = sample(dataset, rejections)?;
    let encodings = records.iter().map(|record| model.encode(record)).collect::<Result<Vec<_>>>()?;
    let outputs = model.run(&encodings, settings.batch_tokens, &|_| true)?;
    let mut checks = vec![alone(model, &encodings, &outputs)?, itself(model, &outputs)?];
    checks.extend(drift(model, &encodings, &outputs)?);
    if model.problem() != Problem::Headless {
        checks.push(slope(model, &outputs));
        checks.push(gradients(model, &encodings)?);
    }
    Ok(checks)
}

fn sample(dataset: Dataset, rejections: &mut Rejections) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for record in dataset {
        match record {
            Ok(record) => records.push(record),
            Err(error) => rejections.take(error)?,
        }
        if records.len() == RECORDS {
            break;
        }
    }
    if records.is_empty() { Err(Error::usage("no records to prove the model on")) } else { Ok(records) }
}

/// Each record alone gives the bits it gave in company.
fn alone(model: &Model, encodings: &[Encoding], together: &Outputs) -> Result<Check> {
    let mut different = 0.0;
    for (i, encoding) in encodings.iter().enumerate() {
        let one = model.run(std::slice::from_ref(encoding), None, &|_| true)?;
        let (h, z) = rows(model, together, i);
        if bits(&one.features) != bits(h) || bits(&one.logits) != bits(z) {
            different += 1.0;
        }
    }
    Ok(Check { operation: "records whose bits depend on their batch".into(), error: different, bound: 0.0 })
}

/// Each record is its own nearest neighbour.
fn itself(model: &Model, outputs: &Outputs) -> Result<Check> {
    let width = model.width();
    let n = outputs.features.len() / width;
    let norms: Vec<f32> = outputs.features.chunks_exact(width).map(|h| dot(h, h).sqrt()).collect();
    let source = FactorRows {
        rows: n,
        width,
        classes: 0,
        features: Floats::F32(&outputs.features),
        deltas: &[],
        feature_norms: &norms,
        delta_norms: &vec![0.0; n],
    };
    let queries: Vec<_> = outputs.features.chunks_exact(width).map(|h| Query::feature(h.to_vec())).collect();
    let hits = search::search(&source, &Form::feature_euc(), &queries, 1, &Options::default())?;
    let lost = hits.iter().filter(|hits| hits.proponents[0].score != 0.0).count();
    Ok(Check { operation: "records that do not find themselves first".into(), error: lost as f64, bound: 0.0 })
}

/// How far the model's precision is from f64 through all of it.
fn drift(model: &Model, encodings: &[Encoding], outputs: &Outputs) -> Result<Vec<Check>> {
    let some = &encodings[..encodings.len().min(REFERENCE_RECORDS)];
    let options = LoadOptions { max_length: Some(model.max_length()), ..LoadOptions::default() };
    let exact = Model::open_with(Reference, Path::new(model.directory()), &options)?.run(some, None, &|_| true)?;
    let depth = some.iter().map(|e| e.ids.len()).max().unwrap_or(1) + model.width();
    let bound = model.device().1.unit() * depth as f64;
    let check = |name: &str, found: &[f32], exact: &[f32]| {
        let scale = exact.iter().fold(f64::MIN_POSITIVE, |most, &e| most.max(f64::from(e).abs()));
        let error = found.iter().zip(exact).map(|(&f, &e)| (f64::from(f) - f64::from(e)).abs()).fold(0.0, f64::max);
        Check { operation: format!("{name} against f64"), error: error / scale, bound }
    };
    Ok(vec![check("features", &outputs.features, &exact.features), check("logits", &outputs.logits, &exact.logits)])
}

/// δ against the slope of the loss: central differences, in the logits, in f64.
fn slope(model: &Model, outputs: &Outputs) -> Check {
    let (problem, classes) = (model.problem(), model.classes());
    let mut worst: f64 = 0.0;
    for z in outputs.logits.chunks_exact(classes) {
        let target = other_target(&factors::predict(problem, z));
        let mut delta = vec![0.0; classes];
        factors::loss_and_delta(problem, z, &target, &mut delta);
        for c in 0..classes {
            let at = |step: f32| {
                let mut moved = z.to_vec();
                moved[c] += step;
                f64::from(factors::loss_and_delta(problem, &moved, &target, &mut vec![0.0; classes]))
            };
            let step = 1.0 / 64.0;
            let difference = (at(step) - at(-step)) / (2.0 * f64::from(step));
            worst = worst.max((difference - f64::from(delta[c])).abs());
        }
    }
    // A third derivative of at most 1 over 6 times step², and the losses' own rounding over 2 steps.
    let bound = (1.0 / 64.0_f64).powi(2) / 6.0 + 64.0 * f64::from(f32::EPSILON) * 16.0;
    Check { operation: "δ against the slope of the loss".into(), error: worst, bound }
}

/// Gradients against finite differences: how the first logit grows half-way from zero embeddings to a record's own, as the way back has it and
/// as two central differences extrapolate it. What these differ by bounds how far they are from the truth.
fn gradients(model: &Model, encodings: &[Encoding]) -> Result<Check> {
    const STEP: f32 = 1.0 / 32.0;
    let (mut error, mut bound): (f64, f64) = (0.0, 0.0);
    for encoding in encodings.iter().take(REFERENCE_RECORDS) {
        let alpha = [0.0, -STEP, STEP, -2.0 * STEP, 2.0 * STEP].map(|step| 0.5 + step);
        let (z, slope) = along_path(model, encoding, &alpha)?;
        let differences =
            [(1, 2, 2.0), (3, 4, 4.0)].map(|(low, high, steps)| (z[high] - z[low]) / (steps * f64::from(STEP)));
        let extrapolated = (4.0 * differences[0] - differences[1]) / 3.0;
        let scale = z.iter().fold(f64::MIN_POSITIVE, |most, z| most.max(z.abs()));
        let depth = (encoding.ids.len() + model.width()) as f64;
        let rounding = model.device().1.unit() * depth / f64::from(STEP);
        error = error.max((slope - extrapolated).abs() / scale);
        bound = bound.max((differences[0] - differences[1]).abs() / scale + rounding);
    }
    Ok(Check { operation: "gradients against finite differences".into(), error, bound })
}

/// The first logit at points between zero embeddings and a record's own, and its slope at the first of them.
fn along_path(model: &Model, encoding: &Encoding, alpha: &[f32]) -> Result<(Vec<f64>, f64)> {
    let (points, length) = (alpha.len(), encoding.ids.len());
    let batch = PackedBatch {
        ids: encoding.ids.repeat(points),
        type_ids: encoding.type_ids.repeat(points),
        positions: model.positions().of(&encoding.ids).repeat(points),
        cu_seqlens: (0..=points).map(|point| (point * length) as u32).collect(),
    };
    let path = backend::Path {
        baseline: vec![backend::Path::ZERO; points * length],
        alpha: alpha.to_vec(),
        sigma: vec![0.0; points],
        draws: vec![[0, 0]; points],
        ..backend::Path::default()
    };
    let ask = Ask::Gradient(vec![Objective::Logit(0); points], Fold::Step);
    let probes = Probes { batch, masked: None, path: Some(path), ask, reads: Vec::new() };
    let answers = model.network().probe(vec![probes], &|_| true)?;
    let Answers { outputs, folded, .. } = &answers[0];
    let logits = outputs.logits.chunks_exact(model.classes()).map(|z| f64::from(z[0])).collect();
    Ok((logits, folded[..length].iter().map(|&slope| f64::from(slope)).sum()))
}

/// A target the model does not predict: at the prediction a regression's slope is 0, which would prove nothing.
fn other_target(predicted: &Target) -> Target {
    match predicted {
        Target::Class(_) => Target::Class(0),
        Target::Classes(classes) => Target::Classes(classes.iter().map(|y| 1.0 - y).collect()),
        Target::Values(values) => Target::Values(values.iter().map(|y| y + 1.0).collect()),
    }
}

fn rows<'a>(model: &Model, outputs: &'a Outputs, i: usize) -> (&'a [f32], &'a [f32]) {
    let (e, k) = (model.width(), model.classes());
    (&outputs.features[i * e..(i + 1) * e], &outputs.logits[i * k..(i + 1) * k])
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
