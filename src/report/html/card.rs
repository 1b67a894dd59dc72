//! One record as the template shows it: everything decided and formatted, nothing escaped yet.

use serde::Serialize;
use serde_json::Value;

use super::entry::{Entry, Search};
use super::heat::{self, Line, Run};
use super::marked::Marked;
use super::pairs::Pairs;
use crate::report::numbers::{Form, listed, short};
use crate::report::records::{neutral, turn};
use crate::report::{Explanation, Neighbour, NeighbourGroup, NeighbourPart, Prediction};

/// Characters of a text that is only told, not explained.
const TOLD: usize = 4_000;

/// Characters of a training record.
const NEIGHBOUR: usize = 600;

/// Characters of an answer in a list.
const ANSWER: usize = 200;

/// Classes of a prediction that are shown.
const CLASSES: usize = 6;

/// Training records of an end that are shown at once; the others fold away.
const UNFOLDED: usize = 3;

/// One record.
#[derive(Serialize)]
pub(super) struct Card<'a> {
    id: String,
    index: u64,
    /// `right`, `wrong`, or empty where that cannot be said.
    verdict: &'static str,
    predicted: String,
    probability: String,
    label: Option<String>,
    /// What the filter searches: id and text, in lower case.
    haystack: String,
    /// The text itself, where no explanation shows it.
    told: Vec<String>,
    marked: &'a [Marked],
    /// The best answers and their scores.
    answers: Vec<(String, String)>,
    panels: Vec<Panel>,
    classes: Vec<Class>,
    /// How many it has beyond those.
    more_classes: usize,
    searches: Vec<Ranking>,
}

