//! A signal that interrupts one thread and does nothing else.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

extern "C" fn nothing(_: libc::c_int) {}

/// Sends a thread of this process SIGUSR1, whose handler does nothing. What the thread waits in is interrupted: without
/// SA_RESTART, so that a system call that gives up returns EINTR.
///
/// # Errors
/// sigaction(2) failed, or there is no such thread.
pub fn interrupt(thread: i32) -> anyhow::Result<()> {
    static MADE: OnceLock<nix::Result<()>> = OnceLock::new();
    MADE.get_or_init(|| {
        let action =
            SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: a handler without any effect may run at any point.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.map(drop)
    })
    .context("sigaction")?;
    let process = nix::unistd::getpid().as_raw();
    // SAFETY: the call takes numbers only; the handler is in place.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
    Errno::result(sent).context("tgkill").map(drop)
}
