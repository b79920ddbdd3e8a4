//! Which operation a request asks for, and what its answer looks like.

use super::convert::{self, caller};
use super::exchange::Wait;
use super::lessons;
use super::notice::{Notice, Outcome};
use super::server::Server;
use crate::errno::Errno;
use crate::ops::{Answer, Caller, Control, Fs, Make, Unnamed, WriteArgs, Written};
use inflight_fuse::abi::FsyncFlags;
use inflight_fuse::{
    CopyFileRange, Create, Data, DirEntry, Directory, Entry, Extensions, Fsync, Ioctl, Opened,
    Operation, Read, Reply, Request, Setattr,
};

/// An operation that is done, with its answer.
pub struct Done {
    pub(super) reply: Reply,
    /// Before the answer.
    pub(super) before: Option<Notice>,
    /// After it.
    pub(super) after: Option<Notice>,
}

impl Done {
    fn new(reply: Reply) -> Done {
        Done { reply, before: None, after: None }
    }

    pub(super) fn failed(errno: Errno) -> Done {
        Done::new(Reply::Error(errno))
    }

    /// Answers at most `len` bytes.
    pub(super) fn cut(&mut self, len: usize) {
        match &mut self.reply {
            Reply::Data(data) | Reply::Ioctl { data, .. } => data.truncate(len),
            Reply::Written(bytes) => *bytes = (*bytes).min(u32::try_from(len).unwrap_or(u32::MAX)),
            Reply::Copied(bytes) => *bytes = (*bytes).min(len as u64),
            _ => {}
        }
    }
}

/// What the gate's log says of an answer: its bytes, 0 where they mean nothing, or its errno.
pub(super) fn outcome(reply: &Reply) -> Outcome {
    match reply {
        Reply::Error(errno) => Err(*errno as i32),
        Reply::Written(bytes) => Ok((*bytes).into()),
        Reply::Copied(bytes) => Ok(*bytes),
        _ => Ok(0),
    }
}

/// What serving `request` may have to wait for.
pub(super) fn wait(fs: &Fs, request: &Request) -> Wait {
    let ino = request.header.nodeid;
    let settles = |dirs: &[u64]| if fs.change_waits(dirs) { Wait::Device } else { Wait::Nothing };
    match &request.operation {
        Operation::Fsync(_)
        | Operation::Fsyncdir(_)
        | Operation::Syncfs
        | Operation::Fallocate(_)
        | Operation::CopyFileRange(_)
        | Operation::CopyFileRange64(_)
        | Operation::Forget { .. }
        | Operation::BatchForget(_) => Wait::Device,
        Operation::Setattr(set) if set.size.is_some_and(|size| fs.resize_waits(ino, size)) => {
            Wait::Device
        }
        Operation::Ioctl(ioctl) if fs.freezes(&control(Caller::default(), ino, ioctl)) => {
            Wait::Requests
        }
        Operation::Ioctl(_) => Wait::Device,
        Operation::Lseek { offset, whence, .. } if fs.options().writeback => {
            match fs.unsure_hole(ino, *offset as i64, *whence as i32) {
                Ok(Some(_)) => Wait::Requests,
                _ => Wait::Nothing,
            }
        }
        Operation::Mknod { .. }
        | Operation::Mkdir(_)
        | Operation::Symlink { .. }
        | Operation::Create(_)
        | Operation::Unlink { .. }
        | Operation::Rmdir { .. }
        | Operation::Link { .. }
        | Operation::Tmpfile(_)
        | Operation::Setxattr(_)
        | Operation::Removexattr { .. } => settles(&[ino]),
        Operation::Rename(rename) | Operation::Rename2(rename) => {
            settles(&[ino, rename.new_parent])
        }
        _ => Wait::Nothing,
    }
}

