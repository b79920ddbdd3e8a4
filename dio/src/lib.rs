//! Page-aligned pinned buffers and direct I/O for Linux.
//!
//! # What it does
//!
//! * [`Pool`]: 2 MiB slabs, in huge pages where the system has them, pinned by io_uring
//!   registration (`FOLL_PIN | FOLL_LONGTERM`), not inherited by fork. [`Pool::take`] gives an
//!   owned [`Buffer`] in well under a microsecond and never refuses. What the system denies (huge
//!   pages, io_uring, memlock) is done without, and [`Pool::report`] says so.
//! * [`DirectFile`]: a file or block device opened with O_DIRECT, its alignment asked of statx(2).
//! * [`Engine`]: reads and writes with one set of rules. A transfer is complete, ends at the end of
//!   the file, or is the device's error; there is no other short count. Synchronous from any
//!   number of threads, or queued and batched over io_uring with a callback.
//! * [`iter`]: I/O iterators over user memory, buffers, heap and cached pages, extraction that pins
//!   only what is user-backed and says so in its type, and walks that feed vectors, checksums and
//!   sockets.
//!
//! A buffer under I/O is *moved* into the engine and comes back with the result, on failure too,
//! so safe code cannot look at memory that the device is writing, or free it.
//!
//! ```
//! use inflight_dio::{DirectFile, Engine, Pool, PoolConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Pool::new(PoolConfig { slabs: 1, ..PoolConfig::default() })?;
//! let engine = Engine::new(&pool)?;
//! let file = DirectFile::open(std::env::current_exe()?, false)?;
//! let (buf, count) = engine.read_at(&file, pool.take(4096), 0, 4096);
//! assert_eq!(count?, 4096);
//! assert_eq!(&buf.as_slice()[1..4], b"ELF");
//! # Ok(())
//! # }
//! ```
//!
//! # What it does not do
//!
//! * Unaligned transfers. They are `EINVAL` here; read-modify-write needs a range lock, which its
//!   user has and this crate has not.
//! * Page cache I/O, pipes and splice (see `inflight-splice`), file formats.
//! * Guessing. Where a figure decided (below), the example that measured it is in `examples/`.
//!
//! # Choices that were measured
//!
//! Linux 6.18, 2 cores, ext4 on a virtio disk; medians, the ways interleaved
//! (`examples/sync_latency.rs`, `examples/queue_depth.rs`, `examples/pages.rs`).
//!
//! * The synchronous path is pread/pwrite. A ring of the calling thread with fixed buffers was not
//!   quicker at any size: 4 KiB read 50.9 us against 50.5, write 62.4 against 63.4; 1 MiB read 315
//!   against 310, write 251 against 256; and registering the pool with a ring for each thread would
//!   multiply its pins.
//! * What counts is the huge page: from a pool of base pages the same 1 MiB read takes 1.6 to 2
//!   times as long, the write 1.1 to 1.7 times.
//! * The queue adds about 9 us of wake-ups to a single request, so it is for many: at 16 in flight
//!   it reads 281 to 305 MiB/s in 4 KiB blocks when the callback goes on by itself, a ring driven
//!   by hand 290 to 299, 16 threads with pread 298 to 307. At 1 MiB all are equal within noise.
//! * [`Pool::take`] and the drop take 0.15 to 0.25 us.
//! * Small batches of pages against large ones (`scripts/bench pages`, plot in `dio/pages.svg`): a page that is
//!   pinned by registration alone costs 890 ns, among 64 pages 59 ns, among 512 pages 51 ns, so past 64
//!   base pages there is little left to gain, which is the kernel's own habit. In huge pages a pin is one for the
//!   whole folio: 14 ns a page among 64, 3.4 ns among 512. A direct read gains from batches all the
//!   way, but for the trips to the device: 65 us a page alone, 3.8 us among 64, 2.8 us among 512, and half of
//!   that in huge pages. mlock costs 2270, 937 and 916 ns for 1, 64 and 256 pages.

mod buddy;
mod buffer;
mod cachestat;
mod engine;
mod file;
pub mod iter;
mod loan;
mod mapping;
mod pool;
mod ring;
pub mod sync;

pub use buffer::Buffer;
pub use cachestat::{cached_pages, unwritten_pages};
pub use engine::{
    Completion, Done, Engine, Op, Part, QueueKind, Request, VectoredCompletion, VectoredDone,
    VectoredRequest,
};
pub use file::{Alignment, DirectError, DirectFile};
pub use loan::Lender;
pub use mapping::{SLAB, align_up, page_size};
pub use pool::{Backing, PinKind, Pool, PoolConfig, PoolError, PoolReport, Registration};
