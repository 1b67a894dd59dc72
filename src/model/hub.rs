//! Where a model is: a directory, or a name in the local Hugging Face cache. Nothing here touches the network.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The directory of the model `path_or_name`: a path where there is one, else `org/name` (or `name`) in the local
/// cache.
///
/// # Errors
/// [`Error::Usage`] where it is neither, with the command that downloads it.
pub fn find(path_or_name: &str) -> Result<PathBuf> {
    find_with(path_or_name, |name| std::env::var_os(name))
}

/// [`find`] in an environment of the caller's.
///
/// # Errors
/// As [`find`].
pub fn find_with(path_or_name: &str, variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let path = Path::new(path_or_name);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.is_file() {
        return Err(Error::usage(format!("model {path_or_name}: expected a directory, found a file"))
            .with_hint("name the directory that holds config.json and model.safetensors"));
    }
    if !is_repository(path_or_name) {
        return Err(Error::usage(format!("model {path_or_name}: no such directory")));
    }
    let cache = cache_folder(variable);
    let folder = snapshot(cache.as_deref(), path_or_name).ok_or_else(|| not_found(path_or_name, cache.as_deref()))?;
    let lacks = |names: &[&str]| !names.iter().any(|name| folder.join(name).is_file());
    match NEEDED.iter().find(|names| lacks(names)) {
        Some(names) => Err(Error::usage(format!("model {path_or_name}: no {} in {}", names[0], folder.display()))
            .with_hint(format!("download the rest of it: hf download {path_or_name}"))),
        None => Ok(folder),
    }
}

/// Of the bytes of a model's weights, configuration and tokenizer: what a training that starts there is of, whatever
/// else is put into the folder.
///
/// # Errors
/// As [`find`]; what the file system says.
pub(crate) fn folder_fingerprint(path_or_name: &str) -> Result<String> {
    let folder = find(path_or_name)?;
    let entries = folder.read_dir().map_err(Error::io(&folder))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.is_file() && is_of_model(path));
    paths.sort();
    let mut hasher = blake3::Hasher::new();
    for path in &paths {
        hasher.update_mmap_rayon(path).map_err(Error::io(path))?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Whether a model is read from a file of this name.
fn is_of_model(path: &Path) -> bool {
    const NAMES: [&str; 13] = [
        "config.json",
        "modules.json",
        "sentence_bert_config.json",
        "selector.json",
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
    ];
    let has_extension = |all: &[&str]| path.extension().is_some_and(|one| all.iter().any(|other| one == *other));
    has_extension(&["safetensors", "bin", "model"])
        || path.file_name().is_some_and(|name| NAMES.iter().any(|other| name == *other))
}

/// What a whole download has, each under one of some names; pickled weights are told of where they are read.
const NEEDED: [&[&str]; 2] = [
    &["config.json", "modules.json"],
    &["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "modules.json"],
];

fn not_found(name: &str, cache: Option<&Path>) -> Error {
    let cache = cache.map_or_else(|| "which has no folder here".to_owned(), |folder| folder.display().to_string());
    Error::usage(format!("model {name}: no such directory, and not in the Hugging Face cache ({cache})"))
        .with_hint(format!("download it first: hf download {name}"))
}

/// `name` or `org/name`, of the characters the Hub allows.
fn is_repository(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let part = |part: &str| !part.is_empty() && part.chars().all(legal) && !part.starts_with('.');
    name.split('/').count() <= 2 && name.split('/').all(part)
}

/// The cache's folder, by the variables `huggingface_hub` reads, in its order.
fn cache_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).filter(|value| !value.is_empty()).map(|value| expanded(&value, &variable));
    folder("HF_HUB_CACHE")
        .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| folder("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| folder("HOME").map(|home| home.join(".cache/huggingface/hub")))
}

/// With a leading `~` and with `$NAME` and `${NAME}` as a shell has them, as `huggingface_hub` reads them: files of
/// settings hand them over as they are written.
fn expanded(value: &OsStr, variable: &impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let Some(text) = value.to_str() else { return PathBuf::from(value) };
    let known = |name: &str| variable(name).and_then(|value| value.into_string().ok());
    let (mut out, mut rest) = (String::new(), text);
    if let (Some(after), Some(home)) =
        (rest.strip_prefix('~').filter(|s| s.is_empty() || s.starts_with('/')), known("HOME"))
    {
        (out, rest) = (home, after);
    }
    while let Some(at) = rest.find('$') {
        out += &rest[..at];
        let after = &rest[at + 1..];
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        let (name, behind) = braced.unwrap_or_else(|| after.split_at(end));
        match known(name) {
            Some(value) => out += &value,
            None => out += &rest[at..rest.len() - behind.len()],
        }
        rest = behind;
    }
    PathBuf::from(out + rest)
}

/// `models--org--name/snapshots/C`, C the commit that `refs/main` names.
fn snapshot(cache: Option<&Path>, name: &str) -> Option<PathBuf> {
    let repository = cache?.join(format!("models--{}", name.replace('/', "--")));
    let commit = std::fs::read_to_string(repository.join("refs/main")).ok()?;
    let commit = commit.trim();
    let plain = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric());
    Some(repository.join("snapshots").join(commit)).filter(|folder| plain && folder.is_dir())
}
