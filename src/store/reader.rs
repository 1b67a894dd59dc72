//! A finished store, or several parts of one, open for reading.

use std::path::{Path, PathBuf};

use super::atomic::FileEntry;
use super::fingerprint;
use super::head::read_head;
use super::manifest::{BlockEntry, Manifest};
use super::record::StoredRecord;
use super::settings::{Difference, Settings};
use super::shard::Shard;
use crate::error::{Error, Result};
use crate::factors::{FactorSource, Head, LabelUsed, LabelledRows, Labels};
use crate::model::{Problem, Task};

/// A finished store, or several parts of one data set, as one sequence of rows, ascending by input record number.
#[derive(Debug)]
pub struct Store {
    /// Of the first part.
    directory: PathBuf,
    settings: Settings,
    head: Option<Head>,
    shards: Vec<Shard>,
    /// The first row of each shard, and the number of rows at the end.
    starts: Vec<usize>,
    records_total: u64,
    data_fingerprint: String,
}

impl Store {
    /// Opens a store.
    ///
    /// # Errors
    /// If it is not there, not finished, cut short, or not what its manifest says.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        Self::open_many(&[directory])
    }

    /// Opens several stores made by `--shard` jobs as one. Parts may be missing, but none may come twice.
    ///
    /// # Errors
    /// Those of [`Store::open`], and [`Error::Mismatch`] if they are not parts of one data set.
    pub fn open_many<P: AsRef<Path>>(directories: &[P]) -> Result<Self> {
        let read = || directories.iter().map(|directory| open_part(directory.as_ref())).collect::<Result<Vec<_>>>();
        as_it_stands(read, |parts| Self::of(parts), Result::is_ok)?
    }

    fn of(parts: &[Opened<'_>]) -> Result<Self> {
        let Some(first) = parts.first() else {
            return Err(Error::usage("no store was given"));
        };
        check_all_together(parts)?;
        let blocks = blocks_of(parts)?;
        let settings = first.1.settings.clone();
        let shards =
            blocks.iter().map(|(path, block)| open_shard(path, block, &settings)).collect::<Result<Vec<_>>>()?;
        let head = first.1.head.as_ref().map(|file| open_head(first.0, file, &settings)).transpose()?;
        Ok(Self {
            directory: first.0.to_owned(),
            starts: starts(&shards).ok_or_else(|| Error::format(first.0, "too many rows for this machine"))?,
            records_total: first.1.records.unwrap_or_default(),
            data_fingerprint: fingerprint::combine(
                blocks.iter().map(|(_, block)| (block.number, block.data_fingerprint.as_str())),
            ),
            settings,
            head,
            shards,
        })
    }

    /// Where it is; of several that were opened as one, the first.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a path leads that was noted when the store was made: see [`find_path`].
    pub fn find_path(&self, noted: &str) -> PathBuf {
        find_path(&self.directory, noted)
    }

    /// What made it.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The model's last layer (none for headless models).
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// N: the records stored.
    pub fn rows(&self) -> usize {
        self.starts.last().copied().unwrap_or_default()
    }

    /// Records of the whole input, those skipped and those of parts that are not open included.
    pub fn records_total(&self) -> u64 {
        self.records_total
    }

    /// Of the data of the blocks that are open.
    pub fn data_fingerprint(&self) -> &str {
        &self.data_fingerprint
    }

    /// The same of the records that are there: those that were removed, or skipped, count neither in this nor in what
    /// is computed of it.
    pub fn records_fingerprint(&self) -> String {
        let whole = self.data_fingerprint();
        if self.rows() as u64 == self.records_total() {
            return whole.to_owned();
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(whole.as_bytes());
        self.shards().iter().flat_map(Shard::indices).for_each(|index| {
            hasher.update(&index.to_le_bytes());
        });
        hasher.finalize().to_hex().to_string()
    }

    /// The shards, ascending by record number.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The first row of shard `shard` among all rows.
    pub fn first_row(&self, shard: usize) -> usize {
        self.starts[shard]
    }

    /// The shard that holds row `row` of [`Store::rows`], and the row's number in it.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn locate(&self, row: usize) -> (usize, usize) {
        assert!(row < self.rows(), "row {row} of {}", self.rows());
        let shard = self.starts.partition_point(|start| *start <= row) - 1;
        (shard, row - self.starts[shard])
    }

    /// The record of row `row`: see [`Shard::record`].
    ///
    /// # Errors
    /// If the store is damaged.
    pub fn record(&self, row: usize) -> Result<StoredRecord> {
        let (shard, row) = self.locate(row);
        self.shards[shard].record(row)
    }

    /// Whether any record has a text: those indexed from their factors alone have none.
    ///
    /// # Errors
    /// If the store is damaged.
    pub fn has_texts(&self) -> Result<bool> {
        for row in 0..self.rows() {
            if !self.record(row)?.text.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Refuses a store without texts, for jobs that compare them.
    ///
    /// # Errors
    /// [`Error::Usage`] then, begun with `what` needs them; as [`Store::has_texts`].
    pub fn expect_texts(&self, what: &str) -> Result<()> {
        if self.has_texts()? {
            return Ok(());
        }
        Err(Error::usage(format!("{what}: the store's records have no texts"))
            .with_hint("index --from-factors FILE --data FILE gives factors their texts"))
    }

    /// The row that holds input record number `index`, if it is here.
    pub fn find(&self, index: u64) -> Option<usize> {
        let number = index / self.settings.block_records;
        let shard = self.shards.binary_search_by_key(&number, Shard::number).ok()?;
        let row = self.shards[shard].indices().binary_search(&index).ok()?;
        Some(self.starts[shard] + row)
    }

    /// Refuses a store whose records have several factors, for jobs that need one of each.
    ///
    /// # Errors
    /// [`Error::Usage`], naming the job.
    pub fn expect_one_factor(&self, job: &str) -> Result<()> {
        if self.settings.tokens.is_none() {
            return Ok(());
        }
        Err(Error::usage(format!(
            "{job}: the store is of a model that says something of tokens: a record has several factors"
        ))
        .with_hint("`search`, `audit` and `store` take such stores"))
    }

    /// Whether a model is the one whose factors are stored.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with both values of the first that differs.
    pub fn check_model(&self, model: &str, head: &str, tokenizer: &str, max_length: usize) -> Result<()> {
        let ours = &self.settings;
        check_same("model", &ours.model_fingerprint, model)?;
        check_same("head", &ours.head_fingerprint, head)?;
        check_same("tokenizer", &ours.tokenizer_fingerprint, tokenizer)?;
        if ours.max_length == max_length {
            return Ok(());
        }
        Err(Error::Mismatch(
            format!("the store was made with max_length {}, this is {max_length}", ours.max_length),
            Some(format!("use `--max-length {}`, or index the data again", ours.max_length)),
        ))
    }
}

/// A refit or a curvature is over factors: where records have several, a row is a factor, against its own class.
impl FactorSource for Store {
    fn problem(&self) -> Problem {
        self.settings.problem
    }

    fn width(&self) -> usize {
        self.settings.width
    }

    fn classes(&self) -> usize {
        self.settings.classes
    }

    fn piece_rows(&self) -> Vec<usize> {
        self.shards.iter().map(Shard::factor_count).collect()
    }

    fn piece(&self, i: usize) -> LabelledRows<'_> {
        let (shard, used): (_, LabelUsed) = (&self.shards[i], self.settings.target);
        let factors = shard.factors();
        if let Some(classes) = shard.factor_classes() {
            let labels = Labels::Classes(classes);
            let (features, deltas) = (factors.features, factors.deltas);
            return LabelledRows { features, deltas, labels, predictions: labels, used: LabelUsed::Gold };
        }
        LabelledRows {
            features: factors.features,
            deltas: factors.deltas,
            labels: shard.labels(),
            predictions: shard.predictions(),
            used,
        }
    }

    fn is_of_boundaries(&self) -> bool {
        self.settings.task() == Task::Spans
    }

    fn release(&self, i: usize) {
        self.shards[i].release();
    }
}

/// Where a path leads that was noted when the store in `directory` was made: a relative one was seen from the working
/// directory of then. It is seen from that of now, or else from the nearest folder above the store from which it leads
/// anywhere; unchanged where there is none.
pub fn find_path(directory: &Path, noted: &str) -> PathBuf {
    let path = PathBuf::from(noted);
    if path.exists() {
        return path;
    }
    let directory = directory.canonicalize().unwrap_or_default();
    directory.ancestors().skip(1).map(|folder| folder.join(noted)).find(|path| path.exists()).unwrap_or(path)
}

/// How often a store may change while it is opened.
const CHANGES: usize = 100;

/// What `open` makes of what `read` says, where a writer may put other files in the place of those
/// ([`super::replace`]): what is no good is made again of what is said now, and counts where that is still the same.
pub(super) fn as_it_stands<M: PartialEq, T>(
    read: impl Fn() -> Result<M>,
    open: impl Fn(&M) -> T,
    is_good: impl Fn(&T) -> bool,
) -> Result<T> {
    let mut said = read()?;
    for _ in 0..CHANGES {
        let found = open(&said);
        if is_good(&found) {
            return Ok(found);
        }
        let again = read()?;
        if again == said {
            return Ok(found);
        }
        said = again;
    }
    Ok(open(&said))
}

/// A part's directory and manifest.
pub(super) type Opened<'a> = (&'a Path, Manifest);

