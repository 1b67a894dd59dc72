//! What a linear model reads of a word in its text: the word, what it is made of, and its neighbours; no transformer,
//! and so none of its memory of the tags.

use std::collections::BTreeSet;

use super::ngrams::{bucket, hash};

/// Characters of the beginnings and ends that are read.
const AFFIX: usize = 3;

/// The buckets, of `2^bits`, of each of some words of a text, in their order: the word, the two before and behind, each
/// pair with the one beside it, beginnings and ends of up to three characters, and shapes (Ratinov and Roth 2009,
/// "Design challenges and misconceptions in named entity recognition", §3.1).
pub(super) fn bags(words: &[String], bits: u32) -> Vec<Vec<u32>> {
    let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let shapes: Vec<String> = words.iter().map(|word| shape(word)).collect();
    (0..words.len()).map(|at| bag(&lower, &shapes, at, bits)).collect()
}

fn bag(lower: &[String], shapes: &[String], at: usize, bits: u32) -> Vec<u32> {
    let beside = |of: &'_ [String], by: isize| -> u64 {
        let place = at.checked_add_signed(by).and_then(|place| of.get(place));
        // Beyond the text there is something, too.
        hash(7, place.map_or("\n", String::as_str).as_bytes())
    };
    let mut found: BTreeSet<u32> = BTreeSet::new();
    let mut add = |kind: u64, parts: &[u64]| {
        let gram: Vec<u64> = std::iter::once(hash(kind, b"")).chain(parts.iter().copied()).collect();
        found.insert(bucket(&gram, bits));
    };
    for by in -2..=2 {
        add((10 + by) as u64, &[beside(lower, by)]);
    }
    add(20, &[beside(lower, -1), beside(lower, 0)]);
    add(21, &[beside(lower, 0), beside(lower, 1)]);
    add(22, &[beside(lower, -1), beside(lower, 1)]);
    for by in -1..=1 {
        add((31 + by) as u64, &[beside(shapes, by)]);
    }
    let characters: Vec<char> = lower[at].chars().collect();
    for n in 1..=AFFIX.min(characters.len()) {
        let text = |part: &[char]| hash(n as u64, part.iter().collect::<String>().as_bytes());
        add(40, &[text(&characters[..n])]);
        add(41, &[text(&characters[characters.len() - n..])]);
    }
    found.into_iter().collect()
}

/// Kinds of characters, runs of one as one: `Xx` of a capitalised word, `0` of a number, `x-0`.
fn shape(word: &str) -> String {
    let kind = |c: char| match c {
        c if c.is_uppercase() => 'X',
        c if c.is_numeric() => '0',
        c if c.is_lowercase() => 'x',
        c if c.is_alphabetic() => 'c',
        c => c,
    };
    let mut shape = String::new();
    word.chars().map(kind).for_each(|kind| {
        if !shape.ends_with(kind) {
            shape.push(kind);
        }
    });
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_known_by_its_own_features_and_by_its_neighbours() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let shared = |a: &[u32], b: &[u32]| a.iter().filter(|bucket| b.contains(bucket)).count();
        let (first, second) = (bags(&words("in Paris today"), 20), bags(&words("in Berlin today"), 20));
        // Two neighbours on each side (one is beyond the text), both beside it together, and three shapes.
        assert_eq!(shared(&first[1], &second[1]), 4 + 1 + 3);
        assert_eq!(first, bags(&words("in Paris today"), 20));
        assert!(shared(&first[1], &first[0]) < 3);
        assert_eq!([shape("McDonald"), shape("B2B-x"), shape("中国"), shape("")], ["XxXx", "X0X-x", "c", ""]);
    }
}
