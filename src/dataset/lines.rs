//! Lines of a byte stream, none longer than a record may be.

use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bytes in a record at most. What is longer is no record of text but a damaged file, or another format.
pub(super) const RECORD_LIMIT: usize = 16 << 20;

const BUFFER: usize = 256 << 10;

/// What was found where a line was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Line,
    /// A line over the limit: read past, not kept.
    TooLong,
    End,
}

/// A stream of lines that knows their numbers and can take lines back.
pub(super) struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
    /// Lines given back, read again before the stream goes on.
    returned: Cursor<Vec<u8>>,
    path: PathBuf,
    number: u64,
    limit: usize,
}

impl Lines {
    /// Past the byte order mark, where there is one.
    ///
    /// # Errors
    /// [`Error::Io`] where the first bytes cannot be read; [`Error::Format`] where they are UTF-16's mark.
    pub(super) fn new(bytes: Box<dyn Read + Send>, path: &Path) -> Result<Self> {
        Self::with_limit(bytes, path, RECORD_LIMIT)
    }

    fn with_limit(bytes: Box<dyn Read + Send>, path: &Path, limit: usize) -> Result<Self> {
        let reader = BufReader::with_capacity(BUFFER, bytes);
        let mut lines = Self { reader, returned: Cursor::default(), path: path.to_owned(), number: 0, limit };
        lines.skip_mark()?;
        Ok(lines)
    }

    /// The number of the line last read, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The file they come from.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the next line into `line` (which is emptied first), its end included.
    pub(super) fn read(&mut self, line: &mut Vec<u8>) -> Result<Found> {
        line.clear();
        if self.returned.position() < self.returned.get_ref().len() as u64 {
            self.returned.read_until(b'\n', line).map_err(Error::io(&self.path))?;
            self.number += 1;
            return Ok(Found::Line);
        }
        let room = self.limit as u64 + 1;
        let read = self.reader.by_ref().take(room).read_until(b'\n', line).map_err(Error::io(&self.path))?;
        if read == 0 {
            return Ok(Found::End);
        }
        self.number += 1;
        if read <= self.limit {
            return Ok(Found::Line);
        }
        if line.last() != Some(&b'\n') {
            self.reader.skip_until(b'\n').map_err(Error::io(&self.path))?;
        }
        *line = Vec::new();
        Ok(Found::TooLong)
    }

    /// Takes back the `count` lines last read, to be read again. None may be over the limit.
    pub(super) fn give_back(&mut self, mut lines: Vec<u8>, count: u64) {
        let unread = self.returned.position() as usize;
        lines.extend_from_slice(&self.returned.get_ref()[unread..]);
        self.returned = Cursor::new(lines);
        self.number -= count;
    }

    fn skip_mark(&mut self) -> Result<()> {
        let mut start = Vec::with_capacity(3);
        self.reader.by_ref().take(3).read_to_end(&mut start).map_err(Error::io(&self.path))?;
        if start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]) {
            let error = Error::format(&self.path, "expected UTF-8, found UTF-16");
            return Err(error.with_hint("convert it: iconv -f UTF-16 -t UTF-8"));
        }
        if start != [0xef, 0xbb, 0xbf] {
            let rest = std::mem::replace(&mut self.reader, BufReader::new(Box::new(std::io::empty())));
            self.reader = BufReader::with_capacity(BUFFER, Box::new(Cursor::new(start).chain(rest)));
        }
        Ok(())
    }
}

/// A line without its `\n` or `\r\n`.
pub(super) fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Bytes as text, or why not.
pub(super) fn as_text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        format!("not UTF-8: byte 0x{:02x} at byte {}", bytes[at], at + 1)
    })
}

/// The reason given for a record over the limit.
pub(super) fn too_long(what: &str) -> String {
    format!("{what} is longer than {} MiB", RECORD_LIMIT >> 20)
}
