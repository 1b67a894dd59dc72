//! Training dynamics: what the model thought of each training record's own label, epoch by epoch.
//!
//! ```text
//! DIR/dynamics.json          the problem, the classes, how many records, and the finished epochs' files
//! DIR/records.jsonl          {"index","id"} a record, in the order of every file's rows
//! DIR/epoch-000.safetensors  probability [n], margin [n] (F32), correct [n] (U8)
//! ```
//!
//! The numbers are those of the training passes themselves (each record once an epoch, with dropout, before that step's
//! update), so they cost no pass of their own; this is how Swayamdipta et al. and Pleiss et al. take them. Of a record
//! of gold class y with logits z:
//!
//! | | single-label | multi-label |
//! |---|---|---|
//! | margin | `z_y − max_{c ≠ y} z_c` | the least over classes of `z_c` where c is gold, `−z_c` where not |
//! | probability | `softmax(z)_y` | `σ(margin)` |
//! | correct | the predicted class is y | every class is predicted as it is: margin > 0 |
//!
//! A regression has no such numbers, and is refused. Rows are joined to a store by `index`, the record's number in the
//! input; audits refuse them where ids or classes differ.
//!
//! ```
//! use wherefore::train::{Dynamics, DynamicsHeader, DynamicsWriter, Moment};
//! # let folder = tempfile::tempdir().unwrap();
//! # let dir = folder.path().join("dynamics");
//! let header = DynamicsHeader { problem: wherefore::model::Problem::SingleLabel, classes: vec!["bad".into(), "good".into()] };
//! let mut writer = DynamicsWriter::create(&dir, header, &[(0, "a".into()), (2, "c".into())])?;
//! let (sure, wrong) = (Moment { probability: 0.9, margin: 2.2, correct: true }, Moment { probability: 0.2, margin: -1.4, correct: false });
//! writer.write_epoch(&[sure, sure])?;
//! writer.write_epoch(&[sure, wrong])?;
//!
//! let dynamics = Dynamics::open(&dir)?;
//! let row = dynamics.row_of(2).unwrap();
//! assert_eq!((dynamics.epochs(), dynamics.forgetting_events(row), dynamics.correctness(row)), (2, Some(1), 0.5));
//! # Ok::<(), wherefore::Error>(())
//! ```

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::destination::Destination;
use crate::error::{Error, Result};
use crate::factors::{self, Target};
use crate::model::Problem;

const MANIFEST: &str = "dynamics.json";
const RECORDS: &str = "records.jsonl";
/// Raised whenever a file of an earlier number would be read wrongly.
const FORMAT: u32 = 1;

/// What a record was thought of in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moment {
    /// The gold label's probability, 0 to 1.
    pub probability: f32,
    /// How far the gold label is ahead, in logits; negative where it is behind.
    pub margin: f32,
    /// Whether the prediction was the gold label.
    pub correct: bool,
}

impl Moment {
    /// What logits `z [K]` say of a gold label; `None` for a regression or a headless model.
    ///
    /// # Panics
    /// Where `gold` is not of the problem's kind or size.
    pub fn of(problem: Problem, logits: &[f32], gold: &Target) -> Option<Self> {
        match (problem, gold) {
            (Problem::SingleLabel, Target::Class(gold)) => Some(Self {
                probability: factors::probabilities(problem, logits)[*gold],
                margin: logits[*gold] - largest_but(logits, *gold),
                correct: factors::predict(problem, logits) == Target::Class(*gold),
            }),
            (Problem::MultiLabel, Target::Classes(classes)) => {
                let towards = logits.iter().zip(classes).map(|(&z, &y)| if y > 0.5 { z } else { -z });
                let margin = towards.fold(f32::INFINITY, f32::min);
                Some(Self { probability: factors::probabilities(problem, &[margin])[0], margin, correct: margin > 0.0 })
            }
            _ => None,
        }
    }
}

fn largest_but(logits: &[f32], class: usize) -> f32 {
    let others = logits.iter().enumerate().filter(|(c, _)| *c != class);
    others.fold(f32::NEG_INFINITY, |most, (_, &z)| most.max(z))
}

