//! `predict` with models that say something of tokens: answers, tagged entities, pieces behind masks.

use std::ops::Range;

use serde_json::Value;

use super::windows::{Encoded, Windows, read_whole};
use super::{Rejections, Settings, Summary};
use crate::dataset::{Dataset, Label, Record};
use crate::error::Result;
use crate::factors::Target;
use crate::model::{Model, Outputs, Reads};
use crate::report::{AnswerSpan, EntitySpan, FilledMask, MaskFill, MaskPrediction, SpanPrediction, TagPrediction};
use crate::task::{self, AnswerOptions, Entity, EntityCounts, Found, Parts, Scoring, TaggedWord, characters};
use crate::tokens::Encoding;

/// How questions are answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpanOptions {
    /// Which answers are looked for.
    pub answers: AnswerOptions,
    /// Tokens of the context that neighbouring windows share.
    pub stride: usize,
    /// How answers are judged where the right ones are known.
    pub scoring: Scoring,
}

impl Default for SpanOptions {
    fn default() -> Self {
        Self { answers: AnswerOptions::default(), stride: 128, scoring: Scoring::default() }
    }
}

/// Exact match and F1 over the questions whose right answers are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct SpanScores {
    /// How many there are.
    pub questions: u64,
    /// The share answered with one of the right answers, from 0 to 1.
    pub exact_match: f64,
    /// The mean F1.
    pub f1: f64,
}

impl SpanScores {
    /// Takes one question in, where its right answers are known.
    pub(super) fn add(&mut self, exact_match: Option<bool>, f1: Option<f64>) {
        if let (Some(exact), Some(f1)) = (exact_match, f1) {
            self.questions += 1;
            self.exact_match += f64::from(u8::from(exact));
            self.f1 += f1;
        }
    }

    /// From sums to means.
    pub(super) fn finish(&mut self) {
        let questions = self.questions.max(1) as f64;
        self.exact_match /= questions;
        self.f1 /= questions;
    }
}

/// Answers every question of `dataset` and hands each record's answers to `write`, in input order.
///
/// # Errors
/// The first of: what could not be read (or a record that cannot be used, unless such are skipped), what the model
/// could not run, what `write` could not write, or the user's interrupt.
pub fn predict_spans(
    model: &Model,
    dataset: Dataset,
    options: &SpanOptions,
    settings: &Settings,
    rejections: &mut Rejections,
    write: &mut dyn FnMut(&SpanPrediction) -> Result<()>,
) -> Result<(Summary, SpanScores)> {
    let mut scores = SpanScores::default();
    let encode = |record: Record| -> Result<Encoded, String> {
        let sequences = question_windows(model, &record, options.stride)?;
        Ok(Encoded::of(record, sequences.into_iter().map(read_whole).collect()))
    };
    let windows = Windows { model, settings, verb: "answering" };
    let summary = windows.run(dataset, rejections, &encode, &mut |encoded, outputs, _| {
        let prediction = span_prediction(&encoded, &[], &outputs, options);
        scores.add(prediction.exact_match, prediction.f1);
        write(&prediction)
    })?;
    scores.finish();
    Ok((summary, scores))
}

/// A record's question and context in windows.
pub(super) fn question_windows(model: &Model, record: &Record, stride: usize) -> Result<Vec<Encoding>, String> {
    let context = record.pair.as_deref().unwrap_or_default();
    let windows = model.tokenizer().windows(&record.text, context, model.max_length(), stride);
    windows.map_err(|error| match error.hint() {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    })
}

/// The answers found in a record's windows.
pub(super) fn found(windows: &[(Encoding, Reads)], outputs: &[Outputs], options: &AnswerOptions) -> Found {
    found_between(&[], windows, outputs, options)
}

fn found_between(
    seams: &[usize],
    windows: &[(Encoding, Reads)],
    outputs: &[Outputs],
    options: &AnswerOptions,
) -> Found {
    let read = windows.iter().zip(outputs).map(|((encoding, _), outputs)| (encoding, &outputs.logits[..]));
    task::answers_between(seams, read, options)
}

/// What is answered to a record; `seams` are where its context has been put together.
pub(super) fn span_prediction(
    encoded: &Encoded,
    seams: &[usize],
    outputs: &[Outputs],
    options: &SpanOptions,
) -> SpanPrediction {
    let Encoded { record, sequences, .. } = encoded;
    let context = record.pair.as_deref().unwrap_or_default();
    let found = found_between(seams, sequences, outputs, &options.answers);
    let span = |candidate: &task::Candidate| AnswerSpan {
        text: characters(context, candidate.start, candidate.end).to_owned(),
        start: candidate.start,
        end: candidate.end,
        score: Some(candidate.score),
    };
    let answer = found.answer(&options.answers).map_or_else(AnswerSpan::default, span);
    let right: Option<Vec<String>> = match &record.label {
        Some(Label::Answers(answers)) => Some(answers.iter().map(|answer| answer.text.clone()).collect()),
        _ => None,
    };
    let judged = right.as_ref().map(|right| task::judge(&answer.text, right, options.scoring));
    SpanPrediction {
        id: record.id.clone(),
        index: record.index,
        question: record.text.clone(),
        context: context.to_owned(),
        answers: right,
        answer,
        n_best: found.best.iter().map(span).collect(),
        no_answer_score: found.no_answer,
        windows: sequences.len() as u64,
        exact_match: judged.map(|judged| judged.exact_match),
        f1: judged.map(|judged| judged.f1),
    }
}

