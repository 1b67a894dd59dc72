//! What the data plainly are, told by their columns.

use super::{Dataset, DatasetOptions, Label, Record, Shape};

impl Shape {
    /// What records these files hold: questions where the first one has a question, a context and answers, words where
    /// it has words and tags, else texts. Standard input cannot be looked at beforehand, and columns the user names
    /// could be anything's: texts.
    pub fn of(options: &DatasetOptions) -> Self {
        if options.text_column.is_some() || options.files.iter().any(|file| file == "-") {
            return Self::Texts;
        }
        let is = |shape: Self, holds: fn(&Record) -> bool| {
            let first = Dataset::open(DatasetOptions { shape, ..options.clone() }).ok().and_then(|mut all| all.next());
            first.and_then(Result::ok).is_some_and(|record| holds(&record))
        };
        if is(Self::Questions, |record| matches!(record.label, Some(Label::Answers(_)))) {
            return Self::Questions;
        }
        if is(Self::Words, |record| record.words.is_some() && matches!(record.label, Some(Label::Many(_)))) {
            return Self::Words;
        }
        Self::Texts
    }
}
