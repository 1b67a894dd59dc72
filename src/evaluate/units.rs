//! What is left out as one when an attribution is put to the test: a text's words, or its tokens.

use crate::explain::{Scores, Segmentation, Words};
use crate::tokens::Encoding;

/// The parts of one text, in reading order, and the tokens each is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Units {
    /// Ascending.
    tokens: Vec<Vec<usize>>,
}

impl Units {
    /// The words where there are to be words, else every token that is not special.
    pub(super) fn new(encoding: &Encoding, words: &Words, segmentation: Segmentation) -> Self {
        let tokens = if segmentation == Segmentation::None {
            let own = encoding.segments.iter().enumerate().filter(|(_, segment)| segment.is_some());
            own.map(|(token, _)| vec![token]).collect()
        } else {
            (0..words.len()).map(|word| words.tokens_of(word).iter().map(|(token, _)| *token).collect()).collect()
        };
        Self { tokens }
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Each unit's score: a word's share of its tokens', or a token's own.
    pub(super) fn scores(&self, words: &Words, segmentation: Segmentation, scores: &Scores) -> Vec<f64> {
        if segmentation == Segmentation::None {
            return self.tokens.iter().map(|tokens| f64::from(scores.tokens[tokens[0]])).collect();
        }
        words.scores(&scores.tokens).into_iter().map(f64::from).collect()
    }

    /// The tokens that go when the units of `gone` do, ascending: a token of several words goes with any of them.
    pub(super) fn tokens_of(&self, gone: &[bool]) -> Vec<usize> {
        let units = self.tokens.iter().zip(gone).filter(|(_, gone)| **gone);
        let mut tokens: Vec<usize> = units.flat_map(|(tokens, _)| tokens.iter().copied()).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// The tokens that go when only the units of `kept` stay, ascending: a token of several words stays with any of
    /// them.
    pub(super) fn tokens_but(&self, kept: &[bool]) -> Vec<usize> {
        let staying = self.tokens_of(kept);
        let mut tokens = self.tokens_of(&vec![true; self.len()]);
        tokens.retain(|token| staying.binary_search(token).is_err());
        tokens
    }
}

/// Units by falling score, ties by position.
pub(super) fn order(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // Adding zero makes minus zero plus zero, so that they tie.
    order.sort_by(|&a, &b| (scores[b] + 0.0).total_cmp(&(scores[a] + 0.0)));
    order
}

/// The first `count` of an order, as a mark for each unit.
pub(super) fn first(order: &[usize], count: usize) -> Vec<bool> {
    let mut marks = vec![false; order.len()];
    order[..count.min(order.len())].iter().for_each(|&unit| marks[unit] = true);
    marks
}

/// So many of `n` as a share says: rounded up, but for a hair of rounding.
pub(super) fn count(share: f64, n: usize) -> usize {
    ((share * n as f64 - 1e-9).ceil().max(0.0) as usize).min(n)
}

/// The rows of the `count` greatest scores, from the greatest on, ties by position.
pub(super) fn top(scores: &[f32], count: usize) -> Vec<usize> {
    let order = |a: &usize, b: &usize| (scores[*b] + 0.0).total_cmp(&(scores[*a] + 0.0)).then(a.cmp(b));
    let mut rows: Vec<usize> = (0..scores.len()).collect();
    if count < rows.len() {
        rows.select_nth_unstable_by(count, order);
        rows.truncate(count);
    }
    rows.sort_unstable_by(order);
    rows
}
