//! Units are what has a label of its own: a record, or of models that say something of tokens each of its words or
//! masks. They are the factors of a store ([`crate::search::EachFactor`]).

use std::ops::Range;

use super::labelled::Classes;
use crate::error::Result;
use crate::store::Store;
use crate::task;

/// What is told together of the words of one record: an entity, as it is tagged or as it would rather be, with whatever
/// it touches; or a word by itself.
pub(super) fn spans(
    records: &[Range<usize>],
    classes: &Classes,
    suggestions: &[usize],
    names: &[String],
) -> Vec<Range<usize>> {
    let name = |class: Option<usize>| class.and_then(|class| names.get(class)).map(String::as_str);
    let mut all = Vec::new();
    for record in records {
        let tagged = task::entities(record.clone().map(|unit| name(classes.labels[unit])));
        let suggested = task::entities(record.clone().map(|unit| name(Some(suggestions[unit]))));
        let mut entities: Vec<Range<usize>> = tagged.into_iter().chain(suggested).map(|(_, words)| words).collect();
        entities.sort_by_key(|words| (words.start, words.end));
        let (mut next, mut entities) = (0, entities.into_iter().peekable());
        while next < record.len() {
            let mut end = next + 1;
            while let Some(words) = entities.next_if(|words| words.start < end) {
                end = end.max(words.end);
            }
            all.push(record.start + next..record.start + end);
            next = end;
        }
    }
    all
}

/// Whether each record of a store of several units a record has a label ([`crate::store::Said`]).
pub(super) fn have_labels(store: &Store) -> Result<Vec<bool>> {
    (0..store.rows())
        .map(|row| store.record(row).map(|record| record.said.is_some_and(|said| said.label.is_some())))
        .collect()
}
