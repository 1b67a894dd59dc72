//! Records from JSONL, CSV, TSV and Parquet files, plain or compressed, in the order of the files.
//!
//! [`Dataset`] streams: whatever the size of the files, it holds one record (one batch of rows for Parquet), and
//! refuses a line or record of more than 16 MiB without having read it into memory. A record that cannot be used is an
//! [`crate::Error::Record`] with its file and line; reading goes on with the next one, and its number is not given to
//! another, so that numbers mean the same with and without it.
//!
//! CSV is RFC 4180: a quoted field may hold commas, doubled quotes and line breaks. TSV has no quoting, as in GLUE and
//! most corpora (IANA's `text/tab-separated-values`): a record is a line, and a quotation mark is a character. Parquet
//! columns may be strings, numbers, booleans and lists of those. What a label means is the model's business, not this
//! module's.

mod cell;
mod columns;
mod delimited;
mod digest;
mod files;
mod ids;
mod jsonl;
mod lines;
mod objects;
#[cfg(feature = "parquet")]
mod parquet;
mod reader;
mod rejections;
mod shape;
mod squad;

use std::collections::BTreeMap;

pub use columns::{DatasetOptions, Shape};
pub use delimited::quoted_tsv;
pub use digest::Digest;
pub(crate) use files::matches;
pub use ids::IdCheck;
pub(crate) use objects::{each_object, each_row_object};
pub use reader::{Dataset, Place};
pub use rejections::Rejections;

/// One record of the user's data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// 0-based number in the whole input, over all files, records that were skipped included.
    pub index: u64,
    /// The user's id, or the index in decimal where there is none.
    pub id: String,
    /// The first segment.
    pub text: String,
    /// The second segment.
    pub pair: Option<String>,
    /// As written; the model's configuration gives it a meaning.
    pub label: Option<Label>,
    /// Where each word of the text is, in Unicode characters, for records that were given as words ([`Shape::Words`]).
    pub words: Option<Vec<(usize, usize)>>,
    /// The values of [`DatasetOptions::keep_columns`] by name, as written; those that are null are not there.
    pub columns: BTreeMap<String, String>,
}

/// A label as the data file has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Label {
    /// A class id, or a regression value that happens to be whole.
    Integer(i64),
    /// A regression value.
    Number(f64),
    /// A class name, or a number in a column of strings.
    Name(String),
    /// Several classes (ids, names or a 0/1 row), for multi-label models; one a word, for models that tag them.
    Many(Vec<Label>),
    /// The right answers to a question; none where the context has none.
    Answers(Vec<Answer>),
}

/// An answer in a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// As the context has it.
    pub text: String,
    /// Its first Unicode character in the context, where that is said.
    pub start: Option<usize>,
}
