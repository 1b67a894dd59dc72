//! What of a record is explained: a label of the whole, an answer, an entity or a tag, a masked piece; each as a
//! function of its logits.

use std::sync::Arc;

use serde_json::Value;

use super::explain::{ExplainOptions, ExplainTarget, Output};
use super::predict_tokens::{NamedEntities, Tagged, encoded_masks, encoded_text, found, question_windows};
use super::windows::{Encoded, read_whole};
use crate::backend::{Objective, Part, Term};
use crate::dataset::{Label, Record};
use crate::error::{Error, Result};
use crate::explain::{Subject, Words, place_among_draws};
use crate::factors::{self, Target};
use crate::model::{Model, Outputs, Problem, Reads, Task};
use crate::numeric::argmax;
use crate::report::{TargetSpan, class_value};
use crate::task::{self, AnswerOptions, characters, gold_span};
use crate::tokens::Encoding;

/// One thing that is explained.
pub(super) struct Aim {
    /// As results name it.
    pub(super) name: String,
    pub(super) objective: Objective,
    /// Its probability, where that is not what is explained, and there is one.
    pub(super) probability: Option<f32>,
    /// Where it is, where it is a part of the text.
    pub(super) span: Option<TargetSpan>,
    /// What the model says of the record; of a part of the text, what it says of that.
    pub(super) predicted: Value,
    /// The record's own label of the same, as results show it.
    pub(super) label: Option<Value>,
}

/// A record, what the model said of it, and what of that is explained.
pub(super) struct Aimed {
    pub(super) record: Record,
    /// What the model read; of a context in several windows, that with the answer.
    pub(super) encoding: Encoding,
    pub(super) reads: Option<Reads>,
    pub(super) logits: Vec<f32>,
    pub(super) aims: Vec<Aim>,
}

impl Aimed {
    /// As explanations see it.
    pub(super) fn subject<'a>(&'a self, words: &'a Words) -> Subject<'a> {
        Subject {
            index: self.record.index,
            draw: place_among_draws(&self.encoding),
            encoding: &self.encoding,
            words,
            objectives: self.aims.iter().map(|aim| aim.objective.clone()).collect(),
            logits: self.logits.clone(),
            reads: self.reads.clone(),
        }
    }
}

/// How aims are found, the same for every record.
pub(super) struct Aims<'a> {
    model: &'a Model,
    options: &'a ExplainOptions,
    /// The classes that `--target` names.
    targets: Vec<usize>,
    /// The class that it is held against.
    against: Option<usize>,
}

impl<'a> Aims<'a> {
    /// # Errors
    /// [`Error::Usage`] for a target that this model has no meaning for.
    pub(super) fn new(model: &'a Model, options: &'a ExplainOptions) -> Result<Self> {
        let (task, refuse) = (model.task(), |reason: &str| Err(Error::usage(reason)));
        match (&options.target, task) {
            (ExplainTarget::All, Task::Spans | Task::Tags | Task::Masks) => {
                return refuse(
                    "--target all: expected predicted, gold or a label, for models that say something of tokens",
                );
            }
            (ExplainTarget::Labels(_), Task::Spans) => {
                return refuse("--target: expected predicted or gold, for answers");
            }
            (ExplainTarget::Labels(_), Task::Tags) if options.token.is_none() => {
                return refuse("--target: a tag is explained at one token; say at which with --token");
            }
            (ExplainTarget::Gold, Task::Masks) => {
                return refuse("--target gold: a masked text does not say what it hides");
            }
            _ => {}
        }
        if options.token.is_some() && matches!(task, Task::Record | Task::Spans) {
            return refuse("--token: this model says nothing of single tokens");
        }
        if options.against.is_some() && (task == Task::Spans || (task == Task::Tags && options.token.is_none())) {
            return refuse("--against: expected one token's tag or mask (--token), or a text's class, as target");
        }
        let targets = match &options.target {
            ExplainTarget::Labels(labels) => labels.iter().map(|label| class(model, "--target", label)).collect(),
            ExplainTarget::All => Ok((0..model.classes()).collect()),
            ExplainTarget::Predicted | ExplainTarget::Gold => Ok(Vec::new()),
        };
        if options.against.is_some() && model.task() == Task::Record && model.classes() < 2 {
            return Err(Error::usage("--against: expected a model of several outputs, found one of one"));
        }
        let against = options.against.as_ref().map(|label| class(model, "--against", label)).transpose()?;
        let mut targets = targets?;
        targets.retain(|target| Some(*target) != against);
        if let (ExplainTarget::Labels(_), true, Some(label)) = (&options.target, targets.is_empty(), &options.against) {
            return Err(Error::usage(format!("--against {label}: this is the target itself")));
        }
        Ok(Self { model, options, targets, against })
    }

