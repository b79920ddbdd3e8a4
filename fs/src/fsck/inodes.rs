//! Inodes by themselves, and the rows that hang on them: targets and attributes.

use crate::errno::Result;
use crate::fsck::census::Census;
use crate::fsck::model::Model;
use crate::fsck::report::Findings;
use crate::fsck::rows::{Inodes, Targets, Xattrs};
use crate::fsck::table::{Correction, Followers};
use crate::image::mkfs::{ROOT, root_attr};
use crate::image::tables::{Attr, Time};
use crate::volume::SIZE_MAX;

/// Kinds of files that there are.
pub(super) const KINDS: [u32; 7] = [
    libc::S_IFREG,
    libc::S_IFDIR,
    libc::S_IFLNK,
    libc::S_IFCHR,
    libc::S_IFBLK,
    libc::S_IFIFO,
    libc::S_IFSOCK,
];

/// Longest target of a symlink: PATH_MAX without its zero.
const TARGET_MAX: usize = 4095;
/// Longest name and value of an attribute (linux/limits.h).
const XATTR_NAME_MAX: usize = 255;
const XATTR_VALUE_MAX: usize = 65536;

/// Checks types, sizes, times, targets and attributes, and counts the inodes.
///
/// # Errors
/// Those of the database.
pub fn check(m: &mut Model, f: &mut Findings) -> Result<Census> {
    check_root(m, f)?;
    let mut census = Census::default();
    let mut fixes = Fixes::default();
    let mut inodes = m.inodes.rows();
    let mut targets = Followers::new(&m.targets);
    let mut xattrs = Followers::new(&m.xattrs);
    while let Some((ino, attr)) = inodes.next_or_malformed()? {
        let Some(mut attr) = attr else {
            f.error(object(ino), "its row is malformed", "the row is dropped");
            fixes.inodes.push((ino, None));
            continue;
        };
        let before = attr.clone();
        let target = own_target(&mut targets, ino, f, &mut fixes)?;
        check_kind(m, f, ino, &mut attr, target.is_some())?;
        let kept = check_target(f, ino, &mut attr, target.as_deref());
        if target.is_some() && (!kept || attr.kind() != libc::S_IFLNK) {
            drop_target(f, ino, &mut fixes);
        }
        check_xattrs(&mut xattrs, ino, kept, f, &mut fixes)?;
        if !kept {
            fixes.inodes.push((ino, None));
            continue;
        }
        check_fields(f, ino, &mut attr);
        census.push(ino, &attr);
        if attr != before {
            fixes.inodes.push((ino, Some(attr)));
        }
    }
    // No inode has this number.
    if own_target(&mut targets, u64::MAX, f, &mut fixes)?.is_some() {
        drop_target(f, u64::MAX, &mut fixes);
    }
    check_xattrs(&mut xattrs, u64::MAX, false, f, &mut fixes)?;
    m.inodes.correct(fixes.inodes);
    m.targets.correct(fixes.targets);
    m.xattrs.correct(fixes.xattrs);
    Ok(census)
}

/// What is to change.
#[derive(Default)]
struct Fixes {
    inodes: Vec<Correction<Inodes>>,
    targets: Vec<Correction<Targets>>,
    xattrs: Vec<Correction<Xattrs>>,
}

fn check_root(m: &mut Model, f: &mut Findings) -> Result<()> {
    let object = "inode 1 (the root directory)";
    match m.inodes.get(&ROOT)? {
        None => {
            f.error(object, "is missing", "an empty one is made");
            m.inodes.set(ROOT, root_attr());
        }
        Some(attr) if !attr.is_dir() => {
            f.error(object, "is not a directory", "it becomes one");
            m.inodes.set(ROOT, Attr { parent: ROOT, size: 0, blocks: 0, ..root_attr() });
        }
        Some(attr) if attr.parent != ROOT => {
            f.error(object, format!("has the parent {}", attr.parent), "the parent is set");
            m.inodes.set(ROOT, Attr { parent: ROOT, ..attr });
        }
        Some(_) => {}
    }
    Ok(())
}

fn check_kind(
    m: &Model,
    f: &mut Findings,
    ino: u64,
    attr: &mut Attr,
    has_target: bool,
) -> Result<()> {
    if KINDS.contains(&attr.kind()) && attr.mode & !(libc::S_IFMT | 0o7777) == 0 {
        return Ok(());
    }
    let kind = match attr.kind() {
        kind if KINDS.contains(&kind) => kind,
        // What else is known about it tells its type.
        _ if has_target => libc::S_IFLNK,
        _ if has_names(m, ino)? => libc::S_IFDIR,
        _ => libc::S_IFREG,
    };
    let problem = format!("its mode {:#o} is impossible", attr.mode);
    attr.mode = kind | attr.mode & 0o7777;
    f.error(object(ino), problem, format!("it becomes {:#o}", attr.mode));
    Ok(())
}

fn has_names(m: &Model, directory: u64) -> Result<bool> {
    let first = m.names.rows_from(Some(directory.to_be_bytes().to_vec())).next()?;
    Ok(first.is_some_and(|(key, _)| key.starts_with(&directory.to_be_bytes())))
}

/// The target of an inode; those of inodes before it, which do not exist, are dropped.
fn own_target(
    targets: &mut Followers<'_, Targets>,
    ino: u64,
    f: &mut Findings,
    fixes: &mut Fixes,
) -> Result<Option<Vec<u8>>> {
    while let Some((key, target)) = targets.next_upto(ino)? {
        if key == ino {
            return Ok(Some(target));
        }
        drop_target(f, key, fixes);
    }
    Ok(None)
}

fn drop_target(f: &mut Findings, ino: u64, fixes: &mut Fixes) {
    f.error(object(ino), "has a symlink's target and is none", "the target is dropped");
    fixes.targets.push((ino, None));
}

/// Checks a symlink against its target; `false` when it is not worth keeping.
fn check_target(f: &mut Findings, ino: u64, attr: &mut Attr, target: Option<&[u8]>) -> bool {
    if attr.kind() != libc::S_IFLNK {
        return true;
    }
    let Some(target) = target else {
        f.error(object(ino), "is a symlink without a target", "it is removed");
        return false;
    };
    if target.is_empty() || target.len() > TARGET_MAX || target.contains(&0) {
        f.error(object(ino), "is a symlink with an impossible target", "it is removed");
        return false;
    }
    if target.len() as u64 != attr.size {
        let problem = format!("has size {}, its target {} bytes", attr.size, target.len());
        f.error(object(ino), problem, "the size is set");
        attr.size = target.len() as u64;
    }
    true
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

/// Checks the attributes of an inode, which may not exist, and of those before it, which do not.
fn check_xattrs(
    xattrs: &mut Followers<'_, Xattrs>,
    ino: u64,
    exists: bool,
    f: &mut Findings,
    fixes: &mut Fixes,
) -> Result<()> {
    while let Some((key, value)) = xattrs.next_upto(ino)? {
        let (owner, name) = &key;
        let problem = if *owner != ino || !exists {
            "has attributes and does not exist"
        } else if name.is_empty() || name.len() > XATTR_NAME_MAX || name.contains(&0) {
            "has an attribute with an impossible name"
        } else if value.len() > XATTR_VALUE_MAX {
            "has an attribute that is too long"
        } else {
            continue;
        };
        f.error(object(*owner), problem, "the attribute is dropped");
        fixes.xattrs.push((key, None));
    }
    Ok(())
}

/// How findings call an inode.
pub fn object(ino: u64) -> String {
    format!("inode {ino}")
}
