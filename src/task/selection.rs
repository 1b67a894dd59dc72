//! Which sentences of a context are chosen to answer a question from, by a model that was trained to (the Selector of
//! Selector-Predictor).

use serde::{Deserialize, Serialize};

/// What a selector's directory has beside the model: which tokens stand around a sentence, and how likely it must be to
/// be kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectorSettings {
    /// Raised whenever what an earlier number says would be read wrongly.
    pub format: u32,
    /// Before and after each sentence.
    pub markers: [String; 2],
    /// Sentences that are evidence with at least this probability are kept.
    pub threshold: f64,
}

impl SelectorSettings {
    /// The file's name.
    pub const FILE: &'static str = "selector.json";
    /// The names of a selector's classes.
    pub const CLASSES: [&'static str; 2] = ["irrelevant", "evidence"];
    const FORMAT: u32 = 1;

    /// Reads what a selector's directory says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let settings: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string().replace('\n', " "))?;
        match settings.format {
            Self::FORMAT => Ok(settings),
            found => Err(format!("format: expected {}, found {found}", Self::FORMAT)),
        }
    }
}

impl Default for SelectorSettings {
    fn default() -> Self {
        Self { format: Self::FORMAT, markers: ["[BSENT]".to_owned(), "[ESENT]".to_owned()], threshold: 0.1 }
    }
}

/// Which sentences are kept: those that are evidence with a probability of at least `threshold`, no more than `most` of
/// them, and the likeliest (the first of several) whatever it has.
pub fn kept(probabilities: &[f64], threshold: f64, most: Option<usize>) -> Vec<bool> {
    let mut ranked: Vec<usize> = (0..probabilities.len()).collect();
    ranked.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]).then(a.cmp(&b)));
    let mut kept = vec![false; probabilities.len()];
    for (rank, &sentence) in ranked.iter().enumerate() {
        let enough = probabilities[sentence] >= threshold && most.is_none_or(|most| rank < most);
        kept[sentence] = enough || rank == 0;
    }
    kept
}

/// How well sentences are selected, over many contexts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SelectionCounts {
    kept: u64,
    right: u64,
    contexts: u64,
    found: u64,
}

impl SelectionCounts {
    /// Adds one context's sentences: kept, and whether they are evidence.
    pub fn add(&mut self, sentences: impl Iterator<Item = (bool, bool)>) {
        let (mut has, mut found) = (false, false);
        for (kept, evidence) in sentences {
            self.kept += u64::from(kept);
            self.right += u64::from(kept && evidence);
            has |= evidence;
            found |= kept && evidence;
        }
        self.contexts += u64::from(has);
        self.found += u64::from(found);
    }

    /// The share of sentences kept that are evidence.
    pub fn precision(&self) -> f64 {
        self.right as f64 / self.kept.max(1) as f64
    }

    /// The share of contexts with evidence of which at least one sentence of it was kept.
    pub fn recall(&self) -> f64 {
        self.found as f64 / self.contexts.max(1) as f64
    }

    /// What a selector is chosen by: `0.2 precision + 0.8 recall`.
    pub fn criterion(&self) -> f64 {
        0.2 * self.precision() + 0.8 * self.recall()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_sentence_is_kept_whatever_it_has() {
        assert_eq!(kept(&[0.02, 0.05, 0.05], 0.1, None), [false, true, false]);
        assert_eq!(kept(&[0.2, 0.9, 0.1], 0.1, None), [true, true, true]);
        assert_eq!(kept(&[0.2, 0.9, 0.1], 0.1, Some(2)), [true, true, false]);
        assert!(kept(&[], 0.1, None).is_empty());
    }

    #[test]
    fn settings_are_read_as_they_are_written() {
        let settings = SelectorSettings::default();
        assert_eq!(SelectorSettings::parse(&serde_json::to_vec(&settings).unwrap()), Ok(settings));
        assert!(SelectorSettings::parse(br#"{"format":9,"markers":["a","b"],"threshold":0.1}"#).is_err());
        assert!(SelectorSettings::parse(b"{}").is_err());
    }

    #[test]
    fn recall_is_over_contexts_and_precision_over_sentences() {
        let mut counts = SelectionCounts::default();
        counts.add([(true, true), (true, false), (false, true)].into_iter());
        counts.add([(false, true), (true, false)].into_iter());
        counts.add([(true, false)].into_iter());
        assert!((counts.precision() - 0.25).abs() < 1e-12 && (counts.recall() - 0.5).abs() < 1e-12);
        assert!((counts.criterion() - 0.45).abs() < 1e-12);
    }
}
