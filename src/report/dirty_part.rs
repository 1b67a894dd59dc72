//! What `audit dirty` writes of models that say something of tokens: suspect tags and pieces, and suspect answers.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::NearRecord;
use super::dirty_label::{SHOWN, doubts, signals_of};
use super::schema::{Kind, columns};
use crate::audit::{Dirty, DirtyAnswers, Signal};
use crate::error::Result;
use crate::search::Hit;
use crate::store::{FactorPart, Store, StoredRecord};
use crate::task::{characters, entities, sentences};

/// Words of a training text whose tags may be wrong, or a mask whose piece may be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DirtyPart {
    /// From 1, the most suspect.
    pub rank: u64,
    /// The record's number in the whole input.
    pub index: u64,
    /// Its id.
    pub id: String,
    /// That of the most suspect of the words: greater is more suspect.
    pub score: f32,
    /// The number of the first word (or mask) among the record's, from 0.
    pub word: u64,
    /// Its first Unicode character in the text.
    pub start: u64,
    /// One past the last word's last.
    pub end: u64,
    /// The words between.
    pub span: String,
    /// The tags they have, one each.
    pub tags: Vec<String>,
    /// The tags they would rather have.
    pub suggested_tags: Vec<String>,
    /// What speaks against the tags, in words.
    pub reason: String,
    /// By name, each signal that was computed, of the most suspect word.
    pub signals: Map<String, Value>,
    /// The words of other training records that are most like that one, nearest first.
    pub neighbours: Vec<NearPart>,
    /// The record's text.
    pub text: String,
}

/// A word like another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NearPart {
    /// The record's number in the whole input.
    pub index: u64,
    /// Its id.
    pub id: String,
    /// The word's tag (the mask's piece).
    pub label: String,
    /// The cosine of both words' features.
    pub score: f32,
    /// The word.
    pub span: String,
    /// Its first Unicode character in the text.
    pub start: u64,
    /// One past its last.
    pub end: u64,
    /// The record's text.
    pub text: String,
}

/// A training question whose answer may be wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DirtyAnswer {
    /// From 1, the most suspect.
    pub rank: u64,
    /// The record's number in the whole input.
    pub index: u64,
    /// Its id.
    pub id: String,
    /// Greater is more suspect.
    pub score: f32,
    /// The answer it has.
    pub label: String,
    /// Its first Unicode character in the context.
    pub start: u64,
    /// One past its last.
    pub end: u64,
    /// What the model answers.
    pub suggested_answer: String,
    /// What speaks against the answer, in words.
    pub reason: String,
    /// By name, each signal that was computed.
    pub signals: Map<String, Value>,
    /// The sentence of the context that has more of the question's words than the answer's own, where there is one.
    pub sentence: Option<String>,
    /// The questions whose answers are most alike, nearest first; each one's label is its answer.
    pub neighbours: Vec<NearRecord>,
    /// The question.
    pub text: String,
    /// The context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
}

/// A training record with its suggestions taken, as `train` and `index` read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorrectedTags {
    /// The record's id.
    pub id: String,
    /// Its words.
    pub tokens: Vec<String>,
    /// Their tags, one each.
    pub ner_tags: Vec<String>,
}

impl CorrectedTags {
    /// The Parquet columns.
    pub fn columns() -> Vec<(String, Kind)> {
        columns([("id", Kind::Text), ("tokens", Kind::list(Kind::Text)), ("ner_tags", Kind::list(Kind::Text))])
    }

    /// Row `row` of a store with the tags that `suggested` gives its words, by their numbers; its own elsewhere.
    ///
    /// # Errors
    /// Where the store is damaged.
    pub fn of(store: &Store, dirty: &Dirty, row: usize, suggested: &dyn Fn(usize) -> bool) -> Result<Self> {
        let (record, names) = (store.record(row)?, &store.settings().label_names);
        let parts = parts(&record);
        let tag = |(part, unit): (&FactorPart, usize)| {
            let taken = suggested(unit).then(|| names.get(dirty.suggestions[unit]).cloned()).flatten();
            taken.unwrap_or_else(|| part.target.clone())
        };
        let ner_tags = parts.iter().zip(dirty.records[row].clone()).map(tag).collect();
        let tokens = parts.iter().map(|part| characters(&record.text, part.start, part.end).to_owned()).collect();
        Ok(Self { tokens, ner_tags, id: record.id })
    }
}

fn parts(record: &StoredRecord) -> &[FactorPart] {
    record.said.as_ref().map_or(&[], |said| &said.parts)
}

/// The names of classes as a store's records say them, where the model has too many to be named in its settings.
#[derive(Debug)]
pub struct PieceNames(HashMap<usize, String>);

