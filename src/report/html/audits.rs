//! What audits found and plans did, as ranked tables with their evidence, and as charts.
//!
//! Findings come ranked: the first of each kind are shown, and the page says how many there were. Charts are made of
//! all of them.

use serde::Serialize;
use serde_json::{Map as Fields, Value, json};

use super::card::{clip, is_measured, plain};
use super::charts::{Bars, Course, Reliability};
use super::sources::{self, BySource};
use crate::report::numbers::listed;
use crate::report::{
    AskedRecord, BiasFinding, ChangeRecord, Comparison, DirtyAnswer, DirtyLabel, DirtyPart, MappedRecord, NearPart,
    NearRecord, ProposedRecord, RedundantRecord, RoundRecord, SelectedRecord, SparseRecord, UnreliableRecord,
};

/// Points of a data map at most.
const POINTS: usize = 20_000;
/// Characters of a text in a table, and of one on the map.
const TEXT: usize = 600;
const BRIEF: usize = 160;

/// A result of an audit or of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// Of `audit dirty`.
    Dirty(Box<DirtyLabel>),
    /// The same of words and masks.
    DirtyPart(Box<DirtyPart>),
    /// The same of answers.
    DirtyAnswer(Box<DirtyAnswer>),
    /// Of `audit redundant`.
    Redundant(Box<RedundantRecord>),
    /// Of `audit bias`.
    Bias(Box<BiasFinding>),
    /// Of `audit sparse`.
    Sparse(Box<SparseRecord>),
    /// Of `audit sparse --selected`.
    Selected(Box<SelectedRecord>),
    /// Of `audit sparse --proposed`.
    Proposed(Box<ProposedRecord>),
    /// Of `audit map`.
    Mapped(Box<MappedRecord>),
    /// Of `audit unreliable`.
    Unreliable(Box<UnreliableRecord>),
    /// Of `improve`: what was done to a record.
    Change(Box<ChangeRecord>),
    /// Of `improve`: what it was worth.
    Comparison(Box<Comparison>),
    /// Of `improve`: a round of a continual plan.
    Round(Box<RoundRecord>),
    /// Of `improve`: a record whose label is asked for.
    Asked(Box<AskedRecord>),
}

/// An audit that found nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nothing {
    /// Its name, such as `redundant`.
    pub audit: String,
    /// How many training records it looked at, where that is known.
    pub records: Option<u64>,
}

impl Nothing {
    /// What it did not find.
    fn told(&self) -> &'static str {
        match self.audit.as_str() {
            "redundant" => "No text says what an earlier one says: no copies, no contradicting labels, no leaks.",
            "bias" => "No word goes with a label more than chance would have it.",
            _ => "There were no records to rank.",
        }
    }
}

/// All that was found, in the order of the page.
#[derive(Debug, Default)]
pub(super) struct Audits {
    nothing: Vec<Nothing>,
    comparisons: BySource<Vec<Bars>>,
    rounds: BySource<Vec<RoundRecord>>,
    maps: BySource<Map>,
    tables: Vec<Table>,
    groups: BySource<Vec<Group>>,
    trusted: BySource<Vec<(f64, bool)>>,
}

/// Ranked findings of one kind.
#[derive(Debug, Serialize)]
struct Table {
    title: &'static str,
    /// The file that it is of.
    #[serde(skip)]
    source: String,
    note: &'static str,
    kind: Kind,
    /// What one of its rows is, and what several are.
    #[serde(skip)]
    called: [&'static str; 2],
    #[serde(skip)]
    numbers: &'static [Meaning],
    /// What those are that its rows have.
    meanings: Vec<Meaning>,
    rows: Vec<Row>,
    all: usize,
    /// How many of all suggest another label than there is.
    suggested: usize,
}

/// How the rows of a list came to be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// All there are, the most telling first.
    Ranked,
    /// Those alone of which something is said.
    Found,
    /// What was done.
    Changed,
}

