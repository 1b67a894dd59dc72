//! Results on the way out: JSONL, Parquet, or text for a person at a terminal; and back in, to make a page to look at.
//!
//! A result file appears whole or not at all: it is written beside its place and renamed when finished.

mod dirty_label;
mod dirty_part;
mod evaluation;
mod explanation;
mod finding;
mod global_importance;
mod html;
mod improvement;
pub(crate) mod numbers;
#[cfg(feature = "parquet")]
mod parquet;
mod records;
mod results;
mod schema;
mod text;
mod token_predictions;

use std::borrow::Cow;
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;

pub use crate::destination::{Destination, is_special};
pub use dirty_label::{DirtyLabel, NearRecord};
pub use dirty_part::{CorrectedTags, DirtyAnswer, DirtyPart, NearPart, PieceNames};
pub use evaluation::EvaluationRow;
pub use explanation::{Explanation, TargetSpan, WordScore};
pub use finding::{
    BiasFinding, MappedRecord, ProposedRecord, RedundantRecord, SelectedRecord, SparseRecord, UnreliableRecord,
    WeightedRecord,
};
pub use global_importance::GlobalImportance;
pub use html::{DEFAULT_FINDINGS, DEFAULT_LIMIT, Finding, Nothing, Page, PageOptions};
pub use improvement::{AskedRecord, ChangeRecord, ComparedArm, ComparedSet, Comparison, RoundRecord, Spread};
pub(crate) use records::class_kind;
pub use records::{
    Certain, Neighbour, NeighbourGroup, NeighbourList, NeighbourPart, Neighbours, PairDetail, Prediction,
    Probabilities, ScoreError, SearchResult, TokenPairs, class_value,
};
pub use results::{ResultRecord, read_results, result_files};
pub use schema::Kind;
pub use text::{Render, printable};
pub use token_predictions::{
    AnswerSpan, ContextSelection, ContextSentence, EntitySpan, FilledMask, MaskFill, MaskPrediction, SpanPrediction,
    TagPrediction,
};

use crate::error::{Error, Result};

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// The same columns, in Parquet.
    Parquet,
    /// For reading, in colour where it is a terminal.
    Text,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "jsonl" | "json" => Ok(Self::Jsonl),
            "parquet" => Ok(Self::Parquet),
            "text" => Ok(Self::Text),
            _ => Err(format!("expected jsonl, parquet or text, found {name:?}")),
        }
    }
}

impl Format {
    /// The format asked for, else the one `out`'s extension names, else text on a terminal and JSONL in a pipe.
    pub fn choose(asked: Option<Self>, out: Option<&Path>) -> Self {
        asked.unwrap_or_else(|| match out.and_then(Path::extension).and_then(|e| e.to_str()) {
            Some("parquet") => Self::Parquet,
            Some("txt" | "text") => Self::Text,
            None if out.is_none() && console::Term::stdout().is_term() => Self::Text,
            _ => Self::Jsonl,
        })
    }
}

/// Where result records go, in one of the formats.
pub struct RecordWriter {
    destination: Destination,
    encoder: Encoder,
}

enum Encoder {
    Jsonl,
    Text {
        colour: bool,
    },
    #[cfg(feature = "parquet")]
    Parquet(Box<parquet::RowGroups>),
}

impl RecordWriter {
    /// Opens `out` (standard output where `None`). `columns` describes the records: Parquet needs it before the first
    /// one.
    ///
    /// # Errors
    /// Where the file cannot be made, or Parquet is asked for and was left out of this build.
    pub fn create(out: Option<&Path>, format: Format, columns: Vec<(String, Kind)>) -> Result<Self> {
        let destination = Destination::create(out)?;
        let encoder = match format {
            Format::Jsonl => Encoder::Jsonl,
            Format::Text => Encoder::Text { colour: out.is_none() && console::colors_enabled() },
            #[cfg(feature = "parquet")]
            Format::Parquet => Encoder::Parquet(Box::new(parquet::RowGroups::new(columns))),
            #[cfg(not(feature = "parquet"))]
            Format::Parquet => {
                drop(columns);
                return Err(Error::usage("this binary was built without parquet").with_hint("use --format jsonl"));
            }
        };
        Ok(Self { destination, encoder })
    }

    /// Writes one record.
    ///
    /// # Errors
    /// Where the destination does.
    pub fn write<R: Serialize + Render>(&mut self, record: &R) -> Result<()> {
        match &mut self.encoder {
            Encoder::Jsonl => self.write_line(record),
            Encoder::Text { colour } => {
                let plain = record.render(false);
                // Colours are control characters too: a record with some of its own goes without.
                let text = match printable(&plain) {
                    Cow::Borrowed(_) if *colour => record.render(true),
                    shown => shown.into_owned(),
                };
                self.destination.write(text.as_bytes())
            }
            #[cfg(feature = "parquet")]
            Encoder::Parquet(_) => self.write_columns(record, &[]),
        }
    }

    /// Writes one record as Parquet, with lists of 32-bit numbers in place of its own of those names: as values of JSON
    /// long ones would take most of the time.
    ///
    /// # Errors
    /// Where the destination does, or the format is another.
    #[cfg_attr(not(feature = "parquet"), expect(unused_variables, reason = "no format is left that would take it"))]
    pub(crate) fn write_columns<R: Serialize>(&mut self, record: &R, lists: &[(&str, &[f32])]) -> Result<()> {
        match &mut self.encoder {
            Encoder::Jsonl | Encoder::Text { .. } => {
                Err(Error::usage(format!("{} lists beside a record", lists.len())).with_hint("use --format parquet"))
            }
            #[cfg(feature = "parquet")]
            Encoder::Parquet(groups) => {
                let value = serde_json::to_value(record).map_err(|e| self.destination.error(e.into()))?;
                groups.push(&value, lists, &mut self.destination)
            }
        }
    }

    /// Writes one record that is made while it is written, as JSONL: the other formats would hold all of it.
    ///
    /// # Errors
    /// Where the destination does, the record's making does, or the format is another.
    pub fn write_stream<R: Serialize>(&mut self, record: &R) -> Result<()> {
        if matches!(self.encoder, Encoder::Jsonl) {
            return self.write_line(record);
        }
        Err(Error::usage("full rankings are written as JSONL").with_hint("use --format jsonl"))
    }

    fn write_line<R: Serialize>(&mut self, record: &R) -> Result<()> {
        serde_json::to_writer(&mut self.destination, record).map_err(|e| self.destination.error(e.into()))?;
        self.destination.write(b"\n")
    }

    /// Writes what is buffered, syncs and puts the file in its place.
    ///
    /// # Errors
    /// Where the destination does.
    pub fn finish(self) -> Result<()> {
        match self.encoder {
            Encoder::Jsonl | Encoder::Text { .. } => self.destination.finish(),
            #[cfg(feature = "parquet")]
            Encoder::Parquet(groups) => groups.finish(self.destination)?.finish(),
        }
    }
}

#[cfg(feature = "parquet")]
impl From<::parquet::errors::ParquetError> for Error {
    fn from(error: ::parquet::errors::ParquetError) -> Self {
        Self::usage(format!("parquet: {error}"))
    }
}
