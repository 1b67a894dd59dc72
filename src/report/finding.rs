//! What the other audits write: one record a finding.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::NearRecord;
use super::records::{label_kinds, or_default};
use super::schema::{Kind, columns};
use crate::store::Settings;

/// A record that an earlier one already says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RedundantRecord {
    /// From 1: contradicting labels first, then the most similar.
    pub rank: u64,
    /// Where it is from: `training` or `data`.
    pub set: String,
    /// Its number in that set's whole input.
    pub index: u64,
    /// Its id.
    pub id: String,
    /// The share of word triples that both texts have in common: 1 for copies.
    pub score: f64,
    /// Its label, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What is wrong with it, in words.
    pub reason: String,
    /// Where the earlier record is from.
    pub of_set: String,
    /// The earlier record; its score is the same.
    pub of: NearRecord,
    /// Its first segment.
    pub text: String,
    /// Its second segment, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
}

impl RedundantRecord {
    /// The Parquet columns.
    pub fn columns() -> Vec<(String, Kind)> {
        columns([
            ("rank", Kind::Integer),
            ("set", Kind::Text),
            ("index", Kind::Integer),
            ("id", Kind::Text),
            ("score", Kind::Number),
            ("label", Kind::Text),
            ("reason", Kind::Text),
            ("of_set", Kind::Text),
            ("of", NearRecord::kind()),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
        ])
    }
}

/// A word that tells a label too well.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BiasFinding {
    /// From 1, the least likely by chance.
    pub rank: u64,
    /// In lower case.
    pub word: String,
    /// The label it tells.
    pub label: String,
    /// What words are ranked by: the rationales with it, where those were looked at, else −log₁₀ of `p_value`.
    pub score: f64,
    /// How many times likelier the label is with the word than without knowing it.
    #[serde(default)]
    pub lift: f64,
    /// Labelled records with the word.
    pub count: u64,
    /// The share of them that have the label.
    pub share: f64,
    /// The label's share of all records.
    pub expected: f64,
    /// The probability of so many by chance.
    pub p_value: f64,
    /// Rationales with the word, where words are ranked by those; else null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rationales: Option<u64>,
    /// The share of them that are for the label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rationale_share: Option<f64>,
    /// The same in words.
    pub reason: String,
    /// Records with the word and the label, and records with the word and another.
    pub examples: Vec<NearRecord>,
}

impl BiasFinding {
    /// The Parquet columns.
    pub fn columns() -> Vec<(String, Kind)> {
        columns([
            ("rank", Kind::Integer),
            ("word", Kind::Text),
            ("label", Kind::Text),
            ("score", Kind::Number),
            ("lift", Kind::Number),
            ("count", Kind::Integer),
            ("share", Kind::Number),
            ("expected", Kind::Number),
            ("p_value", Kind::Number),
            ("rationales", Kind::Integer),
            ("rationale_share", Kind::Number),
            ("reason", Kind::Text),
            ("examples", Kind::list(NearRecord::kind())),
        ])
    }
}

/// A training record with the weight it should have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WeightedRecord {
    /// Its number in the whole input.
    pub index: u64,
    /// Its id.
    pub id: String,
    /// Its first segment.
    pub text: String,
    /// Its second segment, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
    /// Its label, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Against biased words by LLS from 0.85 to 1; by reweighing any from 0 on, of mean 1.
    pub weight: f64,
}

impl WeightedRecord {
    /// The Parquet columns.
    pub fn columns() -> Vec<(String, Kind)> {
        columns([
            ("index", Kind::Integer),
            ("id", Kind::Text),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
            ("label", Kind::Text),
            ("weight", Kind::Number),
        ])
    }
}

/// A record that the training data do not cover.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SparseRecord {
    /// From 1, the least covered.
    pub rank: u64,
    /// Its number in its whole input.
    pub index: u64,
    /// Its id.
    pub id: String,
    /// 1 less its similarity.
    pub score: f32,
    /// The mean cosine to its nearest training records.
    pub similarity: f32,
    /// The share of training records that are less covered by the others.
    pub percentile: f64,
    /// Its label, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Value>,
    /// What the model predicts.
    pub predicted: Value,
    /// The same in words.
    pub reason: String,
    /// Which group of the least covered it is in, from 1, the largest first; nothing where it is not among those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<u64>,
    /// The words that set the group apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub cluster_words: Vec<String>,
    /// The nearest training records.
    pub nearest: Vec<NearRecord>,
    /// Its first segment.
    pub text: String,
    /// Its second segment, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
}

impl SparseRecord {
    /// The Parquet columns, of records that a store's model understands.
    pub fn columns(settings: &Settings) -> Vec<(String, Kind)> {
        let (label, predicted) = label_kinds(settings.task(), settings.problem, settings.label_names.len());
        columns([
            ("rank", Kind::Integer),
            ("index", Kind::Integer),
            ("id", Kind::Text),
            ("score", Kind::Number),
            ("similarity", Kind::Number),
            ("percentile", Kind::Number),
            ("label", label),
            ("predicted", predicted),
            ("reason", Kind::Text),
            ("cluster", Kind::Integer),
            ("cluster_words", Kind::list(Kind::Text)),
            ("nearest", Kind::list(NearRecord::kind())),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
        ])
    }
}

