//! A finished block, mapped: factors where they lie, and each record's words when asked for.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype as TensorType;

use super::block::{Block, Bundles, Stored, ends_fit};
use super::manifest::BlockEntry;
use super::map::FileMap;
use super::nearest::Nearest;
use super::record::StoredRecord;
use super::settings::Settings;
use super::tensors::{Column, TensorFile};
use crate::error::{Error, Result};
use crate::factors::{FactorRows, Floats, Int8, Int8Rows, LabelVec, Labels, ScanRows, ScanType};
use crate::model::Problem;

/// A finished block of a store. Nothing is read before it is touched.
#[derive(Debug)]
pub struct Shard {
    number: u64,
    checksum: String,
    rows: usize,
    width: usize,
    delta_width: usize,
    tensors: TensorFile,
    columns: Columns,
    records_path: PathBuf,
    records: FileMap,
}

#[derive(Debug)]
struct Columns {
    indices: Column<u64>,
    record_offsets: Column<i64>,
    labels: LabelColumn,
    predictions: LabelColumn,
    losses: Column<f32>,
    factors: FactorColumns,
    bundles: Option<BundleColumns>,
    /// Where features are not stored as they were.
    residuals: Option<Column<f32>>,
    checkpoints: Vec<FactorColumns>,
    scan: Option<ScanColumns>,
    nearest: Option<NearestColumns>,
}

#[derive(Debug)]
struct NearestColumns {
    places: Column<u32>,
    scores: Column<f32>,
}

/// Whose the factors are, where a record has several.
#[derive(Debug)]
struct BundleColumns {
    offsets: Column<u64>,
    classes: Column<i64>,
    /// All 1 where there are none.
    biases: Option<Column<f32>>,
    gradient_norms: Column<f32>,
    means: Column<f32>,
    mean_norms: Column<f32>,
}

#[derive(Debug)]
struct ScanColumns {
    values: FeatureColumn,
    residuals: Column<f32>,
}

#[derive(Debug)]
enum LabelColumn {
    Classes(Column<i64>),
    Rows(Column<f32>),
}

#[derive(Debug)]
struct FactorColumns {
    features: FeatureColumn,
    deltas: Column<f32>,
    feature_norms: Column<f32>,
    delta_norms: Column<f32>,
}

#[derive(Debug)]
enum FeatureColumn {
    F32(Column<f32>),
    F16(Column<f16>),
    Bf16(Column<bf16>),
    Int8 { values: Column<i8>, scales: Column<f32>, shares: Column<f32>, center: Column<f32> },
}

impl Shard {
    /// Opens a block's files and checks their sizes and headers against the manifest; of the payload no more is read
    /// than what others are looked up by.
    pub(super) fn open(directory: &Path, entry: &BlockEntry, settings: &Settings) -> Result<Self> {
        let records_path = directory.join(&entry.records.name);
        let tensors = TensorFile::open(&directory.join(&entry.factors.name))?;
        let records = FileMap::open(&records_path)?;
        let rows = usize::try_from(entry.rows).map_err(|_| tensors.refuse("too many rows for this machine"))?;
        let columns = Columns::open(&tensors, rows, settings)?;
        let shard = Self {
            number: entry.number,
            checksum: entry.factors.checksum.clone(),
            rows,
            width: settings.width,
            delta_width: settings.delta_width(),
            tensors,
            columns,
            records_path,
            records,
        };
        shard.check_record_ends()?;
        shard.check_factor_ends()?;
        shard.check_classes(settings)?;
        Ok(shard)
    }

    /// b: the shard holds the records numbered `b·R .. (b+1)·R`.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// That of the file its factors are in.
    pub fn checksum(&self) -> &str {
        &self.checksum
    }

    /// n.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// F: how many factors its records have together.
    pub fn factor_count(&self) -> usize {
        self.columns.bundles.as_ref().map_or(self.rows, |columns| self.tensors.values(&columns.classes).len())
    }