/// Serves a request that is done in one step: anything but READ and WRITE.
pub(super) fn serve(server: &Server, request: Request) -> Answer<Done> {
    let (fs, ino, who) = (server.fs(), request.header.nodeid, caller(&request.header));
    let timeouts = server.timeouts();
    let reply = match request.operation {
        Operation::Lookup { name } => timeouts.looked_up(fs.lookup(ino, name.as_bytes()))?,
        Operation::Forget { nlookup } => {
            fs.forget(ino, nlookup);
            Reply::Empty
        }
        Operation::BatchForget(list) => {
            list.iter().for_each(|forget| fs.forget(forget.nodeid, forget.nlookup));
            Reply::Empty
        }
        Operation::Getattr { fh } => {
            fh.map_or(Ok(()), |_| fs.tell_shortage(ino))?;
            timeouts.attr(&fs.getattr(ino)?)
        }
        Operation::Statx(_) => timeouts.statx(&fs.getattr(ino)?),
        Operation::Setattr(set) => timeouts.attr(&fs.setattr(ino, &convert::set_attr(&set))?),
        Operation::Readlink => Reply::Data(fs.readlink(ino)?.into()),
        Operation::Unlink { name } => empty(fs.unlink(ino, name.as_bytes()))?,
        Operation::Rmdir { name } => empty(fs.rmdir(ino, name.as_bytes()))?,
        Operation::Rename(rename) | Operation::Rename2(rename) => {
            let to = (rename.new_parent, rename.new_name.as_bytes());
            empty(fs.rename(who, (ino, rename.name.as_bytes()), to, rename.flags))?
        }
        Operation::Link { target, name } => {
            Reply::Entry(timeouts.entry(&fs.link(target, ino, name.as_bytes())?))
        }
        Operation::Open(open) | Operation::Opendir(open) => {
            let flags = server.open_flags().ok_or(Errno::ENOSYS)?;
            fs.open(ino, open.flags as i32)?;
            Reply::Opened(Opened { flags, ..Opened::default() })
        }
        // No handle is kept: it passes the gate so that the log tells when the last user was gone.
        Operation::Release(_) | Operation::Releasedir(_) | Operation::Destroy => Reply::Empty,
        Operation::Fsync(fsync) => {
            return synced(server, ino, fs.fsync(ino, is_data_only(&fsync)));
        }
        Operation::Fsyncdir(_) => empty(fs.fsyncdir())?,
        Operation::Syncfs => empty(fs.syncfs())?,
        Operation::Readdir(read) => readdir(fs, ino, &read)?,
        Operation::Readdirplus(read) => readdirplus(server, ino, &read)?,
        Operation::Statfs => convert::statfs(&fs.statfs()?),
        Operation::Setxattr(set) => {
            let (name, value) = (set.name.as_bytes(), set.value.as_slice());
            empty(fs.setxattr(who, ino, name, value, set.flags as i32))?
        }
        Operation::Getxattr(get) => {
            convert::xattr(fs.getxattr(ino, get.name.as_bytes())?, get.size)?
        }
        Operation::Listxattr { size } => convert::xattr(fs.listxattr(who, ino)?, size)?,
        Operation::Removexattr { name } => empty(fs.removexattr(ino, name.as_bytes()))?,
        Operation::Lseek { offset, whence, .. } => {
            lseek(server, ino, offset as i64, whence as i32)?
        }
        Operation::Ioctl(arguments) => ioctl(server, who, ino, &arguments)?,
        Operation::Fallocate(range) => {
            let mode = range.mode as i32;
            let privileges = fs.fallocate(who, ino, mode, range.offset, range.length)?;
            return Ok(Done { before: ask_if(privileges, ino), ..Done::new(Reply::Empty) });
        }
        Operation::CopyFileRange(range) => {
            // The answer has 32 bits for the count.
            let len = range.len.min(1 << 30);
            return copy(fs, ino, &CopyFileRange { len, ..range }, |copied| {
                Reply::Written(copied as u32)
            });
        }
        Operation::CopyFileRange64(range) => return copy(fs, ino, &range, Reply::Copied),
        operation => create(server, ino, who, operation)?,
    };
    Ok(Done::new(reply))
}

/// Serves a request that should wait for others and must not. A file may be called data as a whole
/// (lseek(2)); what would freeze it is busy.
pub(super) fn serve_at_once(server: &Server, request: &Request) -> Answer<Done> {
    let Operation::Lseek { offset, whence, .. } = request.operation else {
        return Err(Errno::EBUSY);
    };
    let size = server.fs().getattr(request.header.nodeid)?.attr.size;
    let at = match whence as i32 {
        libc::SEEK_HOLE => size.max(offset),
        _ => offset,
    };
    Ok(Done::new(Reply::Offset(at)))
}

