//! Questions as a selector learns from them: each sentence of a context, and whether it is evidence.

use std::sync::Arc;

use super::token_data::{Gold, TokenExample};
use crate::dataset::{Label, Record};
use crate::model::{Term, Trainee};
use crate::task::{self, characters};
use crate::tokens::{Encoding, MarkedWindow};

/// Which sentences of a context are evidence, `[sentences]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence(pub Vec<bool>);

/// The sentences of a record's context in windows, each with what it should have said.
pub(super) fn examples(
    trainee: &Trainee,
    markers: &[String; 2],
    record: &Record,
    weight: f64,
) -> Result<Vec<TokenExample>, String> {
    let context = record.pair.as_deref().unwrap_or_default();
    let places = task::sentences(context);
    let texts: Vec<&str> = places.iter().map(|&(start, end)| characters(context, start, end)).collect();
    let evidence = Arc::new(Evidence(evidence(record, &places, &texts)?));
    let windows = trainee
        .tokenizer()
        .marked(&texts, &record.text, markers, trainee.max_length())
        .map_err(|error| error.to_string())?;
    let example = |MarkedWindow { encoding, sentences }: MarkedWindow| {
        let term = |&(number, tokens): &(usize, [u32; 2])| Term::Class {
            tokens: tokens.to_vec(),
            class: u32::from(evidence.0[number]),
        };
        TokenExample {
            terms: sentences.iter().map(term).collect(),
            encoding: Encoding { tokens: vec![], words: vec![], offsets: vec![], ..encoding },
            weight,
            index: record.index,
            id: record.id.clone(),
            gold: Gold::Sentences(Arc::clone(&evidence)),
        }
    };
    Ok(windows.into_iter().map(example).collect())
}

/// Which sentences hold a right answer: some of its characters where its place is said, else all of its text.
fn evidence(record: &Record, places: &[(usize, usize)], texts: &[&str]) -> Result<Vec<bool>, String> {
    let Some(Label::Answers(answers)) = &record.label else {
        return Err("answers: expected what is right, found none".to_owned());
    };
    let holds = |(&(start, end), text): (&(usize, usize), &&str)| {
        answers.iter().any(|answer| match answer.start {
            Some(place) => place < end && place + answer.text.chars().count().max(1) > start,
            None => text.contains(answer.text.as_str()),
        })
    };
    Ok(places.iter().zip(texts).map(holds).collect())
}
