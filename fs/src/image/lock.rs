//! One owner of an image at a time.
//!
//! flock(2) on the image itself: the lock goes with the process however it dies, works on block
//! devices, and /proc/locks names the holder.

use crate::disk::open_image;
use crate::image::server;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::Mode;

/// How long a mount, mkfs or fsck waits for a server that is still writing after its umount(2).
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long umount waits for that server: a slow disk may have gigabytes to write.
pub const PATIENCE_UMOUNT: Duration = Duration::from_secs(1800);
/// How long a claim of a block device is waited for.
const PATIENCE_CLAIM: Duration = Duration::from_secs(1);

/// How the process waits for others.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// At all.
    pub patient: bool,
    /// Told after this time, once a wait.
    pub after: Duration,
    /// Tells the user for whom, and for how long.
    pub tell: fn(&str),
}

static WAITING: OnceLock<Waiting> = OnceLock::new();

/// Says how the process waits; the first call counts. Without one it waits and tells nobody.
pub fn wait_as(waiting: Waiting) {
    let _ = WAITING.set(waiting);
}

/// Held for as long as the image is in use.
#[derive(Debug)]
pub struct ImageLock {
    /// Before the lock: the next owner of the lock may claim the device at once.
    _claim: Option<OwnedFd>,
    _file: Flock<File>,
}

/// Why the image is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("in use by {holder}")]
    Held {
        /// Process, command and mount point, as far as they are known.
        holder: String,
        /// Where the image was mounted.
        mountpoint: Option<String>,
    },
    /// It is a block device that is mounted, swapped on, part of an array, or open for that.
    #[error(
        "in use by the kernel (mounted, swapped on, part of an array) or by a program that claims it"
    )]
    Claimed,
    /// The lock could not be asked for.
    #[error("cannot be locked: {0}")]
    Io(#[from] io::Error),
}

impl ImageLock {
    /// Locks `file`. A holder that has the image mounted is reported at once; any other one (a
    /// server that is finishing, a check) is waited for up to `patience`.
    pub fn acquire(file: &File, path: &Path, patience: Duration) -> Result<ImageLock, LockError> {
        let silent = Waiting { patient: true, after: patience, tell: |_| () };
        let waiting = WAITING.get().copied().unwrap_or(silent);
        let patience = if waiting.patient { patience } else { Duration::ZERO };
        let (start, mut told) = (Instant::now(), false);
        let deadline = start + patience;
        let mut file = file.try_clone()?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(ImageLock { _claim: None, _file: lock }),
                Err((back, Errno::EWOULDBLOCK)) => file = back,
                Err((_, errno)) => return Err(LockError::Io(errno.into())),
            }
            let mounted = mount_of(path);
            if mounted.is_some() || Instant::now() >= deadline {
                let holder = describe(&file, mounted.as_deref());
                return Err(LockError::Held { holder, mountpoint: mounted });
            }
            if !told && start.elapsed() >= waiting.after {
                let (path, holder) = (path.display(), describe(&file, None));
                let bound = patience.as_secs();
                (waiting.tell)(&format!(
                    "{path} is in use by {holder}; waiting up to {bound} s (not with --no-wait)"
                ));
                told = true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Claims a block device, for whoever writes to it or must not see it change: until the lock is dropped neither mount(2), swapon(2)
    /// nor another mkfs gets it. A regular file needs none of that.
    ///
    /// # Errors
    /// [`LockError::Claimed`] when somebody else has claimed it.
    pub fn claim(mut self, path: &Path) -> Result<ImageLock, LockError> {
        if std::fs::metadata(path)?.file_type().is_block_device() {
            self._claim = Some(claim(path)?);
        }
        Ok(self)
    }
}

/// Without O_CREAT, O_EXCL on a block device claims it against every other such claim, the kernel's included (open(2)).
fn claim(path: &Path) -> Result<OwnedFd, LockError> {
    let flags = OFlag::O_EXCL | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    // A server that was killed lets go of its lock before its claim.
    let deadline = Instant::now() + PATIENCE_CLAIM;
    loop {
        match nix::fcntl::open(path, flags, Mode::empty()) {
            Ok(claim) => return Ok(claim),
            Err(Errno::EBUSY) if Instant::now() >= deadline => return Err(LockError::Claimed),
            Err(Errno::EBUSY) => std::thread::sleep(Duration::from_millis(10)),
            Err(errno) => return Err(LockError::Io(errno.into())),
        }
    }
}

/// Where `image` is mounted as an Inflight filesystem in this mount namespace.
pub fn mount_of(image: &Path) -> Option<String> {
    mounts(|m| Path::new(&m.image) == image).pop().map(|m| m.dir)
}

/// The image that is mounted on `dir`.
pub fn image_of(dir: &Path) -> Option<PathBuf> {
    mounts(|m| Path::new(&m.dir) == dir).pop().map(|m| m.image.into())
}

/// All images that are mounted in this mount namespace.
pub fn mounted_images() -> Vec<PathBuf> {
    mounts(|_| true).into_iter().map(|m| m.image.into()).collect()
}

struct Mount {
    dir: String,
    image: String,
}

/// Inflight's mounts in this namespace that are wanted, from /proc/self/mountinfo. Nothing is asked about the others: anybody
/// may mount anything, under any name.
fn mounts(wanted: impl Fn(&Mount) -> bool) -> Vec<Mount> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let (kind, source) = right.split_once(' ')?;
        let source = unescape(source.split(' ').next()?);
        // With the option fsname the table does not say, and a dead server does not either.
        let image = match kind == "fuse.inflight" && !source.starts_with('/') {
            true => server::image(left.split(' ').nth(2)?).unwrap_or(source),
            false => source,
        };
        let mount = Mount { dir: unescape(left.split(' ').nth(4)?), image };
        let ours =
            || kind == "fuse.inflight" || kind == "fuse" && is_image(Path::new(&mount.image));
        (wanted(&mount) && ours()).then_some(mount)
    };
    table.lines().filter_map(mount).collect()
}

