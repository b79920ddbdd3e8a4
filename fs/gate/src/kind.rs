//! Kinds of requests by name, and who asks.

use super::{GateError, Subject};
use inflight_fuse::abi::Opcode;

/// What an FSYNC with FUSE_FSYNC_FDATASYNC is called.
const FDATASYNC: &str = "fdatasync";

/// A kind of request that a rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// Its opcode.
    pub opcode: Opcode,
    /// For FSYNC: whether fdatasync(2) is meant, or fsync(2).
    data_only: bool,
}

impl Kind {
    /// Whether this kind means that request: the kernel sends copies as COPY_FILE_RANGE_64 first
    /// (fuse.h, since 7.45), and whoever names the older one means both.
    pub fn is_meant(self, subject: &Subject) -> bool {
        let (named, came) = (self.opcode, subject.opcode);
        let same =
            named == came || named == Opcode::COPY_FILE_RANGE && came == Opcode::COPY_FILE_RANGE_64;
        same && (named != Opcode::FSYNC || self.data_only == subject.data_only)
    }
}

/// The kinds of a list of names, separated by commas.
///
/// # Errors
/// [`GateError::UnknownOp`] with the nearest names.
pub(super) fn list(names: &str) -> Result<Vec<Kind>, GateError> {
    names.split(',').map(|name| kind(name.trim())).collect()
}

fn kind(name: &str) -> Result<Kind, GateError> {
    if name.eq_ignore_ascii_case(FDATASYNC) {
        return Ok(Kind { opcode: Opcode::FSYNC, data_only: true });
    }
    let opcode = name.parse().map_err(|_| {
        let distance = |known: &str| strsim::damerau_levenshtein(known, &name.to_lowercase());
        let known = Opcode::TABLE.iter().map(|(_, name)| *name).chain([FDATASYNC]);
        let mut near: Vec<_> = known.map(|known| (distance(known), known)).collect();
        near.sort_unstable();
        let nearest: Vec<_> = near.iter().take(3).map(|(_, name)| *name).collect();
        GateError::UnknownOp { name: name.to_owned(), nearest: nearest.join(", ") }
    })?;
    Ok(Kind { opcode, data_only: false })
}

/// Whether a thread is of a process. The kernel names the thread that asks (fuse_get_req).
pub(super) fn is_of_process(thread: u32, process: u32) -> bool {
    if thread == process {
        return true;
    }
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    thread != 0 && group.and_then(|id| id.trim().parse().ok()) == Some(process)
}

/// Whether a thread has this name. Who is gone already has none.
pub(super) fn is_called(thread: u32, comm: &str) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{thread}/comm"));
    thread != 0 && name.is_ok_and(|name| name.trim_end_matches('\n') == comm)
}
