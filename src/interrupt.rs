//! Ctrl-C: one flag, asked between batches, so that a job stops where nothing is half-written.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Sets the flag on SIGINT, SIGTERM and SIGHUP from now on; a second signal ends the process at once.
///
/// # Errors
/// Where the handler cannot be installed.
pub fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::Relaxed) {
            #[expect(clippy::exit, reason = "asked twice: the user wants out now")]
            std::process::exit(130);
        }
    })
    .map_err(|e| Error::usage(e.to_string()))
}

/// Whether the user has asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// [`Error::Interrupted`] if the user has asked to stop.
///
/// # Errors
/// Then, and only then.
pub fn check() -> Result<()> {
    if asked() { Err(Error::Interrupted) } else { Ok(()) }
}
