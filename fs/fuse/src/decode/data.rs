//! Requests with data or lists behind their arguments, and INIT, whose length depends on the kernel.

use super::reader::Reader;
use super::{Dialect, Malformed};
use crate::abi::{self, InitFlags, Opcode};
use crate::request::{
    CuseInit, Forget, Init, Ioctl, MappingRange, NotifyReply, Operation, SetXattr, Write,
};

/// `opcode` is one of those below.
pub(super) fn operation(
    opcode: Opcode,
    dialect: Dialect,
    reader: &mut Reader<'_>,
) -> Result<Operation, Malformed> {
    Ok(match opcode {
        Opcode::WRITE => Operation::Write(write(reader)?),
        Opcode::SETXATTR => Operation::Setxattr(setxattr(dialect, reader)?),
        Opcode::IOCTL => Operation::Ioctl(ioctl(reader)?),
        Opcode::NOTIFY_REPLY => {
            let abi::NotifyRetrieveIn { offset, size, .. } = reader.take()?;
            Operation::NotifyReply(NotifyReply { offset, data: reader.data(size as usize)? })
        }
        Opcode::BATCH_FORGET => {
            let count = reader.take::<abi::BatchForgetIn>()?.count as usize;
            let forget = |one: abi::ForgetOne| Forget { nodeid: one.nodeid, nlookup: one.nlookup };
            Operation::BatchForget(list(count, reader, forget)?)
        }
        Opcode::REMOVEMAPPING => {
            let count = reader.take::<abi::RemovemappingIn>()?.count as usize;
            let range = |one: abi::RemovemappingOne| MappingRange {
                window_offset: one.moffset,
                len: one.len,
            };
            Operation::Removemapping(list(count, reader, range)?)
        }
        Opcode::INIT => Operation::Init(init(reader)?),
        _ => {
            let abi::CuseInitIn { major, minor, flags, .. } = reader.take()?;
            Operation::CuseInit(CuseInit { major, minor, flags })
        }
    })
}

fn write(reader: &mut Reader<'_>) -> Result<Write, Malformed> {
    let arguments = reader.take::<abi::WriteIn>()?;
    let write_flags = abi::WriteFlags::from_bits_retain(arguments.write_flags);
    let is_owned = write_flags.contains(abi::WriteFlags::LOCKOWNER);
    Ok(Write {
        fh: arguments.fh,
        offset: arguments.offset,
        data: reader.data(arguments.size as usize)?,
        write_flags,
        lock_owner: is_owned.then_some(arguments.lock_owner),
        flags: arguments.flags,
    })
}

fn setxattr(dialect: Dialect, reader: &mut Reader<'_>) -> Result<SetXattr, Malformed> {
    let (size, flags, setxattr_flags) = if dialect.setxattr_ext {
        let arguments = reader.take::<abi::SetxattrIn>()?;
        (arguments.size, arguments.flags, arguments.setxattr_flags)
    } else {
        let [size, flags] = reader.take::<[u32; 2]>()?;
        (size, flags, 0)
    };
    Ok(SetXattr {
        name: reader.name()?,
        value: reader.data(size as usize)?,
        flags,
        acl_kill_sgid: setxattr_flags & abi::SETXATTR_ACL_KILL_SGID != 0,
    })
}

fn ioctl(reader: &mut Reader<'_>) -> Result<Ioctl, Malformed> {
    let arguments = reader.take::<abi::IoctlIn>()?;
    Ok(Ioctl {
        fh: arguments.fh,
        ioctl_flags: abi::IoctlFlags::from_bits_retain(arguments.flags),
        command: arguments.cmd,
        arg: arguments.arg,
        data: reader.data(arguments.in_size as usize)?,
        out_size: arguments.out_size,
    })
}

/// A list as long as the message holds it, whatever its count says: nothing is allocated on the
/// word of a sender.
fn list<T, E: zerocopy::FromBytes + zerocopy::IntoBytes>(
    count: usize,
    reader: &mut Reader<'_>,
    convert: impl Fn(E) -> T,
) -> Result<Vec<T>, Malformed> {
    if count.saturating_mul(size_of::<E>()) != reader.len() {
        return Err(Malformed::Data);
    }
    (0..count).map(|_| reader.take::<E>().map(&convert)).collect()
}

fn init(reader: &mut Reader<'_>) -> Result<Init, Malformed> {
    let [major, minor] = reader.take::<[u32; 2]>()?;
    // A kernel of another major version may send another structure.
    if major != abi::KERNEL_VERSION {
        reader.rest();
        return Ok(Init { major, minor, max_readahead: 0, flags: InitFlags::empty() });
    }
    let [max_readahead, low] = reader.take::<[u32; 2]>()?;
    let low = InitFlags::from_bits_retain(low.into());
    let high = match low.contains(InitFlags::INIT_EXT) {
        true => reader.take::<u32>()?,
        false => 0,
    };
    // What newer kernels add is not for this version.
    reader.rest();
    let flags = low | InitFlags::from_bits_retain(u64::from(high) << 32);
    Ok(Init { major, minor, max_readahead, flags })
}
