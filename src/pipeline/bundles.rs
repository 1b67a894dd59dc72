//! Records of models that say something of tokens, as bundles of factors: boundaries of answers, tags of words, pieces behind masks.
//!
//! An answer counts in every window of its context that holds it whole; windows without it say nothing. Where there is no answer, start and end
//! are at the first token of every window, as models are trained that can say so.

use std::ops::Range;

use rayon::prelude::*;
use serde_json::Value;

use super::predict_tokens::{
    Tagged, characters, encoded_masks, encoded_whole, found, gold_span, gold_tags, question_windows,
};
use super::score::Steps;
use super::stream::{Counts, Read};
use super::windows::{Encoded, read_whole};
use super::{Rejections, Settings};
use crate::dataset::{Digest, Label, Place, Record};
use crate::error::{Error, Result};
use crate::factors::{self, Bundle, Target, mean_features};
use crate::interrupt;
use crate::model::{Model, Outputs, Problem, Reads, Task};
use crate::report::TargetSpan;
use crate::store::{FactorPart, Said, TokenSettings};
use crate::task::{self, AnswerOptions};
use crate::tokens::Encoding;

/// What each record's loss is taken against.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Against {
    /// Its own answer, tags or pieces; what the model says where it has none.
    Gold,
    /// The same, and a record without any cannot be used.
    GoldAlone,
    /// What the model says.
    Predicted,
    /// This class.
    Class(usize),
}

/// A record and its factors under each model.
pub(super) struct Bundled {
    pub(super) record: Record,
    /// The first model's, and those of its checkpoints.
    pub(super) bundles: Vec<Bundle>,
    /// `[E]`: what rules over features compare.
    pub(super) mean: Vec<f32>,
    pub(super) said: Said,
    /// The part of the text that is asked about, where that is one.
    pub(super) span: Option<TargetSpan>,
    /// The probability of what is explained, where that is one tag or piece.
    pub(super) probability: Option<f32>,
}

/// A chunk's records.
pub(super) struct BundleChunk {
    pub(super) number: u64,
    pub(super) records: Vec<Bundled>,
    pub(super) digest: Digest,
}

/// How records become bundles, the same for all.
pub(super) struct Bundler<'a> {
    /// The model explained, and checkpoints of its training.
    pub(super) models: &'a [&'a Model],
    pub(super) tokens: TokenSettings,
    pub(super) against: Against,
    /// The one token that is asked about.
    pub(super) token: Option<usize>,
}

/// A record as its models read it, and where it was.
type Placed = (Encoded, Place);