    /// Where each record's factors begin among [`Shard::factors`], and the last one's end, `[n + 1]`; `None` where each
    /// has one.
    pub fn factor_offsets(&self) -> Option<&[u64]> {
        self.columns.bundles.as_ref().map(|columns| self.tensors.values(&columns.offsets))
    }

    /// The coordinate of each factor that meets the bias, `[F]`; `None` where all are 1.
    pub fn factor_biases(&self) -> Option<&[f32]> {
        let biases = self.columns.bundles.as_ref().and_then(|columns| columns.biases.as_ref());
        biases.map(|column| self.tensors.values(column))
    }

    /// The class that each factor's δ was taken against, `[F]`; `None` where each record has one factor.
    pub fn factor_classes(&self) -> Option<&[i64]> {
        self.columns.bundles.as_ref().map(|columns| self.tensors.values(&columns.classes))
    }

    /// The length of each record's whole gradient, `[n]`; `None` where each has one factor.
    pub fn gradient_norms(&self) -> Option<&[f32]> {
        self.columns.bundles.as_ref().map(|columns| self.tensors.values(&columns.gradient_norms))
    }

    /// One vector a record for what compares features, where records have several factors: their h is the mean, and
    /// there is no δ.
    pub fn means(&self) -> Option<FactorRows<'_>> {
        let columns = self.columns.bundles.as_ref()?;
        Some(FactorRows {
            rows: self.rows,
            width: self.width,
            classes: 0,
            features: Floats::F32(self.tensors.values(&columns.means)),
            deltas: &[],
            feature_norms: self.tensors.values(&columns.mean_norms),
            delta_norms: &[],
        })
    }

    /// The factors, as stored: of several factors a record, one after another.
    pub fn factors(&self) -> FactorRows<'_> {
        self.factor_rows(&self.columns.factors)
    }

    /// The factors of checkpoint `c` of [`Settings::checkpoints`].
    ///
    /// # Panics
    /// If there is no such checkpoint.
    pub fn checkpoint(&self, c: usize) -> FactorRows<'_> {
        self.factor_rows(&self.columns.checkpoints[c])
    }

    /// The copy of the features for scans, where the store keeps one.
    pub fn scan(&self) -> Option<ScanRows<'_>> {
        let columns = self.columns.scan.as_ref()?;
        let values = columns.values.floats(&self.tensors);
        Some(ScanRows { values, residuals: self.tensors.values(&columns.residuals) })
    }

    /// At least `‖x − x̂‖`, of the features x that were computed and x̂ that are stored, `[n]`; `None` where they are
    /// the same.
    pub fn residuals(&self) -> Option<&[f32]> {
        self.columns.residuals.as_ref().map(|column| self.tensors.values(column))
    }

    /// Which of its records the store's first ones find, in blocks of so many; `None` where features are stored as they
    /// are.
    pub(super) fn nearest(&self, block_records: u64) -> Option<Nearest> {
        let columns = self.columns.nearest.as_ref()?;
        let (places, scores) = (self.tensors.values(&columns.places), self.tensors.values(&columns.scores));
        Some(Nearest::decode(self.number * block_records, places, scores))
    }

    /// Input record numbers, ascending, `[n]`.
    pub fn indices(&self) -> &[u64] {
        self.tensors.values(&self.columns.indices)
    }

    /// The records' own labels.
    pub fn labels(&self) -> Labels<'_> {
        self.label_rows(&self.columns.labels)
    }

    /// What the model says.
    pub fn predictions(&self) -> Labels<'_> {
        self.label_rows(&self.columns.predictions)
    }

    /// The loss δ is the gradient of, `[n]` (headless: zeros).
    pub fn losses(&self) -> &[f32] {
        self.tensors.values(&self.columns.losses)
    }

    /// A record's id, texts and label.
    ///
    /// # Errors
    /// If the shard's texts are not what the shard says: the store is damaged.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn record(&self, row: usize) -> Result<StoredRecord> {
        let offsets = self.record_offsets();
        let range = usize::try_from(offsets[row]).ok().zip(usize::try_from(offsets[row + 1]).ok());
        let line = range.and_then(|(start, end)| self.records.bytes().get(start..end));
        let record =
            line.ok_or_else(|| "its offsets lie outside the file".to_owned()).and_then(StoredRecord::from_line);
        record.map_err(|reason| {
            Error::format(&self.records_path, format!("row {row}: {reason}"))
                .with_hint("`wherefore store verify` tells what of the store is damaged")
        })
    }

    /// An error about its texts.
    pub(super) fn refuse_record(&self, reason: String) -> Error {
        Error::format(&self.records_path, reason)
    }

    /// All of it, to be changed and written again: halves are rounded to themselves, and integers stay what they are.
    pub(super) fn to_block(&self, entry: &BlockEntry, block_records: u64) -> Result<Block> {
        let owned = |labels: Labels<'_>| match labels {
            Labels::Classes(classes) => LabelVec::Classes(classes.to_vec()),
            Labels::Rows(values) => LabelVec::Rows(values.to_vec()),
        };
        let factors = |rows: FactorRows<'_>| (rows.features.to_f32(), rows.deltas.to_vec());
        let (features, deltas) = factors(self.factors());
        let checkpoints = || (0..self.columns.checkpoints.len()).map(|c| self.checkpoint(c));
        let integers = std::iter::once(self.factors()).chain(checkpoints()).filter_map(|rows| match rows.features {
            Floats::Int8(rows) => Some(Int8::of(rows)),
            _ => None,
        });
        let residuals = self.residuals().map(<[f32]>::to_vec).unwrap_or_default();
        Ok(Block {
            number: self.number,
            indices: self.indices().to_vec(),
            features,
            deltas,
            bundles: self.bundles(),
            labels: owned(self.labels()),
            predictions: owned(self.predictions()),
            losses: self.losses().to_vec(),
            checkpoints: checkpoints().map(factors).collect(),
            records: (0..self.rows).map(|row| self.record(row)).collect::<Result<_>>()?,
            stored: Stored { residuals, integers: integers.collect() },
            nearest: self.nearest(block_records),
            data_fingerprint: entry.data_fingerprint.clone(),
        })
    }

    /// Whose its factors are, where a record has several.
    pub(super) fn bundles(&self) -> Option<Bundles> {
        let (offsets, classes, means) = (self.factor_offsets()?, self.factor_classes()?, self.means()?);
        let biases = self.factor_biases().map_or_else(|| vec![1.0; classes.len()], <[f32]>::to_vec);
        Some(Bundles { offsets: offsets.to_vec(), biases, classes: classes.to_vec(), means: means.features.to_f32() })
    }

    /// The size of its texts.
    pub fn text_bytes(&self) -> usize {
        self.records.bytes().len()
    }

    /// Tells the system that this shard's numbers will be needed soon (call it for the next shard while one is
    /// scanned).
    pub fn prefetch(&self) {
        self.tensors.prefetch();
    }

    /// Tells the system that this shard's pages won't be needed soon (call it when a scan is through with the shard): a
    /// store larger than memory then pushes nothing else out. What is touched again is mapped again, and read again
    /// where it has left memory; so don't where the store is small.
    pub fn release(&self) {
        self.tensors.release();
        self.records.release();
    }

    /// Where each record's line begins, and the last ends, `[n + 1]`.
    fn record_offsets(&self) -> &[i64] {
        self.tensors.values(&self.columns.record_offsets)
    }

    /// Two numbers tell whether the texts are those of this shard; the others are checked where they are used.
    fn check_record_ends(&self) -> Result<()> {
        let (offsets, bytes) = (self.record_offsets(), self.records.bytes().len() as i64);
        if offsets.first() == Some(&0) && offsets.last() == Some(&bytes) {
            return Ok(());
        }
        Err(Error::format(&self.records_path, "its size is not the one its shard's record_offsets end at"))
    }

    /// Offsets are used as they are: they are read once.
    fn check_factor_ends(&self) -> Result<()> {
        match self.factor_offsets() {
            Some(offsets) if !ends_fit(offsets, self.factor_count()) => {
                let factors = self.factor_count();
                Err(self.tensors.refuse(format!("factor_offsets do not ascend from 0 to the {factors} factors")))
            }
            _ => Ok(()),
        }
    }

    /// Classes are used as they are, as offsets.
    fn check_classes(&self, settings: &Settings) -> Result<()> {
        let is_class = |class: &i64| (0..settings.classes as i64).contains(class);
        if let Some(factor) = self.factor_classes().and_then(|classes| classes.iter().position(|c| !is_class(c))) {
            return Err(self.tensors.refuse(format!("factor {factor}: its class is not one the model can have")));
        }
        for (what, labels, may_lack) in [("label", self.labels(), true), ("prediction", self.predictions(), false)] {
            let Labels::Classes(classes) = labels else { continue };
            let is_any = |class: &i64| is_class(class) || (may_lack && *class == -1);
            if let Some(row) = classes.iter().position(|class| !is_any(class)) {
                return Err(self.tensors.refuse(format!("row {row}: its {what} is not one the model can have")));
            }
        }
        Ok(())
    }

    fn factor_rows<'a>(&'a self, columns: &'a FactorColumns) -> FactorRows<'a> {
        FactorRows {
            rows: self.factor_count(),
            width: self.width,
            classes: self.delta_width,
            features: columns.features.floats(&self.tensors),
            deltas: self.tensors.values(&columns.deltas),
            feature_norms: self.tensors.values(&columns.feature_norms),
            delta_norms: self.tensors.values(&columns.delta_norms),
        }
    }

    fn label_rows<'a>(&'a self, column: &'a LabelColumn) -> Labels<'a> {
        match column {
            LabelColumn::Classes(column) => Labels::Classes(self.tensors.values(column)),
            LabelColumn::Rows(column) => Labels::Rows(self.tensors.values(column)),
        }
    }
}

