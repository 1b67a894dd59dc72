//! From what the user typed to files, formats and byte streams.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::destination::is_special;
use crate::error::{Error, Result};
use crate::interrupt;

/// One input, its format told by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) path: PathBuf,
    pub(super) format: Format,
    compression: Compression,
    /// Bytes as stored; `None` for standard input.
    pub(super) len: Option<u64>,
}

/// What stands for the file of a record that was typed.
pub(super) const TYPED: &str = "the typed text";
/// What stands for the file of records from memory.
const MADE: &str = "the given records";

impl Input {
    /// What was typed on the command line.
    pub(super) fn typed() -> Self {
        Self { path: TYPED.into(), format: Format::Jsonl, compression: Compression::None, len: None }
    }

    /// What was given by the caller.
    pub(super) fn made() -> Self {
        Self { path: MADE.into(), ..Self::typed() }
    }
}

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Jsonl,
    Csv,
    Tsv,
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Bytes read of all inputs, as stored, for whoever shows progress.
pub(super) type Counter = Arc<AtomicU64>;

/// Paths and globs to inputs, in order, each known to be there and to be of a known format.
pub(super) fn expand(patterns: &[String]) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for pattern in patterns {
        if pattern == "-" {
            inputs.push(Input::stdin());
            continue;
        }
        for path in matches(pattern)? {
            inputs.push(Input::file(path)?);
        }
    }
    if inputs.is_empty() {
        return Err(Error::usage("no data file given"));
    }
    if inputs.iter().filter(|input| input.len.is_none()).count() > 1 {
        return Err(Error::usage("standard input (-) can be read once only"));
    }
    Ok(inputs)
}

/// The files of a pattern in alphabetical order; a file whose own name looks like a pattern is that file.
pub(crate) fn matches(pattern: &str) -> Result<Vec<PathBuf>> {
    if Path::new(pattern).exists() || !pattern.contains(['*', '?', '[']) {
        return Ok(vec![PathBuf::from(pattern)]);
    }
    let paths = glob::glob(pattern).map_err(|error| Error::usage(format!("{pattern}: not a pattern: {error}")))?;
    let paths: Vec<PathBuf> = paths
        .map(|path| path.map_err(|error| Error::Io { path: error.path().to_owned(), error: error.into() }))
        .collect::<Result<_>>()?;
    if paths.is_empty() {
        return Err(Error::usage(format!("{pattern}: no file matches")));
    }
    Ok(paths)
}

impl Input {
    fn stdin() -> Self {
        Self { path: PathBuf::from("-"), format: Format::Jsonl, compression: Compression::None, len: None }
    }

    fn file(path: PathBuf) -> Result<Self> {
        let metadata = std::fs::metadata(&path).map_err(Error::io(&path))?;
        if metadata.is_dir() {
            let hint = format!("give its files: {}", path.join("*.jsonl").display());
            return Err(Error::format(&path, "expected a data file, found a folder").with_hint(hint));
        }
        let (format, compression) = by_extension(&path)?;
        Ok(Self { path, format, compression, len: Some(metadata.len()) })
    }

    /// The bytes, decompressed; what is read of the stored ones is added to `counter`.
    pub(super) fn bytes(&self, counter: &Counter) -> Result<Box<dyn Read + Send>> {
        if self.len.is_none() {
            return Ok(Box::new(Pipe::of(io::stdin())));
        }
        let stored = Counted { file: self.open()?, counter: Arc::clone(counter) };
        Ok(match self.compression {
            Compression::None => Box::new(stored),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(stored)),
            Compression::Zstd => Box::new(zstd::Decoder::new(stored).map_err(Error::io(&self.path))?),
        })
    }

    fn open(&self) -> Result<Box<dyn Read + Send>> {
        let path = self.path.clone();
        if is_special(&path) {
            // A pipe without a writer keeps whoever opens it waiting, too.
            let file = interrupt::apart(move || File::open(path))?;
            return Ok(Box::new(Pipe::of(file.map_err(Error::io(&self.path))?)));
        }
        Ok(Box::new(File::open(&path).map_err(Error::io(path))?))
    }
}

#[cfg(feature = "parquet")]
impl Input {
    /// The file, to be read in any order: of what is compressed, a nameless one of what it decompresses to.
    pub(super) fn seekable(&self) -> Result<File> {
        use std::io::Seek;
        if self.compression == Compression::None {
            return File::open(&self.path).map_err(Error::io(&self.path));
        }
        let mut plain = tempfile::tempfile().map_err(Error::io(std::env::temp_dir()))?;
        io::copy(&mut self.bytes(&Counter::default())?, &mut plain)
            .and_then(|_| plain.rewind())
            .map_err(Error::io(&self.path))?;
        Ok(plain)
    }
}

/// Format and compression by the name's last one or two extensions, in any case.
fn by_extension(path: &Path) -> Result<(Format, Compression)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let (stem, compression) = if let Some(stem) = name.strip_suffix(".gz") {
        (stem, Compression::Gzip)
    } else if let Some(stem) = name.strip_suffix(".zst") {
        (stem, Compression::Zstd)
    } else {
        (name.as_str(), Compression::None)
    };
    let format = match stem.rsplit_once('.').map(|(_, extension)| extension) {
        Some("jsonl" | "ndjson" | "json") => Format::Jsonl,
        Some("csv") => Format::Csv,
        Some("tsv") => Format::Tsv,
        Some("parquet") => Format::Parquet,
        _ => {
            let reason = "unknown kind of data file: expected .jsonl, .csv, .tsv or .parquet, each also .gz or .zst";
            return Err(Error::format(path, reason));
        }
    };
    Ok((format, compression))
}

/// A file that counts what is read of it.
struct Counted {
    file: Box<dyn Read + Send>,
    counter: Counter,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.counter.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// What may have nothing to say for long: Ctrl-C is heard while it is waited for.
struct Pipe<R> {
    /// `None` where a read was left.
    stream: Option<R>,
    buffer: Vec<u8>,
    /// Of the buffer, what has not been passed on.
    unread: Range<usize>,
}

impl<R> Pipe<R> {
    /// As much as the system's own pipes hold.
    const BUFFER: usize = 1 << 16;

    fn of(stream: R) -> Self {
        Self { stream: Some(stream), buffer: vec![0; Self::BUFFER], unread: 0..0 }
    }
}

impl<R: Read + Send + 'static> Read for Pipe<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            let Some(mut stream) = self.stream.take() else { return Ok(0) };
            let mut buffer = std::mem::take(&mut self.buffer);
            let (stream, buffer, read) = interrupt::apart(move || {
                let read = stream.read(&mut buffer);
                (stream, buffer, read)
            })
            .map_err(io::Error::other)?;
            (self.stream, self.buffer) = (Some(stream), buffer);
            self.unread = 0..read?;
        }
        let count = out.len().min(self.unread.len());
        out[..count].copy_from_slice(&self.buffer[self.unread.start..][..count]);
        self.unread.start += count;
        Ok(count)
    }
}
