//! `--where`: which training records are searched.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::str::FromStr;

use rayon::prelude::*;
use serde_json::Value;

use crate::dataset::Label;
use crate::error::{Error, Result};
use crate::factors::{Labels, Target};
use crate::model::Problem;
use crate::report::class_value;
use crate::search::RowSet;
use crate::store::{Said, Shard, Store, StoredRecord};

/// One condition on a training record. As text:
///
/// | text | holds where |
/// |---|---|
/// | `label=NAME`, `predicted=NAME` | the label, or the prediction, is (or, of several, has) the class of that name or number; or is that number |
/// | `wrong` | there is a label, and the prediction is another (answers: none of the right ones; tags: not the same entities) |
/// | | of models that say something of tokens: one of the answers, an entity (`KIND: text`) or any of its kind (`KIND`), a piece |
/// | `id=ID`, `id=@FILE` | the id is that one, or one of those in the file, one a line |
/// | `COLUMN=VALUE` | a column kept at indexing has that value |
///
/// `!=` for `=` turns each around; `right` is: there is a label, and the prediction is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    field: Field,
    holds: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    /// The prediction is another than the label; records without a label are neither right nor wrong.
    Wrong,
    Label(String),
    Predicted(String),
    Id(HashSet<String>),
    Column(String, String),
}

impl FromStr for Condition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "wrong" || text == "right" {
            return Ok(Self { field: Field::Wrong, holds: text == "wrong" });
        }
        let (name, value) = text.split_once('=').filter(|(name, _)| !matches!(*name, "" | "!")).ok_or_else(|| {
            Error::usage(format!("--where {text:?}: not a condition")).with_hint(
                "write label=NAME, predicted=NAME, id=ID, id=@FILE, COLUMN=VALUE (or != for =), wrong or right",
            )
        })?;
        let (name, holds) = name.strip_suffix('!').map_or((name, true), |name| (name, false));
        let field = match name {
            "label" => Field::Label(value.to_owned()),
            "predicted" => Field::Predicted(value.to_owned()),
            "id" => Field::Id(ids(value)?),
            column => Field::Column(column.to_owned(), value.to_owned()),
        };
        Ok(Self { field, holds })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.holds { "=" } else { "!=" };
        match &self.field {
            Field::Wrong => f.pad(if self.holds { "wrong" } else { "right" }),
            Field::Label(name) => write!(f, "label{sign}{name}"),
            Field::Predicted(name) => write!(f, "predicted{sign}{name}"),
            Field::Id(ids) => write!(f, "id{sign}({} ids)", ids.len()),
            Field::Column(name, value) => write!(f, "{name}{sign}{value}"),
        }
    }
}

