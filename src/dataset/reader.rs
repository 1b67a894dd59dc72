//! The whole input as one stream of records.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::cell::{Cell, Row};
use super::columns::{DatasetOptions, Shape, Wanted};
use super::delimited::{Delimited, Dialect};
use super::files::{Counter, Format, Input, expand};
use super::ids::IdCheck;
use super::jsonl::Jsonl;
use super::lines::Lines;
use super::squad;
use super::{Digest, Record};
use crate::error::{Error, Result};
use crate::sync::lock;

/// One file's rows. After an [`Error::Record`] it goes on with the next row; after any other error it is done.
pub(super) trait Source: Send {
    fn next_row(&mut self) -> Option<Result<Row>>;
}

/// The records of some files, one after the other.
///
/// As an iterator it gives each record or what is wrong with it. An [`Error::Record`] takes up that record's number and
/// the next item is the next record; any other error is the last item.
///
/// ```no_run
/// use wherefore::Error;
/// use wherefore::dataset::{Dataset, DatasetOptions};
///
/// let files = vec!["train-*.jsonl.gz".to_owned()];
/// for record in Dataset::open(DatasetOptions { files, ..DatasetOptions::default() })? {
///     match record {
///         Ok(record) => drop((record.index, record.text, record.label)),
///         Err(Error::Record { path, line, reason }) => drop((path, line, reason)), // skip it, or stop here
///         Err(error) => return Err(error),
///     }
/// }
/// # Ok::<(), Error>(())
/// ```
pub struct Dataset {
    options: DatasetOptions,
    wanted: Wanted,
    inputs: Vec<Input>,
    /// The first of the inputs not opened yet.
    upcoming: usize,
    source: Option<Box<dyn Source>>,
    first_index: u64,
    next_index: u64,
    ids: Option<IdCheck>,
    needs_label: bool,
    read: Counter,
    digest: Arc<Mutex<Digest>>,
    /// Of the latest record.
    last_line: u64,
    done: bool,
}

/// Where a record was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    path: Arc<Path>,
    line: u64,
}

impl Place {
    /// The `line`th line (for Parquet, row) of `path`, from 1.
    pub(super) fn new(path: &Path, line: u64) -> Self {
        Self { path: path.into(), line }
    }

    /// The `row`th row of a file that is read by other means, from 1.
    pub(crate) fn at(path: &Path, row: u64) -> Self {
        Self::new(path, row)
    }

