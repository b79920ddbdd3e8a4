//! Requests whose data a rule of the gate damages: a write of which the end is lost, bits that are turned over. They go from
//! `received` to their answer in one step, and are copied: no page that anybody else has is ever changed.

use super::convert;
use super::dispatch;
use super::exchange::{Applied, Exchange};
use super::origin::Origin;
use super::step;
use crate::errno::Errno;
use crate::ops::read::{Body, ReadArgs, Ready};
use crate::ops::{Answer, Caller, Written};
use inflight_fuse::{Operation, Payload, Read, Request, Write};
use inflight_gate::{Decision, flip};

/// Serves a request as `decision`, which damages data, wants it. One without data is served as ever.
pub(super) fn serve(origin: Origin, request: Request, decision: Decision) -> Exchange {
    let nodeid = request.header.nodeid;
    match (request.operation, decision) {
        (Operation::Read(args), Decision::Corrupt(bits)) => {
            match read(&origin, nodeid, &args, bits) {
                Ok(ready) => {
                    origin.note_path(ready.way.name());
                    Exchange::Piped(origin, ready)
                }
                Err(errno) => origin.fail(errno),
            }
        }
        (Operation::Write(args), _) => {
            let who = convert::caller(&request.header);
            write(origin, nodeid, args, who, decision)
        }
        (operation, _) => step::received(origin, Request { operation, ..request }, None),
    }
}

fn read(origin: &Origin, ino: u64, read: &Read, bits: u32) -> Answer<Ready> {
    let fs = origin.server.fs();
    let direct = read.flags as i32 & libc::O_DIRECT != 0;
    let (offset, len) = (read.offset, read.size as usize);
    let args = ReadArgs { ino, offset, len, direct, splice: false };
    let mut ready = fs.read_prepare(&args, None)?.apply(fs)?.pipe(fs)?;
    match &mut ready.body {
        Body::Bytes(buffer) => flip(buffer.as_mut_slice(), bits),
        // What is not to be spliced is not in a pipe.
        Body::Pipe(_) => return Err(Errno::EIO),
    }
    Ok(ready)
}

fn write(origin: Origin, ino: u64, write: Write, who: Caller, decision: Decision) -> Exchange {
    let (args, mut data) = step::write_args(ino, write);
    let claimed = data.len();
    match decision {
        Decision::Torn(bytes) => data.truncate(bytes as usize),
        Decision::Corrupt(bits) => {
            let mut bytes = data.into_vec();
            flip(&mut bytes, bits);
            data = Payload::from(bytes);
        }
        _ => {}
    }
    let written = step::write(&origin, &args, who, &data);
    drop(data);
    let written = written.map(|written| Written { bytes: claimed, ..written });
    let done = dispatch::written(&origin.server, &args, written);
    Exchange::Applied(origin, Applied::Done(done))
}