impl PieceNames {
    /// Of every piece that some record's mask hides, or that the model puts there.
    ///
    /// # Errors
    /// Where the store is damaged.
    pub fn of(store: &Store, dirty: &Dirty) -> Result<Self> {
        let mut names: HashMap<usize, String> = store.settings().label_names.iter().cloned().enumerate().collect();
        if !names.is_empty() {
            return Ok(Self(names));
        }
        for (row, units) in dirty.records.iter().enumerate() {
            let Some(said) = store.record(row)?.said else { continue };
            let predicted = said.predicted.as_array().cloned().unwrap_or_default();
            for ((unit, part), predicted) in units.clone().zip(&said.parts).zip(predicted) {
                if let Some(class) = dirty.labels[unit] {
                    names.entry(class).or_insert_with(|| part.target.clone());
                }
                if let (Some(class), Some(name)) = (dirty.predictions[unit], predicted.as_str()) {
                    names.entry(class).or_insert_with(|| name.to_owned());
                }
            }
        }
        Ok(Self(names))
    }

    fn name(&self, class: usize) -> String {
        self.0.get(&class).cloned().unwrap_or_else(|| format!("piece {class}"))
    }
}

impl DirtyPart {
    /// The finding of the words `span`, numbered over all records, of which `worst` is the most suspect.
    ///
    /// # Errors
    /// Where the store is damaged.
    pub fn of(
        store: &Store,
        dirty: &Dirty,
        names: &PieceNames,
        rank: usize,
        (worst, span): &(usize, std::ops::Range<usize>),
    ) -> Result<Self> {
        let (row, _) = dirty.place(*worst);
        let (record, first) = (store.record(row)?, span.start - dirty.records[row].start);
        let own = parts(&record).get(first..first + span.len()).unwrap_or_default();
        let (start, end) = (own.first().map_or(0, |part| part.start), own.last().map_or(0, |part| part.end));
        let tags: Vec<String> = own.iter().map(|part| part.target.clone()).collect();
        let suggested_tags: Vec<String> = span.clone().map(|unit| names.name(dirty.suggestions[unit])).collect();
        let hits = dirty.neighbours[*worst].iter().take(SHOWN);
        let neighbours: Vec<NearPart> = hits.map(|hit| NearPart::of(store, dirty, *hit)).collect::<Result<_>>()?;
        let (shard, at) = store.locate(row);
        let said = judges(dirty, *worst, names);
        let change = if store.settings().label_names.is_empty() { None } else { change(&tags, &suggested_tags) };
        Ok(Self {
            rank: rank as u64 + 1,
            index: store.shards()[shard].indices()[at],
            id: record.id.clone(),
            score: dirty.scores[*worst],
            word: first as u64,
            start: start as u64,
            end: end as u64,
            span: characters(&record.text, start, end).to_owned(),
            reason: [change, said].into_iter().flatten().collect::<Vec<_>>().join("; "),
            signals: signals_of(&dirty.signals, *worst),
            neighbours,
            tags,
            suggested_tags,
            text: record.text,
        })
    }

    /// The Parquet columns.
    pub fn columns(signals: &[Signal]) -> Vec<(String, Kind)> {
        columns([
            ("rank", Kind::Integer),
            ("index", Kind::Integer),
            ("id", Kind::Text),
            ("score", Kind::Number),
            ("word", Kind::Integer),
            ("start", Kind::Integer),
            ("end", Kind::Integer),
            ("span", Kind::Text),
            ("tags", Kind::list(Kind::Text)),
            ("suggested_tags", Kind::list(Kind::Text)),
            ("reason", Kind::Text),
            ("signals", signal_kind(signals)),
            ("neighbours", Kind::list(NearPart::kind())),
            ("text", Kind::Text),
        ])
    }
}

pub(super) fn signal_kind(signals: &[Signal]) -> Kind {
    Kind::Struct(signals.iter().map(|signal| (signal.name().to_owned(), Kind::Number)).collect())
}

impl NearPart {
    fn kind() -> Kind {
        Kind::fields([
            ("index", Kind::Integer),
            ("id", Kind::Text),
            ("label", Kind::Text),
            ("score", Kind::Number),
            ("span", Kind::Text),
            ("start", Kind::Integer),
            ("end", Kind::Integer),
            ("text", Kind::Text),
        ])
    }

    fn of(store: &Store, dirty: &Dirty, hit: Hit) -> Result<Self> {
        let (row, at) = dirty.place(hit.row as usize);
        let (record, (shard, place)) = (store.record(row)?, store.locate(row));
        let part = parts(&record).get(at).cloned().unwrap_or_default();
        Ok(Self {
            index: store.shards()[shard].indices()[place],
            label: part.target,
            score: hit.score,
            span: characters(&record.text, part.start, part.end).to_owned(),
            start: part.start as u64,
            end: part.end as u64,
            id: record.id,
            text: record.text,
        })
    }
}

