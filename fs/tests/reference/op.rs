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
    /// Path, offset, length: stores to a mapping, of which the server hears nothing until the pages come.
    Store(Path, u64, u64),
    /// A page that was stored to comes, as a WRITE from the kernel's page cache.
    WriteBack(Path, u64),
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

/// What a page of a mapped file holds after stores to `at..at + len`: `old` is the page as it was. `None` for stores
/// behind the last page that the file has, which are SIGBUS.
pub fn stored(
    serial: u32,
    mut old: Vec<u8>,
    page: u64,
    (at, len): (u64, u64),
    size: u64,
) -> Option<Vec<u8>> {
    if page * 4096 >= size {
        return None;
    }
    old.resize(4096, 0);
    for i in at.max(page * 4096)..(at + len).min((page + 1) * 4096).min(size) {
        old[(i % 4096) as usize] = stamp(serial, i);
    }
    Some(old)
}

/// The pages that stores to `at..at + len` touch.
pub fn pages(at: u64, len: u64) -> std::ops::Range<u64> {
    at / 4096..(at + len).div_ceil(4096)
}

/// The target of a symlink at `path`.
pub fn target(path: Path) -> String {
    format!("where/{path}/leads")
}
