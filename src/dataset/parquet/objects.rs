//! Whole rows as JSON objects, nested as they are: for result files, which this crate wrote itself.
//!
//! The crate's row iterator is good enough for those: optional values, and three-level lists of values and of
//! structures.

use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::{damaged, guarded, open};
use crate::dataset::Place;
use crate::dataset::files::Input;
use crate::dataset::objects::Taker;
use crate::error::Result;

/// Hands each row of `input` to `each`, with its place.
///
/// # Errors
/// [`crate::Error::Io`] where the file cannot be opened; [`crate::Error::Format`] where it is not Parquet, or has
/// values that are neither text nor numbers nor booleans; whatever `each` fails with.
pub(in crate::dataset) fn each_row(input: &Input, each: &mut Taker<'_>) -> Result<()> {
    let (path, file) = (input.path.as_path(), open(input)?);
    let refuse = |error: ParquetError| damaged(path, &error);
    let mut rows = guarded(|| file.get_row_iter(None)).map_err(refuse)?;
    for line in 1.. {
        let Some(row) = guarded(|| rows.next().transpose()).map_err(refuse)? else { break };
        each(&Place::new(path, line), object(row).map_err(refuse)?)?;
    }
    Ok(())
}

fn object(row: Row) -> Result<Map<String, Value>, ParquetError> {
    row.into_columns().into_iter().map(|(name, field)| Ok((name, value(field)?))).collect()
}

fn value(field: Field) -> Result<Value, ParquetError> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float(value) => value.into(),
        Field::Double(value) => value.into(),
        Field::Str(value) => value.into(),
        Field::Group(row) => object(row)?.into(),
        Field::ListInternal(list) => {
            list.elements().iter().map(|item| value(item.clone())).collect::<Result<Vec<_>, _>>()?.into()
        }
        other => return Err(ParquetError::General(format!("expected text and numbers, found {other}"))),
    })
}
