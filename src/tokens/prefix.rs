//! Reading only the start of a very long text.
//!
//! A tokenizer that will keep 512 tokens need not normalise a megabyte. BERT's pipeline splits at white space and
//! around Chinese characters before it looks for pieces, so the words of a text up to such a place are the first words
//! of the whole text, whatever follows; if they already give as many tokens as are wanted, the rest decides nothing.
//! That argument is made for BERT's normaliser and pre-tokenizer only; any other pipeline reads the text whole.

use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, Tokenizer as Pipeline};

/// Characters first looked at for each token wanted. Chinese has one a token, English about five.
const CHARACTERS_PER_TOKEN: usize = 16;

/// Finds the place to cut, for a pipeline where cutting is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct PrefixRule {
    chinese: bool,
}

impl PrefixRule {
    /// The rule for this pipeline; `None` where no cut is provably harmless.
    pub(super) fn of(pipeline: &Pipeline) -> Option<Self> {
        let Some(NormalizerWrapper::BertNormalizer(normalizer)) = pipeline.get_normalizer() else { return None };
        let Some(PreTokenizerWrapper::BertPreTokenizer(_)) = pipeline.get_pre_tokenizer() else { return None };
        let plain = pipeline.get_added_vocabulary().get_added_tokens_decoder().values().all(cannot_span_a_cut);
        (plain && normalizer.clean_text).then_some(Self { chinese: normalizer.handle_chinese_chars })
    }

    /// The start of `text`, cut at a word's end, that should hold at least `tokens` tokens; `None` where the text is
    /// not much longer than that or has no such place.
    pub(super) fn prefix(self, text: &str, tokens: usize) -> Option<&str> {
        let characters = tokens.saturating_mul(CHARACTERS_PER_TOKEN);
        if text.len() / 4 <= characters {
            return None;
        }
        let (end, _) = text.char_indices().nth(characters)?;
        let cut = text[..end].char_indices().rev().find_map(|(at, c)| self.cut_at(at, c))?;
        Some(&text[..cut])
    }

    /// The byte to cut at, where there may be a cut at this character: before white space, after a Chinese character.
    /// Only ASCII white space: the normaliser drops some of Unicode's as control characters.
    fn cut_at(self, at: usize, c: char) -> Option<usize> {
        match c {
            ' ' | '\t' | '\n' | '\r' => Some(at),
            // A part of the blocks the normaliser isolates: the common ideographs and extension A.
            '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}' if self.chinese => Some(at + c.len_utf8()),
            _ => None,
        }
    }
}

/// Added tokens are found in the raw text, before words are: one that could hold a cutting place, or swallows the white
/// space beside it, would be cut in two.
fn cannot_span_a_cut(token: &AddedToken) -> bool {
    !token.lstrip && !token.rstrip && token.content.bytes().all(|byte| byte.is_ascii_graphic())
}
