//! The bytes of the image: a regular file or a block device.

use crate::image::lock::open_image;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

/// An open image.
#[derive(Debug)]
pub struct Device {
    file: File,
    path: PathBuf,
    block_device: bool,
    writable: bool,
}

impl Device {
    /// Opens `path`, for writing too when `writable`.
    ///
    /// # Errors
    /// Those of open(2); `InvalidInput` when it is neither a regular file nor a block device.
    pub fn open(path: &Path, writable: bool) -> io::Result<Device> {
        let file = open_image(path, writable)?;
        let block_device = file.metadata()?.file_type().is_block_device();
        let path = std::fs::canonicalize(path)?;
        Ok(Device { file, path, block_device, writable })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True for a block device.
    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// True when it was opened for writing.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// The file itself, for locks.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Size in bytes now.
    pub fn size(&self) -> io::Result<u64> {
        if self.block_device {
            let mut end = &self.file;
            return io::Seek::seek(&mut end, io::SeekFrom::End(0));
        }
        Ok(self.file.metadata()?.size())
    }

    /// Fills `out` from byte `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the image ends before: it was truncated while in use.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset).map_err(|e| self.explain(e, "read", offset))
    }

    /// Writes all of `data` at byte `offset`, through the page cache.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset).map_err(|e| self.explain(e, "write", offset))
    }

    /// Makes every completed write durable: fdatasync(2).
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|e| self.explain(e, "flush", 0))
    }

    /// Gives the storage of a byte range back to what holds the image; it reads as zeros or as old
    /// data afterwards. Used for FITRIM on free blocks only.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        // On block devices the kernel turns this into a discard (block/fops.c blkdev_fallocate).
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, mode, offset as i64, len as i64)?;
        Ok(())
    }

    fn explain(&self, e: io::Error, what: &str, offset: u64) -> io::Error {
        // The errno must survive: ENOSPC of a sparse image and EIO of a device differ for users.
        tracing::error!("{what} of {} at byte {offset}: {e}", self.path.display());
        if e.kind() == io::ErrorKind::UnexpectedEof {
            return io::Error::from_raw_os_error(libc::EIO);
        }
        e
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
