//! Records that could not be used: an error at the first, or a list of them all where the user asked to go on.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::files::TYPED;
use crate::destination::Destination;
use crate::error::{Error, Result};

/// Skipped records, counted, and listed in a JSONL file, in the order of the input, that appears only if there are any.
#[derive(Debug, Default)]
pub struct Rejections {
    skip: bool,
    list: Option<PathBuf>,
    /// By the file, as files were first met, and the line: readers and those after them refuse records each in their
    /// own time.
    listed: Vec<(usize, u64, String)>,
    files: Vec<PathBuf>,
    count: u64,
    /// The first, for where there is no list.
    first: Option<String>,
    /// What has been counted, where it is read several times.
    known: Option<HashSet<(PathBuf, u64)>>,
}

impl Rejections {
    /// Where `skip` is false, the first record that cannot be used ends the job. `list` is the file for those skipped.
    pub fn new(skip: bool, list: Option<&Path>) -> Self {
        Self { skip, list: list.map(Path::to_owned), ..Self::default() }
    }

    /// For a job that reads its files several times: a record is counted, and listed, once.
    #[must_use]
    pub fn once(self) -> Self {
        Self { known: Some(HashSet::new()), ..self }
    }

    /// Takes an error met while reading: a skipped record is noted, anything else is returned.
    ///
    /// # Errors
    /// `error` itself where the job cannot go on; or what the list's file system said.
    pub fn take(&mut self, error: Error) -> Result<()> {
        let Error::Record { path, line, reason } = &error else { return Err(error) };
        if !self.skip {
            // There is nothing left where the only record is left out.
            let hint = (*path != Path::new(TYPED)).then(|| "use --skip-invalid to leave such records out".to_owned());
            return Err(Error::Usage(error.to_string(), hint));
        }
        if self.known.as_mut().is_some_and(|known| !known.insert((path.clone(), *line))) {
            return Ok(());
        }
        self.count += 1;
        if self.first.is_none() {
            self.first = Some(error.to_string());
        }
        if self.list.is_some() {
            let file = self.files.iter().position(|file| file == path).unwrap_or_else(|| {
                self.files.push(path.clone());
                self.files.len() - 1
            });
            self.listed.push((file, *line, json!({ "file": path, "line": line, "reason": reason }).to_string()));
        }
        Ok(())
    }

    /// Takes an error met in what another job of several takes: where records are skipped, that job counts and lists
    /// it.
    ///
    /// # Errors
    /// As [`Rejections::take`].
    pub fn leave(&mut self, error: Error) -> Result<()> {
        match error {
            Error::Record { .. } if self.skip => Ok(()),
            error => self.take(error),
        }
    }

    /// Why the first was skipped, and where it is.
    pub fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }

    /// Records skipped so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Puts the list in its place, or takes away that of an earlier run.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn finish(mut self) -> Result<u64> {
        let Some(list) = &self.list else { return Ok(self.count) };
        if self.listed.is_empty() {
            let _ = fs::remove_file(list);
            return Ok(self.count);
        }
        self.listed.sort_by_key(|(file, line, _)| (*file, *line));
        let mut file = Destination::create(Some(list))?;
        for (_, _, entry) in &self.listed {
            file.write(format!("{entry}\n").as_bytes())?;
        }
        file.finish()?;
        Ok(self.count)
    }
}
