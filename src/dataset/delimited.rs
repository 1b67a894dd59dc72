//! Comma- and tab-separated files.
//!
//! The parser is our own because it must be stricter than the usual ones, which read on past text after a closing quote
//! and take a quote that is never closed as one field up to the end of the file. Here both are the fault of the record
//! they began in, and reading resumes on the line after the one where it began, so that one stray quote costs one
//! record.

use std::sync::OnceLock;

use serde_json::Value;

use super::Place;
use super::cell::{Cell, Row};
use super::columns::{DatasetOptions, Layout, Wanted};
use super::lines::{Found, Lines, RECORD_LIMIT, as_text, too_long, without_end};
use super::objects::Taker;
use super::reader::Source;
use crate::error::{Error, Result};

/// The first field of a TSV file that looks as if somebody had quoted it, for messages: there is no error in it.
static QUOTED: OnceLock<String> = OnceLock::new();

/// What there is to say of quotes in the TSV files that were read so far.
pub fn quoted_tsv() -> Option<&'static str> {
    QUOTED.get().map(String::as_str)
}

/// Whether a field is as CSV writes one that holds a quotation mark.
fn is_quoted(field: &str) -> bool {
    let inner = field.strip_prefix('"').and_then(|field| field.strip_suffix('"'));
    inner.is_some_and(|inner| inner.contains("\"\""))
}

/// How fields are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// RFC 4180: commas, and fields in quotes.
    Csv,
    /// Tabs, and no quoting.
    Tsv,
}

/// The records of a delimited file.
pub(super) struct Delimited {
    lines: Lines,
    dialect: Dialect,
    layout: Layout,
    /// The names of the columns kept.
    kept: Vec<String>,
    /// Fields in a record.
    width: usize,
    line: Vec<u8>,
    fields: Fields,
}

/// One record's fields, end to end.
#[derive(Default)]
struct Fields {
    bytes: Vec<u8>,
    /// Where each field ends.
    ends: Vec<usize>,
}

/// Where in a record the parser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote in a quoted field: its end, or the first of a doubled quote.
    QuoteInQuoted,
    End,
}

/// Hands each record of a file with a header to `each`: its fields by name, those that are not empty.
pub(super) fn each_row(lines: Lines, dialect: Dialect, each: &mut Taker<'_>) -> Result<()> {
    let mut file = Delimited::new(lines, dialect);
    let Some(names) = file.read_header()? else { return Ok(()) };
    file.width = names.len();
    while let Some(line) = file.read_fields() {
        let line = line?;
        file.check_width(line)?;
        let fields = names.iter().enumerate().map(|(at, name)| (name.clone(), file.fields.get(at)));
        let fields = fields.filter(|(_, field)| !field.is_empty()).map(|(name, field)| (name, Value::from(field)));
        let place = Place::new(file.lines.path(), line);
        each(&place, fields.collect())?;
    }
    Ok(())
}

impl Delimited {
    fn new(lines: Lines, dialect: Dialect) -> Self {
        let (layout, fields) = (Layout::default(), Fields::default());
        Self { lines, dialect, layout, kept: Vec::new(), width: 0, line: Vec::new(), fields }
    }

    /// Reads the header, or takes the names given.
    ///
    /// # Errors
    /// Where there is no header to read, or no text column in it. `None` for a file with nothing in it.
    pub(super) fn open(
        lines: Lines,
        dialect: Dialect,
        wanted: &Wanted,
        options: &DatasetOptions,
    ) -> Result<Option<Self>> {
        let mut file = Self::new(lines, dialect);
        let names = match (&options.columns, options.no_header) {
            (Some(names), true) => names.clone(),
            (None, true) => {
                return Err(Error::usage("--no-header needs the columns' names: --columns text,pair,label"));
            }
            (Some(_), false) => {
                return Err(Error::usage("--columns names the fields of a file with no header: add --no-header"));
            }
            (None, false) => match file.read_header()? {
                Some(names) => names,
                None => return Ok(None),
            },
        };
        file.layout = wanted.resolve(&names, file.lines.path())?;
        file.kept = file.layout.kept.iter().map(|&at| names[at].clone()).collect();
        file.width = names.len();
        Ok(Some(file))
    }

    fn read_header(&mut self) -> Result<Option<Vec<String>>> {
        let Some(found) = self.read_fields() else { return Ok(None) };
        found.map_err(|error| match error {
            Error::Record { path, reason, .. } => Error::format(path, format!("header: {reason}")),
            other => other,
        })?;
        let names = (0..self.fields.ends.len()).map(|at| self.fields.get(at).trim().to_owned());
        Ok(Some(names.collect()))
    }

    /// Reads one record into `fields`, blank lines skipped, and gives the line it began on.
    fn read_fields(&mut self) -> Option<Result<u64>> {
        loop {
            match self.lines.read(&mut self.line) {
                Err(error) => return Some(Err(error)),
                Ok(Found::End) => return None,
                Ok(Found::TooLong) => return Some(Err(self.refuse(self.lines.number(), too_long("the line")))),
                Ok(Found::Line) if without_end(&self.line).is_empty() => {}
                Ok(Found::Line) => break,
            }
        }
        Some(self.finish_record())
    }

