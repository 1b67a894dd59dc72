//! What a batch is to teach: a label for each record, or cross-entropies over logits of its tokens.

use super::net::Sizes;
use crate::backend::training::{CrossEntropy, Loss};
use crate::error::{Error, Result};
use crate::factors::Target;
use crate::model::{Problem, Task};
use crate::numeric::argmax;
use crate::tokens::PackedBatch;

/// What a record is to teach.
#[derive(Clone, Copy, Debug)]
pub struct Lesson<'a> {
    /// What its logits should have said.
    pub target: &'a Target,
    /// What its loss counts in the step's: its weight over the sum of the step's weights.
    pub share: f64,
    /// Its number, for what is dropped of it.
    pub record: u32,
}

/// What a record's tokens are to teach, where a model says something of tokens.
#[derive(Clone, Copy, Debug)]
pub struct TokenLesson<'a> {
    /// Cross-entropies; the record's loss is their mean, and nothing where there are none.
    pub terms: &'a [Term],
    /// What each of them counts in the step's loss.
    pub share: f64,
    /// The record's number, for what is dropped of it.
    pub record: u32,
}

/// One cross-entropy that tokens teach. Tokens are counted from their sequence's first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Term {
    /// Which class the logits of a token, or the mean of several tokens' logits, should be largest for: tags, masked
    /// pieces, sentences between their markers.
    Class {
        /// The tokens, ascending.
        tokens: Vec<u32>,
        /// The class.
        class: u32,
    },
    /// At which token of its sequence a column of the logits should be largest: where an answer starts, and where it
    /// ends.
    Token {
        /// Which of the logits.
        column: u32,
        /// The token.
        token: u32,
    },
}

/// Each record's loss and share; refuses targets of another problem.
pub(super) fn losses<'a>(problem: Problem, classes: usize, lessons: &[Lesson<'a>]) -> Result<Vec<(Loss<'a>, f64)>> {
    let loss = |lesson: &Lesson<'a>| match (problem, lesson.target) {
        (Problem::SingleLabel, Target::Class(class)) if *class < classes => Ok(Loss::CrossEntropy(*class)),
        (Problem::MultiLabel, Target::Classes(targets)) if targets.len() == classes => Ok(Loss::Sigmoid(targets)),
        (Problem::Regression, Target::Values(values)) if values.len() == classes => Ok(Loss::Squared(values)),
        (problem, target) => {
            Err(Error::usage(format!("a {problem:?} head of {classes} outputs cannot learn {target:?}")))
        }
    };
    lessons.iter().map(|lesson| Ok((loss(lesson)?, lesson.share))).collect()
}

/// Which tokens of a batch a head reads: all of them, or the first of each sequence of the batch cut anew, so that what
/// is read of a few tokens is computed for those alone.
pub(super) enum Reading {
    /// Every token.
    All,
    /// Those of [`Task::Masks`]: the batch cut at the tokens read. Its first token is always read.
    Chosen(PackedBatch),
}

impl Reading {
    /// What `terms` read of the sequences of `batch`.
    pub(super) fn of_lessons(task: Task, batch: &PackedBatch, lessons: &[TokenLesson<'_>]) -> Self {
        let tokens =
            |lesson: &TokenLesson<'_>| -> Vec<u32> { lesson.terms.iter().flat_map(Term::tokens).copied().collect() };
        Self::new(task, batch, lessons.iter().map(tokens))
    }

    /// Of tokens of each sequence, in any order.
    pub(super) fn new(task: Task, batch: &PackedBatch, tokens: impl Iterator<Item = Vec<u32>>) -> Self {
        if task != Task::Masks {
            return Self::All;
        }
        let places = batch
            .cu_seqlens
            .iter()
            .zip(tokens)
            .flat_map(|(start, tokens)| tokens.into_iter().map(move |token| start + token).collect::<Vec<_>>());
        let mut cuts: Vec<u32> = std::iter::once(0).chain(places).collect();
        cuts.sort_unstable();
        cuts.dedup();
        cuts.push(batch.tokens() as u32);
        Self::Chosen(PackedBatch { cu_seqlens: cuts, ..batch.clone() })
    }

    /// Which row of the logits a token of the batch has.
    pub(super) fn row(&self, token: usize) -> usize {
        match self {
            Self::All => token,
            Self::Chosen(batch) => batch.cu_seqlens.partition_point(|start| (*start as usize) < token),
        }
    }
}

impl Term {
    /// Its loss for a sequence's `logits [rows, classes]`, a row for each token that is read, and whether what it asks
    /// for is the largest (the first of several that are equal). `row` gives a token's row; a [`Term::Token`] has one
    /// for every token.
    pub fn judge(&self, logits: &[f32], rows: usize, classes: usize, row: impl Fn(u32) -> usize) -> (f64, bool) {
        let entropy = match self {
            Self::Class { tokens, class } => CrossEntropy {
                starts: tokens.iter().map(|token| row(*token) * classes).collect(),
                stride: 1,
                count: classes,
                gold: *class as usize,
                share: 1.0,
            },
            Self::Token { column, token } => CrossEntropy {
                starts: vec![*column as usize],
                stride: classes,
                count: rows,
                gold: *token as usize,
                share: 1.0,
            },
        };
        let at = |place: usize| f64::from(logits[place]);
        let z = entropy.logits(at);
        (entropy.to_gradient(at).0, argmax(&z) == entropy.gold)
    }

    /// The tokens it is of.
    pub fn tokens(&self) -> &[u32] {
        match self {
            Self::Class { tokens, .. } => tokens,
            Self::Token { token, .. } => std::slice::from_ref(token),
        }
    }

    /// The same over the logits of a batch, `[rows, classes]`; `tokens` are its sequence's.
    pub(super) fn over(
        &self,
        tokens: std::ops::Range<usize>,
        reading: &Reading,
        sizes: &Sizes,
        share: f64,
    ) -> Result<CrossEntropy> {
        let classes = sizes.classes;
        let start = |token: &u32| reading.row(tokens.start + *token as usize) * classes;
        let inside = !self.tokens().is_empty() && self.tokens().iter().all(|token| (*token as usize) < tokens.len());
        match *self {
            Self::Class { tokens: ref of, class } if inside && (class as usize) < classes => Ok(CrossEntropy {
                starts: of.iter().map(start).collect(),
                stride: 1,
                count: classes,
                gold: class as usize,
                share,
            }),
            Self::Token { column, token } if inside && (column as usize) < classes => Ok(CrossEntropy {
                starts: vec![tokens.start * classes + column as usize],
                stride: classes,
                count: tokens.len(),
                gold: token as usize,
                share,
            }),
            _ => Err(Error::usage(format!(
                "a sequence of {} tokens with {classes} logits each cannot learn {self:?}",
                tokens.len()
            ))),
        }
    }
}
