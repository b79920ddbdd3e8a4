//! fuser's `Filesystem`: every call becomes a request.

use super::convert;
use super::negotiate::negotiate;
use super::reply::Unanswered;
use crate::serve::server::Place;
use crate::serve::{Answers, Server, Sink};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use inflight_fuse::abi::{self, FsyncFlags};
use inflight_fuse::{
    CopyFileRange, Create, Extensions, Fallocate, Fsync, GetXattr, Header, Ioctl, MakeNode, Name,
    Open, Operation, Read, Release, Rename, SetXattr, Setattr, Write,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Bytes of directory entries answered at a time: fuser does not say how many were asked for, and
/// the kernel asks for a page at least.
const ENTRIES: u32 = 4096;

/// The filesystem as fuser sees it.
pub struct Adapter(pub Arc<Server>);

impl Adapter {
    fn serve(
        &self,
        req: &Request,
        nodeid: INodeNo,
        operation: Operation,
        reply: impl Answers + 'static,
    ) {
        let header = Header {
            unique: req.unique().0,
            nodeid: nodeid.0,
            uid: req.uid(),
            gid: req.gid(),
            pid: req.pid(),
        };
        let request = inflight_fuse::Request { header, operation };
        self.0.accept(request, Sink::Other(Box::new(reply)), Place::Receiver);
    }
}

fn name(name: &OsStr) -> Name {
    Name::new(name.as_bytes())
}

fn node(name: &OsStr, mode: u32, umask: u32) -> MakeNode {
    MakeNode { name: self::name(name), mode, umask, extensions: Extensions::default() }
}

fn listing(offset: u64) -> Read {
    Read { offset, size: ENTRIES, ..Read::default() }
}

#[allow(clippy::too_many_arguments)] // fuser's signatures
impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        negotiate(config, self.0.fs().options());
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.serve(req, parent, Operation::Lookup { name: self::name(name) }, reply);
    }

    fn forget(&self, req: &Request, ino: INodeNo, nlookup: u64) {
        self.serve(req, ino, Operation::Forget { nlookup }, Unanswered);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.serve(req, ino, Operation::Getattr { fh: fh.map(|fh| fh.0) }, reply);
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
        let set = Setattr {
            fh: fh.map(|fh| fh.0),
            size,
            lock_owner: None,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ctime: ctime.map(Into::into),
            mode,
            uid,
            gid,
            // fuser does not pass FATTR_KILL_SUIDGID on; only root may keep the bits then.
            kill_suidgid: size.is_some() && req.uid() != 0,
        };
        self.serve(req, ino, Operation::Setattr(set), reply);
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.serve(req, ino, Operation::Readlink, reply);
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
        let node = node(name, mode, umask);
        self.serve(req, parent, Operation::Mknod { node, rdev }, reply);
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
        self.serve(req, parent, Operation::Mkdir(node(name, mode, umask)), reply);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (name, target) = (name(link_name), name(target.as_os_str()));
        let extensions = Extensions::default();
        self.serve(req, parent, Operation::Symlink { name, target, extensions }, reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(req, parent, Operation::Unlink { name: self::name(name) }, reply);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(req, parent, Operation::Rmdir { name: self::name(name) }, reply);
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
        let rename = Rename {
            name: self::name(name),
            new_parent: newparent.0,
            new_name: self::name(newname),
            flags: flags.bits(),
        };
        let operation = match rename.flags {
            0 => Operation::Rename(rename),
            _ => Operation::Rename2(rename),
        };
        self.serve(req, parent, operation, reply);
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let operation = Operation::Link { target: ino.0, name: name(newname) };
        self.serve(req, newparent, operation, reply);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let open = Open { flags: flags.0 as u32, ..Open::default() };
        self.serve(req, ino, Operation::Open(open), reply);
    }

    fn opendir(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let open = Open { flags: flags.0 as u32, ..Open::default() };
        self.serve(req, ino, Operation::Opendir(open), reply);
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let release = Release { fh: fh.0, flags: flags.0 as u32, ..Release::default() };
        self.serve(req, ino, Operation::Release(release), reply);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let create = Create {
            name: self::name(name),
            flags: flags as u32,
            mode,
            umask,
            kill_suidgid: false,
            extensions: Extensions::default(),
        };
        self.serve(req, parent, Operation::Create(create), reply);
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = Read { fh: fh.0, offset, size, lock_owner: None, flags: flags.0 as u32 };
        self.serve(req, ino, Operation::Read(read), reply);
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = Write {
            fh: fh.0,
            offset,
            data: data.into(),
            write_flags: abi::WriteFlags::from_bits_retain(write_flags.bits()),
            lock_owner: None,
            flags: flags.0 as u32,
        };
        self.serve(req, ino, Operation::Write(write), reply);
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(req, ino, Operation::Fsync(fsync(fh, datasync)), reply);
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(req, ino, Operation::Fsyncdir(fsync(fh, datasync)), reply);
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.serve(req, ino, Operation::Readdir(listing(offset)), reply);
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.serve(req, ino, Operation::Readdirplus(listing(offset)), reply);
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.serve(req, ino, Operation::Statfs, reply);
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
        let set = SetXattr {
            name: self::name(name),
            value: value.into(),
            flags: flags as u32,
            acl_kill_sgid: false,
        };
        self.serve(req, ino, Operation::Setxattr(set), reply);
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let get = GetXattr { name: self::name(name), size };
        self.serve(req, ino, Operation::Getxattr(get), reply);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.serve(req, ino, Operation::Listxattr { size }, reply);
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(req, ino, Operation::Removexattr { name: self::name(name) }, reply);
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        let ioctl = Ioctl {
            fh: fh.0,
            ioctl_flags: abi::IoctlFlags::default(),
            command: cmd,
            arg: 0,
            data: in_data.into(),
            out_size,
        };
        self.serve(req, ino, Operation::Ioctl(ioctl), reply);
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let range = Fallocate { fh: fh.0, offset, length, mode: mode as u32 };
        self.serve(req, ino, Operation::Fallocate(range), reply);
    }

    fn lseek(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let (offset, whence) = (offset as u64, whence as u32);
        self.serve(req, ino, Operation::Lseek { fh: fh.0, offset, whence }, reply);
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let range = CopyFileRange {
            fh_in: fh_in.0,
            offset_in,
            nodeid_out: ino_out.0,
            fh_out: fh_out.0,
            offset_out,
            len,
            flags: 0,
        };
        self.serve(req, ino_in, Operation::CopyFileRange(range), reply);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: fuser::AccessFlags, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }
}

fn fsync(fh: FileHandle, data_only: bool) -> Fsync {
    let fsync_flags = if data_only { FsyncFlags::FDATASYNC } else { FsyncFlags::default() };
    Fsync { fh: fh.0, fsync_flags }
}
