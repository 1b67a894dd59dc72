//! A text of any length in windows that share tokens, and which of them says what of each token.

use std::ops::Range;

use tokenizers::TruncationDirection;

use super::{Encoding, Tokenizer};
use crate::error::{Error, Result};

/// All of a text's tokens as one sequence, whose windows a model read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// Every token of the text, between the special tokens of one sequence.
    pub encoding: Encoding,
    /// Which of the text's own tokens each window has, in the order of the text.
    ranges: Vec<Range<usize>>,
    /// Where those stand between the special tokens.
    own: Range<usize>,
}

impl Tokenizer {
    /// Encodes a text of any length, as windows of at most `max_length` tokens of which neighbours share `stride`, half
    /// a window at most. These are `transformers`' own (`truncation=True`, `return_overflowing_tokens`), in the order
    /// of the text. A pair of texts is one sequence, cut as [`Tokenizer::encode`] cuts it.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is no room for a token; as [`Tokenizer::encode`].
    pub fn text_windows(
        &self,
        text: &str,
        pair: Option<&str>,
        max_length: usize,
        stride: usize,
    ) -> Result<(Joined, Vec<Encoding>)> {
        if pair.is_some_and(|pair| !pair.is_empty()) {
            let encoding = self.encode(text, pair, max_length)?;
            return Ok((Joined::one(encoding.clone()), vec![encoding]));
        }
        let room = self.room(false, max_length)?;
        if room == 0 {
            return Err(Error::usage(format!(
                "a maximum length of {max_length} tokens has no room for any of a text's own"
            )));
        }
        let mut first = self.tokenize(text, None)?;
        let tokens = first.len();
        let encoding = self.finish(&self.assemble(first.clone(), None)?, false)?;
        if tokens <= room {
            return Ok((Joined::one(encoding.clone()), vec![encoding]));
        }
        let before = encoding.own_tokens().next().unwrap_or_default();
        let own = before..before + tokens;
        let stride = stride.min(room / 2);
        first.truncate(room, stride, self.direction());
        let further = first.take_overflowing();
        let parts = std::iter::once(first).chain(further);
        let mut windows: Vec<Encoding> =
            parts.map(|part| self.finish(&self.assemble(part, None)?, false)).collect::<Result<_>>()?;
        let step = room - stride;
        let mut ranges: Vec<Range<usize>> = match self.direction() {
            TruncationDirection::Right => (0..windows.len()).map(|w| w * step..tokens.min(w * step + room)).collect(),
            TruncationDirection::Left => {
                let of_end = |end: usize| end.saturating_sub(room)..end;
                (0..windows.len()).map(|w| of_end(tokens - w * step)).collect()
            }
        };
        if self.direction() == TruncationDirection::Left {
            windows.reverse();
            ranges.reverse();
        }
        Ok((Joined { encoding, ranges, own }, windows))
    }
}

impl Joined {
    /// One window, which is all.
    fn one(encoding: Encoding) -> Self {
        let own = 0..encoding.ids.len();
        Self { encoding, ranges: vec![own.clone()], own }
    }

    /// The window that shows most of what is around some of the tokens: the most of them, then the most on their nearer
    /// side that is cut, then the first. Of one token that is what Google's BERT reads of SQuAD's windows.
    pub fn window_of(&self, tokens: &[usize]) -> usize {
        let shown = |window: usize| {
            let seen = tokens.iter().filter_map(|&token| self.around(window, token.checked_sub(self.own.start)?));
            let around: Vec<usize> = seen.collect();
            (around.len(), around.into_iter().min())
        };
        (0..self.ranges.len()).fold(0, |best, window| if shown(window) > shown(best) { window } else { best })
    }

    /// The window that says most of a token, and the token's place there.
    pub fn place(&self, token: usize) -> (usize, usize) {
        let window = match token {
            _ if token < self.own.start => 0,
            _ if token >= self.own.end => self.ranges.len().saturating_sub(1),
            _ => self.window_of(&[token]),
        };
        (window, self.place_in(window, token).unwrap_or_default())
    }

    /// The place of a token in one window, where it is there; special tokens are in each.
    pub fn place_in(&self, window: usize, token: usize) -> Option<usize> {
        let (own, range) = (&self.own, self.ranges.get(window)?);
        if token < own.start {
            return Some(token);
        }
        if token >= own.end {
            return Some(own.start + range.len() + (token - own.end));
        }
        let token = token - own.start;
        range.contains(&token).then(|| own.start + token - range.start)
    }

    /// What windows say of their tokens, `[tokens, width]` each, as what is said of the whole.
    pub fn rows(&self, windows: &[&[f32]], width: usize) -> Vec<f32> {
        if let [one] = windows {
            return one.to_vec();
        }
        let row = |token: usize| {
            let (window, place) = self.place(token);
            &windows[window][place * width..(place + 1) * width]
        };
        (0..self.encoding.ids.len()).flat_map(row).copied().collect()
    }

    /// How much of the text a window has on the nearer cut side of one of its own tokens; none where it has not the
    /// token.
    fn around(&self, window: usize, token: usize) -> Option<usize> {
        let range = self.ranges.get(window).filter(|range| range.contains(&token))?;
        let before = if range.start == 0 { usize::MAX } else { token - range.start };
        let after = if range.end == self.own.len() { usize::MAX } else { range.end - 1 - token };
        Some(before.min(after))
    }
}
