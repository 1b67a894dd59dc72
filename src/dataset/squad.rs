//! Questions nested as SQuAD has them: `data` > `paragraphs` > `context`, `qas`.
//!
//! Such a file is one JSON value, so it is read whole; the rows share nothing but what they copy of it.

use std::io::Read;
use std::vec::IntoIter;

use serde::Deserialize;

use super::cell::{Cell, Row};
use super::files::{Counter, Input};
use super::reader::Source;
use crate::error::{Error, Result};

/// As much of a file as tells what it is.
const HEAD_BYTES: u64 = 4096;

#[derive(Deserialize)]
struct File {
    data: Vec<Article>,
}

#[derive(Deserialize)]
struct Article {
    paragraphs: Vec<Paragraph>,
}

#[derive(Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    id: Cell,
    question: String,
    #[serde(default)]
    answers: Cell,
    #[serde(default)]
    is_impossible: bool,
}

/// Whether a file of JSON is one value of this kind, rather than a record a line: its first object has no question, and
/// has `data`.
pub(super) fn is_nested(input: &Input) -> Result<bool> {
    if input.len.is_none() {
        return Ok(false);
    }
    let mut head = Vec::new();
    let mut bytes = input.bytes(&Counter::default())?.take(HEAD_BYTES);
    bytes.read_to_end(&mut head).map_err(Error::io(&input.path))?;
    let line = head.split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
    let is_record = serde_json::from_slice::<serde_json::Value>(line).is_ok_and(|value| value.get("data").is_none());
    Ok(!is_record && head.windows(6).any(|six| six == b"\"data\""))
}

/// The questions of a file, in its order; the line of each is its number.
pub(super) fn open(input: &Input, counter: &Counter) -> Result<Questions> {
    let mut bytes = Vec::new();
    input.bytes(counter)?.read_to_end(&mut bytes).map_err(Error::io(&input.path))?;
    let file: File = serde_json::from_slice(&bytes).map_err(|error| {
        Error::format(&input.path, format!("expected SQuAD's data > paragraphs > context, qas: {error}"))
    })?;
    let paragraphs = file.data.into_iter().flat_map(|article| article.paragraphs);
    let rows = paragraphs.flat_map(|Paragraph { context, qas }| qas.into_iter().map(move |of| of.row(&context)));
    let mut rows: Vec<Row> = rows.collect();
    rows.iter_mut().zip(1..).for_each(|(row, line)| row.line = line);
    Ok(Questions(rows.into_iter()))
}

impl Entry {
    fn row(self, context: &str) -> Row {
        Row {
            line: 0,
            id: self.id,
            text: Cell::Text(self.question),
            pair: Cell::Text(context.to_owned()),
            label: if self.is_impossible { Cell::List(Vec::new()) } else { self.answers },
            ..Row::default()
        }
    }
}

/// The rows of a file.
pub(super) struct Questions(IntoIter<Row>);

impl Source for Questions {
    fn next_row(&mut self) -> Option<Result<Row>> {
        self.0.next().map(Ok)
    }
}
