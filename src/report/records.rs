//! The records of INTERFACE: what each command writes, one a line.

use std::cell::RefCell;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::Kind;
use super::schema::columns;
use crate::error::Result;
use crate::factors::Target;
use crate::model::Problem;

/// A target or prediction as results show it: a class's name, several names, or the regression value(s).
pub fn class_value(target: &Target, labels: &[String]) -> Value {
    let name = |i: usize| Value::from(labels.get(i).cloned().unwrap_or_else(|| format!("LABEL_{i}")));
    match target {
        Target::Class(class) => name(*class),
        Target::Classes(many) => (0..many.len()).filter(|&i| many[i] > 0.5).map(name).collect(),
        Target::Values(values) if values.len() == 1 => Value::from(values[0]),
        Target::Values(values) => values.iter().map(|&v| Value::from(v)).collect(),
    }
}

/// The type of a column of [`class_value`]s.
fn class_kind(problem: Problem, labels: usize) -> Kind {
    match problem {
        Problem::SingleLabel | Problem::Headless => Kind::Text,
        Problem::MultiLabel => Kind::list(Kind::Text),
        Problem::Regression if labels == 1 => Kind::Number,
        Problem::Regression => Kind::list(Kind::Number),
    }
}

/// Probabilities by class name, in class order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probabilities(pub Vec<(String, f32)>);

impl Serialize for Probabilities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, p)| (name, p)))
    }
}

/// What `predict` says of a record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The record's id.
    pub id: String,
    /// Its 0-based number in the whole input.
    pub index: u64,
    /// The gold label, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Value>,
    /// The predicted class, classes or values.
    pub predicted: Value,
    /// By class (empty for regression, which has none).
    pub probabilities: Probabilities,
    /// In class order.
    pub logits: Vec<f32>,
}

impl Prediction {
    /// The Parquet columns.
    pub fn columns(problem: Problem, labels: &[String]) -> Vec<(String, Kind)> {
        let class = class_kind(problem, labels.len());
        let probabilities = match problem {
            Problem::SingleLabel | Problem::MultiLabel => labels.iter().map(|l| (l.clone(), Kind::Number)).collect(),
            Problem::Regression | Problem::Headless => Vec::new(),
        };
        let mut columns = columns([
            ("id", Kind::Text),
            ("index", Kind::Integer),
            ("label", class.clone()),
            ("predicted", class),
            ("probabilities", Kind::Struct(probabilities)),
            ("logits", Kind::list(Kind::Number)),
        ]);
        // Parquet has no empty structs.
        columns.retain(|(_, kind)| !matches!(kind, Kind::Struct(fields) if fields.is_empty()));
        columns
    }
}

/// One training record at one end of a ranking.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Neighbour {
    /// 1-based, from that end.
    pub rank: u64,
    /// The training record's number in its whole input.
    pub index: u64,
    /// Its id.
    pub id: String,
    /// The rule's score: greater is more supportive.
    pub score: f32,
    /// Its gold label, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Value>,
    /// What the model predicts for it (absent without a head).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Value>,
    /// Its first segment.
    pub text: String,
    /// Its second segment, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
}

/// What `search` says of a query. `N` is how the neighbours are held: a `Vec`, or a stream where there are too many for one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SearchResult<N = Vec<Neighbour>> {
    /// The query's id.
    pub id: String,
    /// Its 0-based number in the query file.
    pub index: u64,
    /// Its first segment.
    pub text: String,
    /// Its second segment, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
    /// Its gold label, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Value>,
    /// What the model predicts (null without a head).
    pub predicted: Value,
    /// The predicted class's probability (null where there is no single class).
    pub probability: Option<f32>,
    /// The class the ranking explains.
    pub target: Value,
    /// The scoring rule's name.
    pub rule: String,
    /// Greatest score first.
    pub proponents: N,
    /// Smallest score first.
    pub opponents: N,
}

impl SearchResult {
    /// The Parquet columns.
    pub fn columns(problem: Problem, labels: &[String]) -> Vec<(String, Kind)> {
        let class = class_kind(problem, labels.len());
        let neighbours = Kind::list(Kind::fields([
            ("rank", Kind::Integer),
            ("index", Kind::Integer),
            ("id", Kind::Text),
            ("score", Kind::Number),
            ("label", class.clone()),
            ("predicted", class.clone()),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
        ]));
        columns([
            ("id", Kind::Text),
            ("index", Kind::Integer),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
            ("label", class.clone()),
            ("predicted", class.clone()),
            ("probability", Kind::Number),
            ("target", class),
            ("rule", Kind::Text),
            ("proponents", neighbours.clone()),
            ("opponents", neighbours),
        ])
    }
}

impl SearchResult {
    /// This result with its neighbours as streams.
    pub fn with_lists<'a>(
        self,
        proponents: NeighbourList<'a>,
        opponents: NeighbourList<'a>,
    ) -> SearchResult<NeighbourList<'a>> {
        let Self { id, index, text, text_pair, label, predicted, probability, target, rule, .. } = self;
        SearchResult { id, index, text, text_pair, label, predicted, probability, target, rule, proponents, opponents }
    }
}

/// Neighbours made one at a time while they are written: a full ranking never stands in memory. It can be written once.
pub struct NeighbourList<'a>(RefCell<Neighbours<'a>>);

/// Neighbours as they are made.
pub type Neighbours<'a> = Box<dyn Iterator<Item = Result<Neighbour>> + 'a>;

impl<'a> NeighbourList<'a> {
    /// A list of what `neighbours` will give.
    pub fn new(neighbours: Neighbours<'a>) -> Self {
        Self(RefCell::new(neighbours))
    }
}

impl Serialize for NeighbourList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::{Error, SerializeSeq};
        let mut sequence = serializer.serialize_seq(None)?;
        for neighbour in &mut *self.0.borrow_mut() {
            sequence.serialize_element(&neighbour.map_err(S::Error::custom)?)?;
        }
        sequence.end()
    }
}