/// What would become of the entities of some words: another kind, none, new ones, other bounds.
fn change(tags: &[String], suggested: &[String]) -> Option<String> {
    if tags == suggested {
        return None;
    }
    let found = |tags: &[String]| entities(tags.iter().map(|tag| Some(tag.as_str())));
    let kinds = |found: &[(String, std::ops::Range<usize>)]| {
        found.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (old, new) = (found(tags), found(suggested));
    Some(match (old.is_empty(), new.is_empty()) {
        (true, false) => format!("missed: {}", kinds(&new)),
        (false, true) => format!("no {}", kinds(&old)),
        _ if kinds(&old) == kinds(&new) => format!("{} with other bounds", kinds(&old)),
        _ => format!("{}, not {}", kinds(&new), kinds(&old)),
    })
}

/// Who would give the word another tag, and how many of its neighbours have one.
fn judges(dirty: &Dirty, unit: usize, names: &PieceNames) -> Option<String> {
    let who = [(Signal::Text, "its words and those beside it"), (Signal::Confident, "its features")];
    let said = doubts(dirty, unit, who, &|class| names.name(class));
    let hits = &dirty.neighbours[unit];
    let other = hits.iter().filter(|hit| dirty.labels[hit.row as usize] != dirty.labels[unit]).count();
    let near = (!hits.is_empty()).then(|| format!("{other} of the {} nearest have another tag", hits.len()));
    let all: Vec<String> = [said, near].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join("; "))
}

impl DirtyAnswer {
    /// The record of rank `rank`, from 0.
    ///
    /// # Errors
    /// Where the store is damaged.
    pub fn of(store: &Store, dirty: &DirtyAnswers, rank: usize) -> Result<Self> {
        let row = dirty.ranking[rank];
        let (record, (shard, at)) = (store.record(row)?, store.locate(row));
        let said = record.said.clone().unwrap_or_default();
        let (start, end) = place(&record);
        let suggested = said.predicted.as_str().unwrap_or_default().to_owned();
        let context = record.pair.clone().unwrap_or_default();
        let label = said.target.as_str().unwrap_or_default().to_owned();
        let hits = dirty.neighbours[row].iter().take(SHOWN);
        let sentence = dirty.sentences[row].map(|(start, end)| characters(&context, start, end).trim().to_owned());
        let disagrees = (suggested != label).then(|| format!("the model says \"{suggested}\""));
        let fits = sentence.as_ref().map(|_| "another sentence has more of the question's words".to_owned());
        let nowhere = (end > start && !sentences(&context).iter().any(|&(from, to)| from <= start && end <= to))
            .then(|| "it is of no one sentence".to_owned());
        Ok(Self {
            rank: rank as u64 + 1,
            index: store.shards()[shard].indices()[at],
            id: record.id.clone(),
            score: dirty.scores[row],
            start: start as u64,
            end: end as u64,
            suggested_answer: suggested,
            reason: [disagrees, fits, nowhere].into_iter().flatten().collect::<Vec<_>>().join("; "),
            signals: signals_of(&dirty.signals, row),
            sentence,
            neighbours: hits.map(|hit| near_question(store, *hit)).collect::<Result<_>>()?,
            label,
            text: record.text,
            text_pair: record.pair,
        })
    }

    /// The Parquet columns.
    pub fn columns(signals: &[Signal]) -> Vec<(String, Kind)> {
        columns([
            ("rank", Kind::Integer),
            ("index", Kind::Integer),
            ("id", Kind::Text),
            ("score", Kind::Number),
            ("label", Kind::Text),
            ("start", Kind::Integer),
            ("end", Kind::Integer),
            ("suggested_answer", Kind::Text),
            ("reason", Kind::Text),
            ("signals", signal_kind(signals)),
            ("sentence", Kind::Text),
            ("neighbours", Kind::list(NearRecord::kind())),
            ("text", Kind::Text),
            ("text_pair", Kind::Text),
        ])
    }
}

/// Where a question's answer is, by its first window's boundaries.
fn place(record: &StoredRecord) -> (usize, usize) {
    match parts(record) {
        [first, last, ..] => (first.start, last.end),
        _ => (0, 0),
    }
}

fn near_question(store: &Store, hit: Hit) -> Result<NearRecord> {
    let record = store.record(hit.row as usize)?;
    let answer = record.said.map(|said| said.target.as_str().unwrap_or_default().to_owned());
    let (text, text_pair) = (record.text, record.pair);
    Ok(NearRecord { index: hit.index, id: record.id, label: answer, score: hit.score, text, text_pair })
}
