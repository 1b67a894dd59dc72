//! The folder of a plan: which plan it is of, and files that appear whole.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::plan::Plan;
use super::trial::Machine;
use crate::backend::Precision;
use crate::dataset::matches;
use crate::destination::is_partial;
use crate::error::{Error, Result};
use crate::lock::{LOCK, Lock};
use crate::model::folder_fingerprint;
use crate::report::{ChangeRecord, Destination, Format, RecordWriter};

const PLAN: &str = "plan.json";

/// A folder that is a plan's, and this process's as long as this is held.
#[derive(Debug)]
pub(super) struct Claim {
    out: PathBuf,
    made: bool,
    _lock: Lock,
}

impl Drop for Claim {
    /// A plan that came to nothing, as where its data are refused, leaves nothing behind that keeps the next one out.
    fn drop(&mut self) {
        if rest(&self.out).is_ok_and(|paths| holds_a_plan_alone(&paths)) {
            let _ = std::fs::remove_file(self.out.join(PLAN));
            if self.made {
                Lock::remove_with(&self.out);
            }
        }
    }
}

/// Takes a folder for a plan, or finds it taken for the same one; with `overwrite` in the place of what an earlier plan
/// left.
///
/// # Errors
/// [`Error::Mismatch`] where it holds the results of another plan, or of other data; [`Error::Usage`] where something
/// else is there, or another process at work.
pub(super) fn claim(out: &Path, plan: &Plan, overwrite: bool, machine: &Machine) -> Result<Claim> {
    let path = out.join(PLAN);
    let inputs = plan.files().into_iter().map(|file| Ok((file.to_owned(), Value::from(fingerprint(file)?))));
    let mut inputs = inputs.collect::<Result<Map<_, _>>>()?;
    inputs.insert("model".to_owned(), Value::from(folder_fingerprint(&plan.model)?));
    let precision = if machine.precision == Precision::Auto { Precision::F32 } else { machine.precision };
    inputs.insert("precision".to_owned(), Value::from(precision.name()));
    // The same plan wherever it is called from.
    let mut claim = from(plan.folder(), json!({ "plan": plan, "inputs": inputs }));
    // Batches arrive, and with them answers.
    if let Some(continual) = claim["plan"]["continual"].as_object_mut() {
        continual.retain(|name, _| name != "batches" && name != "answers");
    }
    if !is_claim(&path) && !rest(out)?.is_empty() {
        return Err(Error::usage(format!("{}: is there already, and holds no plan's results", out.display()))
            .with_hint("name another folder with --out"));
    }
    let made = !out.exists();
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    let claimed = Claim { out: out.to_owned(), made, _lock: Lock::acquire(out, "folder")? };
    if overwrite && path.exists() || holds_a_plan_alone(&rest(out)?) {
        check_reads_nothing_of(plan, out)?;
        clear(out)?;
    }
    if path.exists() {
        let found = from(plan.folder(), read(&path)?);
        let differs = ["plan", "inputs"].into_iter().find(|part| found[part] != claim[part]);
        return match differs {
            None => Ok(claimed),
            Some(part) => {
                let differs = |input: &str| found[part][input] != claim[part][input];
                let what = match part {
                    "plan" => "another plan",
                    _ if differs("model") => "another model",
                    _ if differs("precision") => "another precision",
                    _ => "other data",
                };
                let hint = "name another folder with --out, or begin anew with --overwrite";
                Err(Error::Mismatch(format!("{}: holds the results of {what}", out.display()), Some(hint.to_owned())))
            }
        };
    }
    write(&path, &claim)?;
    Ok(claimed)
}

/// What is named by paths of a folder, as seen from there.
fn from(folder: &Path, value: Value) -> Value {
    let seen = |text: String| match Path::new(&text).strip_prefix(folder) {
        Ok(rest) => rest.to_string_lossy().into_owned(),
        Err(_) => text,
    };
    match value {
        Value::String(text) => Value::String(seen(text)),
        Value::Array(all) => all.into_iter().map(|one| from(folder, one)).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (seen(name), from(folder, value))).collect(),
        other => other,
    }
}

/// What a folder holds beside its lock; nothing where there is none.
fn rest(out: &Path) -> Result<Vec<PathBuf>> {
    if !out.exists() {
        return Ok(Vec::new());
    }
    let entries = out.read_dir().map_err(Error::io(out))?;
    let mut paths =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().map_err(Error::io(out))?;
    paths.retain(|path| !path.ends_with(LOCK) && !path.file_name().is_some_and(is_partial));
    Ok(paths)
}

/// Whether nothing was done yet about a plan.
fn holds_a_plan_alone(paths: &[PathBuf]) -> bool {
    matches!(paths, [path] if path.ends_with(PLAN) && is_claim(path))
}

/// Whether a file is what [`claim`] writes, and not a plan that somebody gave that name.
fn is_claim(path: &Path) -> bool {
    read::<Map<String, Value>>(path).is_ok_and(|fields| fields.contains_key("plan") && fields.contains_key("inputs"))
}

/// Refuses to begin anew over what the plan reads.
fn check_reads_nothing_of(plan: &Plan, out: &Path) -> Result<()> {
    let is_within = |path: &Path| {
        let whole = |path: &Path| path.canonicalize().ok();
        matches!((whole(path), whole(out)), (Some(path), Some(out)) if path.starts_with(&out))
    };
    let arriving = plan.continual.iter().flat_map(|rounds| rounds.batches.iter().flatten().chain(&rounds.answers));
    let named = plan.files().into_iter().chain(arriving.map(String::as_str)).chain([plan.model.as_str()]);
    let files = named.flat_map(|file| matches(file).unwrap_or_default());
    match files.chain([plan.file.clone()]).find(|file| is_within(file)) {
        Some(file) => Err(Error::usage(format!("{}: is in {}, which would be emptied", file.display(), out.display()))
            .with_hint("name another folder with --out")),
        None => Ok(()),
    }
}

/// Of the bytes of a file, or of every file that a pattern stands for; nothing where there is none yet.
fn fingerprint(file: &str) -> Result<String> {
    let paths = matches(file).unwrap_or_default();
    let files: Vec<&PathBuf> = paths.iter().filter(|path| path.is_file()).collect();
    let mut hasher = blake3::Hasher::new();
    for path in &files {
        hasher.update_mmap_rayon(path).map_err(Error::io(path))?;
    }
    Ok(if files.is_empty() { String::new() } else { hasher.finalize().to_hex().to_string() })
}

/// Removes what a plan left in a folder, the plan last: cut short, it is still known for what it is.
fn clear(out: &Path) -> Result<()> {
    let mut paths = rest(out)?;
    paths.sort_by_key(|path| path.ends_with(PLAN));
    paths.iter().try_for_each(|path| {
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        removed.map_err(Error::io(path))
    })
}

/// A file of JSON, on lines for people.
pub(super) fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let value = serde_json::to_value(value).map_err(|error| Error::format(path, error.to_string()))?;
    let mut file = Destination::create(Some(path))?;
    file.write(format!("{value:#}\n").as_bytes())?;
    file.finish()
}

pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::format(path, error.to_string()))
}

pub(super) fn write_changes(path: &Path, changes: &[ChangeRecord]) -> Result<()> {
    let mut writer = RecordWriter::create(Some(path), Format::Jsonl, ChangeRecord::columns())?;
    changes.iter().try_for_each(|change| writer.write(change))?;
    writer.finish()
}

/// Where a seed's training is.
pub(super) fn seed(folder: &Path, seed: u64) -> PathBuf {
    folder.join(format!("seed-{seed}"))
}
