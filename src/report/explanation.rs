//! What `explain` writes: one record for each input record and target.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::numbers::zero_without_sign;
use super::records::class_kind;
use super::schema::{Kind, columns};
use crate::explain::{Method, Words};
use crate::model::{Problem, Task};

/// A word with its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WordScore {
    /// As the text has it.
    pub text: String,
    /// Its first Unicode character in the segment's text.
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// 0 for the text, 1 for its pair.
    pub segment: u8,
    /// Greater supports the target more, below zero opposes it.
    pub score: f32,
}

impl WordScore {
    /// Words with the scores that [`Words::scores`] gave them.
    pub fn list(words: &Words, scores: &[f32]) -> Vec<Self> {
        let word = |(word, &score): (&crate::explain::Word, &f32)| Self {
            text: word.text.clone(),
            start: word.start,
            end: word.end,
            segment: word.segment,
            score,
        };
        words.list().iter().zip(scores).map(word).collect()
    }
}

/// The part of a text that is explained: an answer, an entity, a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetSpan {
    /// Its first Unicode character in the segment's text.
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// 0 for the text, 1 for its pair.
    pub segment: u8,
}

/// What `explain` says of a record by one method for one target. Lists by token have one entry a token, special tokens
/// included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The record's id.
    pub id: String,
    /// Its 0-based number in the whole input.
    pub index: u64,
    /// The gold label, where there is one; of an entity those that overlap it, of a token its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Value>,
    /// The method's name.
    pub method: String,
    /// The predicted class, classes or values; of an entity those that overlap it, of a token or mask its own.
    pub predicted: Value,
    /// The name of the class (for regression, of the output) that the scores explain.
    pub target: String,
    /// Where it is, where it is a part of the text: an answer, an entity, a token or a mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<TargetSpan>,
    /// The class it is held against, where the scores explain a difference of two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// What is explained, at the record: the target's probability, or its logit, or a difference of logits.
    pub output: f32,
    /// The same at the method's baseline, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_output: Option<f32>,
    /// The target's probability, where `output` is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f32>,
    /// Sum of scores − (output − baseline output), for methods that owe it to be 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub convergence_delta: Option<f64>,
    /// Gradients or outputs of the model that the scores are made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Whether the tolerance asked for was met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub converged: Option<bool>,
    /// Weighted R² of the surrogate model, for methods that fit one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r_squared: Option<f64>,
    /// The tokenizer's own pieces.
    pub tokens: Vec<String>,
    /// Start and end in Unicode characters of the segment's text; `None` for special tokens.
    pub offsets: Vec<Option<(usize, usize)>>,
    /// 0 for the text, 1 for its pair; `None` for special tokens.
    pub segments: Vec<Option<u8>>,
    /// Greater supports the target more, below zero opposes it.
    pub scores: Vec<f32>,
    /// The words in reading order, those of the text before those of its pair.
    pub words: Vec<WordScore>,
    /// Indexes into `words`, most important first.
    pub rationale: Vec<usize>,
}

impl Explanation {
    /// What the method says of its own quality, and whether it is a warning.
    pub(super) fn diagnostics(&self) -> Vec<(String, bool)> {
        let mut said = Vec::new();
        let unit = if self.method == Method::IntegratedGradients.name() { "steps" } else { "runs of the model" };
        said.extend(self.steps.map(|steps| (format!("{steps} {unit}"), false)));
        said.extend(self.convergence_delta.map(|delta| (format!("convergence delta {delta:+.1e}"), false)));
        said.extend(self.converged.map(|met| (if met { "converged" } else { "not converged" }.to_owned(), !met)));
        said.extend(self.r_squared.map(|r| (format!("R² {r:.3}"), false)));
        said.extend((!self.is_signed()).then(|| ("no sign: how much, not for which side".to_owned(), false)));
        said
    }

    /// The target's probability: the output itself, unless another number is said to be it; nothing for regression.
    pub(super) fn target_probability(&self) -> Option<f32> {
        if self.span.is_some_and(|span| span.segment == 1) {
            // An answer's start and end have a probability each, and the output is their sum.
            return None;
        }
        let output = Some(self.output).filter(|p| (0.0..=1.0).contains(p) && !self.predicted.is_number());
        self.probability.or(output)
    }

    /// What `output` is, where another number is said to be the target's probability.
    pub(super) fn unit(&self) -> Option<&'static str> {
        self.probability?;
        Some(if self.against.is_some() { "difference of logits" } else { "logit" })
    }

    /// Whether it is of an entity, a token or a mask, so that what it says is predicted is predicted of that alone.
    pub(super) fn is_of_part(&self) -> bool {
        self.span.is_some_and(|span| span.segment == 0)
    }

    /// Whether a score's sign means anything: some methods only tell how much a word matters, not for which side.
    pub(super) fn is_signed(&self) -> bool {
        !matches!(
            self.method.parse(),
            Ok(Method::Saliency
                | Method::SmoothGrad
                | Method::Attention
                | Method::AttentionRollout
                | Method::AttentionFlow
                | Method::GenericAttention)
        )
    }

    /// A score of this record as text, so that the largest has `digits` digits or more: `+0.12`, or `+1.2e-4` where
    /// that would be long.
    pub(super) fn show(&self, score: f32, digits: usize) -> String {
        let largest = self.largest();
        let zeros = if largest > 0.0 { (-largest.log10()).ceil().max(0.0) as usize } else { 0 };
        zero_without_sign(match zeros {
            0..=1 => format!("{score:+.digits$}"),
            2..=3 => format!("{score:+.*}", digits + zeros - 1),
            _ => format!("{score:+.*e}", digits - 1),
        })
    }

    /// The largest magnitude among the words' scores, or the tokens' where there are no words.
    pub(super) fn largest(&self) -> f32 {
        let words = self.words.iter().map(|word| word.score);
        let tokens = self.scores.iter().copied().filter(|_| self.words.is_empty());
        words.chain(tokens).fold(0.0, |largest, score| score.abs().max(largest))
    }

    /// The Parquet columns.
    pub fn columns(task: Task, problem: Problem, labels: &[String]) -> Vec<(String, Kind)> {
        let class = class_kind(problem, labels.len());
        let many = Kind::list(Kind::Text);
        let (label, predicted) = match task {
            Task::Record => (class.clone(), class),
            Task::Spans => (many, Kind::Text),
            Task::Tags | Task::Masks => (many.clone(), many),
        };
        let word = Kind::fields([
            ("text", Kind::Text),
            ("start", Kind::Integer),
            ("end", Kind::Integer),
            ("segment", Kind::Integer),
            ("score", Kind::Number),
        ]);
        columns([
            ("id", Kind::Text),
            ("index", Kind::Integer),
            ("label", label),
            ("method", Kind::Text),
            ("predicted", predicted),
            ("target", Kind::Text),
            ("span", Kind::fields([("start", Kind::Integer), ("end", Kind::Integer), ("segment", Kind::Integer)])),
            ("against", Kind::Text),
            ("output", Kind::Number),
            ("baseline_output", Kind::Number),
            ("probability", Kind::Number),
            ("convergence_delta", Kind::Number),
            ("steps", Kind::Integer),
            ("converged", Kind::Boolean),
            ("r_squared", Kind::Number),
            ("tokens", Kind::list(Kind::Text)),
            ("offsets", Kind::list(Kind::list(Kind::Integer))),
            ("segments", Kind::list(Kind::Integer)),
            ("scores", Kind::list(Kind::Number)),
            ("words", Kind::list(word)),
            ("rationale", Kind::list(Kind::Integer)),
        ])
    }
}
