//! Locks whose holder may have died.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whatever a thread died of: what the locks of this crate guard is never left half-changed.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
