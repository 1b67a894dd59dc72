//! Records of models that say something of tokens, as bundles of factors: boundaries of answers, tags of words, pieces
//! behind masks.
//!
//! An answer counts in every window of its context that holds it whole; windows without it say nothing. Where there is
//! no answer, start and end are at the first token of every window, as models are trained that can say so.

mod answer;
mod masks;
mod tags;

use rayon::prelude::*;

use super::predict_tokens::{encoded_masks, encoded_text, gold_tags, question_windows};
use super::queries::Entities;
use super::score::Steps;
use super::stream::{Counts, Read};
use super::windows::{Encoded, read_whole};
use super::{Rejections, Settings};
use crate::dataset::{Digest, Label, Place, Record};
use crate::error::{Error, Result};
use crate::factors::{AnswerWindow, Bundle, Target};
use crate::interrupt;
use crate::model::{Model, Outputs, Reads, Task};
use crate::report::TargetSpan;
use crate::store::{Said, TokenSettings};
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
    /// Of an answer, the windows that hold it, with what is kept of their tokens.
    pub(super) windows: Vec<AnswerWindow>,
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
    pub(super) part: Part,
    /// Which tokens' features are kept of answers, beside their factors.
    pub(super) kept: Kept,
}

/// What of an answer's windows is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kept {
    #[default]
    Nothing,
    /// The two tokens where it starts and ends.
    Boundaries,
    /// Every token.
    All,
}

/// What of a record is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All that is said of it.
    Whole,
    /// One token's tag or piece, counted from the first with special tokens.
    Token(usize),
    /// Entities among its words, each by itself.
    Entities(Entities),
}

/// A record as its models read it, and where it was.
type Placed = (Encoded, Place);

impl Bundler<'_> {
    /// The model explained.
    fn model(&self) -> &Model {
        self.models[0]
    }

    /// Whether a record's own label is what counts.
    fn is_gold(&self) -> bool {
        matches!(self.against, Against::Gold | Against::GoldAlone)
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
        let encode = |(record, place): (Record, Place)| match self.encode(record) {
            Ok(encoded) => Ok((encoded, place)),
            Err(reason) => Err(place.error(reason)),
        };
        let all: Vec<(Record, Place)> = records.into_iter().zip(places).collect();
        let encoded: Vec<Result<Placed>> = steps.tokenizing.time(|| all.into_par_iter().map(encode).collect());
        let (mut chunk, mut counts) = (BundleChunk { number, records: Vec::new(), digest }, Counts::default());
        let (mut some, mut tokens) = (Vec::new(), 0);
        let budget = settings.window_tokens(self.model(), 4);
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
        let bundled: Vec<Result<Vec<Bundled>>> = some
            .into_par_iter()
            .enumerate()
            .map(|(i, (encoded, place))| {
                let outputs: Vec<&[Outputs]> = all.iter().map(|of_model| &of_model[starts[i]..starts[i + 1]]).collect();
                self.bundled(encoded, &outputs).map_err(|reason| place.error(reason))
            })
            .collect();
        for one in bundled {
            match one {
                Ok(bundled) => chunk.records.extend(bundled),
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
                crate::task::gold_span(&record)?;
                let windows = question_windows(self.model(), &record, self.tokens.stride)?;
                Ok(Encoded::of(record, windows.into_iter().map(read_whole).collect()))
            }
            Task::Tags => {
                if gold_tags(self.model(), &record)?.is_none() && is_needed {
                    return none();
                }
                encoded_text(self.model(), record, self.tokens.stride)
            }
            Task::Masks => {
                if record.label.is_none() && is_needed {
                    return none();
                }
                encoded_masks(self.model(), record)
            }
        }
    }

    /// The factors of what is asked of a record, from what each model said of its sequences.
    fn bundled(&self, encoded: Encoded, outputs: &[&[Outputs]]) -> Result<Vec<Bundled>, String> {
        match self.tokens.task {
            Task::Record | Task::Spans => Ok(vec![self.of_answer(encoded, outputs)?]),
            Task::Tags => self.of_tags(&encoded, outputs),
            Task::Masks => Ok(vec![self.of_masks(encoded, outputs)?]),
        }
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

/// Row `row` of `values [n, width]`.
fn row(values: &[f32], row: usize, width: usize) -> &[f32] {
    &values[row * width..(row + 1) * width]
}
