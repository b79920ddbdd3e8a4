//! Requests that create something, with their extensions.

use super::reader::Reader;
use super::{Malformed, extension};
use crate::abi::{self, Opcode};
use crate::request::{Create, Extensions, MakeNode, Operation};

/// `opcode` is one of those below.
pub(super) fn operation(
    opcode: Opcode,
    extension_len: u16,
    reader: &mut Reader<'_>,
) -> Result<Operation, Malformed> {
    Ok(match opcode {
        Opcode::SYMLINK => {
            let (name, target) = (reader.name()?, reader.name()?);
            Operation::Symlink { name, target, extensions: extensions(reader, extension_len)? }
        }
        Opcode::MKNOD => {
            let abi::MknodIn { mode, rdev, umask, .. } = reader.take()?;
            Operation::Mknod { node: node(mode, umask, extension_len, reader)?, rdev }
        }
        Opcode::MKDIR => {
            let abi::MkdirIn { mode, umask } = reader.take()?;
            Operation::Mkdir(node(mode, umask, extension_len, reader)?)
        }
        Opcode::CREATE => Operation::Create(create(extension_len, reader)?),
        _ => Operation::Tmpfile(create(extension_len, reader)?),
    })
}

fn node(
    mode: u32,
    umask: u32,
    extension_len: u16,
    reader: &mut Reader<'_>,
) -> Result<MakeNode, Malformed> {
    let name = reader.name()?;
    Ok(MakeNode { name, mode, umask, extensions: extensions(reader, extension_len)? })
}

fn create(extension_len: u16, reader: &mut Reader<'_>) -> Result<Create, Malformed> {
    let arguments = reader.take::<abi::CreateIn>()?;
    Ok(Create {
        name: reader.name()?,
        flags: arguments.flags,
        mode: arguments.mode,
        umask: arguments.umask,
        kill_suidgid: arguments.open_flags & abi::OPEN_KILL_SUIDGID != 0,
        extensions: extensions(reader, extension_len)?,
    })
}

fn extensions(reader: &mut Reader<'_>, len: u16) -> Result<Extensions, Malformed> {
    if reader.len() == 0 && len == 0 {
        return Ok(Extensions::default());
    }
    extension::extensions(&reader.rest(), len)
}