/// What a training's dynamics are of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DynamicsHeader {
    /// What the head was trained to do.
    pub problem: Problem,
    /// The classes' names, in order.
    pub classes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    #[serde(flatten)]
    header: DynamicsHeader,
    records: usize,
    epochs: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct RecordName {
    index: u64,
    id: String,
}

/// A training's dynamics under way: an epoch is there when its file and the manifest that names it are.
pub struct DynamicsWriter {
    directory: PathBuf,
    manifest: Manifest,
}

impl DynamicsWriter {
    /// Begins in `directory`, which is made where it is not there, for records of these numbers and ids. What another
    /// training left there is written over.
    ///
    /// # Errors
    /// [`Error::Usage`] for a regression or a model without a head; what the file system says.
    pub fn create(directory: &Path, header: DynamicsHeader, records: &[(u64, String)]) -> Result<Self> {
        if !matches!(header.problem, Problem::SingleLabel | Problem::MultiLabel) {
            return Err(Error::usage("training dynamics are of classes, and this model predicts none")
                .with_hint("leave --dynamics out"));
        }
        std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
        let manifest = Manifest { format: FORMAT, header, records: records.len(), epochs: Vec::new() };
        let writer = Self { directory: directory.to_owned(), manifest };
        // The manifest first: until it names epochs, whatever files there are are nobody's.
        writer.write_manifest()?;
        for stale in epochs_in(directory, ".safetensors")? {
            std::fs::remove_file(&stale).map_err(Error::io(&stale))?;
        }
        writer.write_records(records)?;
        Ok(writer)
    }

    /// How many epochs a training finished in `directory`; `None` where none was begun there.
    pub fn finished(directory: &Path) -> Option<usize> {
        read_manifest(directory).ok().map(|manifest| manifest.epochs.len())
    }

    /// Goes on after the first `epochs` epochs of what [`DynamicsWriter::create`] began; later ones are forgotten.
    ///
    /// # Errors
    /// Where there are fewer, or the directory is damaged.
    pub fn resume(directory: &Path, epochs: usize) -> Result<Self> {
        let mut manifest = read_manifest(directory)?;
        if manifest.epochs.len() < epochs {
            let found = manifest.epochs.len();
            return Err(Error::format(
                directory.join(MANIFEST),
                format!("expected at least {epochs} epochs, found {found}"),
            ));
        }
        manifest.epochs.truncate(epochs);
        Ok(Self { directory: directory.to_owned(), manifest })
    }

    /// Adds an epoch: a moment for each record, in their order.
    ///
    /// # Errors
    /// What the file system says.
    ///
    /// # Panics
    /// Where there are more or fewer moments than records.
    pub fn write_epoch(&mut self, moments: &[Moment]) -> Result<()> {
        assert_eq!(moments.len(), self.manifest.records, "one moment a record");
        let name = format!("epoch-{:03}.safetensors", self.manifest.epochs.len());
        let path = self.directory.join(&name);
        let bytes = encode(moments).map_err(|error| Error::format(&path, error.to_string()))?;
        let mut file = Destination::create(Some(&path))?;
        file.write(&bytes)?;
        file.finish()?;
        self.manifest.epochs.push(name);
        self.write_manifest()
    }

    fn write_manifest(&self) -> Result<()> {
        let path = self.directory.join(MANIFEST);
        let text = serde_json::to_string_pretty(&self.manifest).map_err(|e| Error::format(&path, e.to_string()))?;
        let mut file = Destination::create(Some(&path))?;
        file.write(text.as_bytes())?;
        file.write(b"\n")?;
        file.finish()
    }

    fn write_records(&self, records: &[(u64, String)]) -> Result<()> {
        let path = self.directory.join(RECORDS);
        let mut file = Destination::create(Some(&path))?;
        for (index, id) in records {
            let name = RecordName { index: *index, id: id.clone() };
            let line = serde_json::to_string(&name).map_err(|e| Error::format(&path, e.to_string()))?;
            file.write(format!("{line}\n").as_bytes())?;
        }
        file.finish()
    }
}

