//! One block's factors and texts on their way into the store, and what is refused there.

use super::nearest::Nearest;
use super::record::StoredRecord;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::factors::{Int8, LabelVec, Labels};
use crate::model::Problem;

/// The factors and texts of one block's n records, ascending by input record number. Records that were skipped are
/// absent; a block may be empty.
#[derive(Clone, Debug)]
pub struct Block {
    /// b: the block holds the records numbered `b·R .. (b+1)·R`.
    pub number: u64,
    /// Input record numbers, `[n]`.
    pub indices: Vec<u64>,
    /// `h [n, E]`; `[F, E]` where records have several factors.
    pub features: Vec<f32>,
    /// `δ [n, K]`; `[F, K]` where records have several factors.
    pub deltas: Vec<f32>,
    /// Which of those are each record's, where they have several ([`Settings::tokens`]).
    pub bundles: Option<Bundles>,
    /// The records' own labels: `[n]` class ids (single-label; −1 for none), or `[n, K]` rows (NaN for none; headless,
    /// and where records have several factors: empty rows).
    pub labels: LabelVec,
    /// What the model says, in the same form: class ids, 0/1 rows (multi-label) or numbers (regression).
    pub predictions: LabelVec,
    /// The loss δ is the gradient of, `[n]` (headless: zeros).
    pub losses: Vec<f32>,
    /// `(h [n, E], δ [n, K])` of each checkpoint of [`Settings::checkpoints`].
    pub checkpoints: Vec<(Vec<f32>, Vec<f32>)>,
    /// Ids and texts, `[n]`.
    pub records: Vec<StoredRecord>,
    /// What is known from before of how the first records' features are stored.
    pub stored: Stored,
    /// Which of its records the store's first ones find, where features are rounded.
    pub nearest: Option<Nearest>,
    /// See [`super::data_fingerprint`]; over all records of the block, those that were skipped included.
    pub data_fingerprint: String,
}

/// How features are stored that are no more known as they were.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// How far each record's are from what [`Settings::dtype`] keeps of them.
    pub(super) residuals: Vec<f32>,
    /// What is kept, and of each checkpoint's, where that is integers.
    pub(super) integers: Vec<Int8>,
}

/// Whose a block's F factors are, and what else is kept of them. Their gradient is `Σ_f δ_f [h_f; s_f]ᵀ` over a
/// record's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bundles {
    /// Record i's are `offsets[i] .. offsets[i + 1]`, `[n + 1]`.
    pub offsets: Vec<u64>,
    /// s, `[F]`
    pub biases: Vec<f32>,
    /// The class that each δ was taken against, `[F]`.
    pub classes: Vec<i64>,
    /// What rules over features compare, `[n, E]`: the mean h of an answer's tokens, of an entity's words, of masks.
    pub means: Vec<f32>,
}

impl Block {
    /// n.
    pub fn rows(&self) -> usize {
        self.indices.len()
    }

