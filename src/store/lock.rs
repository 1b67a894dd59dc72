//! One writer at a time: an advisory lock that the operating system gives back however the process ends.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// The lock's name. The file is empty and stays: to remove it would let two writers hold two locks of one name.
pub(super) const LOCK: &str = ".lock";

/// Held until dropped, or until the process ends, killed or not.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "open is what it is for")] File);

/// How long a lock may be held by somebody who is letting go of it: a child process has its parent's files from its birth (`fork`) until it
/// becomes its own program (`exec`), so a lock given back in between is free a moment later.
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
    pub(super) fn acquire(directory: &Path) -> Result<Self> {
        let path = directory.join(LOCK);
        let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(Error::io(&path))?;
        match patiently(&file) {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                Err(Error::usage(format!("{}: another process is writing to this store", directory.display()))
                    .with_hint("wait until it is done, or write to another directory"))
            }
            // Some cluster file systems have no locks at all; there the scheduler must keep jobs apart.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(Self(file)),
            Err(TryLockError::Error(error)) => Err(Error::io(&path)(error)),
        }
    }
}
