//! Tests of `wherefore::dataset`: every format there and back, and everything that can be wrong with a file.

mod columns;
mod delimited;
mod files;
mod jsonl;
mod memory;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;
mod round_trip;

use std::fs;
use std::io::Write as _;
use std::path::Path;

use tempfile::TempDir;
use wherefore::Error;
use wherefore::dataset::{Dataset, DatasetOptions, Label, Record};

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        fs::write(dir.path().join(name), contents).unwrap();
    }
    dir
}

fn options(dir: &Path, names: &[&str]) -> DatasetOptions {
    let files = names.iter().map(|name| dir.join(name).to_str().unwrap().to_owned()).collect();
    DatasetOptions { files, ..DatasetOptions::default() }
}

/// All items of one file, refused records as `line: reason`.
fn items(name: &str, contents: &[u8], change: impl FnOnce(&mut DatasetOptions)) -> Vec<Result<Record, String>> {
    let dir = folder(&[(name, contents)]);
    let mut options = options(dir.path(), &[name]);
    change(&mut options);
    let dataset = match Dataset::open(options) {
        Ok(dataset) => dataset,
        Err(error) => return vec![Err(format!("open: {}", without_folder(&error, dir.path())))],
    };
    dataset.map(|item| item.map_err(|error| without_folder(&error, dir.path()))).collect()
}

fn without_folder(error: &Error, dir: &Path) -> String {
    error.to_string().replace(&format!("{}/", dir.display()), "")
}

fn read(name: &str, contents: &[u8]) -> Vec<Result<Record, String>> {
    items(name, contents, |_| ())
}

/// The records of one file, none of which is refused.
fn records(name: &str, contents: &[u8]) -> Vec<Record> {
    read(name, contents).into_iter().map(|item| item.unwrap()).collect()
}

fn texts(items: &[Result<Record, String>]) -> Vec<(u64, &str)> {
    items.iter().flatten().map(|record| (record.index, record.text.as_str())).collect()
}

fn errors(items: &[Result<Record, String>]) -> Vec<&str> {
    items.iter().filter_map(|item| item.as_ref().err().map(String::as_str)).collect()
}

fn record(index: u64, id: &str, text: &str, pair: Option<&str>, label: Option<Label>) -> Record {
    Record {
        index,
        id: id.to_owned(),
        text: text.to_owned(),
        pair: pair.map(str::to_owned),
        label,
        ..Record::default()
    }
}

/// A label as a record has it.
#[allow(clippy::unnecessary_wraps)]
fn name(label: &str) -> Option<Label> {
    Some(Label::Name(label.to_owned()))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