impl Columns {
    fn open(tensors: &TensorFile, n: usize, settings: &Settings) -> Result<Self> {
        let checkpoints = 0..settings.checkpoints.len();
        let bundles = settings.tokens.map(|_| BundleColumns::open(tensors, n, settings)).transpose()?;
        let factors = bundles.as_ref().map_or(n, |bundles| tensors.values(&bundles.classes).len());
        Ok(Self {
            indices: tensors.column("indices", TensorType::I64, &[n])?,
            record_offsets: tensors.column("record_offsets", TensorType::I64, &[n + 1])?,
            labels: LabelColumn::open(tensors, "labels", n, settings)?,
            predictions: LabelColumn::open(tensors, "predictions", n, settings)?,
            losses: tensors.column("losses", TensorType::F32, &[n])?,
            factors: FactorColumns::open(tensors, "", factors, settings)?,
            bundles,
            residuals: (settings.dtype.rounds_to())
                .map(|_| tensors.column("feature_residuals", TensorType::F32, &[n]))
                .transpose()?,
            checkpoints: checkpoints
                .map(|c| FactorColumns::open(tensors, &format!("checkpoint.{c}."), factors, settings))
                .collect::<Result<_>>()?,
            scan: settings.scan.map(|kind| ScanColumns::open(tensors, kind, n, settings.width)).transpose()?,
            nearest: settings.dtype.rounds_to().map(|_| NearestColumns::open(tensors, settings)).transpose()?,
        })
    }
}

