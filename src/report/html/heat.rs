//! A text as the pieces that are coloured and what stands between them.

use std::collections::HashMap;

use serde::Serialize;

use super::entry::Entry;
use crate::report::{Explanation, TargetSpan, WordScore};

/// Scores below this share of the largest are not coloured.
const FAINT: f32 = 0.02;

/// One segment of a text.
#[derive(Serialize, Default)]
pub(super) struct Line {
    pub(super) runs: Vec<Run>,
    /// What follows the last piece: the end of the text, which the model may not have seen.
    pub(super) rest: String,
    /// Whether that is more than white space.
    pub(super) is_cut: bool,
}

/// A word (or token) and what stands before it.
#[derive(Serialize)]
pub(super) struct Run {
    before: String,
    text: String,
    /// `+0.123`
    score: String,
    /// `p` supports, `n` opposes, `m` matters for a method that knows no sides; empty where it hardly does.
    sign: &'static str,
    /// The score's magnitude over the largest one of the text, two decimals.
    strength: String,
    /// Whether it belongs to the rationale.
    important: bool,
    /// Whether it is a part of what is explained.
    target: bool,
}

/// The text of an explanation by segments: its words, or its tokens where it has no words.
pub(super) fn lines(explanation: &Explanation, entry: &Entry) -> Vec<Line> {
    if explanation.words.is_empty() {
        return vec![tokens(explanation)];
    }
    let texts = [entry.text.as_deref(), entry.pair.as_deref()];
    let segments = explanation.words.chunk_by(|a, b| a.segment == b.segment);
    let mut at = 0;
    let line = |words: &[WordScore]| {
        let text = texts.get(usize::from(words[0].segment)).copied().flatten();
        let line = segment(explanation, at, words, text);
        at += words.len();
        line
    };
    segments.map(line).collect()
}

fn tokens(explanation: &Explanation) -> Line {
    let tokens = explanation.tokens.iter().zip(&explanation.scores).enumerate();
    let run = |(i, (text, &score)): (usize, (&String, &f32))| {
        let before = if i == 0 { String::new() } else { " ".to_owned() };
        Run::new(explanation, before, text.clone(), score, false)
    };
    Line { runs: tokens.map(run).collect(), ..Line::default() }
}

/// The words of one segment, the first of them number `first` of the explanation's.
fn segment(explanation: &Explanation, first: usize, words: &[WordScore], text: Option<&str>) -> Line {
    let text = text.and_then(|text| Characters::fitting(text, words));
    let mut line = Line::default();
    let mut end = 0;
    for (i, word) in words.iter().enumerate() {
        let before = match &text {
            Some(text) => text.slice(end, word.start).to_owned(),
            None if word.start > end && end > 0 => " ".to_owned(),
            None => String::new(),
        };
        let important = word.score > 0.0 && explanation.rationale.contains(&(first + i));
        let inside = |span: TargetSpan| span.segment == word.segment && word.start < span.end && word.end > span.start;
        let run = Run::new(explanation, before, word.text.clone(), word.score, important);
        line.runs.push(Run { target: explanation.span.is_some_and(inside), ..run });
        end = word.end;
    }
    if let Some(text) = text {
        text.slice(end, usize::MAX).clone_into(&mut line.rest);
        line.is_cut = !line.rest.trim().is_empty();
    }
    line
}

/// Whether words are where they say they are in the texts.
pub(super) fn fit(words: &[WordScore], texts: [Option<&str>; 2]) -> bool {
    let text = |segment: u8| texts.get(usize::from(segment)).copied().flatten();
    let fits =
        |words: &[WordScore]| text(words[0].segment).is_some_and(|text| Characters::fitting(text, words).is_some());
    words.chunk_by(|a, b| a.segment == b.segment).all(fits)
}

/// Whether words, however they are cut, may be of the same texts: no character is told otherwise.
pub(super) fn agree(words: &[WordScore], others: &[WordScore]) -> bool {
    let characters = |word: &WordScore| {
        let (segment, start) = (word.segment, word.start);
        word.text.chars().enumerate().map(move |(at, c)| ((segment, start + at), c)).collect::<Vec<_>>()
    };
    let known: HashMap<(u8, usize), char> = others.iter().flat_map(characters).collect();
    words.iter().flat_map(characters).all(|(place, c)| known.get(&place).is_none_or(|known| *known == c))
}

impl Run {
    /// The run without its colours.
    pub(super) fn plain(&self) -> String {
        [self.before.as_str(), self.text.as_str()].concat()
    }

    fn new(explanation: &Explanation, before: String, text: String, score: f32, important: bool) -> Self {
        let strength = (score.abs() / explanation.largest()).min(1.0);
        let sign = match (explanation.is_signed(), score > 0.0) {
            _ if strength.is_nan() || strength < FAINT => "",
            (true, true) => "p",
            (true, false) => "n",
            (false, true) => "m",
            (false, false) => "",
        };
        let score = explanation.show(score, 3);
        Self { before, text, score, sign, strength: format!("{strength:.2}"), important, target: false }
    }
}

/// A text cut by character numbers.
struct Characters<'a> {
    text: &'a str,
    /// Where each character starts, in bytes.
    starts: Vec<usize>,
}

impl<'a> Characters<'a> {
    /// `text`, if the words are where they say they are in it.
    fn fitting(text: &'a str, words: &[WordScore]) -> Option<Self> {
        let characters = Self { text, starts: text.char_indices().map(|(at, _)| at).collect() };
        let mut end = 0;
        for word in words {
            if word.start < end || characters.slice(word.start, word.end) != word.text {
                return None;
            }
            end = word.end;
        }
        Some(characters)
    }

    fn slice(&self, start: usize, end: usize) -> &'a str {
        let byte = |at: usize| self.starts.get(at).copied().unwrap_or(self.text.len());
        self.text.get(byte(start)..byte(end)).unwrap_or_default()
    }
}