/// A finding.
#[derive(Debug, Default, Serialize)]
struct Row {
    rank: u64,
    /// What is found, such as a word, or the labels a record has and should have.
    heading: Vec<Chip>,
    id: String,
    score: String,
    reason: String,
    /// What stands before what is marked of the text, which is what stands behind; both whole where nothing is.
    before: String,
    span: Option<String>,
    text: String,
    pair: Option<String>,
    /// Numbers by name: a share of 1 as a bar.
    meters: Vec<Meter>,
    evidence: Vec<Evidence>,
}

#[derive(Debug, Serialize)]
struct Chip {
    text: String,
    /// `warn`, or empty.
    kind: &'static str,
}

#[derive(Debug, Serialize)]
struct Meter {
    name: String,
    value: String,
    percent: Option<String>,
}

#[derive(Debug, Serialize)]
struct Evidence {
    label: Option<String>,
    score: String,
    id: String,
    /// As of a [`Row`].
    before: String,
    span: Option<String>,
    text: String,
    pair: Option<String>,
}

/// A group of little covered records.
#[derive(Debug, Serialize)]
struct Group {
    number: u64,
    words: Vec<String>,
    records: usize,
    labelled: usize,
    right: usize,
}

/// The data map.
#[derive(Debug, Default)]
struct Map {
    points: Vec<Point>,
    all: usize,
}

#[derive(Debug)]
struct Point {
    confidence: f64,
    variability: f64,
    correctness: f64,
    region: String,
    label: String,
    id: String,
    text: String,
    forgotten: Option<u64>,
}

/// What the template shows.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    /// Of audits that found nothing: which, of how many records, and what.
    nothing: Vec<(&'a str, Option<u64>, &'static str)>,
    comparisons: Vec<(String, &'a Bars)>,
    courses: Vec<(String, Course)>,
    maps: Vec<(String, ShownMap)>,
    reliabilities: Vec<(String, Reliability)>,
    groups: Vec<(String, Vec<ShownGroup>)>,
    tables: Vec<(String, &'a Table)>,
    facts: Vec<(usize, String)>,
    contents: Vec<(String, String)>,
}

impl Shown<'_> {
    /// What the maps' script reads, map by map.
    pub(super) fn map_data(&self) -> impl Iterator<Item = &str> {
        self.maps.iter().map(|(_, map)| map.data.as_str())
    }
}

#[derive(Serialize)]
struct ShownMap {
    regions: Vec<(&'static str, usize, &'static str)>,
    shown: usize,
    all: usize,
    /// What the script reads: a row of numbers and texts a point.
    #[serde(skip)]
    data: String,
}

#[derive(Serialize)]
struct ShownGroup {
    number: u64,
    words: Vec<String>,
    records: usize,
    /// Of those with a label, in percent.
    right: Option<String>,
}

impl ShownGroup {
    fn new(group: &Group) -> Self {
        let right = 100.0 * group.right as f64 / group.labelled.max(1) as f64;
        Self {
            number: group.number,
            words: group.words.iter().map(|word| listed(word)).collect(),
            records: group.records,
            right: (group.labelled > 0).then(|| format!("{right:.0}")),
        }
    }
}

const REGIONS: [(&str, &str); 4] = [
    ("easy", "sure of its label, always: most can be spared"),
    ("ambiguous", "now sure, now not: these teach the most"),
    ("hard", "steadily unsure"),
    ("suspect", "never once predicted as labelled: the label may be wrong"),
];