    /// The record that begins with the line just read.
    fn finish_record(&mut self) -> Result<u64> {
        let start = self.lines.number();
        self.fields.clear();
        if self.dialect == Dialect::Tsv {
            self.fields.split(without_end(&self.line), b'\t');
        } else {
            self.finish_csv(start)?;
        }
        as_text(&self.fields.bytes).map(|_| start).map_err(|reason| self.refuse(start, reason))
    }

    /// Feeds lines to the parser until the record ends. Lines after the first are kept, to be given back if it is
    /// damaged.
    fn finish_csv(&mut self, start: u64) -> Result<()> {
        let mut state = State::FieldStart;
        let mut rest = Vec::new();
        loop {
            let step = self.fields.feed(&self.line, state);
            let reason = match step {
                Ok(State::End) => return Ok(()),
                Ok(open) => {
                    state = open;
                    match self.lines.read(&mut self.line)? {
                        Found::End if state == State::Quoted => "a quote is never closed".to_owned(),
                        Found::End => {
                            self.fields.end_field();
                            return Ok(());
                        }
                        Found::TooLong => {
                            // The long line itself is gone; it is reported as part of this record.
                            return Err(self.refuse(start, too_long("a quoted field")));
                        }
                        Found::Line => {
                            rest.extend_from_slice(&self.line);
                            if rest.len() <= RECORD_LIMIT {
                                continue;
                            }
                            too_long("a quoted field")
                        }
                    }
                }
                Err(reason) => reason,
            };
            let count = self.lines.number() - start;
            self.lines.give_back(rest, count);
            return Err(self.refuse(start, reason));
        }
    }

    fn check_width(&self, line: u64) -> Result<()> {
        let found = self.fields.ends.len();
        if found != self.width {
            return Err(self.refuse(line, format!("expected {} fields, found {found}", self.width)));
        }
        if self.dialect == Dialect::Tsv && QUOTED.get().is_none() && (0..found).any(|at| is_quoted(self.fields.get(at)))
        {
            let path = self.lines.path().display();
            let _ = QUOTED.set(format!(
                "{path}:{line}: a field is in quotes; TSV has none, so that they are part of the text: write CSV, or take them off"
            ));
        }
        Ok(())
    }

    fn row(&self, line: u64) -> Result<Row> {
        self.check_width(line)?;
        let cell = |at: usize| Cell::Text(self.fields.get(at).to_owned());
        // An empty field is all that these formats have for "nothing"; only a text may be empty.
        let optional = |at: Option<usize>| at.filter(|&at| !self.fields.get(at).is_empty()).map_or(Cell::Null, cell);
        let Layout { text, pair, label, id, ref kept } = self.layout;
        let kept = self.kept.iter().zip(kept).map(|(name, &at)| (name.clone(), optional(Some(at)))).collect();
        let (pair, label, id) = (optional(pair), optional(label), optional(id));
        Ok(Row { line, text: cell(text), pair, label, id, kept, ..Row::default() })
    }

    fn refuse(&self, line: u64, reason: String) -> Error {
        Error::Record { path: self.lines.path().to_owned(), line, reason }
    }
}

impl Source for Delimited {
    fn next_row(&mut self) -> Option<Result<Row>> {
        let found = self.read_fields()?;
        Some(found.and_then(|line| self.row(line)))
    }
}

impl Fields {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Field `at`; the bytes have been checked to be UTF-8, and fields end where ASCII stood.
    fn get(&self, at: usize) -> &str {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        std::str::from_utf8(&self.bytes[start..self.ends[at]]).unwrap_or_default()
    }

    fn end_field(&mut self) {
        self.ends.push(self.bytes.len());
    }

    fn split(&mut self, line: &[u8], delimiter: u8) {
        for field in line.split(|&byte| byte == delimiter) {
            self.bytes.extend_from_slice(field);
            self.end_field();
        }
    }

    /// Parses one more line of a record. [`State::End`] where the record is complete; a quoted field may go on on the
    /// next line.
    fn feed(&mut self, line: &[u8], mut state: State) -> Result<State, String> {
        for (at, &byte) in line.iter().enumerate() {
            let ends_line = matches!(&line[at..], b"\n" | b"\r\n");
            state = match (state, byte) {
                (State::Quoted, b'"') => State::QuoteInQuoted,
                (State::Quoted, _) => self.push(byte, State::Quoted),
                (State::QuoteInQuoted, b'"') => self.push(b'"', State::Quoted),
                (_, b',') => self.end(State::FieldStart),
                (_, _) if ends_line => return Ok(self.end(State::End)),
                (State::FieldStart, b'"') => State::Quoted,
                (State::QuoteInQuoted, _) => {
                    return Err(format!("text after a closing quote, at byte {} of its line", at + 1));
                }
                (_, _) => self.push(byte, State::Plain),
            };
        }
        Ok(state)
    }

    fn push(&mut self, byte: u8, next: State) -> State {
        self.bytes.push(byte);
        next
    }

    fn end(&mut self, next: State) -> State {
        self.end_field();
        next
    }
}
