//! One JSON object a line.

use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use super::cell::{Cell, Row};
use super::columns::{Names, Wanted, list};
use super::lines::{Found, Lines, as_text, too_long, without_end};
use super::reader::Source;
use crate::error::{Error, Result};

/// The records of a JSONL stream.
pub(super) struct Jsonl {
    lines: Lines,
    line: Vec<u8>,
    wanted: Wanted,
    /// A record with a text has been seen, so that one without is that record's fault.
    has_text: bool,
}

impl Jsonl {
    pub(super) fn new(lines: Lines, wanted: Wanted) -> Self {
        Self { lines, line: Vec::new(), wanted, has_text: false }
    }

    fn parse(&self) -> Result<Row> {
        let text = as_text(without_end(&self.line)).map_err(|reason| self.refuse(reason))?;
        if !self.has_text && text.trim_start().starts_with('[') {
            return Err(self.is_array());
        }
        let object = parse_object(text, &self.wanted).map_err(|reason| self.refuse(reason))?;
        if !self.has_text && !object.has(&self.wanted.text) {
            return Err(self.wanted.no_text(&key_names(text), self.lines.path()));
        }
        self.row(object).map_err(|names| self.refuse(missing(names, &key_names(text))))
    }

    /// # Errors
    /// The names of a field that is not there.
    fn row<'a>(&'a self, mut object: Object) -> Result<Row, &'a Names> {
        let kept = self.wanted.kept.iter().map(|names| object.get(names)).collect::<Result<_, _>>()?;
        let text = object.take(&self.wanted.text).ok_or(&self.wanted.text)?;
        let mut optional = |names: &'a Names| match object.take(names) {
            None if names.explicit => Err(names),
            found => Ok(found.unwrap_or_default()),
        };
        Ok(Row {
            line: self.lines.number(),
            text,
            pair: optional(&self.wanted.pair)?,
            label: optional(&self.wanted.label)?,
            id: optional(&self.wanted.id)?,
            kept,
            ..Row::default()
        })
    }

    fn refuse(&self, reason: String) -> Error {
        Error::Record { path: self.lines.path().to_owned(), line: self.lines.number(), reason }
    }

    fn is_array(&self) -> Error {
        Error::format(self.lines.path(), "expected one JSON object a line, found a JSON array")
            .with_hint("write one record a line: jq -c '.[]' FILE.json > FILE.jsonl")
    }
}

impl Source for Jsonl {
    fn next_row(&mut self) -> Option<Result<Row>> {
        loop {
            match self.lines.read(&mut self.line) {
                Err(error) => return Some(Err(error)),
                Ok(Found::End) => return None,
                Ok(Found::TooLong) => return Some(Err(self.refuse(too_long("the line")))),
                Ok(Found::Line) if self.line.trim_ascii().is_empty() => {}
                Ok(Found::Line) => {
                    let row = self.parse();
                    self.has_text |= row.is_ok();
                    return Some(row);
                }
            }
        }
    }
}

fn missing(names: &Names, found: &[String]) -> String {
    let what = match &names.names[..] {
        [name] => format!("no field `{name}`"),
        _ => "no text field".to_owned(),
    };
    format!("{what}; the fields are {}", list(found))
}

/// The wanted fields of one object; of a name written twice, the last value, as JSON readers do.
struct Object(Vec<(String, Cell)>);

impl Object {
    fn has(&self, names: &Names) -> bool {
        names.names.iter().any(|name| self.0.iter().any(|(key, _)| key == name))
    }

    /// The field of a name that the user gave, with the name.
    fn get<'a>(&self, names: &'a Names) -> Result<(String, Cell), &'a Names> {
        let field = self.0.iter().find(|(key, _)| names.names.contains(key));
        field.cloned().ok_or(names)
    }

    /// The first of the names that is there and not null, or null where one is there; taken out, so that no two fields
    /// share it.
    fn take(&mut self, names: &Names) -> Option<Cell> {
        let place = |name: &String| self.0.iter().position(|(key, _)| key == name);
        let present: Vec<usize> = names.names.iter().filter_map(place).collect();
        let best = present.iter().find(|&&at| self.0[at].1 != Cell::Null).or(present.first())?;
        Some(self.0.swap_remove(*best).1)
    }
}

/// # Errors
/// What is wrong and at which column (from 1, in bytes).
fn parse_object(text: &str, wanted: &Wanted) -> Result<Object, String> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let parsed = ObjectSeed(wanted).deserialize(&mut parser).and_then(|object| parser.end().map(|()| object));
    parsed.map_err(|error| describe(&error))
}

/// serde_json counts lines too, which here is always the first.
pub(super) fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("invalid JSON at column {}: {what}", error.column())
}

/// The names of all fields of an object.
fn key_names(text: &str) -> Vec<String> {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text)
        .map(|object| object.keys().cloned().collect())
        .unwrap_or_default()
}

struct ObjectSeed<'a>(&'a Wanted);

impl<'de> DeserializeSeed<'de> for ObjectSeed<'_> {
    type Value = Object;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Object, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ObjectSeed<'_> {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut fields: Vec<(String, Cell)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if !self.0.contains(&key) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let cell = map.next_value()?;
            match fields.iter_mut().find(|(name, _)| *name == key) {
                Some(field) => field.1 = cell,
                None => fields.push((key, cell)),
            }
        }
        Ok(Object(fields))
    }
}
