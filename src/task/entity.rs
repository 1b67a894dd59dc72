//! From tags to entities: IOB2, BIOES and their kin, read as `seqeval` reads them by default.

use std::collections::BTreeMap;

use super::softmax;
use crate::numeric::argmax;
use crate::tokens::Encoding;

/// A word and the tag it was given. Only its first token's logits count: those of the pieces that go on were not
/// trained.
#[derive(Clone, Debug, PartialEq)]
pub struct TaggedWord {
    /// Its first token.
    pub token: usize,
    /// Its first Unicode character.
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// The class of the highest logit.
    pub class: usize,
    /// That class's probability.
    pub probability: f64,
}

/// Consecutive words of one thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    /// What its tags have after their first letter.
    pub kind: String,
    /// Its first Unicode character.
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// Its words, as places in the list it was made from.
    pub words: std::ops::Range<usize>,
    /// The mean probability of its words' tags.
    pub score: f64,
}

/// The words of `encoding` with the tags that `logits [L, classes]` give them: `given` ones by their characters, else
/// as the tokenizer cut them.
pub fn words(
    encoding: &Encoding,
    given: Option<&[(usize, usize)]>,
    logits: &[f32],
    classes: usize,
) -> Vec<Option<TaggedWord>> {
    let tagged = |token: usize, start, end| {
        let p = softmax(&logits[token * classes..(token + 1) * classes]);
        let class = argmax(&p);
        TaggedWord { token, start, end, class, probability: p[class] }
    };
    let Some(given) = given else {
        let own: Vec<(usize, (usize, usize))> = placed_tokens(encoding).collect();
        let words =
            own.chunk_by(|(a, _), (b, _)| encoding.words[*a].is_some() && encoding.words[*a] == encoding.words[*b]);
        let ends = words.map(|word| (word[0].0, word[0].1.0, word[word.len() - 1].1.1));
        return ends.map(|(token, start, end)| Some(tagged(token, start, end))).collect();
    };
    let firsts = first_tokens(encoding, given).into_iter().zip(given);
    firsts.map(|(token, &(start, end))| token.map(|token| tagged(token, start, end))).collect()
}

/// The first token of each word, words given by their characters: `None` where a word has none, cut off by the maximum
/// length.
pub fn first_tokens(encoding: &Encoding, words: &[(usize, usize)]) -> Vec<Option<usize>> {
    let own: Vec<(usize, (usize, usize))> = placed_tokens(encoding).collect();
    let of = |&(start, end): &(usize, usize)| {
        let at = own.partition_point(|(_, (_, to))| *to <= start);
        own.get(at).filter(|(_, (from, _))| *from < end).map(|(token, _)| *token)
    };
    words.iter().map(of).collect()
}

/// The tokens that are some characters of the text, and which.
fn placed_tokens(encoding: &Encoding) -> impl Iterator<Item = (usize, (usize, usize))> + '_ {
    let place = |token: usize| Some((token, encoding.offsets[token].filter(|(start, end)| start < end)?));
    encoding.own_tokens().filter_map(place)
}

/// A tag's first letter and the rest: `B-PER`, `I-PER`, `O`; a tag without a letter before a hyphen is all of one
/// entity, as long as it lasts.
fn parts(tag: &str) -> (char, &str) {
    match tag.split_once('-') {
        Some((prefix, kind)) if prefix.len() == 1 => (prefix.chars().next().unwrap_or('O'), kind),
        _ if tag == "O" || tag.is_empty() => ('O', ""),
        _ => ('I', tag),
    }
}

/// Entities of tags in a row: `None` is a word that has none, cut off by the maximum length.
pub fn entities<'a>(tags: impl IntoIterator<Item = Option<&'a str>>) -> Vec<(String, std::ops::Range<usize>)> {
    let mut found: Vec<(String, std::ops::Range<usize>)> = Vec::new();
    let (mut before, mut kind_before, mut open) = ('O', "", false);
    for (word, tag) in tags.into_iter().enumerate() {
        let (letter, kind) = parts(tag.unwrap_or("O"));
        let inside = matches!(letter, 'I' | 'E' | 'M' | 'L');
        let goes_on = open && inside && kind == kind_before && !matches!(before, 'E' | 'S' | 'L' | 'U' | 'O');
        match found.last_mut() {
            Some((_, words)) if goes_on => words.end = word + 1,
            _ if letter != 'O' => found.push((kind.to_owned(), word..word + 1)),
            _ => {}
        }
        open = letter != 'O';
        (before, kind_before) = (letter, kind);
    }
    found
}

impl Entity {
    /// The entities of tagged words.
    pub fn list(words: &[Option<TaggedWord>], names: &[String]) -> Vec<Self> {
        let tags = words.iter().map(|word| word.as_ref().map(|word| names[word.class].as_str()));
        let entity = |(kind, range): (String, std::ops::Range<usize>)| {
            let own: Vec<&TaggedWord> = words[range.clone()].iter().flatten().collect();
            let (first, last) = (own.first()?, own.last()?);
            let score = own.iter().map(|word| word.probability).sum::<f64>() / own.len() as f64;
            Some(Self { kind, start: first.start, end: last.end, words: range, score })
        };
        entities(tags).into_iter().filter_map(entity).collect()
    }
}

/// How many entities there are, were found, and were found rightly: the same words, the same kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of the data.
    pub gold: u64,
    /// Of the model.
    pub predicted: u64,
    /// Of both.
    pub correct: u64,
}

impl Counts {
    /// Precision, recall and F1; 0 where there is nothing to divide by.
    pub fn scores(&self) -> [f64; 3] {
        let ratio = |of: u64| if of == 0 { 0.0 } else { self.correct as f64 / of as f64 };
        let (precision, recall) = (ratio(self.predicted), ratio(self.gold));
        let f1 = if self.correct == 0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) };
        [precision, recall, f1]
    }
}

/// Counts of every kind of entity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntityCounts(pub BTreeMap<String, Counts>);

impl EntityCounts {
    /// Adds one record's.
    pub fn add(&mut self, gold: &[(String, std::ops::Range<usize>)], predicted: &[(String, std::ops::Range<usize>)]) {
        for (kind, _) in gold {
            self.0.entry(kind.clone()).or_default().gold += 1;
        }
        for entity in predicted {
            let counts = self.0.entry(entity.0.clone()).or_default();
            counts.predicted += 1;
            counts.correct += u64::from(gold.contains(entity));
        }
    }

    /// Of all kinds together.
    pub fn total(&self) -> Counts {
        self.0.values().fold(Counts::default(), |sum, counts| Counts {
            gold: sum.gold + counts.gold,
            predicted: sum.predicted + counts.predicted,
            correct: sum.correct + counts.correct,
        })
    }

    /// Precision, recall, F1 and number of each kind of entity, and of all together.
    pub fn table(&self) -> BTreeMap<String, [f64; 4]> {
        let row = |name: &str, counts: &Counts| {
            let [precision, recall, f1] = counts.scores();
            (name.to_owned(), [precision, recall, f1, counts.gold as f64])
        };
        let all = self.total();
        self.0.iter().map(|(kind, counts)| row(kind, counts)).chain([row("all", &all)]).collect()
    }
}
