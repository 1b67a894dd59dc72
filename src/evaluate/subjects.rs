//! Records, window by window, with what each method says of them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::kept::Kept;
use super::units::Units;
use crate::backend::Objective;
use crate::dataset::{Dataset, Record};
use crate::error::{Error, Result};
use crate::explain::{self, Method, Options, Rationale, Scores, Segmentation, Subject, Words};
use crate::interrupt;
use crate::model::{Model, Problem};
use crate::numeric::argmax;
use crate::pipeline::{Progress, Rejections, Settings};
use crate::random::{Purpose, Stream, uniform};
use crate::tokens::Encoding;

/// Whose scores are put to the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// A method's.
    Of(Method),
    /// Draws: what a yardstick says of scores that mean nothing.
    Random,
}

impl Judged {
    /// Its name on the command line and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Of(method) => method.name(),
            Self::Random => "random",
        }
    }
}

impl std::str::FromStr for Judged {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "random" { Ok(Self::Random) } else { text.parse().map(Self::Of) }
    }
}

impl Serialize for Judged {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What decides which scores are judged, and of what.
#[derive(Clone, Debug)]
pub struct TokenOptions {
    /// The methods, each a row of the result.
    pub methods: Vec<Judged>,
    /// What decides the methods' numbers.
    pub explain: Options,
    /// What a word is; tokens are judged where there are to be none.
    pub words: Segmentation,
    /// How many words make a rationale.
    pub rationale: Rationale,
    /// Where what is found is kept, a window of records at a time, for a run that goes on; nowhere where `None`.
    pub keep: Option<PathBuf>,
}

impl TokenOptions {
    /// A yardstick that all of these options decide, over every record.
    pub(super) fn yardstick(&self, name: &str, others: &dyn std::fmt::Debug) -> Yardstick<'_> {
        let Self { methods, explain, words, rationale, keep } = self;
        Yardstick {
            keep: keep.clone(),
            of: format!("{name} {methods:?} {explain:?} {words:?} {rationale:?} {others:?}"),
            admit: &|_| Ok(true),
        }
    }

    /// The same with other draws, for scores that are held against these methods' own: where both were drawn alike,
    /// chance would agree with itself.
    pub(super) fn with_other_draws(&self) -> Self {
        let explain = Options { seed: self.explain.seed ^ (1 << 63), ..self.explain.clone() };
        Self { explain, ..self.clone() }
    }

    /// Refuses what cannot be judged.
    pub(super) fn check(&self, model: &Model) -> Result<()> {
        if !matches!(model.problem(), Problem::SingleLabel | Problem::MultiLabel) {
            return Err(Error::usage(format!(
                "{}: expected a classifier: what is put to the test is the probability of its prediction",
                model.name()
            ))
            .with_hint("use a fine-tuned classifier"));
        }
        if self.methods.is_empty() {
            return Err(Error::usage("no method to evaluate").with_hint("name some with --method"));
        }
        self.methods.iter().try_for_each(|judged| match judged {
            Judged::Of(method) => method.check(model, &self.explain),
            Judged::Random => Ok(()),
        })
    }
}

/// One record.
pub(super) struct Asked {
    pub(super) record: Record,
    pub(super) encoding: Encoding,
    pub(super) words: Words,
    pub(super) units: Units,
    pub(super) logits: Vec<f32>,
    /// The class whose probability is explained: the most likely.
    pub(super) target: usize,
}

/// What one method says of one record.
pub(super) struct Said {
    pub(super) scores: Scores,
    /// One a unit.
    pub(super) units: Vec<f64>,
}

/// A window of records, and what each method says of each.
pub(super) struct Window {
    pub(super) records: Vec<Asked>,
    /// `[methods][records]`
    pub(super) said: Vec<Vec<Said>>,
}

/// What becomes of windows, in order, and how long each method took over all of them.
pub(super) struct Windows<T> {
    pub(super) found: Vec<T>,
    pub(super) seconds: Vec<f64>,
    /// The ids of records without a single word, which are passed over.
    pub(super) wordless: HashSet<String>,
}

