//! `select` with a trained selector (TrustAI's Selector-Predictor): one model says which sentences of a context are
//! evidence, another answers from those.
//!
//! ```text
//! P(evidence | s) = softmax(½ (W h_b + c) + ½ (W h_e + c)),   b and e the markers of sentence s
//! ```
//!
//! which is one linear layer on the mean of the two hidden states. Contexts longer than the selector are read in
//! windows of whole sentences.

use super::predict_tokens::{SpanOptions, question_windows, span_prediction};
use super::select::{Kept, SelectScores, check_answers, selection_of};
use super::windows::{Encoded, Windows, read_whole};
use super::{Rejections, Settings, Summary};
use crate::dataset::{Dataset, Record};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::{Device, LoadOptions, Model, Outputs, Reads, Task, find};
use crate::report::{ContextSelection, ContextSentence};
use crate::task::{self, SelectorSettings, characters};
use crate::tokens::Encoding;

/// A model that says which sentences of a context are evidence: what `train --task selector` makes.
pub struct Selector {
    model: Model,
    settings: SelectorSettings,
}

/// How a selector's sentences are answered from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SelectorOptions {
    /// How questions are answered.
    pub spans: SpanOptions,
    /// Sentences that are evidence with at least this probability are kept, and the likeliest always.
    pub threshold: f64,
    /// No more than so many are kept.
    pub most: Option<usize>,
}

impl Selector {
    /// Loads a selector's directory.
    ///
    /// # Errors
    /// As [`Model::load`]; [`Error::Io`] and [`Error::Format`] where it is no selector's.
    pub fn load(path_or_name: &str, device: Device, options: &LoadOptions) -> Result<Self> {
        let path = find(path_or_name)?.join(SelectorSettings::FILE);
        if !path.is_file() {
            return Err(Error::usage(format!("{path_or_name}: has no {}: it is no selector", SelectorSettings::FILE))
                .with_hint("make one with `train --task selector`"));
        }
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let settings = SelectorSettings::parse(&bytes).map_err(|reason| Error::format(&path, reason))?;
        let model = Model::load(path_or_name, device, options)?;
        if model.task() != Task::Tags || model.classes() != 2 {
            let found = format!("{:?} of {} outputs", model.task(), model.classes());
            return Err(Error::format(
                &path,
                format!("expected a head that tags tokens with two outputs, found {found}"),
            ));
        }
        Ok(Self { model, settings })
    }

    /// The model itself.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What its directory says of it.
    pub fn settings(&self) -> &SelectorSettings {
        &self.settings
    }

    /// A context's sentences between markers, of which the markers are read.
    fn encode(&self, record: &Record) -> Result<Vec<(Encoding, Reads)>, String> {
        let context = record.pair.as_deref().unwrap_or_default();
        let places = task::sentences(context);
        let texts: Vec<&str> = places.iter().map(|&(start, end)| characters(context, start, end)).collect();
        let markers = &self.settings.markers;
        let windows = self.model.tokenizer().marked(&texts, &record.text, markers, self.model.max_length());
        let read = |window: crate::tokens::MarkedWindow| {
            let reads = window.sentences.iter().flat_map(|(_, markers)| *markers).collect();
            (window.encoding, reads)
        };
        Ok(windows.map_err(|error| error.to_string())?.into_iter().map(read).collect())
    }

    /// Each sentence's probability to be evidence.
    fn probabilities(outputs: &[Outputs]) -> Vec<f64> {
        let of = |four: &[f32; 4]| {
            let [irrelevant, evidence] =
                [0, 1].map(|class| 0.5 * (f64::from(four[class]) + f64::from(four[class + 2])));
            1.0 / (1.0 + (irrelevant - evidence).exp())
        };
        outputs.iter().flat_map(|outputs| outputs.logits.as_chunks::<4>().0.iter().map(of)).collect()
    }
}

/// Answers every question of `dataset` from the sentences that `selector` chooses and hands each record's to `write`,
/// in input order.
///
/// # Errors
/// As [`super::select()`].
pub fn select_with(
    selector: &Selector,
    model: &Model,
    dataset: Dataset,
    options: &SelectorOptions,
    settings: &Settings,
    rejections: &mut Rejections,
    write: &mut dyn FnMut(&ContextSelection) -> Result<()>,
) -> Result<(Summary, SelectScores)> {
    check_answers(model)?;
    let encode = |record: Record| -> Result<Encoded, String> {
        // What the predictor cannot read is told with its place.
        question_windows(model, &record, options.spans.stride)?;
        let sequences = selector.encode(&record)?;
        Ok(Encoded::of(record, sequences))
    };
    let mut waiting = Waiting { model, options, settings, records: Vec::new(), scores: SelectScores::default() };
    let windows = Windows { model: &selector.model, settings, verb: "selecting" };
    let summary = windows.run(dataset, rejections, &encode, &mut |encoded, outputs, _| {
        waiting.records.push((encoded.record, Selector::probabilities(&outputs)));
        if waiting.records.len() >= TOGETHER { waiting.answer(write) } else { Ok(()) }
    })?;
    waiting.answer(write)?;
    waiting.scores.finish();
    Ok((summary, waiting.scores))
}

/// Records that are answered together.
const TOGETHER: usize = 64;

/// Records whose sentences are chosen, and not answered yet.
struct Waiting<'a> {
    model: &'a Model,
    options: &'a SelectorOptions,
    settings: &'a Settings,
    records: Vec<(Record, Vec<f64>)>,
    scores: SelectScores,
}

impl Waiting<'_> {
    fn answer(&mut self, write: &mut dyn FnMut(&ContextSelection) -> Result<()>) -> Result<()> {
        let SelectorOptions { spans, threshold, most } = self.options;
        let mut asked = Vec::with_capacity(self.records.len());
        for (record, probabilities) in self.records.drain(..) {
            let context = record.pair.as_deref().unwrap_or_default();
            let flags = task::kept(&probabilities, *threshold, *most);
            let places = task::sentences(context).into_iter().zip(probabilities).zip(flags);
            let sentence = |(((start, end), score), kept)| ContextSentence { start, end, score: score as f32, kept };
            let sentences: Vec<ContextSentence> = places.map(sentence).collect();
            let kept = Kept::new(context, &sentences);
            let shorter = Record { pair: Some(kept.text().to_owned()), ..record.clone() };
            let read = |record: Record| -> Result<Encoded> {
                let windows = question_windows(self.model, &record, spans.stride).map_err(Error::usage)?;
                Ok(Encoded::of(record, windows.into_iter().map(read_whole).collect()))
            };
            asked.push((read(record)?, read(shorter)?, kept, sentences));
        }
        let both = asked.iter().flat_map(|(plain, shorter, ..)| [plain, shorter]);
        let sequences: Vec<(&Encoding, Reads)> = both
            .flat_map(|encoded| encoded.sequences.iter().map(|(encoding, reads)| (encoding, Reads::clone(reads))))
            .collect();
        let outputs = self.model.read(&sequences, self.settings.batch_tokens, &|_| !interrupt::asked())?;
        let mut outputs = outputs.into_iter();
        for (plain, shorter, kept, sentences) in &asked {
            let [plain, selected] = [(plain, Vec::new()), (shorter, kept.seams())].map(|(encoded, seams)| {
                let own: Vec<Outputs> = outputs.by_ref().take(encoded.sequences.len()).collect();
                span_prediction(encoded, &seams, &own, spans)
            });
            let selection = selection_of(plain, selected, kept, sentences.clone());
            self.scores.add(&selection);
            write(&selection)?;
        }
        Ok(())
    }
}
