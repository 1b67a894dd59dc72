//! Texts that say the same twice: copies and near copies, among the training records and between them and a test set.

use std::collections::HashSet;

use super::shingles::{jaccard, most_similar_earlier, shingles};
use crate::error::Result;
use rayon::prelude::*;

/// The similarity of what is nearly a copy, where nobody says.
const NEAR: f64 = 0.8;

/// What is known of a text whose copies are looked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Copied {
    /// The first segment.
    pub text: String,
    /// The second segment, where there is one.
    pub pair: Option<String>,
    /// Its label, as results show it.
    pub label: Option<String>,
}

/// A text that an earlier one already says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Redundant {
    /// The number of the text.
    pub text: usize,
    /// The number of the earlier one that is most like it.
    pub of: usize,
    /// The share of their shingles that they have in common: 1 for copies, and where nothing but punctuation or width differs.
    pub similarity: f64,
    /// Whether all their characters are the same, case and white space aside.
    pub exact: bool,
    /// Whether both have labels and these differ.
    pub conflict: bool,
}

/// Every text that has an earlier one of at least this similarity: contradicting labels first, then the most similar, then in their order.
///
/// # Errors
/// Those of `read`.
pub fn redundant(
    texts: usize,
    threshold: f64,
    read: &(dyn Fn(usize) -> Result<Copied> + Sync),
) -> Result<Vec<Redundant>> {
    redundant_with(texts, texts, threshold, read)
}

/// The same, where a text beyond the first `first` is told a copy of one of those wherever it is one, however much more like another it may be: what of a
/// test set comes from the training data.
///
/// # Errors
/// Those of `read`.
pub fn leaks_first(
    first: usize,
    texts: usize,
    threshold: f64,
    read: &(dyn Fn(usize) -> Result<Copied> + Sync),
) -> Result<Vec<Redundant>> {
    let mut found = redundant_with(first, texts, threshold, read)?;
    if first == texts {
        return Ok(found);
    }
    let leaked: HashSet<usize> = found.iter().map(|found| found.text).collect();
    let others = redundant_with(texts, texts, threshold, read)?;
    found.extend(others.into_iter().filter(|other| other.text >= first && !leaked.contains(&other.text)));
    sort(&mut found);
    Ok(found)
}

/// The same, where earlier ones count only among the first `originals`: what of a training set comes from a test set, whatever the copies within it.
///
/// # Errors
/// Those of `read`.
pub fn redundant_with(
    originals: usize,
    texts: usize,
    threshold: f64,
    read: &(dyn Fn(usize) -> Result<Copied> + Sync),
) -> Result<Vec<Redundant>> {
    let sets: Vec<Vec<u64>> = (0..texts)
        .into_par_iter()
        .map(|i| read(i).map(|copied| shingles(&copied.text, copied.pair.as_deref())))
        .collect::<Result<_>>()?;
    let pairs = most_similar_earlier(&sets, originals, threshold);
    let pairs = pairs.into_iter().enumerate().filter_map(|(text, found)| found.map(|(of, _)| (text, of)));
    let mut found = pairs
        .map(|(text, of)| {
            let (this, that) = (read(text)?, read(of)?);
            let exact = normalised(&this.text, this.pair.as_deref()) == normalised(&that.text, that.pair.as_deref());
            let conflict = this.label.is_some() && that.label.is_some() && this.label != that.label;
            Ok(Redundant { text, of, similarity: jaccard(&sets[text], &sets[of]), exact, conflict })
        })
        .collect::<Result<Vec<_>>>()?;
    sort(&mut found);
    Ok(found)
}

/// Parts of all texts beyond which no near copies are put together: what is one template is not one text.
const PARTS: usize = 100;

/// What each text says, as a number: copies have that of the first of them, and near copies as long as no more than a hundredth of all have it. Numbers rise
/// from 0 with the texts.
///
/// # Errors
/// Those of `read`.
pub(super) fn sayings<E: Send>(
    texts: usize,
    read: impl Fn(usize) -> Result<(String, Option<String>), E> + Sync,
) -> Result<Vec<usize>, E> {
    let sets: Vec<Vec<u64>> = (0..texts)
        .into_par_iter()
        .map(|i| read(i).map(|(text, pair)| shingles(&text, pair.as_deref())))
        .collect::<Result<_, E>>()?;
    let (mut of, mut counts): (Vec<usize>, Vec<usize>) = (Vec::with_capacity(texts), Vec::new());
    for near in most_similar_earlier(&sets, texts, NEAR) {
        let known = near.map(|(earlier, similarity)| (of[earlier], similarity));
        let known = known.filter(|&(saying, similarity)| similarity == 1.0 || counts[saying] < texts / PARTS);
        let saying = known.map_or(counts.len(), |(saying, _)| saying);
        if saying == counts.len() {
            counts.push(0);
        }
        counts[saying] += 1;
        of.push(saying);
    }
    Ok(of)
}

