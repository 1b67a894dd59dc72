//! One page to look at: results as a self-contained HTML file that loads nothing from anywhere.
//!
//! Results of the same record (same id, index and texts) are one card, in the order of its first result: what the model
//! says, each explanation's text in colours side by side, and the training records behind it. The first cards stand in
//! the page as they are; the others wait as text inside it until somebody scrolls to them, so that thousands of records
//! open at once. What is beyond [`PageOptions::limit`] or 64 MiB is left out, and the page says so.
//!
//! The templates escape every text; the page's content security policy forbids it to load or send anything.

mod audits;
mod card;
mod charts;
mod entry;
mod evaluations;
mod heat;
mod importance;
mod marked;
mod pairs;
mod sources;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;

use self::audits::Audits;
pub use self::audits::{Finding, Nothing};
use self::card::{Card, plain};
use self::entry::{Entry, Said};
use self::evaluations::Evaluations;
use self::importance::Importances;
use self::sources::BySource;
use super::ResultRecord;
use crate::error::{Error, Result};

/// Cards in the page, unless asked otherwise.
pub const DEFAULT_LIMIT: usize = 2_000;

/// Rows of each list of an audit, unless asked otherwise.
pub const DEFAULT_FINDINGS: usize = 100;

/// Bytes of cards in a page at most.
const BYTES: usize = 64 << 20;

/// Cards that stand in the page before any script runs.
const STANDING: usize = 20;

/// Distinct labels that are offered as a filter, at most.
const CHOICES: usize = 100;

/// What a page is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageOptions {
    /// Its heading; where there is none, what the page answers.
    pub title: Option<String>,
    /// Cards at most.
    pub limit: usize,
    /// Rows of a list of an audit at most.
    pub findings: usize,
    /// The result files' names, told at its foot.
    pub sources: Vec<String>,
}

impl Default for PageOptions {
    fn default() -> Self {
        Self { title: None, limit: DEFAULT_LIMIT, findings: DEFAULT_FINDINGS, sources: Vec::new() }
    }
}

/// A page in the making.
#[derive(Debug, Default)]
pub struct Page {
    options: PageOptions,
    entries: Vec<Entry>,
    /// Where the entries of records of this number and id are: one a data set.
    places: HashMap<(u64, String), Vec<usize>>,
    left_out: HashSet<(u64, String)>,
    importances: BySource<Importances>,
    audits: Audits,
    evaluations: Evaluations,
    /// The file that results are of, and the fingerprint of the data that it is of, where that is known.
    source: String,
    data: Option<String>,
}

