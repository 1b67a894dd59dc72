//! Which column is which: the user's choice, or the first of the usual names that is there.

use crate::error::{Error, Result};

const TEXT: [&str; 8] = ["text", "sentence", "text_a", "sentence1", "premise", "query", "question1", "content"];
/// The first only where there is no header.
const PAIR: [&str; 7] = ["pair", "text_pair", "text_b", "sentence2", "hypothesis", "title", "question2"];
const LABEL: [&str; 2] = ["label", "labels"];
const QUESTION: [&str; 1] = ["question"];
const CONTEXT: [&str; 1] = ["context"];
const ANSWERS: [&str; 2] = ["answers", "answer"];
const WORDS: [&str; 2] = ["tokens", "words"];
const TAGS: [&str; 3] = ["ner_tags", "tags", "labels"];
const ID: [&str; 3] = ["id", "guid", "idx"];

/// What a record is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// A text, or two, and a label.
    #[default]
    Texts,
    /// A question about a context, and its answers: nested as SQuAD has them, or one a row.
    Questions,
    /// Words, and a tag for each; or a text.
    Words,
}

/// What to read, and which columns to read it from.
#[derive(Clone, Debug, Default)]
pub struct DatasetOptions {
    /// Paths and globs, in order; `-` is JSONL on standard input.
    pub files: Vec<String>,
    /// The first segment's column, instead of the usual names.
    pub text_column: Option<String>,
    /// The second segment's column.
    pub pair_column: Option<String>,
    /// The label's column.
    pub label_column: Option<String>,
    /// The id's column.
    pub id_column: Option<String>,
    /// Further columns to keep beside each record, by name; see [`super::Record::columns`].
    pub keep_columns: Vec<String>,
    /// CSV and TSV files start with their first record; `columns` names their fields.
    pub no_header: bool,
    /// The names of the fields where there is no header.
    pub columns: Option<Vec<String>>,
    /// Let several records have the same id.
    pub allow_duplicate_ids: bool,
    /// What a record is made of: which names columns usually have, and what their values mean.
    pub shape: Shape,
}

/// The names wanted for each field, best first.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) shape: Shape,
    pub(super) text: Names,
    pub(super) pair: Names,
    pub(super) label: Names,
    pub(super) id: Names,
    /// Kept as they are, each of one name.
    pub(super) kept: Vec<Names>,
}

/// A field's possible names: the user's one, or the usual ones.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) names: Vec<String>,
    /// The user named it, so that a file without it is a mistake.
    pub(super) explicit: bool,
}

/// Where in a row each field is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout<L = usize> {
    pub(super) text: usize,
    pub(super) pair: Option<usize>,
    pub(super) label: Option<L>,
    pub(super) id: Option<usize>,
    /// The columns kept, in the order asked for.
    pub(super) kept: Vec<usize>,
}

impl Names {
    fn new(explicit: Option<&String>, usual: &[&str]) -> Self {
        match explicit {
            Some(name) => Self { names: vec![name.clone()], explicit: true },
            None => Self { names: usual.iter().map(|&name| name.to_owned()).collect(), explicit: false },
        }
    }

    /// The one name to read, or the choice of them, for messages.
    fn describe(&self) -> String {
        match &self.names[..] {
            [name] => format!("`{name}`"),
            names => format!("one of {}", list(names)),
        }
    }

    /// The first of the names among the columns; `taken` is another field's.
    fn find(&self, columns: &[String], taken: Option<usize>) -> Result<Option<usize>, String> {
        for name in &self.names {
            let mut places =
                (0..columns.len()).filter(|&at| columns[at] == *name && (self.explicit || Some(at) != taken));
            if let Some(first) = places.next() {
                return match places.next() {
                    None => Ok(Some(first)),
                    Some(_) => Err(format!("column `{name}` is there twice")),
                };
            }
        }
        if self.explicit {
            return Err(format!("no column {}; the columns are {}", self.describe(), list(columns)));
        }
        Ok(None)
    }
}

impl Wanted {
    pub(super) fn new(options: &DatasetOptions) -> Self {
        // Whoever names the columns of a file with no header may name a pair by what it is.
        let pairs = if options.no_header { &PAIR[..] } else { &PAIR[1..] };
        let words = [&WORDS[..], &TEXT].concat();
        let (texts, pairs, labels): (&[&str], &[&str], &[&str]) = match options.shape {
            Shape::Texts => (&TEXT, pairs, &LABEL),
            Shape::Questions => (&QUESTION, &CONTEXT, &ANSWERS),
            Shape::Words => (&words, &[], &TAGS),
        };
        Self {
            shape: options.shape,
            text: Names::new(options.text_column.as_ref(), texts),
            pair: Names::new(options.pair_column.as_ref(), pairs),
            label: Names::new(options.label_column.as_ref(), labels),
            id: Names::new(options.id_column.as_ref(), &ID),
            kept: options.keep_columns.iter().map(|name| Names::new(Some(name), &[])).collect(),
        }
    }

    /// Whether a column of this name is of use.
    pub(super) fn contains(&self, name: &str) -> bool {
        let fields = [&self.text, &self.pair, &self.label, &self.id];
        fields.into_iter().chain(&self.kept).any(|field| field.names.iter().any(|n| n == name))
    }

    /// Finds the fields among a file's columns.
    ///
    /// # Errors
    /// [`Error::Format`] where there is no text column, or none of a name the user gave.
    pub(super) fn resolve(&self, columns: &[String], path: &std::path::Path) -> Result<Layout> {
        let find = |names: &Names, taken| names.find(columns, taken).map_err(|reason| Error::format(path, reason));
        let text = find(&self.text, None)?.ok_or_else(|| self.no_text(columns, path))?;
        let taken = Some(text);
        Ok(Layout {
            text,
            pair: find(&self.pair, taken)?,
            label: find(&self.label, taken)?,
            id: find(&self.id, taken)?,
            // Their names are the user's, so what is not there is an error.
            kept: self.kept.iter().filter_map(|names| find(names, taken).transpose()).collect::<Result<_>>()?,
        })
    }

    /// The error for a file with no text column.
    pub(super) fn no_text(&self, columns: &[String], path: &std::path::Path) -> Error {
        let reason = format!("no text column: expected {}, found {}", self.text.describe(), list(columns));
        Error::format(path, reason).with_hint("say which column holds the text: --text-column NAME")
    }
}

/// Names as messages tell them.
pub(super) fn list(names: &[String]) -> String {
    /// As many as a line can take.
    const SHOWN: usize = 20;
    if names.is_empty() {
        return "none".to_owned();
    }
    let mut shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    if names.len() > SHOWN {
        shown.push(format!("and {} more", names.len() - SHOWN));
    }
    shown.join(", ")
}
