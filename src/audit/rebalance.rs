//! The other remedy for words that tell a label: more of the records that have the word and another label (`TrustAI`'s
//! distribution correction).

use std::collections::HashMap;

use rayon::prelude::*;

use super::bias::{BiasedWord, LabelledText, distinct_words};
use crate::error::Result;
use crate::explain::Segmentation;
use crate::random::{Purpose, Stream};

/// How many more times each record should come.
///
/// For each word with m records of its label and n ≥ 1 of others, min(m − n, 2n) of those others are drawn with
/// replacement; a record that several words ask for comes as often as the one that asks most.
///
/// # Errors
/// Those of `read`.
pub fn extra_copies(
    records: usize,
    words: &[BiasedWord],
    segmentation: Segmentation,
    seed: u64,
    read: &(dyn Fn(usize) -> Result<Option<LabelledText>> + Sync),
) -> Result<Vec<u32>> {
    let numbers: HashMap<&str, usize> = words.iter().enumerate().map(|(i, word)| (word.word.as_str(), i)).collect();
    let of = |record: usize| -> Result<Vec<(usize, bool)>> {
        let Some((class, text, pair)) = read(record)? else { return Ok(Vec::new()) };
        let found = distinct_words(&text, pair.as_deref(), segmentation);
        let found = found.iter().filter_map(|word| numbers.get(word.as_str()));
        Ok(found.map(|&word| (word, words[word].class == class)).collect())
    };
    let found: Vec<Vec<(usize, bool)>> = (0..records).into_par_iter().map(of).collect::<Result<_>>()?;
    let mut with = vec![0_usize; words.len()];
    let mut others: Vec<Vec<usize>> = vec![Vec::new(); words.len()];
    for (record, found) in found.iter().enumerate() {
        for &(word, has_label) in found {
            if has_label {
                with[word] += 1;
            } else {
                others[word].push(record);
            }
        }
    }
    let draws = Stream::new(seed, Purpose::Shuffle);
    let mut copies = vec![0_u32; records];
    for (word, others) in others.iter().enumerate().filter(|(_, others)| !others.is_empty()) {
        let wanted = with[word].saturating_sub(others.len()).min(2 * others.len());
        let mut asked: HashMap<usize, u32> = HashMap::new();
        for sample in 0..wanted {
            let at = draws.below(others.len() as u32, sample as u32, word as u32) as usize;
            *asked.entry(others[at]).or_default() += 1;
        }
        for (record, times) in asked {
            copies[record] = copies[record].max(times);
        }
    }
    Ok(copies)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{BiasOptions, biased_words};

    #[test]
    fn the_rarer_side_of_a_word_comes_more_often_and_the_rest_once() {
        let record = |i: usize| {
            let text = if i < 20 { format!("spielberg film {i}") } else { format!("other film {i}") };
            (usize::from(i >= 19 && i % 2 == 1), text, None)
        };
        let read = |i: usize| Ok(Some(record(i)));
        let options = BiasOptions { false_discovery: 1.0, ..BiasOptions::default() };
        let words: Vec<BiasedWord> =
            biased_words(60, 2, &options, &read).unwrap().into_iter().filter(|word| word.word == "spielberg").collect();
        assert_eq!((words[0].class, words[0].count, words[0].with_class), (0, 20, 19));
        let copies = extra_copies(60, &words, Segmentation::Segmenter, 0, &read).unwrap();
        assert_eq!(copies.iter().enumerate().filter(|(_, n)| **n > 0).collect::<Vec<_>>(), [(19, &2)]);
    }
}
