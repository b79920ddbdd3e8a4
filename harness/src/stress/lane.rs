//! Lanes: the kinds of I/O and of racing actions that a stress run is made of.

use crate::stress::oracle::Manner;

/// A kind of I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// pread(2) with O_DIRECT.
    Direct,
    /// io_uring with O_DIRECT.
    Uring,
    /// io_submit(2) with O_DIRECT.
    Aio,
    /// pread(2) through the page cache.
    Buffered,
    /// Loads from a shared mapping.
    Mapped,
    /// splice(2) through the page cache.
    Splice,
    /// splice(2) with O_DIRECT.
    SpliceDirect,
    /// pwrite(2) with O_DIRECT.
    DirectWrite,
    /// io_uring with O_DIRECT.
    UringWrite,
    /// io_submit(2) with O_DIRECT.
    AioWrite,
    /// pwrite(2) through the page cache.
    BufferedWrite,
    /// Stores to a shared mapping.
    MappedWrite,
    /// splice(2) from a pipe.
    SpliceWrite,
}

impl Way {
    /// All of them, readers first.
    pub const ALL: [Way; 13] = [
        Way::Direct,
        Way::Uring,
        Way::Aio,
        Way::Buffered,
        Way::Mapped,
        Way::Splice,
        Way::SpliceDirect,
        Way::DirectWrite,
        Way::UringWrite,
        Way::AioWrite,
        Way::BufferedWrite,
        Way::MappedWrite,
        Way::SpliceWrite,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Way::Direct => "direct read",
            Way::Uring => "io_uring read",
            Way::Aio => "AIO read",
            Way::Buffered => "buffered read",
            Way::Mapped => "mmap load",
            Way::Splice => "splice",
            Way::SpliceDirect => "direct splice",
            Way::DirectWrite => "direct write",
            Way::UringWrite => "io_uring write",
            Way::AioWrite => "AIO write",
            Way::BufferedWrite => "buffered write",
            Way::MappedWrite => "mmap store",
            Way::SpliceWrite => "splice to file",
        }
    }

    /// Whether it changes the file.
    pub fn writes(self) -> bool {
        self as usize >= Way::DirectWrite as usize
    }

    /// Whether the file is opened with O_DIRECT for it.
    pub fn is_direct(self) -> bool {
        matches!(self, Way::Direct | Way::SpliceDirect)
            || self.is_async()
            || self == Way::DirectWrite
    }

    /// Whether the call returns before the I/O is over.
    pub fn is_async(self) -> bool {
        matches!(self, Way::Uring | Way::Aio | Way::UringWrite | Way::AioWrite)
    }

    /// What its changes bury.
    pub fn manner(self) -> Manner {
        match self {
            Way::MappedWrite => Manner::Mapped,
            way if way.is_direct() => Manner::Direct,
            _ => Manner::Cached,
        }
    }
}

/// A kind of racing action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// ftruncate(2) down to any byte, and up again.
    Truncate,
    /// fallocate(2) with FALLOC_FL_PUNCH_HOLE.
    Punch,
    /// fork(2); the child watches the memory of a reader.
    Fork,
    /// posix_fadvise(2) with POSIX_FADV_DONTNEED: what was in the page cache must be read again.
    Drop,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 4] = [Action::Truncate, Action::Punch, Action::Fork, Action::Drop];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Action::Truncate => "truncate",
            Action::Punch => "punch",
            Action::Fork => "fork",
            Action::Drop => "drop",
        }
    }
}

/// Which writers are quiet in a burst. A direct write beside one through the page cache buries nothing, so a stress run
/// in which there are always both finds less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// None.
    All,
    /// Those through the page cache and mappings.
    Direct,
    /// Those with O_DIRECT.
    Cached,
}

impl Mix {
    /// All of them.
    pub const ALL: [Mix; 3] = [Mix::All, Mix::Direct, Mix::Cached];

    /// Whether a way of I/O plays.
    pub fn has(self, way: Way) -> bool {
        match self {
            Mix::All => true,
            Mix::Direct => !way.writes() || way.is_direct(),
            Mix::Cached => !way.writes() || !way.is_direct(),
        }
    }
}

/// What is played together.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Kinds of I/O.
    pub ways: &'static [Way],
    /// Kinds of actions.
    pub actions: &'static [Action],
}

impl Workload {
    /// Everything at once.
    pub const ALL: Workload = Workload { ways: &Way::ALL, actions: &Action::ALL };

    /// Everything but writes that return before they are over.
    pub const SYNC: Workload = Workload {
        ways: &[
            Way::Direct,
            Way::Uring,
            Way::Aio,
            Way::Buffered,
            Way::Mapped,
            Way::Splice,
            Way::SpliceDirect,
            Way::DirectWrite,
            Way::BufferedWrite,
            Way::MappedWrite,
            Way::SpliceWrite,
        ],
        actions: &Action::ALL,
    };

    /// Asynchronous writes, whoever reads the page cache meanwhile, and nothing that would hide what is stale.
    pub const ASYNC: Workload = Workload {
        ways: &[
            Way::Direct,
            Way::Buffered,
            Way::Mapped,
            Way::Splice,
            Way::UringWrite,
            Way::AioWrite,
        ],
        actions: &[Action::Truncate, Action::Punch],
    };

    /// Direct reads beside forks.
    pub const FORK: Workload = Workload {
        ways: &[Way::Direct, Way::Uring, Way::Aio, Way::DirectWrite],
        actions: &[Action::Fork],
    };
}
