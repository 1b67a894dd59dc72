//! Labelled records in memory, as a model reads them: training goes through them again and again.

use std::borrow::Borrow;
use std::collections::BTreeSet;

use rayon::prelude::*;

use super::rationale;
use crate::dataset::{Dataset, Label, Place, Record, Rejections};
use crate::error::{Error, Result};
use crate::factors::Target;
use crate::model::{ClassNames, HeadPlan, Problem, Task, Trainee, written_id};
use crate::tokens::Encoding;

/// One labelled record, ready to be learned.
#[derive(Clone, Debug)]
pub struct Example {
    /// Its tokens; what explains them (pieces, offsets) is left out.
    pub encoding: Encoding,
    /// Its label.
    pub target: Target,
    /// What its loss counts, against the others'.
    pub weight: f64,
    /// Its number in the input.
    pub index: u64,
    /// Its id.
    pub id: String,
    /// The tokens that people marked, one a token; empty where none are.
    pub rationale: Vec<bool>,
}

impl Borrow<Encoding> for &Example {
    fn borrow(&self) -> &Encoding {
        &self.encoding
    }
}

/// Records as read, each with its place for messages.
pub struct Labelled {
    pub(super) records: Vec<(Record, Place)>,
    /// The column of their weights, kept as [`crate::dataset::DatasetOptions::keep_columns`] says.
    pub(super) weight_column: Option<String>,
    /// The column of the words that people marked.
    rationale_column: Option<String>,
}

impl Labelled {
    /// Reads them all. A record without a label, or whose weight is no number from 0, cannot be used.
    ///
    /// # Errors
    /// As [`Dataset`]'s items and [`Rejections::take`]; [`Error::Usage`] where none is left.
    pub fn read(dataset: Dataset, weight_column: Option<&str>, rejections: &mut Rejections) -> Result<Self> {
        Self::read_for(Task::Record, dataset, weight_column, rejections)
    }

    /// [`Labelled::read`], for a task: texts that are to be masked need no label.
    ///
    /// # Errors
    /// As there.
    pub fn read_for(
        task: Task,
        dataset: Dataset,
        weight_column: Option<&str>,
        rejections: &mut Rejections,
    ) -> Result<Self> {
        let needs_label = task != Task::Masks;
        let mut dataset = dataset;
        let mut records = Vec::new();
        while let Some(record) = dataset.next() {
            crate::interrupt::check()?;
            let place = dataset.place();
            let usable = record.and_then(|record| match reason_against(&record, needs_label, weight_column) {
                None => Ok(record),
                Some(reason) => Err(place.error(reason)),
            });
            match usable {
                Ok(record) => records.push((record, place)),
                Err(error) => rejections.take(error)?,
            }
        }
        if records.is_empty() {
            return Err(Error::usage("there are no labelled records to learn from"));
        }
        Ok(Self { records, weight_column: weight_column.map(str::to_owned), rationale_column: None })
    }

    /// The same with the words that people marked, in a column that was kept.
    #[must_use]
    pub fn with_rationales(self, column: Option<&str>) -> Self {
        Self { rationale_column: column.map(str::to_owned), ..self }
    }

    /// The records.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().map(|(record, _)| record)
    }

    /// Each with what its label is among the classes of a model; those whose label means nothing to it cannot be used.
    ///
    /// # Errors
    /// As [`Rejections::take`].
    pub(crate) fn resolved(
        self,
        classes: &ClassNames,
        rejections: &mut Rejections,
    ) -> Result<Vec<(Record, Target, Place)>> {
        let mut usable = Vec::with_capacity(self.records.len());
        for (record, place) in self.records {
            let label = record.label.as_ref().expect("read with a label");
            match classes.resolve(label) {
                Ok(target) => usable.push((record, target, place)),
                Err(reason) => rejections.take(place.error(reason))?,
            }
        }
        Ok(usable)
    }

    /// As `trainee` reads them; those whose label means nothing to it cannot be used.
    ///
    /// # Errors
    /// As [`Rejections::take`] and [`Trainee::encode`]; [`Error::Usage`] where none is left.
    pub fn examples(self, trainee: &Trainee, rejections: &mut Rejections) -> Result<Vec<Example>> {
        let (weights, rationales) = (self.weight_column.clone(), self.rationale_column.clone());
        let (weights, rationales) = (weights.as_deref(), rationales.as_deref());
        let usable = self.resolved(trainee.class_names(), rejections)?;
        let example = |(record, target, place): (Record, Target, Place)| {
            let encoding = trainee.encode(&record)?;
            let rationale = match rationales.and_then(|column| record.columns.get(column)) {
                None => Vec::new(),
                Some(value) => {
                    rationale::marked(value, &record.text, &encoding).map_err(|reason| place.error(reason))?
                }
            };
            let encoding = Encoding { tokens: vec![], offsets: vec![], segments: vec![], words: vec![], ..encoding };
            let weight = weight(&record, weights).unwrap_or(1.0);
            Ok(Example { encoding, target, weight, index: record.index, id: record.id, rationale })
        };
        let made: Vec<Result<Example>> = usable.into_par_iter().map(example).collect();
        let mut examples = Vec::with_capacity(made.len());
        for example in made {
            match example {
                Err(error @ Error::Record { .. }) => rejections.take(error)?,
                example => examples.push(example?),
            }
        }
        if examples.is_empty() {
            return Err(Error::usage("there are no records with labels of this model"));
        }
        Ok(examples)
    }
}

