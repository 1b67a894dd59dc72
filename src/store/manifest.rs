//! The manifest: what a store is made of, sealed, and replaced atomically after every finished block.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::atomic::{AtomicFile, FileEntry, sync_directory};
use super::fingerprint;
use super::head::HEAD;
use super::nearest::{self, Recall};
use super::settings::{Part, Settings};
use crate::error::{Error, Result};
use crate::model::Problem;

/// The manifest's name.
pub(super) const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "wherefore-store";
const VERSION: u64 = 1;

/// Everything a store says about itself, apart from the seal (`"checksum"`, the last field of the file).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: String,
    version: u64,
    /// Whether every block of the part is there.
    pub(super) complete: bool,
    /// Records of the whole input, those of other parts and skipped ones included; known once complete.
    pub(super) records: Option<u64>,
    /// Of all blocks listed; known once complete.
    pub(super) data_fingerprint: Option<String>,
    /// How well rounded features find what the features as computed find; of a whole store, once complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) recall: Option<Recall>,
    pub(super) part: Part,
    pub(super) settings: Settings,
    pub(super) head: Option<FileEntry>,
    /// What it was before, while data are being added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<Base>,
    /// Finished blocks, ascending by number.
    pub(super) blocks: Vec<BlockEntry>,
}

/// A finished block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BlockEntry {
    pub(super) number: u64,
    pub(super) rows: u64,
    pub(super) data_fingerprint: String,
    pub(super) factors: FileEntry,
    pub(super) records: FileEntry,
    /// Numbers of the records that were there once and have been removed, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) removed: Vec<u64>,
}

/// How a block's files are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// `shard-00000.safetensors` and `shard-00000.jsonl`.
    Plain,
    /// `shard-00000.next.safetensors` and `shard-00000.next.jsonl`: in the place of another pair until that is gone
    /// (see [`super::replace`]).
    Next,
}

impl Naming {
    pub(super) fn factors(self, number: u64) -> String {
        format!("shard-{number:05}{}.safetensors", self.infix())
    }

    pub(super) fn records(self, number: u64) -> String {
        format!("shard-{number:05}{}.jsonl", self.infix())
    }

    fn infix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Next => ".next",
        }
    }
}

/// What a store was before the data that are being added to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Base {
    /// Records of its whole input: the number of the first record added.
    pub(super) records: u64,
    /// The fingerprint of its last block, where that was not full and is this part's.
    pub(super) last_fingerprint: Option<String>,
}

impl BlockEntry {
    /// The block's two files.
    pub(super) fn files(&self) -> [&FileEntry; 2] {
        [&self.factors, &self.records]
    }

    /// The same files under their plain names.
    pub(super) fn settled(&self) -> Self {
        let named = |file: &FileEntry, name| FileEntry { name, ..file.clone() };
        Self {
            factors: named(&self.factors, Naming::Plain.factors(self.number)),
            records: named(&self.records, Naming::Plain.records(self.number)),
            ..self.clone()
        }
    }
}

impl Manifest {
    /// Of a store with nothing in it yet.
    pub(super) fn new(settings: Settings, part: Part, head: Option<FileEntry>) -> Self {
        Self {
            format: FORMAT.into(),
            version: VERSION,
            complete: false,
            records: None,
            data_fingerprint: None,
            recall: None,
            part,
            settings,
            head,
            base: None,
            blocks: Vec::new(),
        }
    }

