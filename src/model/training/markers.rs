//! A tokenizer with tokens of its own added: markers, which texts do not have.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::save;
use crate::error::{Error, Result};

/// Files of the tokenizer in `directory`, in a folder of their own, with `markers` among the special tokens: where
/// `transformers` looks for them, and where `tokenizer.json` has them.
pub(super) fn added(directory: &Path, markers: &[String]) -> Result<TempDir> {
    let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    for name in save::TOKENIZER.iter().chain(&["config.json"]) {
        let from = directory.join(name);
        if from.is_file() {
            let bytes = fs::read(&from).map_err(Error::io(&from))?;
            let bytes = match *name {
                "tokenizer.json" => changed(&from, &bytes, |fields| add_to_vocabulary(fields, markers))?,
                "tokenizer_config.json" => changed(&from, &bytes, |fields| add_to_settings(fields, markers))?,
                _ => bytes,
            };
            let to = folder.path().join(name);
            fs::write(&to, bytes).map_err(Error::io(&to))?;
        }
    }
    let settings = folder.path().join("tokenizer_config.json");
    if !settings.exists() {
        let mut fields = Map::new();
        add_to_settings(&mut fields, markers);
        fs::write(&settings, format!("{:#}\n", Value::Object(fields))).map_err(Error::io(&settings))?;
    }
    Ok(folder)
}

fn changed(path: &Path, bytes: &[u8], change: impl Fn(&mut Map<String, Value>)) -> Result<Vec<u8>> {
    let mut fields: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|error| Error::format(path, format!("not a JSON object: {error}")))?;
    change(&mut fields);
    Ok(format!("{:#}\n", Value::Object(fields)).into_bytes())
}

/// Further special tokens: `additional_special_tokens` of `transformers` to version 4, `extra_special_tokens` since.
fn add_to_settings(fields: &mut Map<String, Value>, markers: &[String]) {
    let name = if fields.get("extra_special_tokens").is_some_and(Value::is_array) {
        "extra_special_tokens"
    } else {
        "additional_special_tokens"
    };
    let entry = fields.entry(name).or_insert_with(|| json!([]));
    if entry.is_null() {
        *entry = json!([]);
    }
    let Value::Array(tokens) = entry else { return };
    for marker in markers {
        if !tokens.iter().any(|token| token == marker || token.get("content").is_some_and(|content| content == marker))
        {
            tokens.push(json!(marker));
        }
    }
}

/// After the highest id there is.
fn add_to_vocabulary(fields: &mut Map<String, Value>, markers: &[String]) {
    let ids = |value: Option<&Value>| match value {
        Some(Value::Object(pieces)) => pieces.values().filter_map(Value::as_u64).max(),
        // Unigram: the place is the id.
        Some(Value::Array(pieces)) => pieces.len().checked_sub(1).map(|last| last as u64),
        _ => None,
    };
    let of_model = ids(fields.get("model").and_then(|model| model.get("vocab")));
    let entry = fields.entry("added_tokens").or_insert_with(|| json!([]));
    let Value::Array(tokens) = entry else { return };
    let of_added = tokens.iter().filter_map(|token| token.get("id").and_then(Value::as_u64)).max();
    let mut next = of_model.max(of_added).map_or(0, |last| last + 1);
    for marker in markers {
        if tokens.iter().any(|token| token.get("content").is_some_and(|content| content == marker)) {
            continue;
        }
        tokens.push(json!({
            "id": next, "content": marker, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true,
        }));
        next += 1;
    }
}
