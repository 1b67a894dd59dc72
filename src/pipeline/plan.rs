//! `index --dry-run`: what a run would take, before it is begun. The data are read once, a sample of them runs through
//! the model.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanCount, HumanDuration};
use serde::Serialize;

use super::index::store_settings;
use super::{IndexOptions, Progress, Rejections, Settings};
use crate::dataset::{Dataset, Record};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::{Model, Problem};
use crate::store;
use crate::tokens::Encoding;

/// Records in the sample: those whose numbers are multiples of a power of two that leaves at most so many.
const SAMPLE: usize = 4096;
/// Records that run together while the rate is measured.
const BATCH: usize = 64;
/// How long the rate is measured, where the sample lasts.
const MEASURED: Duration = Duration::from_secs(3);
/// Chunks that wait, run, or are being written at a time: see [`super::stream`].
const CHUNKS: u64 = 6;

/// What a run of [`super::index`] would take. Its `Display` is for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Records this job would index.
    pub records: u64,
    /// Records it would skip as invalid.
    pub skipped: u64,
    /// Records tokenized to tell the following from.
    pub sampled: u64,
    /// Tokens to run, special tokens included; estimated where not every record was sampled.
    pub tokens: u64,
    /// Share of records that are longer than the maximum length.
    pub truncated: f64,
    /// Blocks the store would get.
    pub blocks: u64,
    /// The store's size.
    pub store_bytes: u64,
    /// Room where it would be, where the system tells.
    pub disk_free: Option<u64>,
    /// Peak memory, model included.
    pub memory_bytes: u64,
    /// Memory there is for it, what this process holds included, where the system tells.
    pub memory_free: Option<u64>,
    /// Measured on the sample.
    pub tokens_per_second: f64,
    /// Wall time of the run, all models' passes together.
    pub seconds: f64,
    /// What would not fit, one line each.
    pub problems: Vec<String>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free = |bytes: Option<u64>| bytes.map_or(String::new(), |bytes| format!(" of {} free", BinaryBytes(bytes)));
        let about = if self.sampled < self.records { "about " } else { "" };
        writeln!(f, "records      {} in {} blocks, {} skipped", HumanCount(self.records), self.blocks, self.skipped)?;
        let cut = 100.0 * self.truncated;
        writeln!(
            f,
            "tokens       {about}{} ({cut:.1} % of records cut to the maximum length)",
            HumanCount(self.tokens)
        )?;
        writeln!(f, "disk         {}{}", BinaryBytes(self.store_bytes), free(self.disk_free))?;
        writeln!(f, "memory       about {}{}", BinaryBytes(self.memory_bytes), free(self.memory_free))?;
        let (rate, time) = (self.tokens_per_second.round() as u64, Duration::from_secs_f64(self.seconds));
        write!(f, "time         about {} at {} tokens/s", HumanDuration(time), HumanCount(rate))?;
        match &self.problems[..] {
            [] => write!(f, "\nit fits"),
            problems => problems.iter().try_for_each(|problem| write!(f, "\ndoes not fit: {problem}")),
        }
    }
}

/// Reads `dataset`, runs a sample of it, and tells what indexing it into `dir` would take. Nothing is written.
///
/// # Errors
/// As [`super::index`], as far as reading and running go.
pub fn plan(
    model: &Model,
    mut dataset: Dataset,
    dir: &Path,
    options: &IndexOptions,
    settings: &Settings,
    rejections: &mut Rejections,
) -> Result<Plan> {
    let progress = Progress::new("planning", dataset.bytes_total(), settings.quiet);
    if options.append {
        dataset.number_from(store::info(dir)?.records.unwrap_or_default());
    }
    let counted = Counted::read(model, &mut dataset, options, rejections, &progress)?;
    let (encodings, truncated) = counted.encode(model)?;
    let measured = measure(model, &encodings, settings)?;
    let passes = 1 + options.checkpoints.len() as u64;
    // A way back takes twice what the way forth does.
    let work = if options.gradients.is_some() { 3 } else { 1 };
    let scale = counted.records as f64 / (encodings.len().max(1) as f64);
    let tokens = (tokens(&encodings) as f64 * scale).round() as u64;
    let of_store = store_settings(model, dataset.kept_columns(), options)?;
    let mut plan = Plan {
        records: counted.records,
        skipped: rejections.count(),
        sampled: encodings.len() as u64,
        tokens,
        truncated: truncated as f64 / encodings.len().max(1) as f64,
        blocks: counted.blocks,
        store_bytes: of_store.store_bytes(counted.records, counted.text_bytes, counted.blocks),
        disk_free: disk_free(dir),
        memory_bytes: counted.memory(&of_store, passes),
        memory_free: memory_free(),
        tokens_per_second: measured,
        seconds: (tokens * passes * work) as f64 / measured.max(1.0),
        problems: Vec::new(),
    };
    plan.problems = plan.find_problems();
    Ok(plan)
}

