//! `select`: answers from the sentences of a context that speak for an answer, the rest left out.
//!
//! The plain model answers first; what its attribution gives to each sentence says which are kept; the same model then
//! answers from those alone. Nothing is trained. Of a context in several windows, the sentences outside the answer's
//! window have nothing to keep them.

use super::aims::{Aimed, Aims};
use super::explain::ExplainOptions;
use super::predict_tokens::{SpanOptions, SpanScores, question_windows, span_prediction};
use super::windows::{Encoded, Windows, read_whole};
use super::{Rejections, Settings, Summary};
use crate::dataset::{Dataset, Record};
use crate::error::{Error, Result};
use crate::explain::{self, Method, Words};
use crate::interrupt;
use crate::model::{Model, Reads, Task};
use crate::report::{AnswerSpan, ContextSelection, ContextSentence, SpanPrediction};
use crate::task::{self, characters};
use crate::tokens::Encoding;

/// How sentences are chosen.
#[derive(Clone, Debug)]
pub struct SelectOptions {
    /// What tells how much each token speaks for the answer.
    pub method: Method,
    /// What decides its numbers.
    pub options: explain::Options,
    /// How questions are answered.
    pub spans: SpanOptions,
    /// Sentences with so large a share of what speaks for the answer are kept, from 0 to 1; the first in rank always
    /// is.
    pub threshold: f64,
    /// No more than so many are kept.
    pub most: Option<usize>,
}

impl Default for SelectOptions {
    fn default() -> Self {
        Self {
            method: Method::Occlusion,
            options: explain::Options::default(),
            spans: SpanOptions::default(),
            threshold: 0.1,
            most: None,
        }
    }
}

/// How answers from all of a context compare with those from its kept sentences.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct SelectScores {
    /// From all of it.
    pub plain: SpanScores,
    /// From what was kept.
    pub selected: SpanScores,
    /// Sentences there are.
    pub sentences: u64,
    /// Sentences kept.
    pub kept: u64,
}

/// Refuses a model that answers no questions.
pub(super) fn check_answers(model: &Model) -> Result<()> {
    if model.task() != Task::Spans {
        return Err(Error::usage(format!("select: {} answers no questions", model.name()))
            .with_hint("give a model with a question-answering head"));
    }
    Ok(())
}

/// Answers every question of `dataset` from chosen sentences and hands each record's to `write`, in input order.
///
/// # Errors
/// As [`super::predict_spans`]; [`Error::Usage`] for a model that answers no questions.
pub fn select(
    model: &Model,
    dataset: Dataset,
    options: &SelectOptions,
    settings: &Settings,
    rejections: &mut Rejections,
    write: &mut dyn FnMut(&ContextSelection) -> Result<()>,
) -> Result<(Summary, SelectScores)> {
    check_answers(model)?;
    options.method.check(model, &options.options)?;
    let explained = ExplainOptions {
        method: options.method,
        options: options.options.clone(),
        stride: options.spans.stride,
        max_answer_tokens: options.spans.answers.max_tokens,
        ..ExplainOptions::default()
    };
    let job = Job { model, options, settings, aims: Aims::new(model, &explained)? };
    let mut scores = SelectScores::default();
    let windows = Windows { model, settings, verb: "selecting" };
    let summary =
        windows.run(dataset, rejections, &|record| job.aims.encode(record), &mut |encoded, outputs, place| {
            let plain = span_prediction(&encoded, &[], &outputs, &options.spans);
            let aimed = job.aims.aimed(encoded, outputs).map_err(|reason| place.error(reason))?;
            let selection = job.selection(&aimed[0], plain)?;
            scores.add(&selection);
            write(&selection)
        })?;
    scores.finish();
    Ok((summary, scores))
}

impl SelectScores {
    /// Takes one question in.
    pub(super) fn add(&mut self, selection: &ContextSelection) {
        self.plain.add(selection.plain_exact_match, selection.plain_f1);
        self.selected.add(selection.exact_match, selection.f1);
        self.sentences += selection.sentences.len() as u64;
        self.kept += selection.sentences.iter().filter(|sentence| sentence.kept).count() as u64;
    }

    /// From sums to means.
    pub(super) fn finish(&mut self) {
        self.plain.finish();
        self.selected.finish();
    }
}

/// What was selected of a context, and what was answered from all of it and from that alone.
pub(super) fn selection_of(
    plain: SpanPrediction,
    selected: SpanPrediction,
    kept: &Kept,
    sentences: Vec<ContextSentence>,
) -> ContextSelection {
    let place = |span: AnswerSpan| {
        if span.text.is_empty() {
            return span;
        }
        let start = kept.original(span.start);
        AnswerSpan { start, end: start + span.end - span.start, ..span }
    };
    ContextSelection {
        id: plain.id,
        index: plain.index,
        question: plain.question,
        context: plain.context,
        answers: plain.answers,
        answer: place(selected.answer),
        exact_match: selected.exact_match,
        f1: selected.f1,
        plain_answer: plain.answer,
        plain_exact_match: plain.exact_match,
        plain_f1: plain.f1,
        sentences,
    }
}

