//! The reference: maps and byte vectors.

use crate::reference::op::{self, Alloc, Op, Path, Rename};
use inflight::errno::Errno;
use std::collections::BTreeMap;
use std::sync::Arc;

pub type Ino = u64;
pub const ROOT: Ino = 1;
pub const BLOCK: u64 = 4096;

/// A file, directory or other object.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub nlink: u32,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// How often a name of it moved: fsync(2) makes that durable too.
    pub moves: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    File {
        content: Arc<Vec<u8>>,
        /// The blocks that it has, and whether they hold data or are only reserved.
        blocks: Arc<BTreeMap<u64, bool>>,
    },
    Dir {
        names: BTreeMap<String, Ino>,
        parent: Ino,
    },
    Symlink(String),
    Device,
}

/// The whole filesystem. A clone shares what is equal.
#[derive(Clone, Debug)]
pub struct Model {
    pub nodes: BTreeMap<Ino, Arc<Node>>,
    /// The file that is open.
    pub held: Option<Ino>,
    next: Ino,
    /// Pages that were stored to and did not come yet.
    dirty: BTreeMap<(Ino, u64), Arc<Vec<u8>>>,
    /// Operations so far: what is written depends on it.
    serial: u32,
}

type Result<T> = std::result::Result<T, Errno>;

impl Node {
    fn new(kind: Kind, mode: u32, nlink: u32) -> Node {
        Node { kind, mode, nlink, xattrs: BTreeMap::new(), moves: 0 }
    }

    fn file(nlink: u32) -> Node {
        let kind = Kind::File { content: Arc::default(), blocks: Arc::default() };
        Node::new(kind, libc::S_IFREG | 0o644, nlink)
    }

    pub fn content(&self) -> Option<&Arc<Vec<u8>>> {
        match &self.kind {
            Kind::File { content, .. } => Some(content),
            _ => None,
        }
    }

    pub fn blocks(&self) -> Option<&BTreeMap<u64, bool>> {
        match &self.kind {
            Kind::File { blocks, .. } => Some(blocks),
            _ => None,
        }
    }

    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir { .. })
    }

    /// What SEEK_DATA and SEEK_HOLE show: from where to where there is data.
    pub fn segments(&self) -> Vec<(u64, u64)> {
        let (Some(content), Some(blocks)) = (self.content(), self.blocks()) else { return vec![] };
        let size = content.len() as u64;
        let mut segments: Vec<(u64, u64)> = Vec::new();
        for (block, _) in blocks.iter().filter(|(block, data)| **data && **block * BLOCK < size) {
            let (from, to) = (block * BLOCK, ((block + 1) * BLOCK).min(size));
            match segments.last_mut() {
                Some(last) if last.1 == from => last.1 = to,
                _ => segments.push((from, to)),
            }
        }
        segments
    }
}

impl Default for Model {
    fn default() -> Model {
        let root =
            Node::new(Kind::Dir { names: BTreeMap::new(), parent: ROOT }, libc::S_IFDIR | 0o755, 2);
        let nodes = BTreeMap::from([(ROOT, Arc::new(root))]);
        Model { nodes, held: None, next: ROOT + 1, dirty: BTreeMap::new(), serial: 0 }
    }
}

impl Model {
    /// Does what `op` does; an error changes nothing but the number of operations.
    pub fn apply(&mut self, op: &Op) -> Result<()> {
        self.serial += 1;
        let mut next = self.clone();
        next.play(op)?;
        *self = next;
        Ok(())
    }

    /// Operations so far.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// The same at a later time: what is written from now on differs from all before.
    pub fn at(&self, serial: u32) -> Model {
        Model { serial, ..self.clone() }
    }

    /// A file holds this.
    pub fn set_content(&mut self, ino: Ino, bytes: Vec<u8>) {
        if let Kind::File { content, .. } = &mut self.node_mut(ino).kind {
            *content = Arc::new(bytes);
        }
    }

    /// Nothing is open any more: whoever had it died.
    pub fn forget_open(&mut self) {
        if let Some(held) = self.held.take() {
            self.reap(held);
        }
    }

