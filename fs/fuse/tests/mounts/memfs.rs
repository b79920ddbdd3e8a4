//! A filesystem in memory: as much of one as the tests ask for.

use inflight_fuse::abi::{OpenFlags, ROOT_ID};
use inflight_fuse::channel::uring::Queue;
use inflight_fuse::channel::{Handler, Received, Ticket};
use inflight_fuse::{
    Attr, Data, DirEntry, Directory, Entry, Name, Opened, Operation, Payload, Read, Reply, Request,
    SetTime, Setattr, Statfs, Statx, Time,
};
use nix::errno::Errno;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Reading and syncing a file of this name are put aside until the test answers.
pub const PARKED: &str = "parked";

type Nodes = BTreeMap<u64, Node>;

#[derive(Default)]
struct Node {
    attr: Attr,
    btime: Time,
    data: Vec<u8>,
    entries: BTreeMap<Vec<u8>, u64>,
    is_parked: bool,
}

/// One lock for everything; nothing is called under it.
pub struct MemFs {
    nodes: Mutex<Nodes>,
    parked: Mutex<Vec<(Request, Ticket)>>,
    interrupted: Mutex<Vec<u64>>,
    retrieved: Mutex<Vec<Vec<u8>>>,
    changed: Condvar,
    /// Bytes of WRITEs whose data came page-aligned, and of all.
    pub written: Mutex<(u64, u64)>,
}

impl Handler for MemFs {
    fn request(&self, received: Received, _queue: Option<&mut Queue>) {
        self.serve(received);
    }
}

impl MemFs {
    pub fn new() -> MemFs {
        let attr = Attr { ino: ROOT_ID, mode: libc::S_IFDIR | 0o755, nlink: 2, ..Attr::default() };
        let nodes = BTreeMap::from([(ROOT_ID, Node { attr, ..Node::default() })]);
        MemFs {
            nodes: Mutex::new(nodes),
            parked: Mutex::default(),
            interrupted: Mutex::default(),
            retrieved: Mutex::default(),
            changed: Condvar::new(),
            written: Mutex::default(),
        }
    }

    /// Answers, or puts the request aside.
    fn serve(&self, received: Received) {
        let Received { request, mut ticket } = received;
        if let Operation::Interrupt { unique } = request.operation {
            self.interrupted.lock().push(unique);
            self.changed.notify_all();
            return;
        }
        let can_wait = matches!(request.operation, Operation::Read(_) | Operation::Fsync(_));
        let is_parked = |nodeid| self.nodes.lock().get(&nodeid).is_some_and(|node| node.is_parked);
        if can_wait && is_parked(request.header.nodeid) {
            self.parked.lock().push((request, ticket));
            self.changed.notify_all();
            return;
        }
        let mut reply = self.answer(&request).unwrap_or_else(Reply::Error);
        // Data in the channel's own memory, where there is some.
        if let Reply::Data(Data::Payload(payload)) = &mut reply
            && let Some(mut buffer) = ticket.buffer()
        {
            buffer.set_len(payload.len());
            buffer.as_mut_slice().copy_from_slice(payload.as_slice());
            *payload = buffer.into();
        }
        // Every other WRITE is answered before its data are let go.
        let is_late = request.header.unique % 4 == 0;
        let late = is_late.then_some(request);
        let _ = ticket.reply(reply);
        drop(late);
    }

    /// A request that was put aside; waits for one.
    pub fn take_parked(&self, patience: Duration) -> Option<(Request, Ticket)> {
        let mut parked = self.parked.lock();
        self.changed.wait_while_for(&mut parked, |parked| parked.is_empty(), patience);
        parked.pop()
    }

    /// The data of a NOTIFY_REPLY; waits for one.
    pub fn take_retrieved(&self, patience: Duration) -> Option<Vec<u8>> {
        let mut list = self.retrieved.lock();
        self.changed.wait_while_for(&mut list, |list| list.is_empty(), patience);
        list.pop()
    }

    /// Whether an INTERRUPT of that request came, or comes.
    pub fn was_interrupted(&self, unique: u64, patience: Duration) -> bool {
        let mut list = self.interrupted.lock();
        self.changed.wait_while_for(&mut list, |list| !list.contains(&unique), patience);
        list.contains(&unique)
    }

    fn answer(&self, request: &Request) -> Result<Reply, Errno> {
        let mut nodes = self.nodes.lock();
        match about_names(&mut nodes, request) {
            None => self.about_files(&mut nodes, request),
            Some(reply) => reply,
        }
    }

