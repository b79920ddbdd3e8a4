//! Messages: warnings by default, more with -v, anything with RUST_LOG.

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error.
pub fn init(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    // fuser logs every reply that finds nobody waiting, which an abort makes normal.
    let default = format!("{level},fuser=off");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if verbose > 1 {
        let _ = builder.try_init();
    } else {
        let _ = builder.without_time().with_target(false).compact().try_init();
    }
}
