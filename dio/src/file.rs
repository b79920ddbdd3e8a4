//! A file or block device opened with O_DIRECT.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::mapping::{Mapping, page_size};

/// What O_DIRECT on a file demands, each a power of two in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Alignment {
    /// Of the address of the memory. Pool buffers always satisfy it.
    pub memory: usize,
    /// Of file offset and length.
    pub offset: usize,
    /// Of file offset and length of a read. Smaller than `offset` on some copy-on-write
    /// filesystems (Linux 6.16, `STATX_DIO_READ_ALIGN`).
    pub read_offset: usize,
}

/// Why a file cannot be used with O_DIRECT.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectError {
    /// open(2) failed for a reason that has nothing to do with O_DIRECT.
    #[error("cannot open {path}: {source}")]
    Open {
        /// What was opened.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The filesystem has no O_DIRECT for this file. Buffered I/O still works.
    #[error("{path} refuses O_DIRECT; use buffered I/O on it")]
    Refused {
        /// What was opened.
        path: PathBuf,
    },
    /// The alignment could not be found out.
    #[error("cannot find the O_DIRECT alignment of {path}: {source}")]
    Probe {
        /// What was opened.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl DirectError {
    /// Whether buffered I/O on the same file is the way out.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// A regular file or block device opened with O_DIRECT, and its alignment.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    alignment: Alignment,
    block_device: bool,
}

impl DirectFile {
    /// Opens `path` for reading, and for writing too if `writable`. Does not create it.
    ///
    /// # Errors
    /// [`DirectError::Refused`] when the filesystem has no O_DIRECT here, else what open(2) or the
    /// probe said.
    pub fn open(path: impl AsRef<Path>, writable: bool) -> Result<Self, DirectError> {
        let path = path.as_ref();
        let file = OpenOptions::new()
            .read(true)
            .write(writable)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .map_err(|source| open_error(path, source))?;
        Self::probe(file, path)
    }

    /// A second, O_DIRECT, open of the file behind `fd`, with the same access mode. `fd` itself
    /// keeps its flags and may stay buffered.
    ///
    /// Goes through `/proc/self/fd`, so it works on a renamed or unlinked file too.
    ///
    /// # Errors
    /// As [`DirectFile::open`].
    pub fn reopen(fd: BorrowedFd<'_>) -> Result<Self, DirectError> {
        let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        // SAFETY: F_GETFL takes no argument and reads no memory; the fd is borrowed, so open.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
        let writable = flags >= 0 && flags & libc::O_ACCMODE != libc::O_RDONLY;
        Self::open(path, writable)
    }

    /// [`DirectFile::reopen`] that takes `fd` and closes it.
    ///
    /// # Errors
    /// As [`DirectFile::open`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, DirectError> {
        Self::reopen(fd.as_fd())
    }

    /// The alignment that offsets, lengths and memory must have.
    pub fn alignment(&self) -> Alignment {
        self.alignment
    }

    /// Whether this is a block device.
    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// The size in bytes now.
    ///
    /// # Errors
    /// fstat(2), or lseek(2) on a block device.
    pub fn size(&self) -> io::Result<u64> {
        if self.block_device {
            (&self.file).seek(SeekFrom::End(0))
        } else {
            Ok(self.file.metadata()?.len())
        }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn as_fd_raw(&self) -> libc::c_int {
        self.file.as_raw_fd()
    }

    fn probe(file: File, path: &Path) -> Result<Self, DirectError> {
        let fail = |source| DirectError::Probe { path: path.to_owned(), source };
        let block_device = file.metadata().map_err(fail)?.file_type().is_block_device();
        let found = match statx_alignment(&file).map_err(fail)? {
            Probe::Found(a) => Some(a),
            Probe::None => return Err(DirectError::Refused { path: path.to_owned() }),
            Probe::Unknown if block_device => sector_alignment(&file),
            Probe::Unknown => None,
        };
        let alignment = match found {
            Some(a) => a,
            None => trial_alignment(&file).map_err(fail)?,
        };
        Ok(Self { file, alignment, block_device })
    }
}

impl AsFd for DirectFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open_error(path: &Path, source: io::Error) -> DirectError {
    // open(2): "EINVAL The filesystem does not support the O_DIRECT flag."
    if source.raw_os_error() == Some(libc::EINVAL) {
        return DirectError::Refused { path: path.to_owned() };
    }
    DirectError::Open { path: path.to_owned(), source }
}

enum Probe {
    Found(Alignment),
    /// The kernel says that there is no direct I/O on this file.
    None,
    /// The kernel or the filesystem does not say.
    Unknown,
}

/// statx(2), `STATX_DIOALIGN` (Linux 6.1).
fn statx_alignment(file: &File) -> io::Result<Probe> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    let empty: &CStr = c"";
    // SAFETY: the path is an empty C string, `stat` has room for the structure, the fd is open.
    let rc = unsafe {
        libc::statx(
            file.as_raw_fd(),
            empty.as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN | libc::STATX_DIO_READ_ALIGN,
            stat.as_mut_ptr(),
        )
    };
    if rc != 0 {
        let e = io::Error::last_os_error();
        return match e.raw_os_error() {
            Some(libc::ENOSYS | libc::EINVAL) => Ok(Probe::Unknown),
            _ => Err(e),
        };
    }
    // SAFETY: zeroed above, which is a valid value of this plain structure, and then filled.
    let stat = unsafe { stat.assume_init() };
    if stat.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Ok(Probe::Unknown);
    }
    let (memory, offset) = (stat.stx_dio_mem_align as usize, stat.stx_dio_offset_align as usize);
    if offset == 0 {
        return Ok(Probe::None);
    }
    let read = match stat.stx_mask & libc::STATX_DIO_READ_ALIGN {
        0 => 0,
        _ => stat.stx_dio_read_offset_align as usize,
    };
    let read_offset = if read == 0 { offset } else { read };
    Ok(Probe::Found(Alignment { memory: memory.max(1), offset, read_offset }))
}

nix::ioctl_read_bad!(blksszget, libc::BLKSSZGET, libc::c_int);

/// The logical sector of a block device, `BLKSSZGET`.
fn sector_alignment(file: &File) -> Option<Alignment> {
    let mut size: libc::c_int = 0;
    // SAFETY: BLKSSZGET stores one int, which `size` is.
    unsafe { blksszget(file.as_raw_fd(), &mut size) }.ok()?;
    let size = usize::try_from(size).ok().filter(|s| s.is_power_of_two())?;
    Some(Alignment { memory: size, offset: size, read_offset: size })
}

/// The smallest of 512..=page that a read at that offset is allowed with; a page when the file is
/// too short to tell.
fn trial_alignment(file: &File) -> io::Result<Alignment> {
    let memory = Mapping::new(page_size(), page_size())?;
    let mut size = 512;
    while size < page_size() {
        // SAFETY: `size` bytes of a private mapping that lives until the end of this function.
        let buf = unsafe { std::slice::from_raw_parts_mut(memory.base().as_ptr(), size) };
        match file.read_at(buf, size as u64) {
            Ok(n) if n > 0 => break,
            Ok(_) => size = page_size(),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => size *= 2,
            Err(e) => return Err(e),
        }
    }
    Ok(Alignment { memory: size, offset: size, read_offset: size })
}