/// One explanation.
#[derive(Serialize)]
struct Panel {
    method: String,
    target: String,
    against: Option<String>,
    /// Where it is of another prediction than the card's.
    predicted: Option<String>,
    /// The probability that the bar is of, or what is explained where there is no bar.
    output: String,
    /// What is explained, with its unit, where that is another number.
    explained: Option<String>,
    baseline: Option<String>,
    bar: Option<Bar>,
    lines: Vec<Line>,
    /// Word, score and sign.
    rationale: Vec<(String, String, &'static str)>,
    /// What the method says of its own quality, and whether it is a warning.
    diagnostics: Vec<(String, bool)>,
}

/// A probability as a bar.
#[derive(Serialize)]
struct Bar {
    percent: String,
    /// Where the baseline's is.
    tick: Option<String>,
}

/// A class with its probability.
#[derive(Serialize)]
struct Class {
    name: String,
    probability: String,
    percent: String,
    is_label: bool,
}

/// The training records of one search.
#[derive(Serialize)]
struct Ranking {
    rule: String,
    target: String,
    ends: [End; 2],
    groups: Vec<Group>,
}

/// What a search says of one group, or set, of the training records.
#[derive(Serialize)]
struct Group {
    name: String,
    records: u64,
    /// The sum of all its records' scores.
    total: String,
    ends: [End; 2],
}

/// One end of a ranking.
#[derive(Serialize)]
struct End {
    title: String,
    first: Vec<Near>,
    more: Vec<Near>,
    /// How many the search gave beyond those.
    hidden: usize,
}

/// One training record.
#[derive(Serialize)]
struct Near {
    /// What stands above it where the sign of the scores changes with it.
    turn: Option<&'static str>,
    rank: u64,
    id: String,
    score: String,
    /// The standard error, and where the score would lie in 95 of 100 draws.
    error: Option<(String, String)>,
    /// The last rank that it cannot be told from, where that is not its own.
    tied: Option<u64>,
    /// `p` supports, `n` opposes; empty where the rule says neither.
    sign: &'static str,
    percent: String,
    label: Option<String>,
    /// Where the model says otherwise than its label.
    predicted: Option<String>,
    text: String,
    pair: Option<String>,
    /// How many records say the same, where they were collapsed into this one.
    copies: Option<u64>,
    /// What of it weighs most: text, target, score and sign.
    parts: Vec<(String, String, String, &'static str)>,
    layers: Vec<Layer>,
    pairs: Option<Pairs>,
}

/// What a layer adds to a training record's score.
#[derive(Serialize)]
struct Layer {
    name: String,
    score: String,
    sign: &'static str,
    /// Of the largest layer's.
    percent: String,
}

impl<'a> Card<'a> {
    pub(super) fn new(entry: &'a Entry) -> Self {
        let panels: Vec<Panel> = entry.explanations.iter().map(|e| Panel::new(e, entry)).collect();
        let classes = entry.prediction.as_ref().map(classes).unwrap_or_default();
        let all_classes = entry.prediction.as_ref().map_or(0, |prediction| prediction.probabilities.0.len());
        let told =
            [&entry.text, &entry.pair].into_iter().flatten().filter(|_| panels.is_empty() && entry.marked.is_empty());
        Self {
            id: entry.id.clone(),
            index: entry.index,
            verdict: entry.is_right().map_or("", |right| if right { "right" } else { "wrong" }),
            predicted: plain(&entry.predicted),
            probability: entry.probability.map(|p| format!("{p:.3}")).unwrap_or_default(),
            label: entry.label.as_ref().map(plain),
            haystack: haystack(entry),
            told: told.map(|text| clip(text, TOLD)).collect(),
            marked: &entry.marked,
            answers: answers(&entry.answers),
            panels,
            more_classes: all_classes - classes.len(),
            classes,
            searches: entry.searches.iter().map(Ranking::new).collect(),
        }
    }
}

impl Card<'_> {
    /// Whether it shows what no model read: sentences that were left out, the end of a text that was cut off.
    pub(super) fn has_unseen(&self) -> bool {
        let is_cut = |panel: &Panel| panel.lines.iter().any(|line| line.is_cut);
        self.marked.iter().any(Marked::has_gaps) || self.panels.iter().any(is_cut)
    }
}

impl Panel {
    fn new(explanation: &Explanation, entry: &Entry) -> Self {
        Self {
            method: explanation.method.clone(),
            target: explanation.target.clone(),
            against: explanation.against.clone(),
            predicted: (explanation.predicted != entry.predicted && !explanation.is_of_part())
                .then(|| plain(&explanation.predicted)),
            output: format!("{:.3}", explanation.probability.unwrap_or(explanation.output)),
            explained: explanation.unit().map(|unit| format!("{unit} {:.3}", explanation.output)),
            baseline: explanation.baseline_output.map(|output| format!("{output:.3}")),
            bar: Bar::of(explanation),
            lines: heat::lines(explanation, entry),
            rationale: rationale(explanation),
            diagnostics: explanation.diagnostics(),
        }
    }
}

impl Bar {
    fn of(explanation: &Explanation) -> Option<Self> {
        let probability = explanation.target_probability()?;
        // The baseline's output is a probability where the output is.
        let tick = explanation.baseline_output.filter(|_| explanation.probability.is_none());
        Some(Self { percent: percent(probability), tick: tick.map(|p| percent(p.clamp(0.0, 1.0))) })
    }
}

/// Answers with their scores, the best first.
fn answers(answers: &[(String, f32)]) -> Vec<(String, String)> {
    let form = Form::of(answers.iter().map(|(_, score)| f64::from(*score)), DIGITS);
    answers.iter().map(|(text, score)| (clip(text, ANSWER), form.plain((*score).into()))).collect()
}

fn percent(share: f32) -> String {
    format!("{:.1}", 100.0 * share)
}

fn rationale(explanation: &Explanation) -> Vec<(String, String, &'static str)> {
    let word = |&i: &usize| {
        let word = explanation.words.get(i)?;
        let sign = if explanation.is_signed() { "p" } else { "m" };
        // What does not speak for the target is no reason, however few words there are.
        (word.score > 0.0).then(|| (listed(&word.text), explanation.show(word.score, 2), sign))
    };
    explanation.rationale.iter().filter_map(word).collect()
}

fn classes(prediction: &Prediction) -> Vec<Class> {
    let label = prediction.label.as_ref().map(plain);
    let mut classes = prediction.probabilities.0.clone();
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    let class = |(name, p): (String, f32)| Class {
        is_label: label.as_ref() == Some(&name),
        name,
        probability: format!("{p:.3}"),
        percent: percent(p),
    };
    // The label is told wherever it stands.
    let is_shown = |(at, class): &(usize, Class)| *at < CLASSES || class.is_label;
    classes.into_iter().map(class).enumerate().filter(is_shown).map(|(_, class)| class).collect()
}

impl Ranking {
    fn new(search: &Search) -> Self {
        let Search { result, found, groups } = search;
        let group = |(group, found): (&NeighbourGroup, &[usize; 2])| Group {
            name: group.group.clone().unwrap_or_else(|| "none".to_owned()),
            records: group.records,
            total: Form::of(std::iter::once(group.total), DIGITS).signed(group.total),
            ends: End::both(&result.rule, [&group.proponents, &group.opponents], *found),
        };
        // Of what is the record's own, or between two texts, the target is no part.
        let target = if neutral(&result.rule).is_some() { String::new() } else { plain(&result.target) };
        Self {
            rule: result.rule.clone(),
            target,
            ends: End::both(&result.rule, [&result.proponents, &result.opponents], *found),
            groups: result.groups.iter().zip(groups).map(group).collect(),
        }
    }
}

/// Digits of the largest score of a ranking, and of the parts of a record.
const DIGITS: usize = 4;
const PART_DIGITS: usize = 2;

/// How the scores of neighbours are written.
fn form<'a>(neighbours: impl Iterator<Item = &'a Neighbour>) -> Form {
    match Form::of(neighbours.map(|near| f64::from(near.score)), DIGITS) {
        Form::Decimals(decimals) => Form::Decimals(decimals.max(DIGITS)),
        powers @ Form::Powers(_) => powers,
    }
}