/// What makes an inode; and ENOSYS to all that nothing is kept for: FLUSH (close has nothing to do),
/// ACCESS (permissions are the kernel's business), locks (the kernel's own), BMAP, POLL, INTERRUPT,
/// and what a newer kernel may ask.
fn create(server: &Server, parent: u64, who: Caller, operation: Operation) -> Answer<Reply> {
    let timeouts = server.timeouts();
    let make = |name: &[u8], kind: (u32, u32), rdev, target, extensions: &Extensions| {
        let (security, (mode, umask)) = (security(extensions), kind);
        let security = security.as_slice();
        server.fs().make(&Make { caller: who, parent, name, mode, umask, rdev, target, security })
    };
    let entry = match operation {
        Operation::Mknod { node, rdev } => {
            make(node.name.as_bytes(), (node.mode, node.umask), rdev, None, &node.extensions)?
        }
        Operation::Mkdir(node) => {
            let mode = libc::S_IFDIR | node.mode & 0o7777;
            make(node.name.as_bytes(), (mode, node.umask), 0, None, &node.extensions)?
        }
        Operation::Symlink { name, target, extensions } => {
            let kind = (libc::S_IFLNK | 0o777, 0);
            make(name.as_bytes(), kind, 0, Some(target.as_bytes()), &extensions)?
        }
        Operation::Create(Create { name, mode, umask, extensions, .. }) => {
            let mode = libc::S_IFREG | mode & 0o7777;
            let entry = make(name.as_bytes(), (mode, umask), 0, None, &extensions)?;
            return Ok(created(server, timeouts.entry(&entry)));
        }
        Operation::Tmpfile(Create { mode, umask, extensions, .. }) => {
            let security = &security(&extensions);
            let entry =
                server.fs().tmpfile(&Unnamed { caller: who, parent, mode, umask, security })?;
            return Ok(created(server, timeouts.entry(&entry)));
        }
        _ => return Err(Errno::ENOSYS),
    };
    Ok(Reply::Entry(timeouts.entry(&entry)))
}

/// Whether only the data are to be durable, and of the rest what it takes to read them.
pub(super) fn is_data_only(fsync: &Fsync) -> bool {
    fsync.fsync_flags.contains(FsyncFlags::FDATASYNC)
}

/// The answer to an FSYNC. The kernel asks again for the blocks of what it syncs.
pub(super) fn synced(server: &Server, ino: u64, answer: Answer<()>) -> Answer<Done> {
    let reply = empty(answer)?;
    Ok(Done { before: ask_if(server.stale().take(ino), ino), ..Done::new(reply) })
}

fn created(server: &Server, entry: Entry) -> Reply {
    let flags = server.open_flags().unwrap_or(inflight_fuse::abi::OpenFlags::KEEP_CACHE);
    Reply::Created { entry, opened: Opened { flags, ..Opened::default() } }
}

fn security(extensions: &Extensions) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pair = |s: &inflight_fuse::Security| (s.name.as_bytes().to_vec(), s.value.clone());
    extensions.security.iter().map(pair).collect()
}

fn empty(answer: Answer<()>) -> Answer<Reply> {
    answer.map(|()| Reply::Empty)
}

fn ask_if(needed: bool, ino: u64) -> Option<Notice> {
    needed.then_some(Notice::AskAgain(ino))
}

fn entry_of(entry: &crate::volume::DirEntry) -> DirEntry<'_> {
    DirEntry { ino: entry.ino, next: entry.next, kind: entry.kind, name: &entry.name }
}

fn readdir(fs: &Fs, ino: u64, read: &Read) -> Answer<Reply> {
    let mut directory = Directory::new(read.size);
    fs.readdir(ino, read.offset, |entry| !directory.add(&entry_of(entry)))?;
    Ok(directory.into())
}