/// A list that rows belong to.
struct List {
    title: &'static str,
    note: &'static str,
    kind: Kind,
    /// What one of its rows is, and what several are.
    rows: [&'static str; 2],
    /// What its numbers are: those beside a heading, then those by name, told where a row has them.
    numbers: &'static [Meaning],
}

/// A number's name, and what it is.
type Meaning = (&'static str, &'static str);

const SIGNALS: [Meaning; 11] = [
    ("the score", "what the list is ranked by: greater is more suspect"),
    ("near records", "the cosine of both records' features"),
    ("text", "how much likelier another label is by the words than its own, of a classifier that has not seen it"),
    ("representer", "the weight in a last layer that is fitted again to the labels"),
    ("representer-soft", "the same, fitted to the model's own probabilities"),
    ("self-influence", "the influence on its own loss"),
    ("neighbours", "how much the nearest records speak for another label, by their similarity"),
    (
        "confident",
        "how much likelier another label is by the features than its own, of a last layer that has not seen it",
    ),
    ("margin", "how far the label was behind during training"),
    ("forgetting", "how often the label was forgotten during training"),
    ("loss", "the model's own"),
];
const COPIED: [Meaning; 1] = [("the score", "the share of word triples that both texts have: 1 for copies")];
const TOLD: [Meaning; 4] = [
    ("×", "how many times likelier the label is with the word than without knowing it"),
    ("p", "the probability of so many by chance"),
    ("with the word", "the label's share of the records with it"),
    ("of all", "its share of all records"),
];
const COVERED: [Meaning; 2] = [
    ("the score", "the mean cosine to the nearest training records"),
    ("near records", "the cosine of both records' features"),
];
const CHOSEN: [Meaning; 1] =
    [("the score", "the cosine to the record that it is for; where that is none, how unsure the model is of it")];
const TRUSTED: [Meaning; 7] = [
    ("trust", "the share of predictions with such evidence that are right"),
    ("near records", "the cosine of both records' features"),
    ("probability", "the predicted class's"),
    ("neighbours", "the share of the nearest training records, by similarity, that are labelled as predicted"),
    ("similarity", "the mean cosine to the nearest three"),
    ("stability", "how much of the rationale comes back when other words are left out"),
    ("agreement", "how well the most important words of both texts of a pair go together"),
];
const AUDITED: [Meaning; 1] = [("the score", "the audit's, greater is more suspect")];
const WORTH: [Meaning; 1] = [("the score", "how much it is worth asking, by the rule that chose it")];

const DIRTY: List = List {
    title: "Labels, the most suspect first",
    note: "An arrow leads from the label that a record has to the one it would rather have; behind each, its nearest training records.",
    kind: Kind::Ranked,
    rows: ["ranked label", "ranked labels"],
    numbers: &SIGNALS,
};
const DIRTY_PART: List = List {
    title: "Tags, the most suspect first",
    note: "An arrow leads from the tags that words have to those they would rather have; behind each, the words of other records that are most like it.",
    kind: Kind::Ranked,
    rows: ["ranked part", "ranked parts"],
    numbers: &SIGNALS,
};
const DIRTY_ANSWER: List = List {
    title: "Answers, the most suspect first",
    note: "An arrow leads from the answer that a question has to the model's; behind each, the questions whose answers are most alike.",
    kind: Kind::Ranked,
    rows: ["ranked answer", "ranked answers"],
    numbers: &SIGNALS,
};
const REDUNDANT: List = List {
    title: "Copies and near copies",
    note: "Contradicting labels first, then the most similar.",
    kind: Kind::Found,
    rows: ["copy or near copy", "copies and near copies"],
    numbers: &COPIED,
};
const BIAS: List = List {
    title: "Words that tell a label too well",
    note: "The share of a word's records that have the label, beside the label's share of all.",
    kind: Kind::Found,
    rows: ["telling word", "telling words"],
    numbers: &TOLD,
};
const SPARSE: List = List {
    title: "What the training data do not cover",
    note: "The least covered first; behind each, the training records that come nearest.",
    kind: Kind::Ranked,
    rows: ["record by its coverage", "records by their coverage"],
    numbers: &COVERED,
};
const SELECTED: List = List {
    title: "Worth a label",
    note: "Records of the pool, in the order of their choice.",
    kind: Kind::Ranked,
    rows: ["record worth a label", "records worth a label"],
    numbers: &CHOSEN,
};
const PROPOSED: List = List {
    title: "Worth adding",
    note: "Changed copies of the training records nearest to what is little covered.",
    kind: Kind::Ranked,
    rows: ["copy worth adding", "copies worth adding"],
    numbers: &CHOSEN,
};
const UNRELIABLE: List = List {
    title: "Predictions not to be trusted",
    note: "The least trusted first.",
    kind: Kind::Ranked,
    rows: ["ranked prediction", "ranked predictions"],
    numbers: &TRUSTED,
};
const CHANGES: List = List {
    title: "What was done to the data",
    note: "In the order of the plan's steps.",
    kind: Kind::Changed,
    rows: ["change to the data", "changes to the data"],
    numbers: &AUDITED,
};
const ASKED: List = List {
    title: "Labels that are asked for",
    note: "The most worth asking first.",
    kind: Kind::Ranked,
    rows: ["label asked for", "labels asked for"],
    numbers: &WORTH,
};

/// Lists of one kind that the page's head tells one by one, at most.
const FACTS: usize = 3;

impl Audits {
    /// Takes a finding of the file `source`: one of the first `limit` of its list is shown.
    pub(super) fn add(&mut self, finding: Finding, limit: usize, source: &str) {
        match finding {
            Finding::Dirty(found) => {
                let suggests = found.suggested_label != found.label;
                self.list(&DIRTY, source, suggests).row(limit, || dirty(*found));
            }
            Finding::DirtyPart(found) => {
                let suggests = found.suggested_tags != found.tags;
                self.list(&DIRTY_PART, source, suggests).row(limit, || dirty_part(*found));
            }
            Finding::DirtyAnswer(found) => {
                let suggests = found.suggested_answer != found.label;
                self.list(&DIRTY_ANSWER, source, suggests).row(limit, || dirty_answer(*found));
            }
            Finding::Redundant(found) => self.list(&REDUNDANT, source, false).row(limit, || redundant(*found)),
            Finding::Bias(found) => self.list(&BIAS, source, false).row(limit, || bias(*found)),
            Finding::Sparse(found) => {
                self.group(&found, source);
                self.list(&SPARSE, source, false).row(limit, || sparse(*found));
            }
            Finding::Selected(found) => self.list(&SELECTED, source, false).row(limit, || selected(*found)),
            Finding::Proposed(found) => self.list(&PROPOSED, source, false).row(limit, || proposed(*found)),
            Finding::Mapped(found) => self.maps.of(source).add(*found),
            Finding::Unreliable(found) => {
                if let Some(label) = found.label.as_ref().filter(|label| !is_measured(label)) {
                    self.trusted.of(source).push((found.trust, *label == found.predicted));
                }
                self.list(&UNRELIABLE, source, false).row(limit, || unreliable(*found));
            }
            Finding::Change(found) => {
                let table = self.list(&CHANGES, source, false);
                let rank = table.all as u64;
                table.row(limit, || Row { rank, ..change(*found) });
            }
            Finding::Asked(found) => self.list(&ASKED, source, false).row(limit, || asked(*found)),
            Finding::Comparison(found) => self.comparisons.of(source).push(Bars::new(&found)),
            Finding::Round(found) => self.rounds.of(source).push(*found),
        }
    }

