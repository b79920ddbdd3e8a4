//! Requests as the kernel sends them, for tests and for whoever plays the kernel.

use crate::abi::{self, InHeader, InitFlags, SetattrValid as Valid};
use crate::decode::{Dialect, extension::UNIT};
use crate::request::{
    CopyFileRange, Create, Extensions, Fsync, Init, Lock, MakeNode, Open, Operation, Read, Release,
    Rename, Request, SetTime, Setattr,
};
use zerocopy::{Immutable, IntoBytes};

/// Why a request cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A name contains a zero byte, which ends it.
    #[error("a name contains a zero byte")]
    ZeroInName,
    /// The message, a list in it or an extension is longer than the protocol can say.
    #[error("{what} of {len} is more than the protocol can say")]
    TooLong {
        /// What.
        what: &'static str,
        /// How long.
        len: usize,
    },
    /// There is nothing to send: the opcode's arguments are not known.
    #[error("opcode {0} is not known")]
    Unknown(u32),
}

/// The bytes of a message as they come together.
struct Writer {
    bytes: Vec<u8>,
    extension_units: u16,
}

impl Writer {
    fn put(&mut self, part: &(impl IntoBytes + Immutable)) -> Result<(), EncodeError> {
        self.bytes.extend_from_slice(part.as_bytes());
        Ok(())
    }

    fn name(&mut self, name: &[u8]) -> Result<(), EncodeError> {
        if name.contains(&0) {
            return Err(EncodeError::ZeroInName);
        }
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        Ok(())
    }

