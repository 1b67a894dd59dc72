//! Results read back: what `explain`, `search`, `predict`, `audit`, `evaluate` and `improve` wrote, told apart by their
//! fields.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    ContextSelection, EvaluationRow, Explanation, Finding, GlobalImportance, MaskPrediction, Prediction, SearchResult,
    SpanPrediction, TagPrediction,
};
use crate::dataset::{each_object, matches};
use crate::error::Result;

/// A record of a result file.
#[derive(Clone, Debug, PartialEq)]
pub enum ResultRecord {
    /// Of `explain`: it names a method.
    Explanation(Explanation),
    /// Of `explain --method norm-lime`: it has a feature.
    Global(GlobalImportance),
    /// Of `search`: it names a rule.
    Search(SearchResult),
    /// Of `predict`: it has logits.
    Prediction(Prediction),
    /// Of `predict` with a model that answers questions: it has the best answers.
    Spans(SpanPrediction),
    /// Of `predict` with a model that tags tokens: it has entities.
    Tags(TagPrediction),
    /// Of `predict` with a masked-language model: it has masks.
    Masks(MaskPrediction),
    /// Of `select`: it has sentences.
    Selection(ContextSelection),
    /// Of `evaluate`: it names a yardstick.
    Evaluation(EvaluationRow),
    /// Of an audit or of `improve`.
    Finding(Finding),
}

/// A field that each kind of record has alone.
const FIELDS: [&str; 8] = ["method", "rule", "logits", "feature", "n_best", "entities", "masks", "sentences"];

/// Fields that only one kind of finding has.
const FINDINGS: [(&str, Reader); 14] = [
    ("suggested_label", |object| parse("an audit dirty", object).map(|r| Finding::Dirty(Box::new(r)))),
    ("suggested_tags", |object| parse("an audit dirty", object).map(|r| Finding::DirtyPart(Box::new(r)))),
    ("suggested_answer", |object| parse("an audit dirty", object).map(|r| Finding::DirtyAnswer(Box::new(r)))),
    ("of_set", |object| parse("an audit redundant", object).map(|r| Finding::Redundant(Box::new(r)))),
    ("p_value", |object| parse("an audit bias", object).map(|r| Finding::Bias(Box::new(r)))),
    ("percentile", |object| parse("an audit sparse", object).map(|r| Finding::Sparse(Box::new(r)))),
    ("region", |object| parse("an audit map", object).map(|r| Finding::Mapped(Box::new(r)))),
    ("trust", |object| parse("an audit unreliable", object).map(|r| Finding::Unreliable(Box::new(r)))),
    ("arms", |object| parse("a comparison", object).map(|r| Finding::Comparison(Box::new(r)))),
    ("round", |object| parse("a round", object).map(|r| Finding::Round(Box::new(r)))),
    ("change", |object| parse("a change", object).map(|r| Finding::Change(Box::new(r)))),
    ("kind", |object| parse("an asked", object).map(|r| Finding::Asked(Box::new(r)))),
    ("of", |object| parse("a proposed", object).map(|r| Finding::Proposed(Box::new(r)))),
    ("rank", |object| parse("a selected", object).map(|r| Finding::Selected(Box::new(r)))),
];

type Reader = fn(Map<String, Value>) -> Result<Finding, String>;

impl ResultRecord {
    /// The record that a JSON object is.
    ///
    /// # Errors
    /// What is missing or of another type than it should be.
    pub fn from_object(object: Map<String, Value>) -> Result<Self, String> {
        if object.contains_key("yardstick") {
            return EvaluationRow::from_object(object).map(Self::Evaluation);
        }
        match FIELDS.into_iter().find(|&field| object.contains_key(field)) {
            Some("method") => parse("an explain", object).map(Self::Explanation),
            Some("rule") => parse("a search", object).map(Self::Search),
            Some("logits") => parse("a predict", object).map(Self::Prediction),
            Some("n_best") => parse("a predict", object).map(Self::Spans),
            Some("entities") => parse("a predict", object).map(Self::Tags),
            Some("sentences") => parse("a select", object).map(Self::Selection),
            Some("masks") => parse("a predict", object).map(Self::Masks),
            Some(_) => parse("a norm-lime", object).map(Self::Global),
            None => match FINDINGS.iter().find(|(field, _)| object.contains_key(*field)) {
                Some((_, read)) => read(object).map(Self::Finding),
                None => Err("expected a record of explain, search or predict, of an audit, of evaluate or of improve: found none of \"method\", \"rule\", \
                             \"logits\", \"feature\" and \"rank\""
                    .to_owned()),
            },
        }
    }
}

fn parse<R: DeserializeOwned>(what: &str, object: Map<String, Value>) -> Result<R, String> {
    serde_json::from_value(Value::Object(object)).map_err(|error| format!("not {what} record: {error}"))
}

/// The result files that a pattern names, in alphabetical order; a path is its own.
///
/// # Errors
/// Where a pattern is none, or names nothing.
pub fn result_files(pattern: &str) -> Result<Vec<String>> {
    let files = matches(pattern)?;
    Ok(files.into_iter().map(|file| file.to_string_lossy().into_owned()).collect())
}

/// Hands each record of the result files (`.jsonl`, also compressed, or `.parquet`; globs; `-` for standard input) to
/// `each`, in order.
///
/// # Errors
/// [`crate::Error::Record`] at a line that is no result record; [`crate::Error::Io`] and [`crate::Error::Format`] where
/// a file cannot be read; whatever `each` fails with.
pub fn read_results(files: &[String], each: &mut dyn FnMut(ResultRecord) -> Result<()>) -> Result<()> {
    each_object(files, &mut |place, object| {
        each(ResultRecord::from_object(object).map_err(|reason| place.error(reason))?)
    })
}