    pub(super) fn add_nothing(&mut self, nothing: Nothing) {
        self.nothing.push(nothing);
    }

    /// The table of a file's list, new or not, with one more in it, which suggests another label or not.
    fn list(&mut self, list: &List, source: &str, suggests: bool) -> &mut Table {
        let List { title, note, kind, rows: called, numbers } = *list;
        let is_it = |table: &Table| table.title == title && table.source == source;
        let at = self.tables.iter().position(is_it).unwrap_or_else(|| {
            let source = source.to_owned();
            let (meanings, rows) = (Vec::new(), Vec::new());
            self.tables.push(Table {
                title,
                source,
                note,
                kind,
                called,
                numbers,
                meanings,
                rows,
                all: 0,
                suggested: 0,
            });
            self.tables.len() - 1
        });
        let table = &mut self.tables[at];
        table.all += 1;
        table.suggested += usize::from(suggests);
        table
    }

    fn group(&mut self, found: &SparseRecord, source: &str) {
        let Some(number) = found.cluster else { return };
        let groups = self.groups.of(source);
        let at = groups.iter().position(|group| group.number == number).unwrap_or_else(|| {
            let words = found.cluster_words.clone();
            groups.push(Group { number, words, records: 0, labelled: 0, right: 0 });
            groups.len() - 1
        });
        let group = &mut groups[at];
        group.records += 1;
        if let Some(label) = found.label.as_ref().filter(|label| !is_measured(label)) {
            group.labelled += 1;
            group.right += usize::from(*label == found.predicted);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let is_empty = self.comparisons.is_empty() && self.rounds.is_empty() && self.maps.is_empty();
        is_empty && self.tables.is_empty() && self.nothing.is_empty()
    }

    /// What the page is about, where there is nothing else on it.
    pub(super) fn title(&self) -> &'static str {
        let are_all = |lists: &[&List]| {
            let is_one = |table: &Table| lists.iter().any(|list| list.title == table.title);
            self.tables.iter().all(is_one) && self.maps.is_empty() && self.nothing.is_empty()
        };
        let of_plans = !self.comparisons.is_empty() || !self.rounds.is_empty();
        if are_all(&[&CHANGES, &ASKED]) {
            return if of_plans { "What changes to the data were worth" } else { "What a plan does to the data" };
        }
        if are_all(&[&UNRELIABLE]) && !of_plans {
            return "How far the predictions can be trusted";
        }
        "The training data, audited"
    }