/// For mounts of plain type fuse (option nosubtype): whether the source is an image of ours.
fn is_image(path: &Path) -> bool {
    use std::os::unix::fs::FileExt as _;
    let mut magic = [0; 8];
    path.is_absolute()
        && open_image(path, false).is_ok_and(|f| f.read_exact_at(&mut magic, 0).is_ok())
        && magic == crate::image::superblock::MAGIC
}

/// Undoes the octal escapes of /proc/self/mountinfo (proc_pid_mountinfo(5)).
pub fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let code = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn describe(file: &File, mounted: Option<&str>) -> String {
    let holder = holder_of(file).map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid} ({})", command_of(pid).unwrap_or_else(|| "gone".into())),
    );
    match mounted {
        Some(dir) => format!("{holder}, mounted on {dir}"),
        None => holder,
    }
}

/// The process that has locked an image.
pub fn holder_of(file: &File) -> Option<u32> {
    let meta = file.metadata().ok()?;
    let (major, minor) = (nix::sys::stat::major(meta.dev()), nix::sys::stat::minor(meta.dev()));
    let object = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    let table = std::fs::read_to_string("/proc/locks").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ours = fields.get(1) == Some(&"FLOCK") && fields.get(5) == Some(&object.as_str());
        ours.then(|| fields.get(4)?.parse().ok()).flatten()
    })
}

fn command_of(pid: u32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = line.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
    Some(words.join(" ").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_owner_is_told_who_the_first_one_is() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let held = ImageLock::acquire(file.as_file(), file.path(), Duration::ZERO).expect("free");
        let other = File::open(file.path()).expect("open");
        let refused = ImageLock::acquire(&other, file.path(), Duration::ZERO).expect_err("held");
        assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
        drop(held);
        ImageLock::acquire(&other, file.path(), Duration::ZERO).expect("free again");
    }

    #[test]
    fn mountinfo_escapes_are_undone() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/a\0"), r"/a\0");
    }
}
