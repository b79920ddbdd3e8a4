//! Checks an image, and repairs it.
//!
//! The check reads the image through the overlay of [`metastore`](crate::image::metastore), so it
//! never writes. It loads all rows into a model and lets each check correct the model; repair
//! writes the corrected rows back in one transaction and then checks again from the start.
//!
//! Notes are what a crash may leave and the next mount settles; errors are what no crash leaves.

mod bitmaps;
mod blocks;
mod claims;
mod copies;
mod database;
mod inodes;
mod model;
mod names;
mod rebuild;
mod report;
mod tree;

pub use report::{FINDINGS_MAX, Finding, Findings, Outcome, Report, Severity};

use crate::disk::{Disk, FileDisk};
use crate::errno::Error;
use crate::image::open::{self, Access, Locked, OpenError};
use crate::image::pins::Run;
use crate::image::probe::ProbeError;
use crate::image::superblock::Superblock;
use database::{Examined, Suspect, free_blocks};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Told what is being done, for a display.
pub type Progress<'a> = &'a dyn Fn(&'static str);

/// What to do.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Write the image when something is wrong with it.
    pub repair: bool,
    /// Told what is being done.
    pub progress: Progress<'a>,
}

/// Why an image could not be checked at all.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// It cannot be opened, or is not an image.
    #[error(transparent)]
    Image(#[from] OpenError),
    /// The repair failed half way; the image is at its last commit.
    #[error("{image}: the repair failed: {source}")]
    Repair {
        /// The image.
        image: PathBuf,
        /// Why.
        source: Error,
    },
}

/// One look at the whole image.
struct Pass {
    found: Findings,
    superblock: Superblock,
    /// There is a state that repair can write.
    examined: Option<Examined>,
    damaged: bool,
}

/// Checks the image at `path`; with `repair`, corrects it and checks it again. The image is locked
/// meanwhile, and written only by a repair that has something to do.
pub fn check(path: &Path, options: &Options<'_>) -> Result<Report, FsckError> {
    let image = || path.to_owned();
    let Locked { disk, lock: _lock } = open::locked(path, Access::ReadAlone)?;
    let disk: Arc<dyn Disk> = disk;
    disk.distrust()
        .map_err(|source| OpenError::from(ProbeError::Open { path: image(), source }))?;
    let first = look(&disk, options.progress).map_err(OpenError::from)?;
    if !options.repair || first.found.total() == 0 || first.examined.is_none() {
        return Ok(report(path, first, None));
    }
    let bits = first.superblock.unknown_ro_compat();
    if bits != 0 {
        return Err(OpenError::from(ProbeError::ReadOnly { path: image(), bits }).into());
    }
    let writer = FileDisk::open(path, true)
        .map_err(|source| OpenError::from(ProbeError::Open { path: image(), source }))?;
    let writer: Arc<dyn Disk> = Arc::new(writer);
    repair(&disk, &writer, &first, options.progress)
        .map_err(|source| FsckError::Repair { image: image(), source })?;
    let last = look(&disk, options.progress).map_err(OpenError::from)?;
    Ok(report(path, first, Some(last)))
}

/// Checks the image on a disk that is not writable and that nobody changes meanwhile.
///
/// # Errors
/// When there is no filesystem on it, or not enough of one to check.
pub fn inspect(disk: &Arc<dyn Disk>) -> Result<Report, FsckError> {
    assert!(!disk.is_writable(), "opening a database repairs it where it can");
    let pass = look(disk, &|_| ()).map_err(OpenError::from)?;
    Ok(report(disk.name(), pass, None))
}

fn look(disk: &Arc<dyn Disk>, progress: Progress<'_>) -> Result<Pass, ProbeError> {
    let mut found = Findings::default();
    progress("reading superblocks");
    let checked = copies::check(&**disk, &mut found)?;
    if checked.cut {
        // Nothing that follows from a size that is not there is worth looking at.
        return Ok(Pass { found, superblock: checked.superblock, examined: None, damaged: true });
    }
    progress("verifying the database");
    let mut pass = Pass { found, superblock: checked.superblock, examined: None, damaged: true };
    let looked = Suspect::open(disk, &pass.superblock, None, &mut pass.found).and_then(|mut db| {
        let examined = db.examine(&mut pass.found, progress);
        pass.damaged = db.is_damaged();
        examined
    });
    match looked {
        Ok(examined) => pass.examined = Some(examined),
        Err(e) => pass.found.error("database", e.to_string(), ""),
    }
    Ok(pass)
}

fn repair(
    reader: &Arc<dyn Disk>,
    writer: &Arc<dyn Disk>,
    pass: &Pass,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let Some(examined) = &pass.examined else { return Ok(()) };
    if !pass.damaged && !examined.model.incomplete {
        return correct(writer, &pass.superblock, examined, progress);
    }
    progress("writing a new database");
    let superblock = rebuild::rebuild(reader, writer, &pass.superblock, examined)?;
    // The new database does not know yet where it lies itself, and that the old one is gone.
    correct(writer, &superblock, examined, progress)
}

/// Writes corrected rows in place.
fn correct(
    writer: &Arc<dyn Disk>,
    superblock: &Superblock,
    seen: &Examined,
    progress: Progress<'_>,
) -> Result<(), Error> {
    progress("repairing");
    let room = free_blocks(seen, superblock.total_blocks);
    for chunk in &superblock.chunks {
        room.claim(Run { start: chunk.start, blocks: chunk.blocks });
    }
    let mut known = Findings::default();
    let mut suspect = Suspect::open(writer, superblock, Some(room), &mut known)?;
    // Not the rows that were seen: what the database has recovered by now is what is corrected.
    let examined = suspect.examine(&mut known, progress)?;
    suspect.store(&examined.model)?;
    suspect.close()
}

fn report(path: &Path, first: Pass, last: Option<Pass>) -> Report {
    let now = last.as_ref().unwrap_or(&first);
    let outcome = match (now.found.errors, first.found.errors) {
        (0, 0) => Outcome::Clean,
        (0, _) => Outcome::Corrected,
        _ => Outcome::Uncorrected,
    };
    let inodes = now.examined.as_ref().map_or(0, |e| e.model.inodes.len() as u64);
    let blocks_used = now.examined.as_ref().map_or(0, |e| e.blocks_used);
    let blocks_total = now.superblock.total_blocks;
    Report {
        image: path.to_owned(),
        outcome,
        left: last.map(|pass| pass.found),
        found: first.found,
        inodes,
        blocks_used,
        blocks_total,
    }
}
