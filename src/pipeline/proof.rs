//! A proof of a user's own model on some of their own records: does it do here what the formulas say?

use std::path::Path;

use super::sequences::{Sequence, run_sequences, sequence};
use super::{Rejections, Settings};
use crate::backend::check::Check;
use crate::backend::cpu::dot;
use crate::backend::reference::Reference;
use crate::backend::{self, Fold, Objective};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::factors::{self, FactorRows, Floats, Target};
use crate::model::{Answers, Ask, LoadOptions, Model, Outputs, Probes, Problem, Reads, Task};
use crate::search::{self, Form, Options, Query};
use crate::tokens::PackedBatch;

/// Records looked at: enough to meet every length, few enough for the f64 reference.
const RECORDS: usize = 48;
/// Records that the f64 reference runs.
const REFERENCE_RECORDS: usize = 8;
/// Of those, the shortest, whose gradients are looked at: ten passes each.
const DIFFERENCED_RECORDS: usize = 2;
/// Logits that a loss's slope is looked at in, spread over all of them.
const SLOPES: usize = 64;

/// Runs the proof.
///
/// # Errors
/// Where the records cannot be read or run; a check that fails is a result, not an error.
pub fn prove(model: &Model, dataset: Dataset, settings: &Settings, rejections: &mut Rejections) -> Result<Vec<Check>> {
    let sequences = sample(model, dataset, rejections)?;
    let outputs = run_sequences(model, &sequences, settings.batch_tokens, &|_| true)?;
    let exact = reference(model)?;
    let mut checks = vec![alone(model, &sequences, &outputs)?, itself(model, &outputs)?];
    checks.extend(drift(model, &exact, &sequences, &outputs)?);
    if model.problem() != Problem::Headless {
        checks.push(slope(model, &outputs));
        checks.extend(gradients(model, &exact, &sequences)?);
    }
    Ok(checks)
}

/// The same model in f64.
fn reference(model: &Model) -> Result<Model> {
    let masks = model.task() == Task::Masks;
    let options = LoadOptions { max_length: Some(model.max_length()), masks, ..LoadOptions::default() };
    Model::open_with(Reference, Path::new(model.directory()), &options)
}

fn sample(model: &Model, mut dataset: Dataset, rejections: &mut Rejections) -> Result<Vec<Sequence>> {
    let mut sequences = Vec::new();
    while sequences.len() < RECORDS {
        let Some(record) = dataset.next() else { break };
        let place = dataset.place();
        match record.and_then(|record| sequence(model, &record).map_err(|reason| place.error(reason))) {
            Ok(sequence) => sequences.push(sequence),
            Err(error) => rejections.take(error)?,
        }
    }
    if sequences.is_empty() { Err(Error::usage("no records to prove the model on")) } else { Ok(sequences) }
}

/// Each record alone gives the bits it gave in company.
fn alone(model: &Model, sequences: &[Sequence], together: &[Outputs]) -> Result<Check> {
    let mut different = 0.0;
    for (sequence, together) in sequences.iter().zip(together) {
        let one = run_sequences(model, std::slice::from_ref(sequence), None, &|_| true)?;
        if bits(&one[0].features) != bits(&together.features) || bits(&one[0].logits) != bits(&together.logits) {
            different += 1.0;
        }
    }
    Ok(Check { operation: "records whose bits depend on their batch".into(), error: different, bound: 0.0 })
}

/// Each record is its own nearest neighbour, by the first of its features where each token has some.
fn itself(model: &Model, outputs: &[Outputs]) -> Result<Check> {
    let width = model.width();
    let features: Vec<f32> = outputs.iter().flat_map(|outputs| &outputs.features[..width]).copied().collect();
    let norms: Vec<f32> = features.chunks_exact(width).map(|h| dot(h, h).sqrt()).collect();
    let source = FactorRows {
        rows: outputs.len(),
        width,
        classes: 0,
        features: Floats::F32(&features),
        deltas: &[],
        feature_norms: &norms,
        delta_norms: &vec![0.0; outputs.len()],
    };
    let queries: Vec<_> = features.chunks_exact(width).map(|h| Query::feature(h.to_vec())).collect();
    let hits = search::search(&source, &Form::feature_euc(), &queries, 1, &Options::default())?;
    let lost = hits.iter().filter(|hits| hits.proponents[0].score != 0.0).count();
    Ok(Check { operation: "records that do not find themselves first".into(), error: lost as f64, bound: 0.0 })
}

/// How far the model's precision is from f64 through all of it.
fn drift(model: &Model, exact: &Model, sequences: &[Sequence], outputs: &[Outputs]) -> Result<Vec<Check>> {
    let some = &sequences[..sequences.len().min(REFERENCE_RECORDS)];
    let exact = run_sequences(exact, some, None, &|_| true)?;
    let depth = some.iter().map(|(encoding, _)| encoding.ids.len()).max().unwrap_or(1) + model.width();
    let bound = model.device().1.unit() * depth as f64;
    let check = |name: &str, of: fn(&Outputs) -> &Vec<f32>| {
        let pairs = exact.iter().zip(outputs).flat_map(|(exact, found)| of(exact).iter().zip(of(found)));
        let (mut scale, mut error) = (f64::MIN_POSITIVE, 0.0_f64);
        for (&exact, &found) in pairs {
            scale = scale.max(f64::from(exact).abs());
            error = error.max((f64::from(found) - f64::from(exact)).abs());
        }
        Check { operation: format!("{name} against f64"), error: error / scale, bound }
    };
    Ok(vec![check("features", |outputs| &outputs.features), check("logits", |outputs| &outputs.logits)])
}

