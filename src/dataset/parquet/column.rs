//! A column's values, put together into rows from Parquet's definition and repetition levels.

use std::collections::VecDeque;

use half::f16;
use parquet::basic::{ConvertedType, LogicalType, Repetition};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::schema::types::ColumnDescriptor;

use super::{BATCH, Leaves};
use crate::dataset::cell::Cell;

/// One column of a row group, decoded ahead by a batch.
pub(super) struct Column {
    reader: ColumnReader,
    shape: Shape,
    ready: VecDeque<Cell>,
}

/// What a column's definition and repetition levels mean.
#[derive(Clone, Copy, Debug)]
struct Shape {
    is_list: bool,
    /// The outermost level may be null: a definition level of 0 says so.
    nullable: bool,
    /// The definition level of a value that is there.
    defined: i16,
    /// The definition level from which a list has an element, null or not.
    element: i16,
    stands_for: StandsFor,
}

/// What the schema says stored bits stand for, beyond their physical type.
#[derive(Clone, Copy, Debug)]
enum StandsFor {
    Itself,
    /// An integer without a sign, in the bits of one with a sign.
    Unsigned,
    /// An integer over so many powers of ten.
    Decimal(i32),
    Half,
    Time,
}

impl Shape {
    fn new(column: &ColumnDescriptor) -> Self {
        let defined = column.max_def_level();
        let is_list = column.max_rep_level() > 0;
        let optional_value = column.self_type().get_basic_info().repetition() == Repetition::OPTIONAL;
        // A list's levels: one if it may be null, one for being repeated, one if its elements may be null.
        let nullable = defined > i16::from(is_list) + i16::from(is_list && optional_value);
        let element = defined - i16::from(optional_value);
        Self { is_list, nullable, defined, element, stands_for: StandsFor::of(column) }
    }

    /// One value a row: the values where they are defined, null elsewhere.
    fn scalars(self, levels: &[i16], values: Vec<Cell>) -> VecDeque<Cell> {
        if self.defined == 0 {
            return values.into();
        }
        let mut values = values.into_iter();
        let one = |&level: &i16| if level == self.defined { values.next().unwrap_or_default() } else { Cell::Null };
        levels.iter().map(one).collect()
    }

    /// One list a row. A repetition level of 0 begins a row.
    fn lists(self, definitions: &[i16], repetitions: &[i16], values: Vec<Cell>) -> VecDeque<Cell> {
        let mut values = values.into_iter();
        let mut rows: VecDeque<Cell> = VecDeque::new();
        for (&definition, &repetition) in definitions.iter().zip(repetitions) {
            if repetition == 0 {
                let is_null = self.nullable && definition == 0;
                rows.push_back(if is_null { Cell::Null } else { Cell::List(Vec::new()) });
            }
            if definition < self.element {
                continue;
            }
            let value = if definition == self.defined { values.next().unwrap_or_default() } else { Cell::Null };
            if let Some(Cell::List(list)) = rows.back_mut() {
                list.push(value);
            }
        }
        rows
    }
}

/// A column, or those of a structure's members.
pub(super) enum Value {
    One(Box<Column>),
    Members(Vec<(String, Column)>),
}

impl Value {
    pub(super) fn new(
        leaves: &Leaves,
        column: &impl Fn(usize) -> Result<Column, ParquetError>,
    ) -> Result<Self, ParquetError> {
        let member = |(name, leaf): &(String, usize)| Ok((name.clone(), column(*leaf)?));
        Ok(match leaves {
            Leaves::One(leaf) => Self::One(Box::new(column(*leaf)?)),
            Leaves::Members(members) => Self::Members(members.iter().map(member).collect::<Result<_, ParquetError>>()?),
        })
    }

    pub(super) fn next(&mut self) -> Result<Cell, ParquetError> {
        let members = match self {
            Self::One(column) => return column.next(),
            Self::Members(members) => members.iter_mut().map(|(name, column)| Ok((name.clone(), column.next()?))),
        };
        let members = members.collect::<Result<Vec<_>, ParquetError>>()?;
        // A structure that is null has nothing but members that are.
        let is_null = members.iter().all(|(_, cell)| *cell == Cell::Null);
        Ok(if is_null { Cell::Null } else { Cell::Object(members) })
    }
}

impl Column {
    pub(super) fn new(reader: ColumnReader, descriptor: &ColumnDescriptor) -> Self {
        Self { reader, shape: Shape::new(descriptor), ready: VecDeque::new() }
    }

