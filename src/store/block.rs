//! One block's factors and texts on their way into the store, and what is refused there.

use serde::{Deserialize, Serialize};

use super::record::StoredRecord;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::factors::{LabelVec, Labels};
use crate::model::Problem;

/// The factors and texts of one block's n records, ascending by input record number. Records that were skipped are absent; a block
/// may be empty.
#[derive(Clone, Debug)]
pub struct Block {
    /// b: the block holds the records numbered `b·R .. (b+1)·R`.
    pub number: u64,
    /// Input record numbers, `[n]`.
    pub indices: Vec<u64>,
    /// `h [n, E]`
    pub features: Vec<f32>,
    /// `δ [n, K]`
    pub deltas: Vec<f32>,
    /// The records' own labels: `[n]` class ids (single-label; −1 for none), or `[n, K]` rows (NaN for none; headless: empty).
    pub labels: LabelVec,
    /// What the model says, in the same form: class ids, 0/1 rows (multi-label) or numbers (regression).
    pub predictions: LabelVec,
    /// The loss δ is the gradient of, `[n]` (headless: zeros).
    pub losses: Vec<f32>,
    /// `(h [n, E], δ [n, K])` of each checkpoint of [`Settings::checkpoints`].
    pub checkpoints: Vec<(Vec<f32>, Vec<f32>)>,
    /// Ids and texts, `[n]`.
    pub records: Vec<StoredRecord>,
    /// How far each record's features are from what [`Settings::dtype`] keeps of them, `[n]`, where that is known from before; else empty.
    pub residuals: Vec<f32>,
    /// What of the nearest records the stored features find, where that was measured.
    pub recall: Option<Recall>,
    /// See [`super::data_fingerprint`]; over all records of the block, those that were skipped included.
    pub data_fingerprint: String,
}

/// How well rounded features find what the features they were rounded from find: of some records' ten nearest others in their block, by
/// the cosine, how many are among the ten nearest by both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recall {
    /// The records that asked.
    pub queries: u64,
    /// The nearest of all of them together.
    pub wanted: u64,
    /// Those of them that are found.
    pub found: u64,
}

impl Recall {
    /// Both together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        let Self { queries, wanted, found } = other;
        Self { queries: self.queries + queries, wanted: self.wanted + wanted, found: self.found + found }
    }

    /// The share that is found; 1 where there was nothing to find.
    pub fn share(&self) -> f64 {
        if self.wanted == 0 { 1.0 } else { self.found as f64 / self.wanted as f64 }
    }
}

impl Block {
    /// n.
    pub fn rows(&self) -> usize {
        self.indices.len()
    }