/// δ against the slope of the loss: central differences, in the logits, in f64.
fn slope(model: &Model, outputs: &[Outputs]) -> Check {
    const STEP: f32 = 1.0 / 64.0;
    let problem = model.problem();
    let mut worst: f64 = 0.0;
    for z in outputs.iter().flat_map(|outputs| of_one_loss(model, &outputs.logits)) {
        let target = other_target(&factors::predict(problem, &z));
        let mut delta = vec![0.0; z.len()];
        factors::loss_and_delta(problem, &z, &target, &mut delta);
        for c in (0..z.len()).step_by(z.len().div_ceil(SLOPES)) {
            let at = |step: f32| {
                let mut moved = z.clone();
                moved[c] += step;
                f64::from(factors::loss_and_delta(problem, &moved, &target, &mut vec![0.0; z.len()]))
            };
            let difference = (at(STEP) - at(-STEP)) / (2.0 * f64::from(STEP));
            worst = worst.max((difference - f64::from(delta[c])).abs());
        }
    }
    // A third derivative of at most 1 over 6 times step², and the losses' own rounding over 2 steps.
    let bound = f64::from(STEP).powi(2) / 6.0 + 64.0 * f64::from(f32::EPSILON) * 16.0;
    Check { operation: "δ against the slope of the loss".into(), error: worst, bound }
}

/// The logits that a loss is of, each: a row's, but of answers all tokens' as starts, and all as ends.
fn of_one_loss(model: &Model, logits: &[f32]) -> Vec<Vec<f32>> {
    let classes = model.classes();
    if model.task() == Task::Spans {
        (0..classes).map(|c| logits.iter().skip(c).step_by(classes).copied().collect()).collect()
    } else {
        logits.chunks_exact(classes).map(<[f32]>::to_vec).collect()
    }
}

/// How the first logit grows half-way from zero embeddings to a record's own, as the way back has it: against f64, and
/// against the growth between points on both sides. By the mean value theorem that is between the least and the
/// greatest slope there, whatever kinks activations have; two such differences tell how far the points that were looked
/// at are from all.
fn gradients(model: &Model, exact: &Model, sequences: &[Sequence]) -> Result<[Check; 2]> {
    /// Smaller ones lose to the rounding of the logits, which are told in f32.
    const STEP: f64 = 1.0 / 2048.0;
    let alpha = [0.0, -1.0, 1.0, -2.0, 2.0].map(|steps| (0.5 + steps * STEP) as f32);
    let mut some: Vec<&Sequence> = sequences.iter().take(REFERENCE_RECORDS).collect();
    some.sort_by_key(|(encoding, _)| encoding.ids.len());
    let new = |operation: &str| Check { operation: operation.into(), error: 0.0, bound: 0.0 };
    let mut checks = [new("gradients against f64"), new("gradients against finite differences")];
    for sequence in some.into_iter().take(DIFFERENCED_RECORDS) {
        let (_, parts) = along_path(model, sequence, &alpha)?;
        let (z, exact) = along_path(exact, sequence, &alpha)?;
        let logit = z.iter().fold(f64::MIN_POSITIVE, |most, z| most.max(z.abs()));
        let scale = exact[0].iter().map(|part| part.abs()).sum::<f64>().max(logit);
        let rounding = model.device().1.unit() * (sequence.0.ids.len() + model.width()) as f64;
        let apart = |(part, exact): (&f64, &f64)| (part - exact).abs();
        let from_exact = parts[0].iter().zip(&exact[0]).map(apart).fold(0.0, f64::max);

        // Half-way, and at the nearer two.
        let slopes = parts[..3].iter().map(|parts| parts.iter().sum::<f64>());
        let (least, most) =
            slopes.fold((f64::MAX, f64::MIN), |(least, most), slope| (least.min(slope), most.max(slope)));
        let [near, far] = [(1, 2, 2.0), (3, 4, 4.0)].map(|(low, high, steps)| (z[high] - z[low]) / (steps * STEP));
        let outside = (near - most).max(least - near).max(0.0);
        let unseen = (near - far).abs() / scale + f64::from(f32::EPSILON) / STEP;
        for (check, error, bound) in [(0, from_exact, rounding), (1, outside, rounding + unseen)] {
            checks[check].error = checks[check].error.max(error / scale);
            checks[check].bound = checks[check].bound.max(bound);
        }
    }
    Ok(checks)
}

/// The first logit, of the first token that is read, at points between zero embeddings and a record's own, and what
/// each token adds to its slope there.
fn along_path(model: &Model, (encoding, reads): &Sequence, alpha: &[f32]) -> Result<(Vec<f64>, Vec<Vec<f64>>)> {
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
    let reads = reads.first().map_or_else(Vec::new, |&first| vec![Reads::from([first]); points]);
    let probes = Probes { batch, masked: None, path: Some(path), ask, reads };
    let answers = model.network().probe(vec![probes], &|_| true)?;
    let Answers { outputs, folded, .. } = &answers[0];
    let logits = outputs.logits.chunks_exact(model.classes()).map(|z| f64::from(z[0])).collect();
    let wide = |parts: &[f32]| parts.iter().map(|&part| f64::from(part)).collect();
    Ok((logits, folded.chunks_exact(length).map(wide).collect()))
}

/// A target the model does not predict: at the prediction a regression's slope is 0, which would prove nothing.
fn other_target(predicted: &Target) -> Target {
    match predicted {
        Target::Class(_) => Target::Class(0),
        Target::Classes(classes) => Target::Classes(classes.iter().map(|y| 1.0 - y).collect()),
        Target::Values(values) => Target::Values(values.iter().map(|y| y + 1.0).collect()),
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
