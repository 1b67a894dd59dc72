//! A file that appears whole or not at all, or standard output.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// Standard output, or a file that takes its place only when finished. Dropped unfinished, it leaves nothing.
pub struct Destination {
    path: Option<PathBuf>,
    writer: Writer,
}

enum Writer {
    Stdout(BufWriter<io::Stdout>),
    File(BufWriter<NamedTempFile>),
}

impl Destination {
    /// A sibling of `out` that [`Destination::finish`] renames, or standard output.
    ///
    /// # Errors
    /// Where the folder does not exist or cannot be written to.
    pub fn create(out: Option<&Path>) -> Result<Self> {
        let writer = match out {
            None => Writer::Stdout(BufWriter::new(io::stdout())),
            Some(path) => {
                let folder = match path.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
                if !folder.is_dir() {
                    let reason = format!("{}: there is no folder {}", path.display(), folder.display());
                    return Err(Error::usage(reason).with_hint("make the folder first"));
                }
                let file = tempfile::Builder::new()
                    .prefix(".wherefore-")
                    .suffix(".partial")
                    .tempfile_in(folder)
                    .map_err(Error::io(path))?;
                Writer::File(BufWriter::with_capacity(1 << 20, file))
            }
        };
        Ok(Self { path: out.map(Path::to_owned), writer })
    }

    /// The error for a failed write here.
    pub fn error(&self, source: io::Error) -> Error {
        Error::Io { path: self.path.clone().unwrap_or_else(|| PathBuf::from("standard output")), source }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// Where the file system or the pipe refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(|e| self.error(e))
    }

    /// Flushes; a file is synced and renamed to its place, with the permissions a new file would have.
    ///
    /// # Errors
    /// Where the file system or the pipe refuses; the file's place is then untouched.
    pub fn finish(mut self) -> Result<()> {
        self.flush().map_err(|e| self.error(e))?;
        let Self { path: Some(path), writer: Writer::File(buffer) } = self else { return Ok(()) };
        let file = buffer.into_inner().map_err(|e| Error::io(&path)(e.into_error()))?;
        file.as_file().sync_all().map_err(Error::io(&path))?;
        open_to_the_umask(file.as_file()).map_err(Error::io(&path))?;
        file.persist(&path).map_err(|e| Error::io(&path)(e.error))?;
        Ok(())
    }
}

/// Temporary files are made private; a result is an ordinary file.
#[cfg(unix)]
fn open_to_the_umask(file: &std::fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn open_to_the_umask(_: &std::fs::File) -> io::Result<()> {
    Ok(())
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.writer {
            Writer::Stdout(w) => w.write(bytes),
            Writer::File(w) => w.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.writer {
            Writer::Stdout(w) => w.flush(),
            Writer::File(w) => w.flush(),
        }
    }
}