/// One id, or those of a file.
pub(super) fn ids(value: &str) -> Result<HashSet<String>> {
    let Some(path) = value.strip_prefix('@') else { return Ok([value.to_owned()].into()) };
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

impl Condition {
    /// Whether it is about something that this store's records have.
    fn check(&self, store: &Store) -> Result<()> {
        let settings = store.settings();
        let refuse =
            |reason: String, hint: &str| Err(Error::usage(format!("--where {self}: {reason}")).with_hint(hint));
        match (&self.field, settings.problem) {
            (Field::Label(_) | Field::Predicted(_) | Field::Wrong, _) if settings.tokens.is_some() => Ok(()),
            (Field::Label(_) | Field::Predicted(_) | Field::Wrong, Problem::Headless) => refuse(
                "the model has no head, so its records have no classes".into(),
                "filter by id or by a kept column",
            ),
            (Field::Wrong, Problem::Regression) => {
                refuse("a regression is never quite right".into(), "filter by label, id or a kept column")
            }
            (Field::Label(name) | Field::Predicted(name), Problem::SingleLabel | Problem::MultiLabel)
                if class_of(name, &settings.label_names).is_none() =>
            {
                refuse(format!("there is no such class among {}", settings.label_names.join(", ")), "name one of them")
            }
            (Field::Column(name, _), _) => check_column(store, name, &format!("--where {self}")),
            _ => Ok(()),
        }
    }

    fn reads_texts(&self, store: &Store) -> bool {
        store.settings().tokens.is_some() || matches!(self.field, Field::Id(_) | Field::Column(..))
    }

    /// Whether it is about what was said of tokens, and then, whether that is so; nothing where it is neither so nor
    /// not.
    #[expect(clippy::option_option, reason = "a question that is not about this, and one that has no answer")]
    fn of_said(&self, said: &Said) -> Option<Option<bool>> {
        match &self.field {
            Field::Wrong => Some(said.label.as_ref().map(|label| !is_right(label, &said.predicted))),
            Field::Label(name) => Some(Some(said.label.as_ref().is_some_and(|label| says(label, name)))),
            Field::Predicted(name) => Some(Some(says(&said.predicted, name))),
            Field::Id(_) | Field::Column(..) => None,
        }
    }

    fn holds(&self, store: &Store, shard: &Shard, row: usize, record: Option<&StoredRecord>) -> bool {
        if let Some(said) = record.and_then(|record| record.said.as_ref())
            && let Some(is) = self.of_said(said)
        {
            return is == Some(self.holds);
        }
        let is = match (&self.field, record) {
            (Field::Wrong, _) => match (target(store, shard.labels(), row), target(store, shard.predictions(), row)) {
                (Some(label), Some(predicted)) => !predicted.agrees(&label),
                // Neither wrong nor right.
                _ => return false,
            },
            (Field::Label(name), _) => has_class(store, shard.labels(), row, name),
            (Field::Predicted(name), _) => has_class(store, shard.predictions(), row, name),
            (Field::Id(ids), Some(record)) => ids.contains(&record.id),
            (Field::Column(name, value), Some(record)) => record.columns.get(name) == Some(value),
            (Field::Id(_) | Field::Column(..), None) => false,
        };
        is == self.holds
    }
}

/// Whether what was said of tokens has this answer, entity, kind of entity, or piece.
fn says(said: &Value, name: &str) -> bool {
    match said {
        Value::Array(all) => all.iter().any(|one| says(one, name)),
        Value::String(one) => one == name || one.strip_prefix(name).is_some_and(|rest| rest.starts_with(": ")),
        _ => false,
    }
}

/// Whether an answer is one of the right ones; whether entities or pieces are the same.
fn is_right(label: &Value, predicted: &Value) -> bool {
    match (label, predicted) {
        (Value::Array(right), Value::String(_)) => right.contains(predicted),
        _ => label == predicted,
    }
}

/// Whether `name` is a column that the store keeps.
pub(super) fn check_column(store: &Store, name: &str, asked: &str) -> Result<()> {
    let kept = &store.settings().columns;
    if kept.iter().any(|column| column == name) {
        return Ok(());
    }
    let found = if kept.is_empty() { "none".to_owned() } else { kept.join(", ") };
    Err(Error::usage(format!("{asked}: the store keeps no column `{name}` (it keeps {found})"))
        .with_hint(format!("index with `--keep-column {name}`")))
}

fn target(store: &Store, labels: Labels<'_>, row: usize) -> Option<Target> {
    labels.target(row, store.settings().classes, store.settings().problem)
}

/// The class that `name` names: the one of that name, else the one of that number, as in data.
fn class_of(name: &str, names: &[String]) -> Option<usize> {
    let by_number = || name.parse().ok().filter(|&class: &usize| class < names.len());
    names.iter().position(|class| class == name).or_else(by_number)
}

/// Whether a label is, or has, a class of this name or number, or is this number.
fn has_class(store: &Store, labels: Labels<'_>, row: usize, name: &str) -> bool {
    let class = || class_of(name, &store.settings().label_names);
    match target(store, labels, row) {
        None => false,
        Some(Target::Values(values)) => {
            values.len() == 1 && name.parse::<f32>().is_ok_and(|number| number == values[0])
        }
        Some(own) => class().is_some_and(|class| own.classes().contains(&class)),
    }
}

/// The rows of `store` for which all `conditions` hold.
///
/// # Errors
/// Where a condition is about what the store's records have not, or the store is damaged.
pub(super) fn select(store: &Store, conditions: &[Condition]) -> Result<RowSet> {
    conditions.iter().try_for_each(|condition| condition.check(store))?;
    let reads_texts = conditions.iter().any(|condition| condition.reads_texts(store));
    let holds = each_row(store, reads_texts, |shard, row, record| {
        conditions.iter().all(|condition| condition.holds(store, shard, row, record))
    })?;
    Ok(RowSet::new(store.rows(), |row| holds[row]))
}

/// What `of` says of each row, in order; the record is read where that is asked for.
pub(super) fn each_row<T: Send>(
    store: &Store,
    reads_texts: bool,
    of: impl Fn(&Shard, usize, Option<&StoredRecord>) -> T + Sync,
) -> Result<Vec<T>> {
    let mut all = Vec::with_capacity(store.rows());
    each_shard(store, reads_texts, of, |rows| all.extend(rows))?;
    Ok(all)
}

/// [`each_row`], handed over shard by shard: what is made of a row need not stay in memory.
pub(super) fn each_shard<T: Send>(
    store: &Store,
    reads_texts: bool,
    of: impl Fn(&Shard, usize, Option<&StoredRecord>) -> T + Sync,
    mut take: impl FnMut(Vec<T>),
) -> Result<()> {
    let of_shard = |shard: &Shard| -> Result<Vec<T>> {
        let row = |row| {
            let record = reads_texts.then(|| shard.record(row)).transpose()?;
            Ok(of(shard, row, record.as_ref()))
        };
        let rows = (0..shard.rows()).into_par_iter().map(row).collect();
        if reads_texts {
            shard.release();
        }
        rows
    };
    store.shards().iter().try_for_each(|shard| {
        take(of_shard(shard)?);
        Ok(())
    })
}

/// A label or prediction as results show it, in words that can name a group.
pub(super) fn class_words(store: &Store, labels: Labels<'_>, row: usize) -> Option<String> {
    let target = target(store, labels, row)?;
    Some(match class_value(&target, &store.settings().label_names) {
        serde_json::Value::String(name) => name,
        other => other.to_string(),
    })
}

/// A label of the data as it was written, for what has no class.
pub(super) fn written_label(label: &Label) -> String {
    match label {
        Label::Integer(value) => value.to_string(),
        Label::Number(value) => value.to_string(),
        Label::Name(name) => name.clone(),
        Label::Many(labels) => labels.iter().map(written_label).collect::<Vec<_>>().join("+"),
        Label::Answers(answers) => answers.iter().map(|answer| answer.text.as_str()).collect::<Vec<_>>().join("+"),
    }
}
