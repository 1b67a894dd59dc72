//! Results for a person at a terminal: one screen line a neighbour, the colours the sign of the score.

mod explanation;
mod improvement;

use std::borrow::Cow;
use std::fmt::Write;

use console::{Style, truncate_str};
use serde_json::Value;

use super::numbers::{Form, listed};
use super::records::{Neighbour, NeighbourPart, Prediction, SearchResult, neutral, turn};
use super::{
    BiasFinding, CorrectedTags, DirtyAnswer, DirtyLabel, DirtyPart, GlobalImportance, MappedRecord, ProposedRecord,
    RedundantRecord, SelectedRecord, SparseRecord, UnreliableRecord, WeightedRecord,
};

/// A record as text.
pub trait Render {
    /// The record as lines of text, each ended; with terminal colours if `colour`.
    fn render(&self, colour: bool) -> String;
}

/// A text as a terminal may have it: control characters would steer it, and are written as Rust escapes them, but for
/// line ends and tabs.
pub fn printable(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(steers) {
        return text.into();
    }
    let escaped = |c: char| if steers(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

pub(super) fn style(colour: bool) -> Style {
    Style::new().force_styling(colour)
}

/// Columns to write in: the terminal's, or 100 where there is none.
pub(super) fn width() -> usize {
    console::Term::stdout().size_checked().map_or(100, |(_, columns)| usize::from(columns).max(40))
}

/// A text on one line, cut to `columns` cells (a Chinese character takes two).
pub(super) fn one_line(text: &str, columns: usize) -> String {
    let flat: String = text.chars().take(columns * 2).map(|c| if c.is_control() { ' ' } else { c }).collect();
    truncate_str(flat.trim(), columns, "…").into_owned()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join("+"),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn joined(text: &str, pair: Option<&String>) -> String {
    pair.map_or_else(|| text.to_owned(), |pair| format!("{text} ⏐ {pair}"))
}

/// What something has, and what it would rather have where that is something else.
fn rather(has: &str, suggested: &str) -> String {
    if has == suggested { has.to_owned() } else { format!("{has} → {suggested}") }
}

impl Render for Prediction {
    fn render(&self, colour: bool) -> String {
        let mut line =
            format!("{:>8}  {}", one_line(&self.id, width()), style(colour).bold().apply_to(plain(&self.predicted)));
        let mut ranked = self.probabilities.0.clone();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (name, p) in ranked.iter().take(5) {
            let _ = write!(line, "  {name} {p:.3}");
        }
        if let Some(label) = self.label.as_ref().filter(|&label| *label != self.predicted) {
            let _ = write!(line, "  {}", style(colour).red().apply_to(format!("(label: {})", plain(label))));
        }
        line + "\n"
    }
}

impl Render for DirtyLabel {
    fn render(&self, colour: bool) -> String {
        let style = style(colour);
        let heading = format!("{:>6}  {}", self.rank, rather(&self.label, &self.suggested_label));
        let mut out = format!("{}  {:.3}  {}\n", style.clone().bold().apply_to(heading), self.score, self.id);
        let _ = writeln!(out, "        {}", one_line(&joined(&self.text, self.text_pair.as_ref()), width() - 8));
        let _ = writeln!(out, "        {}", style.dim().apply_to(&self.reason));
        out
    }
}

impl Render for DirtyPart {
    fn render(&self, colour: bool) -> String {
        let style = style(colour);
        let (tags, suggested) = (self.tags.join(" "), self.suggested_tags.join(" "));
        let span = one_line(&self.span, width() / 2);
        let heading = format!("{:>6}  {span}  {}", self.rank, rather(&tags, &suggested));
        let mut out = format!("{}  {:.3}  {}\n", style.clone().bold().apply_to(heading), self.score, self.id);
        let _ = writeln!(out, "        {}", one_line(&self.text, width() - 8));
        let _ = writeln!(out, "        {}", style.dim().apply_to(&self.reason));
        out
    }
}

impl Render for CorrectedTags {
    fn render(&self, _: bool) -> String {
        let words: Vec<String> =
            self.tokens.iter().zip(&self.ner_tags).map(|(word, tag)| format!("{word}/{tag}")).collect();
        format!("{}  {}\n", self.id, words.join(" "))
    }
}

impl Render for DirtyAnswer {
    fn render(&self, colour: bool) -> String {
        let style = style(colour);
        let [label, suggested] = [&self.label, &self.suggested_answer].map(|answer| one_line(answer, width() / 3));
        let heading = format!("{:>6}  {}", self.rank, rather(&label, &suggested));
        let mut out = format!("{}  {:.3}  {}\n", style.clone().bold().apply_to(heading), self.score, self.id);
        let _ = writeln!(out, "        {}", one_line(&joined(&self.text, self.text_pair.as_ref()), width() - 8));
        let _ = writeln!(out, "        {}", style.dim().apply_to(&self.reason));
        out
    }
}

impl Render for RedundantRecord {
    fn render(&self, colour: bool) -> String {
        let style = style(colour);
        let labelled = |label: Option<&String>| label.map_or_else(String::new, |label| format!(" ({label})"));
        let (own, other) = (labelled(self.label.as_ref()), labelled(self.of.label.as_ref()));
        let heading = format!("{:>6}  {} {}{own}", self.rank, self.set, self.id);
        let of = format!("copy of {} {}{other}", self.of_set, self.of.id);
        let heading = style.clone().bold().apply_to(heading);
        let mut out = format!("{heading}  {of}  {}\n", style.dim().apply_to(&self.reason));
        let _ = writeln!(out, "        {}", one_line(&joined(&self.text, self.text_pair.as_ref()), width() - 8));
        let _ = writeln!(out, "        {}", one_line(&joined(&self.of.text, self.of.text_pair.as_ref()), width() - 8));
        out
    }
}

impl Render for BiasFinding {
    fn render(&self, colour: bool) -> String {
        let word = style(colour).bold().apply_to(one_line(&self.word, width() / 2));
        format!("{:>6}  {word} → {}  {}\n", self.rank, self.label, self.reason)
    }
}

impl Render for SparseRecord {
    fn render(&self, colour: bool) -> String {
        let style = style(colour);
        let heading = format!("{:>6}  {:.3}  {}", self.rank, self.similarity, self.id);
        let mut out = format!("{}  {}\n", style.clone().bold().apply_to(heading), style.dim().apply_to(&self.reason));
        let _ = writeln!(out, "        {}", one_line(&joined(&self.text, self.text_pair.as_ref()), width() - 8));
        out
    }
}

impl Render for SelectedRecord {
    fn render(&self, _: bool) -> String {
        let text = one_line(&joined(&self.text, self.text_pair.as_ref()), width() - 32);
        format!("{:>6}  {:.3}  {}  {text}\n", self.rank, self.score, self.id)
    }
}

impl Render for ProposedRecord {
    fn render(&self, _: bool) -> String {
        let label = self.label.as_ref().map(plain).unwrap_or_default();
        let text = one_line(&joined(&self.text, self.text_pair.as_ref()), width() - 32);
        format!("{:>6}  {label}  {}  {text}\n", self.rank, self.id)
    }
}

impl Render for UnreliableRecord {
    fn render(&self, colour: bool) -> String {
        let style = style(colour);
        let label = self.label.as_ref().filter(|label| **label != self.predicted);
        let label = label.map_or_else(String::new, |label| format!("  (label: {})", plain(label)));
        let heading = format!("{:>6}  {:.3}  {}{label}", self.rank, self.trust, plain(&self.predicted));
        let mut out = format!("{}  {}\n", style.clone().bold().apply_to(heading), self.id);
        let _ = writeln!(out, "        {}", one_line(&joined(&self.text, self.text_pair.as_ref()), width() - 8));
        let _ = writeln!(out, "        {}", style.dim().apply_to(&self.reason));
        out
    }
}

impl Render for MappedRecord {
    fn render(&self, colour: bool) -> String {
        let region = style(colour).bold().apply_to(format!("{:<9}", self.region));
        let numbers = format!("{:.3} ± {:.3}", self.confidence, self.variability);
        format!("{:>6}  {region}  {numbers}  {}  {}\n", self.rank, self.id, one_line(&self.text, width() - 48))
    }
}

impl Render for WeightedRecord {
    fn render(&self, _: bool) -> String {
        format!("{:.3}  {}  {}\n", self.weight, self.id, one_line(&self.text, width() - 24))
    }
}

impl Render for GlobalImportance {
    fn render(&self, colour: bool) -> String {
        let feature = style(colour).bold().apply_to(one_line(&self.feature, width() / 2));
        let heading = if self.rank == 1 { format!("{}\n", self.class) } else { String::new() };
        format!("{heading}{:>6}  {:.3e}  {:>7} times  {feature}\n", self.rank, self.weight, self.count)
    }
}

impl Render for SearchResult {
    fn render(&self, colour: bool) -> String {
        let mut out = format!(
            "{}\n",
            style(colour).bold().apply_to(one_line(&joined(&self.text, self.text_pair.as_ref()), width()))
        );
        let _ = write!(out, "  query {}", self.id);
        if !self.predicted.is_null() {
            let _ = write!(out, " · predicted {}", plain(&self.predicted));
        }
        if let Some(p) = self.probability {
            let _ = write!(out, " ({p:.3})");
        }
        if let Some(label) = &self.label {
            let _ = write!(out, " · label {}", plain(label));
        }
        if self.target != self.predicted {
            let _ = write!(out, " · explaining {}", plain(&self.target));
        }
        let _ = write!(out, " · {}", self.rule);
        if let Some(certain) = &self.certain {
            let (most, least) = (self.proponents.len(), self.opponents.len());
            let _ = write!(out, " · certain {} of {most} and {} of {least}", certain.proponents, certain.opponents);
        }
        if self.proponents.iter().chain(&self.opponents).any(|near| near.error.is_some()) {
            out.push_str(" · ± one standard error; ranks as far as they cannot be told apart");
        }
        out.push('\n');
        ends(&mut out, &self.rule, [&self.proponents, &self.opponents], colour);
        for group in &self.groups {
            let name = group.group.as_deref().unwrap_or("(none)");
            let total = Form::of(std::iter::once(group.total), DIGITS).signed(group.total);
            let title = format!("{name}: {} records, scores add up to {total}", group.records);
            let _ = writeln!(out, "  {}", style(colour).bold().apply_to(title));
            ends(&mut out, &self.rule, [&group.proponents, &group.opponents], colour);
        }
        out + "\n"
    }
}

/// Digits of the largest score of a list, and of the parts of a record.
const DIGITS: usize = 5;
const PART_DIGITS: usize = 2;

/// Both ends of a ranking: neither is called what the sign of all its scores says it is not.
fn ends(out: &mut String, rule: &str, [proponents, opponents]: [&[Neighbour]; 2], colour: bool) {
    if let Some([first, last]) = neutral(rule) {
        section(out, first, proponents, &style(colour), false);
        return section(out, last, opponents, &style(colour), false);
    }
    let supports = proponents.first().is_none_or(|near| near.score >= 0.0);
    let opposes = opponents.first().is_none_or(|near| near.score < 0.0);
    let (green, red) = (style(colour).green(), style(colour).red());
    section(out, if supports { "supports" } else { "opposes least" }, proponents, &green, true);
    section(out, if opposes { "opposes" } else { "supports least" }, opponents, &red, true);
}

/// One end of a ranking; where its scores have sides, with a line where they change it.
fn section(out: &mut String, title: &str, neighbours: &[Neighbour], style: &Style, has_sides: bool) {
    let _ = writeln!(out, "  {}", style.apply_to(title));
    let form = Form::of(neighbours.iter().map(|near| f64::from(near.score)), DIGITS);
    let turn = turn(neighbours).filter(|_| has_sides);
    for (at, n) in neighbours.iter().enumerate() {
        if let Some((_, told)) = turn.filter(|(place, _)| *place == at) {
            let _ = writeln!(out, "  {}", style.apply_to(format!("({told})")));
        }
        let label = n.label.as_ref().or(n.predicted.as_ref()).map(plain).unwrap_or_default();
        let error = n.error.map_or_else(String::new, |error| format!(" ± {}", form.plain(error.standard.into())));
        let rank = match n.error {
            Some(error) if error.tied > n.rank => format!("{}–{}", n.rank, error.tied),
            _ => n.rank.to_string(),
        };
        let (id, label) = (one_line(&n.id, 10), one_line(&label, 10));
        let score = form.signed(n.score.into());
        let head = format!("{rank:>5}  {score:>11}{error}  {id:<10} {label:<10} ");
        let copies = n.copies.filter(|&copies| copies > 1).map_or(String::new(), |copies| format!("({copies}×) "));
        let head = head + &copies;
        let room = width().saturating_sub(console::measure_text_width(&head)).max(20);
        let _ = writeln!(out, "{head}{}", one_line(&joined(&n.text, n.text_pair.as_ref()), room));
        let parts = if n.entities.is_empty() { &n.parts } else { &n.entities };
        if !parts.is_empty() {
            let form = Form::of(parts.iter().map(|part| f64::from(part.score)), PART_DIGITS);
            let part = |part: &NeighbourPart| {
                format!("{} {} {}", one_line(&listed(&part.text), 20), part.target, form.signed(part.score.into()))
            };
            let parts = parts.iter().map(part).collect::<Vec<_>>().join(" · ");
            let _ = writeln!(out, "{:>5}  {}", "", one_line(&parts, width().saturating_sub(7).max(20)));
        }
    }
}
