//! What `predict` says of questions, of tagged texts and of masked ones.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::Kind;
use super::schema::columns;
use super::text::{Render, one_line, style, width};
use crate::task;

/// An answer in a context. Empty where there is none, and then without a score.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerSpan {
    /// As the context has it.
    pub text: String,
    /// Its first Unicode character in the context.
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// Start logit + end logit.
    pub score: Option<f32>,
}

/// What `predict` says of a question.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpanPrediction {
    /// The record's id.
    pub id: String,
    /// Its 0-based number in the whole input.
    pub index: u64,
    /// The question.
    pub question: String,
    /// The context.
    pub context: String,
    /// The right answers, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Vec<String>>,
    /// The best answer.
    pub answer: AnswerSpan,
    /// The best answers, highest score first.
    pub n_best: Vec<AnswerSpan>,
    /// The score of there being none.
    pub no_answer_score: f32,
    /// Windows the context was read in.
    pub windows: u64,
    /// Whether the answer is one of the right ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<bool>,
    /// Its F1 against the nearest of them, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
}

/// Some words of one thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EntitySpan {
    /// What kind of thing.
    #[serde(rename = "type")]
    pub kind: String,
    /// As the text has it.
    pub text: String,
    /// Its first Unicode character in the text.
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// The mean probability of its words' tags.
    pub score: f32,
}

/// What `predict` says of a text's tokens. Lists have one entry a token, special tokens included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TagPrediction {
    /// The record's id.
    pub id: String,
    /// Its 0-based number in the whole input.
    pub index: u64,
    /// The text; of records given as words, those with spaces between.
    pub text: String,
    /// Its own tags, one a word, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Vec<String>>,
    /// The tokenizer's own pieces.
    pub tokens: Vec<String>,
    /// Start and end in Unicode characters of the text; `None` for special tokens.
    pub offsets: Vec<Option<(usize, usize)>>,
    /// Each token's likeliest tag; `None` for special tokens.
    pub tags: Vec<Option<String>>,
    /// What the tags of words make up.
    pub entities: Vec<EntitySpan>,
}

/// A piece that may stand behind a mask.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MaskFill {
    /// As the vocabulary writes it.
    pub token: String,
    /// Its id.
    pub id: u64,
    /// Its probability.
    pub probability: f32,
}

/// A mask, and what may stand behind it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FilledMask {
    /// Which token it is.
    pub position: u64,
    /// Its first Unicode character in the text.
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// Likeliest first.
    pub fills: Vec<MaskFill>,
}

/// What `predict` says of a text with masks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MaskPrediction {
    /// The record's id.
    pub id: String,
    /// Its 0-based number in the whole input.
    pub index: u64,
    /// The text.
    pub text: String,
    /// Its masks, in their order.
    pub masks: Vec<FilledMask>,
}

/// A sentence of a context, and whether the answer was looked for in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContextSentence {
    /// Its first Unicode character in the context.
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// Its share of what speaks for the plain answer; with a trained selector, its probability to be evidence.
    pub score: f32,
    /// Whether it was kept.
    pub kept: bool,
}

/// What `select` says of a question: the answer from the kept sentences of its context, beside that from all of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContextSelection {
    /// The record's id.
    pub id: String,
    /// Its 0-based number in the whole input.
    pub index: u64,
    /// The question.
    pub question: String,
    /// The whole context.
    pub context: String,
    /// The right answers, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Vec<String>>,
    /// The answer from the kept sentences, where it stands in the whole context: none reaches across a sentence that
    /// was left out.
    pub answer: AnswerSpan,
    /// Whether it is one of the right ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<bool>,
    /// Its F1 against the nearest of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
    /// The answer from all of the context.
    pub plain_answer: AnswerSpan,
    /// Whether that is one of the right ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_exact_match: Option<bool>,
    /// Its F1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_f1: Option<f64>,
    /// All sentences of the context, in their order.
    pub sentences: Vec<ContextSentence>,
}

