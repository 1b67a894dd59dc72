//! Files and folders that appear whole or not at all, or standard output.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

use crate::error::{Error, Result};

/// Standard output, or a file that takes its place only when finished. Dropped unfinished, it leaves nothing. A device
/// or a pipe is written to as it is, and a link leads to the file that is replaced.
pub struct Destination {
    path: Option<PathBuf>,
    writer: Writer,
}

enum Writer {
    Stdout(BufWriter<io::Stdout>),
    File(BufWriter<NamedTempFile>),
    /// What is there and no plain file.
    Special(BufWriter<File>),
}

/// Whether something is there that is no plain file: a device, a pipe. Nothing can take its place, or lie beside it.
pub fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir())
}

impl Destination {
    /// A sibling of `out` that [`Destination::finish`] renames, or standard output.
    ///
    /// # Errors
    /// Where the folder does not exist or cannot be written to.
    pub fn create(out: Option<&Path>) -> Result<Self> {
        let followed = out.map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()));
        let writer = match followed.as_deref() {
            None => Writer::Stdout(BufWriter::new(io::stdout())),
            Some(path) if path.is_dir() => {
                return Err(Error::usage(format!("{}: expected a file, found a folder", path.display()))
                    .with_hint("name a file in it"));
            }
            Some(path) if is_special(path) => {
                Writer::Special(BufWriter::new(File::options().write(true).open(path).map_err(Error::io(path))?))
            }
            Some(path) => {
                let folder = match path.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
                if !folder.is_dir() {
                    let reason = format!("{}: there is no folder {}", path.display(), folder.display());
                    return Err(Error::usage(reason).with_hint("make the folder first"));
                }
                // Opened as any file is, so that its permissions are what the umask says; tempfile's own are private.
                let file = tempfile::Builder::new()
                    .prefix(PREFIX)
                    .suffix(SUFFIX)
                    .make_in(folder, |path| File::create_new(path))
                    .map_err(Error::io(path))?;
                Writer::File(BufWriter::with_capacity(1 << 20, file))
            }
        };
        Ok(Self { path: followed, writer })
    }

    /// The error for a failed write here.
    pub fn error(&self, error: io::Error) -> Error {
        Error::Io { path: self.path.clone().unwrap_or_else(|| PathBuf::from("standard output")), error }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// Where the file system or the pipe refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(|e| self.error(e))
    }

    /// Flushes; a file is synced and renamed to its place.
    ///
    /// # Errors
    /// Where the file system or the pipe refuses; the file's place is then untouched.
    pub fn finish(mut self) -> Result<()> {
        self.flush().map_err(|e| self.error(e))?;
        let Self { path: Some(path), writer: Writer::File(buffer) } = self else { return Ok(()) };
        let file = buffer.into_inner().map_err(|e| Error::io(&path)(e.into_error()))?;
        file.as_file().sync_all().map_err(Error::io(&path))?;
        file.persist(&path).map_err(|e| Error::io(&path)(e.error))?;
        Ok(())
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.writer {
            Writer::Stdout(w) => w.write(bytes),
            Writer::File(w) => w.write(bytes),
            Writer::Special(w) => w.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.writer {
            Writer::Stdout(w) => w.flush(),
            Writer::File(w) => w.flush(),
            Writer::Special(w) => w.flush(),
        }
    }
}

/// What is not whole yet is called so, with something drawn between them.
const PREFIX: &str = ".wherefore-";
const SUFFIX: &str = ".partial";

/// Whether a name is that of something that was never whole: what a killed process left.
pub(crate) fn is_partial(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
}

/// A folder that takes its place only when finished. Dropped unfinished, it leaves nothing.
pub(crate) struct PartialFolder {
    to: PathBuf,
    /// Private, as temporary folders are: what is to stay lies in it, made as any folder is.
    around: TempDir,
    folder: PathBuf,
}

impl PartialFolder {
    /// Beside `to`, whose parent must be there.
    pub(crate) fn create(to: &Path) -> Result<Self> {
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let around = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempdir_in(parent);
        let around = around.map_err(Error::io(to))?;
        let folder = around.path().join("folder");
        fs::create_dir(&folder).map_err(Error::io(&folder))?;
        Ok(Self { to: to.to_owned(), around, folder })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Puts it in its place, or in the place of another, which goes only when this one can take it.
    pub(crate) fn finish(self) -> Result<()> {
        let Self { to, around, folder } = self;
        let old = around.path().join("old");
        let replaces = to.exists();
        if replaces {
            fs::rename(&to, &old).map_err(Error::io(&to))?;
        }
        if let Err(error) = fs::rename(&folder, &to) {
            if replaces && fs::rename(&old, &to).is_err() {
                // What was there is in it, and must not go with it.
                let _ = around.keep();
            }
            return Err(Error::io(&to)(error));
        }
        around.close().map_err(Error::io(&to))
    }
}
