//! One writer at a time: an advisory lock that the operating system gives back however the process ends.

use std::fs::{self, DirEntry, File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// The lock's name in the folder. The file is empty, and stays where the folder does.
pub(crate) const LOCK: &str = ".lock";

/// Held until dropped, or until the process ends, killed or not.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "open is what it is for")] File);

/// How long a lock may be held by somebody who is letting go of it: a child process has its parent's files from its
/// birth (`fork`) until it becomes its own program (`exec`), so a lock given back in between is free a moment later.
const PATIENCE: Duration = Duration::from_millis(500);

fn patiently(file: &File) -> Result<(), TryLockError> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(5)),
            other => return other,
        }
    }
}

impl Lock {
    /// Of a folder that is there; `what` is in it, for whoever comes second.
    pub(crate) fn acquire(directory: &Path, what: &str) -> Result<Self> {
        let path = directory.join(LOCK);
        loop {
            let file =
                File::options().write(true).create(true).truncate(false).open(&path).map_err(Error::io(&path))?;
            match patiently(&file) {
                // Who held it may have taken it away with the folder; a lock of what is gone keeps nobody out.
                Ok(()) if !path.exists() => {}
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::usage(format!(
                        "{}: another process is writing to this {what}",
                        directory.display()
                    ))
                    .with_hint("wait until it is done, or write to another directory"));
                }
                // Some cluster file systems have no locks at all; there the scheduler must keep jobs apart.
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => return Ok(Self(file)),
                Err(TryLockError::Error(error)) => return Err(Error::io(&path)(error)),
            }
        }
    }

    /// Takes away a folder that holds a lock and nothing else; where there is more, or it cannot be, it stays.
    pub(crate) fn remove_with(directory: &Path) {
        let only = |entry: std::io::Result<DirEntry>| entry.is_ok_and(|entry| entry.file_name() == LOCK);
        if fs::read_dir(directory).is_ok_and(|mut entries| entries.all(only)) {
            let _ = fs::remove_file(directory.join(LOCK)).and_then(|()| fs::remove_dir(directory));
        }
    }
}
