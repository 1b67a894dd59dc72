//! Words that tell a label too well: what a model may learn instead of reading (Gururangan et al. 2018, "Annotation artifacts"; Du et al. 2022,
//! "Less learn shortcut"), and what to do about it: weights that make records of such words count less.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::error::Result;
use crate::explain::Segmentation;

/// Records whose words are counted together.
const CHUNK: usize = 4096;

/// What a biased word is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BiasOptions {
    /// The fewest records with the word.
    pub least_count: u64,
    /// The least share of those records that one label has.
    pub least_share: f64,
    /// The false discovery rate: of the words found, the expected share found by chance at most (Benjamini & Hochberg 1995).
    pub false_discovery: f64,
    /// What a word is.
    pub words: Segmentation,
}

impl Default for BiasOptions {
    /// `TrustAI`'s counts, and significance at 1 %.
    fn default() -> Self {
        Self { least_count: 3, least_share: 0.85, false_discovery: 0.01, words: Segmentation::Segmenter }
    }
}

/// A word and the label it tells.
#[derive(Clone, Debug, PartialEq)]
pub struct BiasedWord {
    /// In lower case.
    pub word: String,
    /// The class most of its records have.
    pub class: usize,
    /// Labelled records with the word.
    pub count: u64,
    /// Those of them that have the class.
    pub with_class: u64,
    /// The class's share of all labelled records.
    pub expected: f64,
    /// The probability of so many by chance, were the word and the label independent (a binomial's tail, by its exact sum).
    pub p_value: f64,
}

impl BiasedWord {
    /// The class's share of the word's records.
    pub fn share(&self) -> f64 {
        self.with_class as f64 / self.count as f64
    }

    /// How many times likelier the class is with the word than without knowing it.
    pub fn lift(&self) -> f64 {
        self.share() / self.expected
    }

    /// How much it weighs on a record, of `classes` classes.
    fn strength(&self, classes: usize, correction: Correction) -> f64 {
        let share = (self.share() - 1.0 / classes as f64).abs();
        share + if correction == Correction::Share { 0.0 } else { FREQUENCY * self.count as f64 }
    }
}

/// A labelled text: its class, and its segments.
pub type LabelledText = (usize, String, Option<String>);

/// The words that tell a label, the least likely by chance first.
///
/// `read` gives the class and texts of record i; `None` where it has no label.
///
/// # Errors
/// Those of `read`.
pub fn biased_words(
    records: usize,
    classes: usize,
    options: &BiasOptions,
    read: &(dyn Fn(usize) -> Result<Option<LabelledText>> + Sync),
) -> Result<Vec<BiasedWord>> {
    let counts = Counts::of(records, classes, options, read)?;
    let total: u64 = counts.classes.iter().sum();
    let mut tested = 0_u64;
    let mut found = Vec::new();
    for (word, by_class) in counts.words {
        let count: u64 = by_class.iter().sum();
        if count < options.least_count {
            continue;
        }
        tested += 1;
        let class = (0..classes).fold(0, |best, c| if by_class[c] > by_class[best] { c } else { best });
        let expected = counts.classes[class] as f64 / total as f64;
        let word = BiasedWord { word, class, count, with_class: by_class[class], expected, p_value: 1.0 };
        if word.share() >= options.least_share {
            let p_value = binomial_tail(count, word.with_class, expected);
            found.push(BiasedWord { p_value, ..word });
        }
    }
    found.sort_by(|a, b| a.p_value.total_cmp(&b.p_value).then(b.count.cmp(&a.count)).then(a.word.cmp(&b.word)));
    let significant = (0..found.len()).rev().find(|&i| {
        // Words of no clear label were tested too, and would stand behind these.
        found[i].p_value <= options.false_discovery * (i + 1) as f64 / tested as f64
    });
    found.truncate(significant.map_or(0, |last| last + 1));
    Ok(found)
}

/// What an explanation of a record found: which class it speaks for, and the words of its rationale.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explained {
    /// The class explained.
    pub class: usize,
    /// The words that matter most.
    pub rationale: Vec<String>,
}

/// A word that the model's reasons come back to.
#[derive(Clone, Debug, PartialEq)]
pub struct DominatingWord {
    /// The word as the data have it; its class is the one that it is a reason for most often.
    pub word: BiasedWord,
    /// Rationales with the word.
    pub rationales: u64,
    /// Those of them that are for the class.
    pub for_class: u64,
}

