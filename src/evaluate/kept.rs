//! A file of what is known so far: a line of what decides it, then a line a piece, each on the disk before the next
//! begins.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Such a file; nothing is kept where there is none.
pub(super) struct Kept(Option<(File, PathBuf)>);

impl Kept {
    /// Opens the file, or begins it, and reads what an earlier run left there. A line that was cut short is as if it
    /// had never been.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where `header` is not that file's; [`Error::Format`] for a file of something else.
    pub(super) fn open<T: DeserializeOwned>(path: Option<&Path>, header: &impl Serialize) -> Result<(Self, Vec<T>)> {
        let Some(path) = path else { return Ok((Self(None), Vec::new())) };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io(path)(error)),
        };
        let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let header = line_of(header);
        let mut whole = 0;
        if let Some(found) = lines.next() {
            check_header(path, &header, found)?;
            whole = found.len();
        }
        if whole == 0 && !header.starts_with(&text) {
            return Err(Error::format(path, NOT_OURS));
        }
        let mut pieces = Vec::new();
        for line in lines {
            pieces.push(serde_json::from_str(line).map_err(|e| Error::format(path, e.to_string()))?);
            whole += line.len();
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))?;
        file.set_len(whole as u64).map_err(Error::io(path))?;
        let mut kept = Self(Some((file, path.to_owned())));
        if whole == 0 {
            kept.write(&header)?;
        }
        Ok((kept, pieces))
    }

    /// One more piece.
    pub(super) fn push(&mut self, piece: &impl Serialize) -> Result<()> {
        self.write(&line_of(piece))
    }

    fn write(&mut self, line: &str) -> Result<()> {
        let Some((file, path)) = &mut self.0 else { return Ok(()) };
        file.write_all(line.as_bytes()).and_then(|()| file.sync_data()).map_err(Error::io(&*path))
    }
}

const NOT_OURS: &str = "nothing that an evaluation kept";

fn line_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

fn check_header(path: &Path, expected: &str, found: &str) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(found).is_err() {
        return Err(Error::format(path, NOT_OURS));
    }
    Err(Error::Mismatch(format!("{}: what is kept there is of another model, data or options", path.display()), None)
        .with_hint("name another file with --keep, or remove it"))
}