/// What the upper end is called: it supports nothing where its scores are below zero.
fn most(proponents: &[Neighbour]) -> &'static str {
    if proponents.first().is_some_and(|near| near.score < 0.0) {
        "These oppose it least"
    } else {
        "These support it most"
    }
}

/// What the lower end is called: it opposes nothing where its scores are above zero.
fn least(opponents: &[Neighbour]) -> &'static str {
    if opponents.first().is_some_and(|near| near.score >= 0.0) {
        "These support it least"
    } else {
        "These oppose it most"
    }
}

fn capital(title: &str) -> String {
    let (first, rest) = title.split_at(1);
    first.to_uppercase() + rest
}

impl End {
    /// Both ends of a ranking, of which `found` records were given.
    fn both(rule: &str, [proponents, opponents]: [&[Neighbour]; 2], found: [usize; 2]) -> [Self; 2] {
        let all = || proponents.iter().chain(opponents);
        let (largest, form) = (all().map(|near| near.score.abs()).fold(0.0, f32::max), form(all()));
        match neutral(rule) {
            Some([first, last]) => [(first, proponents, found[0]), (last, opponents, found[1])]
                .map(|(title, shown, all)| Self::new(capital(title), shown, all, largest, form).without_sides()),
            None => [(most(proponents), proponents, found[0]), (least(opponents), opponents, found[1])]
                .map(|(title, shown, all)| Self::new(title.to_owned(), shown, all, largest, form)),
        }
    }

    /// The same where the scores speak neither for nor against.
    fn without_sides(mut self) -> Self {
        for near in self.first.iter_mut().chain(&mut self.more) {
            (near.sign, near.turn) = ("", None);
        }
        self
    }

    fn new(title: String, shown: &[Neighbour], all: usize, largest: f32, form: Form) -> Self {
        let turn = turn(shown);
        let near = |(at, near): (usize, &Neighbour)| Near {
            turn: turn.filter(|(place, _)| *place == at).map(|(_, told)| told),
            ..Near::new(near, largest, form)
        };
        let mut first: Vec<Near> = shown.iter().enumerate().map(near).collect();
        let more = first.split_off(first.len().min(UNFOLDED));
        Self { title, first, more, hidden: all - shown.len() }
    }
}

