//! What can go wrong, in one enum: each variant says what, where, expected and found, and, where something can be done,
//! carries a hint. The binary prints it as one line (and a `hint:` line) and leaves with exit code 2, or 130 when
//! interrupted.

use std::fmt;
use std::path::{Path, PathBuf};

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything this library can refuse or fail at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What the operating system said: told with the path, so that it is no source to be told again.
        error: std::io::Error,
    },
    /// A file is there, but what it holds is not what it must hold.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file concerned.
        path: PathBuf,
        /// What is wrong, what was expected and what was found.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A record of a data file cannot be used.
    #[error("{}:{line}: {reason}", path.display())]
    Record {
        /// The data file.
        path: PathBuf,
        /// The 1-based line (for Parquet, the row).
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Two things that must belong together do not (a store and a model, two shards, …).
    #[error("{0}")]
    Mismatch(String, Option<String>),
    /// The request itself cannot be met.
    #[error("{0}")]
    Usage(String, Option<String>),
    /// A device cannot be used, or failed.
    #[error("{0}")]
    Device(String, Option<String>),
    /// A device has no room for what was asked of it at a time.
    #[error("{0}")]
    OutOfMemory(String, Option<String>),
    /// Ctrl-C: what was finished stays.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// An [`Error::Io`] at `path`, for `map_err`; what a reader of this crate's own said is taken as it was said.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |error| error.downcast().unwrap_or_else(|error| Self::Io { path: path.as_ref().to_owned(), error })
    }

    /// An [`Error::Format`] with no hint.
    pub fn format(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Format { path: path.as_ref().to_owned(), reason: reason.into(), hint: None }
    }

    /// An [`Error::Usage`] with no hint.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into(), None)
    }

    /// An [`Error::Usage`] for outputs of which nothing can be said; `of` is whose they are.
    pub(crate) fn not_numbers(of: impl fmt::Display) -> Self {
        Self::usage(format!("{of}: the model's outputs are not numbers"))
            .with_hint("check the model's weights and this record")
    }

    /// An [`Error::Usage`] for a training whose last steps were too long; `of` is which.
    pub(crate) fn diverged(of: impl fmt::Display) -> Self {
        Self::usage(format!("{of}: the model's outputs are no longer numbers"))
            .with_hint("lower --learning-rate, or lengthen --warmup")
    }

    /// This error with a line on what to do about it (kept where the variant has room for one).
    #[must_use]
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        match &mut self {
            Self::Format { hint, .. }
            | Self::Mismatch(_, hint)
            | Self::Usage(_, hint)
            | Self::Device(_, hint)
            | Self::OutOfMemory(_, hint) => *hint = Some(text.into()),
            Self::Io { .. } | Self::Record { .. } | Self::Interrupted => {}
        }
        self
    }

    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Format { hint, .. }
            | Self::Mismatch(_, hint)
            | Self::Usage(_, hint)
            | Self::Device(_, hint)
            | Self::OutOfMemory(_, hint) => hint.as_deref(),
            Self::Io { .. } | Self::Record { .. } | Self::Interrupted => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_said_is_told_once() {
        let error = Error::io("a.csv")(std::io::Error::other("no room"));
        assert_eq!(format!("{:#}", anyhow::Error::new(error)), "a.csv: no room");
    }
}