    /// What the page's head says of each list: how many, and of what. What differs is not added up.
    fn facts(&self) -> Vec<(usize, String)> {
        let fact = |table: &Table| {
            let alike: Vec<&Table> = self.tables.iter().filter(|other| other.title == table.title).collect();
            let [one, many] = table.called;
            if alike.len() > FACTS {
                let is_first = alike[0].source == table.source;
                return is_first.then(|| (alike.len(), format!("lists of {many}")));
            }
            let suggested = match table.suggested {
                0 => String::new(),
                1 => ", 1 suggests another label".to_owned(),
                several => format!(", {several} suggest another label"),
            };
            let sources: Vec<&str> = alike.iter().map(|table| table.source.as_str()).collect();
            let at = sources.iter().position(|source| *source == table.source).unwrap_or_default();
            let name = sources::name(&sources, at).filter(|_| sources.len() > 1);
            let name = name.map_or_else(String::new, |name| format!(" ({name})"));
            Some((table.all, format!("{}{suggested}{name}", if table.all == 1 { one } else { many })))
        };
        let mapped: usize = self.maps.under("").map(|(_, map)| map.all).sum();
        let mapped = (mapped > 0).then(|| (mapped, "on the data map".to_owned()));
        self.tables.iter().filter_map(fact).chain(mapped).collect()
    }

    /// The headings of the tables, by their files' names where several have one title.
    fn headings(&self) -> Vec<String> {
        let heading = |table: &Table| {
            let alike: Vec<&Table> = self.tables.iter().filter(|other| other.title == table.title).collect();
            let sources: Vec<&str> = alike.iter().map(|table| table.source.as_str()).collect();
            let at = sources.iter().position(|source| *source == table.source).unwrap_or_default();
            sources::heading(table.title, &sources, at)
        };
        self.tables.iter().map(heading).collect()
    }

    pub(super) fn shown(&self) -> Shown<'_> {
        let groups = |(heading, groups): (String, &Vec<Group>)| {
            let mut groups: Vec<ShownGroup> = groups.iter().map(ShownGroup::new).collect();
            groups.sort_by_key(|group| group.number);
            (heading, groups)
        };
        let courses = self.rounds.under("Round by round").filter(|(_, rounds)| rounds.len() > 1);
        let trusted = self.trusted.under("How far trust can be trusted");
        let comparisons = self.comparisons.under("What it was worth");
        let mut shown = Shown {
            nothing: self.nothing.iter().map(|of| (of.audit.as_str(), of.records, of.told())).collect(),
            comparisons: comparisons.flat_map(|(name, all)| all.iter().map(move |bars| (name.clone(), bars))).collect(),
            courses: courses.map(|(heading, rounds)| (heading, Course::new(rounds))).collect(),
            maps: self.maps.under("The data map").map(|(heading, map)| (heading, map.shown())).collect(),
            reliabilities: trusted.filter_map(|(heading, all)| Some((heading, Reliability::new(all)?))).collect(),
            groups: self.groups.under("The least covered, in groups").map(groups).collect(),
            tables: self.headings().into_iter().zip(&self.tables).collect(),
            facts: self.facts(),
            contents: Vec::new(),
        };
        shown.contents = shown.contents();
        shown
    }
}

