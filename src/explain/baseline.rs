//! What stands in for the absence of a token.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Subject;
use crate::backend::Path;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::tokens::Encoding;

/// Where paths through embedding space start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Baseline {
    /// Zero vectors, special tokens' too.
    Zero,
    /// The padding token in every place that is not a special token's.
    #[default]
    Pad,
    /// The mask token, likewise.
    Mask,
    /// The tokens of texts, one of them drawn for each sample: in each place that is not a special token's the text's
    /// next token that is not one, padding where it has no more.
    Texts(Arc<[Vec<u32>]>),
}

/// What a token that is left out is replaced by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replacement {
    /// The mask token.
    #[default]
    Mask,
    /// The padding token.
    Pad,
    /// The unknown token.
    Unknown,
    /// Nothing: those after it move up.
    Delete,
}

impl Baseline {
    /// The baseline of one text.
    pub fn text(encoding: &Encoding) -> Self {
        Self::Texts(Arc::new([own_ids(encoding)]))
    }

    /// Baselines to draw from.
    pub fn texts<'a>(encodings: impl IntoIterator<Item = &'a Encoding>) -> Self {
        Self::Texts(encodings.into_iter().map(own_ids).collect())
    }

    /// How many different ones there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Zero | Self::Pad | Self::Mask => 1,
        }
    }

    /// Its token ids in a subject's places.
    pub(super) fn ids(&self, number: usize, model: &Model, subject: &Subject<'_>) -> Result<Arc<[u32]>> {
        let tokenizer = model.tokenizer();
        let places = subject.encoding.segments.iter().zip(&subject.encoding.ids);
        let filled = |id: u32| places.clone().map(|(own, &special)| if own.is_some() { id } else { special }).collect();
        match self {
            Self::Zero => Ok(vec![Path::ZERO; subject.len()].into()),
            Self::Pad => Ok(filled(needed(tokenizer.pad_id(), "padding")?)),
            Self::Mask => Ok(filled(needed(tokenizer.mask_id(), "mask")?)),
            Self::Texts(texts) => {
                let pad = needed(tokenizer.pad_id(), "padding")?;
                let mut ids = texts.get(number).map_or(&[][..], Vec::as_slice).iter();
                let mut next = || ids.next().copied().unwrap_or(pad);
                Ok(places.map(|(own, &special)| if own.is_some() { next() } else { special }).collect())
            }
        }
    }
}

/// The ids of a text's own tokens.
fn own_ids(encoding: &Encoding) -> Vec<u32> {
    let places = encoding.ids.iter().zip(&encoding.segments);
    places.filter(|(_, segment)| segment.is_some()).map(|(&id, _)| id).collect()
}

impl Replacement {
    /// The token that stands in; `None` where nothing does.
    pub(super) fn id(self, model: &Model) -> Result<Option<u32>> {
        let tokenizer = model.tokenizer();
        match self {
            Self::Mask => needed(tokenizer.mask_id(), "mask").map(Some),
            Self::Pad => needed(tokenizer.pad_id(), "padding").map(Some),
            Self::Unknown => needed(tokenizer.unk_id(), "unknown").map(Some),
            Self::Delete => Ok(None),
        }
    }
}

fn needed(id: Option<u32>, role: &str) -> Result<u32> {
    id.ok_or_else(|| {
        Error::usage(format!("this model's tokenizer has no {role} token"))
            .with_hint("choose another stand-in with --baseline or --occlude")
    })
}

impl FromStr for Replacement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "mask" => Ok(Self::Mask),
            "pad" => Ok(Self::Pad),
            "unk" => Ok(Self::Unknown),
            "delete" => Ok(Self::Delete),
            _ => Err(format!("expected mask, pad, unk or delete, found {text:?}")),
        }
    }
}

impl fmt::Display for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mask => "mask",
            Self::Pad => "pad",
            Self::Unknown => "unk",
            Self::Delete => "delete",
        })
    }
}
