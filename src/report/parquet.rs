//! Nested records to Parquet columns, as Dremel stripes them (Melnik et al. 2010): each leaf is a column of values with
//! a definition level (how much of its path is there) and a repetition level (which list on its path goes on).

use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, FloatType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};
use serde_json::Value;

use super::{Destination, Kind};
use crate::error::Result;

/// Records in one row group, at most.
const ROWS_PER_GROUP: usize = 10_000;

/// Values in one row group, over all its columns: a group is full with the record that reaches this.
const VALUES_PER_GROUP: usize = 4 << 20;

/// Buffers records, striped into columns, and writes them a row group at a time.
pub(super) struct RowGroups {
    fields: Vec<(String, Kind)>,
    leaves: Vec<Leaf>,
    rows: usize,
    writer: Option<SerializedFileWriter<Vec<u8>>>,
}

impl RowGroups {
    pub(super) fn new(fields: Vec<(String, Kind)>) -> Self {
        let leaves = fields.iter().flat_map(|(_, kind)| leaves_of(kind)).collect();
        Self { fields, leaves, rows: 0, writer: None }
    }

    /// Takes one record, with `lists` for what it has under those names; a full row group goes to `destination`.
    pub(super) fn push(&mut self, row: &Value, lists: &[(&str, &[f32])], destination: &mut Destination) -> Result<()> {
        self.stripe(row, lists);
        self.rows += 1;
        let values: usize = self.leaves.iter().map(|leaf| leaf.definition.len()).sum();
        if self.rows < ROWS_PER_GROUP && values < VALUES_PER_GROUP {
            return Ok(());
        }
        self.write_group()?;
        self.drain(destination)
    }

    fn stripe(&mut self, row: &Value, lists: &[(&str, &[f32])]) {
        let mut leaves = self.leaves.as_mut_slice();
        for (name, kind) in &self.fields {
            let (own, rest) = leaves.split_at_mut(leaf_count(kind));
            match lists.iter().find(|(list, _)| list == name) {
                Some((_, numbers)) => own[0].push_list(numbers),
                None => stripe(kind, row.get(name).filter(|v| !v.is_null()), Level::default(), own),
            }
            leaves = rest;
        }
    }

    /// Writes the last rows and the footer.
    pub(super) fn finish(mut self, mut destination: Destination) -> Result<Destination> {
        self.write_group()?;
        self.drain(&mut destination)?;
        let Some(mut writer) = self.writer else { return Ok(destination) };
        writer.finish()?;
        destination.write(writer.inner())?;
        Ok(destination)
    }

    /// Hands over what the file writer has made so far: it counts its own offsets, so its buffer can be emptied.
    fn drain(&mut self, destination: &mut Destination) -> Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        destination.write(writer.inner())?;
        writer.inner_mut().clear();
        Ok(())
    }

    fn write_group(&mut self) -> Result<()> {
        if self.writer.is_none() {
            let message = message(&self.fields)?;
            let properties = Arc::new(properties(&message));
            self.writer = Some(SerializedFileWriter::new(Vec::new(), message, properties)?);
        }
        let (Some(writer), 1..) = (&mut self.writer, self.rows) else { return Ok(()) };
        let mut group = writer.next_row_group()?;
        for leaf in &mut self.leaves {
            leaf.write(&mut group)?;
            leaf.clear();
        }
        self.rows = 0;
        group.close()?;
        writer.flush().map_err(parquet::errors::ParquetError::from)?;
        Ok(())
    }
}

/// One column under construction.
struct Leaf {
    values: Values,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

enum Values {
    Text(Vec<ByteArray>),
    Integer(Vec<i64>),
    Number(Vec<f64>),
    Single(Vec<f32>),
    Boolean(Vec<bool>),
}

impl Leaf {
    fn new(values: Values) -> Self {
        Self { values, definition: Vec::new(), repetition: Vec::new() }
    }

    /// Appends a value, or a null where it has not the column's type.
    fn push(&mut self, value: Option<&Value>, level: Level) {
        let there = match (&mut self.values, value) {
            (Values::Text(column), Some(Value::String(text))) => {
                column.push(text.as_bytes().to_vec().into());
                true
            }
            (Values::Integer(column), Some(value)) if value.is_i64() || value.is_u64() => {
                column.push(value.as_i64().unwrap_or(i64::MAX));
                true
            }
            (Values::Number(column), Some(Value::Number(number))) => {
                column.push(number.as_f64().unwrap_or(f64::NAN));
                true
            }
            (Values::Single(column), Some(Value::Number(number))) => {
                column.push(number.as_f64().unwrap_or(f64::NAN) as f32);
                true
            }
            (Values::Boolean(column), Some(&Value::Bool(value))) => {
                column.push(value);
                true
            }
            _ => false,
        };
        self.definition.push(level.definition + i16::from(there));
        self.repetition.push(level.repetition);
    }