    /// What is wrong with the record there.
    pub fn error(&self, reason: String) -> Error {
        Error::Record { path: self.path.to_path_buf(), line: self.line, reason }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// Records that were not read from a file.
struct Typed(std::vec::IntoIter<Row>);

impl Source for Typed {
    fn next_row(&mut self) -> Option<Result<Row>> {
        self.0.next().map(Ok)
    }
}

impl Dataset {
    /// Finds the files and looks into those that have headers, so that a missing file or column is told before any work
    /// is done.
    ///
    /// # Errors
    /// [`Error::Io`] where a file is not there or cannot be read; [`Error::Format`] where its kind is unknown or it has
    /// no text column; [`Error::Usage`] where a pattern matches nothing or the options contradict each other.
    pub fn open(options: DatasetOptions) -> Result<Self> {
        let inputs = expand(&options.files)?;
        let wanted = Wanted::new(&options);
        let ids = (!options.allow_duplicate_ids).then(IdCheck::new);
        let (read, digest) = (Counter::default(), Arc::default());
        let (upcoming, first_index, next_index) = (0, 0, 0);
        let (source, last_line, done) = (None, 0, false);
        let dataset = Self {
            options,
            wanted,
            inputs,
            upcoming,
            source,
            first_index,
            next_index,
            ids,
            needs_label: false,
            read,
            digest,
            last_line,
            done,
        };
        for input in dataset.inputs.iter().filter(|input| input.format != Format::Jsonl) {
            dataset.source(input, &Counter::default())?;
        }
        Ok(dataset)
    }

    /// One record that was typed, not read.
    pub fn typed(text: String, pair: Option<String>) -> Self {
        Self::typed_as(Shape::Texts, text, pair)
    }

    /// [`Dataset::typed`], of another shape: a question and its context, or a text to be tagged.
    pub fn typed_as(shape: Shape, text: String, pair: Option<String>) -> Self {
        let row = Row { line: 1, text: Cell::Text(text), pair: pair.map_or(Cell::Null, Cell::Text), ..Row::default() };
        Self::rows(shape, vec![row])
    }

    /// Records from memory, as a file would give them: numbered in their order, those without an id by their number,
    /// each id once. They keep their labels, words and columns; the dataset's columns are all that any of them has.
    ///
    /// ```
    /// use wherefore::dataset::{Dataset, Label, Record};
    ///
    /// let mail = |text: &str, label: &str| Record {
    ///     text: text.into(),
    ///     label: Some(Label::Name(label.into())),
    ///     ..Record::default()
    /// };
    /// let mut mails = Dataset::from_records([mail("You have won", "spam"), mail("See you at nine", "ham")]);
    /// let second = mails.nth(1).unwrap()?;
    /// assert_eq!((second.index, second.id.as_str(), second.label), (1, "1", Some(Label::Name("ham".into()))));
    /// # Ok::<(), wherefore::Error>(())
    /// ```
    pub fn from_records(records: impl IntoIterator<Item = Record>) -> Self {
        let made = |(line, record)| Row { line, made: Some(Box::new(record)), ..Row::default() };
        let rows: Vec<Row> = (1..).zip(records).map(made).collect();
        let columns = rows.iter().filter_map(|row| row.made.as_ref()).flat_map(|record| record.columns.keys());
        let columns: BTreeSet<String> = columns.cloned().collect();
        let mut dataset = Self::rows(Shape::Texts, rows);
        dataset.options.keep_columns = columns.into_iter().collect();
        Self { ids: Some(IdCheck::new()), inputs: vec![Input::made()], ..dataset }
    }

    /// The texts of records that have been read before: their ids, which may be repeated, and texts alone, numbered
    /// anew.
    pub(crate) fn texts_of(records: Vec<Record>) -> Self {
        let row = |(line, record): (u64, Record)| Row {
            line,
            id: Cell::Text(record.id),
            text: Cell::Text(record.text),
            pair: record.pair.map_or(Cell::Null, Cell::Text),
            ..Row::default()
        };
        Self::rows(Shape::Texts, (1..).zip(records).map(row).collect())
    }

    fn rows(shape: Shape, rows: Vec<Row>) -> Self {
        let options = DatasetOptions { shape, ..DatasetOptions::default() };
        let (wanted, inputs) = (Wanted::new(&options), vec![Input::typed()]);
        let source: Option<Box<dyn Source>> = Some(Box::new(Typed(rows.into_iter())));
        Self {
            options,
            wanted,
            inputs,
            upcoming: 1,
            source,
            first_index: 0,
            next_index: 0,
            ids: None,
            needs_label: false,
            read: Counter::default(),
            digest: Arc::default(),
            last_line: 0,
            done: false,
        }
    }

    /// The same, of which records without a label cannot be used.
    #[must_use]
    pub fn labelled(self) -> Self {
        Self { needs_label: true, ..self }
    }

    /// Numbers the records from `index` on, as those of a later part of one input.
    pub fn number_from(&mut self, index: u64) {
        (self.first_index, self.next_index) = (index, index);
    }

    /// Notes the id of an earlier record of the same input, which no other may have; by rising numbers.
    pub fn know_id(&mut self, index: u64, id: &str) {
        let Some(ids) = &mut self.ids else { return };
        // Which of the two a record was that has its number for an id makes no difference to those that follow.
        if id.parse() == Ok(index) && id == index.to_string() {
            ids.insert_number(index)
        } else {
            ids.insert(id)
        };
    }

    /// The columns that are kept beside each record: [`DatasetOptions::keep_columns`].
    pub fn kept_columns(&self) -> &[String] {
        &self.options.keep_columns
    }

    /// Where the latest record was.
    pub fn place(&self) -> Place {
        let path = self.inputs.get(self.upcoming.saturating_sub(1)).map(|input| input.path.as_path());
        Place { path: path.unwrap_or(Path::new("")).into(), line: self.last_line }
    }

    /// The files, in order (`-` for standard input).
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.inputs.iter().map(|input| input.path.as_path())
    }

    /// Bytes of the files as stored; `None` where standard input is among them.
    pub fn bytes_total(&self) -> Option<u64> {
        self.inputs.iter().map(|input| input.len).sum()
    }

    /// How many of those have been read.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The fingerprint of the records read so far, for another thread to look at.
    pub fn digest(&self) -> Arc<Mutex<Digest>> {
        Arc::clone(&self.digest)
    }

    /// The number the next record will have: how many there were so far, those that could not be used included.
    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    fn source(&self, input: &Input, counter: &Counter) -> Result<Option<Box<dyn Source>>> {
        let dialect = match input.format {
            Format::Jsonl if self.wanted.shape == Shape::Questions && squad::is_nested(input)? => {
                return squad::open(input, counter).map(|rows| Some(Box::new(rows) as Box<dyn Source>));
            }
            Format::Jsonl => {
                let lines = Lines::new(input.bytes(counter)?, &input.path)?;
                return Ok(Some(Box::new(Jsonl::new(lines, self.wanted.clone()))));
            }
            Format::Parquet => return self.parquet(input, counter).map(Some),
            Format::Csv => Dialect::Csv,
            Format::Tsv => Dialect::Tsv,
        };
        let lines = Lines::new(input.bytes(counter)?, &input.path)?;
        let file = Delimited::open(lines, dialect, &self.wanted, &self.options)?;
        Ok(file.map(|file| Box::new(file) as Box<dyn Source>))
    }

    #[cfg(feature = "parquet")]
    fn parquet(&self, input: &Input, counter: &Counter) -> Result<Box<dyn Source>> {
        let file = super::parquet::ParquetRows::open(input, &self.wanted, counter)?;
        Ok(Box::new(file))
    }

    #[cfg(not(feature = "parquet"))]
    #[allow(clippy::unused_self)]
    fn parquet(&self, input: &Input, _: &Counter) -> Result<Box<dyn Source>> {
        let error = Error::format(&input.path, "this program was built without Parquet");
        Err(error.with_hint("build it with the default features, or convert the file to .jsonl"))
    }

    /// The next row of the current file, or of the first file after it that has one.
    fn next_row(&mut self) -> Option<Result<Row>> {
        loop {
            if let Some(row) = self.source.as_mut().and_then(|source| source.next_row()) {
                return Some(row);
            }
            let input = self.inputs.get(self.upcoming)?;
            match self.source(input, &self.read) {
                Ok(source) => self.source = source,
                Err(error) => return Some(Err(error)),
            }
            self.upcoming += 1;
        }
    }

    fn record(&mut self, row: Row) -> Result<Record> {
        let line = row.line;
        self.last_line = line;
        let index = self.next_index;
        let made = row.into_record(index, self.wanted.shape).and_then(|(record, has_own_id)| match &mut self.ids {
            Some(ids) => check_id(ids, record, has_own_id),
            None => Ok(record),
        });
        let usable = made.and_then(|record| match record.label {
            None if self.needs_label => Err("label: expected one, found none".to_owned()),
            _ => Ok(record),
        });
        usable.map_err(|reason| {
            let path = self.inputs[self.upcoming - 1].path.clone();
            Error::Record { path, line, reason }
        })
    }

    fn no_records(&self) -> Error {
        match &self.inputs[..] {
            [input] => Error::format(&input.path, "no records"),
            inputs => {
                Error::format(&inputs[0].path, format!("no records, nor in the {} other files", inputs.len() - 1))
            }
        }
    }
}

fn check_id(ids: &mut IdCheck, record: Record, has_own_id: bool) -> Result<Record, String> {
    let is_new = if has_own_id { ids.insert(&record.id) } else { ids.insert_number(record.index) };
    if is_new {
        return Ok(record);
    }
    let why = if ids.is_number(&record.id) { ": a record without an id has its number for one" } else { "" };
    Err(format!("duplicate id \"{}\"{why}", record.id))
}

impl Iterator for Dataset {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = match self.next_row() {
            Some(Ok(row)) => self.record(row),
            Some(Err(error)) => Err(error),
            None => {
                self.done = true;
                return (self.next_index == self.first_index).then(|| Err(self.no_records()));
            }
        };
        if let Ok(record) = &item {
            lock(&self.digest).push(record);
        }
        match &item {
            Ok(_) | Err(Error::Record { .. }) => self.next_index += 1,
            Err(_) => self.done = true,
        }
        Some(item)
    }
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataset")
            .field("inputs", &self.inputs)
            .field("next_index", &self.next_index)
            .finish_non_exhaustive()
    }
}
