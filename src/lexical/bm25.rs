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
use std::sync::{Arc, Mutex};

use rayon::prelude::*;

use crate::error::Result;
use crate::explain::Segmentation;
use crate::interrupt;
use crate::search::Scorer;
use crate::store::{Shard, Store, StoredRecord};
use crate::sync::lock;

/// k₁: how soon more of the same word count no more (Lucene's default).
pub const K1: f64 = 1.2;
/// b: how much a long text's words count for less (Lucene's default).
pub const B: f64 = 0.75;

/// Records whose words are counted together, by one thread.
const CHUNK: usize = 512;

/// Bytes of what is cut per block of queries ([`Cut`]); those that there is no room for are looked for term by term.
const CUTS: usize = 64 << 20;

/// No term, or no query.
const NONE: u32 = u32::MAX;

/// What a store's texts are like. It is taken over all records, searched or not, so that a record's score does not
/// depend on what else is.
#[derive(Debug)]
pub struct Bm25<'a> {
    store: &'a Store,
    /// N.
    records: f64,
    /// L̄.
    mean_length: f64,
    vocabulary: Vocabulary,
    /// By shard, which words its records have; those of a shard that memory had no room for are read again.
    kept: Vec<Option<Postings>>,
}

/// Words, numbered as they are met.
#[derive(Debug, Default)]
struct Vocabulary {
    numbers: HashMap<Box<str>, u32>,
    /// n(t).
    frequencies: Vec<u32>,
}

/// The words of some consecutive records.
#[derive(Debug, Default)]
struct Postings {
    /// Numbers of words, each with how often it is there; those of a record together.
    words: Vec<(u32, u32)>,
    /// Where each record's end among them.
    ends: Vec<usize>,
    /// L_i: how many words each record has in all.
    lengths: Vec<u32>,
}

impl<'a> Bm25<'a> {
    /// Reads all texts of `store` once, and keeps which words are in which record, in up to `memory` bytes.
    ///
    /// # Errors
    /// If the store is damaged; [`crate::Error::Interrupted`].
    pub fn new(store: &'a Store, memory: usize) -> Result<Self> {
        let mut vocabulary = Vocabulary::default();
        let (mut kept, mut left, mut words) = (Vec::new(), memory, 0);
        for shard in store.shards() {
            interrupt::check()?;
            let count = |&first: &usize| counted(shard, first..shard.rows().min(first + CHUNK));
            let chunks: Vec<usize> = (0..shard.rows()).step_by(CHUNK).collect();
            let mut postings = Some(Postings::default());
            for some in chunks.chunks(2 * rayon::current_num_threads()) {
                for (own, chunk) in some.par_iter().map(count).collect::<Result<Vec<_>>>()? {
                    words += chunk.lengths.iter().map(|&length| u64::from(length)).sum::<u64>();
                    let numbers = vocabulary.merge(own);
                    postings = postings.filter(|postings| postings.bytes() + chunk.bytes() <= left);
                    if let Some(postings) = &mut postings {
                        postings.extend(&chunk, &numbers);
                    }
                }
            }
            // Once one is too many, there is hardly room for others.
            left = postings.as_ref().map_or(0, |postings| left - postings.bytes());
            kept.push(postings);
            shard.release();
        }
        let records = store.rows() as f64;
        let mean_length = (words as f64 / records.max(1.0)).max(1.0);
        Ok(Self { store, records, mean_length, vocabulary, kept })
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
        let mut by_word = vec![NONE; self.vocabulary.frequencies.len()];
        for (word, term) in terms.keys().zip(0..) {
            if let Some(&number) = self.vocabulary.numbers.get(word.as_str()) {
                by_word[number as usize] = term;
            }
        }
        let cuts = Mutex::new(Cuts { made: HashMap::new(), left: CUTS });
        Bm25Queries { texts: self, terms: by_word, asking: terms.into_values().collect(), cuts }
    }

    /// `None` for a word that no record has.
    fn idf(&self, word: &str) -> Option<f64> {
        let n = f64::from(self.vocabulary.frequencies[*self.vocabulary.numbers.get(word)? as usize]);
        Some(((self.records - n + 0.5) / (n + 0.5)).ln_1p())
    }
}

/// The words of these records of a shard, numbered among themselves.
fn counted(shard: &Shard, rows: Range<usize>) -> Result<(Vocabulary, Postings)> {
    let (mut vocabulary, mut postings) = (Vocabulary::default(), Postings::default());
    let mut numbers = Vec::new();
    for row in rows {
        numbers.clear();
        each_word_of(&shard.record(row)?, |word| numbers.push(vocabulary.number(word)));
        numbers.sort_unstable();
        for same in numbers.chunk_by(|a, b| a == b) {
            vocabulary.frequencies[same[0] as usize] += 1;
            postings.words.push((same[0], same.len() as u32));
        }
        postings.ends.push(postings.words.len());
        postings.lengths.push(numbers.len() as u32);
    }
    Ok((vocabulary, postings))
}

