//! The kernel's side of requests: its tracepoints fuse_request_send and fuse_request_end (fs/fuse/fuse_trace.h, Linux 6.10),
//! recorded in a tracing instance of our own (Documentation/trace/ftrace.rst), so that nobody's tracing is disturbed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where instances are.
const INSTANCES: &str = "/sys/kernel/tracing/instances";
/// KiB of the ring buffer of a core: some 20,000 events.
const BUFFER_KIB: &str = "2048";

/// What a tracepoint said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// CLOCK_MONOTONIC, in ns.
    pub at_ns: u64,
    /// The thread in which it happened.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// The connection: the device number of the mount.
    pub connection: u32,
    /// `fuse_in_header.unique`.
    pub unique: u64,
    /// What happened.
    pub what: What,
}

/// Which tracepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A request was handed to the connection.
    Send {
        /// Its opcode.
        opcode: u32,
    },
    /// It was answered.
    End {
        /// Negative errno, or 0.
        error: i32,
    },
}

/// Tracepoints that are being recorded.
#[derive(Debug)]
pub struct Recording(PathBuf);

impl Recording {
    /// Begins to record the requests of all FUSE mounts.
    ///
    /// # Errors
    /// There is no tracefs, it is not ours to use, or the kernel has no such tracepoints.
    pub fn start() -> io::Result<Recording> {
        let dir = Path::new(INSTANCES).join(format!("inflight-{}", std::process::id()));
        let told = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", dir.display()));
        fs::create_dir(&dir).map_err(told)?;
        let recording = Recording(dir);
        recording.set("trace_clock", "mono")?;
        recording.set("buffer_size_kb", BUFFER_KIB)?;
        recording.set("events/fuse/enable", "1")?;
        Ok(recording)
    }

    /// What was recorded, in the order in which it happened.
    ///
    /// # Errors
    /// Those of tracefs.
    pub fn finish(self) -> io::Result<Vec<Event>> {
        self.set("events/fuse/enable", "0")?;
        let text = fs::read_to_string(self.0.join("trace"))?;
        Ok(text.lines().filter_map(parse).collect())
    }

    fn set(&self, name: &str, value: &str) -> io::Result<()> {
        let path = self.0.join(name);
        let told = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        fs::write(&path, value).map_err(told)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Directories of tracefs go with all that is in them.
        if let Err(e) = fs::remove_dir(&self.0) {
            eprintln!("{} stays: {e}", self.0.display());
        }
    }
}

/// A line of the file `trace`:
/// `COMM-TID [CORE] FLAGS SECONDS.MICROS: fuse_request_send: connection 55 req 8 opcode 15 (FUSE_READ) len 80`.
fn parse(line: &str) -> Option<Event> {
    let (head, said) = line.split_once(": fuse_request_")?;
    let (task, rest) = head.split_once(" [")?;
    let (comm, tid) = task.trim().rsplit_once('-')?;
    let (seconds, fraction) = rest.rsplit_once(' ')?.1.split_once('.')?;
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    let (kind, fields) = said.split_once(": ")?;
    let field = |name: &str| {
        let mut words = fields.split_whitespace().skip_while(|word| *word != name);
        words.nth(1)
    };
    let what = match kind {
        "send" => What::Send { opcode: field("opcode")?.parse().ok()? },
        "end" => What::End { error: field("error")?.parse().ok()? },
        _ => return None,
    };
    Some(Event {
        at_ns: seconds.trim().parse::<u64>().ok()? * 1_000_000_000 + nanos,
        tid: tid.trim().parse().ok()?,
        comm: comm.trim().to_owned(),
        connection: field("connection")?.parse().ok()?,
        unique: field("req")?.parse().ok()?,
        what,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let send = "  my-program x-1234    [001] .....   512.300017: fuse_request_send: connection 55 req 8 opcode 15 (FUSE_READ) len 80 ";
        let event = parse(send).expect("a line of 6.18");
        assert_eq!((event.comm.as_str(), event.tid), ("my-program x", 1234));
        assert_eq!((event.at_ns, event.connection, event.unique), (512_300_017_000, 55, 8));
        assert_eq!(event.what, What::Send { opcode: 15 });
        let end = "    inflight-77      [000] ...1.   512.300200: fuse_request_end: connection 55 req 8 len 16 error -5";
        assert_eq!(parse(end).expect("a line").what, What::End { error: -5 });
        assert_eq!(parse("# tracer: nop"), None);
        assert_eq!(parse("CPU:1 [LOST 17 EVENTS]"), None);
    }
}
