//! What the logits of heads over tokens say: answers in a context, entities among tagged words, pieces behind masks;
//! and how right that is.
//!
//! Functions of logits and offsets alone: no model, no file.

mod answer;
mod entity;
mod fill;
mod judge;
mod selection;
mod sentence;

pub use answer::{AnswerOptions, Candidate, Found, answers, answers_between, gold_span, place};
pub use entity::{Counts, Entity, EntityCounts, TaggedWord, entities, first_tokens, words};
pub use fill::{Fill, fills};
pub use judge::{Judged, Scoring, judge};
pub use selection::{SelectionCounts, SelectorSettings, kept};
pub use sentence::sentences;

/// `softmax(z)`, in f64.
fn softmax(z: &[f32]) -> Vec<f64> {
    let largest = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = z.iter().map(|&z| f64::from(z - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|e| e / sum).collect()
}

/// A text of which many parts are taken by their characters: those of [`characters`], without counting from its start
/// each time.
pub struct Parts<'a> {
    text: &'a str,
    /// Where each character begins, and where the last ends.
    bytes: Vec<usize>,
}

impl<'a> Parts<'a> {
    /// Counts once.
    pub fn of(text: &'a str) -> Self {
        Self { text, bytes: text.char_indices().map(|(byte, _)| byte).chain([text.len()]).collect() }
    }

    /// The characters `start..end`, as far as the text goes; none where the end is before the start.
    pub fn get(&self, start: usize, end: usize) -> &'a str {
        let byte = |character: usize| self.bytes.get(character).copied().unwrap_or(self.text.len());
        self.text.get(byte(start)..byte(end)).unwrap_or_default()
    }
}

/// The characters `start..end` of a text, as far as it goes; none where the end is before the start.
pub fn characters(text: &str, start: usize, end: usize) -> &str {
    let byte = |character: usize| text.char_indices().nth(character).map_or(text.len(), |(byte, _)| byte);
    text.get(byte(start)..byte(end)).unwrap_or_default()
}
