//! `explain`: records in, a score for each token and word out.

use super::{Progress, Rejections, Settings, Summary};
use crate::backend::Objective;
use crate::dataset::{Dataset, Label, Record};
use crate::error::{Error, Result};
use crate::explain::{self, Features, Method, NormLime, Rationale, Scores, Segmentation, Subject, Words};
use crate::factors::{self, Target};
use crate::interrupt;
use crate::model::{Model, Problem};
use crate::report::{Explanation, GlobalImportance, WordScore, class_value};
use crate::tokens::Encoding;

/// Which label a record is explained for.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ExplainTarget {
    /// The one the model finds most likely (every output of a regression).
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
#[derive(Clone, Debug, Default)]
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
/// The first of: what could not be read (or a record that cannot be used, unless such are skipped), settings that the model has no
/// meaning for, what the model could not run, what `write` could not write, or the user's interrupt.
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

/// `NormLIME`: explains every record of `dataset` by `options`, whose method should be LIME, and sums up what speaks for each class anywhere.
///
/// # Errors
/// As [`explain()`].
pub fn norm_lime(
    model: &Model,
    dataset: Dataset,
    options: &ExplainOptions,
    settings: &Settings,
    rejections: &mut Rejections,
) -> Result<(Summary, Vec<GlobalImportance>)> {
    let job = Job::new(model, options, settings)?;
    let mut sums = NormLime::new(options.method.features(&options.options).unwrap_or_default());
    let names = model.class_names().names();
    let summary = job.run(dataset, rejections, &mut |asked, scores| {
        let subject = job.subject(asked);
        asked.targets.iter().zip(&scores).for_each(|(&target, scores)| sums.add(&subject, &names[target], scores));
        Ok(())
    })?;
    Ok((summary, GlobalImportance::list(sums.finish())))
}

/// The labels that every record shares.
struct Named {
    targets: Vec<usize>,
    against: Option<usize>,
}

impl Named {
    fn resolve(model: &Model, options: &ExplainOptions) -> Result<Self> {
        let targets = match &options.target {
            ExplainTarget::Labels(labels) => labels.iter().map(|label| class(model, "--target", label)).collect(),
            ExplainTarget::All => Ok((0..model.classes()).collect()),
            ExplainTarget::Predicted | ExplainTarget::Gold => Ok(Vec::new()),
        };
        let against = options.against.as_ref().map(|label| class(model, "--against", label)).transpose()?;
        Ok(Self { targets: targets?, against })
    }
}

/// The class that a label names.
fn class(model: &Model, flag: &str, name: &str) -> Result<usize> {
    let label = match model.problem() {
        Problem::MultiLabel => Label::Many(vec![Label::Name(name.to_owned())]),
        _ => Label::Name(name.to_owned()),
    };
    if model.problem() == Problem::Regression {
        let names = model.class_names().names();
        return names.iter().position(|n| n == name).ok_or_else(|| {
            Error::usage(format!("{flag}: expected one of the outputs {}, found {name:?}", names.join(", ")))
        });
    }
    let target = model.resolve_label(&label).map_err(|reason| Error::usage(format!("{flag}: {reason}")))?;
    classes(&target).first().copied().ok_or_else(|| Error::usage(format!("{flag}: {name:?} names no class")))
}

/// The classes of a target.
fn classes(target: &Target) -> Vec<usize> {
    match target {
        Target::Class(class) => vec![*class],
        Target::Classes(classes) => (0..classes.len()).filter(|&k| classes[k] == 1.0).collect(),
        Target::Values(values) => (0..values.len()).collect(),
    }
}

/// What stays the same from record to record.
struct Job<'a> {
    model: &'a Model,
    options: &'a ExplainOptions,
    settings: &'a Settings,
    named: Named,
}

/// A record on its way.
struct Asked {
    record: Record,
    gold: Option<Target>,
    encoding: Encoding,
    words: Words,
    logits: Vec<f32>,
    targets: Vec<usize>,
}

/// Batches' worth of probes taken together, for each worker: the larger, the less workers wait for each other at the end; the smaller, the
/// sooner there is something to see.
const BATCHES_A_WORKER: usize = 64;