/// Contradictions first, then the most similar, then in their order.
fn sort(found: &mut [Redundant]) {
    found.sort_by(|a, b| {
        (b.conflict.cmp(&a.conflict)).then(b.similarity.total_cmp(&a.similarity)).then(a.text.cmp(&b.text))
    });
}

/// What copies have in common: lower case, with one space for any white space.
pub(crate) fn normalised(text: &str, pair: Option<&str>) -> (String, Option<String>) {
    let one = |text: &str| text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    (one(text), pair.map(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_some_are_found_behind_copies_of_others() {
        let text = |i: usize| match i {
            0 => "a text of the test set with many words in it one two three four five six seven",
            1 => "another of the test set altogether, of which there is no copy anywhere else",
            _ => "a text of the test set with many words in it one two three four five six eight",
        };
        let read = |i: usize| Ok(Copied { text: text(i).to_owned(), ..Copied::default() });
        let of = |found: Vec<Redundant>| found.into_iter().map(|r| (r.text, r.of, r.exact)).collect::<Vec<_>>();
        assert_eq!(of(redundant(4, 0.7, &read).unwrap()), [(3, 2, true), (2, 0, false)]);
        assert_eq!(of(redundant_with(2, 4, 0.7, &read).unwrap()), [(2, 0, false), (3, 0, false)]);
    }

    #[test]
    fn a_leak_is_told_before_a_copy_within_the_test_set() {
        let text = |i: usize| match i {
            0 => "a text of the training set with many words in it one two three four five six seven",
            1 => "another one, of which there is no copy anywhere among all the others that are here",
            _ => "a text of the training set with many words in it one two three four five six eight",
        };
        let read = |i: usize| Ok(Copied { text: text(i).to_owned(), ..Copied::default() });
        let of = |found: Vec<Redundant>| found.into_iter().map(|r| (r.text, r.of)).collect::<Vec<_>>();
        assert_eq!(of(redundant(4, 0.7, &read).unwrap()), [(3, 2), (2, 0)]);
        assert_eq!(of(leaks_first(2, 4, 0.7, &read).unwrap()), [(2, 0), (3, 0)]);
        assert_eq!(of(leaks_first(0, 4, 0.7, &read).unwrap()), [(3, 2), (2, 0)]);
    }

    #[test]
    fn copies_and_few_near_copies_say_the_same() {
        let words = |from: usize| (from..from + 40).map(|w| format!("w{w}")).collect::<Vec<_>>().join(" ");
        let text = |i: usize| match i {
            7 | 150 | 299 => "Said three times over, in so many words".to_owned(),
            40 => "said three times over in SO many words".to_owned(),
            // One template, of which a hundredth may be together.
            100..=110 => format!("{} {i}", words(0)),
            _ => words(i * 100),
        };
        let of = sayings(300, |i| Ok::<_, ()>((text(i), None))).unwrap();
        assert_eq!([of[40], of[150], of[299]], [7; 3]);
        assert_eq!((of[99] + 1, of[101], of[102], of[103]), (of[100], of[100], of[100], of[100] + 1));
        let distinct: std::collections::BTreeSet<usize> = of.iter().copied().collect();
        assert!(distinct.iter().enumerate().all(|(number, saying)| number == *saying));
    }

    #[test]
    fn contradictions_come_first() {
        let record = |text: &str, label: &str| Copied {
            text: text.to_owned(),
            label: Some(label.to_owned()),
            ..Copied::default()
        };
        let texts = [
            record("a text of some words that comes twice in here", "x"),
            record("another text, of other words, that comes twice", "x"),
            record("A text of some words that comes  twice in here", "x"),
            record("another text, of other words, that comes twice", "y"),
        ];
        let found = redundant(4, 0.8, &|i| Ok(texts[i].clone())).unwrap();
        let brief: Vec<_> = found.iter().map(|r| (r.text, r.of, r.exact, r.conflict)).collect();
        assert_eq!(brief, [(3, 1, true, true), (2, 0, true, false)]);
    }
}
