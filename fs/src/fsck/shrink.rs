//! A smaller filesystem, of an image that nobody has mounted.
//!
//! What lies behind the new end is copied to blocks that are free before it, and a new database that says so is written to
//! others. Only when all of that is durable do the superblocks point at it and say the new size, both at once: a crash at any
//! moment leaves the old filesystem, which nothing was taken from, or the new one. There is nothing to be finished.

use crate::disk::{Disk, FileDisk};
use crate::errno::{self, Error};
use crate::fsck::claims::Claims;
use crate::fsck::database::Examined;
use crate::fsck::extents::Key;
use crate::fsck::groups::{self, Layout};
use crate::fsck::room::room_before;
use crate::fsck::shielded::Shielded;
use crate::fsck::{FsckError, Pass, Progress, commit, look, rebuild};
use crate::image::BLOCK;
use crate::image::metastore::MetaStore;
use crate::image::mkfs::SIZE_MIN;
use crate::image::open::{self, Access, Locked, OpenError};
use crate::image::pins::Run;
use crate::image::probe::ProbeError;
use crate::image::space::Space;
use crate::image::store::fixed_runs;
use crate::image::tables::Extent;
use nix::errno::Errno;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Blocks that are copied at a time: 1 MiB.
const COPY_BLOCKS: u64 = 256;
/// Blocks that the new database may need beyond twice those of the old one: its area begins with so many.
const AREA_MIN: u64 = 1024;
/// Blocks that were moved for each block of extents that come of it at worst.
const MOVED_PER_BLOCK: u64 = 64;

