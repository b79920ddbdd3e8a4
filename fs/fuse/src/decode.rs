//! Bytes to a [`Request`]. Total: whatever the bytes are, the result is a request or an error.

mod create;
mod data;
pub(crate) mod extension;
mod reader;

use crate::abi::{self, InHeader, InitFlags, Opcode};
use crate::attr::FileLock;
use crate::name::Name;
use crate::payload::Payload;
use crate::request::{
    CopyFileRange, Fallocate, Flush, Fsync, Header, Lock, Open, Operation, Poll, Read, Release,
    Rename, Request, SetTime, Setattr, SetupMapping, StatxArgs,
};
use crate::time::Time;
use nix::errno::Errno;
use reader::Reader;
use zerocopy::FromBytes as _;

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There is not even a header, so nothing can be answered.
    #[error("a message of {len} bytes is shorter than a request's header")]
    NoHeader {
        /// Bytes of the message.
        len: usize,
    },
    /// The header says another length than the message has.
    #[error("request {unique} ({opcode}) says it has {said} bytes and has {len}")]
    Length {
        /// Number of the request.
        unique: u64,
        /// Its opcode.
        opcode: Opcode,
        /// Bytes by its header.
        said: u32,
        /// Bytes of the message.
        len: usize,
    },
    /// The arguments are not those of the opcode.
    #[error("request {unique} ({opcode}) is malformed: {what}")]
    Malformed {
        /// Number of the request.
        unique: u64,
        /// Its opcode.
        opcode: Opcode,
        /// What is wrong with it.
        what: Malformed,
    },
}

impl DecodeError {
    /// Number of the request that can be answered, with EIO or EINVAL, in spite of the error.
    pub fn unique(&self) -> Option<u64> {
        let (unique, opcode) = match self {
            Self::NoHeader { .. } => return None,
            Self::Length { unique, opcode, .. } | Self::Malformed { unique, opcode, .. } => {
                (*unique, *opcode)
            }
        };
        opcode.wants_answer().then_some(unique)
    }

    /// The errno to answer with.
    pub fn errno(&self) -> Errno {
        Errno::EIO
    }
}

/// What is wrong with the arguments of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A structure is not there as a whole.
    #[error("its arguments are cut off")]
    Arguments,
    /// A name is not there, or without a zero byte.
    #[error("a name has no end")]
    Name,
    /// There is less data than was said.
    #[error("its data are cut off")]
    Data,
    /// There are more bytes than the arguments have.
    #[error("it is longer than its arguments")]
    TooLong,
    /// An extension is not what it says.
    #[error("an extension is inconsistent")]
    Extension,
}

/// What INIT agreed upon, as far as it decides how requests look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialect {
    /// SETXATTR has the longer structure.
    pub setxattr_ext: bool,
}

impl Dialect {
    /// The dialect of these flags.
    pub fn new(agreed: InitFlags) -> Dialect {
        Dialect { setxattr_ext: agreed.contains(InitFlags::SETXATTR_EXT) }
    }
}

/// The request in a message that lies in two pieces: `head`, which holds at least the header, and
/// `tail`, which goes on where the head ends and is taken out if the request's data lie in it
/// without a byte before them in the head.
///
/// A channel that receives a WRITE's header and arguments into 80 bytes and its data into a
/// page-aligned buffer thus hands the data over without a copy.
///
/// # Errors
/// [`DecodeError`]; `tail` is then as it was, or empty.
pub fn decode(
    head: &[u8],
    tail: &mut Option<Payload>,
    dialect: Dialect,
) -> Result<Request, DecodeError> {
    let len = head.len() + tail.as_ref().map_or(0, Payload::len);
    let (header, arguments) =
        InHeader::read_from_prefix(head).map_err(|_| DecodeError::NoHeader { len })?;
    let (unique, opcode) = (header.unique, Opcode(header.opcode));
    if header.len as usize != len {
        return Err(DecodeError::Length { unique, opcode, said: header.len, len });
    }
    let malformed = |what| DecodeError::Malformed { unique, opcode, what };
    let mut reader = Reader::new(arguments, tail);
    let operation = operation(&header, dialect, &mut reader).map_err(malformed)?;
    let header =
        Header { unique, nodeid: header.nodeid, uid: header.uid, gid: header.gid, pid: header.pid };
    Ok(Request { header, operation })
}

impl Request {
    /// The request in these bytes, copied.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8], dialect: Dialect) -> Result<Request, DecodeError> {
        decode(bytes, &mut None, dialect)
    }
}

