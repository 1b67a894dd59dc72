//! The records of INTERFACE: what each command writes, one a line.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::Kind;
use super::explanation::TargetSpan;
use super::schema::{self, columns};
use crate::error::Result;
use crate::factors::Target;
use crate::model::{Problem, Task};
use crate::search::Rule;

/// A target or prediction as results show it: a class's name, several names, or the regression value(s).
pub fn class_value(target: &Target, labels: &[String]) -> Value {
    let name = |i: usize| Value::from(labels.get(i).cloned().unwrap_or_else(|| format!("LABEL_{i}")));
    match target {
        Target::Class(class) => name(*class),
        Target::Classes(_) => target.classes().into_iter().map(name).collect(),
        Target::Values(values) if values.len() == 1 => number(values[0]),
        Target::Values(values) => values.iter().map(|&v| number(v)).collect(),
    }
}

/// A number with the digits that tell it from every other f32, as a field of that type is written; null where it is
/// none.
pub(super) fn number(value: f32) -> Value {
    let shortest = value.to_string().parse::<f64>().ok();
    shortest.filter(|value| value.is_finite()).map_or(Value::Null, Value::from)
}

/// The type of a column of [`class_value`]s.
pub(crate) fn class_kind(problem: Problem, labels: usize) -> Kind {
    match problem {
        Problem::SingleLabel | Problem::Headless => Kind::Text,
        Problem::MultiLabel => Kind::list(Kind::Text),
        Problem::Regression if labels == 1 => Kind::Number,
        Problem::Regression => Kind::list(Kind::Number),
    }
}

/// The types of columns of a record's label, and of what is predicted, for a model of this `task`.
pub(super) fn label_kinds(task: Task, problem: Problem, labels: usize) -> (Kind, Kind) {
    let list = || Kind::list(Kind::Text);
    match task {
        Task::Record => (class_kind(problem, labels), class_kind(problem, labels)),
        Task::Spans => (list(), Kind::Text),
        Task::Tags | Task::Masks => (list(), list()),
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

impl<'de> Deserialize<'de> for Probabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let by_name: Map<String, Value> = Option::deserialize(deserializer)?.unwrap_or_default();
        let number = |(name, value): (String, Value)| (name, value.as_f64().unwrap_or(f64::NAN) as f32);
        Ok(Self(by_name.into_iter().map(number).collect()))
    }
}

/// What `predict` says of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    #[serde(default)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// 1-based, from that end.
    pub rank: u64,
    /// The training record's number in its whole input.
    pub index: u64,
    /// Its id.
    pub id: String,
    /// The rule's score: greater is more supportive.
    pub score: f32,
    /// How far that may be off, where it is of projected gradients and that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ScoreError>,
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
    /// The further columns that the store keeps of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "present")]
    pub columns: BTreeMap<String, String>,
    /// How many records with these texts and this label there are, where they were collapsed into the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<u64>,
    /// Of models that say something of tokens: the words, boundaries or masks of it that weigh most in its score, the
    /// weightiest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub parts: Vec<NeighbourPart>,
    /// Of models that tag words: the entities of it that weigh most in its score, the weightiest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub entities: Vec<NeighbourPart>,
    /// What the score is made of, where it was computed exactly and that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<PairDetail>,
}

/// How far a score may be off for the projection that was drawn, and an ensemble's few members.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreError {
    /// The standard error.
    pub standard: f32,
    /// The lower end of where it would be in 95 of 100 draws.
    pub low: f32,
    /// The upper end.
    pub high: f32,
    /// The last rank of this list whose score cannot be told from this one's, nor any between: its own where the next
    /// one's can.
    pub tied: u64,
}

/// One factor of a training record, or the words of one of its entities together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeighbourPart {
    /// Its word, or boundary token, as the text has it (answers: the context).
    pub text: String,
    /// Its first Unicode character there.
    pub start: u64,
    /// One past its last.
    pub end: u64,
    /// The tag or piece that its loss is against; of a boundary, `start` or `end`; of an entity, its kind.
    pub target: String,
    /// What it adds to the record's score.
    pub score: f32,
}

/// What the ends of a ranking are called by rules whose scores speak neither for nor against: a distance, or what is
/// the record's own.
pub(super) fn neutral(rule: &str) -> Option<[&'static str; 2]> {
    match rule.parse() {
        Ok(Rule::FeatureEuc) => Some(["nearest", "farthest"]),
        Ok(Rule::Loss) => Some(["highest loss", "lowest loss"]),
        _ => None,
    }
}

/// Where the sign of the scores of an end changes, and what is said there: from its first on an end has the sign it is
/// named for, or all of it has the other one.
pub(super) fn turn(end: &[Neighbour]) -> Option<(usize, &'static str)> {
    let first = end.first()?.score;
    let (at, told) = if first < 0.0 {
        (end.iter().position(|near| near.score > 0.0), "from here on they support it")
    } else {
        (end.iter().position(|near| near.score < 0.0), "from here on they oppose it")
    };
    Some((at?, told))
}

/// The score of two whole gradients, taken apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairDetail {
    /// Each linear layer's name and part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<(String, f32)>,
    /// Each pair of tokens' part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_pairs: Option<TokenPairs>,
}