    fn play(&mut self, op: &Op) -> Result<()> {
        match *op {
            Op::Create(path) => self.make(path, Node::file(1)),
            Op::Mkdir(path) => {
                let kind = Kind::Dir { names: BTreeMap::new(), parent: ROOT };
                self.make(path, Node::new(kind, libc::S_IFDIR | 0o755, 2))
            }
            Op::Symlink(path) => {
                let kind = Kind::Symlink(op::target(path));
                self.make(path, Node::new(kind, libc::S_IFLNK | 0o777, 1))
            }
            Op::Tmpfile => {
                self.forget_open();
                self.held = Some(self.add(Node::file(0)));
                Ok(())
            }
            Op::Link(from, to) => self.link(from, to),
            Op::Rename(from, to, how) => self.rename(from, to, how),
            Op::Unlink(path) => self.remove(path, false),
            Op::Rmdir(path) => self.remove(path, true),
            Op::Write(path, at, len) | Op::WriteDirect(path, at, len) => {
                let bytes = (at..at + len).map(|i| op::stamp(self.serial, i)).collect();
                let ino = self.find(path)?;
                self.write(ino, at, bytes)
            }
            Op::Store(path, at, len) => self.store(path, at, len),
            Op::WriteBack(path, page) => {
                let ino = self.find(path)?;
                let content = self.nodes[&ino].content().ok_or(Errno::EINVAL)?;
                let left = (content.len() as u64).saturating_sub(page * BLOCK).min(BLOCK);
                match self.dirty.remove(&(ino, page)) {
                    Some(bytes) if left > 0 => {
                        self.write(ino, page * BLOCK, bytes[..left as usize].to_vec())
                    }
                    _ => Ok(()),
                }
            }
            Op::Truncate(path, size) => self.truncate(path, size),
            Op::Fallocate(path, how, at, len) => self.fallocate(path, how, at, len),
            Op::CopyRange(from, at, to, to_at, len) => self.copy(from, at, to, to_at, len),
            Op::SetXattr(path, name, len) => {
                let ino = self.find(path)?;
                let value = (0..len as u64).map(|i| op::stamp(self.serial, i)).collect();
                self.node_mut(ino).xattrs.insert(name.into(), value);
                Ok(())
            }
            Op::RemoveXattr(path, name) => {
                let ino = self.find(path)?;
                self.node_mut(ino).xattrs.remove(name).map(drop).ok_or(Errno::ENODATA)
            }
            Op::Chmod(path, mode) => {
                let ino = self.find(path)?;
                let node = self.node_mut(ino);
                if matches!(node.kind, Kind::Symlink(_)) {
                    return Err(Errno::EINVAL);
                }
                node.mode = node.mode & libc::S_IFMT | mode;
                Ok(())
            }
            Op::Open(path) => {
                let ino = self.find(path)?;
                self.nodes[&ino].content().ok_or(Errno::EISDIR)?;
                if self.held != Some(ino) {
                    self.forget_open();
                }
                self.held = Some(ino);
                Ok(())
            }
            Op::Close => {
                self.forget_open();
                Ok(())
            }
            Op::Fsync(path) | Op::Fdatasync(path) => {
                let ino = self.find(path)?;
                match self.nodes[&ino].kind {
                    Kind::File { .. } | Kind::Dir { .. } => Ok(()),
                    _ => Err(Errno::EINVAL),
                }
            }
            Op::Sync | Op::Tick | Op::Trim => Ok(()),
        }
    }

    /// The inode behind a path.
    pub fn find(&self, path: Path) -> Result<Ino> {
        if path == "@" {
            return self.held.ok_or(Errno::EBADF);
        }
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(ROOT, |at, part| self.names(at)?.get(part).copied().ok_or(Errno::ENOENT))
    }

