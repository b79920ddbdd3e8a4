//! Makes an empty filesystem.

use crate::disk::{Disk, FileDisk};
use crate::errno::Error;
use crate::image::lock::{self, ImageLock, LockError};
use crate::image::metastore::{Backend, MetaStore};
use crate::image::pins::Pins;
use crate::image::space::Space;
use crate::image::store::fixed_runs;
use crate::image::superblock::{Chunk, LABEL_MAX, SECOND, Superblock, Unusable, VERSION};
use crate::image::tables::{Attr, INODES_USED, InodeRow, NEXT_INODE, Tables, Time};
use crate::image::unopened::unopened;
use crate::image::{BLOCK, blocks_for};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zerocopy::IntoBytes as _;

/// Inode number of the root directory, fixed by FUSE (FUSE_ROOT_ID).
pub const ROOT: u64 = 1;
/// Smallest image, in bytes.
pub const SIZE_MIN: u64 = 16 << 20;
/// First piece of the metadata area, at least: an empty database touches its first 258 pages, and
/// mkfs has no allocator to grow it with; the rest is room for the first few thousand files.
const CHUNK_BLOCKS: u64 = 768;

/// What to make.
#[derive(Clone, Debug, Default)]
pub struct MkfsOptions {
    /// Bytes; the present size of the file or device when absent.
    pub size: Option<u64>,
    /// At most 63 bytes of UTF-8.
    pub label: String,
    /// Overwrite whatever is there.
    pub force: bool,
    /// UUID and key of the name hash; random when absent. With a key that is known, somebody can make names that collide.
    pub identity: Option<[[u8; 16]; 2]>,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum MkfsError {
    /// The path cannot be opened or created.
    #[error("{}", unopened(path, source))]
    Open {
        /// The image.
        path: PathBuf,
        /// What open(2) said.
        source: io::Error,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Something is there already.
    #[error("{path} {what}; use --force to overwrite it")]
    Occupied {
        /// The image.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The image is in use.
    #[error("{path} is {source}")]
    Locked {
        /// The image.
        path: PathBuf,
        /// By whom.
        source: LockError,
    },
    /// Writing failed.
    #[error("{path}: {source}")]
    Write {
        /// The image.
        path: PathBuf,
        /// What failed.
        source: Error,
    },
}

/// Makes an image at `path`. Nothing on disk changes unless every check passes.
pub fn mkfs(path: &Path, options: &MkfsOptions) -> Result<Superblock, MkfsError> {
    if options.label.len() > LABEL_MAX {
        let n = options.label.len();
        return Err(MkfsError::Usage(format!("label is {n} bytes long, at most {LABEL_MAX} fit")));
    }
    if let Some(size) = options.size {
        check_size(path, size)?;
    }
    let existed = path.exists();
    if !existed && options.size.is_none() {
        let hint = format!("{} does not exist: give its size, as in --size 4G", path.display());
        return Err(MkfsError::Usage(hint));
    }
    let open = |e: io::Error| MkfsError::Open { path: path.into(), source: e };
    if !existed {
        std::fs::File::create_new(path).map_err(open)?;
    }
    let made = prepare(path, options).and_then(|(disk, lock, total)| {
        let sb = format(&disk, options, total)
            .map_err(|source| MkfsError::Write { path: path.into(), source })?;
        drop(lock);
        Ok(sb)
    });
    if made.is_err() && !existed {
        // The file is ours and useless; the error that matters is the one already at hand.
        let _ = std::fs::remove_file(path);
    }
    made
}

fn check_size(path: &Path, size: u64) -> Result<(), MkfsError> {
    let name = path.display();
    if size < SIZE_MIN {
        return Err(MkfsError::Usage(format!(
            "{name}: {size} bytes are too small, an image needs at least {} MiB",
            SIZE_MIN >> 20
        )));
    }
    if !size.is_multiple_of(BLOCK) {
        let (down, up) = (size / BLOCK * BLOCK, blocks_for(size) * BLOCK);
        return Err(MkfsError::Usage(format!(
            "{name}: size {size} is not a multiple of {BLOCK}; use {down} or {up}"
        )));
    }
    Ok(())
}

fn prepare(
    path: &Path,
    options: &MkfsOptions,
) -> Result<(Arc<dyn Disk>, ImageLock, u64), MkfsError> {
    let open = |e: io::Error| MkfsError::Open { path: path.into(), source: e };
    let disk = FileDisk::open(path, true).map_err(open)?;
    let lock = ImageLock::acquire(disk.file(), disk.name(), lock::PATIENCE)
        .and_then(|lock| lock.claim(disk.name()))
        .map_err(|source| MkfsError::Locked { path: path.into(), source })?;
    let have = disk.len().map_err(open)?;
    if !options.force {
        refuse_content(&disk, path, have)?;
    }
    let size = match options.size {
        Some(size) if disk.is_block_device() && size > have => {
            let name = path.display();
            return Err(MkfsError::Usage(format!("{name} has {have} bytes, not {size}")));
        }
        Some(size) => size,
        None => have / BLOCK * BLOCK,
    };
    check_size(path, size)?;
    if !disk.is_block_device() && have != size {
        disk.file().set_len(size).map_err(open)?;
    }
    Ok((Arc::new(disk), lock, size / BLOCK))
}

fn refuse_content(disk: &dyn Disk, path: &Path, have: u64) -> Result<(), MkfsError> {
    let mut head = vec![0; have.min(128 << 10) as usize];
    disk.read(0, &mut head).map_err(|e| MkfsError::Open { path: path.into(), source: e })?;
    if head.iter().all(|b| *b == 0) {
        return Ok(());
    }
    let what = match head.get(..BLOCK as usize).map(Superblock::decode) {
        Some(Ok(sb)) if sb.label.is_empty() => "holds an Inflight filesystem".to_owned(),
        Some(Ok(sb)) => format!("holds an Inflight filesystem labelled '{}'", sb.label),
        Some(Err(Unusable::NotOurs)) | None => "is not empty".to_owned(),
        Some(Err(e)) => format!("holds an Inflight filesystem ({e})"),
    };
    Err(MkfsError::Occupied { path: path.into(), what })
}

/// Makes a filesystem of `total` blocks on a disk that nobody else uses; what is there is lost.
///
/// # Errors
/// Those of the disk.
pub fn format(
    disk: &Arc<dyn Disk>,
    options: &MkfsOptions,
    total: u64,
) -> Result<Superblock, Error> {
    let chunk = Chunk { logical: 0, start: 1, blocks: (total / 256).clamp(CHUNK_BLOCKS, 1024) };
    let random = || *uuid::Uuid::new_v4().as_bytes();
    let [uuid, hash_key] = options.identity.unwrap_or_else(|| [random(), random()]);
    let superblock = Superblock {
        version: VERSION,
        compat: 0,
        ro_compat: 0,
        incompat: 0,
        uuid,
        label: options.label.clone(),
        total_blocks: total,
        created_secs: Time::now().secs,
        sequence: 0,
        metadata_bytes: 0,
        state: 0,
        hash_key,
        commit: None,
        chunks: vec![chunk],
    };
    // A half-made image must not look like a good one: the superblocks come last.
    let nothing = vec![0; BLOCK as usize];
    disk.write(0, &nothing)?;
    disk.write(SECOND * BLOCK, &nothing)?;
    let meta = Arc::new(MetaStore::create(disk.clone(), superblock));
    let db = redb::Database::builder().create_with_backend(Backend(meta.clone()))?;
    let mut txn = db.begin_write()?;
    {
        let mut tables = Tables::open(&txn)?;
        let space = Space::new(total, Arc::new(Pins::default()));
        fixed_runs(&meta.superblock().chunks).for_each(|run| space.claim(run));
        tables.store_space(space.take_dirty())?;
        tables.inodes.insert(ROOT, InodeRow::new(&root_attr()).as_bytes())?;
        tables.counters.insert(NEXT_INODE, ROOT + 1)?;
        tables.counters.insert(INODES_USED, 1)?;
    }
    txn.set_quick_repair(true);
    txn.commit()?;
    drop(db);
    meta.set_mounted(false)?;
    Ok(meta.superblock())
}

/// The root directory as mkfs makes it.
pub(crate) fn root_attr() -> Attr {
    let now = Time::now();
    Attr {
        mode: libc::S_IFDIR | 0o755,
        nlink: 2,
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        rdev: 0,
        flags: 0,
        xflags: 0,
        project: 0,
        generation: 1,
        size: 0,
        blocks: 0,
        parent: ROOT,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    }
}