struct Job<'a> {
    model: &'a Model,
    options: &'a SelectOptions,
    settings: &'a Settings,
    aims: Aims<'a>,
}

impl Job<'_> {
    fn selection(&self, aimed: &Aimed, plain: SpanPrediction) -> Result<ContextSelection> {
        let sentences = self.sentences(aimed)?;
        let kept = Kept::new(&plain.context, &sentences);
        let selected = self.answer(&aimed.record, &kept)?;
        Ok(selection_of(plain, selected, &kept, sentences))
    }

    /// The sentences of a context, each with its share of the scores above zero of its tokens, and whether it is kept.
    fn sentences(&self, aimed: &Aimed) -> Result<Vec<ContextSentence>> {
        let words = Words::default();
        let SelectOptions { method, options, threshold, most, .. } = self.options;
        let (batch_tokens, going) = (self.settings.batch_tokens, |_| !interrupt::asked());
        let scores = explain::explain(self.model, &[aimed.subject(&words)], *method, options, batch_tokens, &going)?;
        let scores = scores.into_iter().flatten().next().unwrap_or_default().tokens;
        let places = task::sentences(aimed.record.pair.as_deref().unwrap_or_default());
        let masses = masses(&aimed.encoding, &scores, &places);
        let total = masses.iter().sum::<f64>();
        let shares: Vec<f64> = masses.iter().map(|mass| if total > 0.0 { mass / total } else { 0.0 }).collect();
        let kept = task::kept(&shares, *threshold, *most);
        let sentence = |(place, &(start, end)): (usize, &(usize, usize))| ContextSentence {
            start,
            end,
            score: shares[place] as f32,
            kept: kept[place],
        };
        Ok(places.iter().enumerate().map(sentence).collect())
    }

    /// The answer of the kept sentences alone.
    fn answer(&self, record: &Record, kept: &Kept) -> Result<SpanPrediction> {
        let record = Record { pair: Some(kept.text.clone()), ..record.clone() };
        let windows = question_windows(self.model, &record, self.options.spans.stride).map_err(Error::usage)?;
        let sequences: Vec<(Encoding, Reads)> = windows.into_iter().map(read_whole).collect();
        let read: Vec<(&Encoding, Reads)> =
            sequences.iter().map(|(encoding, reads)| (encoding, reads.clone())).collect();
        let outputs = self.model.read(&read, self.settings.batch_tokens, &|_| !interrupt::asked())?;
        Ok(span_prediction(&Encoded::of(record, sequences), &kept.seams(), &outputs, &self.options.spans))
    }
}

/// The sum of the scores above zero of the tokens that begin in each sentence of the context.
fn masses(encoding: &Encoding, scores: &[f32], sentences: &[(usize, usize)]) -> Vec<f64> {
    let mut masses = vec![0.0; sentences.len()];
    for (token, &score) in scores.iter().enumerate() {
        let Some((start, _)) = encoding.offsets[token].filter(|_| encoding.segments[token] == Some(1)) else {
            continue;
        };
        let sentence = sentences.partition_point(|(_, end)| *end <= start);
        if let Some(mass) = masses.get_mut(sentence) {
            *mass += f64::from(score.max(0.0));
        }
    }
    masses
}

/// The kept sentences as one text, which knows where its characters were.
pub(super) struct Kept {
    text: String,
    /// Where each kept sentence begins here, and where it did.
    starts: Vec<(usize, usize)>,
}

impl Kept {
    pub(super) fn new(context: &str, sentences: &[ContextSentence]) -> Self {
        let (mut text, mut starts, mut end) = (String::new(), Vec::new(), 0);
        for sentence in sentences.iter().filter(|sentence| sentence.kept) {
            starts.push((end, sentence.start));
            text.push_str(characters(context, sentence.start, sentence.end));
            end += sentence.end - sentence.start;
        }
        Self { text, starts }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Where something of the context is missing here.
    pub(super) fn seams(&self) -> Vec<usize> {
        let distance = |&(start, original): &(usize, usize)| original - start;
        let seams = self.starts.windows(2).filter(|pair| distance(&pair[0]) != distance(&pair[1]));
        seams.map(|pair| pair[1].0).collect()
    }

    /// Where a character of the kept text is in the whole one.
    fn original(&self, place: usize) -> usize {
        let at = self.starts.partition_point(|(start, _)| *start <= place).saturating_sub(1);
        self.starts.get(at).map_or(place, |(start, original)| place - start + original)
    }
}
