//! Texts of which some tokens are replaced: what methods ask that leave out parts of a text.

use super::PackedBatch;

/// Many sequences of few texts. Each is a text in which one token stands in for some others, in their places: what
/// differs between two sequences of a text is a bit a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masked {
    /// The texts.
    pub texts: PackedBatch,
    /// Which text each sequence is of, `[B]`.
    pub of: Vec<u32>,
    /// Which tokens are replaced: [`Masked::words`] words for each sequence, its first token the lowest bit of the
    /// first.
    pub bits: Vec<u32>,
    /// The token that stands in.
    pub stand_in: u32,
}

impl Masked {
    /// Words of 32 bits that a text of `tokens` tokens takes.
    pub fn words(tokens: usize) -> usize {
        tokens.div_ceil(32)
    }

    /// The bits of some tokens of a text.
    ///
    /// # Panics
    /// Where the text has no such token.
    pub fn bits_of(tokens: usize, replaced: impl IntoIterator<Item = usize>) -> Vec<u32> {
        let mut bits = vec![0; Self::words(tokens)];
        replaced.into_iter().for_each(|token| bits[token / 32] |= 1 << (token % 32));
        bits
    }

    /// How long the sequences are: a batch of them that has no tokens.
    pub fn lengths(&self) -> PackedBatch {
        PackedBatch { cu_seqlens: self.starts(|length| length), ..PackedBatch::default() }
    }

    /// Where each sequence's words begin, and how many there are at the end: `[B + 1]`.
    pub fn word_starts(&self) -> Vec<u32> {
        self.starts(Self::words)
    }

    /// The sequences from `begin` to before `end`.
    #[must_use]
    pub fn part(&self, begin: usize, end: usize) -> Self {
        let starts = self.word_starts();
        Self {
            texts: self.texts.clone(),
            of: self.of[begin..end].to_vec(),
            bits: self.bits[starts[begin] as usize..starts[end] as usize].to_vec(),
            stand_in: self.stand_in,
        }
    }

    /// The sequences with tokens of their own.
    pub fn expanded(&self) -> PackedBatch {
        let mut batch = self.lengths();
        for (&text, start) in self.of.iter().zip(self.word_starts()) {
            let range = self.texts.range(text as usize);
            let replaced = |token: usize| self.bits[start as usize + token / 32] >> (token % 32) & 1 == 1;
            let ids = self.texts.ids[range.clone()].iter().enumerate();
            batch.ids.extend(ids.map(|(token, &id)| if replaced(token) { self.stand_in } else { id }));
            batch.type_ids.extend_from_slice(&self.texts.type_ids[range.clone()]);
            batch.positions.extend_from_slice(&self.texts.positions[range]);
        }
        batch
    }

    /// Sums of what `size` makes of each sequence's length, from 0 on.
    fn starts(&self, size: impl Fn(usize) -> usize) -> Vec<u32> {
        let sizes = self.of.iter().map(|&text| size(self.texts.range(text as usize).len()) as u32);
        let sums = sizes.scan(0, |sum, size| {
            *sum += size;
            Some(*sum)
        });
        std::iter::once(0).chain(sums).collect()
    }
}
