//! The training data on their way through a plan, and the record of what became of them.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::plan::Columns;
use crate::dataset::{Dataset, DatasetOptions, Label, Record, Rejections, Shape, each_object, each_row_object};
use crate::error::{Error, Result};
use crate::report::Destination;

/// The column that weights are written to.
pub(super) const WEIGHT: &str = "weight";

/// A training record, as the plan has made it so far.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    /// As read; its label is the present one.
    pub(super) record: Record,
    /// What it counts.
    pub(super) weight: f64,
    /// Whether it has been taken out.
    pub(super) dropped: bool,
    /// The record's number in the data that the plan began with; nothing where it was added.
    pub(super) origin: Option<u64>,
}

/// Opens files as the plan's columns say.
pub(super) fn open(files: &[String], columns: &Columns) -> Result<Dataset> {
    Dataset::open(options(files, columns))
}

/// Refuses data that a plan cannot be of: what is trained, judged and changed is a label a text.
pub(super) fn check_shape(files: &[String], columns: &Columns) -> Result<()> {
    let refuse = |found: &str| Err(Error::usage(format!("data: a plan is of texts with a label each, found {found}")));
    match Shape::of(&options(files, columns)) {
        Shape::Texts => Ok(()),
        Shape::Questions => refuse("questions with answers"),
        Shape::Words => refuse("words with tags").map_err(|error| {
            error.with_hint("`audit dirty --corrected FILE --accept N` writes the data with corrected tags, for `train` to learn from")
        }),
    }
}

fn options(files: &[String], columns: &Columns) -> DatasetOptions {
    DatasetOptions {
        files: files.to_vec(),
        text_column: columns.text.clone(),
        pair_column: columns.pair.clone(),
        label_column: columns.label.clone(),
        id_column: columns.id.clone(),
        keep_columns: columns.weight.iter().cloned().collect(),
        no_header: columns.names.is_some(),
        columns: columns.names.clone(),
        allow_duplicate_ids: false,
        ..DatasetOptions::default()
    }
}

/// All records of some files; only training data have weights.
pub(super) fn read(files: &[String], columns: &Columns, rejections: &mut Rejections) -> Result<Vec<Record>> {
    let items = items(files, &Columns { weight: None, ..columns.clone() }, rejections)?;
    Ok(items.into_iter().map(|item| item.record).collect())
}

/// The training data that a plan begins with.
pub(super) fn items(files: &[String], columns: &Columns, rejections: &mut Rejections) -> Result<Vec<Item>> {
    if are_empty(files) {
        return Ok(Vec::new());
    }
    let (mut dataset, mut items) = (open(files, columns)?, Vec::new());
    while let Some(record) = dataset.next() {
        let item = record.and_then(|record| {
            let weight = columns.weight.as_ref().and_then(|column| record.columns.get(column));
            let weight = weight.map_or(Ok(1.0), |weight| weight.trim().parse());
            let weight = weight.map_err(|_| dataset.place().error("expected a number for a weight".to_owned()))?;
            Ok(Item { origin: Some(record.index), weight, dropped: false, record })
        });
        match item {
            Ok(item) => items.push(item),
            Err(error) => rejections.take(error)?,
        }
    }
    Ok(items)
}

/// Whether these are files with nothing in them, as a round leaves where nothing waits.
fn are_empty(files: &[String]) -> bool {
    files.iter().all(|file| std::fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0))
}

/// Files that [`write`] wrote.
pub(super) fn written(path: &Path) -> (Vec<String>, Columns) {
    let columns = Columns { weight: Some(WEIGHT.to_owned()), ..Columns::default() };
    (vec![path.to_string_lossy().into_owned()], columns)
}

/// Writes what is left of the data, one JSON object a line: `id`, `text`, `text_pair`, `label`, `weight`.
pub(super) fn write<'a>(path: &Path, items: impl IntoIterator<Item = &'a Item>) -> Result<()> {
    let mut file = Destination::create(Some(path))?;
    for item in items.into_iter().filter(|item| !item.dropped) {
        let mut line = line(&item.record);
        line.insert(WEIGHT.to_owned(), json!(item.weight));
        file.write(format!("{}\n", Value::Object(line)).as_bytes())?;
    }
    file.finish()
}

/// Writes records without their labels.
pub(super) fn write_bare(path: &Path, records: &[Record]) -> Result<()> {
    let mut file = Destination::create(Some(path))?;
    for record in records {
        let mut line = line(record);
        line.remove("label");
        file.write(format!("{}\n", Value::Object(line)).as_bytes())?;
    }
    file.finish()
}

fn line(record: &Record) -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("id".to_owned(), json!(record.id));
    line.insert("text".to_owned(), json!(record.text));
    if let Some(pair) = &record.pair {
        line.insert("text_pair".to_owned(), json!(pair));
    }
    if let Some(label) = &record.label {
        line.insert("label".to_owned(), value(label));
    }
    line
}

/// A label as JSON has it.
pub(super) fn value(label: &Label) -> Value {
    match label {
        Label::Integer(id) => json!(id),
        Label::Number(number) => json!(number),
        Label::Name(name) => json!(name),
        Label::Many(labels) => labels.iter().map(value).collect(),
        Label::Answers(_) => Value::Null, // no classifier is trained on these
    }
}

/// The records that an earlier run wrote, a JSON object a line; a step that found nothing to do left an empty file.
pub(super) fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let mut records = Vec::new();
    each_object(&[path.to_string_lossy().into_owned()], &mut |place, object| {
        let record = serde_json::from_value(Value::Object(object));
        records.push(record.map_err(|error| place.error(error.to_string()))?);
        Ok(())
    })?;
    Ok(records)
}

