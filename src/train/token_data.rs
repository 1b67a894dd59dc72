//! Records as a model that says something of tokens learns from them: windows of a context, words with tags, texts to
//! be masked.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use rayon::prelude::*;

use super::data::weight;
use super::material::{Material, Taught};
use super::selector_data::{self, Evidence};
use super::token_metrics;
use super::{Labelled, Metric, Metrics, TrainOptions};
use crate::dataset::{Label, Record, Rejections};
use crate::error::{Error, Result};
use crate::factors::Target;
use crate::model::{DropoutPass, Learn, Studied, Task, Term, TokenLesson, Trainee};
use crate::random::{Purpose, Stream};
use crate::task::{self, Scoring, SelectorSettings};
use crate::tokens::{Encoding, Joined, PackedBatch};

/// One sequence and what its tokens teach.
#[derive(Clone, Debug)]
pub struct TokenExample {
    /// Its tokens; what is needed neither to learn nor to judge is left out.
    pub encoding: Encoding,
    /// What is to be learned.
    pub terms: Vec<Term>,
    /// What it counts, against the others'.
    pub weight: f64,
    /// Its record's number in the input.
    pub index: u64,
    /// Its record's id.
    pub id: String,
    /// What it is judged by, or how it is masked.
    pub gold: Gold,
}

/// What a sequence belongs to.
#[derive(Clone, Debug, PartialEq)]
pub enum Gold {
    /// The windows of one question, one after the other, share it.
    Answers(Arc<Question>),
    /// The windows of one text, one after the other, share it.
    Tags(Arc<TaggedText>),
    /// Masks are drawn anew for each epoch.
    Masks(Masking),
    /// Which sentences of its context are evidence; the windows of one context share it.
    Sentences(Arc<Evidence>),
}

/// A question, and what is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// What the answer is looked for in.
    pub context: String,
    /// The right answers; none where the context has none.
    pub answers: Vec<String>,
    /// How answers are compared.
    pub scoring: Scoring,
}

/// A text with tagged words.
#[derive(Clone, PartialEq)]
pub struct TaggedText {
    /// The name of each word's tag.
    pub tags: Vec<String>,
    /// Where each word is, in characters.
    pub words: Vec<(usize, usize)>,
    /// All of its tokens, whatever windows they are read in.
    pub joined: Joined,
}

impl fmt::Debug for TaggedText {
    /// What tells it from others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tags({:?}, {:?})", self.tags, self.words)
    }
}

/// How tokens are masked (Devlin et al. 2019, *BERT*, section 3.1): 15 % of a text's own tokens are to be told; of them
/// 80 % become the mask, 10 % a piece drawn from the vocabulary, and 10 % stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masking {
    /// The mask's id.
    pub mask: u32,
    /// Pieces there are.
    pub vocabulary: u32,
}

/// How records become sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOptions {
    /// Tokens of a context or a tagged text that neighbouring windows share.
    pub stride: usize,
    /// How answers are compared.
    pub scoring: Scoring,
    /// What stands around the sentences of a context, where it is they that are chosen.
    pub markers: Option<[String; 2]>,
}

impl Default for TokenOptions {
    fn default() -> Self {
        Self { stride: 128, scoring: Scoring::default(), markers: None }
    }
}

/// Shares of 2³².
const MASKED: u32 = share(0.15);
const BY_MASK: u32 = share(0.8);
const BY_PIECE: u32 = share(0.9);

const fn share(of: f64) -> u32 {
    (of * 4_294_967_296.0) as u32
}

impl Masking {
    /// What is read of a sequence in an epoch, and what is behind: functions of the seed, the epoch and the sequence's
    /// number alone.
    pub fn draw(&self, encoding: &Encoding, seed: u64, epoch: u32, row: u32) -> (Vec<u32>, Vec<Term>) {
        let stream = Stream::new(seed, Purpose::MaskedPieces);
        let (mut ids, mut terms) = (encoding.ids.clone(), Vec::new());
        for token in encoding.own_tokens() {
            let [chosen, how, which, _] = stream.block([token as u32, 0, epoch, row]);
            if chosen >= MASKED {
                continue;
            }
            terms.push(Term::Class { tokens: vec![token as u32], class: ids[token] });
            if how < BY_MASK {
                ids[token] = self.mask;
            } else if how < BY_PIECE {
                ids[token] = ((u64::from(which) * u64::from(self.vocabulary)) >> 32) as u32;
            }
        }
        (ids, terms)
    }
}

