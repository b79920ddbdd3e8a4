//! Panics of the database on a hostile image become errors, here and nowhere else.

use crate::errno::Error;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, which calls the database. The database refuses most damaged pages with an error, but
/// not all; what it was doing when it panicked must not be used again.
pub fn guard<T>(what: &str, f: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    quiet_when_guarded();
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(outer);
    result.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Err(Error::Damaged(format!("{what}: the database gave up ({text})")))
    })
}

/// A caught panic is a finding; printing it as a crash of this program would be wrong.
fn quiet_when_guarded() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if GUARDED.get() {
                tracing::debug!("caught: {info}");
            } else {
                default(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_names_what_was_done() {
        let caught = guard("reading names", || -> Result<(), Error> { panic!("page 7") });
        let text = caught.expect_err("a panic").to_string();
        assert!(text.contains("reading names") && text.contains("page 7"), "{text}");
    }
}
