//! Okapi BM25 (Robertson & Zaragoza 2009, *The Probabilistic Relevance Framework*), with the idf that is never
//! negative, as Lucene has it:
//!
//! ```text
//! score(q, i) = Σ_t  n_q(t) · ln(1 + (N − n(t) + ½)/(n(t) + ½)) · f_i(t)(k₁ + 1) / (f_i(t) + k₁(1 − b + b·L_i/L̄))
//! ```
//!
//! over the words t of the query, n_q(t) times there, f_i(t) times in record i, in n(t) of N records; L_i is the number
//! of words of i, L̄ their mean. Words are those of [`Segmentation`] (Chinese ones by the segmenter), in lower case,
//! punctuation left out.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use rayon::prelude::*;

use crate::error::Result;
use crate::explain::Segmentation;
use crate::interrupt;
use crate::search::Scorer;
use crate::store::{Shard, Store, StoredRecord};

/// k₁: how soon more of the same word count no more (Lucene's default).
pub const K1: f64 = 1.2;
/// b: how much a long text's words count for less (Lucene's default).
pub const B: f64 = 0.75;

/// What a store's texts are like: everything about them but which words are in which record. It is taken over all
/// records, searched or not, so that a record's score does not depend on what else is.
#[derive(Debug)]
pub struct Bm25<'a> {
    store: &'a Store,
    /// N.
    records: f64,
    /// L̄.
    mean_length: f64,
    /// n(t).
    frequencies: HashMap<Box<str>, u32>,
}

/// Counts of some records' words.
#[derive(Default)]
struct Counts {
    words: u64,
    frequencies: HashMap<Box<str>, u32>,
}

impl<'a> Bm25<'a> {
    /// Reads all texts of `store` once.
    ///
    /// # Errors
    /// If the store is damaged; [`crate::Error::Interrupted`].
    pub fn new(store: &'a Store) -> Result<Self> {
        let mut all = Counts::default();
        for shard in store.shards() {
            interrupt::check()?;
            let counts =
                (0..shard.rows()).into_par_iter().try_fold(Counts::default, |counts, row| counts.with(shard, row));
            all = all.merge(counts.try_reduce(Counts::default, |one, other| Ok(one.merge(other)))?);
            shard.release();
        }
        let records = store.rows() as f64;
        let mean_length = (all.words as f64 / records.max(1.0)).max(1.0);
        Ok(Self { store, records, mean_length, frequencies: all.frequencies })
    }

    /// Queries made of these texts, numbered in their order.
    pub fn queries(&self, texts: &[String]) -> Bm25Queries<'_> {
        let mut terms: BTreeMap<String, Vec<(usize, f64)>> = BTreeMap::new();
        for (query, text) in texts.iter().enumerate() {
            for word in words(text) {
                let Some(idf) = self.idf(&word) else { continue };
                let asking = terms.entry(word).or_default();
                match asking.last_mut() {
                    Some((last, weight)) if *last == query => *weight += idf,
                    _ => asking.push((query, idf)),
                }
            }
        }
        let numbers = terms.keys().cloned().zip(0..).collect();
        Bm25Queries { texts: self, numbers, asking: terms.into_values().collect() }
    }

    /// `None` for a word that no record has.
    fn idf(&self, word: &str) -> Option<f64> {
        let n = f64::from(*self.frequencies.get(word)?);
        Some(((self.records - n + 0.5) / (n + 0.5)).ln_1p())
    }
}

impl Counts {
    fn with(mut self, shard: &Shard, row: usize) -> Result<Self> {
        let mut words = record_words(&shard.record(row)?);
        self.words += words.len() as u64;
        words.sort_unstable();
        words.dedup();
        for word in words {
            *self.frequencies.entry(word.into()).or_insert(0) += 1;
        }
        Ok(self)
    }

    fn merge(mut self, mut other: Self) -> Self {
        if self.frequencies.len() < other.frequencies.len() {
            std::mem::swap(&mut self, &mut other);
        }
        self.words += other.words;
        for (word, count) in other.frequencies {
            *self.frequencies.entry(word).or_insert(0) += count;
        }
        self
    }
}

/// Some queries, ready to score records by.
#[derive(Debug)]
pub struct Bm25Queries<'a> {
    texts: &'a Bm25<'a>,
    /// The queries' words, numbered in alphabetical order.
    numbers: HashMap<String, usize>,
    /// By word: the queries that have it, and its weight there.
    asking: Vec<Vec<(usize, f64)>>,
}

impl Bm25Queries<'_> {
    /// The queries' words in a record, each with how often, in alphabetical order; and how many words it has in all.
    fn matches(&self, record: &StoredRecord) -> (Vec<(usize, u32)>, usize) {
        let words = record_words(record);
        let mut found: Vec<usize> = words.iter().filter_map(|word| self.numbers.get(word).copied()).collect();
        found.sort_unstable();
        let mut matches: Vec<(usize, u32)> = Vec::new();
        for number in found {
            match matches.last_mut() {
                Some((last, count)) if *last == number => *count += 1,
                _ => matches.push((number, 1)),
            }
        }
        (matches, words.len())
    }
}

impl Scorer for Bm25Queries<'_> {
    /// Sums are in f64, in alphabetical order of the words.
    fn score(&self, shard: usize, rows: Range<usize>, asked: &[usize], scores: &mut [f32]) -> Result<()> {
        let (shard, count) = (&self.texts.store.shards()[shard], rows.len());
        let place: HashMap<usize, usize> = asked.iter().copied().zip(0..).collect();
        let mut sums = vec![0.0_f64; asked.len()];
        for (at, row) in rows.enumerate() {
            sums.fill(0.0);
            let (matches, length) = self.matches(&shard.record(row)?);
            let norm = K1 * (1.0 - B + B * length as f64 / self.texts.mean_length);
            for (word, times) in matches {
                let share = f64::from(times) * (K1 + 1.0) / (f64::from(times) + norm);
                for (query, weight) in &self.asking[word] {
                    if let Some(&query) = place.get(query) {
                        sums[query] += weight * share;
                    }
                }
            }
            for (query, &sum) in sums.iter().enumerate() {
                scores[query * count + at] = sum as f32;
            }
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.texts.store.shards().iter().map(Shard::text_bytes).sum()
    }
}

/// The words of both segments.
fn record_words(record: &StoredRecord) -> Vec<String> {
    let mut all = words(&record.text);
    all.extend(record.pair.as_deref().map(words).unwrap_or_default());
    all
}

/// The words that count, in lower case.
pub(crate) fn words(text: &str) -> Vec<String> {
    let is_word = |word: &&str| word.chars().any(char::is_alphanumeric);
    Segmentation::Segmenter.split(text).into_iter().filter(is_word).map(str::to_lowercase).collect()
}
