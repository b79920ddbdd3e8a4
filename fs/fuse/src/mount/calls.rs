//! The system calls of mounting.
#![allow(unsafe_code)]

use super::{MountError, MountOptions};
use nix::errno::Errno;
use nix::mount::MsFlags;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// What root's inode is until it was asked for: a directory.
const ROOT_MODE: &str = "40000";

/// Flags of the superblock, as fsconfig(2) names them.
const SUPERBLOCK: [(MsFlags, &CStr); 4] = [
    (MsFlags::MS_RDONLY, c"ro"),
    (MsFlags::MS_SYNCHRONOUS, c"sync"),
    (MsFlags::MS_DIRSYNC, c"dirsync"),
    (MsFlags::MS_LAZYTIME, c"lazytime"),
];

/// Flags of the mount, as fsmount(2) numbers them (include/uapi/linux/mount.h).
const ATTRIBUTES: [(MsFlags, u64); 8] = [
    (MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
    (MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
    (MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV),
    (MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    (MsFlags::MS_NOATIME, libc::MOUNT_ATTR_NOATIME),
    (MsFlags::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
    (MsFlags::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
    (super::MS_NOSYMFOLLOW, libc::MOUNT_ATTR_NOSYMFOLLOW),
];

/// `FSCONFIG_*` (include/uapi/linux/mount.h).
const SET_FLAG: u32 = 0;
const SET_STRING: u32 = 1;
const CMD_CREATE: u32 = 6;

fn check(result: libc::c_long) -> Result<libc::c_int, Errno> {
    Errno::result(result).map(|value| value as libc::c_int)
}

fn descriptor(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = check(result)?;
    // SAFETY: the call succeeded and returned a fresh descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A filesystem context (fsopen(2)).
struct Context<'a> {
    fd: OwnedFd,
    mountpoint: &'a Path,
}

impl<'a> Context<'a> {
    fn open(mountpoint: &'a Path) -> Result<Context<'a>, MountError> {
        // SAFETY: the name is a C string; the call keeps no pointer.
        let opened = descriptor(unsafe {
            libc::syscall(libc::SYS_fsopen, c"fuse".as_ptr(), libc::FSOPEN_CLOEXEC)
        });
        let fd = opened.map_err(|errno| refused(mountpoint, "fsopen(fuse)", errno, ""))?;
        Ok(Context { fd, mountpoint })
    }

    fn configure(
        &self,
        command: u32,
        key: Option<&CStr>,
        value: Option<&CStr>,
    ) -> Result<(), MountError> {
        let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: key and value are C strings or null, as the commands used here take them.
        let result = check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.fd.as_raw_fd(),
                command,
                pointer(key),
                pointer(value),
                0,
            )
        });
        result.map(drop).map_err(|errno| {
            let words = [key, value].into_iter().flatten().map(CStr::to_string_lossy);
            let call = format!("fsconfig({})", words.collect::<Vec<_>>().join("="));
            refused(self.mountpoint, &call, errno, &self.log())
        })
    }

    fn set(&self, key: &str, value: Option<&OsStr>) -> Result<(), MountError> {
        let text = |bytes: &[u8]| {
            let call = || format!("option {key}");
            CString::new(bytes).map_err(|_| refused(self.mountpoint, &call(), Errno::EINVAL, ""))
        };
        let value = value.map(|value| text(value.as_bytes())).transpose()?;
        let command = if value.is_some() { SET_STRING } else { SET_FLAG };
        self.configure(command, Some(&text(key.as_bytes())?), value.as_deref())
    }

    /// What the kernel wrote about the last failure.
    fn log(&self) -> String {
        let mut bytes = [0; 256];
        let mut lines = Vec::new();
        while let Ok(len @ 1..) = nix::unistd::read(&self.fd, &mut bytes) {
            // Each line begins with how bad it is: `e `, `w ` or `i `.
            let line = String::from_utf8_lossy(&bytes[..len]);
            let text = line.trim().split_once(' ').filter(|(level, _)| level.len() == 1);
            lines.push(text.map_or(line.trim(), |(_, text)| text).to_owned());
        }
        lines.join("; ")
    }

    fn attach(&self, attributes: u64) -> Result<(), MountError> {
        // SAFETY: no pointers.
        let mounted = descriptor(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.fd.as_raw_fd(),
                libc::FSMOUNT_CLOEXEC,
                attributes as libc::c_uint,
            )
        });
        let mounted =
            mounted.map_err(|errno| refused(self.mountpoint, "fsmount", errno, &self.log()))?;
        let target = CString::new(self.mountpoint.as_os_str().as_bytes())
            .map_err(|_| refused(self.mountpoint, "move_mount", Errno::EINVAL, ""))?;
        // SAFETY: both paths are C strings; the call keeps no pointer.
        let moved = check(unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                mounted.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        });
        moved.map(drop).map_err(|errno| refused(self.mountpoint, "move_mount", errno, ""))
    }
}

