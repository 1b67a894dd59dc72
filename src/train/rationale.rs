//! The words of a record that people marked, as tokens: what its attention is drawn to in training.

use serde_json::Value;

use crate::tokens::Encoding;

/// Which tokens of a text are marked by a column's value: `[[start, end], …]`, characters of the text with the end left
/// out, or a list of 0 and 1, one a word between white space, or one a character. Empty where none is.
///
/// # Errors
/// What is wrong with the value.
pub(super) fn marked(value: &str, text: &str, encoding: &Encoding) -> Result<Vec<bool>, String> {
    let spans = spans(value, text)?;
    let is_marked = |token: usize| {
        let place = encoding.offsets[token].filter(|_| encoding.segments[token] == Some(0));
        place.is_some_and(|(from, to)| spans.iter().any(|&(start, end)| from < end && to > start))
    };
    let tokens: Vec<bool> = (0..encoding.ids.len()).map(is_marked).collect();
    Ok(if tokens.contains(&true) { tokens } else { Vec::new() })
}

fn spans(value: &str, text: &str) -> Result<Vec<(usize, usize)>, String> {
    if value.trim().is_empty() {
        return Ok(Vec::new());
    }
    let wrong = || format!("rationale: expected [[start, end], …] or a list of 0 and 1, found {value}");
    // Lists are written with spaces alone now and then.
    let spaced =
        || Value::Array(value.split_whitespace().map(|part| part.parse().map_or(Value::Null, Value::Number)).collect());
    let parsed = serde_json::from_str(value).ok().filter(Value::is_array).unwrap_or_else(spaced);
    let Value::Array(items) = parsed else { return Err(wrong()) };
    if items.iter().all(Value::is_array) {
        let length = text.chars().count();
        let span = |item: &Value| {
            let ends: Option<Vec<usize>> =
                item.as_array()?.iter().map(|end| end.as_u64().map(|end| end as usize)).collect();
            match ends?[..] {
                [start, end] if start < end && end <= length => Some((start, end)),
                _ => None,
            }
        };
        let outside = || format!("rationale: expected spans within the text's {length} characters, found {value}");
        return items.iter().map(|item| span(item).ok_or_else(outside)).collect();
    }
    let flag = |item: &Value| match item.as_f64() {
        Some(flag) if flag.abs() < f64::EPSILON || (flag - 1.0).abs() < f64::EPSILON => Ok(flag > 0.5),
        _ => Err(wrong()),
    };
    let flags = items.iter().map(flag).collect::<Result<Vec<bool>, String>>()?;
    let (words, characters) = (words(text), text.chars().count());
    let places: Vec<(usize, usize)> = match flags.len() {
        n if n == words.len() => words,
        n if n == characters => (0..n).map(|place| (place, place + 1)).collect(),
        n => {
            let words = words.len();
            return Err(format!(
                "rationale: expected {words} numbers, one a word, or {characters}, one a character, found {n}"
            ));
        }
    };
    Ok(places.into_iter().zip(flags).filter(|(_, marked)| *marked).map(|(place, _)| place).collect())
}

/// What stands between white space, in characters.
fn words(text: &str) -> Vec<(usize, usize)> {
    let mut words: Vec<(usize, usize)> = Vec::new();
    for (place, _) in text.chars().enumerate().filter(|(_, c)| !c.is_whitespace()) {
        match words.last_mut() {
            Some(last) if last.1 == place => last.1 += 1,
            _ => words.push((place, place + 1)),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_says_which_characters() {
        let text = "a good  film";
        assert_eq!(spans("[[2, 6]]", text), Ok(vec![(2, 6)]));
        assert_eq!(spans("[0, 1, 0]", text), Ok(vec![(2, 6)]));
        assert_eq!(spans("0 1 1", text), Ok(vec![(2, 6), (8, 12)]));
        assert_eq!(spans("[1, 0]", "好书"), Ok(vec![(0, 1)]));
        assert_eq!(spans("", text), Ok(vec![]));
        for wrong in ["[0, 1]", "[[2, 60]]", "[[6, 2]]", "[[1]]", "[2, 0, 0]", "good", "{}", "[[2, 6], 1, 0]"] {
            assert!(spans(wrong, text).unwrap_err().starts_with("rationale: "), "{wrong}");
        }
    }
}
