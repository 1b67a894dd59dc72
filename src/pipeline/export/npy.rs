//! A directory of NumPy arrays (`.npy`, format 1.0: NumPy Enhancement Proposal 1).

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use bytemuck::cast_slice;
use serde_json::json;

use super::super::Progress;
use super::{each_shard, logits, occupied, row_of};
use crate::destination::PartialFolder;
use crate::error::{Error, Result};
use crate::factors::{FactorRows, Floats, Labels};
use crate::model::Problem;
use crate::store::{Dtype, Shard, Store};

/// Writes `features`, `logits`, `deltas`, `labels`, `predictions`, `losses` and `indices` as `.npy`, `records.jsonl`
/// and [`LABEL_NAMES`], beside `out`, then gives them their place. There is no bf16 in NumPy: such features, and
/// integers, are written as f32.
pub(super) fn write(store: &Store, out: &Path, progress: &Progress) -> Result<()> {
    if out.exists() {
        return Err(occupied(out));
    }
    let partial = PartialFolder::create(out)?;
    let mut arrays = Arrays::create(store, partial.path())?;
    each_shard(store, progress, |_, shard| arrays.write(store, shard))?;
    let names = &store.settings().label_names;
    if !names.is_empty() {
        let path = partial.path().join(LABEL_NAMES);
        fs::write(&path, json!(names).to_string()).map_err(Error::io(&path))?;
    }
    arrays.finish()?;
    partial.finish()
}

/// Beside arrays, the classes' names in order, as a JSON list.
pub(in super::super) const LABEL_NAMES: &str = "label_names.json";

/// One array on its way.
struct Npy {
    file: BufWriter<File>,
}

impl Npy {
    fn create(directory: &Path, name: &str, descr: &str, shape: &[usize]) -> Result<Self> {
        let path = directory.join(format!("{name}.npy"));
        let file = File::create(&path).map_err(Error::io(&path))?;
        let mut array = Self { file: BufWriter::with_capacity(1 << 18, file) };
        array.put(&header(descr, shape)).map_err(Error::io(&path))?;
        Ok(array)
    }

    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)
    }
}

/// The magic string, and the description padded so that the numbers are aligned.
fn header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let sizes: String = shape.iter().map(|size| size.to_string() + ",").collect();
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text.extend(std::iter::repeat_n(' ', length - text.len() - 1));
    text.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

struct Arrays {
    features: Npy,
    /// Where the store keeps the head that gives them.
    logits: Option<Npy>,
    deltas: Npy,
    losses: Npy,
    indices: Npy,
    /// Of single-label models class ids (−1 where a record has no label), of others rows of numbers (NaN); headless
    /// ones have neither.
    labels: Option<[Npy; 2]>,
    records: BufWriter<File>,
}

impl Arrays {
    fn create(store: &Store, directory: &Path) -> Result<Self> {
        let (settings, n) = (store.settings(), store.rows());
        let (e, k) = (settings.width, settings.classes);
        let array = |name: &str, descr: &str, shape: &[usize]| Npy::create(directory, name, descr, shape);
        let features = if settings.dtype == Dtype::F16 { "<f2" } else { "<f4" };
        let labels = |name: &str| match settings.problem {
            Problem::SingleLabel => array(name, "<i8", &[n]),
            _ => array(name, "<f4", &[n, k]),
        };
        let headless = settings.problem == Problem::Headless;
        let path = directory.join("records.jsonl");
        Ok(Self {
            features: array("features", features, &[n, e])?,
            logits: store.head().map(|_| array("logits", "<f4", &[n, k])).transpose()?,
            deltas: array("deltas", "<f4", &[n, settings.delta_width()])?,
            losses: array("losses", "<f4", &[n])?,
            indices: array("indices", "<i8", &[n])?,
            labels: if headless { None } else { Some([labels("labels")?, labels("predictions")?]) },
            records: BufWriter::new(File::create(&path).map_err(Error::io(&path))?),
        })
    }

    fn write(&mut self, store: &Store, shard: &Shard) -> Result<()> {
        self.write_arrays(store, shard).map_err(Error::io("export"))?;
        for row in 0..shard.rows() {
            let record = shard.record(row)?;
            let line = json!({ "index": shard.indices()[row], "id": record.id, "text": record.text, "text_pair": record.pair });
            writeln!(self.records, "{line}").map_err(Error::io("records.jsonl"))?;
        }
        Ok(())
    }

    fn write_arrays(&mut self, store: &Store, shard: &Shard) -> std::io::Result<()> {
        let FactorRows { features, deltas, .. } = shard.factors();
        match features {
            Floats::F32(values) => self.features.put(cast_slice(values))?,
            Floats::F16(values) => self.features.put(cast_slice(values))?,
            Floats::Bf16(_) | Floats::Int8(_) => self.features.put(cast_slice(&features.to_f32()))?,
        }
        if let Some((array, head)) = self.logits.as_mut().zip(store.head()) {
            let logits = |row| logits(head, &row_of(features, head.width(), row));
            (0..shard.rows()).try_for_each(|row| array.put(cast_slice(&logits(row))))?;
        }
        self.deltas.put(cast_slice(deltas))?;
        self.losses.put(cast_slice(shard.losses()))?;
        self.indices.put(cast_slice(shard.indices()))?;
        for (array, labels) in self.labels.iter_mut().flatten().zip([shard.labels(), shard.predictions()]) {
            match labels {
                Labels::Classes(classes) => array.put(cast_slice(classes))?,
                Labels::Rows(values) => array.put(cast_slice(values))?,
            }
        }
        Ok(())
    }

    /// Everything to the disk.
    fn finish(self) -> Result<()> {
        let Self { features, logits, deltas, losses, indices, labels, records } = self;
        let arrays = [features, deltas, losses, indices].into_iter().chain(logits).chain(labels.into_iter().flatten());
        for file in arrays.map(|array| array.file).chain([records]) {
            file.into_inner()
                .map_err(std::io::IntoInnerError::into_error)
                .and_then(|file| file.sync_all())
                .map_err(Error::io("export"))?;
        }
        Ok(())
    }
}
