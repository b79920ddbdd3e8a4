//! An image that somebody has mounted, as its last commit left it.
//!
//! What a commit refers to stays as it is until the commit after it is durable: the database is copy-on-write. So a copy of
//! the metadata that was made while one commit counted, from before the first byte to after the last one, is what a crash at
//! that moment would leave. Where a commit came meanwhile, the copy is made again.
//!
//! Only metadata are copied. Blocks of files are the image's own: what the commit says that a file has may be somebody else's
//! by the time that it is read, if it was freed since.

use crate::disk::{Disk, FileDisk, Over};
use crate::image::BLOCK;
use crate::image::lock::{self, LockError};
use crate::image::metastore::MetaStore;
use crate::image::open::OpenError;
use crate::image::pages::{self, Place, SLOT_BYTES};
use crate::image::pins::Run;
use crate::image::probe::{self, ProbeError};
use crate::image::store::fixed_runs;
use crate::image::superblock::Superblock;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a moment without a commit is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes that are copied at a time.
const PIECE: u64 = 1 << 20;

/// A copy of the metadata of a mounted image. It cannot be written.
#[derive(Debug)]
pub struct Snapshot {
    image: Arc<dyn Disk>,
    mountpoint: String,
    /// The metadata, where they are in the image; the rest of it is a hole.
    copy: File,
    /// What it has, in order.
    runs: Vec<Run>,
}

/// What tells one commit from the next one: the superblock, and the slot of the database that counts.
type Mark = (Superblock, Option<[u8; SLOT_BYTES]>);

impl Snapshot {
    /// A copy of `image` where `refused` says that it is mounted; nothing, when it is no more: then it can be had. Gives the
    /// error back where somebody else has it.
    ///
    /// # Errors
    /// `refused`; those of reading the image; [`OpenError::Restless`] when commits follow each other too fast.
    pub fn instead(image: &Path, refused: OpenError) -> Result<Option<Arc<Snapshot>>, OpenError> {
        let OpenError::Locked {
            source: LockError::Held { mountpoint: Some(mountpoint), .. }, ..
        } = &refused
        else {
            return Err(refused);
        };
        let mountpoint = mountpoint.clone();
        let open = |source| ProbeError::Open { path: image.to_owned(), source };
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(image, false).map_err(open)?);
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(snapshot) = Snapshot::take(&disk)? {
                // What was copied while it was unmounted is whole, and not of a mounted image.
                let is_mounted = lock::mount_of(disk.name()).is_some();
                return Ok(is_mounted.then(|| Arc::new(Snapshot { mountpoint, ..snapshot })));
            }
            if Instant::now() > end {
                return Err(OpenError::Restless { image: image.to_owned(), mountpoint });
            }
        }
    }

    /// Copies the metadata on a disk that somebody else writes to; nothing, when a commit came meanwhile.
    ///
    /// # Errors
    /// Those of reading the disk.
    pub fn take(disk: &Arc<dyn Disk>) -> Result<Option<Snapshot>, OpenError> {
        let open = |source| ProbeError::Open { path: disk.name().to_owned(), source };
        let before = mark(disk)?;
        let mut runs: Vec<Run> = fixed_runs(&before.0.chunks).collect();
        runs.sort_by_key(|run| run.start);
        let copy = copy(&**disk, &runs).map_err(open)?;
        let is_still = mark(disk)? == before;
        let (image, mountpoint) = (Arc::clone(disk), String::new());
        Ok(is_still.then_some(Snapshot { image, mountpoint, copy, runs }))
    }

    /// Where the image is mounted.
    pub fn mountpoint(&self) -> &str {
        &self.mountpoint
    }

    /// The copied run that holds a block, and the first one after it.
    fn run_at(&self, block: u64) -> (Option<Run>, Option<Run>) {
        let after = self.runs.partition_point(|run| run.start <= block);
        let before = after.checked_sub(1).map(|at| self.runs[at]);
        (before.filter(|run| block < run.end()), self.runs.get(after).copied())
    }
}

fn mark(disk: &Arc<dyn Disk>) -> Result<Mark, OpenError> {
    let superblock = probe::superblock(&**disk, false)?;
    let meta = MetaStore::salvage(disk.clone(), superblock.clone());
    let head = meta
        .page(Place { block: 0, blocks: 1 })
        .map_err(|source| ProbeError::Open { path: disk.name().to_owned(), source })?;
    let slot = head.and_then(|page| pages::slots(&page.bytes).first().copied());
    Ok((superblock, slot))
}

fn copy(disk: &dyn Disk, runs: &[Run]) -> io::Result<File> {
    let copy = temporary()?;
    let mut bytes = vec![0; PIECE as usize];
    for run in runs {
        let (mut at, end) = (run.start * BLOCK, run.end() * BLOCK);
        while at < end {
            let piece = &mut bytes[..PIECE.min(end - at) as usize];
            disk.read(at, piece)?;
            // Holes stay holes: an area has parts that were never written.
            for (n, block) in piece.chunks(BLOCK as usize).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    copy.write_all_at(block, at + n as u64 * BLOCK)?;
                }
            }
            at += piece.len() as u64;
        }
    }
    copy.set_len(disk.len()?)?;
    Ok(copy)
}

/// A file without a name, not in memory if that can be had.
fn temporary() -> io::Result<File> {
    let place = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    tempfile::tempfile_in(&place).or_else(|_| tempfile::tempfile())
}

impl Over for Snapshot {
    fn below(&self) -> &dyn Disk {
        &*self.image
    }

    fn is_writable(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (mut at, end) = (offset, offset + out.len() as u64);
        while at < end {
            let (inside, next) = self.run_at(at / BLOCK);
            let until = inside.map(|run| run.end()).or(next.map(|run| run.start));
            let until = until.map_or(end, |block| (block * BLOCK).min(end));
            let part = &mut out[(at - offset) as usize..(until - offset) as usize];
            match inside {
                Some(_) => self.copy.read_exact_at(part, at)?,
                None => self.image.read(at, part)?,
            }
            at = until;
        }
        Ok(())
    }
}
