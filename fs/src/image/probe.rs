//! Finding out what an image is before anything relies on it.

use crate::disk::Disk;
use crate::image::BLOCK;
use crate::image::superblock::{SECOND, Superblock, Unusable};
use crate::image::unopened::unopened;
use std::io;
use std::path::PathBuf;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// open(2) or the first read failed.
    #[error("{}", unopened(path, source))]
    Open {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too short to hold anything.
    #[error(
        "{path}: not an Inflight image ({size} bytes are too few); make one with inflight mkfs"
    )]
    TooSmall {
        /// The image.
        path: PathBuf,
        /// Bytes it has.
        size: u64,
    },
    /// Neither superblock can be used.
    #[error("{path}: {source}{hint}")]
    Unusable {
        /// The image.
        path: PathBuf,
        /// What is wrong with the first one.
        source: Unusable,
        /// What to do.
        hint: &'static str,
    },
    /// The file is shorter than the filesystem.
    #[error(
        "{path}: the image has {have} bytes, its filesystem needs {need}: it was cut; restore it to that size"
    )]
    Cut {
        /// The image.
        path: PathBuf,
        /// Bytes there are.
        have: u64,
        /// Bytes there should be.
        need: u64,
    },
    /// Features that may be read but not written.
    #[error("{path}: unknown features {bits:#x} forbid writing: mount it with -o ro")]
    ReadOnly {
        /// The image.
        path: PathBuf,
        /// The unknown bits.
        bits: u64,
    },
}

/// Reads the superblock; the second copy when the first is damaged, and says so.
pub fn superblock(disk: &dyn Disk, for_writing: bool) -> Result<Superblock, ProbeError> {
    let path = || disk.name().to_owned();
    let open = |source| ProbeError::Open { path: path(), source };
    let have = disk.len().map_err(open)?;
    if have < BLOCK {
        return Err(ProbeError::TooSmall { path: path(), size: have });
    }
    let sb = newest(disk)?;
    let need = sb.total_blocks * BLOCK;
    if have < need {
        return Err(ProbeError::Cut { path: path(), have, need });
    }
    let bits = sb.unknown_ro_compat();
    if for_writing && bits != 0 {
        return Err(ProbeError::ReadOnly { path: path(), bits });
    }
    Ok(sb)
}

/// Both copies, decoded.
///
/// # Errors
/// Those of reading the disk; a disk that ends before the second copy has a damaged one.
pub fn copies(disk: &dyn Disk) -> io::Result<[Result<Superblock, Unusable>; 2]> {
    let have = disk.len()?;
    let read = |block: u64| -> io::Result<Result<Superblock, Unusable>> {
        if have < (block + 1) * BLOCK {
            return Ok(Err(Unusable::Damaged));
        }
        let mut bytes = vec![0; BLOCK as usize];
        disk.read(block * BLOCK, &mut bytes)?;
        Ok(Superblock::decode(&bytes))
    };
    Ok([read(0)?, read(SECOND)?])
}

fn newest(disk: &dyn Disk) -> Result<Superblock, ProbeError> {
    let path = disk.name().to_owned();
    let copies = copies(disk).map_err(|source| ProbeError::Open { path: path.clone(), source })?;
    match copies {
        [Ok(first), Ok(second)]
            if second.uuid == first.uuid && second.sequence > first.sequence =>
        {
            Ok(second)
        }
        [Ok(first), _] => Ok(first),
        [Err(e), _] if e.is_foreign() => Err(ProbeError::Unusable { path, source: e, hint: "" }),
        [Err(e), Ok(second)] => {
            tracing::warn!("{}: {e}; the second copy is used", path.display());
            Ok(second)
        }
        [Err(Unusable::NotOurs), Err(_)] => {
            let hint = "; make one with inflight mkfs";
            Err(ProbeError::Unusable { path, source: Unusable::NotOurs, hint })
        }
        [Err(source), Err(_)] => {
            Err(ProbeError::Unusable { path, source, hint: "; both copies are unusable" })
        }
    }
}