impl Vocabulary {
    /// The word's number, its next where it is new.
    fn number(&mut self, word: &str) -> u32 {
        if let Some(&number) = self.numbers.get(word) {
            return number;
        }
        self.add(word.into(), 0)
    }

    /// A word that is new, in so many records.
    fn add(&mut self, word: Box<str>, frequency: u32) -> u32 {
        let number = self.frequencies.len() as u32;
        self.numbers.insert(word, number);
        self.frequencies.push(frequency);
        number
    }

    /// Takes in the words of other records: what number each has here.
    fn merge(&mut self, other: Self) -> Vec<u32> {
        let mut numbers = vec![0; other.frequencies.len()];
        for (word, own) in other.numbers {
            let frequency = other.frequencies[own as usize];
            numbers[own as usize] = match self.numbers.get(&word) {
                Some(&number) => {
                    self.frequencies[number as usize] += frequency;
                    number
                }
                None => self.add(word, frequency),
            };
        }
        numbers
    }
}

impl Postings {
    /// The words of the next records, whose numbers are these here.
    fn extend(&mut self, next: &Self, numbers: &[u32]) {
        let start = self.words.len();
        self.words.extend(next.words.iter().map(|&(word, times)| (numbers[word as usize], times)));
        self.ends.extend(next.ends.iter().map(|end| start + end));
        self.lengths.extend_from_slice(&next.lengths);
    }

    /// The words of record `row`, and L_i.
    fn of(&self, row: usize) -> (&[(u32, u32)], u32) {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        (&self.words[start..self.ends[row]], self.lengths[row])
    }

    fn bytes(&self) -> usize {
        size_of_val(self.words.as_slice()) + size_of_val(self.ends.as_slice()) + size_of_val(self.lengths.as_slice())
    }
}

/// Some queries, ready to score records by.
#[derive(Debug)]
pub struct Bm25Queries<'a> {
    texts: &'a Bm25<'a>,
    /// By the number of a word: which of the queries' words it is, in alphabetical order.
    terms: Vec<u32>,
    /// By a word of the queries: those that have it, ascending, and its weight there.
    asking: Vec<Vec<(usize, f64)>>,
    cuts: Mutex<Cuts>,
}

/// Those that were made for the queries asked together, which are the same for every tile of rows.
#[derive(Debug)]
struct Cuts {
    made: HashMap<Vec<usize>, Arc<Cut>>,
    /// Bytes.
    left: usize,
}

/// Who of some queries asks for each word: their places among themselves, and the word's weight there.
#[derive(Debug)]
struct Cut {
    asking: Vec<(u32, f64)>,
    /// By word, where its queries end among them.
    ends: Vec<u32>,
}

impl Cut {
    fn new(asking: &[Vec<(usize, f64)>], places: &Places) -> Self {
        let mut cut = Self { asking: Vec::new(), ends: Vec::with_capacity(asking.len()) };
        for asking in asking {
            cut.asking.extend(places.of(asking).map(|(place, weight)| (place as u32, weight)));
            cut.ends.push(cut.asking.len() as u32);
        }
        cut
    }

    fn of(&self, term: u32) -> impl Iterator<Item = (usize, f64)> {
        let start = if term == 0 { 0 } else { self.ends[term as usize - 1] };
        let asking = &self.asking[start as usize..self.ends[term as usize] as usize];
        asking.iter().map(|&(place, weight)| (place as usize, weight))
    }

    fn bytes(&self) -> usize {
        size_of_val(self.asking.as_slice()) + size_of_val(self.ends.as_slice())
    }
}

impl Bm25Queries<'_> {
    /// `None` where there is no room for it.
    fn cut(&self, asked: &[usize], places: &Places) -> Option<Arc<Cut>> {
        let mut cuts = lock(&self.cuts);
        if let Some(cut) = cuts.made.get(asked) {
            return Some(cut.clone());
        }
        if cuts.left < self.asking.len() * size_of::<u32>() {
            return None;
        }
        let cut = Arc::new(Cut::new(&self.asking, places));
        cuts.left = cuts.left.saturating_sub(cut.bytes() + size_of_val(asked));
        cuts.made.insert(asked.to_vec(), cut.clone());
        Some(cut)
    }

    /// The queries' words in a record, each with how often, in alphabetical order, into `matches`; and how many words
    /// it has in all.
    fn matches(&self, shard: usize, row: usize, matches: &mut Vec<(u32, u32)>) -> Result<u32> {
        matches.clear();
        if let Some(postings) = &self.texts.kept[shard] {
            let (words, length) = postings.of(row);
            let terms = words.iter().map(|&(word, times)| (self.terms[word as usize], times));
            matches.extend(terms.filter(|&(term, _)| term != NONE));
            matches.sort_unstable();
            return Ok(length);
        }
        let mut length = 0;
        each_word_of(&self.texts.store.shards()[shard].record(row)?, |word| {
            length += 1;
            let term = self.texts.vocabulary.numbers.get(word).map_or(NONE, |&number| self.terms[number as usize]);
            if term != NONE {
                matches.push((term, 1));
            }
        });
        matches.sort_unstable();
        matches.dedup_by(|next, before| {
            let same = next.0 == before.0;
            before.1 += u32::from(same);
            same
        });
        Ok(length)
    }
}