impl Shown<'_> {
    /// The sections in the order of the page: where each is, and what it is called.
    fn contents(&self) -> Vec<(String, String)> {
        fn of<T>(place: &str, sections: &[(String, T)]) -> Vec<(String, String)> {
            let place = |(at, (heading, _)): (usize, &(String, T))| (format!("{place}-{at}"), heading.clone());
            sections.iter().enumerate().map(place).collect()
        }
        let sections = [
            of("worth", &self.comparisons),
            of("rounds", &self.courses),
            of("map", &self.maps),
            of("trust", &self.reliabilities),
            of("groups", &self.groups),
            of("list", &self.tables),
        ];
        sections.concat()
    }
}

impl Table {
    fn row(&mut self, limit: usize, row: impl FnOnce() -> Row) {
        if self.rows.len() < limit {
            let row = row();
            let has = |name: &str| match name {
                "the score" => !row.score.is_empty(),
                "near records" => row.evidence.iter().any(|near| !near.score.is_empty()),
                "×" | "p" | "trust" => true,
                name => row.meters.iter().any(|meter| meter.name == name),
            };
            self.meanings = self.numbers.iter().filter(|of| self.meanings.contains(of) || has(of.0)).copied().collect();
            self.rows.push(row);
        }
    }
}

impl Map {
    fn add(&mut self, found: MappedRecord) {
        self.all += 1;
        if self.points.len() < POINTS {
            self.points.push(Point {
                confidence: found.confidence,
                variability: found.variability,
                correctness: found.correctness,
                region: found.region,
                label: found.label.unwrap_or_default(),
                id: found.id,
                text: clip(&found.text, BRIEF),
                forgotten: found.forgotten,
            });
        }
    }

