//! From the files of a model directory to the tokenization pipeline they describe.

use std::path::{Path, PathBuf};

use tokenizers::{Model, ModelWrapper, NormalizerWrapper, Tokenizer as Pipeline};

use super::settings::Settings;
use super::wordpiece;
use crate::error::{Error, Result};
use crate::panics::caught;

/// The pipeline as its file has it, and that file.
pub(super) fn read_pipeline(dir: &Path, settings: &Settings) -> Result<(Pipeline, PathBuf)> {
    let (json, vocabulary) = (dir.join("tokenizer.json"), dir.join("vocab.txt"));
    if json.is_file() {
        return Ok((read_tokenizer_json(&json, settings)?, json));
    }
    if vocabulary.is_file() {
        return Ok((wordpiece::from_vocabulary(&vocabulary, settings)?, vocabulary));
    }
    Err(Error::format(dir, "no tokenizer: expected tokenizer.json, or vocab.txt with tokenizer_config.json").with_hint(
        "save the tokenizer beside the model: AutoTokenizer.from_pretrained(SOURCE).save_pretrained(DIR) writes tokenizer.json",
    ))
}

fn read_tokenizer_json(path: &Path, settings: &Settings) -> Result<Pipeline> {
    let not_one = |error: &dyn std::fmt::Display| Error::format(path, format!("not a tokenizer: {error}"));
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| not_one(&error))?;
    // By `FromStr`, which was compiled with the tokenizers: reading by serde would compile all of their formats again,
    // here.
    let parse = || {
        let pipeline: Pipeline = text.parse()?;
        // What a template lacks is met where it is used first. Texts that cannot be encoded are refused in their own
        // time.
        let _ = pipeline.encode("a", true);
        let _ = pipeline.encode(("a", "b"), true);
        Ok::<_, tokenizers::Error>(pipeline)
    };
    let parsed = caught(parse).map_err(|_| {
        not_one(&"a part of it lacks what it refers to")
            .with_hint("look at its post_processor and normalizer: every special token must be defined, and `single` has no second sequence")
    })?;
    let mut pipeline = parsed.map_err(|error| not_one(&error))?;
    let is_bert = matches!(pipeline.get_normalizer(), Some(NormalizerWrapper::BertNormalizer(_)));
    if is_bert && settings.is_bert_class() {
        let normalizer = wordpiece::normalizer(settings);
        pipeline
            .with_normalizer(Some(normalizer))
            .map_err(|error| Error::format(path, format!("cannot normalise its added tokens: {error}")))?;
    }
    Ok(pipeline)
}

/// A merge model may have been saved with dropout, which is for training: here the same text gives the same ids.
pub(super) fn no_dropout(pipeline: &mut Pipeline) {
    if let ModelWrapper::BPE(merges) = pipeline.get_model()
        && merges.dropout.is_some()
    {
        let mut merges = merges.clone();
        merges.dropout = None;
        pipeline.with_model(merges);
    }
}

/// Special tokens that the settings name are found in texts even where the vocabulary's own file doesn't list them.
pub(super) fn add_missing_tokens(pipeline: &mut Pipeline, settings: &Settings, source: &Path) -> Result<()> {
    let known = pipeline.get_added_vocabulary().get_vocab();
    let missing: Vec<_> = settings.added.iter().filter(|token| !known.contains_key(&token.content)).cloned().collect();
    pipeline
        .add_tokens(missing)
        .map(|_| ())
        .map_err(|error| Error::format(source, format!("cannot add the special tokens: {error}")))
}

/// Added tokens beyond the table are let be until a text uses one: many published tokenizers have a few.
pub(super) fn check_vocabulary(pipeline: &Pipeline, rows: usize, source: &Path) -> Result<()> {
    let vocabulary = pipeline.get_model().get_vocab();
    if let ModelWrapper::WordPiece(pieces) = pipeline.get_model()
        && !vocabulary.contains_key(&pieces.unk_token)
    {
        let reason = format!("the unknown token \"{}\" is not in the vocabulary", pieces.unk_token);
        return Err(Error::format(source, reason));
    }
    match vocabulary.iter().max_by_key(|(_, id)| **id) {
        None => Err(Error::format(source, "the vocabulary is empty")),
        Some((piece, &id)) if id as usize >= rows => Err(too_many_ids(piece, id, rows, source)),
        Some(_) => Ok(()),
    }
}

pub(super) fn too_many_ids(piece: &str, id: u32, rows: usize, source: &Path) -> Error {
    let source = source.display();
    let message = format!("{source}: token \"{piece}\" has id {id}, but the model's word embeddings have {rows} rows");
    Error::Mismatch(message, Some("use the tokenizer the model was trained with".to_owned()))
}

/// Over the pipeline in its canonical form, without what ids don't depend on.
pub(super) fn fingerprint(pipeline: &Pipeline, left: bool, segments: bool, source: &Path) -> Result<String> {
    let canonical = pipeline
        .to_string(false)
        .map_err(|error| Error::format(source, format!("cannot be written in its canonical form: {error}")))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[u8::from(left), u8::from(segments)]);
    hasher.update(canonical.as_bytes());
    Ok(hasher.finalize().to_hex().to_string())
}