/// A block, and the directory it is in.
pub(super) type Located<'a> = (&'a Path, &'a BlockEntry);

pub(super) fn open_part(directory: &Path) -> Result<Opened<'_>> {
    let manifest = Manifest::read(directory)?;
    if manifest.complete {
        return Ok((directory, manifest));
    }
    let (reason, hint) = match manifest.base {
        None => {
            ("the store is not finished", "finish it: the `wherefore index` command that began it, with `--resume`")
        }
        Some(_) => {
            ("data are being added to the store", "finish it: the `wherefore index --append` command that began it")
        }
    };
    Err(Error::format(directory, format!("{reason}: {} blocks so far", manifest.blocks.len())).with_hint(hint))
}

/// Whether parts are of one data set; they all have what is common to them from the first.
pub(super) fn check_all_together(parts: &[Opened<'_>]) -> Result<()> {
    let with_first = |parts: &[&Opened<'_>]| {
        let rest =
            parts.split_first().map(|(first, rest)| rest.iter().try_for_each(|other| check_together(first, other)));
        rest.unwrap_or(Ok(()))
    };
    with_first(&parts.iter().collect::<Vec<_>>())?;
    // The first may not know what it was computed in.
    with_first(&parts.iter().filter(|part| part.1.settings.precision.is_some()).collect::<Vec<_>>())
}

/// Whether two parts are of one data set.
fn check_together(one: &Opened<'_>, other: &Opened<'_>) -> Result<()> {
    let names = || format!("{} and {}", one.0.display(), other.0.display());
    if let Some(Difference { told, precision }) = one.1.settings.difference(&other.1.settings) {
        let hint = precision.map(|precision| format!("index the other again with `--precision {precision}`"));
        return Err(Error::Mismatch(format!("{} do not belong together: {told}", names()), hint));
    }
    let checksum = |manifest: &Manifest| manifest.head.as_ref().map(|head| head.checksum.clone());
    if checksum(&one.1) != checksum(&other.1) {
        return Err(Error::Mismatch(format!("{} do not belong together: their heads differ", names()), None));
    }
    if one.1.records != other.1.records {
        let (here, there) = (one.1.records.unwrap_or_default(), other.1.records.unwrap_or_default());
        let reason = format!("{} are not of the same data: {here} input records in one, {there} in the other", names());
        return Err(Error::Mismatch(reason, None));
    }
    Ok(())
}

/// The blocks of all parts, ascending.
pub(super) fn blocks_of<'a>(parts: &'a [Opened<'a>]) -> Result<Vec<Located<'a>>> {
    let mut blocks: Vec<_> =
        parts.iter().flat_map(|(path, manifest)| manifest.blocks.iter().map(move |block| (*path, block))).collect();
    blocks.sort_by_key(|(_, block)| block.number);
    match blocks.windows(2).find(|pair| pair[0].1.number == pair[1].1.number) {
        None => Ok(blocks),
        Some(pair) => {
            let (number, one, other) = (pair[0].1.number, pair[0].0.display(), pair[1].0.display());
            Err(Error::Mismatch(format!("block {number} is in both {one} and {other}"), None))
        }
    }
}

/// Checks the file's size, then reads it: it is small.
fn open_head(directory: &Path, file: &FileEntry, settings: &Settings) -> Result<Head> {
    file.check_size(directory)?;
    read_head(directory, settings)
}

/// Checks both files' sizes, then opens them.
fn open_shard(directory: &Path, entry: &BlockEntry, settings: &Settings) -> Result<Shard> {
    entry.files().iter().try_for_each(|file| file.check_size(directory))?;
    Shard::open(directory, entry, settings)
}

fn starts(shards: &[Shard]) -> Option<Vec<usize>> {
    let mut starts = vec![0_usize];
    for shard in shards {
        starts.push(starts[starts.len() - 1].checked_add(shard.rows())?);
    }
    Some(starts)
}

fn check_same(what: &str, stored: &str, given: &str) -> Result<()> {
    if stored == given {
        return Ok(());
    }
    Err(Error::Mismatch(
        format!("the store was made with another {what}: its fingerprint is {stored}, this one's {given}"),
        Some(format!("give the {what} the store was made with, or index the data again")),
    ))
}
