//! A vocabulary made from texts: word pieces, as BERT has them, learnt by merging the pairs that come most often
//! (Sennrich et al. 2016; as Hugging Face's `WordPieceTrainer`).

use std::collections::BTreeSet;
use std::path::Path;

use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    AddedToken, Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    Trainer,
};

use crate::destination::Destination;
use crate::error::{Error, Result};

/// BERT's special tokens, in the order of their ids.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// Pieces, at most: room for as many is made beforehand.
const MOST: usize = 1_000_000;
/// Pieces that come less often are not made.
const LEAST: u64 = 2;
/// The share of a vocabulary's room that single characters may take: the rarest of them are `[UNK]`.
const CHARACTERS: f64 = 0.8;

/// Learns at most `size` pieces from texts, in the order of their ids. Texts are lower-cased, ideographs stand alone.
///
/// # Errors
/// [`Error::Usage`] where there is no room for any piece, or there are no texts.
pub fn learn_vocabulary<'a>(texts: impl IntoIterator<Item = &'a str>, size: usize) -> Result<Vec<String>> {
    if size <= SPECIAL.len() || size > MOST {
        let least = SPECIAL.len() + 1;
        return Err(Error::usage(format!("--vocabulary: expected {least} to {MOST}, found {size}")));
    }
    let failed = |error: tokenizers::Error| Error::usage(format!("the vocabulary could not be learnt: {error}"));
    let texts: Vec<&str> = texts.into_iter().collect();
    // The trainer numbers what goes on in a word in no fixed order, and merges depend on the numbers: here they are
    // fixed beforehand.
    let mut within = BTreeSet::new();
    for text in &texts {
        for word in words(text).map_err(failed)? {
            within.extend(word.chars().skip(1).map(|c| format!("##{c}")));
        }
    }
    let fixed = SPECIAL.into_iter().map(str::to_owned).chain(within).map(|token| AddedToken::from(token, true));
    let fixed: Vec<AddedToken> = fixed.collect();
    let room = size.saturating_sub(fixed.len());
    let mut trainer = WordPieceTrainer::builder()
        .vocab_size(size)
        .min_frequency(LEAST)
        .limit_alphabet((CHARACTERS * room as f64) as usize)
        .show_progress(false)
        .special_tokens(fixed)
        .build();
    trainer.feed(texts.iter(), words).map_err(failed)?;
    let mut model = WordPiece::default();
    trainer.train(&mut model).map_err(failed)?;
    let mut pieces: Vec<(u32, String)> = model.get_vocab().into_iter().map(|(piece, id)| (id, piece)).collect();
    if pieces.len() <= SPECIAL.len() {
        return Err(Error::usage("there are no words to make a vocabulary of"));
    }
    pieces.sort_unstable();
    Ok(pieces.into_iter().map(|(_, piece)| piece).collect())
}

/// As BERT's tokenizer cuts them.
fn words(text: &str) -> tokenizers::Result<Vec<String>> {
    let mut text = NormalizedString::from(text);
    BertNormalizer::default().normalize(&mut text)?;
    let mut text = PreTokenizedString::from(text);
    BertPreTokenizer.pre_tokenize(&mut text)?;
    let splits = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Ok(splits.into_iter().map(|(word, _, _)| word.to_owned()).collect())
}

/// Writes `vocab.txt` and the settings that belong to it: what [`super::Tokenizer::load`] and `transformers` load.
///
/// # Errors
/// What the file system says.
pub fn write_vocabulary(directory: &Path, pieces: &[String], max_length: usize) -> Result<()> {
    let mut file = Destination::create(Some(&directory.join("vocab.txt")))?;
    file.write(format!("{}\n", pieces.join("\n")).as_bytes())?;
    file.finish()?;
    let settings = serde_json::json!({
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": true,
        "tokenize_chinese_chars": true,
        "model_max_length": max_length,
        "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
    });
    let mut file = Destination::create(Some(&directory.join("tokenizer_config.json")))?;
    file.write(format!("{settings:#}\n").as_bytes())?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_those_that_come_often() {
        let texts = ["The house, the houses", "a HOUSE of 好书", "the 好 book"];
        let pieces = learn_vocabulary(texts, 60).unwrap();
        assert_eq!(pieces[..5], SPECIAL);
        assert!(["house", "the", "好"].iter().all(|piece| pieces.contains(&(*piece).to_owned())), "{pieces:?}");
        assert_eq!(learn_vocabulary(texts, 60).unwrap(), pieces);
        assert!(learn_vocabulary(texts, 20).unwrap().len() <= 20);
        assert!(learn_vocabulary(["   "], 60).is_err() && learn_vocabulary(texts, 5).is_err());
    }
}