    pub(super) fn next(&mut self) -> Result<Cell, ParquetError> {
        if self.ready.is_empty() {
            self.refill()?;
        }
        self.ready.pop_front().ok_or_else(|| ParquetError::General("a column has fewer rows than its group".to_owned()))
    }

    fn refill(&mut self) -> Result<(), ParquetError> {
        let shape = self.shape;
        self.ready = match &mut self.reader {
            ColumnReader::BoolColumnReader(reader) => batch(reader, shape, |&value| Cell::Bool(value)),
            ColumnReader::Int32ColumnReader(reader) => {
                batch(reader, shape, |&value| shape.integer(value.into(), u64::from(value as u32)))
            }
            ColumnReader::Int64ColumnReader(reader) => {
                batch(reader, shape, |&value| shape.integer(value, value as u64))
            }
            ColumnReader::FloatColumnReader(reader) => batch(reader, shape, |&value| Cell::Number(value.into())),
            ColumnReader::DoubleColumnReader(reader) => batch(reader, shape, |&value| Cell::Number(value)),
            ColumnReader::ByteArrayColumnReader(reader) => batch(reader, shape, |value| shape.bytes(value.data())),
            ColumnReader::Int96ColumnReader(reader) => batch(reader, shape, |_| Cell::Other("a time")),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => {
                batch(reader, shape, |value| shape.fixed_bytes(value.data()))
            }
        }?;
        Ok(())
    }
}

impl StandsFor {
    fn of(column: &ColumnDescriptor) -> Self {
        if column.logical_type_ref() == Some(&LogicalType::Float16) {
            return Self::Half;
        }
        match column.converted_type() {
            ConvertedType::UINT_64 | ConvertedType::UINT_32 => Self::Unsigned,
            ConvertedType::DECIMAL => Self::Decimal(column.type_scale()),
            ConvertedType::DATE
            | ConvertedType::TIME_MILLIS
            | ConvertedType::TIME_MICROS
            | ConvertedType::TIMESTAMP_MILLIS
            | ConvertedType::TIMESTAMP_MICROS => Self::Time,
            _ => Self::Itself,
        }
    }
}

impl Shape {
    /// A stored integer; `unsigned` is what its bits are without a sign.
    fn integer(self, value: i64, unsigned: u64) -> Cell {
        match self.stands_for {
            StandsFor::Unsigned => Cell::Integer(unsigned.into()),
            StandsFor::Decimal(scale) => decimal(value.into(), scale),
            StandsFor::Time => Cell::Other("a time"),
            StandsFor::Itself | StandsFor::Half => Cell::Integer(value.into()),
        }
    }

    fn bytes(self, bytes: &[u8]) -> Cell {
        if let StandsFor::Decimal(scale) = self.stands_for { decimal_of(bytes, scale) } else { text(bytes) }
    }

    fn fixed_bytes(self, bytes: &[u8]) -> Cell {
        match (self.stands_for, bytes) {
            (StandsFor::Half, &[low, high]) => Cell::Number(f16::from_le_bytes([low, high]).into()),
            (StandsFor::Decimal(scale), _) => decimal_of(bytes, scale),
            _ => Cell::Other("bytes of fixed length"),
        }
    }
}

/// A decimal of any width: two's complement, the highest byte first.
fn decimal_of(bytes: &[u8], scale: i32) -> Cell {
    if bytes.len() > size_of::<i128>() {
        return Cell::Other("a decimal of more than 38 digits");
    }
    let sign = if bytes.first().is_some_and(|&first| first >= 0x80) { -1 } else { 0 };
    decimal(bytes.iter().fold(sign, |value: i128, &byte| value << 8 | i128::from(byte)), scale)
}

/// The number that is nearest to `value` over so many powers of ten; as it is written is how it is rounded once.
fn decimal(value: i128, scale: i32) -> Cell {
    if scale == 0 {
        return Cell::Integer(value);
    }
    format!("{value}e{}", -scale).parse().map_or(Cell::Other("a decimal"), Cell::Number)
}

fn text(bytes: &[u8]) -> Cell {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cell::Text(text.to_owned()),
        Err(_) => Cell::Other("bytes that are not UTF-8"),
    }
}

/// The next rows of a column of one physical type.
fn batch<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    shape: Shape,
    cell: impl Fn(&T::T) -> Cell,
) -> Result<VecDeque<Cell>, ParquetError> {
    let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
    reader.read_records(BATCH, Some(&mut definitions), Some(&mut repetitions), &mut values)?;
    let values = values.iter().map(cell).collect();
    Ok(if shape.is_list {
        shape.lists(&definitions, &repetitions, values)
    } else {
        shape.scalars(&definitions, values)
    })
}