impl Plan {
    /// The run itself as an error, where it would not fit.
    ///
    /// # Errors
    /// [`Error::Usage`] with what is lacking.
    pub fn check(&self) -> Result<()> {
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(Error::usage(format!("the run would not fit: {}", self.problems.join("; ")))
            .with_hint("use another disk, `--dtype f16`, or smaller blocks"))
    }

    fn find_problems(&self) -> Vec<String> {
        let lacks = |what: &str, needed: u64, free: Option<u64>| {
            let free = free.filter(|&free| free < needed)?;
            Some(format!("{what}: {} needed, {} free", BinaryBytes(needed), BinaryBytes(free)))
        };
        let disk = lacks("disk", self.store_bytes, self.disk_free);
        disk.into_iter().chain(lacks("memory", self.memory_bytes, self.memory_free)).collect()
    }
}

/// The data, counted, and an even sample of them.
struct Counted {
    records: u64,
    blocks: u64,
    block_records: u64,
    /// Of the lines the store would hold.
    text_bytes: u64,
    stride: u64,
    sample: Vec<Record>,
}

impl Counted {
    fn read(
        model: &Model,
        dataset: &mut Dataset,
        options: &IndexOptions,
        rejections: &mut Rejections,
        progress: &Progress,
    ) -> Result<Self> {
        let block_records = options.block_records;
        let mut counted = Self { records: 0, blocks: 0, block_records, text_bytes: 0, stride: 1, sample: Vec::new() };
        let first = dataset.next_index();
        loop {
            let is_ours = options.part.owns(dataset.next_index() / block_records);
            let Some(item) = dataset.next() else { break };
            interrupt::check()?;
            match item {
                Ok(_) if !is_ours => {}
                Err(error) if !is_ours => rejections.leave(error)?,
                item => match item.and_then(|record| check_label(model, dataset, record)) {
                    Ok(record) => counted.take(record),
                    Err(error) => rejections.take(error)?,
                },
            }
            if counted.records.is_multiple_of(1024) {
                progress.set(dataset.bytes_read(), counted.records);
            }
        }
        let all = options.part.blocks(dataset.next_index(), block_records);
        counted.blocks = all.filter(|number| (number + 1) * block_records > first).count() as u64;
        Ok(counted)
    }

    fn take(&mut self, record: Record) {
        let sampled = self.records.is_multiple_of(self.stride).then(|| record.clone());
        self.text_bytes += store::line_bytes(&record.into());
        self.sample.extend(sampled);
        self.records += 1;
        if self.sample.len() > SAMPLE {
            self.stride *= 2;
            let mut place = 0;
            self.sample.retain(|_| {
                place += 1;
                place % 2 == 1
            });
        }
    }

    /// The sample's tokens, and how many records were cut.
    fn encode(&self, model: &Model) -> Result<(Vec<Encoding>, usize)> {
        let encodings: Vec<Encoding> = self.sample.iter().map(|record| model.encode(record)).collect::<Result<_>>()?;
        let truncated = encodings.iter().filter(|encoding| encoding.truncated).count();
        Ok((encodings, truncated))
    }

