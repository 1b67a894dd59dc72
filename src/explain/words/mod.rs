//! Words: what a person reads, made of what the model reads.
//!
//! A word's score is the sum of its tokens' scores; a token that overlaps m words gives 1/m of its score to each, so
//! that nothing is counted twice (the rule of `TrustAI`'s alignment). A token that overlaps no word (a special token, a
//! piece of white space) gives nothing. A word with no token at all (cut off by the maximum length, or dropped by the
//! tokenizer) is left out, for nothing is known of it; a word cut in the middle keeps the tokens it has. What a word
//! is, [`Segmentation`] says. Overlap is by the characters that the tokenizer says its pieces came from, never by
//! matching strings.

mod rationale;
mod segmentation;

use std::ops::Range;

use crate::dataset::Record;
use crate::tokens::Encoding;

pub use rationale::Rationale;
pub use segmentation::Segmentation;
use segmentation::Span;

/// One word of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// As the text has it.
    pub text: String,
    /// Its first Unicode character in the segment's text.
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// 0 for the text, 1 for its pair.
    pub segment: u8,
}

/// The words of one record in reading order, and the tokens each is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Words {
    list: Vec<Word>,
    /// Tokens with their shares, a word's after another's.
    tokens: Vec<(usize, f32)>,
    /// Where each word's tokens start, and their number at the end: one more entry than there are words.
    starts: Vec<usize>,
}

/// A possible word, before it is known whether it has tokens.
struct Candidate {
    span: Span,
    segment: u8,
    tokens: Vec<(usize, f32)>,
}

impl Words {
    /// The words of `record` that have tokens in its `encoding`.
    pub fn new(record: &Record, encoding: &Encoding, segmentation: Segmentation) -> Self {
        let texts = [record.text.as_str(), record.pair.as_deref().unwrap_or_default()];
        let mut candidates = Vec::new();
        let mut segments = [0..0, 0..0];
        for (segment, text) in texts.into_iter().enumerate() {
            let first = candidates.len();
            let end = last_covered(encoding, segment as u8);
            candidates.extend(segmentation.words(text, end).into_iter().map(|span| Candidate {
                span,
                segment: segment as u8,
                tokens: Vec::new(),
            }));
            segments[segment] = first..candidates.len();
        }
        share_tokens(&mut candidates, &segments, encoding);
        Self::collect(candidates, texts)
    }

    /// Keeps the candidates that have tokens.
    fn collect(candidates: Vec<Candidate>, texts: [&str; 2]) -> Self {
        let mut words = Self { starts: vec![0], ..Self::default() };
        for Candidate { span, segment, tokens } in candidates.into_iter().filter(|c| !c.tokens.is_empty()) {
            let text = texts[usize::from(segment)][span.bytes].to_owned();
            words.list.push(Word { text, start: span.start, end: span.end, segment });
            words.tokens.extend(tokens);
            words.starts.push(words.tokens.len());
        }
        words
    }

    /// The words, in reading order.
    pub fn list(&self) -> &[Word] {
        &self.list
    }

    /// How many words there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The tokens that `word` overlaps, ascending, each with the share of it that is this word's: 1/m for a token of m
    /// words.
    ///
    /// # Panics
    /// Where there is no such word.
    pub fn tokens_of(&self, word: usize) -> &[(usize, f32)] {
        &self.tokens[self.starts[word]..self.starts[word + 1]]
    }

    /// Each word's score: the sum of its shares of `token_scores` (one a token of the encoding), added in token order
    /// in f64.
    ///
    /// # Panics
    /// Where there are fewer scores than tokens.
    pub fn scores<S: Copy + Into<f64>>(&self, token_scores: &[S]) -> Vec<f32> {
        let share = |&(token, share): &(usize, f32)| f64::from(share) * token_scores[token].into();
        (0..self.len()).map(|word| self.tokens_of(word).iter().map(share).sum::<f64>() as f32).collect()
    }
}

/// One past the last character of `segment` that any token came from.
fn last_covered(encoding: &Encoding, segment: u8) -> usize {
    let own = encoding.segments.iter().zip(&encoding.offsets).filter(|(s, _)| **s == Some(segment));
    own.filter_map(|(_, offset)| offset.map(|(_, end)| end)).max().unwrap_or(0)
}

/// Gives each token to the words that it overlaps, in equal shares.
fn share_tokens(candidates: &mut [Candidate], segments: &[Range<usize>; 2], encoding: &Encoding) {
    for (token, (segment, offset)) in encoding.segments.iter().zip(&encoding.offsets).enumerate() {
        let (Some(segment), Some(offset)) = (segment, offset) else { continue };
        let Some(own) = segments.get(usize::from(*segment)) else { continue };
        let overlapped = overlapping(&mut candidates[own.clone()], *offset);
        let share = 1.0 / overlapped.len() as f32;
        for word in overlapped {
            word.tokens.push((token, share));
        }
    }
}

/// The words of one segment that share a character with `start..end`.
fn overlapping(words: &mut [Candidate], (start, end): (usize, usize)) -> &mut [Candidate] {
    if start >= end {
        return &mut [];
    }
    let first = words.partition_point(|word| word.span.end <= start);
    let after = words.partition_point(|word| word.span.start < end);
    &mut words[first..after.max(first)]
}