impl Near {
    fn new(near: &Neighbour, largest: f32, form: Form) -> Self {
        let parts = if near.entities.is_empty() { &near.parts } else { &near.entities };
        let part_form = Form::of(parts.iter().map(|part| f64::from(part.score)), PART_DIGITS);
        Self {
            turn: None,
            rank: near.rank,
            id: near.id.clone(),
            score: form.signed(near.score.into()),
            error: near.error.map(|error| {
                let [low, high] = [error.low, error.high].map(|end| form.signed(end.into()));
                (format!("± {}", form.plain(error.standard.into())), format!("95 %: {low} to {high}"))
            }),
            tied: near.error.map(|error| error.tied).filter(|&tied| tied > near.rank),
            sign: if near.score < 0.0 { "n" } else { "p" },
            percent: percent(if largest > 0.0 { near.score.abs() / largest } else { 0.0 }),
            label: near.label.as_ref().map(plain),
            predicted: near
                .predicted
                .as_ref()
                .filter(|predicted| {
                    !is_measured(predicted) && !near.label.as_ref().is_some_and(|label| agree(label, predicted))
                })
                .map(plain),
            text: clip(&near.text, NEIGHBOUR),
            pair: near.text_pair.as_ref().map(|pair| clip(pair, NEIGHBOUR)),
            copies: near.copies.filter(|&copies| copies > 1),
            parts: parts.iter().map(|of| part(of, part_form)).collect(),
            layers: near.detail.as_ref().map(|detail| layers(&detail.layers)).unwrap_or_default(),
            pairs: near.detail.as_ref().and_then(|detail| detail.token_pairs.as_ref()).map(Pairs::new),
        }
    }
}

/// The layers in their order.
fn layers(layers: &[(String, f32)]) -> Vec<Layer> {
    let largest = layers.iter().map(|(_, score)| score.abs()).fold(0.0, f32::max);
    let form = Form::of(std::iter::once(f64::from(largest)), DIGITS);
    let layer = |(name, score): &(String, f32)| Layer {
        name: name.clone(),
        score: form.signed((*score).into()),
        sign: if *score < 0.0 { "n" } else { "p" },
        percent: percent(if largest > 0.0 { score.abs() / largest } else { 0.0 }),
    };
    layers.iter().map(layer).collect()
}

fn part(part: &NeighbourPart, form: Form) -> (String, String, String, &'static str) {
    let sign = if part.score < 0.0 { "n" } else { "p" };
    (clip(&listed(&part.text), TOLD), part.target.clone(), form.signed(part.score.into()), sign)
}

/// Whether a prediction is the label, or one of the right answers.
fn agree(label: &Value, predicted: &Value) -> bool {
    label == predicted || (predicted.is_string() && label.as_array().is_some_and(|right| right.contains(predicted)))
}

/// Whether a prediction is of numbers, which are never quite right.
pub(super) fn is_measured(value: &Value) -> bool {
    value.is_number() || value.as_array().is_some_and(|items| items.iter().any(Value::is_number))
}

/// A label or prediction as a person reads it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" + "),
        Value::Null => String::new(),
        Value::Number(number) if number.is_f64() => short(number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

pub(super) fn clip(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn haystack(entry: &Entry) -> String {
    let mut haystack = format!("{} ", entry.id);
    match (&entry.text, entry.explanations.first()) {
        (Some(text), _) => haystack += &clip(&[text.as_str(), entry.pair.as_deref().unwrap_or("")].join(" "), TOLD),
        (None, Some(explanation)) => {
            let words =
                heat::lines(explanation, entry).iter().flat_map(|line| &line.runs).map(Run::plain).collect::<String>();
            haystack += &clip(&words, TOLD);
        }
        (None, None) => {}
    }
    haystack.to_lowercase()
}
