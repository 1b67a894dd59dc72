//! How right an answer is: exact match and F1, as the data sets' own scripts count them.
//!
//! English (SQuAD's `evaluate-v1.1.py`): lower case, no punctuation, no articles, white space levelled; F1 over the bag
//! of words. Chinese (CMRC's and DuReader-robust's): lower case, no punctuation; F1 over the longest common run of
//! characters, words of other scripts whole.

use std::collections::HashMap;

/// Whose way of counting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scoring {
    /// Chinese where any right answer has an ideograph, else English.
    #[default]
    Auto,
    /// SQuAD's.
    English,
    /// CMRC's and DuReader-robust's.
    Chinese,
}

impl std::str::FromStr for Scoring {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "english" => Ok(Self::English),
            "chinese" => Ok(Self::Chinese),
            _ => Err(format!("expected auto, english or chinese, found {text:?}")),
        }
    }
}

/// How right.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Judged {
    /// Whether it is one of the right answers.
    pub exact_match: bool,
    /// Against the right answer it is nearest to, from 0 to 1.
    pub f1: f64,
}

/// Judges `answer` (empty where none was given) by the right ones; where there are none, none is right.
pub fn judge<S: AsRef<str>>(answer: &str, right: &[S], scoring: Scoring) -> Judged {
    let none = right.iter().all(|right| right.as_ref().trim().is_empty());
    if none || answer.trim().is_empty() {
        let both = none && answer.trim().is_empty();
        return Judged { exact_match: both, f1: if both { 1.0 } else { 0.0 } };
    }
    let chinese = match scoring {
        Scoring::Auto => right.iter().any(|right| right.as_ref().contains(is_unified_ideograph)),
        Scoring::English => false,
        Scoring::Chinese => true,
    };
    let mut best = Judged::default();
    for right in right {
        let judged = if chinese { by_characters(answer, right.as_ref()) } else { by_words(answer, right.as_ref()) };
        best.exact_match |= judged.exact_match;
        best.f1 = best.f1.max(judged.f1);
    }
    best
}

fn f1(common: usize, answer: usize, right: usize) -> f64 {
    if common == 0 {
        return 0.0;
    }
    let (precision, recall) = (common as f64 / answer as f64, common as f64 / right as f64);
    2.0 * precision * recall / (precision + recall)
}

fn by_words(answer: &str, right: &str) -> Judged {
    let (answer, right) = (english(answer), english(right));
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &right {
        *left.entry(word).or_default() += 1;
    }
    let taken =
        |word: &&String| left.get_mut(word.as_str()).filter(|count| **count > 0).map(|count| *count -= 1).is_some();
    let common = answer.iter().filter(taken).count();
    // Nothing but articles and punctuation on both sides is a match that SQuAD counts as one.
    let empty = answer.is_empty() && right.is_empty();
    Judged { exact_match: answer == right, f1: if empty { 1.0 } else { f1(common, answer.len(), right.len()) } }
}

/// Python's `string.punctuation` is ASCII's.
fn english(text: &str) -> Vec<String> {
    let plain: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    plain.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the")).map(str::to_owned).collect()
}

fn by_characters(answer: &str, right: &str) -> Judged {
    let exact_match = without_marks(answer) == without_marks(right);
    let (answer, right) = (segments(answer), segments(right));
    Judged { exact_match, f1: f1(longest_common_run(&answer, &right), answer.len(), right.len()) }
}

/// What CMRC's script leaves out.
const MARKS: &str = "-:_*^/\\~`+=，。：？！“”；’《》…·、「」（）－～『』";

fn without_marks(text: &str) -> String {
    text.to_lowercase().trim().chars().filter(|c| !MARKS.contains(*c)).collect()
}

/// Each ideograph by itself, and what stands between them by white space, punctuation apart.
fn segments(text: &str) -> Vec<String> {
    let mut segments: Vec<String> = Vec::new();
    let mut word = String::new();
    for c in without_marks(text).chars() {
        if c.is_alphanumeric() && !is_unified_ideograph(c) {
            word.push(c);
            continue;
        }
        segments.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
        segments.extend((!c.is_whitespace()).then(|| c.to_string()));
    }
    segments.extend((!word.is_empty()).then_some(word));
    segments
}

fn longest_common_run(a: &[String], b: &[String]) -> usize {
    let (mut longest, mut above) = (0, vec![0; b.len() + 1]);
    for x in a {
        let mut row = vec![0; b.len() + 1];
        for (j, y) in b.iter().enumerate() {
            if x == y {
                row[j + 1] = above[j] + 1;
                longest = longest.max(row[j + 1]);
            }
        }
        above = row;
    }
    longest
}

/// As CMRC's script has it: the unified ideographs of Unicode 1.1.
fn is_unified_ideograph(c: char) -> bool {
    ('\u{4E00}'..='\u{9FA5}').contains(&c)
}
