//! The kernel log, as part of every verdict: what it said between two moments.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// Words that no healthy kernel says.
const COMPLAINTS: [&str; 14] = [
    "WARNING:",
    "BUG:",
    "kernel BUG at",
    "Oops",
    "KASAN",
    "KCSAN",
    "UBSAN",
    "general protection",
    "refcount_t:",
    "Bad page",
    "bad page",
    "trying to steal weird page",
    "blocked for more than",
    "possible circular locking",
];

/// A reader that starts at the end of the log.
#[derive(Debug)]
pub struct KernelLog(File);

impl KernelLog {
    /// Opens `/dev/kmsg` at its end; `None` when we may not read it.
    pub fn open() -> Option<KernelLog> {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(KernelLog(file))
    }

    /// Complaints since the last call.
    pub fn complaints(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        let mut record = [0; 8192];
        loop {
            let text = match self.0.read(&mut record) {
                Ok(count) => String::from_utf8_lossy(&record[..count]).into_owned(),
                // The oldest records were overwritten; the next read goes on behind the gap.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return found,
            };
            let message = text.split_once(';').map_or(&*text, |(_, message)| message);
            let line = message.lines().next().unwrap_or("");
            if COMPLAINTS.iter().any(|complaint| line.contains(complaint)) {
                found.push(line.to_owned());
            }
        }
    }
}
