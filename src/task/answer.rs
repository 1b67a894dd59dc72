//! From two logits a token to answers: the spans of a context whose start and end logits sum highest.

use std::cmp::Ordering;

use super::characters;
use crate::dataset::{Answer, Label, Record};
use crate::tokens::Encoding;

/// Which answers are looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AnswerOptions {
    /// Tokens of an answer, at most.
    pub max_tokens: usize,
    /// How many are kept.
    pub n_best: usize,
    /// There is no answer where that scores more than so much above the best one; there always is one where this is not
    /// given.
    pub no_answer_threshold: Option<f32>,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self { max_tokens: 30, n_best: 20, no_answer_threshold: None }
    }
}

/// A possible answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its first Unicode character in the context.
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// Start logit + end logit.
    pub score: f32,
    /// The window it was found in.
    pub window: usize,
    /// Its first and last token there.
    pub tokens: (usize, usize),
}

/// What was found in all windows of a context.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Highest score first; no two are the same characters.
    pub best: Vec<Candidate>,
    /// The score of there being no answer: start and end at the first token, the least of all windows (as `run_qa.py`
    /// has it).
    pub no_answer: f32,
}

impl Found {
    /// The answer, where there is one.
    pub fn answer(&self, options: &AnswerOptions) -> Option<&Candidate> {
        let best = self.best.first()?;
        let none = options.no_answer_threshold.is_some_and(|threshold| self.no_answer - best.score > threshold);
        (!none).then_some(best)
    }
}

/// The answers in the windows of one context, from each window and its logits `[L, 2]`. Every span of at most so many
/// tokens is looked at; of spans with equal characters the best counts, of equal scores the earlier.
pub fn answers<'a>(windows: impl IntoIterator<Item = (&'a Encoding, &'a [f32])>, options: &AnswerOptions) -> Found {
    answers_between(&[], windows, options)
}

/// The same of a context that is put together of several: no answer reaches across one of the `seams` (ascending): it
/// would stand nowhere.
pub fn answers_between<'a>(
    seams: &[usize],
    windows: impl IntoIterator<Item = (&'a Encoding, &'a [f32])>,
    options: &AnswerOptions,
) -> Found {
    let mut best = Vec::new();
    let mut no_answer = f32::INFINITY;
    for (window, (encoding, z)) in windows.into_iter().enumerate() {
        no_answer = no_answer.min(z[0] + z[1]);
        let mut own = in_window(encoding, z, window, options.max_tokens, seams);
        // Some of them may be the same characters, but no more than a few.
        let most = options.n_best.saturating_mul(4);
        if own.len() > most {
            own.select_nth_unstable_by(most, by_score);
            own.truncate(most);
        }
        best.extend(own);
    }
    best.sort_unstable_by(by_score);
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in best {
        if kept.len() == options.n_best {
            break;
        }
        if !kept.iter().any(|other| (other.start, other.end) == (candidate.start, candidate.end)) {
            kept.push(candidate);
        }
    }
    Found { best: kept, no_answer }
}

fn in_window(encoding: &Encoding, z: &[f32], window: usize, max_tokens: usize, seams: &[usize]) -> Vec<Candidate> {
    let place = |token: usize| encoding.offsets[token].filter(|_| encoding.segments[token] == Some(1));
    let length = encoding.ids.len();
    let mut found = Vec::new();
    for first in 0..length {
        let Some((start, _)) = place(first) else { continue };
        let seam = seams.get(seams.partition_point(|seam| *seam <= start)).copied().unwrap_or(usize::MAX);
        for last in first..length.min(first.saturating_add(max_tokens)) {
            let Some((_, end)) = place(last).filter(|(_, end)| (start + 1..=seam).contains(end)) else { continue };
            let score = z[2 * first] + z[2 * last + 1];
            found.push(Candidate { start, end, score, window, tokens: (first, last) });
        }
    }
    found
}

fn by_score(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then((a.window, a.tokens).cmp(&(b.window, b.tokens)))
}

/// Where the first of a record's right answers is, in characters of its context: as it says, or its first occurrence.
///
/// # Errors
/// Where the context has no such answer there.
pub fn gold_span(record: &Record) -> Result<Option<(usize, usize)>, String> {
    let Some(Label::Answers(answers)) = &record.label else { return Ok(None) };
    let Some(Answer { text, start }) = answers.first() else { return Ok(None) };
    let context = record.pair.as_deref().unwrap_or_default();
    let first = || context.find(text.as_str()).map(|byte| context[..byte].chars().count());
    let Some(start) = start.or_else(first) else {
        return Err(format!("answers: \"{text}\" is nowhere in the context"));
    };
    let length = context.chars().count();
    let Some(end) = start.checked_add(text.chars().count()).filter(|end| *end <= length) else {
        return Err(format!(
            "answers: expected \"{text}\" at character {start} of the context, which ends at {length}"
        ));
    };
    match characters(context, start, end) {
        there if there == text => Ok(Some(without_white_space(text, start, end))),
        there => Err(format!("answers: expected \"{text}\" at character {start} of the context, found \"{there}\"")),
    }
}

/// The same characters less the white space around them, of which a model says nothing; all of them where it is nothing
/// else.
fn without_white_space(text: &str, start: usize, end: usize) -> (usize, usize) {
    let spaces = |rest: &str| text.chars().count() - rest.chars().count();
    match text.trim() {
        "" => (start, end),
        _ => (start + spaces(text.trim_start()), end - spaces(text.trim_end())),
    }
}

/// The first and last token of the characters `start..end` of a context in one of its windows, where all of them that
/// have a token are in it.
pub fn place(encoding: &Encoding, start: usize, end: usize) -> Option<(usize, usize)> {
    let tokens = encoding.offsets.iter().zip(&encoding.segments).enumerate();
    let context: Vec<(usize, (usize, usize))> = tokens
        .filter(|(_, (_, segment))| **segment == Some(1))
        .filter_map(|(token, (offset, _))| Some((token, (*offset)?)))
        .collect();
    // White space has no token. Before a window's first and behind its last there may be more than that.
    let first = context.iter().position(|(_, (_, to))| *to > start)?;
    let last = context.iter().rposition(|(_, (from, _))| *from < end)?;
    let is_whole = (first > 0 || context[first].1.0 <= start) && (last + 1 < context.len() || context[last].1.1 >= end);
    let (first, last) = (context[first].0, context[last].0);
    (is_whole && first <= last).then_some((first, last))
}
