//! Which training questions have a wrong answer.
//!
//! An answer is a place among the tokens of its context, and a store keeps of all those tokens one sum a boundary: no
//! head can be refitted without a question, as labels are judged by. What is left are the model's loss, what the answer
//! does to its own loss, and the words, which no model has seen.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use super::dirty::{DirtyOptions, Signal, rank_scores};
use super::labelled::expect_own_labels;
use super::neighbours;
use super::units::have_labels;
use crate::error::{Error, Result};
use crate::factors::{Curvature, CurvatureOptions};
use crate::lexical;
use crate::model::Task;
use crate::search::{FactorSet, Hit, stored_bundle};
use crate::store::{Store, StoredRecord};
use crate::task::{characters, sentences};

/// The questions of a store that have an answer, the most suspect first.
#[derive(Clone, Debug, PartialEq)]
pub struct DirtyAnswers {
    /// Rows of the store, by falling score, ties by ascending row.
    pub ranking: Vec<usize>,
    /// By row: what questions are ranked by. NaN without an answer of its own.
    pub scores: Vec<f32>,
    /// The signals that were computed, by row. NaN without an answer of its own.
    pub signals: Vec<(Signal, Vec<f32>)>,
    /// By row: the sentence of the context that fits the question's words better than the answer's, by its first and
    /// last character, where there is one.
    pub sentences: Vec<Option<(usize, usize)>>,
    /// By row: the questions whose answers are most alike. Empty where they were not looked for.
    pub neighbours: Vec<Vec<Hit>>,
}

/// Ranks the questions of a store by how suspect their answers are.
///
/// # Errors
/// [`Error::Usage`]: a store of other records than questions, of predicted answers, or without any; a signal that has
/// no meaning for answers; [`Error::Interrupted`]; what the store cannot be read for.
pub fn dirty_answers(store: &Store, options: &DirtyOptions<'_>) -> Result<DirtyAnswers> {
    if store.settings().task() != Task::Spans {
        return Err(Error::usage("the store's records are no questions"));
    }
    expect_own_labels(store)?;
    let own = have_labels(store)?;
    if !own.contains(&true) {
        return Err(Error::usage("no record of the store has an answer of its own"));
    }
    let made = match options.signal {
        Signal::Combined => vec![Signal::Text, Signal::SelfInfluence, Signal::Loss],
        one @ (Signal::Text | Signal::SelfInfluence | Signal::Loss) => vec![one],
        other => {
            return Err(Error::usage(format!(
                "the signal {other}: is of labels that are one of a few classes, and answers are places"
            ))
            .with_hint("use combined, text, self-influence or loss"));
        }
    };
    let fits = fits(store)?;
    let mut signals = Vec::new();
    for signal in made {
        let mut values = match signal {
            Signal::Text => fits.iter().map(|fit| fit.doubt).collect(),
            Signal::SelfInfluence => self_influence(store, options)?,
            _ => losses(store),
        };
        values.iter_mut().zip(&own).filter(|(_, own)| !**own).for_each(|(value, _)| *value = f32::NAN);
        signals.push((signal, values));
    }
    let scores = combined(&signals);
    let mut ranking: Vec<usize> = (0..scores.len()).filter(|&row| !scores[row].is_nan()).collect();
    ranking.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let rows: Vec<usize> = (0..store.rows()).collect();
    let neighbours = neighbours::nearest_of(store, &rows, options.neighbours, &options.search)?;
    Ok(DirtyAnswers {
        ranking,
        scores,
        signals,
        sentences: fits.into_iter().map(|fit| fit.better).collect(),
        neighbours,
    })
}

/// One signal itself; of several the sum of their ranks' log-odds.
fn combined(signals: &[(Signal, Vec<f32>)]) -> Vec<f32> {
    if let [(_, only)] = signals {
        return only.clone();
    }
    let ranks: Vec<Vec<f32>> = signals.iter().map(|(_, values)| rank_scores(values)).collect();
    (0..signals[0].1.len()).map(|row| ranks.iter().map(|ranks| ranks[row]).sum()).collect()
}

/// The mean loss of each answer's boundaries.
fn losses(store: &Store) -> Vec<f32> {
    let of_shard = |shard: &crate::store::Shard| {
        let offsets = shard.factor_offsets().unwrap_or_default();
        let mean = |(loss, ends): (&f32, &[u64])| loss / (ends[1] - ends[0]).max(1) as f32;
        shard.losses().iter().zip(offsets.windows(2)).map(mean).collect::<Vec<f32>>()
    };
    store.shards().iter().flat_map(of_shard).collect()
}

