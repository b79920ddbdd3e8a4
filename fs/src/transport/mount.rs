//! Mounting: /dev/fuse, mount(2) as root, fusermount3(1) as an ordinary user, and what the kernel
//! keeps about a mount afterwards.
#![allow(unsafe_code)]

use crate::options::{Atime, Options};
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

/// MS_NOSYMFOLLOW of linux/mount.h, since Linux 5.10.
const MS_NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(256);

/// The type that mount(8) and fstab(5) name.
pub const FSTYPE: &str = "fuse.inflight";

/// Mounts `image` on `mountpoint` and returns the /dev/fuse that serves it.
///
/// # Errors
/// Those of open(2) on /dev/fuse and of mount(2); what fusermount3 printed when it refused.
pub fn mount(image: &Path, mountpoint: &Path, options: &Options) -> io::Result<OwnedFd> {
    match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(device) => match mount_directly(&device, image, mountpoint, options) {
            Ok(()) => Ok(device.into()),
            Err(Errno::EPERM) => mount_by_helper(image, mountpoint, options),
            Err(errno) => Err(errno.into()),
        },
        // The helper opens it with its own rights.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            mount_by_helper(image, mountpoint, options)
        }
        Err(e) => Err(e),
    }
}

fn mount_directly(
    device: &File,
    image: &Path,
    mountpoint: &Path,
    options: &Options,
) -> Result<(), Errno> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    // rootmode says what the root inode is until it was asked; only the type matters.
    let mut data = format!("fd={},rootmode=40000,user_id={uid},group_id={gid}", device.as_raw_fd());
    for option in fuse_options(options) {
        data.push(',');
        data.push_str(option);
    }
    let flags = flags(options);
    let kind = if options.subtype { FSTYPE } else { "fuse" };
    nix::mount::mount(Some(image), mountpoint, Some(kind), flags, Some(data.as_str()))
}

/// fusermount3 mounts for an ordinary user and passes the open device back over a socket whose
/// number is in _FUSE_COMMFD.
fn mount_by_helper(image: &Path, mountpoint: &Path, options: &Options) -> io::Result<OwnedFd> {
    let pair = (AddressFamily::Unix, SockType::Stream, None, SockFlag::empty());
    let (ours, theirs) = socketpair(pair.0, pair.1, pair.2, pair.3)?;
    nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    let mut list = vec![format!(
        "fsname={}",
        image.display().to_string().replace('\\', "\\\\").replace(',', "\\,")
    )];
    list.extend(options.subtype.then(|| "subtype=inflight".to_owned()));
    list.extend(fuse_options(options).into_iter().map(str::to_owned));
    list.extend(options.kernel.iter().cloned());
    if options.read_only {
        list.push("ro".to_owned());
    }
    let output = Command::new("fusermount3")
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .args(["-o", &list.join(","), "--"])
        .arg(mountpoint)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("fusermount3 (package fuse3): {e}")))?;
    drop(theirs);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, said));
    }
    receive_device(&ours)
}

fn receive_device(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut byte = [0; 1];
    let mut space = nix::cmsg_space!(i32);
    let mut data = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &mut data,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let fds = message.cmsgs()?.find_map(|m| match m {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let fd = fds.ok_or_else(|| io::Error::other("fusermount3 sent no device"))?;
    // SAFETY: the kernel just installed this descriptor for us (SCM_RIGHTS); nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn fuse_options(options: &Options) -> Vec<&'static str> {
    let mut list = Vec::new();
    if options.default_permissions {
        list.push("default_permissions");
    }
    if options.allow_other {
        list.push("allow_other");
    }
    list
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
pub fn apply_atime(mountpoint: &Path, options: &Options) {
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
