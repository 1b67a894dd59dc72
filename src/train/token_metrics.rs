//! How good a model's predictions of tokens are: exact match and F1 of answers, precision and recall of entities,
//! perplexity of masked pieces.

use std::borrow::Cow;
use std::sync::Arc;

use rayon::prelude::*;

use super::Metrics;
use super::material::{Material, each_batch};
use super::token_data::{Gold, Question, TaggedText, TokenExample};
use crate::error::Result;
use crate::model::{Reads, Task, Term, Trainee};
use crate::task::{self, AnswerOptions, EntityCounts, SelectionCounts, SelectorSettings, characters};

/// The epoch whose masks are judged: one that no training comes to, so that every evaluation has the same.
const DEV_EPOCH: u32 = u32::MAX;

/// What a model said of one sequence.
#[derive(Clone, Debug, Default)]
struct Said {
    /// Each of its terms' losses.
    losses: Vec<f64>,
    /// Terms whose class was the likeliest.
    right: usize,
    /// Every token's logits, where they are looked at as a whole.
    logits: Vec<f32>,
}

/// Predicts `examples`, nothing dropped.
pub(super) fn evaluate(
    trainee: &mut Trainee,
    examples: &[TokenExample],
    batch_tokens: Option<usize>,
) -> Result<Metrics> {
    let seen: Vec<TokenExample> =
        (0..).zip(examples).map(|(row, example)| example.in_epoch(0, DEV_EPOCH, row)).map(Cow::into_owned).collect();
    let (task, classes) = (trainee.task(), trainee.learner().classes());
    let mut said = vec![Said::default(); seen.len()];
    each_batch(trainee, &seen, batch_tokens, |trainee, rows, batch| {
        let reads: Vec<Reads> = rows.iter().map(|&row| reads(task, &seen[row])).collect();
        let outputs = trainee.learner().read(batch, &reads)?;
        let mut rest = &outputs.logits[..];
        let parts = reads.iter().map(|reads| {
            let (own, after) = rest.split_at(reads.len() * classes);
            rest = after;
            own
        });
        let parts: Vec<_> = rows.iter().zip(&reads).zip(parts.collect::<Vec<_>>()).collect();
        let found: Vec<Said> = parts
            .par_iter()
            .map(|((row, reads), logits)| Said::new(task, &seen[**row], reads, logits, classes))
            .collect();
        rows.iter().zip(found).for_each(|(row, found)| said[*row] = found);
        Ok(())
    })?;
    Ok(metrics(trainee, &seen, &said))
}

fn reads(task: Task, example: &TokenExample) -> Reads {
    if task != Task::Masks {
        return (0..example.encoding.ids.len() as u32).collect();
    }
    example.terms.iter().flat_map(Term::tokens).copied().collect()
}

impl Said {
    fn new(task: Task, example: &TokenExample, reads: &[u32], logits: &[f32], classes: usize) -> Self {
        let row = |token: u32| reads.binary_search(&token).unwrap_or_default();
        let mut said = Self::default();
        for term in &example.terms {
            let (loss, right) = term.judge(logits, reads.len(), classes, row);
            said.losses.push(loss);
            said.right += usize::from(right);
        }
        if task != Task::Masks {
            said.logits = logits.to_vec();
        }
        said
    }
}

fn metrics(trainee: &Trainee, examples: &[TokenExample], said: &[Said]) -> Metrics {
    let terms: usize = said.iter().map(|said| said.losses.len()).sum();
    let loss = said.iter().flat_map(|said| &said.losses).sum::<f64>() / terms.max(1) as f64;
    let share = |right: usize| right as f64 / terms.max(1) as f64;
    let right: usize = said.iter().map(|said| said.right).sum();
    let plain = Metrics { records: examples.len(), loss, ..Metrics::default() };
    match trainee.task() {
        Task::Spans => answers(plain, examples, said),
        Task::Tags if examples.iter().any(|example| matches!(example.gold, Gold::Sentences(_))) => {
            Metrics { accuracy: Some(share(right)), ..sentences(plain, examples, said) }
        }
        Task::Tags => Metrics { accuracy: Some(share(right)), ..tags(plain, trainee, examples, said) },
        Task::Masks | Task::Record => Metrics { accuracy: Some(share(right)), perplexity: Some(loss.exp()), ..plain },
    }
}