    /// What this process holds now, and the chunks under way: texts as read, factors as computed.
    fn memory(&self, settings: &store::Settings, passes: u64) -> u64 {
        let text = self.text_bytes / self.records.max(1) + size_of::<Record>() as u64;
        let factors = passes * 4 * (settings.width + 2 * settings.classes) as u64;
        resident() + CHUNKS * self.block_records.min(self.records) * (text + factors)
    }
}

/// A label that means nothing to the model is the record's fault.
fn check_label(model: &Model, dataset: &Dataset, record: Record) -> Result<Record> {
    let label = record.label.as_ref().filter(|_| model.problem() != Problem::Headless);
    match label.map(|label| model.resolve_label(label)).transpose() {
        Ok(_) => Ok(record),
        Err(reason) => Err(dataset.place().error(reason)),
    }
}

fn tokens(encodings: &[Encoding]) -> u64 {
    encodings.iter().map(|encoding| encoding.ids.len() as u64).sum()
}

/// Tokens a second, over batches spread evenly over the sample; the first, in which weights are laid out, does not
/// count.
fn measure(model: &Model, encodings: &[Encoding], settings: &Settings) -> Result<f64> {
    let batches = encodings.len().div_ceil(BATCH).max(1);
    let run = |first| -> Result<u64> {
        let batch: Vec<Encoding> = encodings.iter().skip(first).step_by(batches).cloned().collect();
        model.run(&batch, settings.batch_tokens, &|_| !interrupt::asked())?;
        Ok(tokens(&batch))
    };
    run(0)?;
    let (mut done, began) = (0, Instant::now());
    for first in 0..batches {
        done += run(first)?;
        if began.elapsed() > MEASURED {
            break;
        }
    }
    Ok(done as f64 / began.elapsed().as_secs_f64())
}

/// Room on the disk that `dir` is or would be on, as POSIX's `df` tells it.
fn disk_free(dir: &Path) -> Option<u64> {
    let there = dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let told = Command::new("df").arg("-Pk").arg(there).output().ok().filter(|told| told.status.success())?;
    let text = String::from_utf8(told.stdout).ok()?;
    let kibibytes: u64 = text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// What this process has and may yet have: of the machine's memory what is available, and no more than a container's
/// limit leaves.
fn memory_free() -> Option<u64> {
    let machine = memory("/proc/meminfo", "MemAvailable:");
    [machine, container_free(Path::new("/sys/fs/cgroup"))].into_iter().flatten().min().map(|free| free + resident())
}

/// What the limit of a control group, version 2 or 1, leaves beside what its processes hold. Pages of files do not
/// count: they are let go of.
fn container_free(groups: &Path) -> Option<u64> {
    let read = |file: &str| std::fs::read_to_string(groups.join(file)).ok();
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    let files = |file: &str, field: &str| {
        let line = |text: String| text.lines().find_map(|line| line.strip_prefix(field)?.trim().parse::<u64>().ok());
        read(file).and_then(line).unwrap_or_default()
    };
    let (limit, held, files) = match number("memory.max") {
        Some(limit) => (limit, number("memory.current")?, files("memory.stat", "file ")),
        None => (
            number("memory/memory.limit_in_bytes")?,
            number("memory/memory.usage_in_bytes")?,
            files("memory/memory.stat", "total_cache "),
        ),
    };
    Some(limit.saturating_sub(held.saturating_sub(files)))
}

/// What this process holds.
fn resident() -> u64 {
    memory("/proc/self/status", "VmRSS:").unwrap_or_default()
}

fn memory(file: &str, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let kibibytes = text.lines().find_map(|line| line.strip_prefix(field))?.trim().strip_suffix("kB")?;
    kibibytes.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_what_its_limit_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(container_free(folder.path()), None);
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/memory.usage_in_bytes", "712\n");
        assert_eq!(container_free(folder.path()), Some(9_223_372_036_854_771_000));
        write("memory.max", "max\n");
        assert_eq!(container_free(folder.path()), Some(9_223_372_036_854_771_000));
        write("memory.max", "1000\n");
        write("memory.current", "700\n");
        write("memory.stat", "anon 400\nfile 300\nfile_mapped 20\n");
        assert_eq!(container_free(folder.path()), Some(600));
    }
}