/// A record of a pool that is worth a label.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SelectedRecord {
    /// From 1, in the order of selection.
    pub rank: u64,
    /// Its number in the pool's whole input.
    pub index: u64,
    /// Its id.
    pub id: String,
    /// The cosine to the record it was selected for; where it was for none, how unsure the model is of it, 0 to 1.
    pub score: f32,
    /// The id of that record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Its first segment.
    pub text: String,
    /// Its second segment, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
}

impl SelectedRecord {
    /// The Parquet columns.
    pub fn columns() -> Vec<(String, Kind)> {
        columns([
            ("rank", Kind::Integer),
            ("index", Kind::Integer),
            ("id", Kind::Text),
            ("score", Kind::Number),
            ("target", Kind::Text),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
        ])
    }
}

/// A record that might be added to the training data: a changed copy of one of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProposedRecord {
    /// From 1.
    pub rank: u64,
    /// The copied record's id, and how the copy differs.
    pub id: String,
    /// The copied record's label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Value>,
    /// The copied record's id.
    pub of: String,
    /// The id of the little covered record that it is near.
    pub target: String,
    /// The cosine of both.
    pub score: f32,
    /// Its first segment.
    pub text: String,
    /// Its second segment, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
}

impl ProposedRecord {
    /// The Parquet columns, of changed copies of a store's records.
    pub fn columns(settings: &Settings) -> Vec<(String, Kind)> {
        let (label, _) = label_kinds(settings.task(), settings.problem, settings.label_names.len());
        columns([
            ("rank", Kind::Integer),
            ("id", Kind::Text),
            ("label", label),
            ("of", Kind::Text),
            ("target", Kind::Text),
            ("score", Kind::Number),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
        ])
    }
}

/// A prediction, and how far it can be trusted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UnreliableRecord {
    /// From 1, the least trusted.
    pub rank: u64,
    /// Its number in the whole input.
    pub index: u64,
    /// Its id.
    pub id: String,
    /// 1 less its trust.
    pub score: f64,
    /// The share of predictions of such evidence that are right.
    pub trust: f64,
    /// Its label, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Value>,
    /// What the model predicts.
    pub predicted: Value,
    /// The evidence against it, in words.
    pub reason: String,
    /// By name: probability, neighbours, similarity, stability, and agreement of pairs.
    pub evidence: Map<String, Value>,
    /// The words that the prediction rests on, most important first.
    pub rationale: Vec<String>,
    /// The nearest training records.
    pub nearest: Vec<NearRecord>,
    /// Its first segment.
    pub text: String,
    /// Its second segment, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
}

impl UnreliableRecord {
    /// The Parquet columns.
    pub fn columns(evidence: &[String]) -> Vec<(String, Kind)> {
        columns([
            ("rank", Kind::Integer),
            ("index", Kind::Integer),
            ("id", Kind::Text),
            ("score", Kind::Number),
            ("trust", Kind::Number),
            ("label", Kind::Text),
            ("predicted", Kind::Text),
            ("reason", Kind::Text),
            ("evidence", Kind::Struct(evidence.iter().map(|name| (name.clone(), Kind::Number)).collect())),
            ("rationale", Kind::list(Kind::Text)),
            ("nearest", Kind::list(NearRecord::kind())),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
        ])
    }
}

/// A training record on the data map.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MappedRecord {
    /// From 1, the least learnt.
    pub rank: u64,
    /// Its number in the whole input.
    pub index: u64,
    /// Its id.
    pub id: String,
    /// 1 less its confidence.
    pub score: f64,
    /// Its label, where the store has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// easy, ambiguous, hard or suspect.
    pub region: String,
    /// The mean over epochs of its label's probability.
    pub confidence: f64,
    /// The standard deviation of that.
    pub variability: f64,
    /// The share of epochs in which it was predicted as labelled.
    pub correctness: f64,
    /// How often it was right and then wrong; null where it never was right.
    pub forgotten: Option<u64>,
    /// The first epoch, from 0, in which it was right; null where there was none.
    pub learned_in: Option<u64>,
    /// Its first segment.
    pub text: String,
    /// Its second segment, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
}

impl MappedRecord {
    /// The Parquet columns.
    pub fn columns() -> Vec<(String, Kind)> {
        columns([
            ("rank", Kind::Integer),
            ("index", Kind::Integer),
            ("id", Kind::Text),
            ("score", Kind::Number),
            ("label", Kind::Text),
            ("region", Kind::Text),
            ("confidence", Kind::Number),
            ("variability", Kind::Number),
            ("correctness", Kind::Number),
            ("forgotten", Kind::Integer),
            ("learned_in", Kind::Integer),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
        ])
    }
}
