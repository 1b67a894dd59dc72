//! A store's records handed to other programs, in formats that many of them read.

mod faiss;
mod npy;

pub(super) use npy::LABEL_NAMES;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;

use super::Progress;
use super::answers::{Column, shown};
use crate::error::{Error, Result};
use crate::factors::{Floats, Head};
use crate::interrupt;
use crate::model::Problem;
use crate::report::{Format, Kind, RecordWriter, Render, class_kind};
use crate::store::{Shard, Store};

/// What a store is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// A record a row, with its factors as lists of 32-bit numbers.
    Parquet,
    /// The same as JSON lines.
    Jsonl,
    /// A directory of `.npy` arrays and `records.jsonl`, all in the same order.
    Npy,
    /// The features as a FAISS `IndexFlatIP`, whose ids are row numbers.
    Faiss,
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Parquet => "parquet",
            Self::Jsonl => "jsonl",
            Self::Npy => "npy",
            Self::Faiss => "faiss",
        })
    }
}

impl FromStr for ExportFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "parquet" => Ok(Self::Parquet),
            "jsonl" => Ok(Self::Jsonl),
            "npy" => Ok(Self::Npy),
            "faiss" => Ok(Self::Faiss),
            _ => Err(format!("expected parquet, jsonl, npy or faiss, found {name:?}")),
        }
    }
}

/// A record as Parquet and JSON lines have it, and as `index --from-factors` reads it.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Exported {
    index: u64,
    id: String,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted: Option<Value>,
    loss: f32,
    features: Vec<f32>,
    /// Where the store keeps the head that gives them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logits: Vec<f32>,
    deltas: Vec<f32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    columns: BTreeMap<String, String>,
}

impl Render for Exported {
    fn render(&self, _: bool) -> String {
        format!("{}\t{}\n", self.id, self.text)
    }
}

/// Writes all records of `store` to `out`, in the order of the input; the file (or directory) appears whole or not at
/// all.
///
/// # Errors
/// Where it cannot be written, or the store is damaged.
pub fn export(store: &Store, format: ExportFormat, out: &Path, quiet: bool) -> Result<()> {
    store.expect_one_factor("export")?;
    let progress = Progress::new("exporting", Some(store.rows() as u64), quiet);
    match format {
        ExportFormat::Parquet => rows(store, Format::Parquet, out, &progress),
        ExportFormat::Jsonl => rows(store, Format::Jsonl, out, &progress),
        ExportFormat::Npy => npy::write(store, out, &progress),
        ExportFormat::Faiss => faiss::write(store, out, &progress),
    }
}

fn rows(store: &Store, format: Format, out: &Path, progress: &Progress) -> Result<()> {
    let mut writer = RecordWriter::create(Some(out), format, columns(store))?;
    each_shard(store, progress, |first, shard| {
        (0..shard.rows()).try_for_each(|row| write(&mut writer, format, exported(store, first, shard, row)?))
    })?;
    writer.finish()
}

/// Numbers become columns as they are: as values of JSON they would take most of an export's time.
fn write(writer: &mut RecordWriter, format: Format, mut record: Exported) -> Result<()> {
    if format != Format::Parquet {
        return writer.write(&record);
    }
    let lists = [&mut record.features, &mut record.logits, &mut record.deltas].map(std::mem::take);
    let [features, logits, deltas] = lists.each_ref().map(Vec::as_slice);
    writer.write_columns(&record, &[("features", features), ("logits", logits), ("deltas", deltas)])
}

fn exported(store: &Store, first: usize, shard: &Shard, row: usize) -> Result<Exported> {
    let (record, factors) = (shard.record(row)?, shard.factors());
    let features = row_of(factors.features, factors.width, row);
    Ok(Exported {
        index: shard.indices()[row],
        id: record.id,
        text: record.text,
        text_pair: record.pair,
        label: shown(store, first + row, Column::Labels),
        predicted: shown(store, first + row, Column::Predictions),
        loss: shard.losses()[row],
        logits: store.head().map_or_else(Vec::new, |head| logits(head, &features)),
        features,
        deltas: factors.deltas[row * factors.classes..][..factors.classes].to_vec(),
        columns: record.columns,
    })
}

fn row_of(features: Floats<'_>, width: usize, row: usize) -> Vec<f32> {
    let mut decoded = vec![0.0; width];
    features.decode_f32(row * width, &mut decoded);
    decoded
}

/// The logits of a row's features, which a store does not keep: of features as computed, the bits that the model gave
/// on the CPU.
fn logits(head: &Head, h: &[f32]) -> Vec<f32> {
    let outputs = head.weight.chunks_exact(head.width()).zip(&head.bias);
    outputs.map(|(w, bias)| w.iter().zip(h).fold(0.0, |sum, (w, h)| h.mul_add(*w, sum)) + bias).collect()
}

fn columns(store: &Store) -> Vec<(String, Kind)> {
    let settings = store.settings();
    let class = class_kind(settings.problem, settings.classes);
    let mut columns = vec![
        ("index", Kind::Integer),
        ("id", Kind::Text),
        ("text", Kind::Text),
        ("text_pair", Kind::Text),
        ("label", class.clone()),
        ("predicted", class),
        ("loss", Kind::Single),
        ("features", Kind::list(Kind::Single)),
        ("logits", Kind::list(Kind::Single)),
        ("deltas", Kind::list(Kind::Single)),
    ];
    if settings.problem == Problem::Headless {
        columns.retain(|(name, _)| !["label", "predicted", "deltas"].contains(name));
    }
    if store.head().is_none() {
        columns.retain(|(name, _)| *name != "logits");
    }
    let mut columns: Vec<(String, Kind)> = columns.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
    if !settings.columns.is_empty() {
        let kept = settings.columns.iter().map(|name| (name.clone(), Kind::Text)).collect();
        columns.push(("columns".to_owned(), Kind::Struct(kept)));
    }
    columns
}

/// Hands every shard and its first row's number to `each`.
fn each_shard(store: &Store, progress: &Progress, mut each: impl FnMut(usize, &Shard) -> Result<()>) -> Result<()> {
    for (number, shard) in store.shards().iter().enumerate() {
        interrupt::check()?;
        let first = store.first_row(number);
        each(first, shard)?;
        shard.release();
        let done = (first + shard.rows()) as u64;
        progress.set(done, done);
    }
    Ok(())
}

/// The error of a path that is there already: what is exported replaces no directory.
fn occupied(out: &Path) -> Error {
    Error::usage(format!("{}: it is there already", out.display())).with_hint("give a new directory")
}