/// Records taken together: so many that batches are even.
const WINDOW: usize = 64;

impl<T> Windows<T> {
    /// Refuses to judge by nothing.
    pub(super) fn some(self) -> Result<Self> {
        if self.found.is_empty() {
            return Err(Error::usage("there is no record with a word to judge methods by"));
        }
        Ok(self)
    }
}

/// Whose windows they are.
pub(super) struct Yardstick<'a> {
    /// Where they are kept, if anywhere.
    pub(super) keep: Option<PathBuf>,
    /// Its name and everything that decides its numbers, besides model and records.
    pub(super) of: String,
    /// Whether it is about a record; `Err` holds what keeps that from being used.
    pub(super) admit: &'a dyn Fn(&Record) -> Result<bool, String>,
}

/// A line of what is kept.
#[derive(Serialize, Deserialize)]
struct Line<T> {
    /// Of the window's records, as the model reads them.
    records: String,
    seconds: Vec<f64>,
    found: T,
}

/// Explains every record of `dataset` that a yardstick is about by every method, and hands them to `take`, a window at
/// a time; windows that an earlier run has kept are taken from there. Records without a single word are passed over.
pub(super) fn each_window<T: Serialize + DeserializeOwned>(
    model: &Model,
    mut dataset: Dataset,
    options: &TokenOptions,
    yardstick: &Yardstick<'_>,
    settings: &Settings,
    rejections: &mut Rejections,
    take: &mut dyn FnMut(Window) -> Result<T>,
) -> Result<Windows<T>> {
    options.check(model)?;
    let path = yardstick.keep.as_deref();
    let header =
        serde_json::json!({ "model": model.fingerprint(), "precision": model.device().1.name(), "of": yardstick.of });
    let (mut kept, lines) = Kept::open::<Line<T>>(path, &header)?;
    let mut lines = lines.into_iter();
    let progress = Progress::new("evaluating", dataset.bytes_total(), settings.quiet);
    let seconds = vec![0.0; options.methods.len()];
    let mut windows = Windows { found: Vec::new(), seconds, wordless: HashSet::new() };
    let mut count = 0;
    loop {
        let mut records = read(model, &mut dataset, options, yardstick, rejections, &mut windows.wordless)?;
        if records.is_empty() {
            return Ok(windows);
        }
        count += records.len() as u64;
        let digest = digest(&records);
        let line = match lines.next() {
            Some(line) if line.records == digest => line,
            Some(_) => return Err(of_other_records(path)),
            None => {
                ask(model, &mut records, settings)?;
                let (said, seconds) = explain_all(model, &records, options, settings)?;
                let line = Line { records: digest, seconds, found: take(Window { records, said })? };
                kept.push(&line)?;
                line
            }
        };
        windows.seconds.iter_mut().zip(line.seconds).for_each(|(all, new)| *all += new);
        windows.found.push(line.found);
        progress.set(dataset.bytes_read(), count);
    }
}

fn of_other_records(path: Option<&Path>) -> Error {
    let path = path.unwrap_or(Path::new("")).display();
    Error::Mismatch(format!("{path}: what is kept there is of other records"), None)
        .with_hint("name another file with --keep, or remove it")
}

fn digest(records: &[Asked]) -> String {
    let mut hasher = blake3::Hasher::new();
    for asked in records {
        let Record { id, text, pair, columns, .. } = &asked.record;
        hasher.update(format!("{id:?} {text:?} {pair:?} {columns:?} {:?}", asked.encoding.ids).as_bytes());
    }
    hasher.finalize().to_hex()[..24].to_owned()
}

/// What every method says of records, and how long each took.
fn explain_all(
    model: &Model,
    records: &[Asked],
    options: &TokenOptions,
    settings: &Settings,
) -> Result<(Vec<Vec<Said>>, Vec<f64>)> {
    let (mut said, mut seconds) = (Vec::new(), Vec::new());
    for judged in &options.methods {
        let began = Instant::now();
        let logits = records.iter().map(|asked| asked.logits.clone()).collect();
        said.push(say(model, records, logits, *judged, options, settings)?);
        seconds.push(began.elapsed().as_secs_f64());
    }
    Ok((said, seconds))
}

