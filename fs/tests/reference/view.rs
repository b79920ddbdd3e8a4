//! Everything that users can see of a filesystem, and its comparison with the reference.

use crate::reference::model::{Ino, Kind, Model, Node, ROOT};
use inflight::data::ReadPiece;
use inflight::errno::Error;
use inflight::volume::Volume;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// A filesystem as it was found.
#[derive(Debug, Default)]
pub struct View {
    /// Every path but the root's, and the inode behind it.
    pub names: BTreeMap<String, u64>,
    pub nodes: BTreeMap<u64, Seen>,
}

/// An inode as it was found.
#[derive(Debug, Default, PartialEq)]
pub struct Seen {
    pub mode: u32,
    pub nlink: u32,
    pub size: u64,
    pub blocks: u64,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    pub content: Vec<u8>,
    pub segments: Vec<(u64, u64)>,
    pub target: String,
}

/// Larger files than the reference ever makes are not read.
const SIZE_MAX: u64 = 1 << 22;

impl View {
    /// Reads all that there is.
    pub fn read(volume: &Volume) -> Result<View, Error> {
        let mut view = View::default();
        view.nodes.insert(ROOT, seen(volume, ROOT)?);
        let mut dirs = vec![(String::new(), ROOT)];
        while let Some((path, dir)) = dirs.pop() {
            let mut after = 2;
            loop {
                let batch = volume.list(dir, after, 64)?;
                let Some(last) = batch.last() else { break };
                after = last.next;
                for entry in batch {
                    let name = String::from_utf8_lossy(&entry.name);
                    let path = format!("{path}{}{name}", if path.is_empty() { "" } else { "/" });
                    if entry.kind == libc::DT_DIR {
                        dirs.push((path.clone(), entry.ino));
                    }
                    if let Entry::Vacant(vacant) = view.nodes.entry(entry.ino) {
                        vacant.insert(seen(volume, entry.ino)?);
                    }
                    view.names.insert(path, entry.ino);
                }
            }
        }
        Ok(view)
    }
}

fn seen(volume: &Volume, ino: u64) -> Result<Seen, Error> {
    let inode = volume.inode(ino)?;
    let attr = inode.attr();
    let mut seen = Seen {
        mode: attr.mode,
        nlink: attr.nlink,
        size: attr.size,
        blocks: attr.blocks,
        ..Seen::default()
    };
    for name in volume.xattr_list(ino)? {
        let value = volume.xattr(ino, &name)?;
        seen.xattrs.insert(String::from_utf8_lossy(&name).into_owned(), value);
    }
    match attr.mode & libc::S_IFMT {
        libc::S_IFLNK => {
            seen.target = String::from_utf8_lossy(&volume.target(ino)?).into_owned();
        }
        libc::S_IFREG if attr.size <= SIZE_MAX => {
            seen.content = content(volume, ino)?;
            seen.segments = segments(volume, ino)?;
        }
        _ => {}
    }
    Ok(seen)
}

fn content(volume: &Volume, ino: u64) -> Result<Vec<u8>, Error> {
    let inode = volume.inode(ino)?;
    let plan = volume.plan_read(&inode, 0, SIZE_MAX as usize)?;
    let mut content = vec![0; plan.len];
    let mut rest = &mut content[..];
    for piece in &plan.pieces {
        let (part, tail) = rest.split_at_mut(piece.len());
        if let ReadPiece::Data { offset, .. } = *piece {
            volume.store().disk().read(offset, part)?;
        }
        rest = tail;
    }
    Ok(content)
}

fn segments(volume: &Volume, ino: u64) -> Result<Vec<(u64, u64)>, Error> {
    let inode = volume.inode(ino)?;
    let (mut segments, mut at) = (Vec::new(), 0);
    loop {
        let from = match volume.seek(&inode, at, true) {
            Err(Error::Refused(Errno::ENXIO)) => return Ok(segments),
            found => found?,
        };
        at = volume.seek(&inode, from, false)?;
        segments.push((from, at));
    }
}

impl Model {
    /// Compares everything but the contents of files; returns the real number of each inode of
    /// the reference that has a name.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn matches(&self, view: &View) -> Result<BTreeMap<Ino, u64>, String> {
        let mut paths = BTreeMap::new();
        self.walk(ROOT, "", &mut paths);
        if let Some(path) = view.names.keys().find(|path| !paths.contains_key(*path)) {
            return Err(format!("{path} should not be there"));
        }
        let mut numbers = BTreeMap::from([(ROOT, ROOT)]);
        for (path, ino) in &paths {
            let real = *view.names.get(path).ok_or_else(|| format!("{path} is missing"))?;
            if *numbers.entry(*ino).or_insert(real) != real {
                return Err(format!("{path} is another file than its other name"));
            }
        }
        if numbers.values().collect::<std::collections::BTreeSet<_>>().len() != numbers.len() {
            return Err("two files are one".into());
        }
        let name = |ino| paths.iter().find(|(_, i)| **i == ino).map_or("/", |(path, _)| path);
        for (ino, real) in &numbers {
            self.nodes[ino]
                .compare(&view.nodes[real])
                .map_err(|difference| format!("{}: {difference}", name(*ino)))?;
        }
        Ok(numbers)
    }

    fn walk(&self, dir: Ino, prefix: &str, paths: &mut BTreeMap<String, Ino>) {
        let Kind::Dir { names, .. } = &self.nodes[&dir].kind else { return };
        for (name, ino) in names {
            let path = format!("{prefix}{}{name}", if prefix.is_empty() { "" } else { "/" });
            self.walk(*ino, &path, paths);
            paths.insert(path, *ino);
        }
    }
}

impl Node {
    fn compare(&self, seen: &Seen) -> Result<(), String> {
        fn same<T: PartialEq + std::fmt::Debug>(what: &str, want: T, got: T) -> Result<(), String> {
            if want == got { Ok(()) } else { Err(format!("{what} is {got:?}, not {want:?}")) }
        }
        same("mode", format!("{:o}", self.mode), format!("{:o}", seen.mode))?;
        same("link count", self.nlink, seen.nlink)?;
        if self.xattrs != seen.xattrs {
            let lengths = |x: &BTreeMap<String, Vec<u8>>| -> Vec<String> {
                x.iter().map(|(k, v)| format!("{k}={}:{:02x?}", v.len(), v.first())).collect()
            };
            same("xattrs", lengths(&self.xattrs), lengths(&seen.xattrs))?;
            return Err("a value of an xattr differs".into());
        }
        match &self.kind {
            Kind::File { content, blocks } => {
                same("size", content.len() as u64, seen.size)?;
                same("blocks", blocks.len() as u64, seen.blocks)?;
                same("data segments", self.segments(), seen.segments.clone())
            }
            Kind::Symlink(target) => same("target", target.clone(), seen.target.clone()),
            Kind::Dir { names, .. } => same("entries", names.len() as u64, seen.size),
            Kind::Device => Ok(()),
        }
    }
}
