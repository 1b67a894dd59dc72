//! Sentence-embedding models: `modules.json` and the pooling it names, as `sentence-transformers` writes them.
//!
//! Only what ends in one vector a text is read: one pooling of the four in [`Pooling`], and normalisation. A further
//! projection (`Dense`), weighted or concatenated poolings, and prompts put before every text, are refused by name.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::backend::Pooling;
use crate::error::{Error, Result};
use crate::tokens::Tokenizer;

/// How a headless model's hidden states become its features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentenceModel {
    /// Over the last layer's hidden states, special tokens included.
    pub pooling: Pooling,
    /// Whether the pooled vector is divided by its Euclidean norm.
    pub normalize: bool,
}

impl SentenceModel {
    /// What an encoder without any such file gives: its first token's hidden state, as `features[:, 0]` is the custom
    /// for plain encoders.
    pub const FIRST_TOKEN: Self = Self { pooling: Pooling::First, normalize: false };

    /// Reads `modules.json` of `dir` and what it names. Without it, a `1_Pooling/config.json` is taken alone; without
    /// either, [`Self::FIRST_TOKEN`].
    ///
    /// # Errors
    /// [`Error::Format`] where a module or a pooling is unknown or not supported.
    pub fn load(dir: &Path) -> Result<Self> {
        let modules = dir.join("modules.json");
        if modules.is_file() {
            return Self::from_modules(dir, &modules);
        }
        let pooling = dir.join("1_Pooling/config.json");
        if pooling.is_file() {
            Ok(Self { pooling: read_pooling(&pooling)?, normalize: false })
        } else {
            Ok(Self::FIRST_TOKEN)
        }
    }

    fn from_modules(dir: &Path, path: &Path) -> Result<Self> {
        let json = read_json(path)?;
        let list = json.as_array().ok_or_else(|| Error::format(path, "expected a list of modules"))?;
        check_prompt(dir)?;
        // A transformer with no pooling module behind it pools by the mean, the library's own default.
        let mut model = Self { pooling: Pooling::Mean, normalize: false };
        for module in list {
            match module_kind(path, module)? {
                "Transformer" => {}
                "Pooling" => model.pooling = read_pooling(&module_folder(dir, path, module)?.join("config.json"))?,
                "Normalize" => model.normalize = true,
                other => {
                    return Err(Error::format(path, format!("module \"{other}\" is not supported"))
                        .with_hint("supported are Transformer, Pooling and Normalize"));
                }
            }
        }
        Ok(model)
    }
}

/// Refuses a prompt that would be put before every text.
fn check_prompt(dir: &Path) -> Result<()> {
    let path = dir.join("config_sentence_transformers.json");
    if !path.is_file() {
        return Ok(());
    }
    match read_json(&path)?.get("default_prompt_name") {
        None | Some(Value::Null) => Ok(()),
        Some(name) => Err(Error::format(path, format!("default_prompt_name: {name} is put before no text here"))
            .with_hint("put the prompt into the data, and take default_prompt_name out of the file")),
    }
}

/// Refuses a sentence model whose texts are to be lower-cased before its tokenizer has them, where that would change a
/// token.
///
/// # Errors
/// [`Error::Format`] there; where the file is damaged.
pub(super) fn check_case(dir: &Path, tokenizer: &Tokenizer) -> Result<()> {
    let path = dir.join("sentence_bert_config.json");
    if !dir.join("modules.json").is_file()
        || !path.is_file()
        || read_json(&path)?.get("do_lower_case") != Some(&true.into())
    {
        return Ok(());
    }
    let ids = |text| tokenizer.encode(text, None, 8).map(|encoding| encoding.ids);
    if ids("A")? == ids("a")? {
        return Ok(());
    }
    Err(Error::format(path, "do_lower_case: texts are not lower-cased here, and the tokenizer tells case")
        .with_hint("lower-case the data, and take do_lower_case out of the file"))
}

/// The last part of the module's class path, whatever package version wrote it.
fn module_kind<'a>(path: &Path, module: &'a Value) -> Result<&'a str> {
    let kind = module.get("type").and_then(Value::as_str).and_then(|kind| kind.rsplit('.').next());
    kind.ok_or_else(|| Error::format(path, "a module has no \"type\""))
}

/// The module's folder, which must lie in the model's.
fn module_folder(dir: &Path, path: &Path, module: &Value) -> Result<PathBuf> {
    let folder = module.get("path").and_then(Value::as_str).unwrap_or_default();
    let plain = !folder.contains(['/', '\\']) && folder != "..";
    if plain {
        Ok(dir.join(folder))
    } else {
        Err(Error::format(path, format!("\"path\": expected a folder's name, found \"{folder}\"")))
    }
}

fn read_pooling(path: &Path) -> Result<Pooling> {
    let json = read_json(path)?;
    let modes = match json.get("pooling_mode") {
        Some(Value::String(mode)) => vec![mode.clone()],
        Some(Value::Array(modes)) => modes.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => flagged_modes(&json),
    };
    let [mode] = modes.as_slice() else {
        return Err(Error::format(
            path,
            format!("expected one pooling mode, found {}: {}", modes.len(), modes.join(", ")),
        ));
    };
    match mode.as_str() {
        "cls" | "cls_token" => Ok(Pooling::First),
        "mean" | "mean_tokens" => Ok(Pooling::Mean),
        "max" | "max_tokens" => Ok(Pooling::Max),
        "mean_sqrt_len" | "mean_sqrt_len_tokens" => Ok(Pooling::MeanSqrtLength),
        other => Err(Error::format(path, format!("pooling \"{other}\" is not supported"))
            .with_hint("supported are cls, mean, max and mean_sqrt_len")),
    }
}

/// The older form: `"pooling_mode_mean_tokens": true`, one flag a mode.
fn flagged_modes(json: &Value) -> Vec<String> {
    let fields = json.as_object().into_iter().flatten();
    fields
        .filter(|(_, flag)| flag.as_bool() == Some(true))
        .filter_map(|(name, _)| name.strip_prefix("pooling_mode_").map(str::to_owned))
        .collect()
}

fn read_json(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::format(path, format!("not valid JSON: {error}")))
}
