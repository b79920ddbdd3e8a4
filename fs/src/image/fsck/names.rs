//! Names one by one: well-formed, in a directory that exists, for an inode that exists.

use crate::image::fsck::model::Model;
use crate::image::fsck::report::Findings;
use crate::image::mkfs::ROOT;
use crate::image::tables::{dtype, name_hash, name_key, split_name_key};
use crate::volume::NAME_MAX;
use std::collections::BTreeMap;

/// A row of table `names`.
type Row = (Vec<u8>, (u64, u8));

const DROPPED: &str = "the name is dropped";

/// Checks every name; afterwards each has a directory and an inode, and no directory has two.
pub fn check(m: &mut Model, f: &mut Findings, hash_key: &[u8; 16]) {
    let names = std::mem::take(&mut m.names);
    let mut homes: BTreeMap<u64, (Vec<u8>, bool)> = BTreeMap::new();
    let mut moved: BTreeMap<Vec<u8>, Row> = BTreeMap::new();
    for (key, (child, kind)) in names {
        let Some((parent, hash, name)) = split_name_key(&key) else { continue };
        let object = object(parent, name);
        if let Some(problem) = refuse(m, parent, name, child) {
            f.error(object, problem, DROPPED);
            continue;
        }
        let Some(attr) = m.inodes.get(&child) else { continue };
        if kind != dtype(attr.mode) {
            let problem = format!("says type {kind}, inode {child} has {}", dtype(attr.mode));
            f.error(&object, problem, "the type is set");
        }
        let value = (child, dtype(attr.mode));
        if attr.is_dir() {
            // Of two names the one that the directory itself knows is kept.
            let known = attr.parent == parent;
            if let Some((old_key, old_known)) = homes.get(&child).cloned() {
                let loser: Vec<u8> = if known && !old_known { old_key } else { key.clone() };
                f.error(&object, format!("is one name too many for directory {child}"), DROPPED);
                m.names.remove(&loser);
                moved.remove(&loser);
                if loser == key {
                    continue;
                }
            }
            homes.insert(child, (key.clone(), known));
        }
        let right = name_hash(hash_key, name);
        if hash == right {
            m.names.insert(key, value);
        } else {
            f.error(object, "is filed under a wrong hash", "it is filed anew");
            moved.insert(key.clone(), (name_key(parent, right, name), value));
        }
    }
    for (key, value) in moved.into_values() {
        m.names.entry(key).or_insert(value);
    }
}

fn refuse(m: &Model, parent: u64, name: &[u8], child: u64) -> Option<String> {
    let bad = name.is_empty() || name.len() > NAME_MAX || name == b"." || name == b"..";
    if bad || name.contains(&b'/') || name.contains(&0) {
        return Some("is no possible name".into());
    }
    match m.inodes.get(&parent) {
        None => return Some(format!("is in directory {parent}, which does not exist")),
        Some(attr) if !attr.is_dir() => {
            return Some(format!("is in inode {parent}, which is no directory"));
        }
        Some(_) => {}
    }
    if child == ROOT {
        return Some("leads back to the root directory".into());
    }
    (!m.inodes.contains_key(&child)).then(|| format!("is for inode {child}, which does not exist"))
}

/// How findings call a name.
pub fn object(parent: u64, name: &[u8]) -> String {
    format!("name '{}' in directory {parent}", name.escape_ascii())
}