impl Material for TokenExample {
    fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    fn weight(&self) -> f64 {
        self.weight
    }

    fn name(&self) -> (u64, &str) {
        (self.index, &self.id)
    }

    /// Start and end of an answer are one loss, their mean; tags and pieces are one each.
    fn mass(&self) -> f64 {
        if matches!(self.gold, Gold::Answers(_)) { 1.0 } else { self.terms.len() as f64 }
    }

    fn in_epoch(&self, seed: u64, epoch: u32, row: u32) -> Cow<'_, Self> {
        let Gold::Masks(masking) = &self.gold else { return Cow::Borrowed(self) };
        let (ids, terms) = masking.draw(&self.encoding, seed, epoch, row);
        Cow::Owned(Self { encoding: Encoding { ids, ..self.encoding.clone() }, terms, ..self.clone() })
    }

    fn digest(&self) -> String {
        format!("{:?} {:?}", self.terms, self.gold)
    }

    fn study(
        learner: &mut dyn Learn,
        batch: PackedBatch,
        taught: &[Taught<'_, Self>],
        dropout: Option<DropoutPass>,
    ) -> Result<Studied> {
        let lessons: Vec<TokenLesson<'_>> = taught
            .iter()
            .map(|&Taught { of, share, row, .. }| {
                let share = share * of.mass() / of.terms.len().max(1) as f64;
                TokenLesson { terms: &of.terms, share, record: row }
            })
            .collect();
        learner.study_tokens(batch, &lessons, dropout)
    }

    fn metric(options: &TrainOptions, trainee: &Trainee) -> Metric {
        options.metric.unwrap_or(match trainee.task() {
            Task::Spans => Metric::ExactMatch,
            Task::Tags if trainee.class_names().names() == SelectorSettings::CLASSES => Metric::Selection,
            Task::Tags => Metric::F1,
            Task::Masks | Task::Record => Metric::Loss,
        })
    }

    fn evaluate(trainee: &mut Trainee, examples: &[Self], batch_tokens: Option<usize>) -> Result<Metrics> {
        token_metrics::evaluate(trainee, examples, batch_tokens)
    }
}

impl Labelled {
    /// As a `trainee` that says something of tokens reads them; those that mean nothing to it cannot be used.
    ///
    /// # Errors
    /// As [`Rejections::take`]; [`Error::Usage`] where none is left, or the model's tokenizer has no mask to learn.
    pub fn token_examples(
        self,
        trainee: &Trainee,
        options: &TokenOptions,
        rejections: &mut Rejections,
    ) -> Result<Vec<TokenExample>> {
        let column = self.weight_column.clone();
        let maker = Maker { trainee, options, masking: masking(trainee)? };
        let made: Vec<_> = self
            .records
            .into_par_iter()
            .map(|(record, place)| (maker.examples(&record, weight(&record, column.as_deref()).unwrap_or(1.0)), place))
            .collect();
        let mut examples = Vec::with_capacity(made.len());
        for (made, place) in made {
            match made {
                Ok(some) => examples.extend(some),
                Err(reason) => rejections.take(place.error(reason))?,
            }
        }
        if examples.is_empty() {
            return Err(Error::usage("there are no records to learn from that this model can use"));
        }
        Ok(examples)
    }
}

fn masking(trainee: &Trainee) -> Result<Option<Masking>> {
    if trainee.task() != Task::Masks {
        return Ok(None);
    }
    let mask = trainee.tokenizer().mask_id();
    let mask = mask.ok_or_else(|| Error::usage("this model's tokenizer has no mask token to learn with"))?;
    Ok(Some(Masking { mask, vocabulary: trainee.tokenizer().vocab_size() as u32 }))
}

/// A sequence, and what it teaches.
type Lesson = (Encoding, Vec<Term>);

/// Makes sequences of records.
struct Maker<'a> {
    trainee: &'a Trainee,
    options: &'a TokenOptions,
    masking: Option<Masking>,
}

