//! Ctrl-C: noted once for the whole process, which may play several runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static SEEN: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on SIGINT, SIGTERM and SIGHUP are only noted: what was played is written down before the end.
///
/// # Errors
/// sigaction(2) failed.
pub fn catch() -> anyhow::Result<()> {
    let mut made = Ok(());
    SEEN.get_or_init(|| {
        let seen = Arc::new(AtomicBool::new(false));
        made = [SIGINT, SIGTERM, SIGHUP].into_iter().try_for_each(|signal| {
            signal_hook::flag::register(signal, Arc::clone(&seen)).map(drop)
        });
        seen
    });
    Ok(made?)
}

/// Whether one came.
pub fn is_seen() -> bool {
    SEEN.get().is_some_and(|seen| seen.load(Ordering::Relaxed))
}
