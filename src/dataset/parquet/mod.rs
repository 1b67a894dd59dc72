//! Rows of a Parquet file, column by column and a batch at a time.
//!
//! Columns are read through the crate's typed column readers rather than its row iterator, whose handling of repeated
//! fields is incomplete and which stops for good at a string that is not UTF-8. Nested structures other than a list of
//! values are refused, but for answers.

mod column;
mod objects;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use parquet::basic::ConvertedType;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;

use self::column::{Column, Value};
pub(super) use self::objects::each_row;
use super::cell::{Cell, Row};
use super::columns::{Layout, Shape, Wanted};
use super::files::{Counter, Input};
use super::reader::Source;
use crate::error::{Error, Result};
use crate::panics::caught;

/// Rows decoded at a time.
const BATCH: usize = 256;

/// The rows of a Parquet file.
pub(super) struct ParquetRows {
    path: PathBuf,
    file: SerializedFileReader<File>,
    layout: Layout<Leaves>,
    /// The names of the columns kept.
    kept: Vec<String>,
    /// The first row group not opened yet.
    upcoming: usize,
    /// Rows left of the current group.
    left: u64,
    group: Option<Group>,
    row: u64,
    progress: Progress,
}

/// The current row group's columns.
struct Group {
    text: Column,
    pair: Option<Column>,
    label: Option<Value>,
    id: Option<Column>,
    kept: Vec<(String, Column)>,
}

impl ParquetRows {
    /// # Errors
    /// [`Error::Io`] where the file cannot be opened; [`Error::Format`] where it is not Parquet, or has no text column,
    /// or one of the wanted columns is a structure.
    pub(super) fn open(input: &Input, wanted: &Wanted, counter: &Counter) -> Result<Self> {
        let (path, file) = (input.path.as_path(), open(input)?);
        let bytes = input.len.unwrap_or(0);
        let metadata = file.metadata().file_metadata();
        let schema = metadata.schema_descr();
        let names: Vec<String> =
            schema.root_schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
        let found = wanted.resolve(&names, path)?;
        let leaf = |at: usize| leaf(schema, &names[at], path);
        let optional = |at: Option<usize>| at.map(leaf).transpose();
        let layout = Layout {
            text: leaf(found.text)?,
            pair: optional(found.pair)?,
            label: found.label.map(|at| label(schema, &names[at], path, wanted.shape)).transpose()?,
            id: optional(found.id)?,
            kept: found.kept.iter().map(|&at| leaf(at)).collect::<Result<_>>()?,
        };
        let kept = found.kept.iter().map(|&at| names[at].clone()).collect();
        let rows = u64::try_from(metadata.num_rows()).unwrap_or(0);
        let progress = Progress { counter: counter.clone(), bytes, rows, counted: 0 };
        Ok(Self { path: path.to_owned(), file, layout, kept, upcoming: 0, left: 0, group: None, row: 0, progress })
    }

    /// Moves to the next group that has rows; `false` after the last.
    fn advance(&mut self) -> Result<bool> {
        while self.left == 0 {
            self.group = None;
            if self.upcoming == self.file.num_row_groups() {
                return Ok(false);
            }
            let (group, rows) =
                guarded(|| self.open_group(self.upcoming)).map_err(|error| damaged(&self.path, &error))?;
            self.upcoming += 1;
            self.left = rows;
            self.group = Some(group);
        }
        Ok(true)
    }

    fn open_group(&self, at: usize) -> Result<(Group, u64), ParquetError> {
        let group = self.file.get_row_group(at)?;
        let schema = self.file.metadata().file_metadata().schema_descr();
        let column =
            |leaf: usize| group.get_column_reader(leaf).map(|reader| Column::new(reader, &schema.column(leaf)));
        let optional = |leaf: Option<usize>| leaf.map(column).transpose();
        let Layout { text, pair, ref label, id, ref kept } = self.layout;
        let kept = self.kept.iter().zip(kept).map(|(name, &leaf)| Ok((name.clone(), column(leaf)?)));
        let kept = kept.collect::<Result<_, ParquetError>>()?;
        let rows = u64::try_from(group.metadata().num_rows()).unwrap_or(0);
        let label = label.as_ref().map(|leaves| Value::new(leaves, &column)).transpose()?;
        let (pair, id) = (optional(pair)?, optional(id)?);
        Ok((Group { text: column(text)?, pair, label, id, kept }, rows))
    }

    fn read_row(&mut self) -> Result<Option<Row>> {
        if !self.advance()? {
            self.progress.finish();
            return Ok(None);
        }
        self.left -= 1;
        self.row += 1;
        if self.row.is_multiple_of(BATCH as u64) {
            self.progress.reached(self.row);
        }
        let group = self.group.as_mut().expect("advance leaves a group where rows are left");
        guarded(|| group.row(self.row)).map(Some).map_err(|error| damaged(&self.path, &error))
    }
}

impl Source for ParquetRows {
    fn next_row(&mut self) -> Option<Result<Row>> {
        self.read_row().transpose()
    }
}

