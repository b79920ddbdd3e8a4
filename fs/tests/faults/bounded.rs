//! A watchdog: what hangs is a finding, not a test that never ends.

use std::sync::mpsc;
use std::time::Duration;

/// Far more than any run takes.
const BOUND: Duration = Duration::from_secs(60);

/// Runs `f` in a thread of its own.
///
/// # Errors
/// When it panics or is not done within a minute; the thread is left behind then.
pub fn bounded<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (done, result) = mpsc::channel();
    let thread = std::thread::spawn(move || drop(done.send(f())));
    match result.recv_timeout(BOUND) {
        Ok(value) => Ok(value),
        Err(mpsc::RecvTimeoutError::Timeout) => Err("it hangs".into()),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let panic = thread.join().expect_err("it sent nothing");
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("it panics: {}", text.unwrap_or("?")))
        }
    }
}
