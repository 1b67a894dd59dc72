//! The words that people marked: files of gold rationales.
//!
//! One JSON object a line, in either of two forms:
//!
//! ```text
//! {"id": "17", "rationales": [[[4, 9], [12, 20]], …]}                         alternatives of spans, in characters of the text
//! {"sent_id": 17, "sent_token": ["this", …], "rationale_ids": [[[0, 3], …]]}  of words: sentences, alternatives, numbers
//! ```
//!
//! A record may have several rationales, each good by itself. Spans are of the text's own characters, so special
//! tokens, and how anybody counts words, cannot shift them. Those of a pair's second text are `pair_rationales`; the
//! second form, TrustAI's, has a list for each of the two texts, of words as of numbers, and may leave it out where
//! there is one text.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::{Map, Value};

use crate::dataset::each_object;
use crate::error::Result;

/// Alternatives, each the spans of one rationale: in characters, the end not included.
type Alternatives = Vec<Vec<Range<usize>>>;

/// Gold rationales by the id of their record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gold {
    /// One for each text of the record.
    of: HashMap<String, Vec<Marked>>,
}

/// What is marked in one text.
#[derive(Clone, Debug, PartialEq)]
enum Marked {
    Spans(Alternatives),
    /// Words in text order, and alternatives of their numbers.
    Words(Vec<String>, Vec<Vec<usize>>),
}

impl Gold {
    /// Reads files of them.
    ///
    /// # Errors
    /// [`crate::Error::Record`] at a line that is no such object; what the file system says.
    pub fn read(files: &[String]) -> Result<Self> {
        let mut gold = Self::default();
        each_object(files, &mut |place, object| {
            let (id, marked) = parse(&object).map_err(|reason| place.error(reason))?;
            match gold.of.insert(id.clone(), marked) {
                None => Ok(()),
                Some(_) => Err(place.error(format!("id {id:?} has a rationale already"))),
            }
        })?;
        Ok(gold)
    }

    /// Of all there are, whatever their order.
    pub(super) fn digest(&self) -> String {
        let mut all: Vec<_> = self.of.iter().collect();
        all.sort_by_key(|(id, _)| *id);
        blake3::hash(format!("{all:?}").as_bytes()).to_hex().to_string()
    }

    /// How many records have one.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Whether record `id` has one.
    pub fn has(&self, id: &str) -> bool {
        self.of.contains_key(id)
    }

    /// The spans of each alternative in a text of record `id`, its first (`segment` 0) or its pair (1); nothing where
    /// that has none. `Err` holds what does not fit the text.
    pub fn spans(&self, id: &str, segment: u8, text: Option<&str>) -> Option<Result<Alternatives, String>> {
        let marked = self.of.get(id)?.get(usize::from(segment))?;
        let Some(text) = text else { return Some(Err("a rationale of a second text, and there is one".to_owned())) };
        Some(match marked {
            Marked::Spans(alternatives) => {
                let length = text.chars().count();
                match alternatives.iter().flatten().find(|span| span.end > length || span.start >= span.end) {
                    None => Ok(alternatives.clone()),
                    Some(span) => {
                        Err(format!("a rationale from {} to {} in a text of {length} characters", span.start, span.end))
                    }
                }
            }
            Marked::Words(words, alternatives) => located(words, text).and_then(|places| {
                let word = |&number: &usize| {
                    let count = places.len();
                    places.get(number).cloned().ok_or_else(|| format!("a rationale with word {number} of {count}"))
                };
                alternatives.iter().map(|words| words.iter().map(word).collect()).collect()
            }),
        })
    }
}

/// Where each word stands, each looked for after the one before it.
fn located(words: &[String], text: &str) -> Result<Vec<Range<usize>>, String> {
    let (mut places, mut byte, mut character) = (Vec::new(), 0, 0);
    for word in words {
        let at = text[byte..].find(word.as_str()).ok_or_else(|| format!("its word {word:?} is not in the text"))?;
        character += text[byte..byte + at].chars().count();
        let end = character + word.chars().count();
        places.push(character..end);
        (byte, character) = (byte + at + word.len(), end);
    }
    Ok(places)
}

fn parse(object: &Map<String, Value>) -> Result<(String, Vec<Marked>), String> {
    let id = ["id", "sent_id"].iter().find_map(|name| object.get(*name)).ok_or("no id: expected `id`")?;
    let id = match id {
        Value::String(id) => id.clone(),
        Value::Number(id) => id.to_string(),
        other => return Err(format!("id: expected a string or an integer, found {other}")),
    };
    let texts = match (object.get("rationales"), object.get("rationale_ids"), object.get("sent_token")) {
        (Some(text), ..) => {
            let of = |value, field| alternatives(value, field, &|value| span(value, field)).map(Marked::Spans);
            let pair = object.get("pair_rationales").map(|pair| of(pair, "pair_rationales"));
            std::iter::once(of(text, "rationales")).chain(pair).collect::<Result<_, _>>()?
        }
        (None, Some(numbers), Some(words)) => in_words(words, numbers)?,
        _ => return Err("no rationale: expected `rationales`, or `rationale_ids` with `sent_token`".to_owned()),
    };
    Ok((id, texts))
}

/// TrustAI's form: words and numbers, each for one text or in a list of texts.
fn in_words(words: &Value, numbers: &Value) -> Result<Vec<Marked>, String> {
    let (words, numbers) = (of_texts(words, "sent_token", 1)?, of_texts(numbers, "rationale_ids", 2)?);
    if words.len() != numbers.len() {
        let (texts, found) = (numbers.len(), words.len());
        return Err(format!("rationale_ids of {texts} texts: expected as many lists of words, found {found}"));
    }
    let word = |word: &Value| word.as_str().map(str::to_owned).ok_or("sent_token: expected strings".to_owned());
    let marked = |(words, numbers)| {
        let words = list(words, "sent_token")?.iter().map(word).collect::<Result<_, _>>()?;
        Ok(Marked::Words(words, alternatives(numbers, "rationale_ids", &number)?))
    };
    words.into_iter().zip(numbers).map(marked).collect()
}

/// The values of one text, lists within each other `depth` times, or of several in one list more.
fn of_texts<'a>(value: &'a Value, field: &str, depth: usize) -> Result<Vec<&'a Value>, String> {
    let mut innermost = Some(value);
    for _ in 0..depth {
        innermost = innermost.and_then(|value| value.as_array()?.iter().find(|inner| **inner != Value::Array(vec![])));
    }
    let several = innermost.is_some_and(Value::is_array);
    Ok(if several { list(value, field)?.iter().collect() } else { vec![value] })
}

fn list<'a>(value: &'a Value, field: &str) -> Result<&'a Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{field}: expected a list, found {value}"))
}

fn alternatives<T>(
    value: &Value,
    field: &str,
    one: &dyn Fn(&Value) -> Result<T, String>,
) -> Result<Vec<Vec<T>>, String> {
    let alternative = |value: &Value| list(value, field)?.iter().map(one).collect();
    list(value, field)?.iter().map(alternative).collect()
}

fn number(value: &Value) -> Result<usize, String> {
    // Files made by scripts have numbers as strings now and then.
    let found = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    found.map(|number| number as usize).ok_or_else(|| format!("expected a number from 0 on, found {value}"))
}

fn span(value: &Value, field: &str) -> Result<Range<usize>, String> {
    match list(value, field)?.as_slice() {
        [start, end] => Ok(number(start)?..number(end)?),
        _ => Err(format!("{field}: expected spans of a start and an end, found {value}")),
    }
}