/// Tags every token of `dataset`'s texts and hands each record's tags and entities to `write`, in input order. Texts
/// longer than the model are read in windows that share `stride` tokens; each token's tag is of the window that shows
/// most of what is around it.
///
/// # Errors
/// As [`predict_spans`]; a record whose tags are not one a word is one that cannot be used.
pub fn predict_tags(
    model: &Model,
    dataset: Dataset,
    stride: usize,
    settings: &Settings,
    rejections: &mut Rejections,
    write: &mut dyn FnMut(&TagPrediction) -> Result<()>,
) -> Result<(Summary, Option<EntityCounts>)> {
    let mut counts: Option<EntityCounts> = None;
    let encode = |record: Record| -> Result<Encoded, String> {
        gold_tags(model, &record)?;
        encoded_text(model, record, stride)
    };
    let windows = Windows { model, settings, verb: "tagging" };
    let summary = windows.run(dataset, rejections, &encode, &mut |encoded, outputs, _| {
        let (encoding, outputs) = (encoded.text(), encoded.whole(&outputs));
        let tagged = Tagged::new(model, &encoded.record, encoding, &outputs);
        if let Some(gold) = tagged.gold.as_ref() {
            let names = gold.iter().map(|name| Some(name.as_str()));
            counts.get_or_insert_default().add(&task::entities(names), &tagged.ranges());
        }
        write(&tagged.prediction(&encoded.record, encoding))
    })?;
    Ok((summary, counts))
}

/// A record's text in windows of which every token is read.
pub(super) fn encoded_text(model: &Model, record: Record, stride: usize) -> Result<Encoded, String> {
    let (text, pair) = (&record.text, record.pair.as_deref());
    let windows = model.tokenizer().text_windows(text, pair, model.max_length(), stride);
    let (joined, windows) = windows.map_err(|error| error.to_string())?;
    Ok(Encoded { record, sequences: windows.into_iter().map(read_whole).collect(), joined: Some(joined) })
}

/// The names of a record's own tags, one a word.
pub(super) fn gold_tags(model: &Model, record: &Record) -> Result<Option<Vec<String>>, String> {
    let Some(label) = &record.label else { return Ok(None) };
    let Some(words) = &record.words else {
        return Err("tags need the words they are of: a column `tokens` with a list of them".to_owned());
    };
    let Label::Many(labels) = label else { return Err("tags: expected a list, one a word".to_owned()) };
    if labels.len() != words.len() {
        return Err(format!("tags: expected {}, one a word, found {}", words.len(), labels.len()));
    }
    let name = |label: &Label| match model.resolve_label(label)? {
        Target::Class(class) => Ok(model.class_names().names()[class].clone()),
        Target::Classes(_) | Target::Values(_) => Err("tags: expected one class a word".to_owned()),
    };
    labels.iter().map(name).collect::<Result<_, String>>().map(Some)
}

/// What a model said of a text's words.
pub(super) struct Tagged {
    pub(super) words: Vec<Option<TaggedWord>>,
    pub(super) entities: Vec<Entity>,
    /// The record's own tags, one a word.
    pub(super) gold: Option<Vec<String>>,
    /// The name of each token's likeliest tag.
    tags: Vec<Option<String>>,
}

impl Tagged {
    pub(super) fn new(model: &Model, record: &Record, encoding: &Encoding, outputs: &Outputs) -> Self {
        let (names, classes) = (model.class_names().names(), model.classes());
        let words = task::words(encoding, record.words.as_deref(), &outputs.logits, classes);
        let row = |token: usize| &outputs.logits[token * classes..(token + 1) * classes];
        let likeliest = |z: &[f32]| (0..classes).fold(0, |best, k| if z[k] > z[best] { k } else { best });
        let tag = |token: usize| encoding.segments[token].map(|_| names[likeliest(row(token))].clone());
        Self {
            entities: Entity::list(&words, names),
            words,
            gold: gold_tags(model, record).ok().flatten(),
            tags: (0..encoding.ids.len()).map(tag).collect(),
        }
    }

    fn ranges(&self) -> Vec<(String, Range<usize>)> {
        self.entities.iter().map(|entity| (entity.kind.clone(), entity.words.clone())).collect()
    }

    fn prediction(self, record: &Record, encoding: &Encoding) -> TagPrediction {
        let parts = Parts::of(&record.text);
        let entity = |entity: &Entity| EntitySpan {
            kind: entity.kind.clone(),
            text: parts.get(entity.start, entity.end).to_owned(),
            start: entity.start,
            end: entity.end,
            score: entity.score as f32,
        };
        TagPrediction {
            id: record.id.clone(),
            index: record.index,
            text: record.text.clone(),
            label: self.gold,
            tokens: encoding.tokens.clone(),
            offsets: encoding.offsets.clone(),
            tags: self.tags,
            entities: self.entities.iter().map(entity).collect(),
        }
    }

