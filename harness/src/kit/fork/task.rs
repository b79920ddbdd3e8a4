//! What a child of a case does: system calls and looks at memory, up to `_exit`.
#![allow(unsafe_code)]

use crate::kit::engine::{Engine, Io};
use crate::kit::memory::PAGE;

/// What a child may do: look at memory and give a small number as its exit status.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// End at once.
    Exit,
    /// When told to go on: 1 when a byte of the range differs from `byte`, else 0.
    Differs {
        /// First byte.
        start: *const u8,
        /// Bytes.
        len: usize,
        /// What they all must be.
        byte: u8,
    },
    /// Store a byte at once, then as `Exit` when told to go on.
    Store {
        /// Where.
        at: *mut u8,
        /// What.
        byte: u8,
    },
    /// Store a byte to the first of each of some pages of a mapped file, then fsync(2) it, at once: 1 when that failed,
    /// else 0.
    StoreSync {
        /// Beginning of the first page.
        at: *mut u8,
        /// Pages.
        pages: usize,
        /// What.
        byte: u8,
        /// The open file, which the parent keeps open.
        file: i32,
    },
    /// At once: 0 when two counters of a writer that counts `first` and then `second` are as they may be at
    /// some instant (equal, or `first` one ahead), else 1.
    Ordered {
        /// Counted first.
        first: *const u64,
        /// Counted second.
        second: *const u64,
    },
    /// Look at private memory at once and again when told to go on: 1 when it has changed, else 0. Nobody but
    /// the child itself may change its copy.
    Steady {
        /// First byte.
        start: *const u8,
        /// Bytes.
        len: usize,
    },
    /// Change to a folder and end by SIGABRT, with a core dump of private anonymous memory.
    Dump {
        /// Its name, terminated.
        folder: *const libc::c_char,
        /// Longest core, in bytes.
        limit: u64,
    },
    /// Start an I/O, and end when told to go on: by exit, or by execve(2) of `/bin/true`. With
    /// [`Engine::Pread`] the child is in the system call until the I/O is over.
    Transfer {
        /// How.
        engine: Engine,
        /// The I/O.
        io: Io,
        /// Whether by execve(2).
        exec: bool,
    },
}

/// What happens in the child. Never returns.
pub(super) fn run(task: Task, wait: i32) -> ! {
    let mut byte = 0u8;
    let mut until_told = || {
        // SAFETY: reads one byte into a local; returns at the latest when the parent is gone.
        unsafe { libc::read(wait, (&raw mut byte).cast(), 1) };
    };
    let status = match task {
        Task::Exit => 0,
        Task::Differs { start, len, byte } => {
            until_told();
            // SAFETY: the caller's range is mapped in the parent, so in its copy here too.
            let differs = |at| unsafe { start.add(at).read_volatile() } != byte;
            i32::from((0..len).any(differs))
        }
        Task::Steady { start, len } => {
            // FNV-1a, for nothing may be allocated here.
            let sum = || {
                (0..len).fold(0xCBF2_9CE4_8422_2325_u64, |sum, at| {
                    // SAFETY: as above.
                    let byte = unsafe { start.add(at).read_volatile() };
                    (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
                })
            };
            let before = sum();
            until_told();
            i32::from(sum() != before)
        }
        Task::Store { at, byte } => {
            // SAFETY: as above.
            unsafe { at.write_volatile(byte) };
            until_told();
            0
        }
        Task::StoreSync { at, pages, byte, file } => {
            for page in 0..pages {
                // SAFETY: as above.
                unsafe { at.add(page * PAGE).write_volatile(byte) };
            }
            // SAFETY: a descriptor, no memory.
            i32::from(unsafe { libc::fsync(file) } != 0)
        }
        Task::Ordered { first, second } => {
            // SAFETY: as above.
            let (first, second) = unsafe { (first.read_volatile(), second.read_volatile()) };
            i32::from(first != second && first != second + 1)
        }
        Task::Dump { folder, limit } => dump(folder, limit),
        Task::Transfer { engine, io, exec } => {
            crate::kit::engine::start_alone(engine, &io);
            until_told();
            // SAFETY: the child's own copy, of which there is no other owner here. The parent sees it closed.
            unsafe { libc::close(wait) };
            i32::from(exec && !exec_true())
        }
    };
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(status) }
}

/// Dumps core into a folder. Never returns.
fn dump(folder: *const libc::c_char, limit: u64) -> ! {
    /// Only anonymous private memory (core(5)).
    const FILTER: &[u8] = b"0x1";
    let limits = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: system calls only, on terminated names and locals.
    unsafe {
        libc::chdir(folder);
        libc::setrlimit(libc::RLIMIT_CORE, &raw const limits);
        libc::prctl(libc::PR_SET_DUMPABLE, 1);
        let filter = libc::open(c"/proc/self/coredump_filter".as_ptr(), libc::O_WRONLY);
        libc::write(filter, FILTER.as_ptr().cast(), FILTER.len());
        libc::signal(libc::SIGABRT, libc::SIG_DFL);
        libc::kill(libc::getpid(), libc::SIGABRT);
        libc::_exit(1)
    }
}

/// Becomes `/bin/true`; `false` when it cannot.
fn exec_true() -> bool {
    let path = c"/bin/true";
    let arguments = [path.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    // SAFETY: terminated arrays of terminated strings, read by the kernel before anything else is changed.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    false
}
