//! A text with parts of it marked: an answer in its context, entities with their kinds, masks with what fills them,
//! sentences left out.

use serde::Serialize;

/// The template's class of what was left out.
const UNSEEN: &str = "unseen";

/// A text and its marks.
#[derive(Debug, Serialize)]
pub(super) struct Marked {
    marks: Vec<Mark>,
    /// What follows the last mark.
    rest: String,
    /// What stands above it; empty where that goes without saying.
    title: String,
}

/// A marked part and what stands before it.
#[derive(Debug, Serialize)]
struct Mark {
    before: String,
    text: String,
    /// What it is; empty where that goes without saying.
    name: String,
    /// The template's class: `t` for what was found, `unseen` for what was left out.
    class: &'static str,
}

impl Marked {
    /// `spans`: start and end in Unicode characters, and a name. One that begins inside another is left out.
    pub(super) fn new(text: &str, spans: Vec<(usize, usize, String)>) -> Self {
        Self::with_gaps(text, spans, &[])
    }

    /// The same, with parts that were left out.
    pub(super) fn with_gaps(text: &str, spans: Vec<(usize, usize, String)>, gaps: &[(usize, usize)]) -> Self {
        let gaps = gaps.iter().map(|&(start, end)| (start, end, String::new(), UNSEEN));
        let spans = spans.into_iter().map(|(start, end, name)| (start, end, name, "t"));
        let mut spans: Vec<_> = spans.chain(gaps).collect();
        spans.sort();
        let starts: Vec<usize> = text.char_indices().map(|(byte, _)| byte).collect();
        let byte = |character: usize| starts.get(character).copied().unwrap_or(text.len());
        let (mut marks, mut end) = (Vec::new(), 0);
        for (start, stop, name, class) in spans.into_iter().filter(|(start, stop, ..)| start < stop) {
            if start >= end {
                let piece = |from, to| text[byte(from)..byte(to)].to_owned();
                marks.push(Mark { before: piece(end, start), text: piece(start, stop), name, class });
                end = stop;
            }
        }
        Self { marks, rest: text[byte(end)..].to_owned(), title: String::new() }
    }

    /// The same under a title.
    pub(super) fn titled(self, title: String) -> Self {
        Self { title, ..self }
    }

    /// Whether some of it was left out.
    pub(super) fn has_gaps(&self) -> bool {
        self.marks.iter().any(|mark| mark.class == UNSEEN)
    }
}