/// An [`AnswerSpan`] in Parquet.
fn span_kind() -> Kind {
    Kind::fields([("text", Kind::Text), ("start", Kind::Integer), ("end", Kind::Integer), ("score", Kind::Number)])
}

impl ContextSelection {
    /// The Parquet columns.
    pub fn columns() -> Vec<(String, Kind)> {
        let span = span_kind();
        let sentence = Kind::fields([
            ("start", Kind::Integer),
            ("end", Kind::Integer),
            ("score", Kind::Number),
            ("kept", Kind::Boolean),
        ]);
        columns([
            ("id", Kind::Text),
            ("index", Kind::Integer),
            ("question", Kind::Text),
            ("context", Kind::Text),
            ("answers", Kind::list(Kind::Text)),
            ("answer", span.clone()),
            ("exact_match", Kind::Boolean),
            ("f1", Kind::Number),
            ("plain_answer", span),
            ("plain_exact_match", Kind::Boolean),
            ("plain_f1", Kind::Number),
            ("sentences", Kind::list(sentence)),
        ])
    }
}

impl Render for ContextSelection {
    fn render(&self, colour: bool) -> String {
        let style = style(colour);
        let mut out =
            format!("{:>8}  {}\n", self.id, style.clone().dim().apply_to(one_line(&self.question, width() - 10)));
        let kept = self.sentences.iter().filter(|sentence| sentence.kept).count();
        let text = if self.answer.text.is_empty() { "(no answer)" } else { &self.answer.text };
        let from = format!("from {kept} of {} sentences", self.sentences.len());
        let _ = writeln!(out, "          {}  {from}", style.clone().bold().apply_to(one_line(text, width() - 40)));
        if self.plain_answer.text != self.answer.text {
            let plain = one_line(&self.plain_answer.text, width() - 34);
            let _ = writeln!(out, "          {}", style.dim().apply_to(format!("from all of them: {plain}")));
        }
        out
    }
}

impl SpanPrediction {
    /// The Parquet columns.
    pub fn columns() -> Vec<(String, Kind)> {
        let span = span_kind();
        columns([
            ("id", Kind::Text),
            ("index", Kind::Integer),
            ("question", Kind::Text),
            ("context", Kind::Text),
            ("answers", Kind::list(Kind::Text)),
            ("answer", span.clone()),
            ("n_best", Kind::list(span)),
            ("no_answer_score", Kind::Number),
            ("windows", Kind::Integer),
            ("exact_match", Kind::Boolean),
            ("f1", Kind::Number),
        ])
    }
}

impl TagPrediction {
    /// The entities of its own tags, in reading order. Nothing where there are none, or where the record does not tell
    /// where its words are: they are known to be what spaces part, pieces, or characters, where there are as many of
    /// these as tags, since none of them reaches from one word into the next.
    pub(super) fn gold(&self) -> Option<Vec<EntitySpan>> {
        let tags = self.label.as_ref()?;
        let places = [parted(&self.text), self.pieces(), characters(&self.text)];
        let places = places.into_iter().find(|places| places.len() == tags.len())?;
        let starts: Vec<usize> = self.text.char_indices().map(|(byte, _)| byte).collect();
        let byte = |character: usize| starts.get(character).copied().unwrap_or(self.text.len());
        let entity = |(kind, words): (String, std::ops::Range<usize>)| {
            let (start, end) = (places[words.start].0, places[words.end - 1].1);
            let text = self.text.get(byte(start)..byte(end)).unwrap_or_default().to_owned();
            EntitySpan { kind, text, start, end, score: 1.0 }
        };
        Some(task::entities(tags.iter().map(|tag| Some(tag.as_str()))).into_iter().map(entity).collect())
    }

    /// Where the tokenizer's pieces are, each with those that go on with it.
    fn pieces(&self) -> Vec<(usize, usize)> {
        let mut places: Vec<(usize, usize)> = Vec::new();
        for (token, place) in self.tokens.iter().zip(&self.offsets) {
            match (place, places.last_mut()) {
                (Some((_, end)), Some(last)) if token.starts_with("##") => last.1 = *end,
                (Some(place), _) => places.push(*place),
                (None, _) => {}
            }
        }
        places
    }

