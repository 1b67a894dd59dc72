//! Records whose factors were made elsewhere, one after another, from the files that hold them.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::super::export::LABEL_NAMES;
use super::array::Array;
use crate::dataset::{Dataset, Label, Place, Record, each_object};
use crate::error::{Error, Result};

/// Where h and z come from.
///
/// | file | what it holds |
/// |---|---|
/// | `.safetensors` | tensors `features [N, E]`, `logits [N, K]` and `labels [N]` (or `[N, K]`) |
/// | a directory | `features.npy`, `logits.npy` and `labels.npy`, of the same shapes, and `label_names.json` |
/// | `.parquet`, `.jsonl` | a record a row: `features` and `logits` as lists, and `label`, `id`, `text`, `text_pair` |
///
/// `logits` may be missing (an encoder without a head, of whose labels nothing is kept), and so may `labels`; of a
/// record that has none it is −1, or NaN. Numbers are f32, f16, bf16, f64 (rounded) or integers.
#[derive(Clone, Debug)]
pub struct GivenFile(pub PathBuf);

/// One record and what a model made of it.
pub(super) struct Given {
    pub(super) record: Record,
    pub(super) features: Vec<f32>,
    /// Empty without a head.
    pub(super) logits: Vec<f32>,
    /// Whether labels are lists.
    pub(super) several: bool,
    pub(super) place: Place,
}

/// What takes the records.
pub(super) type Taker<'a> = dyn FnMut(Given) -> Result<()> + 'a;

impl GivenFile {
    /// Hands every record to `take`, numbered from `first`. `texts` gives the ids, texts and (where the file has none)
    /// labels of the records of arrays, in the same order.
    pub(super) fn each(&self, first: u64, texts: Option<Dataset>, take: &mut Taker<'_>) -> Result<()> {
        let path = self.0.as_path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension {
            "safetensors" => Arrays::of_safetensors(path)?.each(first, texts, take),
            _ if path.is_dir() => Arrays::of_npy(path)?.each(first, texts, take),
            "parquet" | "jsonl" if texts.is_none() => each_row(path, first, take),
            "parquet" | "jsonl" => Err(Error::usage(format!("{}: its rows have their own texts", path.display()))
                .with_hint("leave --data out")),
            _ => Err(Error::usage(format!("{}: not a file of factors", path.display())).with_hint(
                "give .safetensors, .parquet or .jsonl, or a directory with features.npy, logits.npy and labels.npy",
            )),
        }
    }
}

impl GivenFile {
    /// The classes' names, where they are beside the arrays.
    pub(super) fn label_names(&self) -> Result<Option<Vec<String>>> {
        let path = self.0.join(LABEL_NAMES);
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let names = serde_json::from_str(&text);
        names.map(Some).map_err(|error| Error::format(&path, format!("expected a list of names: {error}")))
    }
}

/// The arrays of one file or directory.
struct Arrays {
    path: PathBuf,
    features: Array,
    logits: Option<Array>,
    labels: Option<Array>,
}

impl Arrays {
    fn of_safetensors(path: &Path) -> Result<Self> {
        Self::new(path, |name| Array::of_safetensors(path, name))
    }

    fn of_npy(path: &Path) -> Result<Self> {
        Self::new(path, |name| {
            let file = path.join(format!("{name}.npy"));
            file.exists().then(|| Array::of_npy(&file, name)).transpose()
        })
    }

    fn new(path: &Path, open: impl Fn(&str) -> Result<Option<Array>>) -> Result<Self> {
        let features = open("features")?.ok_or_else(|| Error::format(path, "there are no `features`"))?;
        let (logits, labels) = (open("logits")?, open("labels")?);
        for other in [&logits, &labels].into_iter().flatten() {
            other.check_rows(features.rows)?;
        }
        Ok(Self { path: path.to_owned(), features, logits, labels })
    }

    fn each(mut self, first: u64, mut texts: Option<Dataset>, take: &mut Taker<'_>) -> Result<()> {
        let several = self.labels.as_ref().is_some_and(|labels| labels.columns() > 1);
        for row in 0..self.features.rows {
            let place = Place::at(&self.path, row as u64 + 1);
            let index = first + row as u64;
            let mut record = self.record(texts.as_mut(), index)?;
            let features = finite(&place, "features", self.features.next_floats()?)?;
            let logits = match &mut self.logits {
                Some(logits) => finite(&place, "logits", logits.next_floats()?)?,
                None => Vec::new(),
            };
            if let Some(labels) = &mut self.labels {
                record.label = label(&labels.next_row()?, logits.len() != 1);
            }
            take(Given { record, features, logits, several, place })?;
        }
        match texts.and_then(|mut texts| texts.next()) {
            None => Ok(()),
            Some(_) => Err(self.uneven("more")),
        }
    }