fn read(
    model: &Model,
    dataset: &mut Dataset,
    options: &TokenOptions,
    yardstick: &Yardstick<'_>,
    rejections: &mut Rejections,
    wordless: &mut HashSet<String>,
) -> Result<Vec<Asked>> {
    let mut window = Vec::new();
    while window.len() < WINDOW {
        interrupt::check()?;
        let Some(record) = dataset.next() else { break };
        let admitted = record.and_then(|record| match (yardstick.admit)(&record) {
            Ok(admitted) => Ok(admitted.then_some(record)),
            Err(reason) => Err(dataset.place().error(reason)),
        });
        match admitted {
            Err(error) => rejections.take(error)?,
            Ok(None) => {}
            Ok(Some(record)) => {
                let encoding = model.encode(&record)?;
                let words = Words::new(&record, &encoding, options.words);
                let units = Units::new(&encoding, &words, options.words);
                if units.len() > 0 {
                    window.push(Asked { record, encoding, words, units, logits: Vec::new(), target: 0 });
                } else {
                    wordless.insert(record.id);
                }
            }
        }
    }
    Ok(window)
}

/// What the model says of them.
fn ask(model: &Model, window: &mut [Asked], settings: &Settings) -> Result<()> {
    let logits = answers(model, window, settings)?;
    for (asked, logits) in window.iter_mut().zip(logits) {
        asked.target = argmax(&logits);
        asked.logits = logits;
    }
    Ok(())
}

/// `z [K]` of each record, by a model that need not be the one whose predictions are explained.
pub(super) fn answers(model: &Model, records: &[Asked], settings: &Settings) -> Result<Vec<Vec<f32>>> {
    let encodings: Vec<&Encoding> = records.iter().map(|asked| &asked.encoding).collect();
    let outputs = model.run(&encodings, settings.batch_tokens, &|_| !interrupt::asked())?;
    Ok(outputs.logits.chunks_exact(model.classes()).map(<[f32]>::to_vec).collect())
}

/// What one method says of a window's records, for their targets; `logits` are those of this very model.
pub(super) fn say(
    model: &Model,
    records: &[Asked],
    logits: Vec<Vec<f32>>,
    judged: Judged,
    options: &TokenOptions,
    settings: &Settings,
) -> Result<Vec<Said>> {
    let Judged::Of(method) = judged else {
        return Ok(records.iter().map(|asked| by_chance(asked, options.explain.seed)).collect());
    };
    let subjects: Vec<Subject<'_>> = records
        .iter()
        .zip(logits)
        .map(|(asked, logits)| Subject {
            index: asked.record.index,
            draw: explain::place_among_draws(&asked.encoding),
            encoding: &asked.encoding,
            words: &asked.words,
            objectives: vec![objective(model, asked.target)],
            logits,
            reads: None,
        })
        .collect();
    let going = |_| !interrupt::asked();
    let scores = explain::explain(model, &subjects, method, &options.explain, settings.batch_tokens, &going)?;
    let said = |(asked, scores): (&Asked, Vec<Scores>)| {
        let scores = scores.into_iter().next().unwrap_or_default();
        Said { units: asked.units.scores(&asked.words, options.words, &scores), scores }
    };
    Ok(records.iter().zip(scores).map(said).collect())
}

fn by_chance(asked: &Asked, seed: u64) -> Said {
    let stream = Stream::new(seed, Purpose::Chance);
    let draw = |unit| f64::from(uniform(stream.block([0, 0, unit as u32, asked.record.index as u32])[0]));
    Said { units: (0..asked.units.len()).map(draw).collect(), scores: Scores::default() }
}

/// The probability of a class.
pub(super) fn objective(model: &Model, target: usize) -> Objective {
    if model.problem() == Problem::MultiLabel { Objective::Sigmoid(target) } else { Objective::Softmax(target) }
}