impl Scorer for Bm25Queries<'_> {
    /// Sums are in f64, in alphabetical order of the words.
    fn score(&self, shard: usize, rows: Range<usize>, asked: &[usize], scores: &mut [f32]) -> Result<()> {
        let count = rows.len();
        let places = Places::new(asked);
        let cut = self.cut(asked, &places);
        let mut sums = vec![0.0_f64; asked.len()];
        let mut matches = Vec::new();
        for (at, row) in rows.enumerate() {
            sums.fill(0.0);
            let length = self.matches(shard, row, &mut matches)?;
            let norm = K1 * (1.0 - B + B * f64::from(length) / self.texts.mean_length);
            for &(term, times) in &matches {
                let share = f64::from(times) * (K1 + 1.0) / (f64::from(times) + norm);
                let mut add = |(place, weight): (usize, f64)| sums[place] += weight * share;
                match &cut {
                    Some(cut) => cut.of(term).for_each(&mut add),
                    None => places.of(&self.asking[term as usize]).for_each(&mut add),
                }
            }
            for (query, &sum) in sums.iter().enumerate() {
                scores[query * count + at] = sum as f32;
            }
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        let bytes =
            |(kept, shard): (&Option<Postings>, &Shard)| kept.as_ref().map_or(shard.text_bytes(), Postings::bytes);
        self.texts.kept.iter().zip(self.texts.store.shards()).map(bytes).sum()
    }
}

/// Where the queries that are asked stand among themselves.
struct Places {
    first: usize,
    /// From the first on.
    places: Vec<u32>,
}

impl Places {
    fn new(asked: &[usize]) -> Self {
        let (first, end) = (asked.iter().min().map_or(0, |&q| q), asked.iter().max().map_or(0, |q| q + 1));
        let mut places = vec![NONE; end - first];
        asked.iter().zip(0..).for_each(|(query, place)| places[query - first] = place);
        Self { first, places }
    }

    /// Where those of some queries, ascending, stand that are asked, each with its weight.
    fn of(&self, asking: &[(usize, f64)]) -> impl Iterator<Item = (usize, f64)> {
        let start = asking.partition_point(|(query, _)| *query < self.first);
        let end = asking.partition_point(|(query, _)| *query < self.first + self.places.len());
        let place = |&(query, weight): &(usize, f64)| (self.places[query - self.first], weight);
        let asked = asking[start..end].iter().map(place).filter(|(place, _)| *place != NONE);
        asked.map(|(place, weight)| (place as usize, weight))
    }
}

/// Hands over the words of both segments.
fn each_word_of(record: &StoredRecord, mut take: impl FnMut(&str)) {
    each_word(&record.text, &mut take);
    if let Some(pair) = &record.pair {
        each_word(pair, &mut take);
    }
}

/// The words that count, in lower case.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    each_word(text, &mut |word| all.push(word.to_owned()));
    all
}

/// Hands over the words that count, in lower case. Those of ASCII are put so together: their borders stay.
fn each_word(text: &str, take: &mut impl FnMut(&str)) {
    let is_word = |word: &&str| word.chars().any(char::is_alphanumeric);
    if text.is_ascii() {
        let lower = text.to_ascii_lowercase();
        Segmentation::Segmenter.split(&lower).into_iter().filter(is_word).for_each(take);
    } else {
        Segmentation::Segmenter.split(text).into_iter().filter(is_word).for_each(|word| take(&word.to_lowercase()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_who_of_the_queries_asks() {
        let asking = |term: usize| (0..40_usize).filter(move |query| (query * 7 + term).is_multiple_of(term + 1));
        let asking: Vec<Vec<(usize, f64)>> =
            (0..12).map(|term| asking(term).map(|query| (query, (100 * term + query) as f64)).collect()).collect();
        let all: Vec<usize> = (0..40).collect();
        let blocks: [&[usize]; 5] = [&[], &[17], &[3, 4, 5, 6], &[39, 0, 20], &all];
        for asked in blocks {
            let places = Places::new(asked);
            let cut = Cut::new(&asking, &places);
            for (term, asking) in asking.iter().enumerate() {
                let place = |query: usize| asked.iter().position(|&asked| asked == query);
                let expected: Vec<_> =
                    asking.iter().filter_map(|&(query, weight)| Some((place(query)?, weight))).collect();
                assert_eq!(cut.of(term as u32).collect::<Vec<_>>(), expected, "{asked:?}, word {term}");
                assert_eq!(places.of(asking).collect::<Vec<_>>(), expected, "{asked:?}, word {term}");
            }
        }
    }
}
