//! The one way in: a mount, a dump, a check and a resize open an image here.

use crate::disk::{Disk, FileDisk};
use crate::errno::Error;
use crate::image::lock::{self, ImageLock, LockError};
use crate::image::metastore::MetaStore;
use crate::image::probe::{self, ProbeError};
use crate::image::store::Store;
use crate::image::superblock::STATE_MOUNTED;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why an image could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be read, or is no image of ours.
    #[error(transparent)]
    Image(#[from] ProbeError),
    /// Somebody else has it.
    #[error("{image} is {source}")]
    Locked {
        /// The image.
        image: PathBuf,
        /// Who has it.
        source: LockError,
    },
    /// It is mounted, and nobody can look at one of its commits before the next one comes.
    #[error(
        "{image} is mounted on {mountpoint}, and commits follow each other faster than its metadata can be read; \
         try again when less is flushed, or unmount it"
    )]
    Restless {
        /// The image.
        image: PathBuf,
        /// Where it is mounted.
        mountpoint: String,
    },
    /// Its metadata cannot be used.
    #[error("{image}: {source}")]
    Metadata {
        /// The image.
        image: PathBuf,
        /// What is wrong.
        source: Error,
    },
}

/// What an image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To be read; a block device may be in use by the kernel.
    Read,
    /// To be read; nobody else may write it meanwhile.
    ReadAlone,
    /// To be written.
    Write,
}

/// A file or block device that is locked: nobody else of ours uses it.
pub struct Locked {
    /// The bytes.
    pub disk: Arc<FileDisk>,
    /// Held for as long as the image is in use.
    pub lock: ImageLock,
}

/// Opens and locks `image`, whatever it holds. Waits, within bounds, for a holder that is about to
/// be done.
///
/// # Errors
/// When it cannot be opened, or is in use by a process or by the kernel.
pub fn locked(image: &Path, access: Access) -> Result<Locked, OpenError> {
    let path = || image.to_owned();
    let disk = FileDisk::open(image, access == Access::Write)
        .map_err(|source| ProbeError::Open { path: path(), source })?;
    let lock = ImageLock::acquire(disk.file(), disk.name(), lock::PATIENCE);
    let lock = match access {
        Access::Read => lock,
        Access::ReadAlone | Access::Write => lock.and_then(|lock| lock.claim(disk.name())),
    };
    let lock = lock.map_err(|source| OpenError::Locked { image: path(), source })?;
    Ok(Locked { disk: Arc::new(disk), lock })
}

/// Opens the filesystem on `image`.
///
/// # Errors
/// Those of [`locked`], and everything that is wrong with the superblocks or the metadata.
pub fn open(image: &Path, writable: bool) -> Result<Store, OpenError> {
    let access = if writable { Access::Write } else { Access::Read };
    let Locked { disk, lock } = locked(image, access)?;
    open_on(disk, Some(lock))
}

/// Opens the filesystem on a disk that nobody else uses.
///
/// # Errors
/// As for [`open`].
pub fn open_on(disk: Arc<dyn Disk>, lock: Option<ImageLock>) -> Result<Store, OpenError> {
    let image = disk.name().to_owned();
    let mut superblock = probe::superblock(&*disk, disk.is_writable())?;
    // Whoever used it last may have met an I/O error.
    if superblock.state & STATE_MOUNTED != 0 {
        let path = disk.name().to_owned();
        disk.distrust().map_err(|source| ProbeError::Open { path, source })?;
        superblock = probe::superblock(&*disk, disk.is_writable())?;
    }
    let meta = Arc::new(MetaStore::new(disk.clone(), superblock));
    Store::open(disk, meta, lock).map_err(|source| OpenError::Metadata { image, source })
}
