//! Messages: warnings by default, more with -v, anything with RUST_LOG.

use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Starts logging to standard error, in colours where that is a terminal and stays one.
pub fn init(verbose: u8, stays: bool) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    // fuser logs every reply that finds nobody waiting, which an abort makes normal.
    let default = format!("{level},fuser=off");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colours = stays && std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    let builder = builder.with_writer(std::io::stderr);
    if verbose > 1 {
        let _ = builder.try_init();
    } else {
        let _ = builder.without_time().with_target(false).compact().try_init();
    }
}
