//! `explain`: records in, a score for each token and word out.

use super::aims::{Aim, Aimed, Aims};
use super::windows::{Encoded, next_window};
use super::{Progress, Rejections, Settings, SpanOptions, Summary};
use crate::dataset::{Dataset, Place};
use crate::error::{Error, Result};
use crate::explain::{self, Features, Method, NormLime, Rationale, Scores, Segmentation, Subject, Words};
use crate::interrupt;
use crate::model::{Model, Outputs, Task};
use crate::report::{Explanation, GlobalImportance, WordScore};
use crate::tokens::Encoding;

/// Which label a record is explained for.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ExplainTarget {
    /// The one the model finds most likely (every output of a regression; the best answer; every entity found; each
    /// mask's likeliest piece).
    #[default]
    Predicted,
    /// The record's own (each of them, where it has several); a record without one is rejected.
    Gold,
    /// Every class, one result each.
    All,
    /// These, one result each.
    Labels(Vec<String>),
}

/// What of the model's answer is explained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// The target's probability; a regression's value.
    #[default]
    Probability,
    /// The target's logit.
    Logit,
}

/// What is asked of each record.
#[derive(Clone, Debug)]
pub struct ExplainOptions {
    /// The method.
    pub method: Method,
    /// What decides its numbers.
    pub options: explain::Options,
    /// Which label is explained.
    pub target: ExplainTarget,
    /// What of it.
    pub output: Output,
    /// A label whose logit is taken off the target's: what speaks for one against the other.
    pub against: Option<String>,
    /// What a word is.
    pub words: Segmentation,
    /// How many words make a rationale.
    pub rationale: Rationale,
    /// The token whose tag, or what it masks, is explained; every entity, or mask, where none is named.
    pub token: Option<usize>,
    /// Tokens of a context that neighbouring windows share, for models that answer questions.
    pub stride: usize,
    /// Tokens of an answer, at most.
    pub max_answer_tokens: usize,
}

impl Default for ExplainOptions {
    fn default() -> Self {
        let SpanOptions { stride, answers, .. } = SpanOptions::default();
        Self {
            method: Method::default(),
            options: explain::Options::default(),
            target: ExplainTarget::default(),
            output: Output::default(),
            against: None,
            words: Segmentation::default(),
            rationale: Rationale::default(),
            token: None,
            stride,
            max_answer_tokens: answers.max_tokens,
        }
    }
}

/// What came of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Convergence {
    /// Results that were to meet a tolerance and did not.
    pub unconverged: u64,
}

/// Explains every record of `dataset` and hands results to `write`, in input order.
///
/// # Errors
/// The first of: what could not be read (or a record that cannot be used, unless such are skipped), settings that the
/// model has no meaning for, what the model could not run, what `write` could not write, or the user's interrupt.
pub fn explain(
    model: &Model,
    dataset: Dataset,
    options: &ExplainOptions,
    settings: &Settings,
    rejections: &mut Rejections,
    write: &mut dyn FnMut(&Explanation) -> Result<()>,
) -> Result<(Summary, Convergence)> {
    let job = Job::new(model, options, settings)?;
    let mut convergence = Convergence::default();
    let summary = job.run(dataset, rejections, &mut |asked, scores| {
        job.results(asked, scores).try_for_each(|explanation| {
            convergence.unconverged += u64::from(explanation.converged == Some(false));
            write(&explanation)
        })
    })?;
    Ok((summary, convergence))
}

/// `NormLIME`: explains every record of `dataset` by `options`, whose method is LIME, and sums up what speaks
/// for each class anywhere.
///
/// # Errors
/// As [`explain()`]; and for another method than LIME.
pub fn norm_lime(
    model: &Model,
    dataset: Dataset,
    options: &ExplainOptions,
    settings: &Settings,
    rejections: &mut Rejections,
) -> Result<(Summary, Vec<GlobalImportance>)> {
    model.expect_record_task("norm-lime")?;
    if options.method != Method::Lime {
        return Err(Error::usage(format!("norm-lime: sums up what lime says of records, found {}", options.method)));
    }
    let job = Job::new(model, options, settings)?;
    let mut sums = NormLime::new(options.method.features(&options.options).unwrap_or_default());
    let summary = job.run(dataset, rejections, &mut |asked, scores| {
        let subject = asked.subject();
        asked.aimed.aims.iter().zip(&scores).for_each(|(aim, scores)| sums.add(&subject, &aim.name, scores));
        Ok(())
    })?;
    Ok((summary, GlobalImportance::list(sums.finish())))
}

/// What stays the same from record to record.
struct Job<'a> {
    model: &'a Model,
    options: &'a ExplainOptions,
    settings: &'a Settings,
    aims: Aims<'a>,
}

/// A record on its way.
struct Asked {
    aimed: Aimed,
    words: Words,
}

impl Asked {
    fn subject(&self) -> Subject<'_> {
        self.aimed.subject(&self.words)
    }
}

/// Batches' worth of probes taken together, for each worker: the larger, the less workers wait for each other at the
/// end; the smaller, the sooner there is something to see.
const BATCHES_A_WORKER: usize = 64;

impl<'a> Job<'a> {
    fn new(model: &'a Model, options: &'a ExplainOptions, settings: &'a Settings) -> Result<Self> {
        options.method.check(model, &options.options)?;
        if options.words == Segmentation::None && options.method.features(&options.options) == Some(Features::Words) {
            return Err(Error::usage(format!("{}: words are its features, and there are to be none", options.method))
                .with_hint("leave out tokens (--features tokens), or say what a word is (--words)"));
        }
        Ok(Self { model, options, settings, aims: Aims::new(model, options)? })
    }

