//! fusermount3(1), which mounts for an ordinary user and hands the device over.
#![allow(unsafe_code)]

use super::{MountError, MountOptions};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::MsFlags;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Flags that it takes as words.
const WORDS: [(MsFlags, &str); 6] = [
    (MsFlags::MS_RDONLY, "ro"),
    (MsFlags::MS_NOEXEC, "noexec"),
    (MsFlags::MS_SYNCHRONOUS, "sync"),
    (MsFlags::MS_DIRSYNC, "dirsync"),
    (MsFlags::MS_NOATIME, "noatime"),
    (MsFlags::MS_NODIRATIME, "nodiratime"),
];

/// Mounts, and gives the device that came back over the socket named in `_FUSE_COMMFD`.
pub(super) fn mount(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let refuse = |reason: String| MountError::Helper { mountpoint: mountpoint.into(), reason };
    let io = |e: io::Error| refuse(e.to_string());
    let (ours, theirs) = pair().map_err(io)?;
    let output = Command::new("fusermount3")
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .args(["-o", &words(options), "--"])
        .arg(mountpoint)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| refuse(format!("fusermount3 (package fuse3): {e}")))?;
    drop(theirs);
    if !output.status.success() {
        return Err(refuse(printed(&output)));
    }
    receive(&ours).map_err(io)
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    // Only the helper is to inherit its end; a child that another thread starts in between gets
    // it too, keeps nothing alive but a socket, and is not written to.
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok((ours, theirs))
}

fn words(options: &MountOptions) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace(',', "\\,");
    let mut list = vec![format!("fsname={}", escape(&options.source.to_string_lossy()))];
    list.extend(options.subtype.as_ref().map(|subtype| format!("subtype={}", escape(subtype))));
    list.extend(options.words().into_iter().map(|(key, value)| match value {
        Some(value) => format!("{key}={}", escape(&value)),
        None => key,
    }));
    let set = WORDS.iter().filter(|(flag, _)| options.flags.contains(*flag));
    list.extend(set.map(|(_, word)| (*word).to_owned()));
    list.join(",")
}

fn receive(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut byte = [0; 1];
    let mut space = nix::cmsg_space!(i32);
    let mut data = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut space), flags)?;
    let fds = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let fd = fds.ok_or_else(|| io::Error::other("fusermount3 sent no device"))?;
    // SAFETY: the kernel just installed this descriptor for us (SCM_RIGHTS); nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn unmount(mountpoint: &Path, lazily: bool) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.args(if lazily { &["-u", "-z", "--"][..] } else { &["-u", "--"] });
    let output = command.arg(mountpoint).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, printed(&output)))
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}