impl<'a> Job<'a> {
    fn new(model: &'a Model, options: &'a ExplainOptions, settings: &'a Settings) -> Result<Self> {
        options.method.check(model, &options.options)?;
        if options.words == Segmentation::None && options.method.features(&options.options) == Some(Features::Words) {
            return Err(Error::usage(format!("{}: words are its features, and there are to be none", options.method))
                .with_hint("leave out tokens (--features tokens), or say what a word is (--words)"));
        }
        Ok(Self { model, options, settings, named: Named::resolve(model, options)? })
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
            summary.records += window.len() as u64;
            summary.tokens += window.iter().map(|asked| asked.encoding.ids.len() as u64).sum::<u64>();
            summary.truncated += window.iter().filter(|asked| asked.encoding.truncated).count() as u64;
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
    fn window(&self, dataset: &mut Dataset, rejections: &mut Rejections) -> Result<Vec<Asked>> {
        let network = self.model.network();
        let batch = self.settings.batch_tokens.unwrap_or_else(|| network.batch_tokens());
        let budget = batch * network.workers() * BATCHES_A_WORKER;
        let (mut window, mut tokens) = (Vec::new(), 0);
        while tokens < budget {
            interrupt::check()?;
            let Some(record) = dataset.next() else { break };
            match record.and_then(|record| self.asked(record, dataset)) {
                Err(error) => rejections.take(error)?,
                Ok(asked) => {
                    let length = asked.encoding.ids.len();
                    tokens += length * self.options.method.probes(length, &self.options.options);
                    window.push(asked);
                }
            }
        }
        self.predict(&mut window)?;
        Ok(window)
    }

    fn asked(&self, record: Record, dataset: &Dataset) -> Result<Asked> {
        let gold = record.label.as_ref().map(|label| self.model.resolve_label(label)).transpose();
        let gold = gold.map_err(|reason| dataset.place().error(reason))?;
        if self.options.target == ExplainTarget::Gold && gold.as_ref().is_none_or(|gold| classes(gold).is_empty()) {
            return Err(dataset.place().error("no label, and the target is gold".to_owned()));
        }
        let encoding = self.model.encode(&record)?;
        let words = Words::new(&record, &encoding, self.options.words);
        Ok(Asked { record, gold, encoding, words, logits: Vec::new(), targets: Vec::new() })
    }

    /// Runs the model over a window, and settles what is explained of each record.
    fn predict(&self, window: &mut [Asked]) -> Result<()> {
        let encodings: Vec<&Encoding> = window.iter().map(|asked| &asked.encoding).collect();
        let outputs = self.model.run(&encodings, self.settings.batch_tokens, &|_| !interrupt::asked())?;
        for (asked, logits) in window.iter_mut().zip(outputs.logits.chunks_exact(self.model.classes())) {
            asked.logits = logits.to_vec();
            asked.targets = match (&self.options.target, &asked.gold) {
                (ExplainTarget::Gold, Some(gold)) => classes(gold),
                (ExplainTarget::All | ExplainTarget::Labels(_), _) => self.named.targets.clone(),
                _ if self.model.problem() == Problem::Regression => (0..logits.len()).collect(),
                _ => vec![most_likely(logits)],
            };
        }
        Ok(())
    }

    fn objective(&self, target: usize) -> Objective {
        match (self.named.against, self.options.output, self.model.problem()) {
            (Some(against), ..) => Objective::Difference(target, against),
            (None, Output::Probability, Problem::SingleLabel) => Objective::Softmax(target),
            (None, Output::Probability, Problem::MultiLabel) => Objective::Sigmoid(target),
            (None, ..) => Objective::Logit(target),
        }
    }

    fn subject<'b>(&self, asked: &'b Asked) -> Subject<'b> {
        Subject {
            index: asked.record.index,
            encoding: &asked.encoding,
            words: &asked.words,
            objectives: asked.targets.iter().map(|&target| self.objective(target)).collect(),
            logits: asked.logits.clone(),
        }
    }

    /// Scores of each record of a window, for each of its targets.
    fn scores(&self, window: &[Asked]) -> Result<Vec<Vec<Scores>>> {
        let subjects: Vec<Subject<'_>> = window.iter().map(|asked| self.subject(asked)).collect();
        let ExplainOptions { method, options, .. } = self.options;
        let going = |_| !interrupt::asked();
        explain::explain(self.model, &subjects, *method, options, self.settings.batch_tokens, &going)
    }

    fn results<'b>(&'b self, asked: &'b Asked, scores: Vec<Scores>) -> impl Iterator<Item = Explanation> + 'b {
        asked.targets.iter().zip(scores).map(|(&target, scores)| self.result(asked, target, scores))
    }

    fn result(&self, asked: &Asked, target: usize, scores: Scores) -> Explanation {
        let (names, problem) = (self.model.class_names().names(), self.model.problem());
        let Encoding { tokens, offsets, segments, .. } = &asked.encoding;
        let word_scores = asked.words.scores(&scores.tokens);
        let predicted = factors::predict(problem, &asked.logits);
        Explanation {
            id: asked.record.id.clone(),
            index: asked.record.index,
            label: asked.gold.as_ref().map(|gold| class_value(gold, names)),
            method: self.options.method.name().to_owned(),
            predicted: class_value(&predicted, names),
            probability: self.probability(asked, target),
            target: names[target].clone(),
            against: self.named.against.map(|against| names[against].clone()),
            output: scores.output as f32,
            baseline_output: scores.baseline_output.map(|output| output as f32),
            convergence_delta: scores.convergence_delta,
            steps: scores.steps,
            converged: scores.converged,
            r_squared: scores.r_squared,
            tokens: tokens.clone(),
            offsets: offsets.clone(),
            segments: segments.clone(),
            words: WordScore::list(&asked.words, &word_scores),
            rationale: self.options.rationale.choose(&word_scores),
            scores: scores.tokens,
        }
    }
}

impl Job<'_> {
    /// The target's probability, where that is not what is explained, and there is one.
    fn probability(&self, asked: &Asked, target: usize) -> Option<f32> {
        match (self.objective(target), self.model.problem()) {
            (Objective::Softmax(_) | Objective::Sigmoid(_), _) | (_, Problem::Regression) => None,
            _ => factors::probabilities(self.model.problem(), &asked.logits).get(target).copied(),
        }
    }
}

/// The first of the largest.
fn most_likely(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, k| if logits[k] > logits[best] { k } else { best })
}