/// Which token of the training record taught which token of the query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenPairs {
    /// The query's tokens.
    pub query: Vec<String>,
    /// The training record's.
    pub record: Vec<String>,
    /// A row for each token of the query; all together they are the score.
    pub scores: Vec<Vec<f32>>,
}

/// What is there of named values; a table has a null where there is none.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let all: BTreeMap<String, Option<String>> = or_default(deserializer)?;
    Ok(all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

/// Nothing where there is a null.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// What `search` says of one group of the training records for a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeighbourGroup {
    /// Its label, prediction or column value (null for records that have none).
    pub group: Option<String>,
    /// How many records it has.
    pub records: u64,
    /// The sum of all their scores, the query's own record's included where it is one of them.
    pub total: f64,
    /// Greatest score first.
    pub proponents: Vec<Neighbour>,
    /// Smallest score first.
    pub opponents: Vec<Neighbour>,
}

/// What `search` says of a query. `N` is how the neighbours are held: a `Vec`, or a stream where there are too many for
/// one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Where it is, where it is a part of the text: an answer, a token or a mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<TargetSpan>,
    /// The scoring rule's name.
    pub rule: String,
    /// Greatest score first.
    pub proponents: N,
    /// Smallest score first.
    pub opponents: N,
    /// The same within each group, where groups were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub groups: Vec<NeighbourGroup>,
    /// How many records' scores a search by bounds computed; all others were sure to be in neither end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidates: Option<u64>,
    /// Of a store whose features are rounded: how many of the neighbours are sure to be neighbours by the features as
    /// computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certain: Option<Certain>,
}

/// How many neighbours at each end are certain, whatever rounding the stored features did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certain {
    /// Of the proponents.
    pub proponents: u64,
    /// Of the opponents.
    pub opponents: u64,
}

impl SearchResult {
    /// Whether it is of an entity, a token or a mask, so that what it says is predicted is predicted of that alone.
    pub(super) fn is_of_part(&self) -> bool {
        self.span.is_some_and(|span| span.segment == 0)
    }

    /// The Parquet columns, of a store of a model of this `task` that keeps `kept` columns; `of_part` where one token
    /// or entity is asked about.
    pub fn columns(
        task: Task,
        of_part: bool,
        problem: Problem,
        labels: &[String],
        kept: &[String],
    ) -> Vec<(String, Kind)> {
        let (label, class) = label_kinds(task, problem, labels.len());
        let target = if of_part { Kind::Text } else { class.clone() };
        let mut fields = schema::columns([
            ("rank", Kind::Integer),
            ("index", Kind::Integer),
            ("id", Kind::Text),
            ("score", Kind::Number),
            (
                "error",
                Kind::fields([
                    ("standard", Kind::Number),
                    ("low", Kind::Number),
                    ("high", Kind::Number),
                    ("tied", Kind::Integer),
                ]),
            ),
            ("label", label.clone()),
            ("predicted", class.clone()),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
            ("copies", Kind::Integer),
        ]);
        if task != Task::Record {
            let part = Kind::fields([
                ("text", Kind::Text),
                ("start", Kind::Integer),
                ("end", Kind::Integer),
                ("target", Kind::Text),
                ("score", Kind::Number),
            ]);
            fields.push(("parts".to_owned(), Kind::list(part.clone())));
            if task == Task::Tags {
                fields.push(("entities".to_owned(), Kind::list(part)));
            }
        }
        if !kept.is_empty() {
            let kept = kept.iter().map(|name| (name.clone(), Kind::Text)).collect();
            fields.push(("columns".to_owned(), Kind::Struct(kept)));
        }
        let neighbours = Kind::list(Kind::Struct(fields));
        let group = Kind::fields([
            ("group", Kind::Text),
            ("records", Kind::Integer),
            ("total", Kind::Number),
            ("proponents", neighbours.clone()),
            ("opponents", neighbours.clone()),
        ]);
        let mut all = columns([
            ("id", Kind::Text),
            ("index", Kind::Integer),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
            ("label", label),
            ("predicted", class),
            ("probability", Kind::Number),
            ("target", target),
            ("span", Kind::fields([("start", Kind::Integer), ("end", Kind::Integer), ("segment", Kind::Integer)])),
            ("rule", Kind::Text),
            ("proponents", neighbours.clone()),
            ("opponents", neighbours),
            ("groups", Kind::list(group)),
            ("candidates", Kind::Integer),
            ("certain", Kind::fields([("proponents", Kind::Integer), ("opponents", Kind::Integer)])),
        ]);
        all.retain(|(name, _)| name != "span" || task != Task::Record);
        all
    }
}

impl SearchResult {
    /// This result with its neighbours as streams.
    pub fn with_lists<'a>(
        self,
        proponents: NeighbourList<'a>,
        opponents: NeighbourList<'a>,
    ) -> SearchResult<NeighbourList<'a>> {
        let Self { id, index, text, text_pair, label, predicted, probability, target, span, rule, .. } = self;
        let Self { groups, candidates, certain, .. } = self;
        SearchResult {
            id,
            index,
            text,
            text_pair,
            label,
            predicted,
            probability,
            target,
            span,
            rule,
            proponents,
            opponents,
            groups,
            candidates,
            certain,
        }
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
