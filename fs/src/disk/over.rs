//! Disks that stand in front of others.

use crate::disk::Disk;
use std::io;
use std::path::Path;

/// A disk in front of another, which gets whatever this one does not answer itself. The descriptor below is not handed
/// out: what goes through it would pass by the one in front.
pub trait Over: Send + Sync + std::fmt::Debug {
    /// The disk behind.
    fn below(&self) -> &dyn Disk;

    /// [`Disk::is_writable`]. One that is not refuses writes and discards with EROFS, and has nothing to flush, whatever
    /// the disk behind it would do.
    fn is_writable(&self) -> bool {
        self.below().is_writable()
    }

    /// [`Disk::read`].
    ///
    /// # Errors
    /// Those of the disk behind.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.below().read(offset, out)
    }

    /// [`Disk::write`], asked of a writable disk alone, as all that follows.
    ///
    /// # Errors
    /// Those of the disk behind.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.below().write(offset, data)
    }

    /// [`Disk::sync`].
    ///
    /// # Errors
    /// Those of the disk behind.
    fn sync(&self) -> io::Result<()> {
        self.below().sync()
    }

    /// [`Disk::discard`].
    ///
    /// # Errors
    /// Those of the disk behind.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.below().discard(offset, len)
    }

    /// [`Disk::distrust`].
    ///
    /// # Errors
    /// Those of the disk behind.
    fn distrust(&self) -> io::Result<()> {
        self.below().distrust()
    }

    /// [`Disk::cut`].
    fn cut(&self) -> Option<u64> {
        None
    }
}

fn writable(disk: &impl Over) -> io::Result<()> {
    if disk.is_writable() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EROFS)) }
}

impl<T: Over> Disk for T {
    fn name(&self) -> &Path {
        self.below().name()
    }

    fn is_writable(&self) -> bool {
        Over::is_writable(self)
    }

    fn len(&self) -> io::Result<u64> {
        self.below().len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        Over::read(self, offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        writable(self)?;
        Over::write(self, offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        if Over::is_writable(self) { Over::sync(self) } else { Ok(()) }
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        writable(self)?;
        Over::discard(self, offset, len)
    }

    fn distrust(&self) -> io::Result<()> {
        if Over::is_writable(self) { Over::distrust(self) } else { Ok(()) }
    }

    fn cut(&self) -> Option<u64> {
        Over::cut(self)
    }
}