    fn names(&self, dir: Ino) -> Result<&BTreeMap<String, Ino>> {
        match &self.nodes[&dir].kind {
            Kind::Dir { names, .. } => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn names_mut(&mut self, dir: Ino) -> Result<&mut BTreeMap<String, Ino>> {
        match &mut self.node_mut(dir).kind {
            Kind::Dir { names, .. } => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn node_mut(&mut self, ino: Ino) -> &mut Node {
        Arc::make_mut(self.nodes.get_mut(&ino).expect("a number from this model"))
    }

    /// The directory of a path, which is one, and the name in it.
    fn place(&self, path: Path) -> Result<(Ino, &'static str)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.find(dir)?;
        self.names(dir)?;
        Ok((dir, name))
    }

    fn add(&mut self, node: Node) -> Ino {
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, Arc::new(node));
        ino
    }

    fn make(&mut self, path: Path, node: Node) -> Result<()> {
        let (dir, name) = self.place(path)?;
        if self.names(dir)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let ino = self.add(node);
        self.enter(dir, name, ino)
    }

    /// Adds a name and what a subdirectory does to the counts.
    fn enter(&mut self, dir: Ino, name: &str, ino: Ino) -> Result<()> {
        self.names_mut(dir)?.insert(name.into(), ino);
        if let Kind::Dir { parent, .. } = &mut self.node_mut(ino).kind {
            *parent = dir;
            self.node_mut(dir).nlink += 1;
        }
        Ok(())
    }

    fn leave(&mut self, dir: Ino, name: &str) -> Result<Ino> {
        let ino = self.names_mut(dir)?.remove(name).ok_or(Errno::ENOENT)?;
        if self.nodes[&ino].is_dir() {
            self.node_mut(dir).nlink -= 1;
        }
        Ok(ino)
    }

    fn unlinked(&mut self, ino: Ino) {
        let by = if self.nodes[&ino].is_dir() { 2 } else { 1 };
        self.node_mut(ino).nlink -= by;
        if self.held != Some(ino) {
            self.reap(ino);
        }
    }

    fn reap(&mut self, ino: Ino) {
        if self.nodes.get(&ino).is_some_and(|node| node.nlink == 0) {
            self.nodes.remove(&ino);
        }
    }

    fn link(&mut self, from: Path, to: Path) -> Result<()> {
        let ino = self.find(from)?;
        let (dir, name) = self.place(to)?;
        if self.nodes[&ino].is_dir() {
            return Err(Errno::EPERM);
        }
        if self.names(dir)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.node_mut(ino).nlink += 1;
        self.enter(dir, name, ino)
    }

    fn remove(&mut self, path: Path, directory: bool) -> Result<()> {
        let (dir, name) = self.place(path)?;
        let ino = *self.names(dir)?.get(name).ok_or(Errno::ENOENT)?;
        self.removable(ino, directory)?;
        self.leave(dir, name)?;
        self.unlinked(ino);
        Ok(())
    }

    fn removable(&self, ino: Ino, directory: bool) -> Result<()> {
        match (&self.nodes[&ino].kind, directory) {
            (Kind::Dir { .. }, false) => Err(Errno::EISDIR),
            (Kind::Dir { names, .. }, true) if !names.is_empty() => Err(Errno::ENOTEMPTY),
            (Kind::Dir { .. }, true) => Ok(()),
            (_, true) => Err(Errno::ENOTDIR),
            (_, false) => Ok(()),
        }
    }

    /// EINVAL when `dir` is `ino` or below it.
    fn no_loop(&self, ino: Ino, mut dir: Ino) -> Result<()> {
        while self.nodes[&ino].is_dir() {
            if dir == ino {
                return Err(Errno::EINVAL);
            }
            match self.nodes[&dir].kind {
                Kind::Dir { parent, .. } if dir != ROOT => dir = parent,
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn rename(&mut self, from: Path, to: Path, how: Rename) -> Result<()> {
        let ((old, name), (new, newname)) = (self.place(from)?, self.place(to)?);
        let ino = *self.names(old)?.get(name).ok_or(Errno::ENOENT)?;
        let other = self.names(new)?.get(newname).copied();
        self.no_loop(ino, new)?;
        match other {
            None if how == Rename::Exchange => return Err(Errno::ENOENT),
            Some(_) if how == Rename::NoReplace => return Err(Errno::EEXIST),
            Some(other) if how == Rename::Exchange => {
                self.no_loop(other, old)?;
                if other == ino {
                    return Ok(());
                }
                self.node_mut(ino).moves += 1;
                self.node_mut(other).moves += 1;
                self.leave(old, name)?;
                self.leave(new, newname)?;
                self.enter(new, newname, ino)?;
                return self.enter(old, name, other);
            }
            Some(other) if other == ino => return Ok(()),
            Some(other) => {
                self.removable(other, self.nodes[&ino].is_dir())?;
                self.leave(new, newname)?;
                self.unlinked(other);
            }
            None => {}
        }
        self.leave(old, name)?;
        self.enter(new, newname, ino)?;
        self.node_mut(ino).moves += 1;
        if how == Rename::Whiteout {
            let white = self.add(Node::new(Kind::Device, libc::S_IFCHR, 1));
            self.enter(old, name, white)?;
        }
        Ok(())
    }
}

/// Contents and blocks of regular files.
impl Model {
    /// Changes a file; `wrong` is what other things than files and directories answer.
    fn edit(
        &mut self,
        ino: Ino,
        wrong: Errno,
        change: impl FnOnce(&mut Vec<u8>, &mut BTreeMap<u64, bool>),
    ) -> Result<()> {
        match &mut self.node_mut(ino).kind {
            Kind::File { content, blocks } => {
                change(Arc::make_mut(content), Arc::make_mut(blocks));
                Ok(())
            }
            Kind::Dir { .. } => Err(Errno::EISDIR),
            _ => Err(wrong),
        }
    }

    fn write(&mut self, ino: Ino, at: u64, bytes: Vec<u8>) -> Result<()> {
        self.edit(ino, Errno::EINVAL, |content, blocks| {
            let (at, end) = (at as usize, at as usize + bytes.len());
            content.resize(content.len().max(end), 0);
            content[at..end].copy_from_slice(&bytes);
            let touched = at as u64 / BLOCK..(end as u64).div_ceil(BLOCK);
            blocks.extend(touched.map(|block| (block, true)));
        })
    }

    fn store(&mut self, path: Path, at: u64, len: u64) -> Result<()> {
        let ino = self.find(path)?;
        let content = self.nodes[&ino].content().ok_or(Errno::EINVAL)?;
        let size = content.len() as u64;
        for page in op::pages(at, len) {
            let from = (page * BLOCK).min(size) as usize;
            let clean = content[from..(from + BLOCK as usize).min(content.len())].to_vec();
            let old = self.dirty.get(&(ino, page)).map_or(clean, |page| page.to_vec());
            let new = op::stored(self.serial, old, page, (at, len), size).ok_or(Errno::EFAULT)?;
            self.dirty.insert((ino, page), Arc::new(new));
        }
        Ok(())
    }

    fn truncate(&mut self, path: Path, size: u64) -> Result<()> {
        let ino = self.find(path)?;
        self.edit(ino, Errno::EINVAL, |content, blocks| {
            if size < content.len() as u64 {
                blocks.retain(|block, _| *block < size.div_ceil(BLOCK));
            }
            content.resize(size as usize, 0);
        })
    }

    fn fallocate(&mut self, path: Path, how: Alloc, at: u64, len: u64) -> Result<()> {
        let ino = self.find(path)?;
        let end = at + len;
        self.edit(ino, Errno::ENODEV, |content, blocks| {
            let whole = at.div_ceil(BLOCK)..end / BLOCK;
            if matches!(how, Alloc::Punch | Alloc::Zero | Alloc::ZeroKeep) {
                let size = content.len();
                content[size.min(at as usize)..size.min(end as usize)].fill(0);
            }
            if how == Alloc::Punch {
                blocks.retain(|block, _| !whole.contains(block));
                return;
            }
            if matches!(how, Alloc::Zero | Alloc::ZeroKeep) {
                for (_, data) in blocks.iter_mut().filter(|(block, _)| whole.contains(block)) {
                    *data = false;
                }
            }
            for block in at / BLOCK..end.div_ceil(BLOCK) {
                blocks.entry(block).or_insert(false);
            }
            if matches!(how, Alloc::Grow | Alloc::Zero) {
                content.resize(content.len().max(end as usize), 0);
            }
        })
    }

    fn copy(&mut self, from: Path, at: u64, to: Path, to_at: u64, len: u64) -> Result<()> {
        let (from, to) = (self.find(from)?, self.find(to)?);
        let source = self.nodes[&from].clone();
        let content = source.content().ok_or(Errno::EINVAL)?;
        if from == to || self.nodes[&to].content().is_none() {
            return Err(Errno::EINVAL);
        }
        // Holes stay holes, and blocks that are only reserved become some.
        let has_data =
            |block: u64| source.blocks().is_some_and(|blocks| blocks.get(&block) == Some(&true));
        let (mut now, end) = (at, (at + len).min(content.len() as u64));
        while now < end {
            let is_data = has_data(now / BLOCK);
            let same = (now / BLOCK..).take_while(|block| has_data(*block) == is_data);
            let upto = same
                .take_while(|block| block * BLOCK < end)
                .last()
                .map_or(end, |b| (b + 1) * BLOCK);
            let upto = upto.min(end);
            let target = to_at + (now - at);
            match is_data {
                true => self.write(to, target, content[now as usize..upto as usize].to_vec())?,
                false => self.copy_hole(to, target, target + (upto - now))?,
            }
            now = upto;
        }
        Ok(())
    }

    fn copy_hole(&mut self, ino: Ino, at: u64, end: u64) -> Result<()> {
        let size = self.nodes[&ino].content().map_or(0, |content| content.len() as u64);
        if at < size {
            let cut = end.min(size);
            self.edit(ino, Errno::EINVAL, |content, blocks| {
                content[at as usize..cut as usize].fill(0);
                let whole = at.div_ceil(BLOCK)..cut / BLOCK;
                blocks.retain(|block, _| !whole.contains(block));
            })?;
        }
        if end > size { self.write(ino, end - 1, vec![0]) } else { Ok(()) }
    }
}
