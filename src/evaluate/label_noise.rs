//! Label-noise recovery: labels of a share of the training records are turned, a model is trained on them, and what
//! ranks suspect labels is asked which they were.
//!
//! Signals are those of [`crate::audit::dirty()`], read off a store of the model that learnt the turned labels, and two
//! that need no audit: the record's own loss, and the length of its gradient over the whole model (self-influence
//! without a curvature), projected.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::learn::{learn, settle};
use super::retraining::Retraining;
use super::table::Table;
use super::units::{count, first, order};
use super::{area_under_roc, average_precision};
use crate::audit::{self, DirtyOptions, Signal};
use crate::dataset::{Dataset, DatasetOptions, Record};
use crate::error::{Error, Result};
use crate::factors::Target;
use crate::interrupt;
use crate::model::{Model, Problem, Projection};
use crate::pipeline::{IndexOptions, Rejections, Settings, index};
use crate::random::{Purpose, Stream, uniform};
use crate::report::Destination;
use crate::search;
use crate::store::{Shard, Store, data_fingerprint};

/// How labels are turned, and what learns them.
#[derive(Clone, Debug)]
pub struct NoiseOptions {
    /// The share of records whose label is turned to another class, each as likely.
    pub share: f64,
    /// What is trained on them.
    pub retraining: Retraining,
    /// How gradients of the whole model are projected, for the signal that reads them.
    pub projection: Projection,
    /// Of every draw.
    pub seed: u64,
}

/// How well one signal finds turned labels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recovery {
    /// `label-noise`
    pub yardstick: &'static str,
    /// The signal, `loss`, `gradient-length` or `random`.
    pub signal: String,
    /// The probability that a turned label is more suspect than another.
    pub auc: Option<f64>,
    /// The mean precision at each turned label, from the most suspect record down.
    pub average_precision: Option<f64>,
    /// Records.
    pub records: u64,
    /// Those whose label was turned.
    pub turned: u64,
}

impl Recovery {
    /// All signals side by side, the best first.
    pub fn table(list: &[Self]) -> Table {
        let mut sorted: Vec<&Self> = list.iter().collect();
        sorted.sort_by(|a, b| b.average_precision.unwrap_or(0.0).total_cmp(&a.average_precision.unwrap_or(0.0)));
        let mut table = Table::new(&["signal", "AUC ↑", "average precision ↑"]);
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
        for row in sorted {
            table.push(vec![row.signal.clone(), cell(row.auc), cell(row.average_precision)]);
        }
        if let Some(Self { records, turned, .. }) = list.first() {
            table.note(format!("{turned} of {records} labels were turned"));
        }
        table
    }
}

/// Turns labels, trains, and asks every signal. What is made on the way lies in `folder`, which should be empty.
///
/// # Errors
/// [`Error::Usage`] for a model that is no classifier of one label, or a share that turns none or all; as training,
/// indexing and the audit.
pub fn label_noise(
    model: &Model,
    training: Dataset,
    folder: &Path,
    options: &NoiseOptions,
    settings: &Settings,
    rejections: &mut Rejections,
) -> Result<Vec<Recovery>> {
    if model.problem() != Problem::SingleLabel {
        return Err(Error::usage(format!(
            "{}: expected a classifier of one label, whose labels can be turned",
            model.name()
        )));
    }
    let records = labelled(model, training, rejections)?;
    if records.len() < 2 {
        let found = format!("label-noise: expected at least 2 records with a label, found {}", records.len());
        return Err(Error::usage(found));
    }
    let turned = turned(records.len(), options)?;
    settle(
        folder,
        &json!({
            "model": model.fingerprint(), "data": data_fingerprint(records.iter().map(|(record, _)| record)), "share": options.share,
            "seed": options.seed, "retraining": options.retraining.described(model), "projection": options.projection,
        }),
    )?;
    let data = folder.join("turned.jsonl");
    write(model.classes(), &records, &turned, &data, options.seed)?;
    let open = || {
        Dataset::open(DatasetOptions { files: vec![data.to_string_lossy().into_owned()], ..DatasetOptions::default() })
    };
    let learnt = learn(model, open, &folder.join("model"), &options.retraining, options.seed, settings)?;
    let store = |name: &str, gradients: Option<Projection>| -> Result<Store> {
        let (to, all) = (folder.join(name), IndexOptions { gradients, resume: true, ..IndexOptions::default() });
        index(&learnt, open()?, &to, &all, settings, &mut Rejections::new(false, None))?;
        Store::open(to)
    };
    let (last, whole) = (store("last", None)?, store("whole", Some(options.projection))?);
    let mut rows = Vec::new();
    let mut judge = |signal: &str, scores: &[f32]| {
        let scores: Vec<f64> = scores.iter().map(|&score| f64::from(score)).collect();
        rows.push(Recovery {
            yardstick: "label-noise",
            signal: signal.to_owned(),
            auc: area_under_roc(&scores, &turned),
            average_precision: average_precision(&scores, &turned),
            records: turned.len() as u64,
            turned: turned.iter().filter(|&&turned| turned).count() as u64,
        });
    };
    let audited = audit::dirty(&last, &dirty_options(options.seed))?;
    judge(Signal::Combined.name(), &audited.scores);
    audited.signals.iter().for_each(|(signal, scores)| judge(signal.name(), scores));
    let losses: Vec<f32> = last.shards().iter().flat_map(Shard::losses).copied().collect();
    judge("loss", &losses);
    judge("gradient-length", &lengths(&whole));
    let stream = Stream::new(options.seed, Purpose::Chance);
    let draws: Vec<f32> = (0..turned.len()).map(|row| uniform(stream.block([row as u32, 1, 0, 0])[0])).collect();
    judge("random", &draws);
    Ok(rows)
}