/// The words that dominate rationales: in at least [`BiasOptions::least_count`] of them, [`BiasOptions::least_share`] of which are for one class; those
/// of the most rationales first.
///
/// # Errors
/// Those of `read`.
pub fn dominating_words(
    explained: &[Explained],
    records: usize,
    classes: usize,
    options: &BiasOptions,
    read: &(dyn Fn(usize) -> Result<Option<LabelledText>> + Sync),
) -> Result<Vec<DominatingWord>> {
    let mut found: HashMap<String, Vec<u64>> = HashMap::new();
    for Explained { class, rationale } in explained {
        let mut words: Vec<String> =
            rationale.iter().map(|word| word.to_lowercase()).filter(|word| is_word(word)).collect();
        words.sort_unstable();
        words.dedup();
        for word in words {
            found.entry(word).or_insert_with(|| vec![0; classes])[*class] += 1;
        }
    }
    let counts = Counts::of(records, classes, options, read)?;
    let total: u64 = counts.classes.iter().sum();
    let dominating = |(word, by_class): (String, Vec<u64>)| {
        let rationales: u64 = by_class.iter().sum();
        let class = (0..classes).fold(0, |best, c| if by_class[c] > by_class[best] { c } else { best });
        let for_class = by_class[class];
        let often = rationales >= options.least_count && for_class as f64 >= options.least_share * rationales as f64;
        // A word of a rationale may be one that the data's own words are cut otherwise from: nothing can be said of it there.
        let in_data = counts.words.get(&word).filter(|_| often)?;
        let (count, with_class) = (in_data.iter().sum::<u64>(), in_data[class]);
        let expected = counts.classes[class] as f64 / total.max(1) as f64;
        let p_value = binomial_tail(count, with_class, expected);
        Some(DominatingWord {
            word: BiasedWord { word, class, count, with_class, expected, p_value },
            rationales,
            for_class,
        })
    };
    let mut words: Vec<DominatingWord> = found.into_iter().filter_map(dominating).collect();
    words.sort_by(|a, b| b.rationales.cmp(&a.rationales).then(a.word.word.cmp(&b.word.word)));
    Ok(words)
}

/// Records to look at for each of some words: up to `most` that have its label, and as many that have another.
///
/// # Errors
/// Those of `read`.
pub fn examples(
    records: usize,
    words: &[BiasedWord],
    most: usize,
    segmentation: Segmentation,
    read: &dyn Fn(usize) -> Result<Option<LabelledText>>,
) -> Result<Vec<[Vec<usize>; 2]>> {
    let numbers: HashMap<&str, usize> = words.iter().enumerate().map(|(i, word)| (word.word.as_str(), i)).collect();
    let mut found = vec![[Vec::new(), Vec::new()]; words.len()];
    for record in 0..records {
        let Some((class, text, pair)) = read(record)? else { continue };
        for word in distinct_words(&text, pair.as_deref(), segmentation) {
            if let Some(&number) = numbers.get(word.as_str()) {
                let list = &mut found[number][usize::from(words[number].class != class)];
                if list.len() < most {
                    list.push(record);
                }
            }
        }
    }
    Ok(found)
}

/// The distinct words of a record, in lower case, white space and punctuation aside.
pub(super) fn distinct_words(text: &str, pair: Option<&str>, words: Segmentation) -> Vec<String> {
    let lower: Vec<String> = [Some(text), pair].into_iter().flatten().map(str::to_lowercase).collect();
    let mut distinct: Vec<String> =
        lower.iter().flat_map(|text| words.split(text)).filter(|word| is_word(word)).map(str::to_owned).collect();
    distinct.sort_unstable();
    distinct.dedup();
    distinct
}

/// No punctuation mark.
fn is_word(word: &str) -> bool {
    word.chars().any(char::is_alphanumeric)
}

/// In how many records of each class every word stands.
struct Counts {
    words: HashMap<String, Vec<u64>>,
    classes: Vec<u64>,
}

impl Counts {
    fn of(
        records: usize,
        classes: usize,
        options: &BiasOptions,
        read: &(dyn Fn(usize) -> Result<Option<LabelledText>> + Sync),
    ) -> Result<Self> {
        let mut counts = Self { words: HashMap::new(), classes: vec![0; classes] };
        for start in (0..records).step_by(CHUNK) {
            let chunk: Vec<Option<(usize, Vec<String>)>> = (start..(start + CHUNK).min(records))
                .into_par_iter()
                .map(|record| {
                    let words = |(class, text, pair): LabelledText| {
                        (class, distinct_words(&text, pair.as_deref(), options.words))
                    };
                    Ok(read(record)?.map(words))
                })
                .collect::<Result<_>>()?;
            for (class, words) in chunk.into_iter().flatten() {
                counts.classes[class] += 1;
                for word in words {
                    counts.words.entry(word).or_insert_with(|| vec![0; classes])[class] += 1;
                }
            }
        }
        Ok(counts)
    }
}

/// `P(X ≥ k)` of X ~ Binomial(n, p): terms are summed from the k-th on, each from the one before it, until they no longer count.
fn binomial_tail(n: u64, k: u64, p: f64) -> f64 {
    if k == 0 || p >= 1.0 {
        return 1.0;
    }
    let odds = (p / (1.0 - p)).ln();
    let ln_first = ln_choose(n, k) + k as f64 * p.ln() + (n - k) as f64 * (1.0 - p).ln();
    let (mut term, mut sum) = (1.0_f64, 1.0_f64);
    for i in k..n {
        term *= ((n - i) as f64 / (i + 1) as f64) * odds.exp();
        sum += term;
        if term < f64::EPSILON * sum {
            break;
        }
    }
    (ln_first + sum.ln()).exp().min(1.0)
}

