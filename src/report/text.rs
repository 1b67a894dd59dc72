//! Results for a person at a terminal: one screen line a neighbour, the colours the sign of the score.

use std::fmt::Write;

use console::{Style, truncate_str};
use serde_json::Value;

use super::records::{Neighbour, Prediction, SearchResult};

/// A record as text.
pub trait Render {
    /// The record as lines of text, each ended; with terminal colours if `colour`.
    fn render(&self, colour: bool) -> String;
}

fn style(colour: bool) -> Style {
    Style::new().force_styling(colour)
}

/// Columns to write in: the terminal's, or 100 where there is none.
fn width() -> usize {
    console::Term::stdout().size_checked().map_or(100, |(_, columns)| usize::from(columns).max(40))
}

/// A text on one line, cut to `columns` cells (a Chinese character takes two).
fn one_line(text: &str, columns: usize) -> String {
    let flat: String = text.chars().take(columns * 2).map(|c| if c.is_control() { ' ' } else { c }).collect();
    truncate_str(flat.trim(), columns, "…").into_owned()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join("+"),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn joined(text: &str, pair: Option<&String>) -> String {
    pair.map_or_else(|| text.to_owned(), |pair| format!("{text} ⏐ {pair}"))
}

impl Render for Prediction {
    fn render(&self, colour: bool) -> String {
        let mut line = format!("{:>8}  {}", self.id, style(colour).bold().apply_to(plain(&self.predicted)));
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
        let _ = writeln!(out, " · {}", self.rule);
        section(&mut out, "supports", &self.proponents, &style(colour).green());
        section(&mut out, "opposes", &self.opponents, &style(colour).red());
        out + "\n"
    }
}

fn section(out: &mut String, title: &str, neighbours: &[Neighbour], style: &Style) {
    let _ = writeln!(out, "  {}", style.apply_to(title));
    for n in neighbours {
        let label = n.label.as_ref().or(n.predicted.as_ref()).map(plain).unwrap_or_default();
        let head =
            format!("{:>5}  {:>+11.4e}  {:<10} {:<10} ", n.rank, n.score, one_line(&n.id, 10), one_line(&label, 10));
        let room = width().saturating_sub(console::measure_text_width(&head)).max(20);
        let _ = writeln!(out, "{head}{}", one_line(&joined(&n.text, n.text_pair.as_ref()), room));
    }
}