/// What trainings called `epoch-000` and on, and then `ending`, in a folder that may not be there.
pub(super) fn epochs_in(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let is_epoch = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix("epoch-")?.strip_suffix(ending));
        number.is_some_and(|number| number.len() >= 3 && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let entries = match folder.read_dir() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(folder))?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>();
    Ok(paths.map_err(Error::io(folder))?.into_iter().filter(is_epoch).collect())
}

fn encode(moments: &[Moment]) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let shape = vec![moments.len()];
    let floats = |of: fn(&Moment) -> f32| moments.iter().flat_map(|m| of(m).to_le_bytes()).collect::<Vec<u8>>();
    let (probability, margin) = (floats(|m| m.probability), floats(|m| m.margin));
    let correct: Vec<u8> = moments.iter().map(|m| u8::from(m.correct)).collect();
    let views = [
        ("probability", TensorView::new(Dtype::F32, shape.clone(), &probability)?),
        ("margin", TensorView::new(Dtype::F32, shape.clone(), &margin)?),
        ("correct", TensorView::new(Dtype::U8, shape, &correct)?),
    ];
    safetensors::serialize(views, None)
}

fn read_manifest(directory: &Path) -> Result<Manifest> {
    let path = directory.join(MANIFEST);
    let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|error| Error::format(&path, error.to_string().replace('\n', " ")))?;
    if manifest.format != FORMAT {
        return Err(Error::format(&path, format!("format: expected {FORMAT}, found {}", manifest.format))
            .with_hint("it was written by another version of this program: train again with --dynamics"));
    }
    Ok(manifest)
}

/// The dynamics of a training, as far as it got: `n` records over whole epochs.
#[derive(Clone, Debug)]
pub struct Dynamics {
    directory: PathBuf,
    header: DynamicsHeader,
    indices: Vec<u64>,
    ids: Vec<String>,
    rows: HashMap<u64, usize>,
    epochs: Vec<Vec<Moment>>,
}

impl Dynamics {
    /// Reads what a training wrote to `directory`.
    ///
    /// # Errors
    /// [`Error::Io`] where a file is not there, [`Error::Format`] where one is damaged or of another size than the
    /// manifest says, or there is no whole epoch yet.
    pub fn open(directory: &Path) -> Result<Self> {
        let manifest = read_manifest(directory)?;
        if manifest.epochs.is_empty() {
            return Err(Error::format(directory.join(MANIFEST), "no epoch of this training has been finished"));
        }
        let (indices, ids) = read_records(&directory.join(RECORDS), manifest.records)?;
        let rows = indices.iter().enumerate().map(|(row, index)| (*index, row)).collect();
        let read = |name: &String| {
            let path = directory.join(name);
            if name.contains(['/', '\\']) {
                return Err(Error::format(directory.join(MANIFEST), format!("expected a file's name, found {name:?}")));
            }
            let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
            decode(&bytes, manifest.records).map_err(|reason| Error::format(&path, reason))
        };
        let epochs = manifest.epochs.iter().map(read).collect::<Result<_>>()?;
        Ok(Self { directory: directory.to_owned(), header: manifest.header, indices, ids, rows, epochs })
    }

    /// Where they were read.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What was trained.
    pub fn header(&self) -> &DynamicsHeader {
        &self.header
    }

    /// n: how many records were trained on.
    pub fn records(&self) -> usize {
        self.indices.len()
    }

    /// How many epochs were finished; at least one.
    pub fn epochs(&self) -> usize {
        self.epochs.len()
    }

    /// Each row's record number in the input, `[n]`: a store's `index`.
    pub fn indices(&self) -> &[u64] {
        &self.indices
    }

    /// Each row's id, `[n]`.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The row of the record numbered `index`, where it was trained on.
    pub fn row_of(&self, index: u64) -> Option<usize> {
        self.rows.get(&index).copied()
    }