    /// Keeps the records whose number `keep` holds for.
    pub(super) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.nearest.iter_mut().for_each(|nearest| nearest.retain(&keep));
        let n = self.rows();
        let kept: Vec<bool> = self.indices.iter().map(|&index| keep(index)).collect();
        let of_factors = self.bundles.as_ref().map(|bundles| bundles.each_factor(&kept));
        let factors = of_factors.as_ref().unwrap_or(&kept);
        retain(&mut self.features, factors.len(), factors);
        retain(&mut self.deltas, factors.len(), factors);
        retain(&mut self.losses, n, &kept);
        retain(&mut self.stored.residuals, n, &kept);
        self.stored.integers.iter_mut().for_each(|rows| rows.retain(&kept));
        for labels in [&mut self.labels, &mut self.predictions] {
            match labels {
                LabelVec::Classes(classes) => retain(classes, n, &kept),
                LabelVec::Rows(values) => retain(values, n, &kept),
            }
        }
        for (features, deltas) in &mut self.checkpoints {
            retain(features, factors.len(), factors);
            retain(deltas, factors.len(), factors);
        }
        if let Some(bundles) = &mut self.bundles {
            bundles.retain(&kept, factors);
        }
        retain(&mut self.records, n, &kept);
        retain(&mut self.indices, n, &kept);
    }

    /// Puts the records of `later` after this block's; the fingerprint is then that of `later`, which went on from this
    /// block's.
    pub(super) fn extend(&mut self, later: Self) {
        self.indices.extend(later.indices);
        self.features.extend(later.features);
        self.deltas.extend(later.deltas);
        self.losses.extend(later.losses);
        if let (Some(bundles), Some(later)) = (&mut self.bundles, later.bundles) {
            bundles.extend(later);
        }
        if let (Some(nearest), Some(later)) = (&mut self.nearest, later.nearest) {
            nearest.extend(later);
        }
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
        self.check_count("sets of several factors", self.bundles.iter().len(), settings.tokens.iter().len())?;
        let factors = self.bundles.as_ref().map_or(Ok(n), |bundles| self.check_bundles(bundles, e))?;
        self.check_count("features", self.features.len(), factors.saturating_mul(e))?;
        self.check_count("deltas", self.deltas.len(), factors.saturating_mul(k))?;
        self.check_count("losses", self.losses.len(), n)?;
        self.check_count("checkpoints", self.checkpoints.len(), settings.checkpoints.len())?;
        for (features, deltas) in &self.checkpoints {
            self.check_count("checkpoint features", features.len(), factors.saturating_mul(e))?;
            self.check_count("checkpoint deltas", deltas.len(), factors.saturating_mul(k))?;
        }
        Ok(())
    }

    /// How many factors there are.
    fn check_bundles(&self, bundles: &Bundles, e: usize) -> Result<usize> {
        let n = self.rows();
        self.check_count("factor offsets", bundles.offsets.len(), n + 1)?;
        self.check_count("means", bundles.means.len(), n.saturating_mul(e))?;
        let factors = bundles.biases.len();
        self.check_count("classes", bundles.classes.len(), factors)?;
        self.check_finite("mean feature", &bundles.means, e)?;
        if ends_fit(&bundles.offsets, factors) {
            return Ok(factors);
        }
        Err(Error::usage(format!("block {}: factor offsets must ascend from 0 to {factors}", self.number)))
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
            Some(at) => {
                let row = self.bundles.as_ref().filter(|bundles| values.len() == bundles.biases.len() * width);
                let row = row.map_or(at / width, |bundles| bundles.record_of(at / width));
                Err(self.refuse(row, &format!("{what} {} is {}", at % width, values[at])))
            }
        }
    }

    fn check_labels(&self, settings: &Settings) -> Result<()> {
        let (n, k) = (self.rows(), settings.classes);
        if let Some(bundles) = &self.bundles {
            let is_class = |class: &i64| (0..k as i64).contains(class);
            let wrong = bundles.classes.iter().position(|class| !is_class(class));
            return wrong.map_or(Ok(()), |factor| {
                Err(self.refuse(bundles.record_of(factor), "its label is not one the model can have"))
            });
        }
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

impl Bundles {
    /// Whether each factor's record is kept.
    fn each_factor(&self, kept: &[bool]) -> Vec<bool> {
        let own = |(ends, &kept): (&[u64], &bool)| std::iter::repeat_n(kept, (ends[1] - ends[0]) as usize);
        self.offsets.windows(2).zip(kept).flat_map(own).collect()
    }

    /// Keeps some records, and their factors.
    fn retain(&mut self, kept: &[bool], factors: &[bool]) {
        retain(&mut self.means, kept.len(), kept);
        retain(&mut self.biases, factors.len(), factors);
        retain(&mut self.classes, factors.len(), factors);
        let counts: Vec<u64> = self.offsets.windows(2).map(|ends| ends[1] - ends[0]).collect();
        self.offsets.truncate(1);
        for (count, _) in counts.into_iter().zip(kept).filter(|(_, kept)| **kept) {
            self.offsets.push(self.offsets[self.offsets.len() - 1] + count);
        }
    }

    fn extend(&mut self, later: Self) {
        let before = self.biases.len() as u64;
        self.offsets.extend(later.offsets.iter().skip(1).map(|end| before + end));
        self.biases.extend(later.biases);
        self.classes.extend(later.classes);
        self.means.extend(later.means);
    }

    /// The record whose factor this is.
    pub(super) fn record_of(&self, factor: usize) -> usize {
        self.offsets.partition_point(|&start| start <= factor as u64).saturating_sub(1)
    }
}

/// Whether offsets ascend from 0 to `factors`.
pub(super) fn ends_fit(offsets: &[u64], factors: usize) -> bool {
    offsets.first() == Some(&0) && offsets.last() == Some(&(factors as u64)) && offsets.is_sorted()
}

/// Keeps some rows of `values [n, any]`.
fn retain<T>(values: &mut Vec<T>, n: usize, kept: &[bool]) {
    let width = values.len() / n.max(1);
    if width == 0 {
        return;
    }
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
            // Labels may be shares of a class, predictions are made.
            let allowed = match problem {
                Problem::MultiLabel if may_lack => |value: f32| (0.0..=1.0).contains(&value),
                Problem::MultiLabel => |value: f32| value == 0.0 || value == 1.0,
                _ => f32::is_finite,
            };
            let is_label = |row: &[f32]| row.iter().all(|value| allowed(*value));
            let is_absent = |row: &[f32]| may_lack && row.iter().all(|value| value.is_nan());
            values.chunks_exact(k.max(1)).position(|row| !is_label(row) && !is_absent(row))
        }
        _ => return Err(LabelFault::Shape),
    };
    wrong.map_or(Ok(()), |row| Err(LabelFault::Row(row)))
}

fn view(labels: &LabelVec) -> Labels<'_> {
    match labels {
        LabelVec::Classes(classes) => Labels::Classes(classes),
        LabelVec::Rows(values) => Labels::Rows(values),
    }
}
