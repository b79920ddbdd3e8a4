//! Checks an image, and repairs it.
//!
//! The check reads the image through the overlay of [`metastore`](crate::image::metastore), so it
//! never writes. It reads the tables in the order of their keys and keeps, besides a few bytes an
//! inode and a bit a block, only what is to be corrected; repair writes the corrected rows back in
//! one transaction and then checks again from the start.
//!
//! Notes are what a crash may leave and the next mount settles, and a metadata area that is far too
//! large; errors are what no crash leaves.

mod apart;
mod census;
mod claims;
mod commit;
mod copies;
mod database;
mod doubts;
mod extents;
mod groups;
mod inodes;
mod leaves;
mod model;
mod names;
mod rebuild;
mod report;
mod room;
mod rows;
mod salvage;
mod shielded;
mod shrink;
mod table;
mod tree;
mod walk;

pub use report::{FINDINGS_MAX, Finding, Findings, Outcome, Report, Severity};
pub use shrink::{ShrinkError, shrink, shrink_on};

use crate::disk::{Disk, FileDisk};
use crate::errno::Error;
use crate::image::metastore::MetaStore;
use crate::image::open::{self, Access, Locked, OpenError};
use crate::image::probe::ProbeError;
use crate::image::snapshot::Snapshot;
use crate::image::superblock::Superblock;
use database::{Examined, Suspect, salvage};
use groups::Layout;
use room::room;
use shielded::Shielded;
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

/// Blocks that the metadata area may grow by while rows are corrected.
const GROWTH_BLOCKS: u64 = 1 << 14;

/// Blocks of a metadata area that is worth making smaller, at least: 16 MiB.
const OVERSIZED_MIN: u64 = 1 << 12;

/// One look at the whole image.
struct Pass {
    found: Findings,
    superblock: Superblock,
    /// There is a state that repair can write. It may read the database below.
    examined: Option<Examined>,
    /// The database must be written anew: some of it cannot be read, or not by a mount.
    damaged: bool,
    _database: Option<Suspect>,
}

/// Checks the image at `path`; with `repair`, corrects it and checks it again. The image is locked
/// meanwhile, and written only by a repair that has something to do. Of an image that is mounted the last commit is checked.
///
/// # Errors
/// When it is in use, cannot be opened, or is no image; when the repair failed.
pub fn check(path: &Path, options: &Options<'_>) -> Result<Report, FsckError> {
    let Locked { disk, lock: _lock } = loop {
        match open::locked(path, Access::ReadAlone) {
            Ok(locked) => break locked,
            Err(refused) if options.repair => return Err(refused.into()),
            Err(refused) => {
                if let Some(snapshot) = Snapshot::instead(path, refused)? {
                    return check_mounted(snapshot, options);
                }
            }
        }
    };
    disk.distrust()
        .map_err(|source| OpenError::from(ProbeError::Open { path: path.to_owned(), source }))?;
    let writer = || -> Result<Arc<dyn Disk>, FsckError> {
        let open = |source| ProbeError::Open { path: path.to_owned(), source };
        let disk = FileDisk::open(path, true).map_err(|e| OpenError::from(open(e)))?;
        Ok(Arc::new(disk))
    };
    check_and_repair(disk, writer, options)
}

fn check_mounted(snapshot: Arc<Snapshot>, options: &Options<'_>) -> Result<Report, FsckError> {
    let mounted_on = Some(snapshot.mountpoint().to_owned());
    let disk: Arc<dyn Disk> = snapshot;
    let pass = look(&disk, options.progress).map_err(OpenError::from)?;
    let report = report(disk.name(), &pass, None);
    let found = report.found.clone().without_notes();
    Ok(Report { mounted_on, found, ..report })
}

/// As [`check`], for a disk that nobody else uses.
///
/// # Errors
/// As for [`check`].
pub fn check_on(disk: &Arc<dyn Disk>, options: &Options<'_>) -> Result<Report, FsckError> {
    check_and_repair(Arc::new(Shielded(disk.clone())), || Ok(disk.clone()), options)
}

fn check_and_repair(
    disk: Arc<dyn Disk>,
    writer: impl FnOnce() -> Result<Arc<dyn Disk>, FsckError>,
    options: &Options<'_>,
) -> Result<Report, FsckError> {
    let path = disk.name();
    let first = look(&disk, options.progress).map_err(OpenError::from)?;
    if !options.repair || first.found.total() == 0 || first.examined.is_none() {
        return Ok(report(path, &first, None));
    }
    let bits = first.superblock.unknown_ro_compat();
    if bits != 0 {
        let path = path.to_owned();
        return Err(OpenError::from(ProbeError::ReadOnly { path, bits }).into());
    }
    repair(&writer()?, &first, options.progress)
        .map_err(|source| FsckError::Repair { image: path.to_owned(), source })?;
    let before = report(path, &first, None);
    // What it read is no more.
    drop(first);
    let last = look(&disk, options.progress).map_err(OpenError::from)?;
    Ok(report(path, &last, Some(before.found)))
}

