//! Texts that say the same twice: copies and near copies, among the training records and between them and a test set.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::shingles::{MostSimilar, jaccard, most_similar_earlier, shingles};
use crate::error::Result;
use rayon::prelude::*;

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
    /// The number of the earlier one that is most like it, a copy before all others.
    pub of: usize,
    /// The share of their shingles that they have in common: 1 for copies, and where nothing but punctuation or width
    /// differs.
    pub similarity: f64,
    /// Whether all their characters are the same, case and white space aside.
    pub exact: bool,
    /// Whether both have labels and these differ.
    pub conflict: bool,
}

/// Every text that has an earlier one of at least this similarity: contradicting labels first, then the most similar,
/// then in their order.
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

/// The same, where a text beyond the first `first` is told a copy of one of those wherever it is one, however much more
/// like another it may be: what of a test set comes from the training data.
///
/// # Errors
/// Those of `read`.
pub fn leaks_first(
    first: usize,
    texts: usize,
    threshold: f64,
    read: &(dyn Fn(usize) -> Result<Copied> + Sync),
) -> Result<Vec<Redundant>> {
    let said = Said::read(texts, read)?;
    if first == texts {
        let [like] = most_similar_earlier(&said.sets, [texts], threshold);
        return said.found(texts, like, read);
    }
    let [leaks, mut others] = most_similar_earlier(&said.sets, [first, texts], threshold);
    let mut found = said.found(first, leaks, read)?;
    // Only those beyond the first that are no leaks.
    let leaked = found.iter().map(|found| found.text);
    (0..first).chain(leaked).for_each(|text| others[text] = None);
    found.extend(said.found(texts, others, read)?);
    sort(&mut found);
    Ok(found)
}

/// The same, where earlier ones count only among the first `originals`: what of a training set comes from a test set,
/// whatever the copies within it.
///
/// # Errors
/// Those of `read`.
pub fn redundant_with(
    originals: usize,
    texts: usize,
    threshold: f64,
    read: &(dyn Fn(usize) -> Result<Copied> + Sync),
) -> Result<Vec<Redundant>> {
    let said = Said::read(texts, read)?;
    let [like] = most_similar_earlier(&said.sets, [originals], threshold);
    said.found(originals, like, read)
}

/// What texts are compared by, each cut once.
struct Said {
    sets: Vec<Vec<u64>>,
    marks: Vec<u64>,
}

impl Said {
    fn read(texts: usize, read: &(dyn Fn(usize) -> Result<Copied> + Sync)) -> Result<Self> {
        let read_marks = |i| {
            let Copied { text, pair, .. } = read(i)?;
            Ok((shingles(&text, pair.as_deref()), mark(&normalised(&text, pair.as_deref()))))
        };
        let (sets, marks) = (0..texts).into_par_iter().map(read_marks).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        Ok(Self { sets, marks })
    }

    /// Those that have one that they are `like`, of which it is a copy among the first `originals` where there is one.
    fn found(
        &self,
        originals: usize,
        like: MostSimilar,
        read: &(dyn Fn(usize) -> Result<Copied> + Sync),
    ) -> Result<Vec<Redundant>> {
        let Self { sets, marks } = self;
        let mut first: HashMap<u64, usize> = HashMap::new();
        (0..originals).for_each(|i| _ = first.entry(marks[i]).or_insert(i));
        let pairs = like.into_iter().enumerate();
        let mut found = pairs
            .filter_map(|(text, found)| found.map(|(of, _)| (text, of)))
            .map(|(text, like)| {
                // Before what says the same in other signs.
                let of = first.get(&marks[text]).copied().filter(|&copy| copy < text).unwrap_or(like);
                let (this, that) = (read(text)?, read(of)?);
                let exact =
                    normalised(&this.text, this.pair.as_deref()) == normalised(&that.text, that.pair.as_deref());
                let conflict = this.label.is_some() && that.label.is_some() && this.label != that.label;
                Ok(Redundant { text, of, similarity: jaccard(&sets[text], &sets[of]), exact, conflict })
            })
            .collect::<Result<Vec<_>>>()?;
        sort(&mut found);
        Ok(found)
    }
}

/// What each text says, as a number that copies share: those of the same shingles, whatever their punctuation. Numbers
/// rise from 0 with the texts.
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
    let mut numbers = HashMap::new();
    Ok(sets
        .into_iter()
        .map(|set| {
            let next = numbers.len();
            *numbers.entry(set).or_insert(next)
        })
        .collect())
}

/// Contradictions first, then the most similar, then in their order.
fn sort(found: &mut [Redundant]) {
    found.sort_by(|a, b| {
        (b.conflict.cmp(&a.conflict)).then(b.similarity.total_cmp(&a.similarity)).then(a.text.cmp(&b.text))
    });
}

fn mark((text, pair): &(String, Option<String>)) -> u64 {
    let mut hasher = DefaultHasher::new();
    (text, pair).hash(&mut hasher);
    hasher.finish()
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
    fn leaks_first_is_both_audits_each_by_itself() {
        let read = |i: usize| {
            let word = |j: usize| if j == 20 + i % 3 { i * 100 } else { (i % 5) * 1000 + j };
            let text = (0..40).map(|j| word(j).to_string()).collect::<Vec<_>>().join(" ");
            Ok(Copied { text, label: Some((i % 2).to_string()), ..Copied::default() })
        };
        for (first, texts) in [(0, 30), (1, 30), (4, 30), (12, 30), (29, 30), (30, 30)] {
            let mut expected = redundant_with(first, texts, 0.7, &read).unwrap();
            let others = redundant_with(texts, texts, 0.7, &read).unwrap();
            let is_leak = |other: &Redundant| expected.iter().any(|leak| leak.text == other.text);
            let others: Vec<_> = others.into_iter().filter(|other| other.text >= first && !is_leak(other)).collect();
            expected.extend(others);
            sort(&mut expected);
            assert_eq!(leaks_first(first, texts, 0.7, &read).unwrap(), expected, "{first} of {texts}");
            assert_eq!(expected.len(), 25, "five kinds of texts");
        }
    }

    #[test]
    fn a_copy_is_one_of_the_same_signs_before_any_of_others() {
        let read =
            |texts: &'static [&str]| move |i: usize| Ok(Copied { text: texts[i].to_owned(), ..Copied::default() });
        let texts = &["it rained all day", "It rained, all day!", "it rained,  all day!", "it rained all DAY"];
        let mut found = redundant(4, 0.8, &read(texts)).unwrap();
        found.sort_by_key(|found| found.text);
        let found: Vec<_> = found.iter().map(|found| (found.text, found.of, found.exact)).collect();
        assert_eq!(found, [(1, 0, false), (2, 1, true), (3, 0, true)]);
    }

    #[test]
    fn copies_say_the_same_whatever_their_punctuation() {
        let texts = [
            "It rained.",
            "Said three times over, in so many words",
            "said three times over in SO many words!",
            "it rained",
        ];
        let of = sayings(8, |i| Ok::<_, ()>((texts[i % 4].to_owned(), (i == 7).then(|| "pair".to_owned())))).unwrap();
        assert_eq!(of, [0, 1, 1, 0, 0, 1, 1, 2]);
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