fn operation(
    header: &InHeader,
    dialect: Dialect,
    reader: &mut Reader<'_>,
) -> Result<Operation, Malformed> {
    let opcode = Opcode(header.opcode);
    let is_extended = header.total_extlen != 0;
    let decoded = match opcode {
        Opcode::SYMLINK | Opcode::MKNOD | Opcode::MKDIR | Opcode::CREATE | Opcode::TMPFILE => {
            create::operation(opcode, header.total_extlen, reader)?
        }
        Opcode::WRITE
        | Opcode::SETXATTR
        | Opcode::IOCTL
        | Opcode::NOTIFY_REPLY
        | Opcode::BATCH_FORGET
        | Opcode::REMOVEMAPPING
        | Opcode::INIT
        | Opcode::CUSE_INIT => data::operation(opcode, dialect, reader)?,
        _ => match named(opcode, reader)? {
            Some(operation) => operation,
            None => match fixed(opcode, reader)? {
                Some(operation) => operation,
                None => return Ok(Operation::Unknown { opcode: opcode.0 }),
            },
        },
    };
    // An extension that this request does not have today may follow; it is skipped by its length.
    if !is_extended {
        reader.end()?
    }
    Ok(decoded)
}

/// Requests about names.
fn named(opcode: Opcode, reader: &mut Reader<'_>) -> Result<Option<Operation>, Malformed> {
    let operation = match opcode {
        Opcode::LOOKUP => Operation::Lookup { name: reader.name()? },
        Opcode::UNLINK => Operation::Unlink { name: reader.name()? },
        Opcode::RMDIR => Operation::Rmdir { name: reader.name()? },
        Opcode::REMOVEXATTR => Operation::Removexattr { name: reader.name()? },
        Opcode::GETXATTR => {
            let size = reader.take::<abi::GetxattrIn>()?.size;
            Operation::Getxattr(crate::request::GetXattr { name: reader.name()?, size })
        }
        Opcode::LINK => {
            let target = reader.take::<abi::LinkIn>()?.oldnodeid;
            Operation::Link { target, name: reader.name()? }
        }
        Opcode::RENAME => {
            let new_parent = reader.take::<abi::RenameIn>()?.newdir;
            Operation::Rename(rename(new_parent, 0, reader)?)
        }
        Opcode::RENAME2 => {
            let arguments = reader.take::<abi::Rename2In>()?;
            Operation::Rename2(rename(arguments.newdir, arguments.flags, reader)?)
        }
        _ => return Ok(None),
    };
    Ok(Some(operation))
}

fn rename(new_parent: u64, flags: u32, reader: &mut Reader<'_>) -> Result<Rename, Malformed> {
    let name: Name = reader.name()?;
    Ok(Rename { name, new_parent, new_name: reader.name()?, flags })
}

/// Requests of one structure, or of none.
fn fixed(opcode: Opcode, reader: &mut Reader<'_>) -> Result<Option<Operation>, Malformed> {
    let operation = match opcode {
        Opcode::FORGET => Operation::Forget { nlookup: reader.take::<abi::ForgetIn>()?.nlookup },
        Opcode::GETATTR => {
            let arguments = reader.take::<abi::GetattrIn>()?;
            Operation::Getattr { fh: handle(arguments.getattr_flags, arguments.fh) }
        }
        Opcode::SETATTR => Operation::Setattr(setattr(&reader.take()?)),
        Opcode::READLINK => Operation::Readlink,
        Opcode::OPEN => Operation::Open(open(&reader.take()?)),
        Opcode::OPENDIR => Operation::Opendir(open(&reader.take()?)),
        Opcode::READ => Operation::Read(read(&reader.take()?)),
        Opcode::READDIR => Operation::Readdir(read(&reader.take()?)),
        Opcode::READDIRPLUS => Operation::Readdirplus(read(&reader.take()?)),
        Opcode::STATFS => Operation::Statfs,
        Opcode::RELEASE => Operation::Release(release(&reader.take()?)),
        Opcode::RELEASEDIR => Operation::Releasedir(release(&reader.take()?)),
        Opcode::FSYNC => Operation::Fsync(fsync(&reader.take()?)),
        Opcode::FSYNCDIR => Operation::Fsyncdir(fsync(&reader.take()?)),
        Opcode::LISTXATTR => Operation::Listxattr { size: reader.take::<abi::GetxattrIn>()?.size },
        Opcode::FLUSH => {
            let arguments = reader.take::<abi::FlushIn>()?;
            Operation::Flush(Flush { fh: arguments.fh, lock_owner: arguments.lock_owner })
        }
        Opcode::ACCESS => Operation::Access { mask: reader.take::<abi::AccessIn>()?.mask },
        Opcode::INTERRUPT => {
            Operation::Interrupt { unique: reader.take::<abi::InterruptIn>()?.unique }
        }
        Opcode::DESTROY => Operation::Destroy,
        Opcode::SYNCFS => {
            reader.take::<abi::SyncfsIn>()?;
            Operation::Syncfs
        }
        _ => return rarer(opcode, reader),
    };
    Ok(Some(operation))
}