/// Labels by id and by index, from files of `id` or `index` and `label` (or as the plan's columns are called), the
/// later ones first believed.
#[derive(Debug, Default)]
pub(super) struct Answers {
    by_id: HashMap<String, Label>,
    by_index: HashMap<u64, Label>,
}

impl Answers {
    pub(super) fn read(files: &[String], columns: &Columns) -> Result<Self> {
        let mut answers = Self::default();
        if files.is_empty() {
            return Ok(answers);
        }
        each_row_object(files, &mut |place, object| {
            let field = |column: &Option<String>, usual: &str| {
                column.as_ref().and_then(|column| object.get(column)).or_else(|| object.get(usual))
            };
            let label = field(&columns.label, "label").and_then(label_of);
            let label = label.ok_or_else(|| place.error("no label".to_owned()))?;
            let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
            match (field(&columns.id, "id"), object.get("index").and_then(number)) {
                (Some(Value::String(id)), _) => drop(answers.by_id.insert(id.clone(), label)),
                (Some(Value::Number(id)), _) => drop(answers.by_id.insert(id.to_string(), label)),
                (_, Some(index)) => drop(answers.by_index.insert(index, label)),
                _ => return Err(place.error("expected an id or an index, found neither".to_owned())),
            }
            Ok(())
        })?;
        Ok(answers)
    }

    pub(super) fn of(&self, id: &str, index: Option<u64>) -> Option<&Label> {
        self.by_id.get(id).or_else(|| self.by_index.get(&index?))
    }

    pub(super) fn count(&self) -> usize {
        self.by_id.len() + self.by_index.len()
    }

    /// What of them is of no item, in order.
    pub(super) fn unmatched(&self, items: &[Item]) -> Vec<String> {
        let ids: HashSet<&str> = items.iter().map(|item| item.record.id.as_str()).collect();
        let origins: HashSet<u64> = items.iter().filter_map(|item| item.origin).collect();
        let by_id = self.by_id.keys().filter(|id| !ids.contains(id.as_str())).map(|id| format!("id {id:?}"));
        let by_index = self.by_index.keys().filter(|index| !origins.contains(index)).map(|i| format!("index {i}"));
        let mut unmatched: Vec<String> = by_id.chain(by_index).collect();
        unmatched.sort_unstable();
        unmatched
    }
}

fn label_of(value: &Value) -> Option<Label> {
    match value {
        Value::String(name) => Some(Label::Name(name.clone())),
        Value::Number(number) => number.as_i64().map(Label::Integer).or_else(|| number.as_f64().map(Label::Number)),
        Value::Bool(is) => Some(Label::Integer(i64::from(*is))),
        Value::Array(items) => items.iter().map(label_of).collect::<Option<_>>().map(Label::Many),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.jsonl");
        let record = |index: u64, label| Record {
            index,
            id: format!("r{index}"),
            text: "a \"text\"".into(),
            pair: (index == 1).then(|| "and another".into()),
            label,
            ..Record::default()
        };
        let item =
            |index, label, weight, dropped| Item { record: record(index, label), weight, dropped, origin: Some(index) };
        let all = [
            item(0, Some(Label::Name("good".into())), 0.85, false),
            item(1, Some(Label::Integer(1)), 1.0, false),
            item(2, None, 1.0, true),
        ];
        write(&path, &all).unwrap();
        let (files, columns) = written(&path);
        let back = items(&files, &columns, &mut Rejections::new(false, None)).unwrap();
        assert_eq!(back.len(), 2);
        assert_eq!((back[0].weight, &back[0].record.label), (0.85, &Some(Label::Name("good".into()))));
        assert_eq!(
            (back[1].record.pair.as_deref(), &back[1].record.label),
            (Some("and another"), &Some(Label::Integer(1)))
        );
    }

    #[test]
    fn answers_are_found_by_id_or_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        std::fs::write(&path, "{\"id\":\"a\",\"label\":\"x\"}\n{\"index\":3,\"label\":1}\n{\"id\":7,\"label\":0}\n")
            .unwrap();
        let read = |path: &Path, columns: &Columns| Answers::read(&[path.to_string_lossy().into_owned()], columns);
        let answers = read(&path, &Columns::default()).unwrap();
        assert_eq!(answers.of("a", None), Some(&Label::Name("x".into())));
        assert_eq!(
            (answers.of("b", Some(3)), answers.of("7", None)),
            (Some(&Label::Integer(1)), Some(&Label::Integer(0)))
        );
        assert_eq!(answers.of("b", None), None);
        std::fs::write(&path, "{\"id\":\"a\"}\n").unwrap();
        assert!(read(&path, &Columns::default()).unwrap_err().to_string().contains("no label"));
        // Tables, by the names that the plan has for its columns too.
        let path = folder.path().join("answers.csv");
        std::fs::write(&path, "key,mood,index\n\"a,b\",x,\n,1,3\n").unwrap();
        let columns = Columns { id: Some("key".to_owned()), label: Some("mood".to_owned()), ..Columns::default() };
        let answers = read(&path, &columns).unwrap();
        let name = |name: &str| Some(Label::Name(name.to_owned()));
        assert_eq!((answers.of("a,b", None), answers.of("c", Some(3))), (name("x").as_ref(), name("1").as_ref()));
        let item = |id: &str, index| Item {
            record: Record { id: id.to_owned(), ..Record::default() },
            weight: 1.0,
            dropped: false,
            origin: Some(index),
        };
        assert_eq!(answers.unmatched(&[item("c", 3)]), ["id \"a,b\""]);
        assert_eq!(answers.unmatched(&[item("a,b", 2)]), ["index 3"]);
    }
}
