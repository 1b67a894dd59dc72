//! Proposals for more training data where there is little: copies of a record with a few words changed, so that its
//! label still holds (Wei & Zou 2019, "EDA", without a thesaurus: a word is replaced by one that the training data have
//! between the same two neighbours).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use crate::explain::Segmentation;
use crate::random::{Purpose, Stream};

/// How a copy differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Not at all.
    Duplicate,
    /// Some words are replaced by others that stand between the same neighbours elsewhere.
    Substitute,
    /// Before some words stand others that stand before them elsewhere.
    Insert,
    /// Some words are gone.
    Delete,
    /// Some neighbouring words have changed places.
    Swap,
}

impl Change {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Duplicate, Self::Substitute, Self::Insert, Self::Delete, Self::Swap];

    /// As `--augment` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Substitute => "substitute",
            Self::Insert => "insert",
            Self::Delete => "delete",
            Self::Swap => "swap",
        }
    }
}

impl FromStr for Change {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|change| change.name() == name);
        found.ok_or_else(|| format!("expected one of {}, found {name:?}", Self::ALL.map(Self::name).join(", ")))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which words stand where in some texts.
#[derive(Debug, Default)]
pub struct Contexts {
    /// Between a word and a word.
    between: HashMap<(String, String), Vec<String>>,
    /// Before a word.
    before: HashMap<String, Vec<String>>,
}

impl Contexts {
    /// Of these texts; words in lower case.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>, words: Segmentation) -> Self {
        let mut contexts = Self::default();
        for text in texts {
            let text = text.to_lowercase();
            let words = words.split(&text);
            for window in words.windows(3).filter(|window| is_word(window[1])) {
                let place = (window[0].to_owned(), window[2].to_owned());
                contexts.between.entry(place).or_default().push(window[1].to_owned());
            }
            for pair in words.windows(2).filter(|pair| is_word(pair[0])) {
                contexts.before.entry(pair[1].to_owned()).or_default().push(pair[0].to_owned());
            }
        }
        contexts
    }
}

fn is_word(word: &str) -> bool {
    word.chars().any(char::is_alphanumeric)
}

/// What a copy is drawn by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Of all draws.
    pub seed: u64,
    /// The record's number.
    pub record: u64,
    /// The copy's, from 0.
    pub copy: u32,
}

/// `text` with a `share` of its words changed, one at least, and one at least left; `None` where the change finds no
/// word to be made at.
pub fn augment(
    text: &str,
    change: Change,
    share: f64,
    contexts: &Contexts,
    segmentation: Segmentation,
    draw: Draw,
) -> Option<String> {
    if change == Change::Duplicate {
        return Some(text.to_owned());
    }
    let words = segmentation.split(text);
    let places = order(words.len(), draw);
    let mut most = ((share * words.len() as f64).round() as usize).clamp(1, words.len().max(1));
    if change == Change::Delete {
        // A text of no words, or of marks alone, says nothing of its label.
        most = most.min(words.iter().filter(|word| is_word(word)).count().saturating_sub(1));
    }
    let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let mut changed: HashMap<usize, Edit> = HashMap::new();
    let mut taken = HashSet::new();
    for place in places {
        if changed.len() == most {
            break;
        }
        if taken.contains(&place) || !is_word(words[place]) {
            continue;
        }
        let Some(edit) = edit(change, &lower, place, contexts, draw) else { continue };
        if matches!(edit, Edit::SwapWithNext) {
            if !is_word(words[place + 1]) || taken.contains(&(place + 1)) {
                continue;
            }
            taken.insert(place + 1);
        }
        taken.insert(place);
        changed.insert(place, edit);
    }
    (!changed.is_empty()).then(|| apply(text, &words, &changed))
}

enum Edit {
    Replace(String),
    Insert(String),
    Delete,
    SwapWithNext,
}

fn edit(change: Change, words: &[String], place: usize, contexts: &Contexts, draw: Draw) -> Option<Edit> {
    let pick = |among: &[String]| -> Option<String> {
        let others: Vec<&String> = among.iter().filter(|word| **word != words[place]).collect();
        let stream = Stream::new(draw.seed, Purpose::Masks);
        let at = stream.below(others.len() as u32, draw.copy + 1, draw.record as u32 ^ ((place as u32) << 16));
        others.get(at as usize).map(|word| (*word).clone())
    };
    match change {
        Change::Substitute => {
            let (left, right) = (words.get(place.checked_sub(1)?)?, words.get(place + 1)?);
            pick(contexts.between.get(&(left.clone(), right.clone()))?).map(Edit::Replace)
        }
        Change::Insert => pick(contexts.before.get(&words[place])?).map(Edit::Insert),
        Change::Delete => Some(Edit::Delete),
        Change::Swap => (place + 1 < words.len()).then_some(Edit::SwapWithNext),
        Change::Duplicate => None,
    }
}