fn refused(mountpoint: &Path, call: &str, errno: Errno, log: &str) -> MountError {
    MountError::Call {
        mountpoint: mountpoint.to_owned(),
        call: call.to_owned(),
        errno,
        log: log.to_owned(),
    }
}

/// The caller, and the device as a number: what every mount has to say.
fn identity(device: &OwnedFd) -> [(&'static str, String); 4] {
    [
        ("fd", device.as_raw_fd().to_string()),
        ("rootmode", ROOT_MODE.to_owned()),
        ("user_id", nix::unistd::getuid().to_string()),
        ("group_id", nix::unistd::getgid().to_string()),
    ]
}

pub(super) fn by_fsopen(
    device: &OwnedFd,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<(), MountError> {
    let context = Context::open(mountpoint)?;
    context.set("source", Some(&options.source))?;
    if let Some(subtype) = &options.subtype {
        context.set("subtype", Some(OsStr::new(subtype)))?;
    }
    for (key, value) in identity(device) {
        context.set(key, Some(OsStr::new(&value)))?;
    }
    for (key, value) in options.words() {
        context.set(&key, value.as_deref().map(OsStr::new))?;
    }
    for (flag, name) in SUPERBLOCK {
        if options.flags.contains(flag) {
            context.configure(SET_FLAG, Some(name), None)?;
        }
    }
    context.configure(CMD_CREATE, None, None)?;
    let set = ATTRIBUTES.iter().filter(|(flag, _)| options.flags.contains(*flag));
    context.attach(set.fold(0, |all, (_, attribute)| all | attribute))
}

/// Whether the kernel takes [`MountOptions::more`]; no mount comes of it. Where it cannot be asked, it does.
pub(super) fn check_words(options: &MountOptions) -> Result<(), MountError> {
    let Ok(context) = Context::open(Path::new("")) else { return Ok(()) };
    for (word, (key, value)) in options.more.iter().zip(options.words_of_more()) {
        if let Err(MountError::Call { errno: Errno::EINVAL, log, .. }) =
            context.set(&key, value.as_deref().map(OsStr::new))
        {
            return Err(MountError::Option { word: word.clone(), log });
        }
    }
    Ok(())
}

pub(super) fn by_mount(
    device: &OwnedFd,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<(), MountError> {
    let own = identity(device).map(|(key, value)| (key.to_owned(), Some(value)));
    let words = own.into_iter().chain(options.words()).map(|(key, value)| match value {
        Some(value) => format!("{key}={value}"),
        None => key,
    });
    let data = words.collect::<Vec<_>>().join(",");
    let kind = match &options.subtype {
        Some(subtype) => format!("fuse.{subtype}"),
        None => "fuse".to_owned(),
    };
    let source = Some(options.source.as_os_str());
    nix::mount::mount(source, mountpoint, Some(kind.as_str()), options.flags, Some(data.as_str()))
        .map_err(|errno| refused(mountpoint, &format!("mount({kind}, {data})"), errno, ""))
}
