//! Sentences between markers, with a question behind them: what a model that chooses among sentences reads.
//!
//! ```text
//! [CLS] [BSENT] sentence [ESENT] [BSENT] sentence [ESENT] … [SEP] question [SEP]
//! ```

use tokenizers::Encoding as Pieces;

use super::{Encoding, Tokenizer};
use crate::error::{Error, Result};

/// Some sentences of a context, as many as a sequence has room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkedWindow {
    /// The sequence.
    pub encoding: Encoding,
    /// Each sentence's number, and its markers' places in the sequence.
    pub sentences: Vec<(usize, [u32; 2])>,
}

impl Tokenizer {
    /// Whole sentences in as few sequences of at most `max_length` tokens as their order allows, the question in each.
    /// A question has at most half of the room; a sentence that is longer than what is left is cut.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is no room, [`Error::Mismatch`] where a marker is no token of this tokenizer; as
    /// [`Tokenizer::encode`].
    pub fn marked(
        &self,
        sentences: &[&str],
        question: &str,
        markers: &[String; 2],
        max_length: usize,
    ) -> Result<Vec<MarkedWindow>> {
        let room = self.room(true, max_length)?;
        let mut question = self.tokenize(question, None)?;
        let asked = question.len().min(room / 2);
        let mut cut = asked < question.len();
        shorten(&mut question, asked);
        let left = room - asked;
        if left < 3 {
            return Err(Error::usage(format!("a maximum length of {max_length} tokens has no room for a sentence"))
                .with_hint("take longer sequences: --max-length"));
        }
        let [begin, end] = [self.marker(&markers[0])?, self.marker(&markers[1])?];
        let mut windows: Vec<Vec<(usize, Pieces)>> = Vec::new();
        let mut free = 0;
        for (number, sentence) in sentences.iter().enumerate() {
            let mut pieces = self.tokenize(sentence, None)?;
            cut |= pieces.len() > left - 2;
            let length = pieces.len().min(left - 2);
            shorten(&mut pieces, length);
            if windows.is_empty() || pieces.len() + 2 > free {
                windows.push(Vec::new());
                free = left;
            }
            free -= pieces.len() + 2;
            windows.last_mut().expect("there is one").push((number, pieces));
        }
        windows.into_iter().map(|window| self.marked_window(window, [&begin, &end], &question, cut)).collect()
    }

    fn marked_window(
        &self,
        window: Vec<(usize, Pieces)>,
        [begin, end]: [&Pieces; 2],
        question: &Pieces,
        cut: bool,
    ) -> Result<MarkedWindow> {
        let lengths: Vec<(usize, usize)> = window.iter().map(|(number, pieces)| (*number, pieces.len())).collect();
        let parts = window.into_iter().flat_map(|(_, pieces)| [begin.clone(), pieces, end.clone()]);
        let encoding = self.finish(&self.assemble(Pieces::merge(parts, true), Some(question.clone()))?, cut)?;
        let own = (0..).zip(&encoding.segments).filter(|(_, segment)| **segment == Some(0));
        let own: Vec<u32> = own.map(|(token, _)| token).collect();
        let mut place = 0;
        let marked = |(number, length): (usize, usize)| {
            let first = place;
            place += length + 2;
            (number, [own[first], own[place - 1]])
        };
        let sentences = lengths.into_iter().map(marked).collect();
        Ok(MarkedWindow { encoding, sentences })
    }

    fn marker(&self, marker: &str) -> Result<Pieces> {
        let pieces = self.tokenize(marker, None)?;
        if pieces.len() == 1 && self.id(marker) == pieces.get_ids().first().copied() {
            return Ok(pieces);
        }
        let message = format!("the marker {marker} of sentences is {} tokens of the tokenizer", pieces.len());
        Err(Error::Mismatch(message, Some("use a selector that `train --task selector` made".to_owned())))
    }
}

/// The first tokens alone.
fn shorten(pieces: &mut Pieces, length: usize) {
    pieces.truncate(length, 0, tokenizers::TruncationDirection::Right);
    pieces.take_overflowing();
}