    fn shown(&self) -> ShownMap {
        let mut labels: Vec<&str> = self.points.iter().map(|point| point.label.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        let region = |name: &str| REGIONS.iter().position(|(region, _)| *region == name).unwrap_or(0);
        let rounded = |x: f64| (x * 1e4).round() / 1e4;
        let label = |point: &Point| labels.binary_search(&point.label.as_str()).unwrap_or(0);
        let points: Vec<Value> = self
            .points
            .iter()
            .map(|p| {
                let [x, y, c] = [p.variability, p.confidence, p.correctness].map(rounded);
                json!([x, y, c, region(&p.region), label(p), p.forgotten, p.id, p.text])
            })
            .collect();
        let count = |name: &str| self.points.iter().filter(|point| point.region == name).count();
        // Inside a script element nothing is unescaped, and only `<` could end it.
        let data = json!({ "labels": labels, "points": points }).to_string().replace('<', "\\u003c");
        ShownMap {
            regions: REGIONS.iter().map(|(name, meaning)| (*name, count(name), *meaning)).collect(),
            shown: self.points.len(),
            all: self.all,
            data,
        }
    }
}

fn chip(text: impl Into<String>) -> Chip {
    Chip { text: text.into(), kind: "" }
}

fn warning(text: impl Into<String>) -> Chip {
    Chip { text: text.into(), kind: "warn" }
}

/// What an f32 may be beyond the 1 that it is computed to be.
const ROUNDING: f64 = 1e-5;

fn share(name: &str, value: f64) -> Meter {
    let is_share = (-ROUNDING..=1.0 + ROUNDING).contains(&value);
    let value = if is_share { value.clamp(0.0, 1.0) } else { value };
    let percent = is_share.then(|| format!("{:.1}", 100.0 * value));
    Meter { name: name.to_owned(), value: format!("{value:.2}"), percent }
}

fn near(near: NearRecord) -> Evidence {
    let text = clip(&near.text, TEXT);
    Evidence {
        label: near.label,
        score: format!("{:.3}", near.score),
        id: near.id,
        before: String::new(),
        span: None,
        text,
        pair: brief(near.text_pair),
    }
}

/// A text's second segment, cut where it is long.
fn brief(pair: Option<String>) -> Option<String> {
    pair.map(|pair| clip(&pair, TEXT))
}

/// A label, and the other one where they differ.
fn predicted(label: Option<&Value>, predicted: &Value) -> Vec<Chip> {
    let mut chips = vec![chip(format!("predicted {}", plain(predicted)))];
    chips.extend(label.map(|label| {
        let text = format!("label {}", plain(label));
        if label == predicted || is_measured(predicted) { chip(text) } else { warning(text) }
    }));
    chips
}

/// What something has, and what it would rather have where that is something else.
fn rather(has: String, suggested: String) -> Vec<Chip> {
    if has == suggested { vec![chip(has)] } else { vec![chip(has), chip("→"), warning(suggested)] }
}

fn signals(found: &Fields<String, Value>) -> Vec<Meter> {
    let meter = |(name, value): (&String, &Value)| {
        let value = value.as_f64()?;
        Some(Meter { name: name.clone(), value: format!("{value:.3}"), percent: None })
    };
    found.iter().filter_map(meter).collect()
}

fn dirty(found: DirtyLabel) -> Row {
    Row {
        meters: signals(&found.signals),
        rank: found.rank,
        heading: rather(found.label, found.suggested_label),
        id: found.id,
        score: format!("{:.2}", found.score),
        reason: found.reason,
        evidence: found.neighbours.into_iter().map(near).collect(),
        text: clip(&found.text, TEXT),
        pair: brief(found.text_pair),
        ..Row::default()
    }
}

/// Characters of a text on each side of what it is about.
const AROUND: usize = 120;

fn dirty_part(found: DirtyPart) -> Row {
    let near = |near: NearPart| {
        let [before, span, after] = around(&near.text, near.start, near.end);
        Evidence {
            label: Some(near.label),
            score: format!("{:.3}", near.score),
            id: near.id,
            before,
            span: Some(span),
            text: after,
            pair: None,
        }
    };
    let [before, span, after] = around(&found.text, found.start, found.end);
    Row {
        rank: found.rank,
        heading: rather(found.tags.join(" "), found.suggested_tags.join(" ")),
        id: found.id,
        score: format!("{:.2}", found.score),
        reason: found.reason,
        meters: signals(&found.signals),
        evidence: found.neighbours.into_iter().map(near).collect(),
        before,
        span: Some(span),
        text: after,
        ..Row::default()
    }
}

fn dirty_answer(found: DirtyAnswer) -> Row {
    let context = found.text_pair.unwrap_or_default();
    let [before, span, after] = around(&context, found.start, found.end);
    Row {
        rank: found.rank,
        heading: rather(found.label, found.suggested_answer),
        id: found.id,
        score: format!("{:.2}", found.score),
        reason: found.sentence.map_or(found.reason.clone(), |sentence| format!("{}: {sentence}", found.reason)),
        meters: signals(&found.signals),
        evidence: found.neighbours.into_iter().map(near).collect(),
        before: format!("{} ⏐ {before}", found.text),
        span: Some(span),
        text: after,
        ..Row::default()
    }
}

/// Some characters of a text, and what stands before and behind, cut where it is long.
fn around(text: &str, start: u64, end: u64) -> [String; 3] {
    let characters: Vec<char> = text.chars().collect();
    let place = |at: u64| (at as usize).min(characters.len());
    let (start, end) = (place(start), place(end).max(place(start)));
    let (from, to) = (start.saturating_sub(AROUND), characters.len().min(end + AROUND));
    let part = |range: std::ops::Range<usize>| characters[range].iter().collect::<String>();
    let cut = |is_cut: bool| if is_cut { "…" } else { "" };
    [
        format!("{}{}", cut(from > 0), part(from..start)),
        part(start..end),
        format!("{}{}", part(end..to), cut(to < characters.len())),
    ]
}

fn redundant(found: RedundantRecord) -> Row {
    let conflict = found.label.is_some() && found.of.label.is_some() && found.label != found.of.label;
    let mut heading = vec![chip(found.set.clone())];
    if found.set != found.of_set {
        heading.push(warning("leak"));
    }
    heading.extend(found.label.map(|label| if conflict { warning(label) } else { chip(label) }));
    let own = found.of.label.as_ref().map_or_else(String::new, |label| format!(" ({label})"));
    heading.push(chip(format!("copy of {}{own}", found.of.id)));
    Row {
        rank: found.rank,
        heading,
        id: found.id,
        score: format!("{:.2}", found.score),
        reason: found.reason,
        evidence: vec![near(found.of)],
        text: clip(&found.text, TEXT),
        pair: brief(found.text_pair),
        ..Row::default()
    }
}

fn bias(found: BiasFinding) -> Row {
    let mut meters = vec![share("with the word", found.share), share("of all", found.expected)];
    meters.extend(found.rationale_share.map(|of| share("of rationales", of)));
    Row {
        rank: found.rank,
        heading: vec![chip(found.word), chip("→"), chip(found.label)],
        id: format!("p = {:.1e}", found.p_value),
        score: format!("{:.2}×", found.lift),
        reason: found.reason,
        meters,
        evidence: found
            .examples
            .into_iter()
            .map(|example| Evidence { score: String::new(), ..near(example) })
            .collect(),
        ..Row::default()
    }
}

fn sparse(found: SparseRecord) -> Row {
    let mut heading = predicted(found.label.as_ref(), &found.predicted);
    heading.extend(found.cluster.map(|group| chip(format!("group {group}"))));
    Row {
        rank: found.rank,
        heading,
        id: found.id,
        score: format!("{:.3}", found.similarity),
        reason: found.reason,
        evidence: found.nearest.into_iter().map(near).collect(),
        text: clip(&found.text, TEXT),
        pair: brief(found.text_pair),
        ..Row::default()
    }
}

fn selected(found: SelectedRecord) -> Row {
    Row {
        rank: found.rank,
        id: found.id,
        score: format!("{:.3}", found.score),
        reason: found.target.map(|target| format!("for {target}")).unwrap_or_default(),
        text: clip(&found.text, TEXT),
        pair: brief(found.text_pair),
        ..Row::default()
    }
}

fn proposed(found: ProposedRecord) -> Row {
    Row {
        rank: found.rank,
        heading: found.label.iter().map(|label| chip(plain(label))).collect(),
        id: found.id,
        score: format!("{:.3}", found.score),
        reason: format!("a copy of {}, near {}", found.of, found.target),
        text: clip(&found.text, TEXT),
        pair: brief(found.text_pair),
        ..Row::default()
    }
}

fn unreliable(found: UnreliableRecord) -> Row {
    let meters = found.evidence.iter().filter_map(|(name, value)| Some(share(name, value.as_f64()?)));
    Row {
        rank: found.rank,
        heading: predicted(found.label.as_ref(), &found.predicted),
        id: found.id,
        score: format!("trust {:.2}", found.trust),
        reason: match found.rationale.as_slice() {
            [] => found.reason,
            words => {
                let words: Vec<String> = words.iter().map(|word| listed(word)).collect();
                format!("{}; it rests on {}", found.reason, words.join(", "))
            }
        },
        meters: meters.collect(),
        evidence: found.nearest.into_iter().map(near).collect(),
        text: clip(&found.text, TEXT),
        pair: brief(found.text_pair),
        ..Row::default()
    }
}

fn change(found: ChangeRecord) -> Row {
    let mut heading = vec![warning(found.change)];
    if let Some(from) = &found.from {
        heading.extend([chip(plain(from)), chip("→")]);
    }
    heading.extend(found.to.as_ref().map(|to| chip(plain(to))));
    heading.extend(found.weight.map(|weight| chip(format!("weight {weight:.3}"))));
    Row {
        heading,
        id: format!("{}, step {}", found.id, found.step),
        score: found.score.map(|score| format!("{score:.3}")).unwrap_or_default(),
        reason: found.reason,
        text: clip(&found.text, TEXT),
        ..Row::default()
    }
}

fn asked(found: AskedRecord) -> Row {
    let mut heading = vec![chip(found.kind)];
    heading.extend(found.label.as_ref().map(|label| warning(plain(label))));
    Row {
        rank: found.rank,
        heading,
        id: found.id,
        score: format!("{:.3}", found.score),
        text: clip(&found.text, TEXT),
        pair: brief(found.text_pair),
        ..Row::default()
    }
}
