//! Words that tell a label too well: what a model may learn instead of reading (Gururangan et al. 2018, "Annotation
//! artifacts"; Du et al. 2022, "Less learn shortcut"), and what to do about it: weights that make records of such words
//! count less.

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
    /// The false discovery rate: of the words found, the expected share found by chance at most (Benjamini & Hochberg
    /// 1995).
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
    /// The probability of so many by chance, were the word and the label independent (a binomial's tail, by its exact
    /// sum).
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
        share + if correction == Correction::ShareAndFrequency { FREQUENCY * self.count as f64 } else { 0.0 }
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

/// The words that dominate rationales: in at least [`BiasOptions::least_count`] of them, [`BiasOptions::least_share`]
/// of which are for one class; those of the most rationales first.
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
        // A word of a rationale may be one that the data's own words are cut otherwise from: nothing can be said of it
        // there.
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
    read: &(dyn Fn(usize) -> Result<Option<LabelledText>> + Sync),
) -> Result<Vec<[Vec<usize>; 2]>> {
    let numbers: HashMap<&str, usize> = words.iter().enumerate().map(|(i, word)| (word.word.as_str(), i)).collect();
    let mut found = vec![[Vec::new(), Vec::new()]; words.len()];
    let numbered = |(class, text, pair): LabelledText| -> (usize, Vec<usize>) {
        let there = distinct_words(&text, pair.as_deref(), segmentation);
        (class, there.iter().filter_map(|word| numbers.get(word.as_str()).copied()).collect())
    };
    for start in (0..records).step_by(CHUNK) {
        let chunk = (start..(start + CHUNK).min(records)).into_par_iter().map(|record| Ok(read(record)?.map(numbered)));
        for (record, numbered) in (start..).zip(chunk.collect::<Result<Vec<_>>>()?) {
            let Some((class, numbers)) = numbered else { continue };
            for number in numbers {
                let list: &mut Vec<usize> = &mut found[number][usize::from(words[number].class != class)];
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

/// `P(X ≥ k)` of X ~ Binomial(n, p): terms are summed from the k-th on, each from the one before it, until they no
/// longer count.
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

/// How biased words make a record's weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// LLS-D (Du et al. 2022, §3.2): less for how far the words' shares of their labels are from even ones. Records
    /// count less, of whatever label: the word tells as much of the label as before.
    Share,
    /// LLS-D-F: the same, and 0.01 for each record with the word.
    ShareAndFrequency,
    /// Reweighing (Kamiran & Calders 2012): so that, by weight, neither the word nor its absence tells anything of the
    /// label.
    Reweighing,
}

/// What LLS-D-F adds for a record with the word.
const FREQUENCY: f64 = 0.01;
/// What is taken off the weight of the most biased record.
const MOST_OFF: f64 = 0.15;

/// A weight for each record. By LLS from 0.85 (the most biased) to 1 (no biased word): the mean over its distinct
/// biased words, scaled to the range found. By reweighing any, of mean 1.
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
    if correction == Correction::Reweighing {
        return reweighing(records, classes, words, segmentation, read);
    }
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

/// Where no factor is further from 1, weights are as good as balanced.
const BALANCED: f64 = 1e-3;
/// Turns after which they are left as they are: words that cannot all be balanced at once would go on for ever.
const TURNS: usize = 100;

/// Weights by which each word's records, and those without it, have the labels that all records have: of one word
/// Kamiran and Calders' reweighing, `P(c) P(w) / P(c, w)`; of several, one after the other until nothing moves (raking:
/// Deming & Stephan 1940). A word that only one label has cannot be balanced, and is passed over.
fn reweighing(
    records: usize,
    classes: usize,
    words: &[BiasedWord],
    segmentation: Segmentation,
    read: &(dyn Fn(usize) -> Result<Option<LabelledText>> + Sync),
) -> Result<Vec<f64>> {
    let numbers: HashMap<&str, usize> = words.iter().enumerate().map(|(i, word)| (word.word.as_str(), i)).collect();
    let of = |record: usize| -> Result<Option<(usize, Vec<usize>)>> {
        let Some((class, text, pair)) = read(record)? else { return Ok(None) };
        let found = distinct_words(&text, pair.as_deref(), segmentation);
        Ok(Some((class, found.iter().filter_map(|word| numbers.get(word.as_str()).copied()).collect())))
    };
    let found: Vec<Option<(usize, Vec<usize>)>> = (0..records).into_par_iter().map(of).collect::<Result<_>>()?;
    let mut with: Vec<Vec<(usize, usize)>> = vec![Vec::new(); words.len()];
    let mut all = vec![0.0; classes];
    for (record, class, words) in found.iter().enumerate().filter_map(|(i, f)| f.as_ref().map(|(c, w)| (i, *c, w))) {
        all[class] += 1.0;
        for &word in words {
            with[word].push((record, class));
        }
    }
    // A record's weight is its own factor times its class's: what is without a word need not be gone through.
    let (mut own, mut shared) = (vec![1.0_f64; records], vec![1.0_f64; classes]);
    let mut weights = all.clone();
    for _ in 0..TURNS {
        let mut furthest = 0.0_f64;
        for with in &with {
            let mut here = vec![0.0; classes];
            for &(record, class) in with {
                here[class] += own[record] * shared[class];
            }
            if here.iter().filter(|here| **here > 0.0).count() < 2 {
                continue;
            }
            let rest: Vec<f64> = weights.iter().zip(&here).map(|(all, here)| all - here).collect();
            let (to_here, to_rest) = (balancing(&here, &all), balancing(&rest, &all));
            for &(record, class) in with {
                own[record] *= to_here[class] / to_rest[class];
            }
            for class in 0..classes {
                shared[class] *= to_rest[class];
                weights[class] = here[class] * to_here[class] + rest[class] * to_rest[class];
                furthest = furthest.max((to_here[class] - 1.0).abs()).max((to_rest[class] - 1.0).abs());
            }
        }
        if furthest <= BALANCED {
            break;
        }
    }
    Ok((0..records)
        .map(|record| found[record].as_ref().map_or(1.0, |(class, _)| own[record] * shared[*class]))
        .collect())
}

/// What the weight of each class is multiplied by, so that they share the sum as `shares` do. A class that has none has
/// none then.
fn balancing(weights: &[f64], shares: &[f64]) -> Vec<f64> {
    let there = |class: &usize| weights[*class] > f64::EPSILON * shares[*class];
    let (sum, of): (f64, f64) =
        (0..weights.len()).filter(there).fold((0.0, 0.0), |(sum, of), c| (sum + weights[c], of + shares[c]));
    let factor = |class: usize| if there(&class) { sum * shares[class] / (of * weights[class]) } else { 1.0 };
    (0..weights.len()).map(factor).collect()
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
    fn examples_are_the_first_of_each_kind_whatever_chunk_they_are_in() {
        let reviews = reviews();
        let at = |i: usize| (i != 8).then(|| reviews[i % 80].clone());
        let found = biased_words(80, 2, &BiasOptions::default(), &|i| Ok(Some(reviews[i].clone()))).unwrap();
        let words: Vec<BiasedWord> = found.into_iter().map(|word| BiasedWord { class: 0, ..word }).collect();
        let most = CHUNK / 4 + 10;
        let examples = examples(CHUNK + 1000, &words, most, Segmentation::Segmenter, &|i| Ok(at(i))).unwrap();
        let fine: Vec<usize> = (0..).step_by(2).filter(|&i| i != 8).take(most).collect();
        let dull: Vec<usize> = (1..).step_by(2).take(most).collect();
        assert_eq!(examples[..2], [[vec![], dull], [fine, vec![]]]);
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

    #[test]
    fn by_weight_neither_a_word_nor_its_absence_tells_the_label() {
        // "sign" in 9 of 10 records of class 1 and 1 of 10 of class 0; "mark" in 3 of 4 and 1 of 2 of them.
        let text = |i: usize| {
            let (class, k) = (i % 2, i / 2);
            let sign = if (k % 10 == 0) == (class == 0) { "sign" } else { "none" };
            let mark = if k % 4 > 0 && (class == 1 || k % 2 == 1) { "mark" } else { "none" };
            (class, format!("{sign} {mark} text"), None)
        };
        let word = |word: &str| BiasedWord {
            word: word.to_owned(),
            class: 1,
            count: 0,
            with_class: 0,
            expected: 0.5,
            p_value: 0.0,
        };
        let read = |i: usize| Ok((i != 5).then(|| text(i)));
        let words = [word("sign"), word("mark"), word("absent")];
        let weights = record_weights(200, 2, &words, Correction::Reweighing, Segmentation::Segmenter, &read).unwrap();
        assert_eq!(weights[5], 1.0);
        for word in ["sign", "mark"] {
            for there in [true, false] {
                let of = |class: usize| -> f64 {
                    let mine = |&i: &usize| i != 5 && text(i).0 == class && text(i).1.contains(word) == there;
                    (0..200).filter(mine).map(|i| weights[i]).sum()
                };
                assert!((of(1) / (of(0) + of(1)) - 99.0 / 199.0).abs() < 2.0 * BALANCED, "{word} {there}");
            }
        }
        // Of one word: P(c) P(w) / P(c, w).
        let weights = record_weights(200, 2, &words[..1], Correction::Reweighing, Segmentation::Segmenter, &|i| {
            Ok(Some(text(i)))
        })
        .unwrap();
        let rare = (0..200).find(|&i| text(i).0 == 0 && text(i).1.contains("sign")).unwrap();
        assert!((weights[rare] - 0.5 * 0.5 / 0.05).abs() < 1e-9);
    }
}
