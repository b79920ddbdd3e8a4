//! Standard output and error that somebody may stop reading, as `head` does: what is left is not printed, and the command
//! ends as it would have ended. The standard macros panic then.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// True when nobody reads standard output any more: whoever prints for ever ends.
pub fn is_closed() -> bool {
    CLOSED.load(Relaxed)
}

/// Prints a line; see the macros of this name.
pub fn print_line(line: Arguments<'_>) {
    if !is_closed() && writeln!(std::io::stdout(), "{line}").is_err() {
        CLOSED.store(true, Relaxed);
    }
}

/// Prints a line to standard error.
pub fn complain(line: Arguments<'_>) {
    // There is nobody left to be told.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints all of `bytes`.
pub fn print_all(bytes: &[u8]) {
    let mut out = std::io::stdout();
    if !is_closed() && out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        CLOSED.store(true, Relaxed);
    }
}