impl BundleColumns {
    fn open(tensors: &TensorFile, n: usize, settings: &Settings) -> Result<Self> {
        let factors = tensors.rows("factor_classes")?;
        let biases = settings.has_biases().then(|| tensors.column("factor_biases", TensorType::F32, &[factors]));
        Ok(Self {
            offsets: tensors.column("factor_offsets", TensorType::I64, &[n + 1])?,
            classes: tensors.column("factor_classes", TensorType::I64, &[factors])?,
            biases: biases.transpose()?,
            gradient_norms: tensors.column("gradient_norms", TensorType::F32, &[n])?,
            means: tensors.column("mean_features", TensorType::F32, &[n, settings.width])?,
            mean_norms: tensors.column("mean_feature_norms", TensorType::F32, &[n])?,
        })
    }
}

impl ScanColumns {
    fn open(tensors: &TensorFile, kind: ScanType, n: usize, e: usize) -> Result<Self> {
        let values = FeatureColumn::open(tensors, "scan.", Some(kind), [n, e])?;
        Ok(Self { values, residuals: tensors.column("scan.residuals", TensorType::F32, &[n])? })
    }
}

impl NearestColumns {
    fn open(tensors: &TensorFile, settings: &Settings) -> Result<Self> {
        let lists = tensors.rows("nearest_places")?;
        if lists as u64 > Nearest::queries(settings.block_records) {
            return Err(tensors.refuse(format!("{lists} records find others, which is too many")));
        }
        let shape = Nearest::shape(lists);
        Ok(Self {
            places: tensors.column("nearest_places", TensorType::U32, &shape)?,
            scores: tensors.column("nearest_scores", TensorType::F32, &shape)?,
        })
    }
}