fn self_influence(store: &Store, options: &DirtyOptions<'_>) -> Result<Vec<f32>> {
    let curvature = CurvatureOptions { damping: options.damping, ..CurvatureOptions::default() };
    let bundle = |row| stored_bundle(store, row, FactorSet::Final).unwrap_or_default();
    Curvature::fit(store, curvature, options.keep_going)?.self_influence_of_bundles(
        store.rows(),
        &bundle,
        options.keep_going,
    )
}

/// How an answer's place fits the words of its question.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Fit {
    /// How much more of the question's words the best other sentence has than the answer's own (from −1 to 1), and what
    /// share of the answer's words the question says already.
    doubt: f32,
    /// That sentence, where it has more.
    better: Option<(usize, usize)>,
}

fn fits(store: &Store) -> Result<Vec<Fit>> {
    let texts = |row: usize| -> Result<HashSet<String>> {
        let record = store.record(row)?;
        Ok(lexical::words(&record.pair.unwrap_or_default()).into_iter().collect())
    };
    let words: Vec<HashSet<String>> = (0..store.rows()).into_par_iter().map(texts).collect::<Result<_>>()?;
    let mut frequencies: HashMap<String, u32> = HashMap::new();
    for word in words.into_iter().flatten() {
        *frequencies.entry(word).or_default() += 1;
    }
    let rarity =
        |word: &str| (1.0 + store.rows() as f32 / (1.0 + frequencies.get(word).copied().unwrap_or(0) as f32)).ln();
    (0..store.rows()).into_par_iter().map(|row| store.record(row).map(|record| fit(&record, &rarity))).collect()
}

fn fit(record: &StoredRecord, rarity: &dyn Fn(&str) -> f32) -> Fit {
    let (Some(context), Some(said)) = (record.pair.as_deref(), &record.said) else { return Fit::default() };
    let (Some(first), Some(last)) = (said.parts.first(), said.parts.get(1)) else { return Fit::default() };
    if last.end <= first.start {
        // That there is no answer is said at no place.
        return Fit::default();
    }
    let mut asked = lexical::words(&record.text);
    asked.sort_unstable();
    asked.dedup();
    let all: f32 = asked.iter().map(|word| rarity(word)).sum();
    let share = |start: usize, end: usize| -> f32 {
        let there: HashSet<String> = lexical::words(characters(context, start, end)).into_iter().collect();
        asked.iter().filter(|word| there.contains(*word)).map(|word| rarity(word)).sum::<f32>()
            / all.max(f32::MIN_POSITIVE)
    };
    let (mut own, mut other, mut better) = (0.0_f32, 0.0_f32, None);
    for (start, end) in sentences(context) {
        let share = share(start, end);
        if start < last.end && first.start < end {
            own = own.max(share);
        } else if share > other {
            (other, better) = (share, Some((start, end)));
        }
    }
    let answer = lexical::words(characters(context, first.start, last.end));
    let said_already =
        answer.iter().filter(|word| asked.binary_search(word).is_ok()).count() as f32 / answer.len().max(1) as f32;
    Fit { doubt: other - own + said_already, better: better.filter(|_| other > own) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{FactorPart, Said};

    fn question(text: &str, context: &str, answer: &str) -> StoredRecord {
        let start = context.find(answer).unwrap();
        let part = |target: &str| FactorPart { start, end: start + answer.len(), target: target.to_owned() };
        let said = Said { parts: vec![part("start"), part("end")], ..Said::default() };
        StoredRecord { text: text.into(), pair: Some(context.into()), said: Some(said), ..StoredRecord::default() }
    }

    #[test]
    fn an_answer_beside_the_question_s_words_is_suspect() {
        let context = "Anna lives in Rome. Bruno plays the flute. The shop is closed.";
        let even = |_: &str| 1.0;
        let right = fit(&question("Where does Anna live?", context, "Rome"), &even);
        let wrong = fit(&question("Where does Anna live?", context, "flute"), &even);
        assert_eq!((right.better, wrong.better), (None, Some((0, 20))));
        assert!((right.doubt + 0.25).abs() < 1e-6 && (wrong.doubt - 0.25).abs() < 1e-6, "{right:?} {wrong:?}");
        let echo = fit(&question("Where does Anna live?", context, "Anna"), &even);
        assert!((echo.doubt - 0.75).abs() < 1e-6, "{echo:?}");
    }
}
