//! Standard output and error that somebody may stop reading, as `head` does: what is left is not printed, and the command
//! ends as it would have ended. The standard macros panic then.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Prints a line.
pub fn print_line(line: Arguments<'_>) {
    if !CLOSED.load(Relaxed) && writeln!(std::io::stdout(), "{line}").is_err() {
        CLOSED.store(true, Relaxed);
    }
}

/// Prints a line to standard error.
pub fn complain(line: Arguments<'_>) {
    // There is nobody left to be told.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints without ending the line.
pub fn print(text: Arguments<'_>) {
    let mut out = std::io::stdout();
    if !CLOSED.load(Relaxed) && write!(out, "{text}").is_err() {
        CLOSED.store(true, Relaxed);
    }
}
