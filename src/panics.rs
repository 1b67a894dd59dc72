//! Panics of other crates over damaged files, as errors.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread's panics are caught and told by [`caught`].
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// What `f` says, or what it panicked with; nothing that it was working on may be used again.
pub(crate) fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    hush();
    CAUGHT.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    CAUGHT.set(false);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|&text| text.to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}

/// From the first call on, what prints panics is not told of those that are caught here. It is told of all others, as
/// before.
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