    /// Tells `take` every record that could be used, with its scores, in the order of the input.
    fn run(
        &self,
        mut dataset: Dataset,
        rejections: &mut Rejections,
        take: &mut dyn FnMut(&Asked, Vec<Scores>) -> Result<()>,
    ) -> Result<Summary> {
        let progress = Progress::new("explaining", dataset.bytes_total(), self.settings.quiet);
        let mut summary = Summary::default();
        loop {
            let window = self.window(&mut dataset, rejections)?;
            if window.is_empty() {
                break;
            }
            let window = self.aimed(window, rejections, &mut summary.records)?;
            let encodings = || window.iter().map(|asked| &asked.aimed.encoding);
            summary.tokens += encodings().map(|encoding| encoding.ids.len() as u64).sum::<u64>();
            summary.truncated += encodings().filter(|encoding| encoding.truncated).count() as u64;
            let scores = self.scores(&window)?;
            window.iter().zip(scores).try_for_each(|(asked, scores)| take(asked, scores))?;
            progress.set(dataset.bytes_read(), summary.records);
        }
        summary.numbered = dataset.next_index();
        summary.skipped = rejections.count();
        summary.seconds = progress.seconds();
        Ok(summary)
    }

    /// The next records, as many as are worth running together.
    fn window(&self, dataset: &mut Dataset, rejections: &mut Rejections) -> Result<Vec<(Encoded, Place)>> {
        let tokens = |encoded: &Encoded| {
            let length = encoded.sequences.iter().map(|(encoding, _)| encoding.ids.len()).max().unwrap_or(0);
            length.saturating_mul(self.options.method.probes(length, &self.options.options))
        };
        let budget = self.settings.window_tokens(self.model, BATCHES_A_WORKER);
        next_window(dataset, budget, rejections, &|record| self.aims.encode(record), &tokens)
    }

    /// Runs the model over a window, and settles what is explained of each record; `records` counts those that could be
    /// used.
    fn aimed(
        &self,
        window: Vec<(Encoded, Place)>,
        rejections: &mut Rejections,
        records: &mut u64,
    ) -> Result<Vec<Asked>> {
        let sequences = window.iter().flat_map(|(encoded, _)| &encoded.sequences);
        let mut outputs =
            self.outputs(sequences.map(|(encoding, reads)| (encoding, reads.clone())).collect())?.into_iter();
        let mut asked = Vec::with_capacity(window.len());
        for (encoded, place) in window {
            let own = outputs.by_ref().take(encoded.sequences.len()).collect();
            match self.aims.aimed(encoded, own) {
                Err(reason) => rejections.take(place.error(reason))?,
                Ok(windows) => {
                    *records += 1;
                    asked.extend(windows.into_iter().map(|aimed| {
                        let words = Words::new(&aimed.record, &aimed.encoding, self.options.words);
                        Asked { aimed, words }
                    }));
                }
            }
        }
        Ok(asked)
    }

    fn outputs(&self, sequences: Vec<(&Encoding, crate::model::Reads)>) -> Result<Vec<Outputs>> {
        let going = |_| !interrupt::asked();
        if self.model.task() != Task::Record {
            return self.model.read(&sequences, self.settings.batch_tokens, &going);
        }
        let encodings: Vec<&Encoding> = sequences.into_iter().map(|(encoding, _)| encoding).collect();
        let logits = self.model.run(&encodings, self.settings.batch_tokens, &going)?.logits;
        let row = |logits: &[f32]| Outputs { features: Vec::new(), logits: logits.to_vec() };
        Ok(logits.chunks_exact(self.model.classes()).map(row).collect())
    }

    /// Scores of each record of a window, for each of its aims.
    fn scores(&self, window: &[Asked]) -> Result<Vec<Vec<Scores>>> {
        let subjects: Vec<Subject<'_>> = window.iter().map(Asked::subject).collect();
        let ExplainOptions { method, options, .. } = self.options;
        let going = |_| !interrupt::asked();
        explain::explain(self.model, &subjects, *method, options, self.settings.batch_tokens, &going)
    }

    fn results<'b>(&'b self, asked: &'b Asked, scores: Vec<Scores>) -> impl Iterator<Item = Explanation> + 'b {
        asked.aimed.aims.iter().zip(scores).map(|(aim, scores)| self.result(asked, aim, scores))
    }

    fn result(&self, Asked { aimed, words }: &Asked, aim: &Aim, scores: Scores) -> Explanation {
        let Encoding { tokens, offsets, segments, .. } = &aimed.encoding;
        let word_scores = words.scores(&scores.tokens);
        Explanation {
            id: aimed.record.id.clone(),
            index: aimed.record.index,
            label: aim.label.clone(),
            method: self.options.method.name().to_owned(),
            predicted: aim.predicted.clone(),
            probability: aim.probability,
            target: aim.name.clone(),
            span: aim.span,
            against: self.aims.against(),
            output: scores.output as f32,
            baseline_output: scores.baseline_output.map(|output| output as f32),
            convergence_delta: scores.convergence_delta,
            steps: scores.steps,
            converged: scores.converged,
            r_squared: scores.r_squared,
            tokens: tokens.clone(),
            offsets: offsets.clone(),
            segments: segments.clone(),
            words: WordScore::list(words, &word_scores),
            rationale: self.options.rationale.choose(&word_scores),
            scores: scores.tokens,
        }
    }
}