fn reason_against(record: &Record, needs_label: bool, weight_column: Option<&str>) -> Option<String> {
    if needs_label && record.label.is_none() {
        return Some("label: expected one to learn, found none".to_owned());
    }
    match weight(record, weight_column) {
        Some(weight) if weight.is_finite() && weight >= 0.0 => None,
        _ => {
            let column = weight_column.unwrap_or_default();
            let found = record.columns.get(column).map_or("none", String::as_str);
            Some(format!("{column}: expected a weight from 0, found {found}"))
        }
    }
}

/// A record's weight: 1 where there is no column of them.
pub(super) fn weight(record: &Record, column: Option<&str>) -> Option<f64> {
    match column {
        None => Some(1.0),
        Some(column) => record.columns.get(column)?.trim().parse().ok(),
    }
}

/// What a head for these records is: as asked for, else the model's own where every label means something to it, else
/// as the labels are.
///
/// Names in the data become the classes, in the order of their characters; whole numbers are class ids from 0; lists
/// make it multi-label (lists of as many numbers from 0 to 1 are one number a class), fractions a regression.
///
/// # Errors
/// [`Error::Usage`] where the labels are of no one kind.
pub fn plan_head(
    labelled: &Labelled,
    names: Option<&[String]>,
    problem: Option<Problem>,
    own: Option<&HeadPlan>,
) -> Result<HeadPlan> {
    let found = Kinds::of(labelled);
    if let Some(names) = names {
        let many = if found.many { Problem::MultiLabel } else { Problem::SingleLabel };
        return Ok(HeadPlan { names: names.to_vec(), problem: problem.unwrap_or(many) });
    }
    if let Some(own) = own.filter(|own| problem.is_none_or(|problem| problem == own.problem) && found.suit(own)) {
        return Ok(own.clone());
    }
    let problem = problem.unwrap_or(found.problem());
    let names = match problem {
        Problem::Regression => vec!["LABEL_0".to_owned()],
        _ => found.names()?,
    };
    Ok(HeadPlan { names, problem })
}

/// What a head that tags words is: as asked for, else the model's own where every tag means something to it, else as
/// the tags are.
///
/// # Errors
/// As [`plan_head`].
pub fn plan_tags(labelled: &Labelled, names: Option<&[String]>, own: Option<&HeadPlan>) -> Result<HeadPlan> {
    let found = Kinds::of(labelled);
    match (names, own.filter(|own| found.suit(own))) {
        (Some(names), _) => Ok(HeadPlan { names: names.to_vec(), problem: Problem::SingleLabel }),
        (None, Some(own)) => Ok(own.clone()),
        (None, None) => Ok(HeadPlan { names: found.names()?, problem: Problem::SingleLabel }),
    }
}

/// What labels there are.
#[derive(Default)]
struct Kinds {
    names: BTreeSet<String>,
    largest: Option<i64>,
    negative: bool,
    fractions: bool,
    many: bool,
    /// How many numbers each list has, where every label is a list of as many from 0 to 1.
    row: Option<usize>,
    /// Where the first of each is.
    first_name: Option<Place>,
    first_id: Option<Place>,
    first_blank: Option<Place>,
}

