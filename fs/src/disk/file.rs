//! A regular file or a block device.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};

/// Opens a regular file or a block device, and nothing that open(2) or read(2) would wait for: whoever mounts may name a
/// fifo as the image, or put one in its place.
///
/// # Errors
/// Those of open(2); `InvalidInput` when it is neither a regular file nor a block device.
pub fn open_image(path: &Path, writable: bool) -> io::Result<File> {
    let refuse = |kind: std::fs::FileType| match kind.is_file() || kind.is_block_device() {
        true => Ok(()),
        false => {
            let what = "neither a regular file nor a block device";
            Err(io::Error::new(io::ErrorKind::InvalidInput, what))
        }
    };
    // Before: opening a device may do something. Afterwards: it may be another one by then.
    refuse(std::fs::metadata(path)?.file_type())?;
    let mut options = File::options();
    options.read(true).write(writable).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path)?;
    refuse(file.metadata()?.file_type())?;
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(file)
}

/// An image on a regular file or a block device, through the page cache.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    path: PathBuf,
    block_device: bool,
    writable: bool,
}

impl FileDisk {
    /// Opens `path`, for writing too when `writable`.
    ///
    /// # Errors
    /// Those of open(2); `InvalidInput` when it is neither a regular file nor a block device.
    pub fn open(path: &Path, writable: bool) -> io::Result<FileDisk> {
        let file = open_image(path, writable)?;
        let block_device = file.metadata()?.file_type().is_block_device();
        let path = std::fs::canonicalize(path)?;
        Ok(FileDisk { file, path, block_device, writable })
    }

    /// True for a block device.
    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// The file itself, for locks.
    pub fn file(&self) -> &File {
        &self.file
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

impl Disk for FileDisk {
    fn name(&self) -> &Path {
        &self.path
    }

    fn is_writable(&self) -> bool {
        self.writable
    }

    fn len(&self) -> io::Result<u64> {
        if self.block_device {
            let mut end = &self.file;
            return io::Seek::seek(&mut end, io::SeekFrom::End(0));
        }
        Ok(self.file.metadata()?.size())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset).map_err(|e| self.explain(e, "read", offset))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset).map_err(|e| self.explain(e, "write", offset))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|e| self.explain(e, "flush", 0))
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        // On block devices the kernel turns this into a discard (block/fops.c blkdev_fallocate).
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, mode, offset as i64, len as i64)?;
        Ok(())
    }

    fn distrust(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|e| self.explain(e, "flush", 0))?;
        // Dirty pages would stay, and those that a flush could not write are clean (fsync(2)).
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        Ok(nix::fcntl::posix_fadvise(&self.file, 0, 0, advice)?)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}
