//! fuser's `Filesystem`: every method names its opcode, copies what it was lent, and goes through
//! the [`Service`].

use crate::errno::Errno;
use crate::ops::read::ReadArgs;
use crate::ops::{Answer, Control, Make, SetAttr, WriteArgs, Written};
use crate::transport::fuser::aside::Aside;
use crate::transport::fuser::convert::{self, caller, ranged, subject};
use crate::transport::fuser::negotiate::negotiate;
use crate::transport::fuser::reply::{self, Kernel, Timeouts, generation};
use crate::transport::service::{Service, in_time};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use inflight_fuse::abi::Opcode;
use inflight_gate::Subject;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// The filesystem as fuser sees it.
pub struct Adapter {
    service: Service,
    timeouts: Timeouts,
    kernel: Kernel,
    aside: Arc<Aside>,
    /// Replies to OPEN; `None` tells the kernel not to ask again.
    open: Option<FopenFlags>,
}

impl Adapter {
    /// An adapter that talks past fuser to `kernel` once that is set.
    pub fn new(service: Service, kernel: Kernel) -> Adapter {
        let options = service.fs().options();
        let direct = if options.direct_io {
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
        } else {
            FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR
        };
        let asked = service.fs().asks_opens();
        let timeouts = Timeouts::new(options);
        Adapter { timeouts, kernel, aside: Arc::default(), open: asked.then_some(direct), service }
    }
}

