//! The one place where an error becomes an errno.
//!
//! Layers below `ops` return [`Error`]; `ops` hands [`Errno`] to the transport. A failing image or
//! metadata store is logged here, once, because the application only sees `EIO`.

use std::io;

pub use nix::errno::Errno;

/// What can go wrong below the operations.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operation is refused; the application gets this errno as it is.
    #[error("{0}")]
    Refused(Errno),
    /// The metadata store failed.
    #[error("metadata store: {0}")]
    Store(#[from] redb::Error),
    /// Reading or writing the image failed.
    #[error("image: {0}")]
    Image(#[from] io::Error),
    /// Metadata is damaged, or the database gave up over it; the text says where.
    #[error("damaged image: {0}; run inflight fsck on it")]
    Damaged(String),
    /// The metadata contradicts itself; the text names the object.
    #[error("corrupt image: {0}; run inflight fsck on it")]
    Corrupt(String),
}

/// A result of a layer below the operations.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The errno that the application gets.
    pub fn errno(&self) -> Errno {
        match self {
            Error::Refused(errno) => *errno,
            Error::Image(e) => match e.raw_os_error() {
                Some(code) if code == libc::ENOSPC || code == libc::EDQUOT => Errno::ENOSPC,
                _ if e.kind() == io::ErrorKind::StorageFull => Errno::ENOSPC,
                _ => Errno::EIO,
            },
            Error::Store(_) | Error::Damaged(_) => Errno::EIO,
            // EUCLEAN is what ext4 and xfs answer for a structure that needs cleaning.
            Error::Corrupt(_) => Errno::EUCLEAN,
        }
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Error::Refused(errno)
    }
}

impl From<Error> for Errno {
    fn from(error: Error) -> Self {
        if !matches!(error, Error::Refused(_)) {
            tracing::error!("{error}");
        }
        error.errno()
    }
}

macro_rules! from_redb {
    ($($t:ty),*) => {$(
        impl From<$t> for Error {
            fn from(e: $t) -> Self {
                Error::Store(e.into())
            }
        }
    )*};
}
from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError
);
