//! What a mount asks of the kernel.

use crate::options::{Atime, Options};
use fuser::{Config, InitFlags, KernelConfig, MountOption, SessionACL};
use nix::mount::MsFlags;
use std::path::Path;

/// Largest READ and WRITE, in bytes. With 1 MiB pipes a spliced reply holds 255 pages, so requests
/// of 1 MiB could not be spliced and 255 pages would cut sequential reads unevenly; 512 KiB is as
/// fast (measured) and fits.
pub const REQUEST_MAX: u32 = 512 << 10;

/// Agrees with the kernel on what it offers and we want.
pub fn negotiate(config: &mut KernelConfig, options: &Options) {
    let mut wanted = InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_BIG_WRITES
        | InitFlags::FUSE_MAX_PAGES
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_EXPORT_SUPPORT
        | InitFlags::FUSE_POSIX_ACL
        | InitFlags::FUSE_DONT_MASK
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_HAS_IOCTL_DIR
        | InitFlags::FUSE_ABORT_ERROR
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA
        | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
        | InitFlags::FUSE_NO_OPEN_SUPPORT
        | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
    if options.writeback {
        wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
    }
    for flag in wanted.iter() {
        if config.add_capabilities(flag).is_err() {
            tracing::info!("this kernel has no {flag:?}");
        }
    }
    // Both bound the pages of a request, and fuser derives max_pages from the larger one.
    let _ = config.set_max_write(REQUEST_MAX);
    let _ = config.set_max_readahead(REQUEST_MAX);
    let _ = config.set_max_background(64);
    let _ = config.set_congestion_threshold(48);
}

/// fuser's configuration for a mount of `image`.
pub fn config(image: &Path, options: &Options) -> Config {
    let mut config = Config::default();
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads);
    config.mount_options = vec![
        MountOption::FSName(image.display().to_string()),
        MountOption::Subtype("inflight".to_owned()),
    ];
    if options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    if options.default_permissions {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    // fuser mounts with nosuid and nodev unless told otherwise; what root mounts works as any
    // other filesystem does.
    let root = nix::unistd::geteuid().is_root();
    let says = |name: &str| options.kernel.iter().any(|k| k == name);
    if root && !says("nosuid") {
        config.mount_options.push(MountOption::Suid);
    }
    if root && !says("nodev") {
        config.mount_options.push(MountOption::Dev);
    }
    for (name, option) in [
        ("noexec", MountOption::NoExec),
        ("sync", MountOption::Sync),
        ("dirsync", MountOption::DirSync),
    ] {
        if says(name) {
            config.mount_options.push(option);
        }
    }
    config
}

/// The atime flags are the VFS's: mount(2) of FUSE does not take them all, a bind remount does.
pub fn apply_atime(mountpoint: &Path, options: &Options) {
    let flags = match options.atime {
        Atime::Relative => return,
        Atime::Never => MsFlags::MS_NOATIME,
        Atime::NoDirectories => MsFlags::MS_NODIRATIME | MsFlags::MS_RELATIME,
        Atime::Strict => MsFlags::MS_STRICTATIME,
    };
    let keep = [
        ("nosuid", MsFlags::MS_NOSUID),
        ("nodev", MsFlags::MS_NODEV),
        ("noexec", MsFlags::MS_NOEXEC),
    ];
    let kept = keep.iter().filter(|(n, _)| options.kernel.iter().any(|k| k == n));
    let mut all = kept.fold(flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND, |f, (_, bit)| f | *bit);
    if options.read_only {
        all |= MsFlags::MS_RDONLY;
    }
    if let Err(e) = nix::mount::mount(None::<&str>, mountpoint, None::<&str>, all, None::<&str>) {
        tracing::warn!("{}: the atime option only holds in the server: {e}", mountpoint.display());
    }
}

/// Raises the readahead of the mount: at the default of 128 KiB sequential reads come in pieces
/// too small to gain anything. Needs root, and says so in one line when it is refused.
pub fn apply_readahead(mountpoint: &Path, options: &Options) {
    let Some(device) = device_of(mountpoint) else { return };
    let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(e) = std::fs::write(&file, options.max_readahead.to_string()) {
        tracing::info!("readahead stays at its default, sequential reads are slower: {file}: {e}");
    }
}

/// "major:minor" of the mount, from mountinfo: stat(2) would ask the server, which is us.
pub fn device_of(mountpoint: &Path) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    table.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let (device, path) = (fields.next()?, fields.nth(1)?);
        (Path::new(&crate::image::lock::unescape(path)) == mountpoint).then(|| device.to_owned())
    })
}
