//! Whole JSON objects, whatever their fields: the result files that other commands wrote.

use serde_json::{Map, Value};

use super::Place;
use super::delimited::{self, Dialect};
use super::files::{Counter, Format, Input, expand};
use super::jsonl::describe;
use super::lines::{Found, Lines, as_text, too_long, without_end};
#[cfg(feature = "parquet")]
use super::parquet::each_row;
use crate::error::{Error, Result};

/// What takes an object and its place.
pub(super) type Taker<'a> = dyn FnMut(&Place, Map<String, Value>) -> Result<()> + 'a;

/// Hands each row of `files` to `each` as [`each_object`] does, those of tables with a header line too, all values
/// strings and empty ones left out.
///
/// # Errors
/// As [`each_object`]; what is no table.
pub(crate) fn each_row_object(files: &[String], each: &mut Taker<'_>) -> Result<()> {
    for input in expand(files)? {
        let dialect = match input.format {
            Format::Csv => Dialect::Csv,
            Format::Tsv => Dialect::Tsv,
            Format::Jsonl | Format::Parquet => {
                each_of(&input, each)?;
                continue;
            }
        };
        delimited::each_row(Lines::new(input.bytes(&Counter::default())?, &input.path)?, dialect, each)?;
    }
    Ok(())
}

/// Hands each object of `files` (paths and globs of `.jsonl`, plain or compressed, and `.parquet`; `-` is standard
/// input) to `each`, with its place, in order.
///
/// # Errors
/// [`Error::Record`] at a line that is no JSON object; [`Error::Io`] and [`Error::Format`] where a file cannot be read
/// or is of another kind; whatever `each` fails with.
pub(crate) fn each_object(files: &[String], each: &mut Taker<'_>) -> Result<()> {
    expand(files)?.iter().try_for_each(|input| each_of(input, each))
}

fn each_of(input: &Input, each: &mut Taker<'_>) -> Result<()> {
    match input.format {
        Format::Jsonl => each_line(input, each),
        Format::Parquet => each_row(input, each),
        Format::Csv | Format::Tsv => {
            Err(Error::format(&input.path, "expected results as .jsonl or .parquet, found a table"))
        }
    }
}

fn each_line(input: &Input, each: &mut Taker<'_>) -> Result<()> {
    let mut lines = Lines::new(input.bytes(&Counter::default())?, &input.path)?;
    let mut line = Vec::new();
    loop {
        let found = lines.read(&mut line)?;
        let place = Place::new(&input.path, lines.number());
        match found {
            Found::End => return Ok(()),
            Found::TooLong => return Err(place.error(too_long("the line"))),
            Found::Line if line.trim_ascii().is_empty() => {}
            Found::Line => each(&place, parse(&line).map_err(|reason| place.error(reason))?)?,
        }
    }
}

fn parse(line: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(as_text(without_end(line))?).map_err(|error| describe(&error))? {
        Value::Object(object) => Ok(object),
        _ => Err("expected a JSON object".to_owned()),
    }
}

#[cfg(not(feature = "parquet"))]
fn each_row(input: &Input, _: &mut Taker<'_>) -> Result<()> {
    Err(Error::format(&input.path, "this binary was built without parquet"))
}