    /// Reads and checks a store's manifest: its seal, then whether what it says can be.
    pub(super) fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(MANIFEST);
        let bytes = fs::read(&path).map_err(|error| missing(directory, error))?;
        let manifest = parse(&bytes).map_err(|reason| Error::format(&path, reason).with_hint(DAMAGED))?;
        manifest.check().map_err(|reason| Error::format(&path, reason).with_hint(DAMAGED))?;
        Ok(manifest)
    }

    /// Replaces a store's manifest, durably: before, the old one is there, after, the new one, never neither.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        AtomicFile::write(&directory.join(MANIFEST), |file| file.write_all(&self.sealed()))?;
        sync_directory(directory)
    }

    /// The position of a block among [`Manifest::blocks`], or where it would go.
    pub(super) fn position(&self, number: u64) -> std::result::Result<usize, usize> {
        self.blocks.binary_search_by_key(&number, |block| block.number)
    }

    /// Whether a store was begun here and no block was finished: nothing is lost if it is begun anew.
    pub(super) fn has_nothing_yet(&self) -> bool {
        self.blocks.is_empty() && !self.complete && self.base.is_none()
    }

    /// Every file the manifest names.
    pub(super) fn files(&self) -> impl Iterator<Item = &FileEntry> {
        self.head.iter().chain(self.blocks.iter().flat_map(BlockEntry::files))
    }

    /// How many records have been removed.
    pub(super) fn removed(&self) -> u64 {
        self.blocks.iter().map(|block| block.removed.len() as u64).sum()
    }

    /// Puts together what was measured in each block of a whole store.
    pub(super) fn measure(&mut self, directory: &Path) -> Result<()> {
        self.recall = if self.part == Part::WHOLE { nearest::recall(directory, self)? } else { None };
        Ok(())
    }

    /// The fingerprint of the blocks listed.
    pub(super) fn combined_fingerprint(&self) -> String {
        fingerprint::combine(self.blocks.iter().map(|block| (block.number, block.data_fingerprint.as_str())))
    }

    /// The file's bytes: the fields, then the hash of what they would be without it.
    fn sealed(&self) -> Vec<u8> {
        let mut fields = serde_json::to_value(self).expect("a manifest is JSON");
        let seal = blake3::hash(&pretty(&fields)).to_hex().to_string();
        fields["checksum"] = Value::from(seal);
        pretty(&fields)
    }

    /// Whether what it says can be; `Err` holds what cannot.
    fn check(&self) -> Result<(), String> {
        self.settings.check()?;
        self.part.check()?;
        self.check_head()?;
        self.blocks.iter().try_for_each(|block| self.check_block(block))?;
        if self.recall.is_some_and(|recall| recall.found > recall.wanted) {
            return Err("recall: more of the nearest records found than there are".into());
        }
        if !self.blocks.is_sorted_by(|a, b| a.number < b.number) {
            return Err("blocks are not in ascending order".into());
        }
        if self.complete { self.check_complete() } else { Ok(()) }
    }

    fn check_head(&self) -> Result<(), String> {
        match &self.head {
            Some(_) if self.settings.problem == Problem::Headless => Err("a headless model has no head".into()),
            Some(head) => check_name(head, HEAD),
            None => Ok(()),
        }
    }

    fn check_block(&self, block: &BlockEntry) -> Result<(), String> {
        let (number, rows, most) = (block.number, block.rows, self.settings.block_records);
        let naming = if block.factors.name == Naming::Next.factors(number) { Naming::Next } else { Naming::Plain };
        check_name(&block.factors, &naming.factors(number))?;
        check_name(&block.records, &naming.records(number))?;
        if rows.saturating_add(block.removed.len() as u64) > most {
            return Err(format!("block {number}: expected at most {most} rows, found {rows}"));
        }
        let inside = block.removed.iter().all(|index| index / most == number);
        if !inside || !block.removed.is_sorted_by(|a, b| a < b) {
            return Err(format!("block {number}: the numbers removed do not ascend inside it"));
        }
        if !self.part.owns(number) {
            return Err(format!("block {number} does not belong to part {}", self.part));
        }
        Ok(())
    }

    fn check_complete(&self) -> Result<(), String> {
        if self.base.is_some() {
            return Err("complete, but data are being added".into());
        }
        let records = self.records.ok_or("complete, but the number of input records is missing")?;
        let expected = self.part.blocks(records, self.settings.block_records);
        if !self.blocks.iter().map(|block| block.number).eq(expected) {
            return Err(format!("complete, but the blocks listed are not those of {records} input records"));
        }
        if self.data_fingerprint.as_ref() != Some(&self.combined_fingerprint()) {
            return Err("the data fingerprint is not that of the blocks".into());
        }
        Ok(())
    }
}

const DAMAGED: &str =
    "the manifest was cut short or changed after it was written: restore it from a copy, or index the data again";

fn missing(directory: &Path, error: std::io::Error) -> Error {
    if error.kind() != std::io::ErrorKind::NotFound {
        return Error::io(directory.join(MANIFEST))(error);
    }
    let reason =
        if directory.is_dir() { format!("not a store: it has no {MANIFEST}") } else { "no such directory".to_owned() };
    Error::format(directory, reason).with_hint("make a store with `wherefore index`")
}

/// The format and its version first, so that a store of another version is refused for what it is; then the rest,
/// strictly: bytes that are not exactly those this program writes for what they say are refused, whatever they say.
fn parse(bytes: &[u8]) -> Result<Manifest, String> {
    let mut fields: Value = serde_json::from_slice(bytes).map_err(|error| format!("not a whole manifest: {error}"))?;
    if fields["format"] != FORMAT {
        return Err(format!("format: expected \"{FORMAT}\", found {}", fields["format"]));
    }
    if fields["version"] != VERSION {
        return Err(format!("version: this program reads {VERSION}, found {}", fields["version"]));
    }
    if let Value::Object(fields) = &mut fields {
        fields.shift_remove("checksum");
    }
    let manifest: Manifest = serde_json::from_value(fields).map_err(|error| format!("not a manifest: {error}"))?;
    if manifest.sealed() != bytes {
        return Err("its checksum does not fit what it says".into());
    }
    Ok(manifest)
}

fn check_name(file: &FileEntry, expected: &str) -> Result<(), String> {
    if file.name == expected {
        return Ok(());
    }
    Err(format!("file name: expected `{expected}`, found `{}`", file.name.escape_default()))
}

fn pretty(fields: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(fields).expect("a manifest is JSON");
    text.push(b'\n');
    text
}
