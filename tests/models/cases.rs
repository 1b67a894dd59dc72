//! The golden model directories, and copies of them to damage.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use wherefore::Error;
use wherefore::backend::Backend;
use wherefore::backend::reference::Reference;
use wherefore::dataset::{Label, Record};
use wherefore::model::{LoadOptions, Model};

/// `tests/golden/NAME`.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Every golden model directory.
pub(super) fn all() -> Vec<String> {
    let folders = std::fs::read_dir(path("")).unwrap().map(|entry| entry.unwrap());
    let models = folders.filter(|entry| entry.path().join("golden.json").is_file());
    let mut names: Vec<_> = models.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 20, "golden models are missing: {names:?}");
    names
}

pub(super) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What PyTorch made of a case: its `records`.
pub(super) fn expected(name: &str) -> Vec<Value> {
    json(&path(name).join("golden.json"))["records"].as_array().unwrap().clone()
}

/// The inputs of expected records.
pub(super) fn records(expected: &[Value]) -> Vec<Record> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let record = |(index, record): (usize, &Value)| Record {
        index: index as u64,
        id: index.to_string(),
        text: text(&record["text"]).unwrap(),
        pair: text(&record["pair"]),
        label: label(&record["label"]),
        ..Record::default()
    };
    expected.iter().enumerate().map(record).collect()
}

fn label(value: &Value) -> Option<Label> {
    match value {
        Value::Number(number) if number.is_i64() => number.as_i64().map(Label::Integer),
        Value::Number(number) => number.as_f64().map(Label::Number),
        Value::Array(items) => Some(Label::Many(items.iter().filter_map(label).collect())),
        _ => None,
    }
}

/// A model with the lengths its golden records were made with.
pub(super) fn open<B: Backend>(backend: B, name: &str) -> Model {
    let max_length = json(&path(name).join("golden.json"))["max_length"].as_u64().map(|length| length as usize);
    Model::open_with(backend, &path(name), &LoadOptions { max_length, ..LoadOptions::default() }).unwrap()
}

/// A copy of a case's directory, to be changed.
pub(super) fn copy(name: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    copy_folder(&path(name), folder.path());
    folder
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The error a directory is refused with.
pub(super) fn refusal(dir: &Path) -> Error {
    match Model::open_with(Reference, dir, &LoadOptions::default()) {
        Ok(_) => panic!("{} was accepted", dir.display()),
        Err(error) => error,
    }
}

/// Asserts that `dir` is refused with one line, about `file` of it, that says `reason`.
pub(super) fn assert_refused(dir: &Path, file: &str, reason: &str) {
    let message = refusal(dir).to_string();
    let start = format!("{}: ", dir.join(file).display());
    assert!(message.starts_with(&start), "expected an error about {file}, found: {message}");
    assert!(message[start.len()..].contains(reason), "expected {reason:?} in: {message}");
    assert!(!message.contains('\n'), "expected one line: {message}");
}

/// Sets fields of a directory's `config.json`; null removes one.
pub(super) fn configure(dir: &Path, fields: &[(&str, Value)]) {
    let path = dir.join("config.json");
    let mut config = json(&path);
    for (name, value) in fields {
        match value {
            Value::Null => drop(config.as_object_mut().unwrap().remove(*name)),
            value => config[*name] = value.clone(),
        }
    }
    std::fs::write(path, config.to_string()).unwrap();
}
