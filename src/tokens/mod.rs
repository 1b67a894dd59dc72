//! Texts to token ids with offsets, and token ids to packed batches.
//!
//! [`Tokenizer`] gives the ids the `transformers` library gives for the same directory, [`max_length`] how long a
//! sequence may be, and [`pack`] lays sequences end to end in batches of about as many tokens as the device likes.
//! Nothing here pads: padding and truncation lengths stored in a `tokenizer.json` are ignored. [`learn_vocabulary`]
//! makes word pieces of texts, for models from scratch; slow Python-only tokenizers and SentencePiece `.model` files
//! are out of scope: `transformers` converts the latter to `tokenizer.json` when it saves.

mod batch;
mod joined;
mod load;
mod marked;
mod masked;
mod prefix;
mod settings;
mod tokenizer;
mod vocabulary;
mod wordpiece;

pub use batch::{MicroBatch, Positions, pack};
pub use joined::Joined;
pub use marked::MarkedWindow;
pub use masked::Masked;
pub use settings::max_length;
pub use tokenizer::{Tokenizer, TokenizerOptions};
pub use vocabulary::{learn_vocabulary, write_vocabulary};

/// One text (or pair) as the model sees it. All vectors have one entry a token, special tokens included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Segment ids (all zero where the model has no segments).
    pub type_ids: Vec<u32>,
    /// The tokenizer's own pieces.
    pub tokens: Vec<String>,
    /// Start and end in Unicode characters of the segment's text; `None` for special tokens.
    pub offsets: Vec<Option<(usize, usize)>>,
    /// 0 for the text, 1 for its pair; `None` for special tokens.
    pub segments: Vec<Option<u8>>,
    /// Which word of its segment each token is of, as the tokenizer cuts words before pieces; `None` for special
    /// tokens.
    pub words: Vec<Option<u32>>,
    /// Whether tokens were cut to fit the maximum length.
    pub truncated: bool,
}

impl Encoding {
    /// The places of its tokens that are not special.
    pub fn own_tokens(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.segments.len()).filter(|&token| self.segments[token].is_some())
    }
}

/// Several sequences laid end to end with no padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedBatch {
    /// Token ids, `[T]`.
    pub ids: Vec<u32>,
    /// Segment ids, `[T]`.
    pub type_ids: Vec<u32>,
    /// Rows of the position table, `[T]` (families with an offset have it added here).
    pub positions: Vec<u32>,
    /// Where each sequence starts, and T at the end: `[B + 1]`.
    pub cu_seqlens: Vec<u32>,
}

impl PackedBatch {
    /// B.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    /// T, by the sequences' own ends: lengths alone are a batch too, where ids are elsewhere ([`Masked::lengths`]).
    pub fn tokens(&self) -> usize {
        self.cu_seqlens.last().map_or(0, |end| *end as usize)
    }

    /// The token range of sequence `b`.
    pub fn range(&self, b: usize) -> std::ops::Range<usize> {
        self.cu_seqlens[b] as usize..self.cu_seqlens[b + 1] as usize
    }

    /// Some of its sequences by themselves.
    pub(crate) fn part(&self, sequences: std::ops::Range<usize>) -> Self {
        let starts = &self.cu_seqlens[sequences.start..=sequences.end];
        let tokens = starts[0] as usize..starts[starts.len() - 1] as usize;
        Self {
            ids: self.ids[tokens.clone()].to_vec(),
            type_ids: self.type_ids[tokens.clone()].to_vec(),
            positions: self.positions[tokens].to_vec(),
            cu_seqlens: starts.iter().map(|start| start - starts[0]).collect(),
        }
    }
}