    /// The name of what targets are held against.
    pub(super) fn against(&self) -> Option<String> {
        let name = |class: usize| self.model.class_names().names().get(class).cloned();
        self.against.and_then(name).or_else(|| self.options.against.clone())
    }

    /// A record as the model reads it.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn encode(&self, record: Record) -> Result<Encoded, String> {
        match self.model.task() {
            Task::Record => {
                let gold = self.gold(&record)?;
                if self.options.target == ExplainTarget::Gold
                    && gold.as_ref().is_none_or(|gold| classes(gold).is_empty())
                {
                    let lack = if gold.is_some() { "the label has no class" } else { "no label" };
                    return Err(format!("{lack}, and the target is gold"));
                }
                let encoding = self.model.encode(&record).map_err(|error| error.to_string())?;
                Ok(Encoded::of(record, vec![(encoding, Reads::default())]))
            }
            Task::Spans => {
                let windows = question_windows(self.model, &record, self.options.stride)?;
                Ok(Encoded::of(record, windows.into_iter().map(read_whole).collect()))
            }
            Task::Tags => encoded_text(self.model, record, self.options.stride),
            Task::Masks => encoded_masks(self.model, record),
        }
    }

    /// What is explained of a record, one for each of the windows that something is explained in.
    ///
    /// # Errors
    /// Why nothing can be.
    pub(super) fn aimed(&self, encoded: Encoded, outputs: Vec<Outputs>) -> Result<Vec<Aimed>, String> {
        match self.model.task() {
            Task::Record => self.of_record(encoded, outputs).map(|one| vec![one]),
            Task::Spans => self.of_answer(encoded, outputs).map(|one| vec![one]),
            Task::Tags => self.of_tags(&encoded, &outputs),
            Task::Masks => self.of_masks(encoded, outputs).map(|one| vec![one]),
        }
    }

    fn gold(&self, record: &Record) -> Result<Option<Target>, String> {
        record.label.as_ref().map(|label| self.model.resolve_label(label)).transpose()
    }

    fn of_record(&self, encoded: Encoded, outputs: Vec<Outputs>) -> Result<Aimed, String> {
        let (record, encoding, _, logits) = only(encoded, outputs);
        let (problem, names) = (self.model.problem(), self.model.class_names().names());
        let gold = self.gold(&record)?;
        let targets = match (&self.options.target, &gold) {
            (ExplainTarget::Gold, Some(gold)) => classes(gold),
            (ExplainTarget::All | ExplainTarget::Labels(_), _) => self.targets.clone(),
            _ if problem == Problem::Regression => (0..logits.len()).collect(),
            _ => vec![argmax(&logits)],
        };
        let label = gold.as_ref().map(|gold| class_value(gold, names));
        let predicted = class_value(&factors::predict(problem, &logits), names);
        let aim = |target: usize| {
            let objective = match (self.against, self.options.output, problem) {
                (Some(against), ..) => Objective::Difference(target, against),
                (None, Output::Probability, Problem::SingleLabel) => Objective::Softmax(target),
                (None, Output::Probability, Problem::MultiLabel) => Objective::Sigmoid(target),
                (None, ..) => Objective::Logit(target),
            };
            let is_probability = matches!(objective, Objective::Softmax(_) | Objective::Sigmoid(_));
            let probabilities =
                (!is_probability && problem != Problem::Regression).then(|| factors::probabilities(problem, &logits));
            let probability = probabilities.and_then(|p| p.get(target).copied());
            let (predicted, label) = (predicted.clone(), label.clone());
            Aim { name: names[target].clone(), objective, probability, span: None, predicted, label }
        };
        // What is held against itself says nothing, unless it is all that was asked for.
        let others: Vec<usize> = targets.iter().copied().filter(|target| Some(*target) != self.against).collect();
        let targets = if others.is_empty() { targets } else { others };
        Ok(Aimed { aims: targets.into_iter().map(aim).collect(), record, encoding, reads: None, logits })
    }

    /// P(start) + P(end) of one span, both over every token of its window, as the model's loss has them.
    fn of_answer(&self, encoded: Encoded, outputs: Vec<Outputs>) -> Result<Aimed, String> {
        let options =
            AnswerOptions { max_tokens: self.options.max_answer_tokens, n_best: 1, ..AnswerOptions::default() };
        let Encoded { record, sequences, .. } = encoded;
        let best = found(&sequences, &outputs, &options).best.first().copied().ok_or("the context has no token")?;
        let context = record.pair.as_deref().unwrap_or_default();
        let text = |start, end| characters(context, start, end).to_owned();
        let (window, tokens, start, end) = if self.options.target == ExplainTarget::Gold {
            let (start, end) = gold_span(&record)?.ok_or("no answer, and the target is gold")?;
            let places = sequences.iter().enumerate();
            let placed = places.filter_map(|(w, (encoding, _))| Some((w, task::place(encoding, start, end)?)));
            let score =
                |&(w, (s, e)): &(usize, (usize, usize))| span(self.options.output, s, e).value(&wide(&outputs[w]));
            let (window, tokens) =
                placed.max_by(|a, b| score(a).total_cmp(&score(b))).ok_or("the answer is whole in no window")?;
            (window, tokens, start, end)
        } else {
            (best.window, best.tokens, best.start, best.end)
        };
        let right = match &record.label {
            Some(Label::Answers(answers)) => Some(answers.iter().map(|answer| answer.text.as_str()).collect::<Value>()),
            _ => None,
        };
        let aim = Aim {
            name: text(start, end),
            objective: span(self.options.output, tokens.0, tokens.1),
            probability: None,
            span: Some(TargetSpan { start, end, segment: 1 }),
            predicted: text(best.start, best.end).into(),
            label: right,
        };
        let (encoding, reads) = sequences.into_iter().nth(window).ok_or("no window")?;
        let logits = outputs.into_iter().nth(window).unwrap_or_default().logits;
        Ok(Aimed { encoding, reads: Some(reads), logits, aims: vec![aim], record })
    }

    /// One tag at one token, or the mean probability of the tags that make an entity, at its words' first tokens: each
    /// in the window of the text that shows most of what is around it.
    fn of_tags(&self, encoded: &Encoded, outputs: &[Outputs]) -> Result<Vec<Aimed>, String> {
        let said = encoded.whole(outputs);
        let (record, encoding) = (&encoded.record, encoded.text());
        let tagged = Tagged::new(self.model, record, encoding, &said);
        let gold = self.options.target == ExplainTarget::Gold;
        if gold && tagged.gold.is_none() {
            return Err("no tags, and the target is gold".to_owned());
        }
        let aims = match self.options.token {
            Some(token) => self.of_tag(encoded, &said, &tagged, token)?,
            None => self.of_entities(encoded, &tagged, gold),
        };
        let mut windows: Vec<Aimed> = Vec::new();
        let mut last = None;
        for (window, aim) in aims {
            if last != Some(window) {
                let (encoding, reads) = encoded.sequences[window].clone();
                windows.push(Aimed {
                    record: record.clone(),
                    encoding,
                    reads: Some(reads),
                    logits: outputs[window].logits.clone(),
                    aims: Vec::new(),
                });
                last = Some(window);
            }
            windows.last_mut().expect("one was just pushed").aims.push(aim);
        }
        Ok(windows)
    }

    /// The tag of one token of the text, and the window it is explained in.
    fn of_tag(
        &self,
        encoded: &Encoded,
        said: &Outputs,
        tagged: &Tagged,
        token: usize,
    ) -> Result<Vec<(usize, Aim)>, String> {
        let (names, classes) = (self.model.class_names().names(), self.model.classes());
        let (start, end) = own_token(encoded.text(), token)?;
        let row = &said.logits[token * classes..(token + 1) * classes];
        let word = tagged.words.iter().position(|word| word.as_ref().is_some_and(|word| word.token == token));
        let targets = match self.options.target {
            ExplainTarget::Labels(_) => self.targets.clone(),
            ExplainTarget::Gold => {
                let gold = word.and_then(|word| self.gold_class(tagged, word));
                vec![gold.ok_or("the token is no word's first, and the target is gold")?]
            }
            _ => vec![argmax(row)],
        };
        let window = encoded.window_of(&[token]);
        let place = encoded.place_in(window, token).unwrap_or(token);
        let (predicted, label) = tagged.of_token(token);
        let aim = |class: usize| Aim {
            name: names[class].clone(),
            objective: self.at_row(place, classes, class),
            probability: self.row_probability(row, class),
            span: Some(TargetSpan { start, end, segment: 0 }),
            predicted: predicted.clone(),
            label: label.clone(),
        };
        Ok(targets.into_iter().map(|class| (window, aim(class))).collect())
    }

    /// Each entity, and the window it is explained in.
    fn of_entities(&self, encoded: &Encoded, tagged: &Tagged, gold: bool) -> Vec<(usize, Aim)> {
        let classes = self.model.classes();
        let named = NamedEntities::new(&encoded.record, tagged);
        let ranges = if gold {
            task::entities(tagged.gold.iter().flatten().map(|tag| Some(tag.as_str())))
        } else {
            tagged.entities.iter().map(|entity| (entity.kind.clone(), entity.words.clone())).collect()
        };
        let aim = |(kind, range): (String, std::ops::Range<usize>)| {
            let words: Vec<_> = range.filter_map(|w| Some((w, tagged.words.get(w)?.as_ref()?))).collect();
            let (first, last) = (words.first()?.1, words.last()?.1);
            let window = encoded.window_of(&words.iter().map(|(_, word)| word.token).collect::<Vec<_>>());
            // Of an entity that is longer than what windows share, what this one has.
            let place = |&(w, word): &(usize, &task::TaggedWord)| {
                Some((
                    encoded.place_in(window, word.token)?,
                    if gold { self.gold_class(tagged, w)? } else { word.class },
                ))
            };
            let seen: Vec<(usize, usize)> = words.iter().filter_map(place).collect();
            let weight = 1.0 / seen.len() as f64;
            let term = |&(place, class): &(usize, usize)| Term {
                weight,
                part: Part::Row(place, classes),
                objective: self.of_class(class),
            };
            let terms: Arc<[Term]> = seen.iter().map(term).collect();
            let (predicted, label) = named.within(first.start, last.end);
            let span = Some(TargetSpan { start: first.start, end: last.end, segment: 0 });
            let objective = Objective::Sum(terms);
            Some((window, Aim { name: kind, objective, probability: None, span, predicted, label }))
        };
        ranges.into_iter().filter_map(aim).collect()
    }

    /// The class of a word's own tag.
    fn gold_class(&self, tagged: &Tagged, word: usize) -> Option<usize> {
        let tag = tagged.gold.as_ref()?.get(word)?;
        self.model.class_names().names().iter().position(|name| name == tag)
    }

    /// One piece behind each mask, or behind the one that is named.
    fn of_masks(&self, encoded: Encoded, outputs: Vec<Outputs>) -> Result<Aimed, String> {
        let (record, mut encoding, reads, logits) = only(encoded, outputs);
        let classes = self.model.classes();
        let piece = |class: usize| self.model.tokenizer().piece(class as u32).unwrap_or_default();
        let row = |row: usize| &logits[row * classes..(row + 1) * classes];
        let mut aims = Vec::new();
        for (place, &token) in reads.iter().enumerate() {
            if self.options.token.is_some_and(|asked| asked != token as usize) {
                continue;
            }
            let targets = if self.targets.is_empty() { vec![argmax(row(place))] } else { self.targets.clone() };
            let span = encoding.offsets[token as usize].map(|(start, end)| TargetSpan { start, end, segment: 0 });
            let predicted: Value = [piece(argmax(row(place)))].into_iter().collect();
            aims.extend(targets.into_iter().map(|class| Aim {
                name: piece(class),
                objective: self.at_row(place, classes, class),
                probability: self.row_probability(row(place), class),
                span,
                predicted: predicted.clone(),
                label: None,
            }));
        }
        if aims.is_empty() {
            return Err(format!("token {}: expected a mask", self.options.token.unwrap_or_default()));
        }
        // A mask is what is asked about, not a part of the text that could speak for an answer: methods leave it where
        // it is.
        for &token in reads.iter() {
            encoding.offsets[token as usize] = None;
            encoding.segments[token as usize] = None;
        }
        Ok(Aimed { encoding, reads: Some(reads), logits, aims, record })
    }

    fn of_class(&self, class: usize) -> Objective {
        match (self.against, self.options.output) {
            (Some(against), _) => Objective::Difference(class, against),
            (None, Output::Probability) => Objective::Softmax(class),
            (None, Output::Logit) => Objective::Logit(class),
        }
    }

    fn at_row(&self, row: usize, classes: usize, class: usize) -> Objective {
        let objective = self.of_class(class);
        Objective::Sum([Term { weight: 1.0, part: Part::Row(row, classes), objective }].into())
    }

    fn row_probability(&self, logits: &[f32], class: usize) -> Option<f32> {
        let other = self.against.is_some() || self.options.output == Output::Logit;
        other.then(|| factors::probabilities(Problem::SingleLabel, logits)[class])
    }
}

