//! What a word is: Unicode's default word boundaries (UAX #29), and Chinese words by a dictionary and a hidden Markov
//! model (jieba).
//!
//! UAX #29 keeps runs of letters and digits together (`can't`, `3.14`, an emoji with its modifiers) and holds
//! punctuation marks, ideographs and hiragana apart, one by one. The Chinese segmenter then decides about each border
//! beside an ideograph, and about no other: 电|影 becomes one word, as does T|恤, while the English words of a Chinese
//! text stay what they are anywhere else.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::LazyLock;

use jieba_rs::Jieba;
use unicode_segmentation::UnicodeSegmentation;

/// How texts are cut into words. White space is never a word, each punctuation mark is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Segmentation {
    /// Unicode words, ideographs joined to Chinese words by a segmenter.
    #[default]
    Segmenter,
    /// Unicode words, each ideograph a word of its own.
    Characters,
    /// No words at all.
    None,
}

/// A word's place in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// First Unicode character.
    pub(super) start: usize,
    /// One past the last.
    pub(super) end: usize,
    /// The same place in bytes.
    pub(super) bytes: Range<usize>,
}

/// The dictionary takes a moment to load: only texts with ideographs wait for it, once.
static CHINESE: LazyLock<Jieba> = LazyLock::new(Jieba::new);

impl Segmentation {
    /// The words of `text`, in order.
    pub fn split(self, text: &str) -> Vec<&str> {
        if text.is_ascii() && self != Self::None {
            return AsciiWords::of(text).map(|word| &text[word]).collect();
        }
        self.words(text, usize::MAX).into_iter().map(|word| &text[word.bytes]).collect()
    }

    /// The words of `text`, up to its `end`th character at least; what lies beyond the white space that follows need
    /// not be looked at.
    pub(super) fn words(self, text: &str, end: usize) -> Vec<Span> {
        let text = up_to_space(text, end);
        let pieces = text.split_word_bound_indices();
        match self {
            Self::None => Vec::new(),
            _ if text.is_ascii() => {
                AsciiWords::of(text).map(|bytes| Span { start: bytes.start, end: bytes.end, bytes }).collect()
            }
            Self::Segmenter if text.contains(is_han) => spans(join_chinese(text, pieces)),
            Self::Segmenter | Self::Characters => spans(pieces),
        }
    }
}

/// `text` to the first space or line end at or after its `end`th character: no word goes on past one.
fn up_to_space(text: &str, end: usize) -> &str {
    if end >= text.len() {
        return text;
    }
    let cut = text.char_indices().skip(end).find(|(_, c)| c.is_ascii_whitespace());
    cut.map_or(text, |(at, _)| &text[..at])
}

/// The words of a text of ASCII alone: the same that Unicode's tables give, without looking up every character there.
struct AsciiWords<'a> {
    text: &'a [u8],
    /// Where the last word ended.
    end: usize,
}

impl<'a> AsciiWords<'a> {
    fn of(text: &'a str) -> Self {
        Self { text: text.as_bytes(), end: 0 }
    }

    /// Where the run of letters, digits and underscores that goes on at `at` ends. A mark between two letters, or two
    /// digits, is part of it, where it is one of those that stand there (rules WB6, WB7, WB11 and WB12).
    fn run(&self, mut at: usize) -> usize {
        loop {
            match self.text[at..] {
                [c, ..] if in_run(c) => at += 1,
                [b'\'' | b'.' | b':', c, ..] if c.is_ascii_alphabetic() && self.text[at - 1].is_ascii_alphabetic() => {
                    at += 2;
                }
                [b'\'' | b'.' | b',' | b';', c, ..] if c.is_ascii_digit() && self.text[at - 1].is_ascii_digit() => {
                    at += 2;
                }
                _ => return at,
            }
        }
    }
}

impl Iterator for AsciiWords<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.end + self.text[self.end..].iter().position(|&c| !char::from(c).is_whitespace())?;
        self.end = if in_run(self.text[start]) { self.run(start + 1) } else { start + 1 };
        Some(start..self.end)
    }
}

/// What keeps together.
fn in_run(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_'
}

/// The pieces with a word in them, and where they are.
fn spans<'a>(pieces: impl IntoIterator<Item = (usize, &'a str)>) -> Vec<Span> {
    let mut end = 0;
    let span = |(at, piece): (usize, &str)| {
        let start = end;
        end += piece.chars().count();
        let word = !piece.chars().all(char::is_whitespace);
        word.then_some(Span { start, end, bytes: at..at + piece.len() })
    };
    pieces.into_iter().filter_map(span).collect()
}

/// Joins neighbouring pieces where an ideograph stands at their border and the segmenter does not cut there.
fn join_chinese<'a>(text: &'a str, pieces: impl Iterator<Item = (usize, &'a str)>) -> Vec<(usize, &'a str)> {
    let cuts: Vec<usize> = CHINESE.cut(text, true).iter().map(|word| word.byte_end).collect();
    let mut joined: Vec<(usize, &str)> = Vec::new();
    for (at, piece) in pieces {
        let before = text[..at].chars().next_back();
        let border = before.is_some_and(is_han) || piece.starts_with(is_han);
        match joined.last_mut() {
            Some((start, last)) if border && cuts.binary_search(&at).is_err() => {
                *last = &text[*start..at + piece.len()];
            }
            _ => joined.push((at, piece)),
        }
    }
    joined
}

/// Han ideographs: the unified blocks with their extensions, the compatibility ideographs, and 々 and 〇.
fn is_han(c: char) -> bool {
    matches!(c, '\u{3005}' | '\u{3007}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{3FFFD}')
}

impl FromStr for Segmentation {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "segmenter" => Ok(Self::Segmenter),
            "characters" => Ok(Self::Characters),
            "none" => Ok(Self::None),
            _ => Err(format!("expected segmenter, characters or none, found {name:?}")),
        }
    }
}

impl fmt::Display for Segmentation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Segmenter => "segmenter",
            Self::Characters => "characters",
            Self::None => "none",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By the tables.
    fn by_tables(text: &str) -> Vec<Span> {
        spans(text.split_word_bound_indices())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn texts_of_ascii_are_cut_as_the_tables_cut_them(
            // All of ASCII, and what the rules are about, more often.
            text in prop_oneof!["[\\x00-\\x7f]{0,40}", "[a-cXY0-2_'.:;,\" \r\n\t-]{0,40}", "[a1_'.:;, ]{0,12}"],
            end in 0..50_usize,
        ) {
            let whole = by_tables(&text);
            let pieces: Vec<&str> = whole.iter().map(|word| &text[word.bytes.clone()]).collect();
            prop_assert_eq!(Segmentation::Segmenter.split(&text), pieces);
            for words in [Segmentation::Segmenter, Segmentation::Characters] {
                prop_assert_eq!(words.words(&text, usize::MAX), whole.clone());
                prop_assert_eq!(words.words(&text, end), by_tables(up_to_space(&text, end)));
            }
        }
    }
}
