//! Names one by one: well-formed, in a directory that exists, for an inode that exists.

use crate::errno::Result;
use crate::fsck::census::Census;
use crate::fsck::model::Model;
use crate::fsck::report::Findings;
use crate::fsck::rows::Names;
use crate::fsck::table::Table;
use crate::image::mkfs::ROOT;
use crate::image::tables::{name_hash, name_key, split_name_key};
use crate::volume::NAME_MAX;
use std::collections::BTreeMap;

const DROPPED: &str = "the name is dropped";

/// A row: its key, and child and DT_* type.
type Named = (Vec<u8>, (u64, u8));

/// What is to change.
#[derive(Default)]
struct Fixes {
    rows: BTreeMap<Vec<u8>, Option<(u64, u8)>>,
    /// Names under a wrong hash, by their present keys: the right key.
    moved: BTreeMap<Vec<u8>, Named>,
}

/// A name that is possible.
struct Seen<'a> {
    key: &'a [u8],
    parent: u64,
    hash: u64,
    name: &'a [u8],
    child: u64,
}

/// Checks every name; afterwards each has a directory and an inode, no directory has two, and the
/// census has counted them.
///
/// # Errors
/// Those of the database.
pub fn check(
    m: &mut Model,
    f: &mut Findings,
    census: &mut Census,
    hash_key: &[u8; 16],
) -> Result<()> {
    let mut fixes = Fixes::default();
    let mut rows = m.names.rows();
    while let Some((key, value)) = rows.next_or_malformed()? {
        let Some(((child, kind), (parent, hash, name))) = value.zip(split_name_key(&key)) else {
            f.error("names", format!("row {} is malformed", hex(&key)), "the row is dropped");
            fixes.rows.insert(key, None);
            continue;
        };
        if let Some(problem) = refuse(census, parent, name, child) {
            f.error(object(parent, name), problem, DROPPED);
            fixes.rows.insert(key, None);
            continue;
        }
        let Some(right) = census.kind(child) else { continue };
        if kind != right {
            let problem = format!("says type {kind}, inode {child} has {right}");
            f.error(object(parent, name), problem, "the type is set");
            fixes.rows.insert(key.clone(), Some((child, right)));
        }
        let seen = Seen { key: &key, parent, hash, name, child };
        if right == libc::DT_DIR && !settle(&m.names, f, census, &mut fixes, &seen)? {
            continue;
        }
        let wanted = name_hash(hash_key, name);
        if hash == wanted {
            census.add_name(parent, child);
        } else {
            f.error(object(parent, name), "is filed under a wrong hash", "it is filed anew");
            let moved = (name_key(parent, wanted, name), (child, right));
            fixes.rows.insert(key.clone(), None);
            fixes.moved.insert(key, moved);
        }
    }
    m.names.correct(fixes.rows);
    for (key, value) in fixes.moved.into_values() {
        refile(m, census, key, value)?;
    }
    Ok(())
}

/// Gives a directory the one name that it may have; `false` when it is not this one. Of two names
/// the one that the directory itself knows is kept.
fn settle(
    names: &Table<Names>,
    f: &mut Findings,
    census: &mut Census,
    fixes: &mut Fixes,
    seen: &Seen<'_>,
) -> Result<bool> {
    let Some(directory) = census.directory_mut(seen.child) else { return Ok(true) };
    let (old, old_hash) = (directory.home, directory.home_hash);
    let is_better = directory.parent == seen.parent && directory.parent != old;
    if old == 0 || is_better {
        (directory.home, directory.home_hash) = (seen.parent, seen.hash);
    }
    if old == 0 {
        return Ok(true);
    }
    let problem = format!("is one name too many for directory {}", seen.child);
    f.error(object(seen.parent, seen.name), problem, DROPPED);
    if !is_better {
        fixes.rows.insert(seen.key.to_vec(), None);
        return Ok(false);
    }
    if let Some(key) = find(names, old, old_hash, seen.child)? {
        if fixes.moved.remove(&key).is_none() {
            census.remove_name(old, seen.child);
        }
        fixes.rows.insert(key, None);
    }
    Ok(true)
}

/// The first name under `hash` in `parent` that is for `child`.
///
/// # Errors
/// Those of the database.
pub fn find(names: &Table<Names>, parent: u64, hash: u64, child: u64) -> Result<Option<Vec<u8>>> {
    let prefix = name_key(parent, hash, b"");
    let mut rows = names.rows_from(Some(prefix.clone()));
    while let Some((key, (ino, _))) = rows.next()?.filter(|(key, _)| key.starts_with(&prefix)) {
        if ino == child {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// Puts a name where it belongs, unless there is one like it.
fn refile(m: &mut Model, census: &mut Census, key: Vec<u8>, value: (u64, u8)) -> Result<()> {
    let Some((parent, hash, _)) = split_name_key(&key) else { return Ok(()) };
    let is_taken = m.names.get(&key)?.is_some();
    if let Some(directory) = census.directory_mut(value.0) {
        (directory.home, directory.home_hash) = if is_taken { (0, 0) } else { (parent, hash) };
    }
    if !is_taken {
        census.add_name(parent, value.0);
        m.names.set(key, value);
    }
    Ok(())
}

fn refuse(census: &Census, parent: u64, name: &[u8], child: u64) -> Option<String> {
    let bad = name.is_empty() || name.len() > NAME_MAX || name == b"." || name == b"..";
    if bad || name.contains(&b'/') || name.contains(&0) {
        return Some("is no possible name".into());
    }
    match census.kind(parent) {
        None => return Some(format!("is in directory {parent}, which does not exist")),
        Some(libc::DT_DIR) => {}
        Some(_) => return Some(format!("is in inode {parent}, which is no directory")),
    }
    if child == ROOT {
        return Some("leads back to the root directory".into());
    }
    let is_missing = census.kind(child).is_none();
    is_missing.then(|| format!("is for inode {child}, which does not exist"))
}

/// How findings call a name.
pub fn object(parent: u64, name: &[u8]) -> String {
    format!("name '{}' in directory {parent}", name.escape_ascii())
}

/// The first bytes of a key, for a message.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(24).map(|b| format!("{b:02x}")).collect()
}
