//! What people are told when an image cannot be opened: which path, what is wrong with it, what to do.

use nix::unistd::{AccessFlags, eaccess};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// One line for `error`, which open(2) or creat(2) of `path` gave. It quotes the error, so that it is not told again as the
/// cause.
pub fn unopened(path: &Path, error: &Error) -> String {
    let hint = match error.kind() {
        ErrorKind::NotFound => missing(path),
        ErrorKind::PermissionDenied => forbidden(path),
        ErrorKind::ReadOnlyFilesystem => {
            Some("what it lies on is mounted read-only; mount -o ro does not write".into())
        }
        ErrorKind::InvalidInput if path.is_dir() => {
            Some(format!("it is a directory; inflight list {} shows images in it", path.display()))
        }
        _ => None,
    };
    let name = path.display();
    hint.map_or_else(|| format!("{name}: {error}"), |hint| format!("{name}: {error}; {hint}"))
}

/// The directory in which `path` is looked for.
fn above(path: &Path) -> PathBuf {
    match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn missing(path: &Path) -> Option<String> {
    let above = above(path);
    let name = path.file_name()?.to_string_lossy();
    if name.starts_with("LABEL=") || name.starts_with("UUID=") {
        let find = "an image is named by its path, which inflight list --find";
        return Some(format!("{find} {name} DIRECTORY prints"));
    }
    if let Ok(to) = path.read_link() {
        return Some(format!("it is a link to {}, which is not there", to.display()));
    }
    if !above.is_dir() {
        return Some(format!("there is no directory {}", above.display()));
    }
    let (name, above) = (path.display(), above.display());
    Some(format!(
        "inflight mkfs --size 4G {name} makes an image, inflight list {above} shows those that there are"
    ))
}

fn forbidden(path: &Path) -> Option<String> {
    // Asked, not tried: by now it may be a FIFO, whose opening waits, or a device, which opening may start.
    if eaccess(path, AccessFlags::R_OK).is_ok() {
        return Some("you may read it and not write it, which is enough for mount -o ro".into());
    }
    match path.symlink_metadata() {
        Ok(meta) => {
            let (owner, mode) = (meta.uid(), meta.permissions().mode() & 0o7777);
            Some(format!("it belongs to user {owner} and its mode is {mode:o}: ask for access"))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Some(format!("you may not make files in {}", above(path).display()))
        }
        // A directory on the way.
        Err(_) => Some("a directory of this path is closed to you".into()),
    }
}