    fn data(&mut self, data: &[u8]) -> Result<(), EncodeError> {
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    fn extensions(&mut self, extensions: &Extensions) -> Result<(), EncodeError> {
        if extensions.is_empty() {
            return Ok(());
        }
        let start = self.bytes.len();
        if !extensions.security.is_empty() {
            let at = self.bytes.len();
            let nr_secctx = extensions.security.len() as u32;
            if nr_secctx > abi::MAX_NR_SECCTX {
                let len = extensions.security.len();
                return Err(EncodeError::TooLong { what: "a list of security contexts", len });
            }
            self.put(&abi::SecctxHeader { size: 0, nr_secctx })?;
            for security in &extensions.security {
                let size = length("a security context", security.value.len())?;
                self.put(&abi::Secctx { size, padding: 0 })?;
                self.name(&security.name)?;
                self.data(&security.value)?;
            }
            self.close_extension(start, at)?;
        }
        if !extensions.groups.is_empty() {
            let at = self.bytes.len();
            self.put(&abi::ExtHeader { size: 0, r#type: abi::EXT_GROUPS })?;
            let nr_groups = length("a list of groups", extensions.groups.len())?;
            self.put(&abi::SuppGroups { nr_groups })?;
            self.data(extensions.groups.as_bytes())?;
            self.close_extension(start, at)?;
        }
        let len = self.bytes.len() - start;
        self.extension_units = u16::try_from(len / UNIT)
            .map_err(|_| EncodeError::TooLong { what: "an extension", len })?;
        Ok(())
    }

    /// Pads the extension at `at` and writes its size into its first four bytes. Padding counts
    /// from `start`: names in front of extensions are not padded.
    fn close_extension(&mut self, start: usize, at: usize) -> Result<(), EncodeError> {
        let end = start + (self.bytes.len() - start).next_multiple_of(UNIT);
        self.bytes.resize(end, 0);
        let size = length("an extension", end - at)?;
        self.bytes[at..at + 4].copy_from_slice(&size.to_ne_bytes());
        Ok(())
    }
}

fn length(what: &'static str, len: usize) -> Result<u32, EncodeError> {
    u32::try_from(len).map_err(|_| EncodeError::TooLong { what, len })
}

impl Request {
    /// The bytes that a kernel would send, all in one piece.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn encode(&self, dialect: Dialect) -> Result<Vec<u8>, EncodeError> {
        let bytes = vec![0; size_of::<InHeader>()];
        let mut writer = Writer { bytes, extension_units: 0 };
        match &self.operation {
            operation @ (Operation::Lookup { .. }
            | Operation::Symlink { .. }
            | Operation::Mknod { .. }
            | Operation::Mkdir(_)
            | Operation::Unlink { .. }
            | Operation::Rmdir { .. }
            | Operation::Rename(_)
            | Operation::Rename2(_)
            | Operation::Link { .. }
            | Operation::Create(_)
            | Operation::Tmpfile(_)
            | Operation::Getxattr(_)
            | Operation::Removexattr { .. }) => named(operation, &mut writer)?,
            operation @ (Operation::Write(_)
            | Operation::Setxattr(_)
            | Operation::Ioctl(_)
            | Operation::NotifyReply(_)
            | Operation::BatchForget(_)
            | Operation::Removemapping(_)) => with_data(operation, dialect, &mut writer)?,
            operation => fixed(operation, &mut writer)?,
        }
        let header = InHeader {
            len: length("a message", writer.bytes.len())?,
            opcode: self.opcode().number(),
            unique: self.header.unique,
            nodeid: self.header.nodeid,
            uid: self.header.uid,
            gid: self.header.gid,
            pid: self.header.pid,
            total_extlen: writer.extension_units,
            padding: 0,
        };
        writer.bytes[..size_of::<InHeader>()].copy_from_slice(header.as_bytes());
        Ok(writer.bytes)
    }
}

fn named(operation: &Operation, writer: &mut Writer) -> Result<(), EncodeError> {
    match operation {
        Operation::Lookup { name }
        | Operation::Unlink { name }
        | Operation::Rmdir { name }
        | Operation::Removexattr { name } => writer.name(name),
        Operation::Symlink { name, target, extensions } => {
            writer.name(name)?;
            writer.name(target)?;
            writer.extensions(extensions)
        }
        Operation::Mknod { node, rdev } => {
            let MakeNode { mode, umask, .. } = *node;
            writer.put(&abi::MknodIn { mode, rdev: *rdev, umask, padding: 0 })?;
            writer.name(&node.name)?;
            writer.extensions(&node.extensions)
        }
        Operation::Mkdir(node) => {
            writer.put(&abi::MkdirIn { mode: node.mode, umask: node.umask })?;
            writer.name(&node.name)?;
            writer.extensions(&node.extensions)
        }
        Operation::Rename(rename) => {
            writer.put(&abi::RenameIn { newdir: rename.new_parent })?;
            names(rename, writer)
        }
        Operation::Rename2(rename) => {
            let Rename { new_parent: newdir, flags, .. } = *rename;
            writer.put(&abi::Rename2In { newdir, flags, padding: 0 })?;
            names(rename, writer)
        }
        Operation::Link { target, name } => {
            writer.put(&abi::LinkIn { oldnodeid: *target })?;
            writer.name(name)
        }
        Operation::Create(create) | Operation::Tmpfile(create) => {
            let Create { flags, mode, umask, kill_suidgid, .. } = *create;
            let open_flags = open_flags(kill_suidgid);
            writer.put(&abi::CreateIn { flags, mode, umask, open_flags })?;
            writer.name(&create.name)?;
            writer.extensions(&create.extensions)
        }
        Operation::Getxattr(get) => {
            writer.put(&abi::GetxattrIn { size: get.size, padding: 0 })?;
            writer.name(&get.name)
        }
        other => unreachable!("{} is not about a name", other.opcode()),
    }
}

fn names(rename: &Rename, writer: &mut Writer) -> Result<(), EncodeError> {
    writer.name(&rename.name)?;
    writer.name(&rename.new_name)
}

fn open_flags(kill_suidgid: bool) -> u32 {
    if kill_suidgid { abi::OPEN_KILL_SUIDGID } else { 0 }
}

fn with_data(
    operation: &Operation,
    dialect: Dialect,
    writer: &mut Writer,
) -> Result<(), EncodeError> {
    match operation {
        Operation::Write(write) => {
            let owner = write.write_flags.contains(abi::WriteFlags::LOCKOWNER);
            writer.put(&abi::WriteIn {
                fh: write.fh,
                offset: write.offset,
                size: length("data", write.data.len())?,
                write_flags: write.write_flags.bits(),
                lock_owner: write.lock_owner.filter(|_| owner).unwrap_or(0),
                flags: write.flags,
                padding: 0,
            })?;
            writer.data(write.data.as_slice())
        }
        Operation::Setxattr(set) => {
            let setxattr_flags = if set.acl_kill_sgid { abi::SETXATTR_ACL_KILL_SGID } else { 0 };
            let size = length("a value", set.value.len())?;
            let arguments = abi::SetxattrIn { size, flags: set.flags, setxattr_flags, padding: 0 };
            let len = match dialect.setxattr_ext {
                true => size_of::<abi::SetxattrIn>(),
                false => abi::COMPAT_SETXATTR_IN_SIZE,
            };
            writer.data(&arguments.as_bytes()[..len])?;
            writer.name(&set.name)?;
            writer.data(set.value.as_slice())
        }
        Operation::Ioctl(ioctl) => {
            writer.put(&abi::IoctlIn {
                fh: ioctl.fh,
                flags: ioctl.ioctl_flags.bits(),
                cmd: ioctl.command,
                arg: ioctl.arg,
                in_size: length("data", ioctl.data.len())?,
                out_size: ioctl.out_size,
            })?;
            writer.data(ioctl.data.as_slice())
        }
        Operation::NotifyReply(reply) => {
            let size = length("data", reply.data.len())?;
            let offset = reply.offset;
            writer.put(&abi::NotifyRetrieveIn { offset, size, ..Default::default() })?;
            writer.data(reply.data.as_slice())
        }
        Operation::BatchForget(list) => {
            writer.put(&abi::BatchForgetIn { count: length("a list", list.len())?, dummy: 0 })?;
            list.iter().try_for_each(|one| {
                writer.put(&abi::ForgetOne { nodeid: one.nodeid, nlookup: one.nlookup })
            })
        }
        Operation::Removemapping(list) => {
            writer.put(&abi::RemovemappingIn { count: length("a list", list.len())? })?;
            list.iter().try_for_each(|one| {
                writer.put(&abi::RemovemappingOne { moffset: one.window_offset, len: one.len })
            })
        }
        other => unreachable!("{} has no data", other.opcode()),
    }
}

fn fixed(operation: &Operation, writer: &mut Writer) -> Result<(), EncodeError> {
    match operation {
        Operation::Forget { nlookup } => writer.put(&abi::ForgetIn { nlookup: *nlookup }),
        Operation::Getattr { fh } => {
            let getattr_flags = if fh.is_some() { abi::GETATTR_FH } else { 0 };
            writer.put(&abi::GetattrIn { getattr_flags, dummy: 0, fh: fh.unwrap_or(0) })
        }
        Operation::Setattr(arguments) => writer.put(&setattr_in(arguments)),
        Operation::Readlink | Operation::Statfs | Operation::Destroy => Ok(()),
        Operation::Open(open) | Operation::Opendir(open) => {
            let Open { flags, kill_suidgid } = *open;
            writer.put(&abi::OpenIn { flags, open_flags: open_flags(kill_suidgid) })
        }
        Operation::Read(read) | Operation::Readdir(read) | Operation::Readdirplus(read) => {
            writer.put(&read_in(read))
        }
        Operation::Release(release) | Operation::Releasedir(release) => {
            let Release { fh, flags, release_flags, lock_owner } = *release;
            let release_flags = release_flags.bits();
            writer.put(&abi::ReleaseIn { fh, flags, release_flags, lock_owner })
        }
        Operation::Fsync(fsync) | Operation::Fsyncdir(fsync) => {
            let Fsync { fh, fsync_flags } = *fsync;
            writer.put(&abi::FsyncIn { fh, fsync_flags: fsync_flags.bits(), padding: 0 })
        }
        Operation::Listxattr { size } => writer.put(&abi::GetxattrIn { size: *size, padding: 0 }),
        Operation::Flush(flush) => {
            let crate::request::Flush { fh, lock_owner } = *flush;
            writer.put(&abi::FlushIn { fh, lock_owner, ..Default::default() })
        }
        Operation::Init(init) => init_in(init, writer),
        Operation::Getlk(lock) | Operation::Setlk(lock) | Operation::Setlkw(lock) => {
            let Lock { fh, owner, lock, lock_flags } = *lock;
            let (lk, lk_flags) = (lock.into(), lock_flags.bits());
            writer.put(&abi::LkIn { fh, owner, lk, lk_flags, padding: 0 })
        }
        Operation::Access { mask } => writer.put(&abi::AccessIn { mask: *mask, padding: 0 }),
        Operation::Interrupt { unique } => writer.put(&abi::InterruptIn { unique: *unique }),
        other => rarer(other, writer),
    }
}

fn rarer(operation: &Operation, writer: &mut Writer) -> Result<(), EncodeError> {
    match operation {
        Operation::Bmap { block, block_size: blocksize } => {
            writer.put(&abi::BmapIn { block: *block, blocksize: *blocksize, padding: 0 })
        }
        Operation::Poll(poll) => {
            let crate::request::Poll { fh, kh, poll_flags, events } = *poll;
            writer.put(&abi::PollIn { fh, kh, flags: poll_flags.bits(), events })
        }
        Operation::Fallocate(fallocate) => {
            let crate::request::Fallocate { fh, offset, length, mode } = *fallocate;
            writer.put(&abi::FallocateIn { fh, offset, length, mode, padding: 0 })
        }
        Operation::Lseek { fh, offset, whence } => {
            let (fh, offset, whence) = (*fh, *offset, *whence);
            writer.put(&abi::LseekIn { fh, offset, whence, padding: 0 })
        }
        Operation::CopyFileRange(copy) | Operation::CopyFileRange64(copy) => {
            writer.put(&copy_in(copy))
        }
        Operation::Setupmapping(mapping) => writer.put(&abi::SetupmappingIn {
            fh: mapping.fh,
            foffset: mapping.file_offset,
            len: mapping.len,
            flags: mapping.flags,
            moffset: mapping.window_offset,
        }),
        Operation::Syncfs => writer.put(&abi::SyncfsIn::default()),
        Operation::Statx(statx) => writer.put(&abi::StatxIn {
            getattr_flags: if statx.fh.is_some() { abi::GETATTR_FH } else { 0 },
            reserved: 0,
            fh: statx.fh.unwrap_or(0),
            sx_flags: statx.flags,
            sx_mask: statx.mask,
        }),
        Operation::CuseInit(init) => {
            let crate::request::CuseInit { major, minor, flags } = *init;
            writer.put(&abi::CuseInitIn { major, minor, unused: 0, flags })
        }
        other => Err(EncodeError::Unknown(other.opcode().number())),
    }
}

fn read_in(read: &Read) -> abi::ReadIn {
    let is_owned = read.lock_owner.is_some();
    let read_flags = if is_owned { abi::ReadFlags::LOCKOWNER } else { abi::ReadFlags::empty() };
    abi::ReadIn {
        fh: read.fh,
        offset: read.offset,
        size: read.size,
        read_flags: read_flags.bits(),
        lock_owner: read.lock_owner.unwrap_or(0),
        flags: read.flags,
        padding: 0,
    }
}

fn copy_in(copy: &CopyFileRange) -> abi::CopyFileRangeIn {
    abi::CopyFileRangeIn {
        fh_in: copy.fh_in,
        off_in: copy.offset_in,
        nodeid_out: copy.nodeid_out,
        fh_out: copy.fh_out,
        off_out: copy.offset_out,
        len: copy.len,
        flags: copy.flags,
    }
}

fn init_in(init: &Init, writer: &mut Writer) -> Result<(), EncodeError> {
    let Init { major, minor, max_readahead, flags } = *init;
    if major != abi::KERNEL_VERSION {
        return writer.put(&[major, minor]);
    }
    let arguments = abi::InitIn {
        major,
        minor,
        max_readahead,
        flags: flags.bits() as u32,
        flags2: (flags.bits() >> 32) as u32,
        unused: [0; 11],
    };
    let len = match flags.contains(InitFlags::INIT_EXT) {
        true => size_of::<abi::InitIn>(),
        false => abi::COMPAT_INIT_IN_SIZE,
    };
    writer.data(&arguments.as_bytes()[..len])
}

fn setattr_in(setattr: &Setattr) -> abi::SetattrIn {
    let mut valid = Valid::empty();
    let mut mark = |bit: Valid, is_set: bool| valid.set(bit, is_set);
    mark(Valid::FH, setattr.fh.is_some());
    mark(Valid::SIZE, setattr.size.is_some());
    mark(Valid::LOCKOWNER, setattr.lock_owner.is_some());
    mark(Valid::ATIME, setattr.atime.is_some());
    mark(Valid::MTIME, setattr.mtime.is_some());
    mark(Valid::CTIME, setattr.ctime.is_some());
    mark(Valid::MODE, setattr.mode.is_some());
    mark(Valid::UID, setattr.uid.is_some());
    mark(Valid::GID, setattr.gid.is_some());
    mark(Valid::KILL_SUIDGID, setattr.kill_suidgid);
    mark(Valid::ATIME_NOW, setattr.atime == Some(SetTime::Now));
    mark(Valid::MTIME_NOW, setattr.mtime == Some(SetTime::Now));
    let time = |time: Option<SetTime>| match time {
        Some(SetTime::At(time)) => time,
        _ => crate::Time::default(),
    };
    let (atime, mtime) = (time(setattr.atime), time(setattr.mtime));
    let ctime = setattr.ctime.unwrap_or_default();
    abi::SetattrIn {
        valid: valid.bits(),
        fh: setattr.fh.unwrap_or(0),
        size: setattr.size.unwrap_or(0),
        lock_owner: setattr.lock_owner.unwrap_or(0),
        atime: atime.wire_seconds(),
        mtime: mtime.wire_seconds(),
        ctime: ctime.wire_seconds(),
        atimensec: atime.nanos,
        mtimensec: mtime.nanos,
        ctimensec: ctime.nanos,
        mode: setattr.mode.unwrap_or(0),
        uid: setattr.uid.unwrap_or(0),
        gid: setattr.gid.unwrap_or(0),
        ..abi::SetattrIn::default()
    }
}