/// Checks the image on a disk that is not writable and that nobody changes meanwhile.
///
/// # Errors
/// When there is no filesystem on it, or not enough of one to check.
pub fn inspect(disk: &Arc<dyn Disk>) -> Result<Report, FsckError> {
    assert!(!disk.is_writable(), "opening a database repairs it where it can");
    let pass = look(disk, &|_| ()).map_err(OpenError::from)?;
    Ok(report(disk.name(), &pass, None))
}

fn look(disk: &Arc<dyn Disk>, progress: Progress<'_>) -> Result<Pass, ProbeError> {
    let mut found = Findings::default();
    progress("reading superblocks");
    let checked = copies::check(&**disk, &mut found)?;
    let mut pass = Pass {
        found,
        superblock: checked.superblock,
        examined: None,
        damaged: true,
        _database: None,
    };
    // Nothing that follows from a size that is not there is worth looking at.
    if !checked.cut
        && let Err(e) = look_at_database(disk, &mut pass, progress)
    {
        pass.found.error("database", e.to_string(), "");
    }
    Ok(pass)
}

fn look_at_database(
    disk: &Arc<dyn Disk>,
    pass: &mut Pass,
    progress: Progress<'_>,
) -> Result<(), Error> {
    progress("verifying the database");
    let before = pass.found.clone();
    match examine_database(disk, pass, progress) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(e) => {
            pass.found = before;
            let remedy = "the rows that can be read are written anew";
            pass.found.error("database", e.to_string(), remedy);
        }
    }
    progress("looking for what can be read");
    pass.examined = Some(salvage(disk, &pass.superblock, &mut pass.found, progress)?);
    Ok(())
}

/// Checks the database with its own means; `false` when it contradicts itself.
fn examine_database(
    disk: &Arc<dyn Disk>,
    pass: &mut Pass,
    progress: Progress<'_>,
) -> Result<bool, Error> {
    let meta = MetaStore::salvage(disk.clone(), pass.superblock.clone());
    if commit::is_header_damaged(&meta)? {
        let problem = "its header does not say what was written last";
        pass.found.error("database", problem, "the database is written anew");
        return Ok(false);
    }
    let mut suspect = Suspect::open(disk, &pass.superblock)?;
    if !suspect.verify(&mut pass.found) {
        return Ok(false);
    }
    pass.examined = Some(suspect.examine(&mut pass.found, progress)?);
    pass.damaged = suspect.is_rotten() | is_oversized(&meta, &mut pass.found)?;
    pass._database = Some(suspect);
    Ok(true)
}

/// Whether most of a metadata area is left over from files that are gone: it does not shrink by
/// itself.
fn is_oversized(meta: &MetaStore, f: &mut Findings) -> Result<bool, Error> {
    let has = meta.backed_blocks();
    if has < OVERSIZED_MIN {
        return Ok(false);
    }
    let used = commit::blocks_in_use(meta)?.filter(|used| 4 * used < has);
    if let Some(used) = used {
        let problem = format!("has {has} blocks and uses {used}");
        f.note("metadata area", problem, "it is written anew, and the other blocks are free");
    }
    Ok(used.is_some())
}

fn repair(writer: &Arc<dyn Disk>, pass: &Pass, progress: Progress<'_>) -> Result<(), Error> {
    let Some(examined) = &pass.examined else { return Ok(()) };
    if !pass.damaged && !examined.model.incomplete {
        return correct(writer, &pass.superblock, examined, progress);
    }
    progress("writing a new database");
    let superblock = rebuild::rebuild(writer, &pass.superblock, examined)?;
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
    let room = room(seen, Layout::new(superblock), GROWTH_BLOCKS)?;
    let mut known = Findings::default();
    let mut suspect = Suspect::open_in(writer, superblock, room)?;
    // Not the rows that were seen: what the database has recovered by now is what is corrected.
    if !suspect.verify(&mut known) {
        return Err(Error::Damaged("the database cannot be verified".into()));
    }
    let examined = suspect.examine(&mut known, progress)?;
    suspect.store(&examined.model)?;
    drop(examined);
    suspect.close()
}

/// A report of the last look; `repaired` is what the look before the repair had found.
fn report(path: &Path, last: &Pass, repaired: Option<Findings>) -> Report {
    let now = last.found.clone();
    let (found, left) = match repaired {
        Some(found) => (found, Some(now)),
        None => (now, None),
    };
    let outcome = match (left.as_ref().unwrap_or(&found).errors, found.errors) {
        (0, 0) => Outcome::Clean,
        (0, _) => Outcome::Corrected,
        _ => Outcome::Uncorrected,
    };
    let examined = last.examined.as_ref();
    Report {
        image: path.to_owned(),
        outcome,
        found,
        left,
        inodes: examined.map_or(0, |e| e.inodes),
        blocks_used: examined.map_or(0, |e| e.claims.blocks()),
        blocks_total: last.superblock.total_blocks,
        mounted_on: None,
    }
}
