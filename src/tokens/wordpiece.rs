//! The BERT tokenizer from its parts: a `vocab.txt` (one piece a line, the line's number its id) and the settings
//! beside it.
//!
//! This is what `transformers` builds for BERT, ERNIE, ELECTRA and DistilBERT checkpoints that carry no
//! `tokenizer.json`.

use std::path::Path;

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer as Pipeline};

use super::settings::{Role, Settings};
use crate::error::{Error, Result};

/// BERT's special tokens and their usual names, in the order `transformers` adds them.
const SPECIAL: [(Role, &str); 5] = [
    (Role::Unknown, "[UNK]"),
    (Role::Separator, "[SEP]"),
    (Role::Padding, "[PAD]"),
    (Role::Class, "[CLS]"),
    (Role::Mask, "[MASK]"),
];

/// WordPiece over the pieces of `path`, with BERT's normaliser, word splitting and special tokens.
///
/// # Errors
/// Where the file cannot be read, is not UTF-8, or lacks the unknown, class or separator token.
pub(super) fn from_vocabulary(path: &Path, settings: &Settings) -> Result<Pipeline> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let vocabulary =
        WordPiece::read_bytes(&bytes).map_err(|error| Error::format(path, format!("not a list of pieces: {error}")))?;
    let named = |(role, usual)| settings.token(role).unwrap_or(usual);
    let special = SPECIAL.map(named);
    let [unknown, sep, _, cls, _] = special;
    for piece in [unknown, cls, sep] {
        if !vocabulary.contains_key(piece) {
            let reason = format!("no line is the special token \"{piece}\" among {} pieces", vocabulary.len());
            return Err(Error::format(path, reason)
                .with_hint("name the special tokens in tokenizer_config.json or special_tokens_map.json"));
        }
    }
    let template = template((cls, vocabulary[cls]), (sep, vocabulary[sep]));
    let model = WordPiece::builder().vocab(vocabulary).unk_token(unknown.to_owned()).build();
    let mut pipeline = Pipeline::new(model.expect("a vocabulary in memory is not read from a file"));
    pipeline.with_normalizer(Some(normalizer(settings))).expect("no token has been added yet");
    pipeline.with_pre_tokenizer(Some(BertPreTokenizer));
    pipeline.with_post_processor(Some(template));
    pipeline
        .add_tokens(special.map(|content| AddedToken::from(content, true)))
        .map_err(|error| Error::format(path, format!("cannot add the special tokens: {error}")))?;
    Ok(pipeline)
}

/// BERT's text cleaning; lower case unless told otherwise, accents stripped where lower-casing unless told otherwise.
pub(super) fn normalizer(settings: &Settings) -> NormalizerWrapper {
    let config = &settings.config;
    let chinese = config.tokenize_chinese_chars.unwrap_or(true);
    BertNormalizer::new(true, chinese, config.strip_accents, config.do_lower_case.unwrap_or(true)).into()
}

/// `[CLS] text [SEP]`, and `[CLS] text [SEP] pair [SEP]` with the pair and its separator in segment 1.
fn template(cls: (&str, u32), sep: (&str, u32)) -> TemplateProcessing {
    let (c, s) = (cls.0, sep.0);
    let single = vec![format!("{c}:0"), "$A:0".to_owned(), format!("{s}:0")];
    let mut pair = single.clone();
    pair.extend(["$B:1".to_owned(), format!("{s}:1")]);
    TemplateProcessing::builder()
        .try_single(single)
        .and_then(|builder| builder.try_pair(pair))
        .map(|builder| builder.special_tokens(vec![cls, sep]).clone())
        .ok()
        .and_then(|builder| builder.build().ok())
        .expect("the template names its two special tokens and both sequences")
}
