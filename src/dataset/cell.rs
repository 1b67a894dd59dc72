//! One value of a data file, whatever the format, and what a record makes of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};

use super::{Answer, Label, Record, Shape};

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
    Object(Vec<(String, Cell)>),
    /// Nothing a record can use: what it is, in words.
    #[cfg_attr(not(feature = "parquet"), expect(dead_code, reason = "Parquet has types that others lack"))]
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
    /// A record from memory, in the place of cells.
    pub(super) made: Option<Box<Record>>,
}

impl Row {
    /// The record, or why there is none. The flag tells whether the id is the file's own.
    pub(super) fn into_record(self, index: u64, shape: Shape) -> Result<(Record, bool), String> {
        if let Some(made) = self.made {
            return numbered(*made, index);
        }
        let own = self.id.into_id()?;
        let has_own = own.is_some();
        let (text, words) = match (shape, self.text) {
            (Shape::Words, Cell::List(words)) => joined(words).map(|(text, words)| (text, Some(words)))?,
            (_, text) => (text.into_text("text")?.ok_or("text: expected a string, found null")?, None),
        };
        let record = Record {
            index,
            id: own.unwrap_or_else(|| index.to_string()),
            text,
            pair: self.pair.into_text("pair")?,
            label: if shape == Shape::Questions { self.label.into_answers()? } else { self.label.into_label()? },
            words,
            columns: kept(self.kept)?,
        };
        if shape == Shape::Questions && record.pair.as_deref().is_none_or(|context| context.trim().is_empty()) {
            return Err("context: expected a text to find the answer in, found none".to_owned());
        }
        Ok((record, has_own))
    }
}

/// A record from memory as the one of this number.
fn numbered(record: Record, index: u64) -> Result<(Record, bool), String> {
    check_label(record.label.as_ref())?;
    let characters = record.text.chars().count();
    let mut end = 0;
    for &(start, next) in record.words.iter().flatten() {
        if start < end || next < start || next > characters {
            return Err(format!(
                "words: expected places one after the other in {characters} characters, found {start} to {next}"
            ));
        }
        end = next;
    }
    let has_own = !record.id.is_empty();
    let id = if has_own { record.id } else { index.to_string() };
    Ok((Record { index, id, ..record }, has_own))
}

/// What no file's label could be is no record's either.
fn check_label(label: Option<&Label>) -> Result<(), String> {
    match label {
        Some(Label::Number(value)) if !value.is_finite() => {
            Err(format!("label: expected a finite number, found {value}"))
        }
        Some(Label::Many(labels)) => labels.iter().try_for_each(|label| check_label(Some(label))),
        _ => Ok(()),
    }
}

/// Words as one text, and where each is in it: a space between them, but none between ideographs, which are written
/// without.
fn joined(words: Vec<Cell>) -> Result<(String, Vec<(usize, usize)>), String> {
    let (mut text, mut places, mut end) = (String::new(), Vec::with_capacity(words.len()), 0);
    for word in words {
        let word = word.into_text("tokens")?.ok_or("tokens: expected a list of strings, found null in it")?;
        let close = text.chars().next_back().is_none_or(is_east_asian) && word.chars().next().is_none_or(is_east_asian);
        if !(text.is_empty() || close) {
            text.push(' ');
            end += 1;
        }
        let start = end;
        end += word.chars().count();
        text.push_str(&word);
        places.push((start, end));
    }
    Ok((text, places))
}

/// Of scripts that are written without spaces, and their punctuation.
fn is_east_asian(c: char) -> bool {
    matches!(c, '\u{2E80}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{FF00}'..='\u{FFEF}' | '\u{20000}'..='\u{3FFFF}')
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
            Self::Object(_) => "an object",
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

    /// A value as it is written, a list as JSON; `None` for null.
    fn into_plain(self, column: &str) -> Result<Option<String>, String> {
        match self {
            Self::Null => Ok(None),
            Self::Bool(value) => Ok(Some(value.to_string())),
            Self::Integer(value) => Ok(Some(value.to_string())),
            Self::Number(value) => Ok(Some(value.to_string())),
            Self::Text(text) => Ok(Some(text)),
            Self::List(items) => {
                let item = |item: Self| match item {
                    Self::Text(text) => Ok(serde_json::Value::from(text).to_string()),
                    other => other.into_plain(column).map(|value| value.unwrap_or_else(|| "null".to_owned())),
                };
                let items = items.into_iter().map(item).collect::<Result<Vec<String>, String>>()?;
                Ok(Some(format!("[{}]", items.join(","))))
            }
            other => Err(format!("{column}: expected a string, a number, a boolean or a list, found {}", other.kind())),
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

    /// `{"text": [..], "answer_start": [..]}`, `[{"text": .., "answer_start": ..}, ..]`, one such object, a text or a
    /// list of texts; a string that holds one of these as JSON.
    fn into_answers(self) -> Result<Option<Label>, String> {
        let answers = match self {
            Self::Null => return Ok(None),
            Self::Text(text) if text.starts_with(['{', '[']) => {
                let cell: Self =
                    serde_json::from_str(&text).map_err(|error| format!("answers: not valid JSON: {error}"))?;
                return cell.into_answers();
            }
            Self::List(items) => items.into_iter().map(Self::into_one_answer).collect::<Result<_, _>>()?,
            Self::Object(mut fields) => {
                let mut take = |name: &str| {
                    let place = fields.iter().position(|(key, _)| key == name);
                    place.map_or(Self::Null, |place| fields.swap_remove(place).1)
                };
                match (take("text"), take("answer_start")) {
                    (Self::List(texts), starts) => Self::answer_lists(texts, starts)?,
                    (text, start) => vec![Self::answer(text, start)?],
                }
            }
            one => vec![one.into_one_answer()?],
        };
        Ok(Some(Label::Answers(answers)))
    }

    fn answer_lists(texts: Vec<Self>, starts: Self) -> Result<Vec<Answer>, String> {
        let starts = match starts {
            Self::Null => vec![Self::Null; texts.len()],
            Self::List(starts) if starts.len() == texts.len() => starts,
            other => {
                let found =
                    if let Self::List(starts) = &other { starts.len().to_string() } else { other.kind().to_owned() };
                return Err(format!("answers: expected {} numbers in answer_start, found {found}", texts.len()));
            }
        };
        texts.into_iter().zip(starts).map(|(text, start)| Self::answer(text, start)).collect()
    }

    fn into_one_answer(self) -> Result<Answer, String> {
        let Self::Object(fields) = self else { return Self::answer(self, Self::Null) };
        let field =
            |name: &str| fields.iter().find(|(key, _)| key == name).map_or(Self::Null, |(_, cell)| cell.clone());
        Self::answer(field("text"), field("answer_start"))
    }

    fn answer(text: Self, start: Self) -> Result<Answer, String> {
        let start = match start {
            // DuReader writes −1 where an answer's place is not known.
            Self::Null | Self::Integer(-1) => None,
            Self::Integer(start) => {
                Some(usize::try_from(start).map_err(|_| format!("answer_start: expected a place, found {start}"))?)
            }
            other => return Err(format!("answer_start: expected a whole number, found {}", other.kind())),
        };
        let text = text.into_text("answers")?.ok_or("answers: expected a text, found null")?;
        Ok(Answer { text, start })
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
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Cell::Object(fields))
    }
}