/// `ln C(n, k)`, as a sum of logarithms over the shorter side.
fn ln_choose(n: u64, k: u64) -> f64 {
    (0..k.min(n - k)).map(|i| ((n - i) as f64 / (i + 1) as f64).ln()).sum()
}

/// How much a biased word weighs on a record (Du et al. 2022, §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// LLS-D: how far the word's share of its label is from an even one.
    Share,
    /// LLS-D-F: the same, and 0.01 for each record with the word.
    ShareAndFrequency,
}

/// What LLS-D-F adds for a record with the word.
const FREQUENCY: f64 = 0.01;
/// What is taken off the weight of the most biased record.
const MOST_OFF: f64 = 0.15;

/// A weight for each record, from 0.85 (the most biased) to 1 (no biased word): the mean over its distinct biased words, scaled to the
/// range found.
///
/// # Errors
/// Those of `read`.
pub fn record_weights(
    records: usize,
    classes: usize,
    words: &[BiasedWord],
    correction: Correction,
    segmentation: Segmentation,
    read: &(dyn Fn(usize) -> Result<Option<LabelledText>> + Sync),
) -> Result<Vec<f64>> {
    let strengths: HashMap<&str, f64> =
        words.iter().map(|word| (word.word.as_str(), word.strength(classes, correction))).collect();
    let bias = |record: usize| -> Result<Option<f64>> {
        let Some((_, text, pair)) = read(record)? else { return Ok(None) };
        let found: Vec<f64> = distinct_words(&text, pair.as_deref(), segmentation)
            .iter()
            .filter_map(|word| strengths.get(word.as_str()).copied())
            .collect();
        Ok((!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64))
    };
    let biases: Vec<Option<f64>> = (0..records).into_par_iter().map(bias).collect::<Result<_>>()?;
    let (least, most) = biases.iter().flatten().fold((f64::INFINITY, 0.0_f64), |(l, m), &b| (l.min(b), m.max(b)));
    let scaled = |bias: f64| if most > least { (bias - least) / (most - least) } else { 1.0 };
    Ok(biases.into_iter().map(|bias| bias.map_or(1.0, |bias| 1.0 - MOST_OFF * scaled(bias))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reviews() -> Vec<LabelledText> {
        let text = |i: usize| match i % 4 {
            0 => format!("a fine film, number {i}, by spielberg"),
            1 => format!("a dull film, number {i}"),
            2 => format!("a fine story, number {i}"),
            _ => format!("a dull story, number {i}"),
        };
        (0..80).map(|i| (i % 2, text(i), None)).collect()
    }

    #[test]
    fn words_that_tell_the_label_are_found_and_others_are_not() {
        let reviews = reviews();
        let found = biased_words(80, 2, &BiasOptions::default(), &|i| Ok(Some(reviews[i].clone()))).unwrap();
        let words: Vec<&str> = found.iter().map(|word| word.word.as_str()).collect();
        assert_eq!(words, ["dull", "fine", "by", "spielberg"]);
        assert_eq!((found[0].class, found[0].count, found[0].with_class, found[0].lift()), (1, 40, 40, 2.0));
    }

    #[test]
    fn reasons_that_come_back_are_found_for_their_class() {
        let reviews = reviews();
        let explained: Vec<Explained> = (0..80)
            .map(|i| Explained { class: i % 2, rationale: vec!["Spielberg".into(), "film".into(), ",".into()] })
            .filter(|e| e.class == 0)
            .chain([Explained { class: 1, rationale: vec!["film".into(), "dull".into()] }])
            .collect();
        let read = |i: usize| Ok(Some(reviews[i].clone()));
        let found = dominating_words(&explained, 80, 2, &BiasOptions::default(), &read).unwrap();
        let brief: Vec<_> =
            found.iter().map(|w| (w.word.word.as_str(), w.word.class, w.rationales, w.for_class)).collect();
        assert_eq!(brief, [("film", 0, 41, 40), ("spielberg", 0, 40, 40)]);
        assert_eq!((found[0].word.count, found[0].word.with_class), (40, 20));
        assert!(found[0].word.p_value > 0.4 && found[1].word.p_value < 1e-5);
    }

    #[test]
    fn the_tail_is_a_binomial_s() {
        assert!((binomial_tail(10, 8, 0.5) - 56.0 / 1024.0).abs() < 1e-14);
        assert!((binomial_tail(40, 40, 0.5) / 0.5_f64.powi(40) - 1.0).abs() < 1e-12);
        assert_eq!((binomial_tail(5, 0, 0.3), binomial_tail(5, 3, 1.0)), (1.0, 1.0));
    }

    #[test]
    fn the_most_biased_record_weighs_least_and_an_unbiased_one_most() {
        let mut reviews = reviews();
        reviews.push((0, "number 7".to_owned(), None));
        let read = |i: usize| Ok(Some(reviews[i].clone()));
        let found = biased_words(81, 2, &BiasOptions::default(), &read).unwrap();
        let weights =
            record_weights(81, 2, &found, Correction::ShareAndFrequency, Segmentation::Segmenter, &read).unwrap();
        assert_eq!(weights[80], 1.0);
        assert!((weights[1] - 0.85).abs() < 1e-12 && weights[0] > weights[1]);
    }
}
