//! Operations as data. Printed with `{:?}`, a workload can be read and typed in again.

/// A path below the root; "" is the root, "@" the file that is held open.
pub type Path = &'static str;

/// What renameat2(2) does with a name that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    Over,
    NoReplace,
    Exchange,
    Whiteout,
}

impl Rename {
    pub fn flags(self) -> u32 {
        match self {
            Rename::Over => 0,
            Rename::NoReplace => libc::RENAME_NOREPLACE,
            Rename::Exchange => libc::RENAME_EXCHANGE,
            Rename::Whiteout => libc::RENAME_WHITEOUT,
        }
    }
}

/// The modes of fallocate(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alloc {
    Grow,
    Keep,
    Punch,
    Zero,
    ZeroKeep,
}

impl Alloc {
    pub fn mode(self) -> i32 {
        match self {
            Alloc::Grow => 0,
            Alloc::Keep => libc::FALLOC_FL_KEEP_SIZE,
            Alloc::Punch => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            Alloc::Zero => libc::FALLOC_FL_ZERO_RANGE,
            Alloc::ZeroKeep => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
        }
    }
}

/// An operation. Offsets and lengths are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create(Path),
    Mkdir(Path),
    Symlink(Path),
    /// A file without a name, held open as "@".
    Tmpfile,
    Link(Path, Path),
    Rename(Path, Path, Rename),
    Unlink(Path),
    Rmdir(Path),
    /// Path, offset, length; what is written depends on how many operations came before.
    Write(Path, u64, u64),
    /// As `Write`, asked for with O_DIRECT.
    WriteDirect(Path, u64, u64),
    Truncate(Path, u64),
    Fallocate(Path, Alloc, u64, u64),
    /// From, its offset, to, its offset, length.
    CopyRange(Path, u64, Path, u64, u64),
    /// Path, name, length of the value.
    SetXattr(Path, &'static str, usize),
    RemoveXattr(Path, &'static str),
    Chmod(Path, u32),
    /// Holds a file as "@"; one that was held before is closed.
    Open(Path),
    Close,
    Fsync(Path),
    Fdatasync(Path),
    Sync,
    /// The commit that comes every few seconds.
    Tick,
    /// FITRIM.
    Trim,
}

impl Op {
    /// True when it promises something about what a power cut leaves.
    pub fn persists(&self) -> bool {
        matches!(self, Op::Fsync(_) | Op::Fdatasync(_) | Op::Sync)
    }
}

/// Byte `at` of a file that was written by operation number `serial`; never zero.
pub fn stamp(serial: u32, at: u64) -> u8 {
    let word = (at / 16).wrapping_mul(0x9E37_79B9).wrapping_add(u64::from(serial) * 0x85EB_CA6B);
    ((word >> 7) ^ at) as u8 | 1
}

/// The target of a symlink at `path`.
pub fn target(path: Path) -> String {
    format!("where/{path}/leads")
}