    /// Every record in one epoch, `[n]`.
    pub fn epoch(&self, epoch: usize) -> &[Moment] {
        &self.epochs[epoch]
    }

    /// One record over the epochs.
    pub fn course(&self, row: usize) -> impl Iterator<Item = Moment> + '_ {
        self.epochs.iter().map(move |epoch| epoch[row])
    }

    /// The mean over epochs of the gold label's probability (Swayamdipta et al. 2020, *Dataset Cartography*, eq. 1).
    pub fn confidence(&self, row: usize) -> f64 {
        self.mean(row, |moment| f64::from(moment.probability))
    }

    /// Its standard deviation over epochs (ibid., eq. 2).
    pub fn variability(&self, row: usize) -> f64 {
        let mean = self.confidence(row);
        self.mean(row, |moment| (f64::from(moment.probability) - mean).powi(2)).sqrt()
    }

    /// The share of epochs in which it was predicted as labelled (ibid.).
    pub fn correctness(&self, row: usize) -> f64 {
        self.mean(row, |moment| f64::from(u8::from(moment.correct)))
    }

    /// The mean over epochs of the margin: the area under it (Pleiss et al. 2020, *Identifying Mislabeled Data using
    /// the Area Under the Margin Ranking*, eq. 1).
    pub fn area_under_margin(&self, row: usize) -> f64 {
        self.mean(row, |moment| f64::from(moment.margin))
    }

    /// How often it was predicted as labelled in one epoch and not in the next (Toneva et al. 2019, *An Empirical Study
    /// of Example Forgetting*, definition 1); `None` where it never was: such records belong with the most forgotten.
    pub fn forgetting_events(&self, row: usize) -> Option<usize> {
        let learned = self.course(row).any(|moment| moment.correct);
        let forgotten = self.epochs.windows(2).filter(|pair| pair[0][row].correct && !pair[1][row].correct);
        learned.then(|| forgotten.count())
    }

    /// The first epoch in which it was predicted as labelled.
    pub fn learned_in(&self, row: usize) -> Option<usize> {
        self.course(row).position(|moment| moment.correct)
    }

    fn mean(&self, row: usize, of: impl Fn(Moment) -> f64) -> f64 {
        self.course(row).map(of).sum::<f64>() / self.epochs.len() as f64
    }
}

fn read_records(path: &Path, expected: usize) -> Result<(Vec<u64>, Vec<String>)> {
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let (mut indices, mut ids) = (Vec::new(), Vec::new());
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(Error::io(path))?;
        let name: RecordName = serde_json::from_str(&line).map_err(|error| Error::Record {
            path: path.to_owned(),
            line: number as u64 + 1,
            reason: error.to_string(),
        })?;
        indices.push(name.index);
        ids.push(name.id);
    }
    if indices.len() != expected {
        return Err(Error::format(path, format!("expected {expected} records, found {}", indices.len())));
    }
    Ok((indices, ids))
}

fn decode(bytes: &[u8], records: usize) -> Result<Vec<Moment>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| format!("not a whole safetensors file: {error}"))?;
    let column = |name: &str, dtype: Dtype| match file.tensor(name) {
        Ok(view) if view.dtype() == dtype && view.shape() == [records] => Ok(view.data()),
        Ok(view) => {
            Err(format!("tensor \"{name}\": expected {dtype} [{records}], found {} {:?}", view.dtype(), view.shape()))
        }
        Err(_) => Err(format!("tensor \"{name}\" is missing")),
    };
    let floats = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>();
    let (probability, margin) = (floats(column("probability", Dtype::F32)?), floats(column("margin", Dtype::F32)?));
    let correct = column("correct", Dtype::U8)?;
    if let Some(row) = (0..records).find(|row| probability[*row].is_nan() || margin[*row].is_nan()) {
        return Err(format!("row {row}: expected numbers, found NaN"));
    }
    let moment = |row: usize| Moment { probability: probability[row], margin: margin[row], correct: correct[row] != 0 };
    Ok((0..records).map(moment).collect())
}
