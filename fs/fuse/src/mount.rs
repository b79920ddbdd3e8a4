//! Mounting a channel on a directory, and what the kernel keeps about the mount.
//!
//! As root the new system calls (fsopen(2) and its kin, Linux 5.2) are tried first, then mount(2);
//! an ordinary user has fusermount3(1) do it. Nothing is unmounted behind anybody's back: who
//! mounts, unmounts.

mod calls;
mod connection;
mod helper;

pub use connection::Connection;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// `MS_NOSYMFOLLOW` of linux/mount.h, since Linux 5.10: symbolic links are shown and not followed.
pub const MS_NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(256);

/// How to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// What is mounted, as the first field of /proc/mounts shows it.
    pub source: OsString,
    /// The filesystem's name: "x" makes the type "fuse.x".
    pub subtype: Option<String>,
    /// `MS_RDONLY`, `MS_NOSUID`, `MS_NODEV`, `MS_NOEXEC`, `MS_SYNCHRONOUS`, `MS_DIRSYNC`,
    /// [`MS_NOSYMFOLLOW`] and the atime flags. An ordinary user gets nosuid and nodev whatever is said here.
    pub flags: MsFlags,
    /// Users other than the mounter may enter.
    pub allow_other: bool,
    /// The kernel checks permissions by mode, owner and ACL.
    pub default_permissions: bool,
    /// Largest READ in bytes, if it is to be less than what INIT agrees upon.
    pub max_read: Option<u32>,
    /// Further options of the kernel, in words of its own.
    pub more: Vec<String>,
}

impl Default for MountOptions {
    /// "fuse", read-write, without suid and devices.
    fn default() -> MountOptions {
        MountOptions {
            source: "fuse".into(),
            subtype: None,
            flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            allow_other: false,
            default_permissions: false,
            max_read: None,
            more: Vec::new(),
        }
    }
}

impl MountOptions {
    /// The options that the kernel's FUSE itself takes, but for the descriptor and the caller.
    fn words(&self) -> Vec<(String, Option<String>)> {
        let mut list = Vec::new();
        let mut word = |name: &str, value: Option<String>| list.push((name.to_owned(), value));
        if self.allow_other {
            word("allow_other", None);
        }
        if self.default_permissions {
            word("default_permissions", None);
        }
        if let Some(bytes) = self.max_read {
            word("max_read", Some(bytes.to_string()));
        }
        list.extend(self.words_of_more());
        list
    }

    fn words_of_more(&self) -> impl Iterator<Item = (String, Option<String>)> {
        self.more.iter().map(|more| match more.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (more.clone(), None),
        })
    }
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The device is not there.
    #[error("cannot open /dev/fuse: {0}; is the module fuse loaded?")]
    Device(#[source] io::Error),
    /// A system call of the kernel's mount interface.
    #[error("cannot mount on {}: {call}: {errno}{}", mountpoint.display(), said(log))]
    Call {
        /// Where.
        mountpoint: PathBuf,
        /// Which call, and with what.
        call: String,
        /// What it said.
        errno: Errno,
        /// What the kernel had to say beside that.
        log: String,
    },
    /// The kernel's FUSE does not take this option.
    #[error("the kernel does not know '{word}' as an option of FUSE mounts{}", said(log))]
    Option {
        /// The option.
        word: String,
        /// What the kernel had to say.
        log: String,
    },
    /// fusermount3(1) refused.
    #[error("cannot mount on {}: {reason}", mountpoint.display())]
    Helper {
        /// Where.
        mountpoint: PathBuf,
        /// What it printed, or why it could not be run.
        reason: String,
    },
}

fn said(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(" ({log})") }
}

/// Which way a mount was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// fsopen(2), fsconfig(2), fsmount(2), move_mount(2).
    Fsopen,
    /// mount(2).
    Mount,
    /// fusermount3(1).
    Helper,
}

/// A mount, and the device that serves it. Dropping it unmounts nothing; the kernel ends the
/// connection when the last handle of the device is closed.
#[derive(Debug)]
pub struct Mount {
    /// The device; for [`Channel::device`](crate::channel::Channel::device).
    pub device: OwnedFd,
    /// Which way it was made.
    pub method: Method,
}

/// Mounts on `mountpoint`, a directory, by the first way that is not refused.
///
/// # Errors
/// [`MountError`].
pub fn mount(mountpoint: &Path, options: &MountOptions) -> Result<Mount, MountError> {
    let device = match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(device) => OwnedFd::from(device),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            return mount_by(Method::Helper, mountpoint, options);
        }
        Err(e) => return Err(MountError::Device(e)),
    };
    let refused = match calls::by_fsopen(&device, mountpoint, options) {
        Ok(()) => return Ok(Mount { device, method: Method::Fsopen }),
        Err(refused) => refused,
    };
    match &refused {
        MountError::Call { errno: Errno::EPERM, .. } => {
            mount_by(Method::Helper, mountpoint, options)
        }
        // A descriptor that was part of a failed mount may not be tried again.
        MountError::Call { errno: Errno::ENOSYS | Errno::EINVAL, .. } => {
            tracing::debug!("{refused}; trying mount(2)");
            mount_by(Method::Mount, mountpoint, options)
        }
        _ => Err(refused),
    }
}

/// Whether the kernel takes the options that are its own ([`MountOptions::more`]), before anything is mounted. An ordinary user
/// cannot ask, and learns it from the mount.
///
/// # Errors
/// [`MountError::Option`].
pub fn check(options: &MountOptions) -> Result<(), MountError> {
    calls::check_words(options)
}

/// Mounts on `mountpoint` in this way and no other.
///
/// # Errors
/// [`MountError`].
pub fn mount_by(
    method: Method,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<Mount, MountError> {
    if method == Method::Helper {
        let device = helper::mount(mountpoint, options)?;
        return Ok(Mount { device, method });
    }
    let device = File::options().read(true).write(true).open("/dev/fuse");
    let device = OwnedFd::from(device.map_err(MountError::Device)?);
    match method {
        Method::Fsopen => calls::by_fsopen(&device, mountpoint, options)?,
        _ => calls::by_mount(&device, mountpoint, options)?,
    }
    Ok(Mount { device, method })
}

/// Unmounts; `lazily`, it disappears at once and ends with its last user. An ordinary user has
/// fusermount3(1) do it.
///
/// # Errors
/// EBUSY when something is in use there; EINVAL when nothing is mounted.
pub fn unmount(mountpoint: &Path, lazily: bool) -> io::Result<()> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    flags.set(MntFlags::MNT_DETACH, lazily);
    match umount2(mountpoint, flags) {
        Err(Errno::EPERM) => helper::unmount(mountpoint, lazily),
        done => Ok(done?),
    }
}