impl Page {
    /// An empty page.
    pub fn new(options: PageOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// What follows is of this file: what several files have of one kind stands under their names.
    pub fn begin(&mut self, file: &Path) {
        self.source = file.to_string_lossy().into_owned();
        self.data = None;
    }

    /// What follows is of data with this fingerprint, until another file begins: records that are told by their numbers
    /// alone are not taken for those of other data.
    pub fn of_data(&mut self, fingerprint: &str) {
        self.data = Some(fingerprint.to_owned());
    }

    /// Takes one result.
    pub fn add(&mut self, record: ResultRecord) {
        match record {
            ResultRecord::Explanation(explanation) => {
                let said = Said::of_explanation(&explanation);
                if let Some(entry) = self.entry(explanation.index, &explanation.id, &said) {
                    entry.add_explanation(explanation);
                }
            }
            ResultRecord::Search(result) => {
                let said = Said::Texts(&result.text, result.text_pair.as_deref());
                if let Some(entry) = self.entry(result.index, &result.id, &said) {
                    entry.add_search(result);
                }
            }
            ResultRecord::Prediction(prediction) => {
                if let Some(entry) = self.entry(prediction.index, &prediction.id, &Said::Nothing) {
                    entry.add_prediction(prediction);
                }
            }
            ResultRecord::Spans(prediction) => {
                let said = Said::Texts(&prediction.question, Some(&prediction.context));
                if let Some(entry) = self.entry(prediction.index, &prediction.id, &said) {
                    entry.add_spans(prediction);
                }
            }
            ResultRecord::Tags(prediction) => {
                let said = Said::Texts(&prediction.text, None);
                if let Some(entry) = self.entry(prediction.index, &prediction.id, &said) {
                    entry.add_tags(prediction);
                }
            }
            ResultRecord::Selection(selection) => {
                let said = Said::Texts(&selection.question, Some(&selection.context));
                let file = sources::file(&self.source).unwrap_or_default();
                if let Some(entry) = self.entry(selection.index, &selection.id, &said) {
                    entry.add_selection(selection, &file);
                }
            }
            ResultRecord::Masks(prediction) => {
                let said = Said::Texts(&prediction.text, None);
                if let Some(entry) = self.entry(prediction.index, &prediction.id, &said) {
                    entry.add_masks(&prediction);
                }
            }
            ResultRecord::Global(importance) => self.importances.of(&self.source).add(&importance),
            ResultRecord::Evaluation(row) => self.evaluations.add(row, &self.source),
            ResultRecord::Finding(finding) => self.audits.add(finding, self.options.findings, &self.source),
        }
    }

    /// Takes an audit that found nothing.
    pub fn add_nothing(&mut self, nothing: Nothing) {
        self.audits.add_nothing(nothing);
    }

    /// A record's entry, new or not; nothing where it has none and the page is full. `said` is what tells it from a
    /// record of other data with the same number.
    fn entry(&mut self, index: u64, id: &str, said: &Said<'_>) -> Option<&mut Entry> {
        let key = (index, id.to_owned());
        let data = self.data.as_deref();
        let known = self.places.get(&key).map_or(&[][..], Vec::as_slice);
        let same = |surely: bool| known.iter().copied().find(|&at| self.entries[at].is_same(said, data, surely));
        if let Some(place) = same(true).or_else(|| same(false)) {
            self.entries[place].add_data(data);
            return self.entries.get_mut(place);
        }
        if self.entries.len() >= self.options.limit {
            self.left_out.insert(key);
            return None;
        }
        self.places.entry(key).or_default().push(self.entries.len());
        self.entries.push(Entry::new(id, index));
        self.entries.last_mut()?.add_data(data);
        self.entries.last_mut()
    }

    /// How many records have been taken, those left out included.
    pub fn records(&self) -> usize {
        self.entries.len() + self.left_out.len()
    }

    /// The whole page.
    ///
    /// # Errors
    /// [`Error::Usage`] where a template cannot be rendered.
    pub fn render(&self) -> Result<String> {
        let templates = templates()?;
        let (cards, has_unseen) = self.render_cards(&templates)?;
        let shown = cards.len();
        let [standing, waiting] = concatenate(cards);
        let summary = Summary::of(&self.entries[..shown]);
        let audits = self.audits.shown();
        let map_data: Vec<Value> = audits.map_data().map(|data| Value::from_safe_string(data.to_owned())).collect();
        let importances: Vec<_> = self.importances.under("What speaks for each class, over all records").collect();
        let page = context! {
            audits => Serde(&audits),
            evaluations => Serde(self.evaluations.shown()),
            has_audits => !self.audits.is_empty(),
            mapdata => map_data,
            map_script => Value::from_safe_string(include_str!("map.js").to_owned()),
            title => self.title(),
            sources => self.options.sources.clone(),
            version => env!("CARGO_PKG_VERSION"),
            style => Value::from_safe_string(include_str!("style.css").to_owned()),
            script => Value::from_safe_string(include_str!("script.js").to_owned()),
            shown,
            left_out => self.records() - shown,
            importances => Serde(importances),
            summary => Serde(summary),
            has_unseen,
            standing => Value::from_safe_string(standing),
            waiting => Value::from_safe_string(waiting),
        };
        Ok(visible(templates.get_template("page.html")?.render(page)?))
    }

    fn title(&self) -> &str {
        match &self.options.title {
            Some(title) => title,
            None if !self.entries.is_empty() => "Why the model said this",
            None if !self.audits.is_empty() => self.audits.title(),
            None if !self.evaluations.is_empty() => "How far attributions can be trusted",
            None => "What speaks for each class",
        }
    }

    /// As many cards as the page has room for, each by itself; and whether any of them shows what no model read.
    fn render_cards(&self, templates: &Environment<'_>) -> Result<(Vec<String>, bool)> {
        let template = templates.get_template("card.html")?;
        let (mut cards, mut has_unseen, mut bytes) = (Vec::new(), false, 0);
        for (place, entry) in self.entries.iter().enumerate() {
            let card = Card::new(entry);
            let is_unseen = card.has_unseen();
            let card = template.render(context! { card => Serde(card), waiting => place >= STANDING })?;
            bytes += card.len();
            if bytes > BYTES && place > 0 {
                break;
            }
            cards.push(card);
            has_unseen |= is_unseen;
        }
        Ok((cards, has_unseen))
    }
}

/// The standing cards, and the waiting ones.
fn concatenate(mut cards: Vec<String>) -> [String; 2] {
    let waiting = cards.split_off(cards.len().min(STANDING));
    [cards.concat(), waiting.concat()]
}

/// Characters that no page may have, such as NUL, as the signs that stand for them.
fn visible(page: String) -> String {
    let is_hidden = |c: char| c.is_control() && !matches!(c, '\n' | '\t' | '\r');
    if !page.contains(is_hidden) {
        return page;
    }
    let sign = |c: char| match u32::from(c) {
        code @ 0..0x20 => char::from_u32(0x2400 + code).unwrap_or(char::REPLACEMENT_CHARACTER),
        0x7f => '\u{2421}',
        _ => char::REPLACEMENT_CHARACTER,
    };
    page.chars().map(|c| if is_hidden(c) { sign(c) } else { c }).collect()
}

fn templates() -> Result<Environment<'static>, minijinja::Error> {
    let mut templates = Environment::new();
    templates.set_auto_escape_callback(|_| AutoEscape::Html);
    templates.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    templates.add_template("page.html", include_str!("page.html"))?;
    templates.add_template("card.html", include_str!("card.html"))?;
    templates.add_template("ends.html", include_str!("ends.html"))?;
    templates.add_template("near.html", include_str!("near.html"))?;
    templates.add_template("audits.html", include_str!("audits.html"))?;
    templates.add_template("evaluations.html", include_str!("evaluations.html"))?;
    Ok(templates)
}