/// How many classes a list has a number from 0 to 1 for, if it is such a list.
fn row_of(label: &Label) -> Option<usize> {
    let Label::Many(items) = label else { return None };
    let is_share = |item: &Label| match item {
        Label::Integer(number) => (0..=1).contains(number),
        Label::Number(number) => (0.0..=1.0).contains(number),
        _ => false,
    };
    (!items.is_empty() && items.iter().all(is_share)).then_some(items.len())
}

/// The most classes that ids make: a label column of other numbers is told before it becomes a head of millions.
const MOST_CLASSES: i64 = 100_000;

impl Kinds {
    fn of(labelled: &Labelled) -> Self {
        let labels = labelled.records.iter().filter_map(|(record, place)| Some((record.label.as_ref()?, place)));
        let (mut kinds, mut first) = (Self::default(), true);
        for (label, place) in labels {
            let (named, numbered) = (kinds.names.len(), kinds.largest);
            let row = row_of(label).filter(|length| first || kinds.row == Some(*length));
            (kinds.row, first) = (row, false);
            kinds.add(label);
            if named == 0 && !kinds.names.is_empty() {
                kinds.first_name = Some(place.clone());
            }
            if numbered.is_none() && kinds.largest.is_some() {
                kinds.first_id = Some(place.clone());
            }
            // Spaces sort before whatever can be seen.
            if kinds.first_blank.is_none() && kinds.names.first().is_some_and(|name| name.trim().is_empty()) {
                kinds.first_blank = Some(place.clone());
            }
        }
        kinds
    }

    fn add(&mut self, label: &Label) {
        match label {
            Label::Integer(id) => {
                self.largest = self.largest.max(Some(*id));
                self.negative |= *id < 0;
            }
            Label::Number(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
                self.add(&Label::Integer(*number as i64));
            }
            Label::Number(_) => self.fractions = true,
            Label::Name(name) => match written_id(name) {
                Some(id) => self.add(&Label::Integer(id)),
                None => drop(self.names.insert(name.clone())),
            },
            Label::Many(labels) => {
                self.many = true;
                for label in labels {
                    self.add(label);
                }
            }
            // Of questions, which no head over whole texts learns from.
            Label::Answers(_) => {}
        }
    }

    /// Whether a head knows all of them.
    fn suit(&self, head: &HeadPlan) -> bool {
        let classes = head.names.len() as i64;
        match head.problem {
            Problem::Regression => self.names.is_empty(),
            Problem::Headless => false,
            Problem::SingleLabel if self.many => false,
            Problem::MultiLabel if self.row == Some(head.names.len()) => true,
            Problem::SingleLabel | Problem::MultiLabel => {
                let ids = !self.negative && self.largest.is_none_or(|largest| largest < classes);
                ids && !self.fractions && self.names.iter().all(|name| head.names.contains(name))
            }
        }
    }

    fn problem(&self) -> Problem {
        match self {
            Self { many: true, .. } => Problem::MultiLabel,
            Self { fractions: true, .. } => Problem::Regression,
            _ => Problem::SingleLabel,
        }
    }

    fn names(&self) -> Result<Vec<String>> {
        if let Some(place) = &self.first_blank {
            return Err(Error::usage(format!("labels: expected a name, found an empty one in {place}"))
                .with_hint("leave the label out, or null, where a record has none"));
        }
        // A list of one number is an id: there is no head with one class but the model's own.
        if let Some(classes) = self.row.filter(|classes| *classes > 1) {
            return Ok((0..classes).map(|id| format!("LABEL_{id}")).collect());
        }
        match (self.largest, self.names.is_empty()) {
            (None, false) => Ok(self.names.iter().cloned().collect()),
            (Some(largest), true) if !self.negative && largest < MOST_CLASSES => {
                Ok((0..=largest).map(|id| format!("LABEL_{id}")).collect())
            }
            (Some(found), true) => Err(Error::usage(format!(
                "labels: expected class ids from 0 to {}, found {}",
                MOST_CLASSES - 1,
                if self.negative { "a negative one".to_owned() } else { found.to_string() }
            ))
            .with_hint("numbers that are no classes are a regression: --problem regression")),
            _ => {
                let [name, id] = [&self.first_name, &self.first_id]
                    .map(|place| place.as_ref().map_or_else(String::new, ToString::to_string));
                let found = format!("labels: expected names or class ids, found both: a name in {name}, an id in {id}");
                Err(Error::usage(found).with_hint("name the classes in order: --labels a,b,c"))
            }
        }
    }
}