/// The windows of a question together give its answer.
fn answers(plain: Metrics, examples: &[TokenExample], said: &[Said]) -> Metrics {
    let all: Vec<(&TokenExample, &Said, &Arc<Question>)> = examples
        .iter()
        .zip(said)
        .filter_map(|(example, said)| match &example.gold {
            Gold::Answers(question) => Some((example, said, question)),
            _ => None,
        })
        .collect();
    // Where a question has no answer, none may be given.
    let some_have_none = all.iter().any(|(_, _, question)| question.answers.is_empty());
    let options = AnswerOptions { no_answer_threshold: some_have_none.then_some(0.0), ..AnswerOptions::default() };
    let (mut questions, mut exact, mut f1) = (0_u32, 0.0, 0.0);
    let (mut without, mut none_given) = (0_u32, 0_u32);
    for windows in all.chunk_by(|(_, _, a), (_, _, b)| Arc::ptr_eq(a, b)) {
        let question = windows[0].2;
        let read = windows.iter().map(|(example, said, _)| (&example.encoding, &said.logits[..]));
        let found = task::answers(read, &options);
        let text = found.answer(&options).map_or("", |best| characters(&question.context, best.start, best.end));
        let judged = task::judge(text, &question.answers, question.scoring);
        questions += 1;
        exact += f64::from(u8::from(judged.exact_match));
        f1 += judged.f1;
        if question.answers.is_empty() {
            without += 1;
            none_given += u32::from(judged.exact_match);
        }
    }
    let n = f64::from(questions.max(1));
    Metrics {
        records: questions as usize,
        exact_match: Some(exact / n),
        f1: Some(f1 / n),
        no_answer: (without > 0).then(|| f64::from(none_given) / f64::from(without)),
        ..plain
    }
}

/// The windows of a context together say which of its sentences are kept.
fn sentences(plain: Metrics, examples: &[TokenExample], said: &[Said]) -> Metrics {
    let all: Vec<(&TokenExample, &Said)> = examples.iter().zip(said).collect();
    let threshold = SelectorSettings::default().threshold;
    let (mut counts, mut contexts) = (SelectionCounts::default(), 0);
    for windows in all.chunk_by(|(a, _), (b, _)| a.index == b.index) {
        let terms = windows.iter().flat_map(|(example, said)| example.terms.iter().zip(&said.losses));
        let (evidence, probabilities): (Vec<bool>, Vec<f64>) = terms
            .map(|(term, loss)| {
                let evidence = matches!(term, Term::Class { class: 1, .. });
                // A loss is −ln of the right class's probability.
                let right = (-loss).exp();
                (evidence, if evidence { right } else { 1.0 - right })
            })
            .unzip();
        counts.add(task::kept(&probabilities, threshold, None).into_iter().zip(evidence));
        contexts += 1;
    }
    Metrics {
        records: contexts,
        precision: Some(counts.precision()),
        recall: Some(counts.recall()),
        selection: Some(counts.criterion()),
        ..plain
    }
}

/// The windows of a text together say what its words are.
fn tags(plain: Metrics, trainee: &Trainee, examples: &[TokenExample], said: &[Said]) -> Metrics {
    let names = trainee.class_names().names();
    let (mut counts, mut texts) = (EntityCounts::default(), 0);
    let all: Vec<(&Arc<TaggedText>, &Said)> = examples
        .iter()
        .zip(said)
        .filter_map(|(example, said)| match &example.gold {
            Gold::Tags(text) => Some((text, said)),
            _ => None,
        })
        .collect();
    for windows in all.chunk_by(|(a, _), (b, _)| Arc::ptr_eq(a, b)) {
        let (text, logits) = (windows[0].0, windows.iter().map(|(_, said)| &said.logits[..]).collect::<Vec<_>>());
        let logits = text.joined.rows(&logits, names.len());
        let words = task::words(&text.joined.encoding, Some(&text.words), &logits, names.len());
        let predicted = words.iter().map(|word| word.as_ref().map(|word| names[word.class].as_str()));
        let gold = text.tags.iter().map(|name| Some(name.as_str()));
        counts.add(&task::entities(gold), &task::entities(predicted));
        texts += 1;
    }
    let [precision, recall, f1] = counts.total().scores();
    Metrics { records: texts, precision: Some(precision), recall: Some(recall), f1: Some(f1), ..plain }
}