    /// The Parquet columns.
    pub fn columns() -> Vec<(String, Kind)> {
        let entity = Kind::fields([
            ("type", Kind::Text),
            ("text", Kind::Text),
            ("start", Kind::Integer),
            ("end", Kind::Integer),
            ("score", Kind::Number),
        ]);
        columns([
            ("id", Kind::Text),
            ("index", Kind::Integer),
            ("text", Kind::Text),
            ("label", Kind::list(Kind::Text)),
            ("tokens", Kind::list(Kind::Text)),
            ("offsets", Kind::list(Kind::list(Kind::Integer))),
            ("tags", Kind::list(Kind::Text)),
            ("entities", Kind::list(entity)),
        ])
    }
}

/// Where the parts between spaces are, in characters.
fn parted(text: &str) -> Vec<(usize, usize)> {
    let mut end = 0;
    let place = |word: &str| {
        let start = end;
        end += word.chars().count() + 1;
        (start, end - 1)
    };
    text.split(' ').map(place).collect()
}

/// Where the characters are that are no spaces.
fn characters(text: &str) -> Vec<(usize, usize)> {
    let is_seen = |(_, c): &(usize, char)| !c.is_whitespace();
    text.chars().enumerate().filter(is_seen).map(|(at, _)| (at, at + 1)).collect()
}

impl MaskPrediction {
    /// The Parquet columns.
    pub fn columns() -> Vec<(String, Kind)> {
        let fill = Kind::fields([("token", Kind::Text), ("id", Kind::Integer), ("probability", Kind::Number)]);
        let mask = Kind::fields([
            ("position", Kind::Integer),
            ("start", Kind::Integer),
            ("end", Kind::Integer),
            ("fills", Kind::list(fill)),
        ]);
        columns([("id", Kind::Text), ("index", Kind::Integer), ("text", Kind::Text), ("masks", Kind::list(mask))])
    }
}

impl Render for SpanPrediction {
    fn render(&self, colour: bool) -> String {
        let style = style(colour);
        let mut out =
            format!("{:>8}  {}\n", self.id, style.clone().dim().apply_to(one_line(&self.question, width() - 10)));
        let none = "(no answer)";
        let text = if self.answer.text.is_empty() { none } else { &self.answer.text };
        let score = self.answer.score.unwrap_or(self.no_answer_score);
        let place = format!("{score:.3}  [{}..{}]", self.answer.start, self.answer.end);
        let _ = writeln!(out, "          {}  {place}", style.clone().bold().apply_to(one_line(text, width() - 34)));
        let right = self.answers.as_ref().filter(|_| self.exact_match == Some(false));
        if let Some(right) = right {
            let right = one_line(&right.join(" | "), width() - 24);
            let _ = writeln!(out, "          {}", style.red().apply_to(format!("(answers: {right})")));
        }
        out
    }
}

impl Render for TagPrediction {
    fn render(&self, colour: bool) -> String {
        let mut out = format!("{:>8}  {}\n", self.id, one_line(&self.text, width() - 10));
        for EntitySpan { kind, text, start, end, score } in &self.entities {
            let text = style(colour).bold().apply_to(one_line(text, width() / 2));
            let _ = writeln!(out, "          {kind:<6} {text}  {score:.3}  [{start}..{end}]");
        }
        out
    }
}

impl Render for MaskPrediction {
    fn render(&self, colour: bool) -> String {
        let mut out = format!("{:>8}  {}\n", self.id, one_line(&self.text, width() - 10));
        for mask in &self.masks {
            let _ = write!(out, "          [{}..{}]", mask.start, mask.end);
            for MaskFill { token, probability, .. } in &mask.fills {
                let _ = write!(out, "  {} {probability:.3}", style(colour).bold().apply_to(token));
            }
            out.push('\n');
        }
        out
    }
}