fn rarer(opcode: Opcode, reader: &mut Reader<'_>) -> Result<Option<Operation>, Malformed> {
    let operation = match opcode {
        Opcode::GETLK => Operation::Getlk(lock(&reader.take()?)),
        Opcode::SETLK => Operation::Setlk(lock(&reader.take()?)),
        Opcode::SETLKW => Operation::Setlkw(lock(&reader.take()?)),
        Opcode::BMAP => {
            let arguments = reader.take::<abi::BmapIn>()?;
            Operation::Bmap { block: arguments.block, block_size: arguments.blocksize }
        }
        Opcode::POLL => {
            let arguments = reader.take::<abi::PollIn>()?;
            Operation::Poll(Poll {
                fh: arguments.fh,
                kh: arguments.kh,
                poll_flags: abi::PollFlags::from_bits_retain(arguments.flags),
                events: arguments.events,
            })
        }
        Opcode::FALLOCATE => {
            let abi::FallocateIn { fh, offset, length, mode, .. } = reader.take()?;
            Operation::Fallocate(Fallocate { fh, offset, length, mode })
        }
        Opcode::LSEEK => {
            let abi::LseekIn { fh, offset, whence, .. } = reader.take()?;
            Operation::Lseek { fh, offset, whence }
        }
        Opcode::COPY_FILE_RANGE => Operation::CopyFileRange(copy(&reader.take()?)),
        Opcode::COPY_FILE_RANGE_64 => Operation::CopyFileRange64(copy(&reader.take()?)),
        Opcode::SETUPMAPPING => {
            let arguments = reader.take::<abi::SetupmappingIn>()?;
            Operation::Setupmapping(SetupMapping {
                fh: arguments.fh,
                file_offset: arguments.foffset,
                len: arguments.len,
                flags: arguments.flags,
                window_offset: arguments.moffset,
            })
        }
        Opcode::STATX => {
            let arguments = reader.take::<abi::StatxIn>()?;
            Operation::Statx(StatxArgs {
                fh: handle(arguments.getattr_flags, arguments.fh),
                flags: arguments.sx_flags,
                mask: arguments.sx_mask,
            })
        }
        _ => return Ok(None),
    };
    Ok(Some(operation))
}

fn handle(getattr_flags: u32, fh: u64) -> Option<u64> {
    (getattr_flags & abi::GETATTR_FH != 0).then_some(fh)
}

fn setattr(arguments: &abi::SetattrIn) -> Setattr {
    use abi::SetattrValid as Valid;
    let valid = Valid::from_bits_retain(arguments.valid);
    let time = |set, now, seconds, nanos| match (valid.contains(set), valid.contains(now)) {
        (true, true) => Some(SetTime::Now),
        (true, false) => Some(SetTime::At(Time::from_wire(seconds, nanos))),
        (false, _) => None,
    };
    Setattr {
        fh: valid.contains(Valid::FH).then_some(arguments.fh),
        size: valid.contains(Valid::SIZE).then_some(arguments.size),
        lock_owner: valid.contains(Valid::LOCKOWNER).then_some(arguments.lock_owner),
        atime: time(Valid::ATIME, Valid::ATIME_NOW, arguments.atime, arguments.atimensec),
        mtime: time(Valid::MTIME, Valid::MTIME_NOW, arguments.mtime, arguments.mtimensec),
        ctime: valid
            .contains(Valid::CTIME)
            .then(|| Time::from_wire(arguments.ctime, arguments.ctimensec)),
        mode: valid.contains(Valid::MODE).then_some(arguments.mode),
        uid: valid.contains(Valid::UID).then_some(arguments.uid),
        gid: valid.contains(Valid::GID).then_some(arguments.gid),
        kill_suidgid: valid.contains(Valid::KILL_SUIDGID),
    }
}

fn open(arguments: &abi::OpenIn) -> Open {
    Open {
        flags: arguments.flags,
        kill_suidgid: arguments.open_flags & abi::OPEN_KILL_SUIDGID != 0,
    }
}

fn read(arguments: &abi::ReadIn) -> Read {
    let read_flags = abi::ReadFlags::from_bits_retain(arguments.read_flags);
    let is_owned = read_flags.contains(abi::ReadFlags::LOCKOWNER);
    Read {
        fh: arguments.fh,
        offset: arguments.offset,
        size: arguments.size,
        lock_owner: is_owned.then_some(arguments.lock_owner),
        flags: arguments.flags,
    }
}

fn release(arguments: &abi::ReleaseIn) -> Release {
    Release {
        fh: arguments.fh,
        flags: arguments.flags,
        release_flags: abi::ReleaseFlags::from_bits_retain(arguments.release_flags),
        lock_owner: arguments.lock_owner,
    }
}

fn fsync(arguments: &abi::FsyncIn) -> Fsync {
    let fsync_flags = abi::FsyncFlags::from_bits_retain(arguments.fsync_flags);
    Fsync { fh: arguments.fh, fsync_flags }
}

fn lock(arguments: &abi::LkIn) -> Lock {
    Lock {
        fh: arguments.fh,
        owner: arguments.owner,
        lock: FileLock::from(arguments.lk),
        lock_flags: abi::LockFlags::from_bits_retain(arguments.lk_flags),
    }
}

fn copy(arguments: &abi::CopyFileRangeIn) -> CopyFileRange {
    CopyFileRange {
        fh_in: arguments.fh_in,
        offset_in: arguments.off_in,
        nodeid_out: arguments.nodeid_out,
        fh_out: arguments.fh_out,
        offset_out: arguments.off_out,
        len: arguments.len,
        flags: arguments.flags,
    }
}
