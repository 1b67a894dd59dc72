//! Ctrl-C: one flag, asked between batches, so that a job stops where nothing is half-written.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};

static ASKED: AtomicBool = AtomicBool::new(false);

/// How soon a signal is noticed where nobody can look between two pieces of work.
const GLANCE: Duration = Duration::from_millis(50);

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

/// Does on a thread of its own what cannot look at the flag, such as a long factorisation or a read that waits; once
/// the user has asked to stop it is left to itself, and ends with the process.
///
/// # Errors
/// [`Error::Interrupted`] then, and only then.
pub(crate) fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (to, done) = sync_channel(1);
    let thread = thread::spawn(move || {
        let _ = to.send(work());
    });
    loop {
        match done.recv_timeout(GLANCE) {
            Ok(made) => return Ok(made),
            Err(RecvTimeoutError::Timeout) => check()?,
            Err(RecvTimeoutError::Disconnected) => {
                return thread.join().map_or_else(|panic| resume_unwind(panic), |()| Err(Error::Interrupted));
            }
        }
    }
}