    /// Appends a record's list, as [`stripe`] does what JSON has of it: null for what is no number.
    fn push_list(&mut self, numbers: &[f32]) {
        let Values::Single(column) = &mut self.values else { unreachable!("lists are of 32-bit numbers") };
        if numbers.is_empty() {
            self.definition.push(1);
            self.repetition.push(0);
            return;
        }
        column.extend(numbers.iter().filter(|number| number.is_finite()));
        self.definition.extend(numbers.iter().map(|number| 2 + i16::from(number.is_finite())));
        self.repetition.push(0);
        self.repetition.resize(self.definition.len(), 1);
    }

    fn write(&self, group: &mut SerializedRowGroupWriter<'_, Vec<u8>>) -> Result<()> {
        let Some(mut column) = group.next_column()? else { return Ok(()) };
        let (definition, repetition) = (Some(self.definition.as_slice()), Some(self.repetition.as_slice()));
        match &self.values {
            Values::Text(v) => column.typed::<ByteArrayType>().write_batch(v, definition, repetition)?,
            Values::Integer(v) => column.typed::<Int64Type>().write_batch(v, definition, repetition)?,
            Values::Number(v) => column.typed::<DoubleType>().write_batch(v, definition, repetition)?,
            Values::Single(v) => column.typed::<FloatType>().write_batch(v, definition, repetition)?,
            Values::Boolean(v) => column.typed::<BoolType>().write_batch(v, definition, repetition)?,
        };
        column.close()?;
        Ok(())
    }

    fn clear(&mut self) {
        match &mut self.values {
            Values::Text(v) => v.clear(),
            Values::Integer(v) => v.clear(),
            Values::Number(v) => v.clear(),
            Values::Single(v) => v.clear(),
            Values::Boolean(v) => v.clear(),
        }
        self.definition.clear();
        self.repetition.clear();
    }
}

/// Where in the nesting a value stands.
#[derive(Clone, Copy, Default)]
struct Level {
    /// Optional and repeated ancestors that are there.
    definition: i16,
    /// The list that goes on with this value (0: a new record).
    repetition: i16,
    /// Lists on the path so far.
    depth: i16,
}

/// Empty columns for the leaves under `kind`, in schema order.
fn leaves_of(kind: &Kind) -> Vec<Leaf> {
    match kind {
        Kind::Text => vec![Leaf::new(Values::Text(Vec::new()))],
        Kind::Integer => vec![Leaf::new(Values::Integer(Vec::new()))],
        Kind::Number => vec![Leaf::new(Values::Number(Vec::new()))],
        Kind::Single => vec![Leaf::new(Values::Single(Vec::new()))],
        Kind::Boolean => vec![Leaf::new(Values::Boolean(Vec::new()))],
        Kind::List(element) => leaves_of(element),
        Kind::Struct(fields) => fields.iter().flat_map(|(_, kind)| leaves_of(kind)).collect(),
    }
}

fn leaf_count(kind: &Kind) -> usize {
    match kind {
        Kind::Text | Kind::Integer | Kind::Number | Kind::Single | Kind::Boolean => 1,
        Kind::List(element) => leaf_count(element),
        Kind::Struct(fields) => fields.iter().map(|(_, kind)| leaf_count(kind)).sum(),
    }
}

fn stripe_fields(fields: &[(String, Kind)], value: &Value, level: Level, mut leaves: &mut [Leaf]) {
    for (name, kind) in fields {
        let (own, rest) = leaves.split_at_mut(leaf_count(kind));
        stripe(kind, value.get(name).filter(|v| !v.is_null()), level, own);
        leaves = rest;
    }
}

fn stripe(kind: &Kind, value: Option<&Value>, level: Level, leaves: &mut [Leaf]) {
    let inside = Level { definition: level.definition + 1, ..level };
    match (kind, value) {
        (Kind::Text | Kind::Integer | Kind::Number | Kind::Single | Kind::Boolean, value) => {
            leaves[0].push(value, level);
        }
        (Kind::Struct(fields), Some(value @ Value::Object(_))) => stripe_fields(fields, value, inside, leaves),
        (Kind::List(_), Some(Value::Array(items))) if items.is_empty() => absent(leaves, inside),
        (Kind::List(element), Some(Value::Array(items))) => {
            let depth = level.depth + 1;
            for (i, item) in items.iter().enumerate() {
                let repetition = if i == 0 { level.repetition } else { depth };
                let at = Level { definition: level.definition + 2, repetition, depth };
                stripe(element, Some(item).filter(|v| !v.is_null()), at, leaves);
            }
        }
        (Kind::Struct(_) | Kind::List(_), _) => absent(leaves, level),
    }
}

/// Nothing further down: one null in each column below.
fn absent(leaves: &mut [Leaf], level: Level) {
    for leaf in leaves {
        leaf.push(None, level);
    }
}

/// Numbers that are hardly ever equal are written as they are: a dictionary of them would be as large, and made in
/// vain.
fn properties(message: &TypePtr) -> WriterProperties {
    let schema = SchemaDescriptor::new(message.clone());
    let floats =
        schema.columns().iter().filter(|leaf| matches!(leaf.physical_type(), Physical::FLOAT | Physical::DOUBLE));
    let builder = WriterProperties::builder().set_compression(Compression::SNAPPY);
    floats.fold(builder, |builder, leaf| builder.set_column_dictionary_enabled(leaf.path().clone(), false)).build()
}

fn message(fields: &[(String, Kind)]) -> Result<TypePtr> {
    let fields = fields.iter().map(|(name, kind)| node(name, kind)).collect::<Result<_>>()?;
    Ok(Arc::new(Type::group_type_builder("record").with_fields(fields).build()?))
}

fn node(name: &str, kind: &Kind) -> Result<TypePtr> {
    let leaf = |physical| Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
    let group = |fields| Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL).with_fields(fields);
    let built = match kind {
        Kind::Text => leaf(Physical::BYTE_ARRAY).with_logical_type(Some(LogicalType::String)).build()?,
        Kind::Integer => leaf(Physical::INT64).build()?,
        Kind::Number => leaf(Physical::DOUBLE).build()?,
        Kind::Single => leaf(Physical::FLOAT).build()?,
        Kind::Boolean => leaf(Physical::BOOLEAN).build()?,
        Kind::Struct(fields) => {
            group(fields.iter().map(|(name, kind)| node(name, kind)).collect::<Result<_>>()?).build()?
        }
        Kind::List(element) => {
            let repeated = Type::group_type_builder("list")
                .with_repetition(Repetition::REPEATED)
                .with_fields(vec![node("element", element)?])
                .build()?;
            group(vec![Arc::new(repeated)]).with_logical_type(Some(LogicalType::List)).build()?
        }
    };
    Ok(Arc::new(built))
}