fn owned(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

#[allow(clippy::too_many_arguments)] // fuser's signatures
impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        negotiate(config, self.service.fs().options());
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (name, timeouts) = (owned(name), self.timeouts);
        self.service.serve(
            subject(req, Opcode::LOOKUP, parent),
            move |fs| fs.lookup(parent.0, &name),
            move |answer| reply::looked_up(reply, timeouts, answer),
        );
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.service.fs().forget(ino.0, nlookup);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let timeouts = self.timeouts;
        self.service.serve(
            subject(req, Opcode::GETATTR, ino),
            move |fs| fs.getattr(ino.0),
            move |answer| reply::attr(reply, timeouts, answer),
        );
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            // fuser does not pass FATTR_KILL_SUIDGID on; only root may keep the bits then.
            kill_suidgid: size.is_some() && req.uid() != 0,
            mode,
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ctime: ctime.map(convert::time),
            handle: fh.is_some(),
        };
        let timeouts = self.timeouts;
        let reply = in_time(move |answer| reply::attr(reply, timeouts, answer), &|| {
            let mut entry = self.service.fs().getattr(ino.0)?;
            entry.attr.size = size.unwrap_or(entry.attr.size);
            Ok(entry)
        });
        self.service.serve(
            Subject { size, ..subject(req, Opcode::SETATTR, ino) },
            move |fs| fs.setattr(ino.0, &set),
            reply,
        );
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.service.serve(
            subject(req, Opcode::READLINK, ino),
            move |fs| fs.readlink(ino.0),
            move |answer| reply::data(reply, answer),
        );
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.make(req, Opcode::MKNOD, parent, name, (mode, umask, rdev), None, reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let mode = libc::S_IFDIR | mode & 0o7777;
        self.make(req, Opcode::MKDIR, parent, name, (mode, umask, 0), None, reply);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (mode, target) = (libc::S_IFLNK | 0o777, target.as_os_str());
        self.make(req, Opcode::SYMLINK, parent, link_name, (mode, 0, 0), Some(target), reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = owned(name);
        self.service.serve(
            subject(req, Opcode::UNLINK, parent),
            move |fs| fs.unlink(parent.0, &name),
            move |answer| reply::empty(reply, answer),
        );
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = owned(name);
        self.service.serve(
            subject(req, Opcode::RMDIR, parent),
            move |fs| fs.rmdir(parent.0, &name),
            move |answer| reply::empty(reply, answer),
        );
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, newname, who) = (owned(name), owned(newname), caller(req));
        let opcode = if flags.is_empty() { Opcode::RENAME } else { Opcode::RENAME2 };
        self.service.serve(
            subject(req, opcode, parent),
            move |fs| fs.rename(who, (parent.0, &name), (newparent.0, &newname), flags.bits()),
            move |answer| reply::empty(reply, answer),
        );
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (name, timeouts) = (owned(newname), self.timeouts);
        self.service.serve(
            subject(req, Opcode::LINK, ino),
            move |fs| fs.link(ino.0, newparent.0, &name),
            move |answer| reply::entry(reply, timeouts, answer),
        );
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.opened(subject(req, Opcode::OPEN, ino), flags, reply);
    }

    fn opendir(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.opened(subject(req, Opcode::OPENDIR, ino), flags, reply);
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // No handle is kept: it passes the gate so that the log tells when the last user was gone.
        self.service.serve(
            subject(req, Opcode::RELEASE, ino),
            |_| Ok(()),
            move |answer| reply::empty(reply, answer),
        );
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, who, timeouts) = (owned(name), caller(req), self.timeouts);
        let open = self.open.unwrap_or(FopenFlags::FOPEN_KEEP_CACHE);
        self.service.serve(
            subject(req, Opcode::CREATE, parent),
            move |fs| {
                let mode = libc::S_IFREG | mode & 0o7777;
                let (caller, parent, name) = (who, parent.0, &name);
                fs.make(&Make { caller, parent, name, mode, umask, rdev: 0, target: None })
            },
            move |answer| match answer {
                Ok(entry) => {
                    let attr = convert::attr(&entry);
                    reply.created(&timeouts.entry, &attr, generation(&entry), FileHandle(0), open);
                }
                Err(e) => reply.error(convert::errno(e)),
            },
        );
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (kernel, unique) = (self.kernel.clone(), req.unique().0);
        let direct = flags.0 & libc::O_DIRECT != 0;
        self.service.read(
            ranged(req, Opcode::READ, ino, offset, size.into()),
            ReadArgs { ino: ino.0, offset, len: size as usize, direct },
            move |answer| reply::read(reply, &kernel, unique, answer),
        );
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let cached = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let args = WriteArgs {
            ino: ino.0,
            offset,
            direct: !cached && flags.0 & libc::O_DIRECT != 0,
            append: flags.0 & libc::O_APPEND != 0,
            cached,
            kill_suidgid: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        let subject = ranged(req, Opcode::WRITE, ino, offset, data.len() as u64);
        let (kernel, aside, fs) =
            (self.kernel.clone(), self.aside.clone(), self.service.fs().clone());
        let reply = move |answer: Answer<Written>| {
            let refused = cached && answer == Err(Errno::EPERM) && fs.distrusts_pages(ino.0);
            reply::written(reply, &kernel, ino, cached, answer);
            if refused {
                aside.run(move || reply::write_back(&kernel, ino, 0..u64::MAX));
            }
        };
        if self.service.is_gated() {
            self.service.write(subject, args, data.to_vec(), reply);
        } else {
            reply(self.service.write_now(subject, &args, data));
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Close has nothing to do here; the kernel does not ask again.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.service.serve(
            subject(req, Opcode::FSYNC, ino),
            move |fs| fs.fsync(ino.0, datasync),
            move |answer| reply::empty(reply, answer),
        );
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.service.serve(
            subject(req, Opcode::FSYNCDIR, ino),
            move |fs| fs.fsyncdir(),
            move |answer| reply::empty(reply, answer),
        );
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.service.serve(
            ranged(req, Opcode::READDIR, ino, offset, 0),
            move |fs| {
                let result = fs.readdir(ino.0, offset, |e| {
                    let name = OsStr::from_bytes(&e.name);
                    reply.add(INodeNo(e.ino), e.next, convert::kind(e.kind), name)
                });
                Ok((reply, result))
            },
            |answer| {
                if let Ok((reply, result)) = answer {
                    match result {
                        Ok(()) => reply.ok(),
                        Err(e) => reply.error(convert::errno(e)),
                    }
                }
            },
        );
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let timeouts = self.timeouts;
        self.service.serve(
            ranged(req, Opcode::READDIRPLUS, ino, offset, 0),
            move |fs| {
                let (mut failed, mut given) = (Ok(()), false);
                let result = fs.readdir(ino.0, offset, |e| {
                    let entry = match fs.listed(e) {
                        Ok(entry) => entry,
                        // Removed since it was listed.
                        Err(Errno::ESTALE) => return false,
                        Err(e) => {
                            failed = Err(e);
                            return true;
                        }
                    };
                    let (attr, name) = (convert::attr(&entry), OsStr::from_bytes(&e.name));
                    let number = INodeNo(e.ino);
                    let full =
                        reply.add(number, e.next, name, &timeouts.attr, &attr, generation(&entry));
                    // The kernel takes no reference on "." and "..".
                    if !full && e.name != b"." && e.name != b".." {
                        fs.remember(e.ino);
                        given = true;
                    }
                    full
                });
                // References were given: what is in the reply goes out, the error comes next time.
                Ok((reply, if given { Ok(()) } else { result.and(failed) }))
            },
            |answer| {
                if let Ok((reply, result)) = answer {
                    match result {
                        Ok(()) => reply.ok(),
                        Err(e) => reply.error(convert::errno(e)),
                    }
                }
            },
        );
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.service.serve(
            subject(req, Opcode::STATFS, ino),
            |fs| fs.statfs(),
            |answer| match answer {
                Ok(s) => {
                    let (size, name_max) = (crate::image::BLOCK as u32, s.name_max);
                    let (files, files_free) = (s.files, s.files_free);
                    let (free, avail) = (s.free, s.available);
                    reply.statfs(s.blocks, free, avail, files, files_free, size, name_max, size);
                }
                Err(e) => reply.error(convert::errno(e)),
            },
        );
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value, who) = (owned(name), value.to_vec(), caller(req));
        self.service.serve(
            subject(req, Opcode::SETXATTR, ino),
            move |fs| fs.setxattr(who, ino.0, &name, &value, flags),
            move |answer| reply::empty(reply, answer),
        );
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = owned(name);
        self.service.serve(
            subject(req, Opcode::GETXATTR, ino),
            move |fs| fs.getxattr(ino.0, &name),
            move |answer| reply::xattr(reply, size, answer),
        );
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let who = caller(req);
        self.service.serve(
            subject(req, Opcode::LISTXATTR, ino),
            move |fs| fs.listxattr(who, ino.0),
            move |answer| reply::xattr(reply, size, answer),
        );
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = owned(name);
        self.service.serve(
            subject(req, Opcode::REMOVEXATTR, ino),
            move |fs| fs.removexattr(ino.0, &name),
            move |answer| reply::empty(reply, answer),
        );
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        let (who, input, service) = (caller(req), in_data.to_vec(), self.service.clone());
        let (subject, kernel) = (subject(req, Opcode::IOCTL, ino), self.kernel.clone());
        let control = Control { caller: who, ino: ino.0, command: cmd, input: in_data };
        let freezes = self.service.fs().freezes(&control);
        let serve = move || {
            service.serve(
                subject,
                move |fs| {
                    fs.ioctl(&Control { caller: who, ino: ino.0, command: cmd, input: &input })
                },
                move |answer| match answer {
                    Ok(out) => reply.ioctl(0, &out[..out.len().min(out_size as usize)]),
                    Err(e) => reply.error(convert::errno(e)),
                },
            );
        };
        if !freezes {
            return serve();
        }
        self.aside.run(move || {
            reply::write_back(&kernel, ino, 0..u64::MAX);
            serve();
        });
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (who, kernel) = (caller(req), self.kernel.clone());
        self.service.serve(
            ranged(req, Opcode::FALLOCATE, ino, offset, length),
            move |fs| fs.fallocate(who, ino.0, mode, offset, length),
            move |answer| {
                if answer == Ok(true) {
                    reply::ask_again(&kernel, ino);
                }
                reply::empty(reply, answer.map(drop));
            },
        );
    }

    fn lseek(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let (service, kernel) = (self.service.clone(), self.kernel.clone());
        let subject = subject(req, Opcode::LSEEK, ino);
        let seek = move || {
            service.serve(
                subject,
                move |fs| fs.lseek(ino.0, offset, whence),
                move |answer| match answer {
                    Ok(at) => reply.offset(at as i64),
                    Err(e) => reply.error(convert::errno(e)),
                },
            );
        };
        let fs = self.service.fs().clone();
        let depends = fs.unsure_hole(ino.0, offset, whence);
        if !fs.options().writeback || depends.is_ok_and(|hole| hole.is_none()) {
            return seek();
        }
        // The kernel seeks without writing back what only it knows, so it is made to. That waits for
        // WRITEs, which no thread of the session may do.
        self.aside.run(move || {
            let write_back = |hole: &Range<u64>| reply::write_back(&kernel, ino, hole.clone());
            // What fails here fails again when it is served.
            let _ = fs.settle_hole(ino.0, offset, whence, write_back);
            seek();
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The reply has 32 bits for the count.
        let len = len.min(1 << 30);
        let kernel = self.kernel.clone();
        self.service.serve(
            ranged(req, Opcode::COPY_FILE_RANGE, ino_in, offset_in, len),
            move |fs| fs.copy_file_range((ino_in.0, offset_in), (ino_out.0, offset_out), len),
            move |answer| match answer {
                Ok(copied) => {
                    if copied.privileges {
                        reply::ask_again(&kernel, ino_out);
                    }
                    reply.written(copied.bytes as u32);
                }
                Err(e) => reply.error(convert::errno(e)),
            },
        );
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: fuser::AccessFlags, reply: ReplyEmpty) {
        // Permissions are the kernel's business, or nobody's; it does not ask again.
        reply.error(fuser::Errno::ENOSYS);
    }
}

impl Adapter {
    #[allow(clippy::too_many_arguments)] // what mknod, mkdir and symlink have in common
    fn make(
        &self,
        req: &Request,
        opcode: Opcode,
        parent: INodeNo,
        name: &OsStr,
        (mode, umask, rdev): (u32, u32, u32),
        target: Option<&OsStr>,
        reply: ReplyEntry,
    ) {
        let (name, who, timeouts) = (owned(name), caller(req), self.timeouts);
        let target = target.map(owned);
        self.service.serve(
            subject(req, opcode, parent),
            move |fs| {
                let (caller, parent, name) = (who, parent.0, name.as_slice());
                let target = target.as_deref();
                fs.make(&Make { caller, parent, name, mode, umask, rdev, target })
            },
            move |answer| reply::entry(reply, timeouts, answer),
        );
    }

    fn opened(&self, subject: Subject, flags: OpenFlags, reply: ReplyOpen) {
        let (open, ino) = (self.open.ok_or(Errno::ENOSYS), subject.ino);
        self.service.serve(
            subject,
            move |fs| fs.open(ino, flags.0).and(open),
            move |answer| match answer {
                Ok(flags) => reply.opened(FileHandle(0), flags),
                Err(e) => reply.error(convert::errno(e)),
            },
        );
    }
}