    fn about_files(&self, nodes: &mut Nodes, request: &Request) -> Result<Reply, Errno> {
        let nodeid = request.header.nodeid;
        Ok(match &request.operation {
            Operation::Lookup { name } => {
                let found = nodes.get(&nodeid).ok_or(Errno::ESTALE)?.entries.get(name.as_bytes());
                Reply::Entry(entry(nodes, *found.ok_or(Errno::ENOENT)?))
            }
            Operation::Getattr { .. } => attr_of(nodes, nodeid)?,
            Operation::Setattr(setattr) => {
                change(nodes.get_mut(&nodeid).ok_or(Errno::ESTALE)?, setattr);
                attr_of(nodes, nodeid)?
            }
            Operation::Statx(_) => {
                let node = nodes.get(&nodeid).ok_or(Errno::ESTALE)?;
                let statx = Statx {
                    mask: libc::STATX_BASIC_STATS | libc::STATX_BTIME,
                    attr: node.attr,
                    btime: node.btime,
                    ..Statx::default()
                };
                Reply::Statx { statx, valid: Duration::ZERO }
            }
            Operation::Open(_) => {
                let flags = OpenFlags::PARALLEL_DIRECT_WRITES;
                Reply::Opened(Opened { flags, ..Opened::default() })
            }
            Operation::Opendir(_) => Reply::Opened(Opened::default()),
            Operation::Read(read) => Reply::Data(load(&nodes[&nodeid], read)),
            Operation::Write(write) => {
                let node = nodes.get_mut(&nodeid).ok_or(Errno::ESTALE)?;
                self.count(&write.data);
                store(node, write.offset as usize, write.data.as_slice());
                Reply::Written(write.data.len() as u32)
            }
            Operation::Readdir(read) => list(nodes, nodeid, read, false),
            Operation::Readdirplus(read) => list(nodes, nodeid, read, true),
            Operation::Statfs => Reply::Statfs(Statfs {
                block_size: 4096,
                fragment_size: 4096,
                blocks: 1 << 20,
                name_max: 255,
                ..Statfs::default()
            }),
            Operation::NotifyReply(reply) => {
                self.retrieved.lock().push(reply.data.as_slice().to_vec());
                self.changed.notify_all();
                Reply::Empty
            }
            Operation::Ioctl(_) => return Err(Errno::ENOTTY),
            Operation::Setxattr(_) => return Err(Errno::EOPNOTSUPP),
            Operation::Fsync(_)
            | Operation::Flush(_)
            | Operation::Release(_)
            | Operation::Releasedir(_)
            | Operation::Destroy
            | Operation::Forget { .. }
            | Operation::BatchForget(_) => Reply::Empty,
            _ => return Err(Errno::ENOSYS),
        })
    }

    fn count(&self, data: &Payload) {
        let mut written = self.written.lock();
        written.1 += data.len() as u64;
        if data.is_aligned() {
            written.0 += data.len() as u64;
        }
    }
}

fn about_names(nodes: &mut Nodes, request: &Request) -> Option<Result<Reply, Errno>> {
    let reply = match &request.operation {
        Operation::Mkdir(_)
        | Operation::Mknod { .. }
        | Operation::Symlink { .. }
        | Operation::Readlink
        | Operation::Create(_)
        | Operation::Tmpfile(_)
        | Operation::Unlink { .. }
        | Operation::Rmdir { .. }
        | Operation::Rename(_)
        | Operation::Rename2(_) => change_names(nodes, request),
        _ => return None,
    };
    Some(reply)
}