    /// Its likeliest tag, and that of the word it begins.
    pub(super) fn of_token(&self, token: usize) -> (Value, Option<Value>) {
        let one = |tag: &String| [tag.as_str()].into_iter().collect();
        let word = self.words.iter().position(|word| word.as_ref().is_some_and(|word| word.token == token));
        let gold = word.and_then(|word| self.gold.as_ref()?.get(word));
        (self.tags[token].as_ref().map(one).unwrap_or_default(), gold.map(one))
    }
}

/// The entities of a text in reading order: where each begins and ends, and how results name it.
pub(super) struct NamedEntities<'a> {
    text: Parts<'a>,
    predicted: Vec<(usize, usize, Value)>,
    gold: Option<Vec<(usize, usize, Value)>>,
}

impl<'a> NamedEntities<'a> {
    pub(super) fn new(record: &'a Record, tagged: &Tagged) -> Self {
        let mut named = Self { text: Parts::of(&record.text), predicted: Vec::new(), gold: None };
        let of = |kind: &str, start, end| (start, end, named.name(kind, start, end));
        let places = record.words.as_deref().unwrap_or_default();
        let of_tags = |tags: &Vec<String>| {
            let found = task::entities(tags.iter().map(|tag| Some(tag.as_str())));
            found.iter().map(|(kind, words)| of(kind, places[words.start].0, places[words.end - 1].1)).collect()
        };
        let gold = tagged.gold.as_ref().map(of_tags);
        let predicted = tagged.entities.iter().map(|entity| of(&entity.kind, entity.start, entity.end)).collect();
        (named.predicted, named.gold) = (predicted, gold);
        named
    }

    /// How results name one.
    pub(super) fn name(&self, kind: &str, start: usize, end: usize) -> Value {
        format!("{kind}: {}", self.text.get(start, end)).into()
    }

    /// All of them.
    pub(super) fn all(&self) -> (Value, Option<Value>) {
        self.within(0, usize::MAX)
    }

    /// What shares a character with `start..end`: all of a text's entities, once for each of them, would be far longer
    /// than the text.
    pub(super) fn within(&self, start: usize, end: usize) -> (Value, Option<Value>) {
        let of = |entities: &Vec<(usize, usize, Value)>| {
            let first = entities.partition_point(|(_, to, _)| *to <= start);
            let sharing = entities[first..].iter().take_while(|(from, ..)| *from < end);
            sharing.map(|(.., name)| name.clone()).collect()
        };
        (of(&self.predicted), self.gold.as_ref().map(of))
    }
}

/// Fills in the masks of every text of `dataset` with the `top_k` likeliest pieces, and hands each record's to `write`,
/// in input order.
///
/// # Errors
/// As [`predict_spans`]; a text without a mask is a record that cannot be used.
pub fn predict_masks(
    model: &Model,
    dataset: Dataset,
    top_k: usize,
    settings: &Settings,
    rejections: &mut Rejections,
    write: &mut dyn FnMut(&MaskPrediction) -> Result<()>,
) -> Result<Summary> {
    let windows = Windows { model, settings, verb: "filling in" };
    windows.run(dataset, rejections, &|record| encoded_masks(model, record), &mut |encoded, outputs, _| {
        write(&mask_prediction(model, &encoded, &outputs[0], top_k))
    })
}

/// A record as one sequence of which the masks are read.
pub(super) fn encoded_masks(model: &Model, record: Record) -> Result<Encoded, String> {
    let encoding = model.encode(&record).map_err(|error| error.to_string())?;
    let mask = model.tokenizer().mask_id().ok_or("this model's tokenizer has no mask token")?;
    let reads: Vec<u32> = encoding.own_tokens().filter(|&t| encoding.ids[t] == mask).map(|t| t as u32).collect();
    if reads.is_empty() {
        let piece = model.tokenizer().piece(mask).unwrap_or_default();
        return Err(format!("text: expected a {piece} to fill in, found none"));
    }
    Ok(Encoded::of(record, vec![(encoding, reads.into())]))
}

fn mask_prediction(model: &Model, encoded: &Encoded, outputs: &Outputs, top_k: usize) -> MaskPrediction {
    let Encoded { record, sequences, .. } = encoded;
    let (encoding, reads) = &sequences[0];
    let piece = |id: u32| model.tokenizer().piece(id).unwrap_or_default();
    let mask = |(&token, logits): (&u32, &[f32])| {
        let (start, end) = encoding.offsets[token as usize].unwrap_or_default();
        let fill = |fill: &task::Fill| MaskFill {
            token: piece(fill.id),
            id: u64::from(fill.id),
            probability: fill.probability as f32,
        };
        let fills: Vec<MaskFill> = task::fills(logits, top_k).iter().map(fill).collect();
        FilledMask { position: u64::from(token), start, end, fills }
    };
    MaskPrediction {
        id: record.id.clone(),
        index: record.index,
        text: record.text.clone(),
        masks: reads.iter().zip(outputs.logits.chunks_exact(model.classes())).map(mask).collect(),
    }
}
