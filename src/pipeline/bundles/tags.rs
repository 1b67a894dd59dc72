//! Tags: a factor for each word, at its first token; for the words of one entity; or for one token that is asked about.

use std::ops::Range;

use serde_json::Value;

use super::{Against, Bundled, Bundler, Part, row};
use crate::dataset::Record;
use crate::factors::{self, Bundle, mean_features};
use crate::model::{Outputs, Problem};
use crate::numeric::argmax;
use crate::pipeline::predict_tokens::{NamedEntities, Tagged};
use crate::pipeline::queries::Entities;
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

/// A text, and what each model said of all its tokens.
struct Text<'a> {
    record: &'a Record,
    outputs: &'a [Outputs],
}

/// What is asked about, and what the model and the record say of it.
struct Told {
    target: Value,
    predicted: Value,
    label: Option<Value>,
}

impl Told {
    fn new(target: Value, (predicted, label): (Value, Option<Value>)) -> Self {
        Self { target, predicted, label }
    }
}

impl Bundler<'_> {
    /// The factors of a record's words, of each of the entities that are asked about, or of one token.
    pub(super) fn of_tags(&self, encoded: &Encoded, outputs: &[&[Outputs]]) -> Result<Vec<Bundled>, String> {
        let outputs: Vec<Outputs> = outputs.iter().map(|windows| encoded.whole(windows)).collect();
        let (record, encoding) = (&encoded.record, encoded.text());
        let names = self.model().class_names().names();
        let tagged = Tagged::new(self.model(), record, encoding, &outputs[0]);
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
        let words: Vec<Word> = (0..tagged.words.len()).filter_map(own).collect();
        let text = Text { record, outputs: &outputs };
        let (named, entities) = (NamedEntities::new(record, &tagged), self.entities(&words));
        let name = |(kind, of): &(String, Range<usize>)| named.name(kind, words[of.start].start, words[of.end - 1].end);
        let of_entity = |one: &(String, Range<usize>)| {
            let own = &words[one.1.clone()];
            let said = named.within(own[0].start, own[own.len() - 1].end);
            self.asked(&text, own, Told::new(name(one), said))
        };
        match self.part {
            Part::Whole if words.is_empty() => Err("the text has no word to tag".to_owned()),
            Part::Whole => {
                let in_entities: Vec<usize> =
                    entities.iter().flat_map(|(_, range)| range.clone()).map(|word| words[word].token).collect();
                let all = words.iter().map(|word| word.token).collect();
                let means = if in_entities.is_empty() { all } else { in_entities };
                let told = Told::new(entities.iter().map(name).collect(), named.all());
                Ok(vec![self.of_words(&text, &words, means, told)])
            }
            Part::Token(token) => {
                let word = self.asked_word(&tagged, encoding, &outputs[0], token, class)?;
                let told = Told::new(names[word.class].as_str().into(), tagged.of_token(token));
                Ok(vec![self.asked(&text, &[word], told)])
            }
            Part::Entities(Entities::All) => Ok(entities.iter().map(of_entity).collect()),
            Part::Entities(Entities::Number(number)) => {
                let one = entities.get(number).ok_or_else(|| {
                    format!(
                        "entity {number}: expected one of the text's own, counted from 0, which has {}",
                        entities.len()
                    )
                })?;
                Ok(vec![of_entity(one)])
            }
        }
    }

    /// The entities that some words make by what their losses are against.
    fn entities(&self, words: &[Word]) -> Vec<(String, Range<usize>)> {
        let names = self.model().class_names().names();
        task::entities(words.iter().map(|word| Some(names[word.class].as_str())))
    }

    /// Words that are asked about by themselves: where they are, and the mean probability of their tags.
    fn asked(&self, text: &Text<'_>, words: &[Word], told: Told) -> Bundled {
        let (tokens, classes) = (words.iter().map(|word| word.token).collect(), self.model().classes());
        let probability = |&Word { token, class, .. }: &Word| {
            factors::probabilities(Problem::SingleLabel, row(&text.outputs[0].logits, token, classes))[class]
        };
        let mean = words.iter().map(probability).sum::<f32>() / words.len() as f32;
        let place = |(first, last): (&Word, &Word)| TargetSpan { start: first.start, end: last.end, segment: 0 };
        let span = words.first().zip(words.last()).map(place);
        Bundled { span, probability: Some(mean), ..self.of_words(text, words, tokens, told) }
    }

    /// A factor a word; rules over features compare the mean of the tokens `means`.
    fn of_words(&self, text: &Text<'_>, words: &[Word], means: Vec<usize>, told: Told) -> Bundled {
        let (width, classes) = (self.model().width(), self.model().classes());
        let names = self.model().class_names().names();
        let bundle = |Outputs { features, logits }: &Outputs| {
            let mut bundle = Bundle::default();
            for &Word { token, class, .. } in words {
                bundle.push_class(row(features, token, width), row(logits, token, classes), class);
            }
            bundle
        };
        let part = |word: &Word| FactorPart { start: word.start, end: word.end, target: names[word.class].clone() };
        Bundled {
            bundles: text.outputs.iter().map(bundle).collect(),
            windows: Vec::new(),
            mean: mean_features(&text.outputs[0].features, width, means),
            said: Said {
                label: told.label,
                predicted: told.predicted,
                target: told.target,
                parts: words.iter().map(part).collect(),
            },
            span: None,
            probability: None,
            record: text.record.clone(),
        }
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
        let predicted = argmax(row(&outputs.logits, token, classes));
        match (word, &self.against) {
            (Some(word), _) => Ok(Word { token, class: class(word, predicted), start, end }),
            (None, Against::Class(class)) => Ok(Word { token, class: *class, start, end }),
            (None, Against::Predicted) => Ok(Word { token, class: predicted, start, end }),
            (None, _) => Err(format!("token {token} is no word's first, and the target is gold")),
        }
    }
}