fn change_names(nodes: &mut Nodes, request: &Request) -> Result<Reply, Errno> {
    let nodeid = request.header.nodeid;
    let name_of = |name: &Name| name.as_bytes().to_vec();
    Ok(match &request.operation {
        Operation::Mkdir(node) => {
            let made = make(nodes, nodeid, &node.name, libc::S_IFDIR | node.mode)?;
            Reply::Entry(entry(nodes, made))
        }
        Operation::Mknod { node, .. } => {
            let made = make(nodes, nodeid, &node.name, node.mode)?;
            Reply::Entry(entry(nodes, made))
        }
        Operation::Symlink { name, target, .. } => {
            let made = make(nodes, nodeid, name, libc::S_IFLNK | 0o777)?;
            nodes.entry(made).and_modify(|node| node.data = name_of(target));
            Reply::Entry(entry(nodes, made))
        }
        Operation::Readlink => Reply::Data(nodes[&nodeid].data.clone().into()),
        Operation::Create(create) => {
            let made = make(nodes, nodeid, &create.name, create.mode)?;
            Reply::Created { entry: entry(nodes, made), opened: Opened::default() }
        }
        Operation::Tmpfile(create) => {
            let made = node(nodes, create.mode);
            Reply::Created { entry: entry(nodes, made), opened: Opened::default() }
        }
        Operation::Unlink { name } | Operation::Rmdir { name } => {
            let directory = nodes.get_mut(&nodeid).ok_or(Errno::ESTALE)?;
            directory.entries.remove(name.as_bytes()).ok_or(Errno::ENOENT)?;
            Reply::Empty
        }
        Operation::Rename(rename) | Operation::Rename2(rename) => {
            let directory = nodes.get_mut(&nodeid).ok_or(Errno::ESTALE)?;
            let moved = directory.entries.remove(rename.name.as_bytes());
            let moved = moved.ok_or(Errno::ENOENT)?;
            let target = nodes.get_mut(&rename.new_parent).ok_or(Errno::ESTALE)?;
            target.entries.insert(name_of(&rename.new_name), moved);
            Reply::Empty
        }
        _ => return Err(Errno::ENOSYS),
    })
}

fn node(nodes: &mut Nodes, mode: u32) -> u64 {
    let number = nodes.last_key_value().map_or(ROOT_ID, |(last, _)| *last) + 1;
    let btime = Time::from(SystemTime::now());
    let attr = Attr { ino: number, mode, nlink: 1, ..Attr::default() };
    nodes.insert(number, Node { attr, btime, ..Node::default() });
    number
}

fn make(nodes: &mut Nodes, parent: u64, name: &Name, mode: u32) -> Result<u64, Errno> {
    if nodes.get(&parent).ok_or(Errno::ESTALE)?.entries.contains_key(name.as_bytes()) {
        return Err(Errno::EEXIST);
    }
    let number = node(nodes, mode);
    nodes.entry(number).and_modify(|node| node.is_parked = name.as_bytes() == PARKED.as_bytes());
    let bytes = name.as_bytes().to_vec();
    nodes.get_mut(&parent).ok_or(Errno::ESTALE)?.entries.insert(bytes, number);
    Ok(number)
}

fn entry(nodes: &Nodes, nodeid: u64) -> Entry {
    Entry { nodeid, attr: nodes[&nodeid].attr, ..Entry::default() }
}

fn attr_of(nodes: &Nodes, nodeid: u64) -> Result<Reply, Errno> {
    let attr = nodes.get(&nodeid).ok_or(Errno::ESTALE)?.attr;
    Ok(Reply::Attr { attr, valid: Duration::ZERO })
}

fn change(node: &mut Node, setattr: &Setattr) {
    let time = |time: SetTime| match time {
        SetTime::Now => Time::from(SystemTime::now()),
        SetTime::At(time) => time,
    };
    if let Some(size) = setattr.size {
        node.data.resize(size as usize, 0);
        node.attr.size = size;
    }
    node.attr.mode = setattr.mode.unwrap_or(node.attr.mode);
    node.attr.atime = setattr.atime.map_or(node.attr.atime, time);
    node.attr.mtime = setattr.mtime.map_or(node.attr.mtime, time);
}

fn load(node: &Node, read: &Read) -> Data {
    let rest = node.data.get(read.offset as usize..).unwrap_or_default();
    Data::from(&rest[..rest.len().min(read.size as usize)])
}

fn store(node: &mut Node, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if node.data.len() < end {
        node.data.resize(end, 0);
        node.attr.size = end as u64;
    }
    node.data[offset..end].copy_from_slice(data);
}

fn list(nodes: &Nodes, nodeid: u64, read: &Read, is_plus: bool) -> Reply {
    let mut directory = Directory::new(read.size);
    let entries = nodes[&nodeid].entries.iter().enumerate().skip(read.offset as usize);
    for (index, (name, number)) in entries {
        let kind = (nodes[number].attr.mode >> 12) as u8;
        let row = DirEntry { ino: *number, next: index as u64 + 1, kind, name };
        let is_added = match is_plus {
            true => directory.add_plus(&row, &entry(nodes, *number)),
            false => directory.add(&row),
        };
        if !is_added {
            break;
        }
    }
    directory.into()
}
