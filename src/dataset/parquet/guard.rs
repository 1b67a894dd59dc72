//! The crate's decoders assert what damaged pages break: such a panic is an error of the file, and nothing else is said about it.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use parquet::errors::ParquetError;

thread_local! {
    /// Whether this thread's panics are caught and told by [`guarded`].
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// A panic ends this file like any other error; nothing it was working on is used again.
pub(super) fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    hush();
    CAUGHT.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(read));
    CAUGHT.set(false);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|&text| text.to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(ParquetError::General(format!("damaged page: {text}")))
    })
}

/// From the first call on, what prints panics is not told of those that are caught here. It is told of all others, as before.
fn hush() {
    static HUSHED: Once = Once::new();
    HUSHED.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !CAUGHT.get() {
                print(panic);
            }
        }));
    });
}