/// All places, in an order drawn.
fn order(count: usize, draw: Draw) -> Vec<usize> {
    let stream = Stream::new(draw.seed ^ draw.record.rotate_left(32), Purpose::Masks);
    let mut places: Vec<usize> = (0..count).collect();
    stream.shuffle(&mut places, |last| (draw.copy, last as u32));
    places
}

/// The text anew, with the white space between its words as it was.
fn apply(text: &str, words: &[&str], changed: &HashMap<usize, Edit>) -> String {
    let at = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    let mut out = String::with_capacity(text.len() + 16);
    let (mut end, mut held) = (0, None);
    for (place, word) in words.iter().enumerate() {
        let gap = &text[end..at(word)];
        end = at(word) + word.len();
        // Scripts that put no spaces between words get none here.
        let space = if gap.is_empty() && !word.is_ascii() { "" } else { " " };
        match changed.get(&place) {
            Some(Edit::Delete) => {}
            Some(Edit::Replace(other)) => out.extend([gap, other]),
            Some(Edit::Insert(other)) => out.extend([gap, other, space, word]),
            Some(Edit::SwapWithNext) => {
                out.extend([gap, words[place + 1]]);
                held = Some(word);
            }
            None => out.extend([gap, held.take().unwrap_or(word)]),
        }
    }
    out.push_str(&text[end..]);
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: Segmentation = Segmentation::Segmenter;

    fn draw(copy: u32) -> Draw {
        Draw { seed: 3, record: 7, copy }
    }

    #[test]
    fn a_copy_keeps_a_word() {
        let copy = |text, share| augment(text, Change::Delete, share, &Contexts::default(), WORDS, draw(0));
        for share in [0.5, 1.0] {
            let kept = copy("bad, bad food here.", share).unwrap();
            assert!(WORDS.split(&kept).into_iter().any(is_word), "{kept}");
            assert_eq!(copy("Bad!", share), None);
        }
        assert_eq!(WORDS.split(&copy("bad bad food here", 1.0).unwrap()).len(), 1);
    }

    #[test]
    fn a_word_is_replaced_by_one_seen_in_its_place() {
        let contexts = Contexts::of(["The room was clean.", "the food was fine", "a clean room"], WORDS);
        let found = augment("The food was clean.", Change::Substitute, 0.1, &contexts, WORDS, draw(0)).unwrap();
        assert_eq!(found, "The room was clean.");
        assert_eq!(augment("Nothing of it", Change::Substitute, 0.5, &contexts, WORDS, draw(0)), None);
    }

    #[test]
    fn what_is_not_changed_stays_as_it_was() {
        let contexts = Contexts::of(["一个很好的酒店", "这个酒店不错"], WORDS);
        let text = "One  two, three\tfour five six";
        let words = |text: &str| text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).count();
        assert_eq!(words(&augment(text, Change::Delete, 0.3, &contexts, WORDS, draw(1)).unwrap()), 4);
        let swapped = augment(text, Change::Swap, 0.1, &contexts, WORDS, draw(2)).unwrap();
        assert!(swapped != text && swapped.len() == text.len() && words(&swapped) == 6, "{swapped}");
        assert_eq!(augment(text, Change::Duplicate, 0.3, &contexts, WORDS, draw(0)).unwrap(), text);
        let inserted = augment("酒店", Change::Insert, 0.5, &contexts, WORDS, draw(0)).unwrap();
        assert!(inserted.ends_with("酒店") && inserted.chars().count() > 2 && !inserted.contains(' '), "{inserted}");
    }

    #[test]
    fn copies_differ_and_come_again() {
        let contexts = Contexts::default();
        let text = "a b c d e f g h i j k l m n o p";
        let copy = |copy| augment(text, Change::Delete, 0.1, &contexts, WORDS, draw(copy)).unwrap();
        assert_eq!(copy(0), copy(0));
        assert_ne!(copy(0), copy(1));
    }
}
