//! Tags: a factor for each word, at its first token; or for one token that is asked about.

use std::ops::Range;

use serde_json::Value;

use super::{Against, Bundled, Bundler, likeliest, row};
use crate::factors::{self, Bundle, mean_features};
use crate::model::{Outputs, Problem};
use crate::pipeline::predict_tokens::{Tagged, characters};
use crate::pipeline::windows::Encoded;
use crate::report::TargetSpan;
use crate::store::{FactorPart, Said};
use crate::task;
use crate::tokens::Encoding;

/// What a tag is at.
#[derive(Clone, Copy)]
struct Word {
    /// Its first, among the sequence's.
    token: usize,
    /// What its loss is against.
    class: usize,
    /// Its first Unicode character.
    start: usize,
    /// One past its last.
    end: usize,
}

impl Bundler<'_> {
    /// The factors of a record's words.
    pub(super) fn of_tags(&self, encoded: Encoded, outputs: &[&[Outputs]]) -> Result<Bundled, String> {
        let Encoded { record, sequences } = encoded;
        let (encoding, _) = sequences.into_iter().next().unwrap_or_default();
        let (names, classes) = (self.model().class_names().names(), self.model().classes());
        let tagged = Tagged::new(self.model(), &record, &encoding, &outputs[0][0]);
        let gold = tagged.gold.as_ref().filter(|_| self.is_gold());
        let class = |word: usize, predicted: usize| match (&self.against, gold) {
            (Against::Class(class), _) => *class,
            (_, Some(tags)) => names.iter().position(|name| *name == tags[word]).unwrap_or(predicted),
            _ => predicted,
        };
        let own = |word: usize| {
            let own = tagged.words[word].as_ref()?;
            Some(Word { token: own.token, class: class(word, own.class), start: own.start, end: own.end })
        };
        let words: Vec<Word> = match self.token {
            None => (0..tagged.words.len()).filter_map(own).collect(),
            Some(token) => vec![self.asked_word(&tagged, &encoding, &outputs[0][0], token, class)?],
        };
        if words.is_empty() {
            return Err("the text has no word to tag".to_owned());
        }
        let tags = words.iter().map(|word| Some(names[word.class].as_str()));
        let entities = task::entities(tags);
        let bundle = |outputs: &&[Outputs]| {
            let Outputs { features, logits } = &outputs[0];
            let mut bundle = Bundle::default();
            for &Word { token, class, .. } in &words {
                bundle.push_class(row(features, token, self.model().width()), row(logits, token, classes), class);
            }
            bundle
        };
        let in_entities: Vec<usize> =
            entities.iter().flat_map(|(_, range)| range.clone()).map(|word| words[word].token).collect();
        let all = words.iter().map(|word| word.token).collect();
        let rows = if in_entities.is_empty() { all } else { in_entities };
        let entity = |kind: &str, start, end| format!("{kind}: {}", characters(&record.text, start, end));
        let ranges = |found: &[(String, Range<usize>)], place: &dyn Fn(usize) -> (usize, usize)| -> Value {
            found.iter().map(|(kind, of)| entity(kind, place(of.start).0, place(of.end - 1).1)).collect()
        };
        let target = match self.token {
            Some(_) => Value::from(names[words[0].class].as_str()),
            None => ranges(&entities, &|word| (words[word].start, words[word].end)),
        };
        let given = record.words.as_deref().unwrap_or_default();
        let label = tagged
            .gold
            .as_ref()
            .map(|tags| ranges(&task::entities(tags.iter().map(|tag| Some(tag.as_str()))), &|word| given[word]));
        let asked = self.token.map(|_| words[0]);
        let of_asked = |Word { token, class, .. }: Word| {
            factors::probabilities(Problem::SingleLabel, row(&outputs[0][0].logits, token, classes))[class]
        };
        let part = |word: &Word| FactorPart { start: word.start, end: word.end, target: names[word.class].clone() };
        Ok(Bundled {
            bundles: outputs.iter().map(bundle).collect(),
            mean: mean_features(&outputs[0][0].features, self.model().width(), rows),
            said: Said {
                label,
                predicted: tagged.entities.iter().map(|of| entity(&of.kind, of.start, of.end)).collect(),
                target,
                parts: words.iter().map(part).collect(),
            },
            span: asked.map(|Word { start, end, .. }| TargetSpan { start, end, segment: 0 }),
            probability: asked.map(of_asked),
            record,
        })
    }

    /// The token asked about.
    fn asked_word(
        &self,
        tagged: &Tagged,
        encoding: &Encoding,
        outputs: &Outputs,
        token: usize,
        class: impl Fn(usize, usize) -> usize,
    ) -> Result<Word, String> {
        let place = encoding.offsets.get(token).copied().flatten();
        let (start, end) = place
            .ok_or_else(|| format!("token {token}: expected one of the text's own among {}", encoding.ids.len()))?;
        let word = tagged.words.iter().position(|word| word.as_ref().is_some_and(|word| word.token == token));
        let classes = self.model().classes();
        let predicted = likeliest(row(&outputs.logits, token, classes));
        match (word, &self.against) {
            (Some(word), _) => Ok(Word { token, class: class(word, predicted), start, end }),
            (None, Against::Class(class)) => Ok(Word { token, class: *class, start, end }),
            (None, Against::Predicted) => Ok(Word { token, class: predicted, start, end }),
            (None, _) => Err(format!("token {token} is no word's first, and the target is gold")),
        }
    }
}
