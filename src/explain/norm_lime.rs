//! NormLIME (Ahern et al. 2019): the features that speak for a class anywhere, from LIME's weights in many records.
//!
//! A weight w > 0 in a record counts as `w²/Σ|w|`, w as a share of all the record's weights times itself; a feature's
//! importance for a class is the mean over its occurrences with w > 0. As in `TrustAI`, a feature that a record holds
//! twice occurs twice (in the paper, whose features are words of a bag, once).

use std::collections::BTreeMap;

use super::{Features, Scores, Subject};

/// The weights of many records, added up in the order in which they come.
#[derive(Clone, Debug, Default)]
pub struct NormLime {
    features: Features,
    /// By class and feature, the sum and number of its shares.
    sums: BTreeMap<String, BTreeMap<String, (f64, u64)>>,
}

/// How much a feature speaks for a class.
#[derive(Clone, Debug, PartialEq)]
pub struct GlobalWeight {
    /// The class's name.
    pub class: String,
    /// A token as the tokenizer has it, or a word as the texts have it.
    pub feature: String,
    /// The mean of `w²/Σ|w|`.
    pub weight: f64,
    /// Over so many occurrences.
    pub count: u64,
}

impl NormLime {
    /// Of tokens or words. LIME must have left out the same, or a word's weight is the sum of its tokens'.
    pub fn new(features: Features) -> Self {
        Self { features, ..Self::default() }
    }

    /// Adds a record that was explained for a class.
    pub fn add(&mut self, subject: &Subject<'_>, class: &str, scores: &Scores) {
        let weights = self.weights(subject, scores);
        let total: f64 = weights.iter().map(|(_, weight)| weight.abs()).sum();
        let sums = self.sums.entry(class.to_owned()).or_default();
        for (feature, weight) in weights.into_iter().filter(|(_, weight)| *weight > 0.0) {
            let (sum, count) = sums.entry(feature.to_owned()).or_default();
            *sum += weight / total * weight;
            *count += 1;
        }
    }

    /// A record's features with their weights.
    fn weights<'a>(&self, subject: &Subject<'a>, scores: &Scores) -> Vec<(&'a str, f64)> {
        match self.features {
            Features::Tokens => {
                let weight = |token: usize| (&*subject.encoding.tokens[token], f64::from(scores.tokens[token]));
                subject.own_tokens().map(weight).collect()
            }
            Features::Words => {
                let words = subject.words.list().iter().map(|word| &*word.text);
                words.zip(subject.words.scores(&scores.tokens)).map(|(word, w)| (word, f64::from(w))).collect()
            }
        }
    }

    /// Every feature that spoke for a class: by class, those that weigh most first, equals by name.
    pub fn finish(self) -> Vec<GlobalWeight> {
        let mut weights: Vec<GlobalWeight> =
            self.sums.into_iter().flat_map(|(class, sums)| of_class(&class, sums)).collect();
        // Stable: equals stay in the order of their names.
        weights.sort_by(|a, b| a.class.cmp(&b.class).then(b.weight.total_cmp(&a.weight)));
        weights
    }
}

fn of_class(class: &str, sums: BTreeMap<String, (f64, u64)>) -> Vec<GlobalWeight> {
    let weight = |(feature, (sum, count)): (String, (f64, u64))| GlobalWeight {
        class: class.to_owned(),
        feature,
        weight: sum / count as f64,
        count,
    };
    sums.into_iter().map(weight).collect()
}
