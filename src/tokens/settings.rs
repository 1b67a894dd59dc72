//! What the small JSON files beside a vocabulary say: `tokenizer_config.json`, `special_tokens_map.json`,
//! `added_tokens.json`, `sentence_bert_config.json`, and the `model_type` of `config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::AddedToken;

use crate::error::{Error, Result};

/// Lengths from here on mean "no limit": `transformers` writes 10³⁰ where it knows none.
const NO_LIMIT: f64 = 1e9;

/// `tokenizer_config.json`, the part that decides ids.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenizerConfig {
    pub(super) tokenizer_class: Option<String>,
    pub(super) do_lower_case: Option<bool>,
    pub(super) strip_accents: Option<bool>,
    pub(super) tokenize_chinese_chars: Option<bool>,
    pub(super) truncation_side: Option<String>,
    pub(super) model_input_names: Option<Vec<String>>,
    model_max_length: Option<f64>,
    added_tokens_decoder: BTreeMap<String, TokenEntry>,
    #[serde(flatten)]
    special: SpecialTokens,
}

/// The special tokens by role, as `tokenizer_config.json` and `special_tokens_map.json` both name them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecialTokens {
    bos_token: Option<TokenEntry>,
    eos_token: Option<TokenEntry>,
    unk_token: Option<TokenEntry>,
    sep_token: Option<TokenEntry>,
    pad_token: Option<TokenEntry>,
    cls_token: Option<TokenEntry>,
    mask_token: Option<TokenEntry>,
    #[serde(rename = "additional_special_tokens")]
    additional: Option<Value>,
    #[serde(rename = "extra_special_tokens")]
    extra: Option<Value>,
}

/// What a special token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Bos,
    Eos,
    Unknown,
    Separator,
    Padding,
    Class,
    Mask,
}

/// A token by its text alone, or with the rules for finding it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum TokenEntry {
    Text(String),
    Full {
        content: String,
        #[serde(default)]
        single_word: bool,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        #[serde(default)]
        normalized: Option<bool>,
        #[serde(default)]
        special: bool,
    },
}

impl TokenEntry {
    /// As the tokenizer takes it; a token with a role is special whatever its entry says.
    fn token(&self, has_role: bool) -> AddedToken {
        match self {
            Self::Text(content) => AddedToken::from(content.as_str(), true),
            Self::Full { content, single_word, lstrip, rstrip, normalized, special } => {
                let special = *special || has_role;
                AddedToken::from(content.as_str(), special)
                    .single_word(*single_word)
                    .lstrip(*lstrip)
                    .rstrip(*rstrip)
                    .normalized(normalized.unwrap_or(!special))
            }
        }
    }
}

impl SpecialTokens {
    fn roles(&self) -> [(Role, Option<&TokenEntry>); 7] {
        [
            (Role::Bos, self.bos_token.as_ref()),
            (Role::Eos, self.eos_token.as_ref()),
            (Role::Unknown, self.unk_token.as_ref()),
            (Role::Separator, self.sep_token.as_ref()),
            (Role::Padding, self.pad_token.as_ref()),
            (Role::Class, self.cls_token.as_ref()),
            (Role::Mask, self.mask_token.as_ref()),
        ]
    }

    /// Special tokens with no role. Some versions write a dictionary here, for models this crate does not run.
    fn others(&self) -> Vec<TokenEntry> {
        [&self.additional, &self.extra]
            .into_iter()
            .flatten()
            .filter_map(Value::as_array)
            .flatten()
            .filter_map(|entry| TokenEntry::deserialize(entry).ok())
            .collect()
    }
}

/// Everything the files beside the vocabulary say about tokenizing.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) config: TokenizerConfig,
    /// Tokens to add to the vocabulary where it lacks them, in the order of the ids they are to get.
    pub(super) added: Vec<AddedToken>,
    /// The special tokens by role.
    pub(super) roles: Vec<(Role, String)>,
    model_type: Option<String>,
}

