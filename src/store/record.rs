//! A record's words beside its factors: one line of a shard's `.jsonl`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dataset::{Answer, Label, Record};

/// What a result shows of a training record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredRecord {
    /// The user's id, or the record number in decimal where there is none.
    pub id: String,
    /// The first segment.
    pub text: String,
    /// The second segment.
    pub pair: Option<String>,
    /// As the data file has it.
    pub label: Option<Label>,
    /// Further columns of the data file, by name: those of [`super::Settings::columns`] that the record has.
    pub columns: BTreeMap<String, String>,
    /// What a model that says something of tokens said of it.
    pub said: Option<Said>,
}

/// What a model that says something of tokens said of a record, as results show it: answers, entities, pieces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// The record's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Value>,
    /// The model's.
    pub predicted: Value,
    /// What its factors were taken against.
    pub target: Value,
    /// One a factor, in their order.
    pub parts: Vec<FactorPart>,
}

/// What one factor is of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactorPart {
    /// Its word, or boundary token: its first Unicode character in the text (answers: in the context).
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// The tag, the piece, or the boundary's name.
    pub target: String,
}

impl From<Record> for StoredRecord {
    fn from(record: Record) -> Self {
        let Record { id, text, pair, label, columns, .. } = record;
        Self { id, text, pair, label, columns, said: None }
    }
}

/// How many bytes of text a store keeps of a record.
pub fn line_bytes(record: &StoredRecord) -> u64 {
    record.to_line().map_or(0, |line| line.len() as u64)
}

/// The line's fields, in their order.
#[derive(Serialize, Deserialize)]
struct Line<T: Ord> {
    id: T,
    text: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<Value>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    columns: BTreeMap<T, T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    said: Option<Said>,
}

impl StoredRecord {
    /// The record as one line of JSON, newline included; `None` where its label holds a number that is not finite.
    pub(super) fn to_line(&self) -> Option<String> {
        let label = match &self.label {
            Some(label) => Some(label_to_json(label)?),
            None => None,
        };
        let columns = self.columns.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (text_pair, said) = (self.pair.as_deref(), self.said.clone());
        let line = Line { id: self.id.as_str(), text: &self.text, text_pair, label, columns, said };
        let mut text = serde_json::to_string(&line).expect("strings and finite numbers are JSON");
        text.push('\n');
        Some(text)
    }

    /// The record of one line of JSON; `Err` holds what is wrong with it.
    pub(super) fn from_line(line: &[u8]) -> Result<Self, String> {
        let line: Line<String> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let label = match &line.label {
            Some(value) => Some(label_from_json(value).ok_or_else(|| format!("{value} is not a label"))?),
            None => None,
        };
        let Line { id, text, text_pair: pair, columns, said, .. } = line;
        Ok(Self { id, text, pair, label, columns, said })
    }
}

fn label_to_json(label: &Label) -> Option<Value> {
    match label {
        Label::Integer(integer) => Some(Value::from(*integer)),
        Label::Number(number) => serde_json::Number::from_f64(*number).map(Value::Number),
        Label::Name(name) => Some(Value::from(name.as_str())),
        Label::Many(labels) => labels.iter().map(label_to_json).collect::<Option<Vec<_>>>().map(Value::Array),
        Label::Answers(answers) => {
            let starts = answers.iter().map(|answer| answer.start.map_or(Value::Null, Value::from));
            let texts = answers.iter().map(|answer| Value::from(answer.text.as_str()));
            Some(serde_json::json!({"text": texts.collect::<Value>(), "answer_start": starts.collect::<Value>()}))
        }
    }
}

fn label_from_json(value: &Value) -> Option<Label> {
    match value {
        Value::Number(number) => number.as_i64().map(Label::Integer).or_else(|| number.as_f64().map(Label::Number)),
        Value::String(name) => Some(Label::Name(name.clone())),
        Value::Array(values) => values.iter().map(label_from_json).collect::<Option<Vec<_>>>().map(Label::Many),
        Value::Object(_) => answers_from_json(value).map(Label::Answers),
        Value::Null | Value::Bool(_) => None,
    }
}

fn answers_from_json(value: &Value) -> Option<Vec<Answer>> {
    let (texts, starts) = (value.get("text")?.as_array()?, value.get("answer_start")?.as_array()?);
    let answer = |(text, start): (&Value, &Value)| {
        let start = start.as_u64().map(|start| start as usize);
        Some(Answer { text: text.as_str()?.to_owned(), start })
    };
    if texts.len() != starts.len() {
        return None;
    }
    texts.iter().zip(starts).map(answer).collect()
}
