//! The mount itself: how it is made, and what the kernel keeps about it afterwards.

use crate::options::{Atime, Options};
use inflight_fuse::mount::{Connection, MS_NOSYMFOLLOW, MountOptions};
use nix::mount::MsFlags;
use std::io;
use std::path::Path;

/// Beside "fuse.", the type that mount(8) and fstab(5) name.
const SUBTYPE: &str = "inflight";

/// What to mount `image` with.
pub(super) fn mount_options(image: &Path, options: &Options) -> MountOptions {
    MountOptions {
        source: options.fsname.as_ref().map_or_else(|| image.into(), Into::into),
        subtype: options.subtype.then(|| SUBTYPE.to_owned()),
        flags: flags(options),
        allow_other: options.allow_other,
        default_permissions: options.default_permissions,
        ..MountOptions::default()
    }
}

fn flags(options: &Options) -> MsFlags {
    let named = [
        ("nosuid", MsFlags::MS_NOSUID),
        ("nodev", MsFlags::MS_NODEV),
        ("noexec", MsFlags::MS_NOEXEC),
        ("nosymfollow", MS_NOSYMFOLLOW),
        ("sync", MsFlags::MS_SYNCHRONOUS),
        ("dirsync", MsFlags::MS_DIRSYNC),
    ];
    let read_only = if options.read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let kept = named.iter().filter(|(name, _)| options.kernel.iter().any(|k| k == name));
    kept.fold(read_only, |flags, (_, bit)| flags | *bit)
}

/// Changes the flags of a mount; what the server was told at the start stays as it was.
///
/// # Errors
/// Those of mount(2): EBUSY when files are open for writing and `options` say ro.
pub fn remount(mountpoint: &Path, options: &Options) -> io::Result<()> {
    let all = flags(options) | MsFlags::MS_REMOUNT;
    nix::mount::mount(None::<&str>, mountpoint, None::<&str>, all, None::<&str>)?;
    apply_atime(mountpoint, options);
    Ok(())
}

/// The atime flags are the VFS's: mount(2) of FUSE does not take them all, a bind remount does.
pub(super) fn apply_atime(mountpoint: &Path, options: &Options) {
    let atime = match options.atime {
        Atime::Relative => return,
        Atime::Never => MsFlags::MS_NOATIME,
        Atime::NoDirectories => MsFlags::MS_NODIRATIME | MsFlags::MS_RELATIME,
        Atime::Strict => MsFlags::MS_STRICTATIME,
    };
    // What a bind remount does not repeat, it takes away.
    let all = atime | flags(options) | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    if let Err(e) = nix::mount::mount(None::<&str>, mountpoint, None::<&str>, all, None::<&str>) {
        tracing::warn!("{}: the atime option only holds in the server: {e}", mountpoint.display());
    }
}

/// Raises the readahead of the mount: at the default of 128 KiB sequential reads come in pieces
/// too small to gain anything. Needs root, and says so in one line when it is refused.
pub(super) fn apply_readahead(mountpoint: &Path, options: &Options) {
    let set = Connection::of_mount(mountpoint)
        .and_then(|connection| connection.set_readahead_kib(options.max_readahead));
    if let Err(e) = set {
        tracing::info!("readahead stays at its default, sequential reads are slower: {e}");
    }
}