impl Bundler<'_> {
    fn model(&self) -> &Model {
        self.models[0]
    }

    /// A chunk through the models, some records at a time; those that cannot be used are rejected in their order.
    pub(super) fn chunk(
        &self,
        read: Read,
        settings: &Settings,
        rejections: &mut Rejections,
        steps: &mut Steps,
    ) -> Result<(BundleChunk, Counts)> {
        let Read { number, records, places, digest, .. } = read;
        let encode = |(record, place): (Record, Place)| self.encode(record).map(|e| (e, place.clone())).map_err(|r| place.error(r));
        let all: Vec<(Record, Place)> = records.into_iter().zip(places).collect();
        let encoded: Vec<Result<Placed>> = steps.tokenizing.time(|| all.into_par_iter().map(encode).collect());
        let (mut chunk, mut counts) = (BundleChunk { number, records: Vec::new(), digest }, Counts::default());
        let (mut some, mut tokens) = (Vec::new(), 0);
        let network = self.model().network();
        let budget = settings.batch_tokens.unwrap_or_else(|| network.batch_tokens()) * network.workers() * 4;
        for one in encoded {
            match one {
                Err(error) => {
                    // Those before it come first, whatever is wrong with them.
                    tokens = 0;
                    self.run(std::mem::take(&mut some), settings, rejections, steps, &mut chunk)?;
                    rejections.take(error)?;
                }
                Ok(placed) => {
                    let sequences = &placed.0.sequences;
                    tokens += sequences.iter().map(|(encoding, _)| encoding.ids.len()).sum::<usize>();
                    counts.tokens += sequences.iter().map(|(encoding, _)| encoding.ids.len() as u64).sum::<u64>();
                    counts.truncated += sequences.iter().filter(|(encoding, _)| encoding.truncated).count() as u64;
                    some.push(placed);
                }
            }
            if tokens >= budget {
                self.run(std::mem::take(&mut some), settings, rejections, steps, &mut chunk)?;
                tokens = 0;
            }
        }
        self.run(some, settings, rejections, steps, &mut chunk)?;
        counts.records = chunk.records.len() as u64;
        Ok((chunk, counts))
    }

    fn run(
        &self,
        some: Vec<Placed>,
        settings: &Settings,
        rejections: &mut Rejections,
        steps: &mut Steps,
        chunk: &mut BundleChunk,
    ) -> Result<()> {
        if some.is_empty() {
            return Ok(());
        }
        let sequences: Vec<(&Encoding, Reads)> = some
            .iter()
            .flat_map(|(record, _)| record.sequences.iter().map(|(encoding, reads)| (encoding, Reads::clone(reads))))
            .collect();
        let read = |model: &&Model| model.read(&sequences, settings.batch_tokens, &|_| !interrupt::asked());
        let all: Vec<Vec<Outputs>> = steps.running.time(|| self.models.iter().map(read).collect::<Result<_>>())?;
        let mut starts = vec![0];
        starts.extend(some.iter().scan(0, |end, (encoded, _)| {
            *end += encoded.sequences.len();
            Some(*end)
        }));
        let bundled: Vec<Result<Bundled>> = some
            .into_par_iter()
            .enumerate()
            .map(|(i, (encoded, place))| {
                let outputs: Vec<&[Outputs]> = all.iter().map(|of_model| &of_model[starts[i]..starts[i + 1]]).collect();
                self.bundled(encoded, &outputs).map_err(|reason| place.error(reason))
            })
            .collect();
        for one in bundled {
            match one {
                Ok(bundled) => chunk.records.push(bundled),
                Err(error) => rejections.take(error)?,
            }
        }
        Ok(())
    }

    /// A record as the model reads it.
    fn encode(&self, record: Record) -> Result<Encoded, String> {
        let is_needed = self.against == Against::GoldAlone;
        let none = || Err("no label, and the target is gold".to_owned());
        match self.tokens.task {
            Task::Record | Task::Spans => {
                if is_needed && !matches!(record.label, Some(Label::Answers(_))) {
                    return none();
                }
                gold_span(&record)?;
                let windows = question_windows(self.model(), &record, self.tokens.stride)?;
                Ok(Encoded { record, sequences: windows.into_iter().map(read_whole).collect() })
            }
            Task::Tags => {
                if gold_tags(self.model(), &record)?.is_none() && is_needed {
                    return none();
                }
                encoded_whole(self.model(), record)
            }
            Task::Masks => {
                if record.label.is_none() && is_needed {
                    return none();
                }
                encoded_masks(self.model(), record)
            }
        }
    }

    /// The factors of a record from what each model said of its sequences.
    fn bundled(&self, encoded: Encoded, outputs: &[&[Outputs]]) -> Result<Bundled, String> {
        match self.tokens.task {
            Task::Record | Task::Spans => self.of_answer(encoded, outputs),
            Task::Tags => self.of_tags(encoded, outputs),
            Task::Masks => self.of_masks(encoded, outputs),
        }
    }

    fn of_answer(&self, encoded: Encoded, outputs: &[&[Outputs]]) -> Result<Bundled, String> {
        let Encoded { record, sequences } = encoded;
        let options =
            AnswerOptions { max_tokens: self.tokens.max_answer_tokens, n_best: 1, ..AnswerOptions::default() };
        let best = found(&sequences, outputs[0], &options).best.first().copied().ok_or("the context has no token")?;
        let right = match &record.label {
            Some(Label::Answers(answers)) => Some(answers),
            _ => None,
        };
        let is_gold = matches!(self.against, Against::Gold | Against::GoldAlone);
        let span = match right {
            Some(_) if is_gold => gold_span(&record)?,
            _ => Some((best.start, best.end)),
        };
        let mut places: Vec<(usize, (usize, usize))> = Vec::new();
        for (window, (encoding, _)) in sequences.iter().enumerate() {
            let place = match span {
                None => Some((0, 0)),
                Some(span) if span == (best.start, best.end) && window == best.window => Some(best.tokens),
                Some((start, end)) => task::place(encoding, start, end),
            };
            places.extend(place.map(|place| (window, place)));
        }
        if places.is_empty() {
            return Err("the answer is whole in no window".to_owned());
        }
        let mut parts = Vec::with_capacity(2 * places.len());
        for &(window, (first, last)) in &places {
            let place = |token: usize| sequences[window].0.offsets[token].unwrap_or_default();
            let part = |token: usize, target: &str| FactorPart {
                start: place(token).0,
                end: place(token).1,
                target: target.to_owned(),
            };
            parts.extend([part(first, "start"), part(last, "end")]);
        }
        let bundle = |outputs: &&[Outputs]| {
            let mut bundle = Bundle::default();
            for &(window, (first, last)) in &places {
                let Outputs { features, logits } = &outputs[window];
                bundle.push_boundary(features, logits, 2, 0, first);
                bundle.push_boundary(features, logits, 2, 1, last);
            }
            bundle
        };
        let width = self.model().width();
        let context = record.pair.as_deref().unwrap_or_default();
        let text = |(start, end): (usize, usize)| Value::from(characters(context, start, end));
        Ok(Bundled {
            bundles: outputs.iter().map(bundle).collect(),
            mean: mean_over_windows(outputs[0], &places, width),
            said: Said {
                label: right.map(|answers| answers.iter().map(|answer| answer.text.as_str()).collect()),
                predicted: text((best.start, best.end)),
                target: span.map_or_else(|| Value::from(""), text),
                parts,
            },
            span: span.map(|(start, end)| TargetSpan { start, end, segment: 1 }),
            probability: None,
            record,
        })
    }

    fn of_tags(&self, encoded: Encoded, outputs: &[&[Outputs]]) -> Result<Bundled, String> {
        let Encoded { record, sequences } = encoded;
        let (encoding, _) = sequences.into_iter().next().unwrap_or_default();
        let (names, classes) = (self.model().class_names().names(), self.model().classes());
        let tagged = Tagged::new(self.model(), &record, &encoding, &outputs[0][0]);
        let gold = tagged.gold.as_ref().filter(|_| matches!(self.against, Against::Gold | Against::GoldAlone));
        let class = |word: usize, predicted: usize| match (&self.against, gold) {
            (Against::Class(class), _) => *class,
            (_, Some(tags)) => names.iter().position(|name| *name == tags[word]).unwrap_or(predicted),
            _ => predicted,
        };
        let own = |word: usize| tagged.words[word].as_ref().map(|own| (own.token, class(word, own.class), own.start, own.end));
        let words: Vec<(usize, usize, usize, usize)> = match self.token {
            None => (0..tagged.words.len()).filter_map(own).collect(),
            Some(token) => vec![self.asked_word(&tagged, &encoding, &outputs[0][0], token, class)?],
        };
        if words.is_empty() {
            return Err("the text has no word to tag".to_owned());
        }
        let tags = words.iter().map(|&(_, class, ..)| Some(names[class].as_str()));
        let entities = task::entities(tags);
        let bundle = |outputs: &&[Outputs]| {
            let Outputs { features, logits } = &outputs[0];
            let mut bundle = Bundle::default();
            for &(token, class, ..) in &words {
                bundle.push_class(row(features, token, self.model().width()), row(logits, token, classes), class);
            }
            bundle
        };
        let in_entities: Vec<usize> =
            entities.iter().flat_map(|(_, range)| range.clone()).map(|word| words[word].0).collect();
        let all = words.iter().map(|&(token, ..)| token).collect();
        let rows = if in_entities.is_empty() { all } else { in_entities };
        let entity = |kind: &str, start, end| format!("{kind}: {}", characters(&record.text, start, end));
        let ranges = |found: &[(String, Range<usize>)], place: &dyn Fn(usize) -> (usize, usize)| -> Value {
            found.iter().map(|(kind, of)| entity(kind, place(of.start).0, place(of.end - 1).1)).collect()
        };
        let target = match self.token {
            Some(_) => Value::from(names[words[0].1].as_str()),
            None => ranges(&entities, &|word| (words[word].2, words[word].3)),
        };
        let given = record.words.as_deref().unwrap_or_default();
        let label = tagged.gold.as_ref().map(|tags| {
            ranges(&task::entities(tags.iter().map(|tag| Some(tag.as_str()))), &|word| given[word])
        });
        let asked = self.token.map(|_| words[0]);
        let of_asked = |(token, class, ..): (usize, usize, usize, usize)| {
            factors::probabilities(Problem::SingleLabel, row(&outputs[0][0].logits, token, classes))[class]
        };
        Ok(Bundled {
            bundles: outputs.iter().map(bundle).collect(),
            mean: mean_features(&outputs[0][0].features, self.model().width(), rows),
            said: Said {
                label,
                predicted: tagged.entities.iter().map(|of| entity(&of.kind, of.start, of.end)).collect(),
                target,
                parts: words
                    .iter()
                    .map(|&(_, class, start, end)| FactorPart { start, end, target: names[class].clone() })
                    .collect(),
            },
            span: asked.map(|(_, _, start, end)| TargetSpan { start, end, segment: 0 }),
            probability: asked.map(of_asked),
            record,
        })
    }

    /// The token asked about: its place among tokens, its class, and where it is in the text.
    fn asked_word(
        &self,
        tagged: &Tagged,
        encoding: &Encoding,
        outputs: &Outputs,
        token: usize,
        class: impl Fn(usize, usize) -> usize,
    ) -> Result<(usize, usize, usize, usize), String> {
        let place = encoding.offsets.get(token).copied().flatten();
        let (start, end) =
            place.ok_or_else(|| format!("token {token}: expected one of the text's own among {}", encoding.ids.len()))?;
        let word = tagged.words.iter().position(|word| word.as_ref().is_some_and(|word| word.token == token));
        let classes = self.model().classes();
        let predicted = likeliest(row(&outputs.logits, token, classes));
        match (word, &self.against) {
            (Some(word), _) => Ok((token, class(word, predicted), start, end)),
            (None, Against::Class(class)) => Ok((token, *class, start, end)),
            (None, Against::Predicted) => Ok((token, predicted, start, end)),
            (None, _) => Err(format!("token {token} is no word's first, and the target is gold")),
        }
    }

    fn of_masks(&self, encoded: Encoded, outputs: &[&[Outputs]]) -> Result<Bundled, String> {
        let Encoded { record, sequences } = encoded;
        let (encoding, reads) = sequences.into_iter().next().unwrap_or_default();
        let (classes, width) = (self.model().classes(), self.model().width());
        let piece = |class: usize| self.model().tokenizer().piece(class as u32).unwrap_or_default();
        let predicted: Vec<usize> = outputs[0][0].logits.chunks_exact(classes).map(likeliest).collect();
        let gold = self.gold_pieces(&record, reads.len())?;
        let is_gold = matches!(self.against, Against::Gold | Against::GoldAlone);
        let mut masks: Vec<(usize, usize)> = match (&self.against, &gold) {
            (Against::Class(class), _) => (0..reads.len()).map(|mask| (mask, *class)).collect(),
            (_, Some(gold)) if is_gold => gold.iter().copied().enumerate().collect(),
            _ => predicted.iter().copied().enumerate().collect(),
        };
        if let Some(token) = self.token {
            masks.retain(|&(mask, _)| reads[mask] as usize == token);
        }
        if masks.is_empty() {
            return Err(format!("token {}: expected a mask", self.token.unwrap_or_default()));
        }
        let bundle = |outputs: &&[Outputs]| {
            let Outputs { features, logits } = &outputs[0];
            let mut bundle = Bundle::default();
            for &(mask, class) in &masks {
                bundle.push_class(row(features, mask, width), row(logits, mask, classes), class);
            }
            bundle
        };
        let place = |mask: usize| encoding.offsets[reads[mask] as usize].unwrap_or_default();
        let asked = self.token.map(|_| masks[0]);
        let part = |&(mask, class): &(usize, usize)| {
            let (start, end) = place(mask);
            FactorPart { start, end, target: piece(class) }
        };
        let span = |(mask, _): (usize, usize)| TargetSpan { start: place(mask).0, end: place(mask).1, segment: 0 };
        let probability = |(mask, class): (usize, usize)| {
            factors::probabilities(Problem::SingleLabel, row(&outputs[0][0].logits, mask, classes))[class]
        };
        Ok(Bundled {
            bundles: outputs.iter().map(bundle).collect(),
            mean: mean_features(&outputs[0][0].features, width, masks.iter().map(|&(mask, _)| mask)),
            said: Said {
                label: gold.map(|gold| gold.into_iter().map(piece).collect()),
                predicted: predicted.into_iter().map(piece).collect(),
                target: match asked {
                    Some((_, class)) => Value::from(piece(class)),
                    None => masks.iter().map(|&(_, class)| piece(class)).collect(),
                },
                parts: masks.iter().map(part).collect(),
            },
            span: asked.map(span),
            probability: asked.map(probability),
            record,
        })
    }

    /// The pieces that a record says its masks hide.
    fn gold_pieces(&self, record: &Record, masks: usize) -> Result<Option<Vec<usize>>, String> {
        let labels = match &record.label {
            None => return Ok(None),
            Some(Label::Many(labels)) => labels.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        if labels.len() != masks {
            return Err(format!("label: expected {masks} pieces, one a mask, found {}", labels.len()));
        }
        let piece = |label: &Label| match label {
            Label::Name(name) => {
                let id = self.model().tokenizer().id(name).map(|id| id as usize);
                id.ok_or_else(|| format!("label: {name:?} is no piece of the vocabulary"))
            }
            Label::Integer(id) => {
                let id = usize::try_from(*id).ok().filter(|id| *id < self.model().classes());
                id.ok_or_else(|| "label: expected a piece of the vocabulary, or its id".to_owned())
            }
            _ => Err("label: expected a piece of the vocabulary, or its id".to_owned()),
        };
        labels.iter().map(piece).collect::<Result<_, _>>().map(Some)
    }
}

