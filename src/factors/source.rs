//! Where refits and curvature read training factors from: a store, or vectors in memory.

use std::ops::Range;

use super::{Floats, Target};
use crate::error::{Error, Result};
use crate::model::Problem;

/// Labels or predictions of consecutive records.
#[derive(Clone, Copy, Debug)]
pub enum Labels<'a> {
    /// `[n]` class ids of a single-label model; negative where a record has none.
    Classes(&'a [i64]),
    /// `[n, K]` 0/1 rows of a multi-label model, or values of a regression; NaN in a row where a record has none.
    Rows(&'a [f32]),
}

impl Labels<'_> {
    /// Those of some of the records, of `classes` outputs each.
    #[must_use]
    pub fn rows(self, rows: Range<usize>, classes: usize) -> Self {
        match self {
            Self::Classes(ids) => Self::Classes(&ids[rows]),
            Self::Rows(values) => Self::Rows(&values[rows.start * classes..rows.end * classes]),
        }
    }

    /// The label of record `row` of a model of `classes` outputs; `None` where it has none.
    pub fn target(&self, row: usize, classes: usize, problem: Problem) -> Option<Target> {
        match self {
            Self::Classes(ids) => usize::try_from(ids[row]).ok().map(Target::Class),
            Self::Rows(values) => {
                let values = values.get(row * classes..(row + 1) * classes)?;
                let there = !values.is_empty() && !values.iter().any(|value| value.is_nan());
                let target = if problem == Problem::MultiLabel { Target::Classes } else { Target::Values };
                there.then(|| target(values.to_vec()))
            }
        }
    }
}

/// Which label a record's δ was taken against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelUsed {
    /// The record's own; the model's prediction where it has none.
    #[default]
    Gold,
    /// The model's prediction.
    Predicted,
}

/// Factors of consecutive records with the labels they were taken against.
#[derive(Clone, Copy, Debug)]
pub struct LabelledRows<'a> {
    /// `h [n, E]`
    pub features: Floats<'a>,
    /// `δ [n, K]`
    pub deltas: &'a [f32],
    /// The records' own labels.
    pub labels: Labels<'a>,
    /// What the model said.
    pub predictions: Labels<'a>,
    /// Which of the two δ was taken against.
    pub used: LabelUsed,
}

impl LabelledRows<'_> {
    /// Some of the rows, of a model of E = `width` and K = `classes`.
    #[must_use]
    pub fn rows(self, rows: Range<usize>, width: usize, classes: usize) -> Self {
        Self {
            features: self.features.slice(rows.start * width..rows.end * width),
            deltas: &self.deltas[rows.start * classes..rows.end * classes],
            labels: self.labels.rows(rows.clone(), classes),
            predictions: self.predictions.rows(rows, classes),
            used: self.used,
        }
    }
}

/// Training factors in a fixed order, in pieces of any size. How the rows are cut into pieces changes no bit of any
/// result.
pub trait FactorSource: Sync {
    /// The loss of the head.
    fn problem(&self) -> Problem;
    /// E.
    fn width(&self) -> usize;
    /// K.
    fn classes(&self) -> usize;
    /// The number of records in each piece.
    fn piece_rows(&self) -> Vec<usize>;
    /// Piece `i`, the same at every call.
    fn piece(&self, i: usize) -> LabelledRows<'_>;
    /// Whether the rows are boundaries of answers ([`super::Bundle`]): δ only names the output, h is the whole gradient
    /// of it, and no constant meets the bias. Their curvature is then the empirical Fisher information
    /// ([`super::Curvature`]).
    fn is_of_boundaries(&self) -> bool {
        false
    }
    /// What the loss of each record of piece `i` counts in a refit, none below 0; 1 for all where there are none. λ is
    /// against their sum over N, so that weights of a mean of 1 leave it what it is.
    fn weights(&self, _i: usize) -> Option<&[f64]> {
        None
    }
    /// Refuses parts that do not belong together, before any is asked for.
    ///
    /// # Errors
    /// [`Error::Usage`]
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// Told when a pass over the data is through with piece `i`: mapped memory may be given back.
    fn release(&self, _i: usize) {}
}

/// Labels in memory; see [`Labels`].
#[derive(Clone, Debug, PartialEq)]
pub enum LabelVec {
    /// `[n]`
    Classes(Vec<i64>),
    /// `[n, K]`
    Rows(Vec<f32>),
}

impl LabelVec {
    /// Of how many records they are, of `classes` each.
    fn rows(&self, classes: usize) -> usize {
        match self {
            Self::Classes(ids) => ids.len(),
            Self::Rows(values) => values.len() / classes.max(1),
        }
    }

    /// Those of records `start .. start + rows`, of `classes` each.
    pub fn slice(&self, start: usize, rows: usize, classes: usize) -> Labels<'_> {
        match self {
            Self::Classes(ids) => Labels::Classes(&ids[start..start + rows]),
            Self::Rows(values) => Labels::Rows(&values[start * classes..(start + rows) * classes]),
        }
    }
}

/// Training factors in memory, each record with the label its δ was taken against.
#[derive(Clone, Debug, PartialEq)]
pub struct InMemory {
    /// The loss of the head.
    pub problem: Problem,
    /// E.
    pub width: usize,
    /// K.
    pub classes: usize,
    /// `h [n, E]`
    pub features: Vec<f32>,
    /// `δ [n, K]`
    pub deltas: Vec<f32>,
    /// What δ was taken against.
    pub labels: LabelVec,
    /// What each record's loss counts in a refit, `[n]`; empty where all count the same.
    pub weights: Vec<f64>,
    /// The most records to hand out at a time.
    pub rows_at_a_time: usize,
}

impl InMemory {
    /// N.
    pub fn rows(&self) -> usize {
        self.features.len() / self.width.max(1)
    }
}

impl FactorSource for InMemory {
    fn problem(&self) -> Problem {
        self.problem
    }

    fn width(&self) -> usize {
        self.width
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn piece_rows(&self) -> Vec<usize> {
        let (rows, most) = (self.rows(), self.rows_at_a_time.max(1));
        (0..rows).step_by(most).map(|start| most.min(rows - start)).collect()
    }

    fn piece(&self, i: usize) -> LabelledRows<'_> {
        let start = i * self.rows_at_a_time.max(1);
        let rows = self.rows_at_a_time.max(1).min(self.rows() - start);
        let labels = self.labels.slice(start, rows, self.classes);
        LabelledRows {
            features: Floats::F32(&self.features[start * self.width..(start + rows) * self.width]),
            deltas: &self.deltas[start * self.classes..(start + rows) * self.classes],
            labels,
            predictions: labels,
            used: LabelUsed::Gold,
        }
    }

    fn check(&self) -> Result<()> {
        let (rows, labels) = (self.rows(), self.labels.rows(self.classes));
        let lengths = [
            ("features", self.features.len(), rows * self.width),
            ("δ", self.deltas.len(), rows * self.classes),
            ("labels", labels, rows),
            ("weights", self.weights.len(), if self.weights.is_empty() { 0 } else { rows }),
        ];
        match lengths.into_iter().find(|(_, found, expected)| found != expected) {
            Some((what, found, expected)) => {
                Err(Error::usage(format!("{what} of {rows} training records: expected {expected}, found {found}")))
            }
            None => Ok(()),
        }
    }

    fn weights(&self, i: usize) -> Option<&[f64]> {
        let most = self.rows_at_a_time.max(1);
        (!self.weights.is_empty()).then(|| self.weights.chunks(most).nth(i).unwrap_or_default())
    }
}
