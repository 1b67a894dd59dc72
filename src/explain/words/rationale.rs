//! The rationale: the words that matter most.

use std::fmt;
use std::str::FromStr;

/// How many words make a record's rationale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rationale {
    /// So many, or all where there are fewer.
    Count(usize),
    /// This share of the record's words, rounded up, one at least.
    Share(f64),
}

impl Default for Rationale {
    /// Five words.
    fn default() -> Self {
        Self::Count(5)
    }
}

impl Rationale {
    /// The indexes of the words with the highest scores, the highest first; ties by position. Scores are signed: a word
    /// that speaks against the target is in the rationale only where there are not enough others.
    pub fn choose(self, scores: &[f32]) -> Vec<usize> {
        // Adding zero makes minus zero plus zero, so that they tie.
        let score = |word: usize| scores[word] + 0.0;
        let mut words: Vec<usize> = (0..scores.len()).collect();
        words.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
        words.truncate(self.count(scores.len()));
        words
    }

    fn count(self, words: usize) -> usize {
        match self {
            Self::Count(count) => count.min(words),
            // A hair less before rounding up: 0.07 of 100 words are 7, though the product is 7.000000000000001.
            Self::Share(share) => ((share * words as f64 - 1e-9).ceil() as usize).max(1).min(words),
        }
    }
}

impl FromStr for Rationale {
    type Err = String;

    /// A whole number from 1 on is a count; a number with a point, between 0 and 1, is a share.
    fn from_str(text: &str) -> Result<Self, String> {
        let count = text.parse().ok().filter(|&count| count > 0).map(Self::Count);
        let share = || text.parse().ok().filter(|&share| share > 0.0 && share < 1.0).map(Self::Share);
        count.or_else(share).ok_or_else(|| {
            format!("expected a number of words such as 5, or a share of them such as 0.2, found {text:?}")
        })
    }
}

impl fmt::Display for Rationale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}
