//! Records that could not be used: an error at the first, or a list of them all where the user asked to go on.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::destination::Destination;
use crate::error::{Error, Result};

/// Skipped records, counted, and listed in a JSONL file that appears only if there are any.
pub struct Rejections {
    skip: bool,
    list: Option<PathBuf>,
    written: Option<Destination>,
    count: u64,
}

impl Rejections {
    /// Where `skip` is false, the first record that cannot be used ends the job. `list` is the file for those skipped.
    pub fn new(skip: bool, list: Option<&Path>) -> Self {
        Self { skip, list: list.map(Path::to_owned), written: None, count: 0 }
    }

    /// Takes an error met while reading: a skipped record is noted, anything else is returned.
    ///
    /// # Errors
    /// `error` itself where the job cannot go on; or what the list's file system said.
    pub fn take(&mut self, error: Error) -> Result<()> {
        let Error::Record { path, line, reason } = &error else { return Err(error) };
        if !self.skip {
            let hint = "use --skip-invalid to leave such records out";
            return Err(Error::Usage(error.to_string(), Some(hint.to_owned())));
        }
        self.count += 1;
        let Some(list) = &self.list else { return Ok(()) };
        let entry = json!({ "file": path, "line": line, "reason": reason });
        if self.written.is_none() {
            self.written = Some(Destination::create(Some(list))?);
        }
        match &mut self.written {
            Some(file) => file.write(format!("{entry}\n").as_bytes()),
            None => Ok(()),
        }
    }

    /// Records skipped so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Puts the list in its place.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn finish(self) -> Result<u64> {
        if let Some(file) = self.written {
            file.finish()?;
        }
        Ok(self.count)
    }
}