impl From<minijinja::Error> for Error {
    fn from(error: minijinja::Error) -> Self {
        Self::usage(format!("the page could not be made: {error:#}"))
    }
}

/// What stands above the cards.
#[derive(Serialize)]
struct Summary {
    explanations: usize,
    unconverged: usize,
    /// Of methods that know no sides.
    unsigned: usize,
    /// Of methods that say how far their scores are from adding up, and how well they fit.
    deltas: usize,
    surrogates: usize,
    searches: usize,
    /// Whether there are texts to search.
    has_texts: bool,
    labelled: usize,
    right: usize,
    /// Of the labelled.
    percent_right: String,
    /// Gold labels and predictions to filter by; empty where there is nothing to choose.
    labels: Vec<String>,
    predictions: Vec<String>,
}

impl Summary {
    fn of(entries: &[Entry]) -> Self {
        let explanations = || entries.iter().flat_map(|entry| &entry.explanations);
        let labelled = entries.iter().filter(|entry| entry.is_right().is_some()).count();
        let right = entries.iter().filter(|entry| entry.is_right() == Some(true)).count();
        Self {
            explanations: explanations().count(),
            unconverged: explanations().filter(|explanation| explanation.converged == Some(false)).count(),
            unsigned: explanations().filter(|explanation| !explanation.is_signed()).count(),
            deltas: explanations().filter(|explanation| explanation.convergence_delta.is_some()).count(),
            surrogates: explanations().filter(|explanation| explanation.r_squared.is_some()).count(),
            has_texts: entries.iter().any(|entry| entry.text.is_some() || !entry.explanations.is_empty()),
            searches: entries.iter().map(|entry| entry.searches.len()).sum(),
            labelled,
            right,
            percent_right: format!("{:.1}", 100.0 * right as f64 / labelled.max(1) as f64),
            labels: choices(entries.iter().filter_map(|entry| entry.label.as_ref())),
            predictions: choices(entries.iter().map(|entry| &entry.predicted)),
        }
    }
}

/// The distinct values in alphabetical order, where they are few and more than one, and none of them is a number.
fn choices<'a>(values: impl Iterator<Item = &'a serde_json::Value>) -> Vec<String> {
    let mut distinct = HashSet::new();
    for value in values.filter(|value| !value.is_null()) {
        if value.is_number() || distinct.len() > CHOICES {
            return Vec::new();
        }
        distinct.insert(plain(value));
    }
    let mut choices: Vec<String> = distinct.into_iter().collect();
    choices.sort();
    if choices.len() > 1 && choices.len() <= CHOICES { choices } else { Vec::new() }
}