    /// Keeps the records whose number `keep` holds for.
    pub(super) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        let n = self.rows();
        let kept: Vec<bool> = self.indices.iter().map(|&index| keep(index)).collect();
        retain(&mut self.features, n, &kept);
        retain(&mut self.deltas, n, &kept);
        retain(&mut self.losses, n, &kept);
        retain(&mut self.residuals, n, &kept);
        for labels in [&mut self.labels, &mut self.predictions] {
            match labels {
                LabelVec::Classes(classes) => retain(classes, n, &kept),
                LabelVec::Rows(values) => retain(values, n, &kept),
            }
        }
        for (features, deltas) in &mut self.checkpoints {
            retain(features, n, &kept);
            retain(deltas, n, &kept);
        }
        retain(&mut self.records, n, &kept);
        retain(&mut self.indices, n, &kept);
    }

    /// Puts the records of `later` after this block's; the fingerprint is then that of `later`, which went on from this block's.
    pub(super) fn extend(&mut self, later: Self) {
        self.indices.extend(later.indices);
        self.features.extend(later.features);
        self.deltas.extend(later.deltas);
        self.losses.extend(later.losses);
        self.residuals.extend(later.residuals);
        self.recall = match (self.recall, later.recall) {
            (Some(recall), Some(later)) => Some(recall.with(later)),
            (recall, later) => recall.or(later),
        };
        for (labels, later) in [(&mut self.labels, later.labels), (&mut self.predictions, later.predictions)] {
            match (labels, later) {
                (LabelVec::Classes(labels), LabelVec::Classes(later)) => labels.extend(later),
                (LabelVec::Rows(labels), LabelVec::Rows(later)) => labels.extend(later),
                // Of another kind, which the check of the whole block will tell.
                (labels, later) => *labels = later,
            }
        }
        for ((features, deltas), later) in self.checkpoints.iter_mut().zip(later.checkpoints) {
            features.extend(later.0);
            deltas.extend(later.1);
        }
        self.records.extend(later.records);
        self.data_fingerprint = later.data_fingerprint;
    }

    /// Whether everything has the shape the settings say, and every number is one that can be searched.
    pub(super) fn check(&self, settings: &Settings) -> Result<()> {
        self.check_shapes(settings)?;
        self.check_indices(settings.block_records)?;
        self.check_finite("feature", &self.features, settings.width)?;
        self.check_finite("delta", &self.deltas, settings.delta_width())?;
        self.check_finite("loss", &self.losses, 1)?;
        for (features, deltas) in &self.checkpoints {
            self.check_finite("checkpoint feature", features, settings.width)?;
            self.check_finite("checkpoint delta", deltas, settings.delta_width())?;
        }
        self.check_labels(settings)
    }

    fn check_shapes(&self, settings: &Settings) -> Result<()> {
        let (n, e, k) = (self.rows(), settings.width, settings.delta_width());
        self.check_count("records", self.records.len(), n)?;
        self.check_count("features", self.features.len(), n.saturating_mul(e))?;
        self.check_count("deltas", self.deltas.len(), n.saturating_mul(k))?;
        self.check_count("losses", self.losses.len(), n)?;
        if !self.residuals.is_empty() {
            self.check_count("residuals", self.residuals.len(), n)?;
        }
        self.check_count("checkpoints", self.checkpoints.len(), settings.checkpoints.len())?;
        for (features, deltas) in &self.checkpoints {
            self.check_count("checkpoint features", features.len(), n.saturating_mul(e))?;
            self.check_count("checkpoint deltas", deltas.len(), n.saturating_mul(k))?;
        }
        Ok(())
    }

    fn check_count(&self, what: &str, found: usize, expected: usize) -> Result<()> {
        if found == expected {
            return Ok(());
        }
        Err(Error::usage(format!("block {}: {what}: expected {expected}, found {found}", self.number)))
    }

    fn check_indices(&self, block_records: u64) -> Result<()> {
        let inside = self.indices.iter().all(|index| index / block_records == self.number);
        if inside && self.indices.is_sorted_by(|a, b| a < b) {
            return Ok(());
        }
        Err(Error::usage(format!("block {}: record numbers must ascend and lie in the block", self.number)))
    }

    fn check_finite(&self, what: &str, values: &[f32], width: usize) -> Result<()> {
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(at) => Err(self.refuse(at / width, &format!("{what} {} is {}", at % width, values[at]))),
        }
    }

    fn check_labels(&self, settings: &Settings) -> Result<()> {
        let (n, k) = (self.rows(), settings.classes);
        let check = |what, column, may_lack| {
            check_column(column, settings.problem, n, k, may_lack).map_err(|fault| self.refuse_label(what, fault))
        };
        check("label", view(&self.labels), true)?;
        check("prediction", view(&self.predictions), false)
    }

    fn refuse_label(&self, what: &str, fault: LabelFault) -> Error {
        match fault {
            LabelFault::Row(row) => self.refuse(row, &format!("its {what} is not one the model can have")),
            LabelFault::Shape => Error::usage(format!("block {}: {what}s: wrong kind or number", self.number)),
        }
    }

    /// An error that names a record: something upstream computed what no search could use.
    pub(super) fn refuse(&self, row: usize, what: &str) -> Error {
        let (index, id) = (self.indices[row], &self.records[row].id);
        Error::Usage(
            format!("record {index} (id `{id}`): {what}"),
            Some("check the model's weights and this record; features, losses and labels must be finite".into()),
        )
    }
}

/// Keeps some rows of `values [n, any]`.
fn retain<T>(values: &mut Vec<T>, n: usize, kept: &[bool]) {
    let width = values.len() / n.max(1);
    let mut at = 0;
    values.retain(|_| {
        at += 1;
        kept[(at - 1) / width]
    });
}

/// What is wrong with a column of labels.
#[derive(Clone, Copy)]
pub(super) enum LabelFault {
    /// Not the kind or number the problem asks for.
    Shape,
    /// This row's label is none.
    Row(usize),
}

/// Whether labels (which may be absent) or predictions (which may not) of `n` records are what the problem asks for.
pub(super) fn check_column(
    column: Labels<'_>,
    problem: Problem,
    n: usize,
    k: usize,
    may_lack: bool,
) -> std::result::Result<(), LabelFault> {
    let wrong = match (problem, column) {
        (Problem::SingleLabel, Labels::Classes(classes)) if classes.len() == n => {
            let lowest = if may_lack { -1 } else { 0 };
            classes.iter().position(|class| !(lowest..k as i64).contains(class))
        }
        (Problem::MultiLabel | Problem::Regression | Problem::Headless, Labels::Rows(values))
            if values.len() == n.saturating_mul(k) =>
        {
            let allowed = if problem == Problem::MultiLabel { is_bit } else { f32::is_finite };
            let is_label = |row: &[f32]| row.iter().all(|value| allowed(*value));
            let is_absent = |row: &[f32]| may_lack && row.iter().all(|value| value.is_nan());
            values.chunks_exact(k.max(1)).position(|row| !is_label(row) && !is_absent(row))
        }
        _ => return Err(LabelFault::Shape),
    };
    wrong.map_or(Ok(()), |row| Err(LabelFault::Row(row)))
}

fn is_bit(value: f32) -> bool {
    value == 0.0 || value == 1.0
}

fn view(labels: &LabelVec) -> Labels<'_> {
    match labels {
        LabelVec::Classes(classes) => Labels::Classes(classes),
        LabelVec::Rows(values) => Labels::Rows(values),
    }
}