fn readdirplus(server: &Server, ino: u64, read: &Read) -> Answer<Reply> {
    let (fs, timeouts) = (server.fs(), server.timeouts());
    let mut directory = Directory::new(read.size);
    let (mut failed, mut given) = (Ok(()), false);
    let result = fs.readdir(ino, read.offset, |entry| {
        // The kernel takes no reference on them.
        if entry.name == b"." || entry.name == b".." {
            return !directory.add_plus(&entry_of(entry), &Entry::default());
        }
        let attributes = match fs.listed(entry) {
            Ok(attributes) => timeouts.entry(&attributes),
            // Removed since it was listed.
            Err(Errno::ESTALE) => return false,
            Err(errno) => {
                failed = Err(errno);
                return true;
            }
        };
        let added = directory.add_plus(&entry_of(entry), &attributes);
        if added {
            fs.remember(entry.ino);
            lessons::listed(server, ino, entry);
            given = true;
        }
        !added
    });
    // References were given: what is in the answer goes out, the error comes next time.
    if !given {
        result.and(failed)?;
    }
    Ok(directory.into())
}

fn lseek(server: &Server, ino: u64, offset: i64, whence: i32) -> Answer<Reply> {
    let fs = server.fs();
    if fs.options().writeback {
        // The kernel seeks without writing back what only it knows, so it is made to.
        let write_back = |hole: &std::ops::Range<u64>| {
            Notice::WriteBack(ino, hole.clone()).send(server.kernel())
        };
        // What fails here fails again below.
        let _ = fs.settle_hole(ino, offset, whence, write_back);
    }
    Ok(Reply::Offset(fs.lseek(ino, offset, whence)?))
}

fn control(caller: Caller, ino: u64, ioctl: &Ioctl) -> Control<'_> {
    Control { caller, ino, command: ioctl.command, input: ioctl.data.as_slice() }
}

fn ioctl(server: &Server, who: Caller, ino: u64, arguments: &Ioctl) -> Answer<Reply> {
    let control = control(who, ino, arguments);
    if server.fs().freezes(&control) {
        Notice::WriteBack(ino, 0..u64::MAX).send(server.kernel());
    }
    let mut out = server.fs().ioctl(&control)?;
    out.truncate(arguments.out_size as usize);
    Ok(Reply::Ioctl { result: 0, data: Data::from(out) })
}

fn copy(
    fs: &Fs,
    ino: u64,
    range: &CopyFileRange,
    reply: impl FnOnce(u64) -> Reply,
) -> Answer<Done> {
    let (from, to) = ((ino, range.offset_in), (range.nodeid_out, range.offset_out));
    let copied = fs.copy_file_range(from, to, range.len)?;
    let before = ask_if(copied.privileges, range.nodeid_out);
    Ok(Done { before, ..Done::new(reply(copied.bytes as u64)) })
}

/// The answer to a WRITE. What the kernel cannot know makes it ask again: a mode without its
/// privileges, told before the answer, when the writer still has the file open; and, from its cache,
/// the number of blocks, told some time after it, because the notice waits for an inode that may be
/// waiting for the answer.
pub(super) fn written(server: &Server, args: &WriteArgs, answer: Answer<Written>) -> Done {
    let WriteArgs { ino, cached, .. } = *args;
    match answer {
        Ok(Written { bytes, allocated, privileges }) => Done {
            reply: Reply::Written(bytes as u32),
            before: ask_if(privileges && !cached, ino),
            after: match cached {
                true if privileges => Some(Notice::AskAgain(ino)),
                true if allocated => Some(Notice::Blocks(ino)),
                _ => None,
            },
        },
        Err(errno) => {
            // The kernel is to forget pages that were refused.
            let refused = cached && errno == Errno::EPERM && server.fs().distrusts_pages(ino);
            let after = match server.fs().note_shortage(ino, cached, errno) {
                true => Some(Notice::AskAgain(ino)),
                false => refused.then_some(Notice::WriteBack(ino, 0..u64::MAX)),
            };
            Done { after, ..Done::failed(errno) }
        }
    }
}

/// What the answer to a WRITE or a truncation will be if all goes well; nothing is done.
pub(super) fn expected(server: &Server, request: &Request) -> Option<Reply> {
    let size = match &request.operation {
        Operation::Write(write) => return Some(Reply::Written(write.data.len() as u32)),
        Operation::Setattr(Setattr { size: Some(size), .. }) => *size,
        _ => return None,
    };
    Some(match server.fs().getattr(request.header.nodeid) {
        Ok(mut entry) => {
            entry.attr.size = size;
            server.timeouts().attr(&entry)
        }
        Err(errno) => Reply::Error(errno),
    })
}