impl Maker<'_> {
    fn examples(&self, record: &Record, weight: f64) -> Result<Vec<TokenExample>, String> {
        let example = |(encoding, terms): (Encoding, Vec<Term>), gold: Gold| TokenExample {
            encoding: Encoding { tokens: vec![], words: vec![], ..encoding },
            terms,
            weight,
            index: record.index,
            id: record.id.clone(),
            gold,
        };
        if let Some(markers) = &self.options.markers {
            return selector_data::examples(self.trainee, markers, record, weight);
        }
        match (self.trainee.task(), self.masking) {
            (Task::Spans, _) => {
                let question = Arc::new(self.question(record)?);
                let windows = self.windows(record)?;
                Ok(windows.into_iter().map(|window| example(window, Gold::Answers(Arc::clone(&question)))).collect())
            }
            (Task::Masks, Some(masking)) => Ok(vec![example((self.encode(record)?, vec![]), Gold::Masks(masking))]),
            _ => {
                let (windows, text) = self.tags(record)?;
                let text = Arc::new(text);
                Ok(windows.into_iter().map(|window| example(window, Gold::Tags(Arc::clone(&text)))).collect())
            }
        }
    }

    fn encode(&self, record: &Record) -> Result<Encoding, String> {
        self.trainee.encode(record).map_err(|error| error.to_string())
    }

    fn question(&self, record: &Record) -> Result<Question, String> {
        let Some(Label::Answers(answers)) = &record.label else {
            return Err("answers: expected what is right, found none".to_owned());
        };
        let answers = answers.iter().map(|answer| answer.text.clone()).collect();
        let context = record.pair.clone().unwrap_or_default();
        Ok(Question { context, answers, scoring: self.options.scoring })
    }

    /// The windows of a context with where the answer starts and ends in each: at the first token where it is not in
    /// it, as `transformers`' `run_qa.py` has it.
    fn windows(&self, record: &Record) -> Result<Vec<Lesson>, String> {
        let gold = task::gold_span(record)?;
        let context = record.pair.as_deref().unwrap_or_default();
        let (tokenizer, length) = (self.trainee.tokenizer(), self.trainee.max_length());
        let windows = tokenizer.windows(&record.text, context, length, self.options.stride);
        let windows = windows.map_err(|error| match error.hint() {
            Some(hint) => format!("{error}; {hint}"),
            None => error.to_string(),
        })?;
        let taught = |encoding: Encoding| {
            let (start, end) = gold.and_then(|(start, end)| task::place(&encoding, start, end)).unwrap_or((0, 0));
            let term = |(column, token): (u32, usize)| Term::Token { column, token: token as u32 };
            let terms = [(0, start), (1, end)].map(term).to_vec();
            (encoding, terms)
        };
        Ok(windows.into_iter().map(taught).collect())
    }

    /// The windows of a text, each with the classes of the words whose first token it says most of; other tokens teach
    /// nothing.
    fn tags(&self, record: &Record) -> Result<(Vec<Lesson>, TaggedText), String> {
        let Some(words) = &record.words else {
            return Err("tags need the words they are of: a column `tokens` with a list of them".to_owned());
        };
        let Some(Label::Many(labels)) = &record.label else {
            return Err("tags: expected a list, one a word".to_owned());
        };
        if labels.len() != words.len() {
            return Err(format!("tags: expected {}, one a word, found {}", words.len(), labels.len()));
        }
        let class = |label: &Label| match self.trainee.resolve_label(label)? {
            Target::Class(class) => Ok(class),
            Target::Classes(_) | Target::Values(_) => Err("tags: expected one class a word".to_owned()),
        };
        let classes: Vec<usize> = labels.iter().map(class).collect::<Result<_, String>>()?;
        let (tokenizer, pair) = (self.trainee.tokenizer(), record.pair.as_deref());
        let windows = tokenizer.text_windows(&record.text, pair, self.trainee.max_length(), self.options.stride);
        let (mut joined, windows) = windows.map_err(|error| error.to_string())?;
        let mut taught: Vec<Lesson> = windows.into_iter().map(|window| (window, Vec::new())).collect();
        let firsts = task::first_tokens(&joined.encoding, words).into_iter().zip(&classes);
        let mut firsts: Vec<(usize, u32)> = firsts.filter_map(|(token, &class)| Some((token?, class as u32))).collect();
        // Two words in one piece: the first of them is its tag.
        firsts.dedup_by_key(|(token, _)| *token);
        for (token, class) in firsts {
            let (window, place) = joined.place(token);
            taught[window].1.push(Term::Class { tokens: vec![place as u32], class });
        }
        // What is not needed to judge.
        (joined.encoding.tokens, joined.encoding.words) = (Vec::new(), Vec::new());
        let names = self.trainee.class_names().names();
        let tags = classes.into_iter().map(|class| names[class].clone()).collect();
        Ok((taught, TaggedText { tags, words: words.clone(), joined }))
    }
}
