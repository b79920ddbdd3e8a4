//! A mount of the proxy's, and its end.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use inflight_fuse::mount::{Connection, MountError, MountOptions, mount, unmount};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use std::os::fd::OwnedFd;

/// A directory that can be mounted on, by its whole path.
///
/// # Errors
/// It is none; or the mount of a dead server is on it.
pub fn check(at: &Path) -> anyhow::Result<PathBuf> {
    let found = std::fs::metadata(at);
    if let Err(error) = &found
        && error.raw_os_error() == Some(libc::ENOTCONN)
    {
        bail!(
            "{0}: the mount of a server that is dead is on it; umount -l {0} first",
            at.display()
        );
    }
    let found = found.with_context(|| at.display().to_string())?;
    ensure!(found.is_dir(), "{}: not a directory; make one to mount on", at.display());
    at.canonicalize().with_context(|| at.display().to_string())
}

/// Mounts, and gives the device and its number as /proc/self/mountinfo has it.
pub fn make(at: &Path, options: &MountOptions) -> Result<(OwnedFd, String), MountError> {
    let mounted = mount(at, options)?;
    let number = Connection::of_mount(at).map_or_else(|_| String::new(), |it| it.device());
    Ok((mounted.device, number))
}

/// Unmounts if nothing is in use there, else takes it out of sight and says so: it ends with its last user.
pub fn detach(at: &Path) {
    match unmount(at, false) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        Err(error) => {
            eprintln!(
                "inflight-gate: {}: {error}; detached, it ends with its last user",
                at.display()
            );
            let _ = unmount(at, true);
        }
    }
}

/// Unmounts whatever is in use there: every request fails, every open file is dead.
pub fn abort(at: &Path) {
    let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    if umount2(at, flags) == Err(Errno::EPERM) {
        let _ = unmount(at, true);
    }
}

/// Whether the mount of the device with this number is on `at`.
pub fn is_mounted(at: &Path, number: &str) -> bool {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|byte| *byte == b'\n').any(|line| {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let is_it = fields.next() == Some(number.as_bytes());
        is_it && fields.nth(1).map(unescaped).as_deref() == Some(at.as_os_str().as_bytes())
    })
}

/// A path as proc_pid_mountinfo(5) escapes it: space, tab, newline and backslash as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let (byte, skip) = match digits.and_then(|text| u8::from_str_radix(text, 8).ok()) {
            Some(byte) => (byte, 4),
            None => (*first, 1),
        };
        bytes.push(byte);
        rest = &rest[skip..];
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_mountinfo_are_read_as_they_are_escaped() {
        assert_eq!(unescaped(br"/a\040b\134\011c"), b"/a b\\\tc");
        assert_eq!(unescaped(br"/a\9"), br"/a\9");
    }

    #[test]
    fn what_cannot_be_mounted_on_says_why() {
        let error = check(Path::new("/proc/version")).unwrap_err().to_string();
        assert!(error.contains("not a directory"), "{error}");
        assert!(check(Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
    }
}