impl Group {
    fn row(&mut self, line: u64) -> Result<Row, ParquetError> {
        let optional = |column: &mut Option<Column>| column.as_mut().map_or(Ok(Cell::Null), Column::next);
        let kept = self.kept.iter_mut().map(|(name, column)| Ok((name.clone(), column.next()?)));
        Ok(Row {
            line,
            text: self.text.next()?,
            pair: optional(&mut self.pair)?,
            label: self.label.as_mut().map_or(Ok(Cell::Null), Value::next)?,
            id: optional(&mut self.id)?,
            kept: kept.collect::<Result<_, ParquetError>>()?,
            ..Row::default()
        })
    }
}

/// The decoders assert what damaged pages break: such a panic ends this file like any other error.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    caught(read).unwrap_or_else(|text| Err(ParquetError::General(format!("damaged page: {text}"))))
}

/// A file whose footer makes sense, and its length in bytes.
fn open(input: &Input) -> Result<SerializedFileReader<File>> {
    let (path, file) = (input.path.as_path(), input.seekable()?);
    let bytes = file.metadata().map_err(Error::io(path))?.len();
    let file = guarded(|| SerializedFileReader::new(file)).map_err(|error| damaged(path, &error))?;
    check_chunks(file.metadata(), bytes).map_err(|reason| damaged(path, &ParquetError::General(reason)))?;
    Ok(file)
}

/// Where a root column's values are.
enum Leaves {
    One(usize),
    /// The members of a structure, by name.
    Members(Vec<(String, usize)>),
}

/// The one leaf of a root column.
fn leaf(schema: &SchemaDescriptor, name: &str, path: &Path) -> Result<usize> {
    match under(schema, name)[..] {
        [at] if is_plain(schema, at, 0) => Ok(at),
        _ => Err(structure(name, path)),
    }
}

/// The leaves of the label's column: answers may be a structure of lists, or a list of structures, whose members' lists
/// are the same.
fn label(schema: &SchemaDescriptor, name: &str, path: &Path, shape: Shape) -> Result<Leaves> {
    let leaves = under(schema, name);
    match leaves[..] {
        [at] if is_plain(schema, at, 0) => return Ok(Leaves::One(at)),
        _ if shape != Shape::Questions => return Err(structure(name, path)),
        _ => {}
    }
    let member = |&at: &usize| {
        let (parts, listed) = (schema.column(at), schema.get_column_root(at).get_basic_info().converted_type());
        let parts = parts.path().parts();
        let (name, is_plain) = if listed == ConvertedType::LIST {
            (parts.last(), parts.len() > 2 && schema.column(at).max_rep_level() == 1)
        } else {
            (parts.get(1), is_plain(schema, at, 1))
        };
        name.filter(|_| is_plain).map(|name| (name.clone(), at))
    };
    let members: Option<_> = leaves.iter().map(member).collect();
    members.map(Leaves::Members).ok_or_else(|| structure(name, path))
}

fn under(schema: &SchemaDescriptor, name: &str) -> Vec<usize> {
    let is_under = |&at: &usize| schema.column(at).path().parts().first().is_some_and(|first| first == name);
    (0..schema.num_columns()).filter(is_under).collect()
}

/// Whether a leaf is a value, or a list of values, so far below its root.
fn is_plain(schema: &SchemaDescriptor, at: usize, below: usize) -> bool {
    let (depth, lists) = (schema.column(at).path().parts().len(), schema.column(at).max_rep_level());
    lists <= 1 && depth <= below + if lists > 0 { 3 } else { 1 }
}

fn structure(name: &str, path: &Path) -> Error {
    Error::format(path, format!("column `{name}`: expected values or lists of values, found a structure"))
}

/// Whether every column chunk lies within the file; the crate takes that for granted, and panics where a size is
/// negative.
fn check_chunks(metadata: &ParquetMetaData, bytes: u64) -> Result<(), String> {
    for chunk in metadata.row_groups().iter().flat_map(RowGroupMetaData::columns) {
        let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
        let (start, len) = (u64::try_from(start).ok(), u64::try_from(chunk.compressed_size()).ok());
        let end = start.zip(len).and_then(|(start, len)| start.checked_add(len));
        if end.is_none_or(|end| end > bytes) {
            return Err(format!("column {} lies outside the file of {bytes} bytes", chunk.column_path()));
        }
    }
    Ok(())
}

fn damaged(path: &Path, error: &ParquetError) -> Error {
    let text = error.to_string().replace('\n', " ");
    if text.contains("Disabled feature") {
        return Error::format(path, "compressed in a way that is not read here")
            .with_hint("write it again with zstd, snappy, gzip or lz4, or without compression");
    }
    Error::format(path, format!("not readable as Parquet: {}", text.trim_start_matches("Parquet error: ")))
}

/// Bytes are counted in proportion to rows: columns that nobody wants are never read.
struct Progress {
    counter: Counter,
    bytes: u64,
    rows: u64,
    counted: u64,
}

impl Progress {
    fn reached(&mut self, row: u64) {
        let share = u128::from(self.bytes) * u128::from(row) / u128::from(self.rows.max(1));
        self.count(share.min(self.bytes.into()) as u64);
    }

    fn finish(&mut self) {
        self.count(self.bytes);
    }

    fn count(&mut self, reached: u64) {
        self.counter.fetch_add(reached.saturating_sub(self.counted), Ordering::Relaxed);
        self.counted = self.counted.max(reached);
    }
}