impl Settings {
    /// Reads what is there; every one of these files is optional.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let config: TokenizerConfig = read_json(dir, "tokenizer_config.json")?.unwrap_or_default();
        let map: SpecialTokens = read_json(dir, "special_tokens_map.json")?.unwrap_or_default();
        let legacy: BTreeMap<String, u32> = read_json(dir, "added_tokens.json")?.unwrap_or_default();
        let model: ModelType = read_json(dir, "config.json")?.unwrap_or_default();
        let named = named_tokens(&config.special, &map);
        let roles = named.iter().map(|(role, entry)| (*role, entry.token(true).content)).collect();
        let mut added = declared_tokens(&config, legacy);
        added.extend(named.iter().map(|(_, entry)| entry.token(true)));
        added.extend(config.special.others().iter().chain(&map.others()).map(|entry| entry.token(true)));
        Ok(Self { config, added, roles, model_type: model.model_type })
    }

    /// The text of the token with this role.
    pub(super) fn token(&self, role: Role) -> Option<&str> {
        self.roles.iter().find(|(r, _)| *r == role).map(|(_, text)| text.as_str())
    }

    /// Whether `transformers` would build its BERT tokenizer, which takes its normaliser from `tokenizer_config.json`
    /// (lower case unless told otherwise) even where `tokenizer.json` has another.
    pub(super) fn is_bert_class(&self) -> bool {
        match &self.config.tokenizer_class {
            Some(class) => {
                matches!(class.trim_end_matches("Fast"), "BertTokenizer" | "DistilBertTokenizer" | "ElectraTokenizer")
            }
            None => matches!(self.model_type.as_deref(), Some("bert" | "ernie" | "electra" | "distilbert")),
        }
    }

    /// Whether the tokenizer hands segment ids to the model at all. What the file says goes; otherwise only the generic
    /// class of `transformers` 5 does not.
    pub(super) fn gives_segments(&self) -> bool {
        match &self.config.model_input_names {
            Some(names) => names.iter().any(|name| name == "token_type_ids"),
            None => self.config.tokenizer_class.as_deref() != Some("TokenizersBackend"),
        }
    }
}

#[derive(Default, Deserialize)]
struct ModelType {
    #[serde(default)]
    model_type: Option<String>,
}

/// Each role's token; `tokenizer_config.json` goes before `special_tokens_map.json`.
fn named_tokens(config: &SpecialTokens, map: &SpecialTokens) -> Vec<(Role, TokenEntry)> {
    let pairs = config.roles().into_iter().zip(map.roles());
    pairs.filter_map(|((role, first), (_, second))| Some((role, first.or(second)?.clone()))).collect()
}

/// Tokens declared with an id, by that id: `added_tokens_decoder`, or the older `added_tokens.json`.
fn declared_tokens(config: &TokenizerConfig, legacy: BTreeMap<String, u32>) -> Vec<AddedToken> {
    let mut declared: BTreeMap<u32, AddedToken> =
        legacy.into_iter().map(|(content, id)| (id, AddedToken::from(content, false))).collect();
    let decoder = config.added_tokens_decoder.iter();
    declared.extend(decoder.filter_map(|(id, entry)| Some((id.parse().ok()?, entry.token(false)))));
    declared.into_values().collect()
}

/// A JSON file of the directory; `None` where it is not there.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::Format`] where it is not the JSON expected.
pub(super) fn read_json<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Option<T>> {
    let path = dir.join(name);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(&path)(error)),
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|error| Error::format(&path, format!("not the JSON expected: {error}")))
}

/// How many tokens a sequence of the model in `dir` may have: the smallest of `model_max_length`
/// (`tokenizer_config.json`), `max_seq_length` (`sentence_bert_config.json`) and `positions`, the rows of the position
/// table that sequences can use.
///
/// # Errors
/// Where one of the two files is there and damaged, or names a length below 1.
pub fn max_length(dir: &Path, positions: usize) -> Result<usize> {
    #[derive(Default, Deserialize)]
    struct SentenceBert {
        #[serde(default)]
        max_seq_length: Option<f64>,
    }
    let tokenizer: TokenizerConfig = read_json(dir, "tokenizer_config.json")?.unwrap_or_default();
    let sentence: SentenceBert = read_json(dir, "sentence_bert_config.json")?.unwrap_or_default();
    let declared = [
        ("tokenizer_config.json", "model_max_length", tokenizer.model_max_length),
        ("sentence_bert_config.json", "max_seq_length", sentence.max_seq_length),
    ];
    let mut smallest = positions;
    for (file, key, length) in declared {
        let Some(length) = length.filter(|&length| length < NO_LIMIT) else { continue };
        if length < 1.0 {
            return Err(Error::format(dir.join(file), format!("{key}: expected at least 1, found {length}")));
        }
        smallest = smallest.min(length as usize);
    }
    Ok(smallest)
}