/// The class that a label names, for one token.
///
/// # Errors
/// Where it names none, or the model has no meaning for it.
pub(super) fn named_class(model: &Model, name: &str) -> Result<usize> {
    let refuse = |reason: String| Error::usage(format!("--target: {reason}"));
    match model.task() {
        Task::Masks => {
            let id = model.tokenizer().id(name).map(|id| id as usize);
            id.ok_or_else(|| {
                refuse(format!("{name:?} is no piece of the vocabulary"))
                    .with_hint("name one piece, as the tokenizer writes it")
            })
        }
        Task::Tags => match model.resolve_label(&Label::Name(name.to_owned())).map_err(refuse)? {
            Target::Class(class) => Ok(class),
            _ => Err(refuse("expected one tag".to_owned())),
        },
        _ => Err(refuse("expected predicted or gold, for answers".to_owned())),
    }
}

fn row(values: &[f32], row: usize, width: usize) -> &[f32] {
    &values[row * width..(row + 1) * width]
}

/// The first of the largest.
fn likeliest(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, k| if logits[k] > logits[best] { k } else { best })
}

/// The mean h of an answer's tokens, over all windows that hold it.
fn mean_over_windows(outputs: &[Outputs], places: &[(usize, (usize, usize))], width: usize) -> Vec<f32> {
    let rows = places.iter().flat_map(|&(window, (first, last))| {
        outputs[window].features[first * width..(last + 1) * width].iter().copied()
    });
    let all: Vec<f32> = rows.collect();
    let count = all.len() / width.max(1);
    mean_features(&all, width, 0..count)
}