impl LabelColumn {
    fn open(tensors: &TensorFile, name: &str, n: usize, settings: &Settings) -> Result<Self> {
        if settings.tokens.is_some() {
            return Ok(Self::Rows(Column::Copied(Vec::new())));
        }
        Ok(match settings.problem {
            Problem::SingleLabel => Self::Classes(tensors.column(name, TensorType::I64, &[n])?),
            Problem::MultiLabel | Problem::Regression | Problem::Headless => {
                Self::Rows(tensors.column(name, TensorType::F32, &[n, settings.classes])?)
            }
        })
    }
}

impl FactorColumns {
    fn open(tensors: &TensorFile, prefix: &str, n: usize, settings: &Settings) -> Result<Self> {
        let features = FeatureColumn::open(tensors, prefix, settings.dtype.rounds_to(), [n, settings.width])?;
        Ok(Self {
            features,
            deltas: tensors.column(&format!("{prefix}deltas"), TensorType::F32, &[n, settings.delta_width()])?,
            feature_norms: tensors.column(&format!("{prefix}feature_norms"), TensorType::F32, &[n])?,
            delta_norms: tensors.column(&format!("{prefix}delta_norms"), TensorType::F32, &[n])?,
        })
    }
}

impl FeatureColumn {
    /// As they are where they are not of a `kind`.
    fn open(tensors: &TensorFile, prefix: &str, kind: Option<ScanType>, [n, e]: [usize; 2]) -> Result<Self> {
        let (name, shape) = (format!("{prefix}features"), [n, e]);
        let beside = |what: &str, len| tensors.column(&format!("{prefix}feature_{what}"), TensorType::F32, &[len]);
        Ok(match kind {
            None => Self::F32(tensors.column(&name, TensorType::F32, &shape)?),
            Some(ScanType::F16) => Self::F16(tensors.column(&name, TensorType::F16, &shape)?),
            Some(ScanType::Bf16) => Self::Bf16(tensors.column(&name, TensorType::BF16, &shape)?),
            Some(ScanType::Int8) => {
                let values = tensors.column(&name, TensorType::I8, &shape)?;
                Self::Int8 {
                    values,
                    scales: beside("scales", n)?,
                    shares: beside("shares", n)?,
                    center: beside("center", e)?,
                }
            }
        })
    }

    fn floats<'a>(&'a self, tensors: &'a TensorFile) -> Floats<'a> {
        match self {
            Self::F32(column) => Floats::F32(tensors.values(column)),
            Self::F16(column) => Floats::F16(tensors.values(column)),
            Self::Bf16(column) => Floats::Bf16(tensors.values(column)),
            Self::Int8 { values, scales, shares, center } => Floats::Int8(Int8Rows {
                values: tensors.values(values),
                scales: tensors.values(scales),
                shares: tensors.values(shares),
                center: tensors.values(center),
            }),
        }
    }
}