#[cfg(test)]
mod tests {
    use parquet::schema::types::ColumnPath;
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_beside_a_record_are_written_as_those_in_it() {
        let fields = [("text", Kind::Text), ("one", Kind::list(Kind::Single)), ("two", Kind::list(Kind::Single))];
        let fields: Vec<_> = fields.map(|(name, kind)| (name.to_owned(), kind)).into();
        let lists: [&[f32]; 6] = [
            &[1.5],
            &[],
            &[0.1, -0.0, f32::MIN_POSITIVE / 4.0, f32::MAX],
            &[f32::NAN, 0.3, f32::INFINITY],
            &[f32::NAN],
            &[f32::NEG_INFINITY, f32::NEG_INFINITY, -7.0],
        ];
        let (mut inside, mut beside) = (RowGroups::new(fields.clone()), RowGroups::new(fields));
        for (one, two) in lists.into_iter().flat_map(|one| lists.map(|two| (one, two))) {
            inside.stripe(&json!({ "text": "t", "one": one, "two": two }), &[]);
            // What the record has under such a name is not looked at.
            beside.stripe(&json!({ "text": "t", "one": [] }), &[("two", two), ("one", one), ("three", &[3.0])]);
        }
        for (inside, beside) in inside.leaves.iter().zip(&beside.leaves) {
            assert_eq!((&inside.definition, &inside.repetition), (&beside.definition, &beside.repetition));
            let (Values::Single(inside), Values::Single(beside)) = (&inside.values, &beside.values) else { continue };
            let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(inside), bits(beside));
        }
    }

    #[test]
    fn no_dictionaries_are_made_of_fractions() {
        let of = |kind| Kind::List(Box::new(kind));
        let fields =
            [("one", Kind::Number), ("many", of(Kind::Single)), ("name", Kind::Text), ("labels", of(Kind::Integer))];
        let fields: Vec<_> = fields.map(|(name, kind)| (name.to_owned(), kind)).into();
        let properties = properties(&message(&fields).unwrap());
        let path = |path: &str| ColumnPath::new(path.split('.').map(str::to_owned).collect());
        let has = |name: &str| properties.dictionary_enabled(&path(name));
        assert!(!has("one") && !has("many.list.element"));
        assert!(has("name") && has("labels.list.element"));
    }
}
