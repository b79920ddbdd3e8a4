//! What the gate sees of a request that the proxy passes on.

use inflight_fuse::abi::{InHeader, Opcode, WriteIn};
use inflight_fuse::channel::Message;
use inflight_fuse::{Dialect, Operation};
use zerocopy::FromBytes as _;

use crate::Subject;

/// The request as rules and logs know it. The data of a WRITE are not looked at.
pub(super) fn subject(message: &Message, header: &InHeader, dialect: Dialect) -> Subject {
    let whole = Subject {
        unique: header.unique,
        opcode: Opcode(header.opcode),
        ino: header.nodeid,
        pid: header.pid,
        uid: header.uid,
        ..Subject::default()
    };
    match whole.opcode {
        // Both structures begin alike: handle, offset, size.
        Opcode::READ | Opcode::WRITE => match transfer(message) {
            Some(at) => Subject { offset: at.offset, len: at.size.into(), ..whole },
            None => whole,
        },
        Opcode::SETATTR
        | Opcode::FALLOCATE
        | Opcode::LSEEK
        | Opcode::COPY_FILE_RANGE
        | Opcode::COPY_FILE_RANGE_64
        | Opcode::LINK => match message.peek(dialect) {
            Ok(request) => ranged(whole, &request.operation),
            Err(_) => whole,
        },
        _ => whole,
    }
}

/// Offset and size of a READ or WRITE.
pub(super) fn transfer(message: &Message) -> Option<WriteIn> {
    let [head, _] = message.io_slices();
    Some(WriteIn::read_from_prefix(head.get(size_of::<InHeader>()..)?).ok()?.0)
}

fn ranged(whole: Subject, operation: &Operation) -> Subject {
    match operation {
        Operation::Setattr(set) => Subject { size: set.size, ..whole },
        Operation::Fallocate(range) => Subject { offset: range.offset, len: range.length, ..whole },
        Operation::Lseek { offset, .. } => Subject { offset: *offset, ..whole },
        Operation::CopyFileRange(range) | Operation::CopyFileRange64(range) => {
            Subject { offset: range.offset_in, len: range.len, ..whole }
        }
        // The name of a link is what its directory has; what it is about is the inode.
        Operation::Link { target, .. } => Subject { ino: *target, ..whole },
        _ => whole,
    }
}
