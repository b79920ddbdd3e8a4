//! Inodes by themselves, and the rows that hang on them: targets and attributes.

use crate::image::fsck::model::Model;
use crate::image::fsck::report::Findings;
use crate::image::mkfs::{ROOT, root_attr};
use crate::image::tables::{Attr, Time};
use crate::volume::SIZE_MAX;

/// Longest target of a symlink: PATH_MAX without its zero.
const TARGET_MAX: usize = 4095;
/// Longest name and value of an attribute (linux/limits.h).
const XATTR_NAME_MAX: usize = 255;
const XATTR_VALUE_MAX: usize = 65536;

/// Checks types, sizes, times, targets and attributes.
pub fn check(m: &mut Model, f: &mut Findings) {
    check_root(m, f);
    let inos: Vec<u64> = m.inodes.keys().copied().collect();
    for ino in inos {
        check_kind(m, f, ino);
        check_target(m, f, ino);
        if let Some(attr) = m.inodes.get_mut(&ino) {
            check_fields(f, ino, attr);
        }
    }
    check_targets_belong(m, f);
    check_xattrs(m, f);
}

fn check_root(m: &mut Model, f: &mut Findings) {
    let object = "inode 1 (the root directory)";
    match m.inodes.get_mut(&ROOT) {
        None => {
            f.error(object, "is missing", "an empty one is made");
            m.inodes.insert(ROOT, root_attr());
        }
        Some(attr) if !attr.is_dir() => {
            f.error(object, "is not a directory", "it becomes one");
            *attr = Attr { parent: ROOT, size: 0, blocks: 0, ..root_attr() };
        }
        Some(attr) if attr.parent != ROOT => {
            f.error(object, format!("has the parent {}", attr.parent), "the parent is set");
            attr.parent = ROOT;
        }
        Some(_) => {}
    }
}

fn check_kind(m: &mut Model, f: &mut Findings, ino: u64) {
    let Some(attr) = m.inodes.get(&ino) else { return };
    let known = [
        libc::S_IFREG,
        libc::S_IFDIR,
        libc::S_IFLNK,
        libc::S_IFCHR,
        libc::S_IFBLK,
        libc::S_IFIFO,
        libc::S_IFSOCK,
    ];
    if known.contains(&attr.kind()) && attr.mode & !(libc::S_IFMT | 0o7777) == 0 {
        return;
    }
    let kind = if known.contains(&attr.kind()) { attr.kind() } else { guess_kind(m, ino) };
    if let Some(attr) = m.inodes.get_mut(&ino) {
        let problem = format!("its mode {:#o} is impossible", attr.mode);
        attr.mode = kind | attr.mode & 0o7777;
        f.error(object(ino), problem, format!("it becomes {:#o}", attr.mode));
    }
}

/// What else is known about an inode tells its type.
fn guess_kind(m: &Model, ino: u64) -> u32 {
    if m.targets.contains_key(&ino) {
        return libc::S_IFLNK;
    }
    let entries = m.names.range(ino.to_be_bytes().to_vec()..);
    let is_dir = entries.take(1).any(|(key, _)| key.starts_with(&ino.to_be_bytes()));
    if is_dir { libc::S_IFDIR } else { libc::S_IFREG }
}

fn check_target(m: &mut Model, f: &mut Findings, ino: u64) {
    let Some(attr) = m.inodes.get_mut(&ino).filter(|a| a.kind() == libc::S_IFLNK) else { return };
    match m.targets.get(&ino) {
        Some(target) if target.is_empty() || target.len() > TARGET_MAX || target.contains(&0) => {
            f.error(object(ino), "is a symlink with an impossible target", "it is removed");
            m.inodes.remove(&ino);
        }
        Some(target) if target.len() as u64 != attr.size => {
            let problem = format!("has size {}, its target {} bytes", attr.size, target.len());
            f.error(object(ino), problem, "the size is set");
            attr.size = target.len() as u64;
        }
        Some(_) => {}
        None => {
            f.error(object(ino), "is a symlink without a target", "it is removed");
            m.inodes.remove(&ino);
        }
    }
}

fn check_fields(f: &mut Findings, ino: u64, attr: &mut Attr) {
    let Attr { atime, mtime, ctime, btime, .. } = attr;
    for (name, time) in [("atime", atime), ("mtime", mtime), ("ctime", ctime), ("btime", btime)] {
        if time.nanos >= 1_000_000_000 {
            f.error(object(ino), format!("{name} has {} ns", time.nanos), "they become 0");
            *time = Time { nanos: 0, ..*time };
        }
    }
    if !attr.is_dir() && attr.parent != 0 {
        f.error(object(ino), "is no directory, but has a parent", "the parent is cleared");
        attr.parent = 0;
    }
    let is_node = matches!(attr.kind(), libc::S_IFCHR | libc::S_IFBLK);
    if !is_node && attr.rdev != 0 {
        f.error(object(ino), "is no device, but has a device number", "the number is cleared");
        attr.rdev = 0;
    }
    // What a directory's size should be is known only once its names were checked.
    let sized = attr.is_file() || attr.is_dir() || attr.kind() == libc::S_IFLNK;
    if attr.size > if sized { SIZE_MAX } else { 0 } {
        let size = if sized { SIZE_MAX } else { 0 };
        f.error(object(ino), format!("has the size {}", attr.size), format!("it becomes {size}"));
        attr.size = size;
    }
}

fn check_targets_belong(m: &mut Model, f: &mut Findings) {
    let inodes = &m.inodes;
    m.targets.retain(|ino, _| {
        let good = inodes.get(ino).is_some_and(|a| a.kind() == libc::S_IFLNK);
        if !good {
            f.error(object(*ino), "has a symlink's target and is none", "the target is dropped");
        }
        good
    });
}

fn check_xattrs(m: &mut Model, f: &mut Findings) {
    let inodes = &m.inodes;
    m.xattrs.retain(|(ino, name), value| {
        let problem = if !inodes.contains_key(ino) {
            "has attributes and does not exist"
        } else if name.is_empty() || name.len() > XATTR_NAME_MAX || name.contains(&0) {
            "has an attribute with an impossible name"
        } else if value.len() > XATTR_VALUE_MAX {
            "has an attribute that is too long"
        } else {
            return true;
        };
        f.error(object(*ino), problem, "the attribute is dropped");
        false
    });
}

/// How findings call an inode.
pub fn object(ino: u64) -> String {
    format!("inode {ino}")
}