    fn record(&self, texts: Option<&mut Dataset>, index: u64) -> Result<Record> {
        match texts {
            None => Ok(Record { index, id: index.to_string(), ..Record::default() }),
            Some(texts) => match texts.next() {
                Some(record) => Ok(Record { index, ..record? }),
                None => Err(self.uneven("fewer")),
            },
        }
    }

    fn uneven(&self, more: &str) -> Error {
        let rows = self.features.rows;
        Error::Mismatch(format!("{}: {rows} rows of features, and {more} records in --data", self.path.display()), None)
    }
}

/// A row of one number is a class (or a value), a longer one a number for each class; −1 is no class, and NaN no
/// number.
fn label(row: &[f64], classes: bool) -> Option<Label> {
    let one = |&value: &f64| if value.fract() == 0.0 { Label::Integer(value as i64) } else { Label::Number(value) };
    match row {
        [value] => (!(value.is_nan() || classes && *value == -1.0)).then(|| one(value)),
        many => (!many.iter().all(|value| value.is_nan())).then(|| Label::Many(many.iter().map(one).collect())),
    }
}

/// The numbers, if they all are some.
pub(super) fn finite(place: &Place, what: &str, row: Vec<f32>) -> Result<Vec<f32>> {
    match row.iter().position(|value| !value.is_finite()) {
        None => Ok(row),
        Some(at) => Err(place.error(format!("{what}: number {at} is {}", row[at]))),
    }
}

fn each_row(path: &Path, first: u64, take: &mut Taker<'_>) -> Result<()> {
    let mut index = first;
    each_object(&[path.to_string_lossy().into_owned()], &mut |place, mut row| {
        let refuse = |reason: String| place.error(reason);
        let features = numbers(&mut row, "features").map_err(refuse)?.ok_or_else(|| refuse("no `features`".into()))?;
        let logits = numbers(&mut row, "logits").map_err(refuse)?.unwrap_or_default();
        let record = record(&row, index).map_err(refuse)?;
        let (features, logits) = (finite(place, "features", features)?, finite(place, "logits", logits)?);
        index += 1;
        let several = matches!(record.label, Some(Label::Many(_)));
        take(Given { record, features, logits, several, place: place.clone() })
    })
}

/// The list `name` of a row, rounded to f32.
pub(super) fn numbers(row: &mut Map<String, Value>, name: &str) -> Result<Option<Vec<f32>>, String> {
    match row.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => {
            let refuse = |item: &Value| format!("{name}: expected numbers, found {item}");
            let number = |item: &Value| item.as_f64().map(|number| number as f32).ok_or_else(|| refuse(item));
            items.iter().map(number).collect::<Result<_, _>>().map(Some)
        }
        Some(other) => Err(format!("{name}: expected a list of numbers, found {other}")),
    }
}

fn record(row: &Map<String, Value>, index: u64) -> Result<Record, String> {
    let text = |name: &str| match row.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) if name == "id" => Ok(Some(number.to_string())),
        Some(other) => Err(format!("{name}: expected a string, found {other}")),
    };
    Ok(Record {
        index,
        id: text("id")?.unwrap_or_else(|| index.to_string()),
        text: text("text")?.unwrap_or_default(),
        pair: text("text_pair")?,
        label: row.get("label").filter(|label| !label.is_null()).map(json_label).transpose()?,
        ..Record::default()
    })
}

fn json_label(value: &Value) -> Result<Label, String> {
    match value {
        Value::Number(number) => Ok(match number.as_i64() {
            Some(integer) => Label::Integer(integer),
            None => Label::Number(number.as_f64().unwrap_or(f64::NAN)),
        }),
        Value::String(name) => Ok(Label::Name(name.clone())),
        Value::Array(items) => items.iter().map(json_label).collect::<Result<_, _>>().map(Label::Many),
        other => Err(format!("label: expected a number, a string or a list of them, found {other}")),
    }
}
