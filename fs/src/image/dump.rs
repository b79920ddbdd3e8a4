//! Shows what an image holds: superblock and usage, or one inode with its extents.
//!
//! Reads through the overlay of [`metastore`](crate::image::metastore), so nothing is written.

use crate::errno::Result;
use crate::image::mkfs::ROOT;
use crate::image::open::{self, OpenError};
use crate::image::snapshot::Snapshot;
use crate::image::space::Usage;
use crate::image::store::Store;
use crate::image::superblock::Superblock;
use crate::image::tables::{
    Attr, Extent, INODES_USED, InodeRow, name_hash, name_key, split_name_key, split_name_value,
};
use crate::image::view::View;
use serde::Serialize;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// It cannot be opened or read.
    #[error(transparent)]
    Image(#[from] OpenError),
    /// The path is not in the image.
    #[error("{image} has no {path}")]
    NoSuchPath {
        /// The image.
        image: PathBuf,
        /// What was asked for.
        path: PathBuf,
    },
}

/// The whole filesystem.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    /// The superblock that counts.
    pub superblock: Superblock,
    /// Bytes that the metadata area occupies.
    pub metadata_backed: u64,
    /// Blocks.
    pub usage: Usage,
    /// Inodes in use.
    pub inodes: u64,
    /// Where the image is mounted: this is its last commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounted_on: Option<String>,
}

/// One inode.
#[derive(Clone, Debug, Serialize)]
pub struct InodeDump {
    /// Its number.
    pub ino: u64,
    /// Its row.
    pub attr: Attr,
    /// Target of a symlink.
    pub target: Option<String>,
    /// Names of its attributes, and how long their values are.
    pub xattrs: Vec<(String, usize)>,
    /// Where its blocks are.
    pub extents: Vec<ExtentDump>,
    /// What a directory holds.
    pub entries: Vec<EntryDump>,
    /// Where the image is mounted: this is its last commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounted_on: Option<String>,
}

/// A run of blocks of a file.
#[derive(Clone, Debug, Serialize)]
pub struct ExtentDump {
    /// First block in the file.
    pub logical: u64,
    /// First block in the image.
    pub block: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Allocated, holds no data, reads as zeros.
    pub unwritten: bool,
}

/// A name in a directory.
#[derive(Clone, Debug, Serialize)]
pub struct EntryDump {
    /// The name; what is not UTF-8 is escaped.
    pub name: String,
    /// The inode that it names.
    pub ino: u64,
    /// DT_* type.
    pub kind: u8,
    /// Its place in the directory.
    pub hash: u64,
}

/// An image, opened to be looked at.
pub struct Dump {
    store: Store,
    image: PathBuf,
    mounted_on: Option<String>,
}

impl Dump {
    /// Opens and locks the image, or, where it is mounted, its last commit. Waits, within bounds, for somebody who is about to
    /// be done.
    pub fn open(image: &Path) -> std::result::Result<Dump, DumpError> {
        let (store, mounted_on) = loop {
            match open::open(image, false) {
                Ok(store) => break (store, None),
                Err(refused) => {
                    if let Some(snapshot) = Snapshot::instead(image, refused)? {
                        let dir = snapshot.mountpoint().to_owned();
                        break (open::open_on(snapshot, None)?, Some(dir));
                    }
                }
            }
        };
        Ok(Dump { store, image: image.to_owned(), mounted_on })
    }

    /// Where the image is mounted: then this is its last commit, and blocks that were freed since may be in use by others.
    pub fn mounted_on(&self) -> Option<&str> {
        self.mounted_on.as_deref()
    }

    /// Superblock and usage.
    pub fn overview(&self) -> std::result::Result<Overview, DumpError> {
        let superblock = self.store.meta().superblock();
        let inodes = self.store.read(|view| view.counter(INODES_USED));
        let usage = self.store.space().usage();
        Ok(Overview {
            metadata_backed: superblock.backed_bytes(),
            superblock,
            usage,
            inodes: self.explain(inodes)?,
            mounted_on: self.mounted_on.clone(),
        })
    }

    /// The inode behind a path from the root of the filesystem.
    pub fn inode(&self, path: &Path) -> std::result::Result<InodeDump, DumpError> {
        let key = self.store.meta().superblock().hash_key;
        let found = self.store.read(|view| match find(view, &key, path)? {
            Some(ino) => dump(view, ino),
            None => Ok(None),
        });
        let missing = || DumpError::NoSuchPath { image: self.image.clone(), path: path.into() };
        let found = self.explain(found)?.ok_or_else(missing)?;
        Ok(InodeDump { mounted_on: self.mounted_on.clone(), ..found })
    }

    fn explain<T>(&self, result: Result<T>) -> std::result::Result<T, DumpError> {
        let image = || self.image.clone();
        Ok(result.map_err(|source| OpenError::Metadata { image: image(), source })?)
    }
}

fn find(view: &View<'_>, key: &[u8; 16], path: &Path) -> Result<Option<u64>> {
    let mut ino = ROOT;
    for part in path.components() {
        let name = match part {
            Component::Normal(name) => name.as_bytes(),
            Component::ParentDir => {
                ino = attr(view, ino)?.map_or(ROOT, |a| a.parent.max(ROOT));
                continue;
            }
            _ => continue,
        };
        let row = view.name(&name_key(ino, name_hash(key, name), name))?;
        match row.and_then(|row| split_name_value(&row)) {
            Some((child, _)) => ino = child,
            None => return Ok(None),
        }
    }
    Ok(Some(ino))
}

fn attr(view: &View<'_>, ino: u64) -> Result<Option<Attr>> {
    Ok(view.inode(ino)?.and_then(|row| InodeRow::decode(&row)))
}

fn dump(view: &View<'_>, ino: u64) -> Result<Option<InodeDump>> {
    let Some(attr) = attr(view, ino)? else { return Ok(None) };
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    };
    let target = view.target(ino)?.map(|target| text(&target));
    let xattrs = view.xattrs(ino)?.iter().map(|(name, len)| (text(name), *len)).collect();
    let mut extents = Vec::new();
    view.extents(ino, |logical, Extent { start: block, blocks, unwritten }| {
        extents.push(ExtentDump { logical, block, blocks, unwritten });
        Ok(())
    })?;
    let mut entries = Vec::new();
    let (first, last) = (name_key(ino, 0, b""), name_key(ino, u64::MAX, b""));
    view.names_between((&first, &last), |key, value| {
        let row = split_name_key(key).zip(split_name_value(value));
        entries.extend(row.map(|((_, hash, name), (child, kind))| EntryDump {
            name: text(name),
            ino: child,
            kind,
            hash,
        }));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Some(InodeDump { ino, attr, target, xattrs, extents, entries, mounted_on: None }))
}
