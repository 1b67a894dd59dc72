//! One value of a data file, whatever the format, and what a record makes of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Label, Record};

/// A value as its file has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Cell {
    #[default]
    Null,
    Bool(bool),
    /// Wide enough for every 64-bit integer, signed or not.
    Integer(i128),
    Number(f64),
    Text(String),
    List(Vec<Cell>),
    /// Nothing a record can use: what it is, in words.
    Other(&'static str),
}

/// The cells of one record, by what they are for.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// The line (or Parquet row) it began on, from 1.
    pub(super) line: u64,
    pub(super) id: Cell,
    pub(super) text: Cell,
    pub(super) pair: Cell,
    pub(super) label: Cell,
    /// The columns kept, with their names.
    pub(super) kept: Vec<(String, Cell)>,
}

impl Row {
    /// The record, or why there is none. The flag tells whether the id is the file's own.
    pub(super) fn into_record(self, index: u64) -> Result<(Record, bool), String> {
        let own = self.id.into_id()?;
        let has_own = own.is_some();
        let record = Record {
            index,
            id: own.unwrap_or_else(|| index.to_string()),
            text: self.text.into_text("text")?.ok_or("text: expected a string, found null")?,
            pair: self.pair.into_text("pair")?,
            label: self.label.into_label()?,
            columns: kept(self.kept)?,
        };
        Ok((record, has_own))
    }
}

/// The values of the columns kept; what is null is not there.
fn kept(cells: Vec<(String, Cell)>) -> Result<BTreeMap<String, String>, String> {
    let column = |(name, cell): (String, Cell)| match cell.into_plain(&name) {
        Ok(value) => value.map(|value| Ok((name, value))),
        Err(reason) => Some(Err(reason)),
    };
    cells.into_iter().filter_map(column).collect()
}

impl Cell {
    /// Its kind, with an article.
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Other(kind) => kind,
        }
    }

    fn into_text(self, field: &str) -> Result<Option<String>, String> {
        match self {
            Self::Null => Ok(None),
            Self::Text(text) => Ok(Some(text)),
            other => Err(format!("{field}: expected a string, found {}", other.kind())),
        }
    }

    /// A value as it is written; `None` for null.
    fn into_plain(self, column: &str) -> Result<Option<String>, String> {
        match self {
            Self::Null => Ok(None),
            Self::Bool(value) => Ok(Some(value.to_string())),
            Self::Integer(value) => Ok(Some(value.to_string())),
            Self::Number(value) => Ok(Some(value.to_string())),
            Self::Text(text) => Ok(Some(text)),
            other => Err(format!("{column}: expected a string, a number or a boolean, found {}", other.kind())),
        }
    }

    fn into_id(self) -> Result<Option<String>, String> {
        match self {
            Self::Null => Ok(None),
            Self::Text(text) => Ok(Some(text)),
            Self::Integer(id) => Ok(Some(id.to_string())),
            other => Err(format!("id: expected a string or an integer, found {}", other.kind())),
        }
    }

    fn into_label(self) -> Result<Option<Label>, String> {
        match self {
            Self::Null => Ok(None),
            Self::List(cells) => cells
                .into_iter()
                .map(Self::into_one_label)
                .collect::<Result<_, _>>()
                .map(|labels| Some(Label::Many(labels))),
            one => one.into_one_label().map(Some),
        }
    }

    fn into_one_label(self) -> Result<Label, String> {
        match self {
            Self::Bool(value) => Ok(Label::Integer(i64::from(value))),
            Self::Integer(value) => i64::try_from(value)
                .map(Label::Integer)
                .map_err(|_| format!("label: expected a 64-bit signed integer, found {value}")),
            Self::Number(value) if value.is_finite() => Ok(Label::Number(value)),
            Self::Number(value) => Err(format!("label: expected a finite number, found {value}")),
            Self::Text(name) => Ok(Label::Name(name)),
            other => Err(format!("label: expected a number, a string or a list of them, found {}", other.kind())),
        }
    }
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CellVisitor)
    }
}

struct CellVisitor;

impl<'de> Visitor<'de> for CellVisitor {
    type Value = Cell;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Cell, E> {
        Ok(Cell::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Cell, E> {
        Ok(Cell::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Cell, E> {
        Ok(Cell::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Cell, E> {
        Ok(Cell::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Cell, E> {
        Ok(Cell::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Cell, E> {
        Ok(Cell::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Cell, E> {
        Ok(Cell::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Cell, A::Error> {
        let mut cells = Vec::new();
        while let Some(cell) = list.next_element()? {
            cells.push(cell);
        }
        Ok(Cell::List(cells))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cell, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Cell::Other("an object"))
    }
}