/// Why a filesystem is as large as it was.
#[derive(Debug, thiserror::Error)]
pub enum ShrinkError {
    /// It cannot be opened, or is no image.
    #[error(transparent)]
    Image(#[from] FsckError),
    /// What is wrong with it has to be put right first.
    #[error("{image} is damaged; repair it with inflight fsck --repair, then make it smaller")]
    Damaged {
        /// The image.
        image: PathBuf,
    },
    /// There is too much in it.
    #[error("{image} does not fit into {wanted} bytes: the smallest that would do is {smallest} ({}M)", smallest >> 20)]
    TooSmall {
        /// The image.
        image: PathBuf,
        /// What was asked for, in bytes.
        wanted: u64,
        /// What would do, in bytes: whole MiB.
        smallest: u64,
    },
    /// It failed half way, and nothing came of it.
    #[error("{image} cannot be made smaller, and is as it was: {source}")]
    Failed {
        /// The image.
        image: PathBuf,
        /// Why.
        source: Error,
    },
}

impl From<OpenError> for ShrinkError {
    fn from(error: OpenError) -> ShrinkError {
        ShrinkError::Image(error.into())
    }
}

/// Makes the filesystem at `path` one of `blocks` blocks, fewer than it has, and the file that it is in as long. The image is
/// locked meanwhile.
///
/// # Errors
/// [`ShrinkError`]; the filesystem is as it was.
pub fn shrink(path: &Path, blocks: u64, progress: Progress<'_>) -> Result<(), ShrinkError> {
    let Locked { disk, lock: _lock } = open::locked(path, Access::ReadAlone)?;
    let open = |source| OpenError::from(ProbeError::Open { path: path.to_owned(), source });
    disk.distrust().map_err(open)?;
    let writer = Arc::new(FileDisk::open(path, true).map_err(open)?);
    let over: Arc<dyn Disk> = writer.clone();
    between(&(disk as Arc<dyn Disk>), &over, blocks, progress)?;
    if !writer.is_block_device() {
        let failed = |e: std::io::Error| ShrinkError::Failed {
            image: path.to_owned(),
            source: Error::Corrupt(format!(
                "the filesystem is smaller, its file cannot be cut: {e}"
            )),
        };
        writer.file().set_len(blocks * BLOCK).map_err(failed)?;
    }
    Ok(())
}

/// As [`shrink`], for a disk that nobody else uses; it stays as long as it is.
///
/// # Errors
/// As for [`shrink`].
pub fn shrink_on(
    disk: &Arc<dyn Disk>,
    blocks: u64,
    progress: Progress<'_>,
) -> Result<(), ShrinkError> {
    let reader: Arc<dyn Disk> = Arc::new(Shielded(disk.clone()));
    between(&reader, disk, blocks, progress)
}

fn between(
    reader: &Arc<dyn Disk>,
    writer: &Arc<dyn Disk>,
    blocks: u64,
    progress: Progress<'_>,
) -> Result<(), ShrinkError> {
    let image = reader.name().to_owned();
    let mut pass = look(reader, progress).map_err(OpenError::from)?;
    let bits = pass.superblock.unknown_ro_compat();
    if bits != 0 {
        return Err(OpenError::from(ProbeError::ReadOnly { path: image, bits }).into());
    }
    let is_clean = pass.found.errors == 0;
    let is_whole = |examined: &Examined| is_clean && !examined.model.incomplete;
    let Some(examined) = pass.examined.take().filter(is_whole) else {
        return Err(ShrinkError::Damaged { image });
    };
    let failed = |source| ShrinkError::Failed { image: image.clone(), source };
    let smallest = smallest(reader, &pass, &examined).map_err(failed)?;
    if blocks < smallest {
        let smallest = (smallest * BLOCK).next_multiple_of(1 << 20);
        return Err(ShrinkError::TooSmall { image, wanted: blocks * BLOCK, smallest });
    }
    progress("moving what lies behind the new end");
    move_below(writer, &pass, examined, blocks, progress).map_err(failed)
}

/// The smallest number of blocks that all of it fits into: what is free before the end holds what lies behind, and a new
/// database beside the old one.
fn smallest(reader: &Arc<dyn Disk>, pass: &Pass, examined: &Examined) -> errno::Result<u64> {
    let superblock = &pass.superblock;
    let meta = MetaStore::salvage(reader.clone(), superblock.clone());
    let used = commit::blocks_in_use(&meta)?.unwrap_or_else(|| meta.backed_blocks());
    let fixed = Layout::new(superblock).fixed();
    let claims = &examined.claims;
    // Room for the metadata and for what is moved, less what is free: all of it is behind an end of 0.
    let data = claims.blocks() - fixed.blocks();
    let mut missing = (2 * used + AREA_MIN + data + data / MOVED_PER_BLOCK) as i64;
    for group in 0..claims.groups() {
        let (all, own) = (claims.bits(group), fixed.bits(group));
        let (free, held) = (claims.free(group), fixed.len(group) - fixed.free(group));
        let data = claims.len(group) - free - held;
        if missing > (free + data) as i64 {
            missing -= (free + data) as i64;
            continue;
        }
        for at in 0..claims.len(group) {
            // A block of a file stays where it is, and one that is free takes another.
            missing -= i64::from(!all.get(at) || !own.get(at));
            if missing <= 0 {
                let first = group * crate::image::space::GROUP_BLOCKS + at + 1;
                return Ok(first.max(SIZE_MIN / BLOCK));
            }
        }
    }
    Ok(superblock.total_blocks)
}

fn move_below(
    writer: &Arc<dyn Disk>,
    pass: &Pass,
    mut examined: Examined,
    end: u64,
    progress: Progress<'_>,
) -> errno::Result<()> {
    let space = room_before(&examined, Layout::new(&pass.superblock), end)?;
    let moved = copy_behind(writer, &examined, &space, end)?;
    examined.model.extents.correct(moved);
    let mut claims = Claims::new(end);
    fixed_runs(&[]).for_each(|run| claims.add(run));
    let mut extents = examined.model.extents.rows();
    while let Some((_, extent)) = extents.next()? {
        if !claims.claim(Run { start: extent.start, blocks: extent.blocks }) {
            return Err(Error::Corrupt("two extents would share a block".into()));
        }
    }
    drop(extents);
    // Blocks of the new database are implied, as after every growth of the area.
    examined.model.groups.leave();
    examined.model.free.leave();
    groups::correct(&mut examined.model, &claims)?;
    progress("writing a new database");
    rebuild::rebuild_in(writer, &pass.superblock, &examined, space).map(drop)
}

/// Copies the blocks of files that lie behind `end`; the rows of extents that change.
fn copy_behind(
    writer: &Arc<dyn Disk>,
    examined: &Examined,
    space: &Space,
    end: u64,
) -> errno::Result<Vec<(Key, Option<Extent>)>> {
    let mut changes = Vec::new();
    let mut goal = None;
    let mut rows = examined.model.extents.rows();
    while let Some((key, extent)) = rows.next()? {
        if extent.start + extent.blocks <= end {
            continue;
        }
        let stays = end.saturating_sub(extent.start);
        changes.push((key, (stays > 0).then_some(Extent { blocks: stays, ..extent })));
        let mut at = stays;
        while at < extent.blocks {
            let run = space.allocate(extent.blocks - at, goal).ok_or(Errno::ENOSPC)?;
            if !extent.unwritten {
                copy(&**writer, extent.start + at, run)?;
            }
            let Run { start, blocks } = run;
            changes.push(((key.0, key.1 + at), Some(Extent { start, blocks, ..extent })));
            at += blocks;
            goal = Some(run.end());
        }
    }
    Ok(changes)
}

fn copy(disk: &dyn Disk, from: u64, to: Run) -> errno::Result<()> {
    let mut bytes = vec![0; (COPY_BLOCKS.min(to.blocks) * BLOCK) as usize];
    for at in (0..to.blocks).step_by(COPY_BLOCKS as usize) {
        let bytes = &mut bytes[..(COPY_BLOCKS.min(to.blocks - at) * BLOCK) as usize];
        disk.read((from + at) * BLOCK, bytes)?;
        disk.write((to.start + at) * BLOCK, bytes)?;
    }
    Ok(())
}
