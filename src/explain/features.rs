//! What a perturbation leaves out: tokens, or whole words.

use std::fmt;
use std::str::FromStr;

use super::{Subject, Words};

/// What perturbation methods leave out as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Features {
    /// Each token that is not special.
    #[default]
    Tokens,
    /// Each word. Words that share a token are one feature, for the model cannot have one of them without the other;
    /// tokens of no word are never left out.
    Words,
}

impl Features {
    /// The tokens of each feature, ascending; no token is in two.
    pub(super) fn of(self, subject: &Subject<'_>) -> Vec<Vec<usize>> {
        match self {
            Self::Tokens => subject.own_tokens().map(|token| vec![token]).collect(),
            Self::Words => of_words(subject.words),
        }
    }
}

/// A token that two words share is shared by all words between them, so that a word that belongs to a feature belongs
/// to the last.
fn of_words(words: &Words) -> Vec<Vec<usize>> {
    let mut features: Vec<Vec<usize>> = Vec::new();
    for word in 0..words.len() {
        let tokens = words.tokens_of(word).iter().map(|&(token, _)| token);
        match features.last_mut() {
            Some(last) if tokens.clone().any(|token| last.contains(&token)) => {
                let new: Vec<usize> = tokens.filter(|token| !last.contains(token)).collect();
                last.extend(new);
            }
            _ => features.push(tokens.collect()),
        }
    }
    features
}

impl FromStr for Features {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tokens" => Ok(Self::Tokens),
            "words" => Ok(Self::Words),
            _ => Err(format!("expected tokens or words, found {text:?}")),
        }
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tokens => "tokens",
            Self::Words => "words",
        })
    }
}