/// A record of one sequence.
fn only(encoded: Encoded, outputs: Vec<Outputs>) -> (Record, Encoding, Reads, Vec<f32>) {
    let (encoding, reads) = encoded.sequences.into_iter().next().unwrap_or_default();
    (encoded.record, encoding, reads, outputs.into_iter().next().unwrap_or_default().logits)
}

/// Where a token that is not special stands in its text.
fn own_token(encoding: &Encoding, token: usize) -> Result<(usize, usize), String> {
    let place = encoding.offsets.get(token).copied().flatten();
    place.ok_or_else(|| format!("token {token}: expected one of the text's own among {}", encoding.ids.len()))
}

/// The start at one token and the end at another, of two logits a token.
fn span(output: Output, start: usize, end: usize) -> Objective {
    let term = |column: usize, token: usize| Term {
        weight: 1.0,
        part: Part::Column(column, 2),
        objective: match output {
            Output::Probability => Objective::Softmax(token),
            Output::Logit => Objective::Logit(token),
        },
    };
    Objective::Sum([term(0, start), term(1, end)].into())
}

fn wide(outputs: &Outputs) -> Vec<f64> {
    outputs.logits.iter().map(|&z| f64::from(z)).collect()
}

/// The class that a label names.
fn class(model: &Model, flag: &str, name: &str) -> Result<usize> {
    if model.task() == Task::Masks {
        let id = model.tokenizer().id(name);
        return id.map(|id| id as usize).ok_or_else(|| {
            Error::usage(format!("{flag}: {name:?} is no piece of the vocabulary"))
                .with_hint("name one piece, as the tokenizer writes it")
        });
    }
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

/// The outputs that a target is of: its classes, or every value.
fn classes(target: &Target) -> Vec<usize> {
    match target {
        Target::Values(values) => (0..values.len()).collect(),
        Target::Class(_) | Target::Classes(_) => target.classes(),
    }
}
