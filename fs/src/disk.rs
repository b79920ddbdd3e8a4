//! What holds an image: the one seam through which everything reaches it, file data included.
//!
//! A mount runs on a [`FileDisk`]; tests put another disk in its place and meet the code that
//! people mount. A disk without a file descriptor cannot be spliced from nor opened with O_DIRECT,
//! so only the copied ways serve it.

mod cuttable;
#[cfg(feature = "testing")]
mod faulty;
mod file;
mod memory;
mod over;
#[cfg(feature = "testing")]
mod recorder;
#[cfg(feature = "testing")]
mod volatile;

pub use cuttable::CuttableDisk;
#[cfg(feature = "testing")]
pub use faulty::{Call, Fault, FaultyDisk, Plan};
pub use file::{FileDisk, open_image};
pub use memory::MemoryDisk;
pub use over::Over;
#[cfg(feature = "testing")]
pub use recorder::{Event, Recorder};
#[cfg(feature = "testing")]
pub use volatile::{SECTOR, VolatileDisk};

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// A sequence of bytes that survives as far as it was flushed.
#[allow(clippy::len_without_is_empty)] // an empty disk is no disk
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// What messages call it.
    fn name(&self) -> &Path;

    /// True when it may be written.
    fn is_writable(&self) -> bool;

    /// Size in bytes, now: a file may be cut and a loop device may shrink while they are in use.
    ///
    /// # Errors
    /// Those of fstat(2) and lseek(2).
    fn len(&self) -> io::Result<u64>;

    /// Fills `out` from byte `offset`.
    ///
    /// # Errors
    /// EIO when the disk ends before, and whatever pread(2) says.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at byte `offset`. It may be lost, whole or in sectors of 512 bytes,
    /// and in any order with other writes, until [`Disk::sync`] has returned.
    ///
    /// # Errors
    /// Those of pwrite(2).
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes every write that returned before the call durable: fdatasync(2).
    ///
    /// # Errors
    /// Those of fdatasync(2). What had been written before is then in an unknown state.
    fn sync(&self) -> io::Result<()>;

    /// Says that nobody needs a range any more; it reads as zeros or as old data afterwards.
    ///
    /// # Errors
    /// EOPNOTSUPP where whatever holds the image keeps its storage.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Forgets what is cached of it: reads show what would be left without power. After a flush
    /// that failed, a page cache goes on showing what never arrived, and calls it clean.
    ///
    /// # Errors
    /// Those of [`Disk::sync`]: what can still arrive must do so first.
    fn distrust(&self) -> io::Result<()> {
        Ok(())
    }

    /// A power cut: what was written and not flushed is gone, in bytes, and every call fails with EIO from now on. `None` when
    /// this disk cannot lose what it was given.
    fn cut(&self) -> Option<u64> {
        None
    }

    /// The file behind it, for splice(2) and for a second open with O_DIRECT. `None` when every
    /// byte must pass [`Disk::read`] and [`Disk::write`].
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