fn dirty_options(seed: u64) -> DirtyOptions<'static> {
    DirtyOptions {
        signal: Signal::Combined,
        neighbours: 10,
        dynamics: None,
        penalty: 0.06,
        damping: 0.01,
        seed,
        search: search::Options::default(),
        keep_going: &|| !interrupt::asked(),
    }
}

/// `‖dL/df · φ‖` of each record.
fn lengths(store: &Store) -> Vec<f32> {
    let of_shard = |factors: crate::factors::FactorRows<'_>| {
        let rows = factors.feature_norms.iter().zip(factors.deltas);
        rows.map(|(norm, slope)| norm * slope.abs()).collect::<Vec<f32>>()
    };
    store.shards().iter().flat_map(|shard| of_shard(shard.factors())).collect()
}

/// The records with a label of the model's, each with its class.
fn labelled(model: &Model, training: Dataset, rejections: &mut Rejections) -> Result<Vec<(Record, usize)>> {
    let (mut training, mut records) = (training.labelled(), Vec::new());
    while let Some(record) = training.next() {
        interrupt::check()?;
        let known = record.and_then(|record| match record.label.as_ref().map(|label| model.resolve_label(label)) {
            Some(Ok(Target::Class(class))) => Ok((record, class)),
            Some(Err(reason)) => Err(training.place().error(reason)),
            _ => Err(training.place().error("label: expected one class".to_owned())),
        });
        match known {
            Ok(known) => records.push(known),
            Err(error) => rejections.take(error)?,
        }
    }
    Ok(records)
}

/// Which records' labels are turned: those with the greatest of their draws.
fn turned(records: usize, options: &NoiseOptions) -> Result<Vec<bool>> {
    let wanted = count(options.share, records);
    if !(options.share > 0.0 && options.share < 1.0) || wanted == 0 || wanted == records {
        return Err(Error::usage(format!(
            "--share: expected one that turns some of {records} labels and not all, found {}",
            options.share
        )));
    }
    let stream = Stream::new(options.seed, Purpose::Subsets);
    let keys: Vec<f64> =
        (0..records).map(|row| f64::from(uniform(stream.block([row as u32, 1, 0, u32::MAX])[0]))).collect();
    Ok(first(&order(&keys), wanted))
}

fn write(classes: usize, records: &[(Record, usize)], turned: &[bool], to: &Path, seed: u64) -> Result<()> {
    let stream = Stream::new(seed, Purpose::Subsets);
    let mut file = Destination::create(Some(to))?;
    for (row, (&(ref record, class), &turned)) in records.iter().zip(turned).enumerate() {
        let by = 1 + stream.block([row as u32, 2, 0, u32::MAX])[0] as usize % (classes - 1).max(1);
        let class = if turned { (class + by) % classes } else { class };
        let line = json!({ "id": record.id, "text": record.text, "text_pair": record.pair, "label": class });
        file.write(format!("{line}\n").as_bytes())?;
    }
    file.finish()
}
