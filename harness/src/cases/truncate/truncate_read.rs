//! TR1: truncate down and up again while a buffered read of the range is parked.
//!
//! Once the file has been extended again its old bytes are gone for ever. A read that was sent before may
//! return anything that the file held meanwhile, but must not put old bytes back into the page cache.
//! The truncate may block on the page that the read holds, so a third thread opens the gate.

use std::os::fd::AsFd;

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::mapping::Mapping;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::stamp::Legal;
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "TR1",
    name: "truncate-read",
    claim: "a buffered read that is in flight across truncate(0) and truncate(size) resurrects nothing",
    groups: &["quick", "truncate", "first"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[],
};

const LEN: usize = 16384;
const READ: usize = 4096;

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Pread, Engine::Preadv, Engine::Aio, Engine::Uring] {
        for phase in [Phase::Received, Phase::Applied] {
            all.push(Variant::new("read").engine(engine).phase(phase));
        }
    }
    for phase in [Phase::Received, Phase::Applied] {
        all.push(Variant::new("fault").phase(phase));
    }
    all
}

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Buffered)?;
    // Before anything is parked: an open may drop the file's pages, and wait for those that are being read.
    let other = fixture.open(&file, Open::Buffered)?;
    let buffer = Buffer::new(Memory::Anon, READ)?;
    let parked = fixture.park("read", &file, (0, READ as u64), variant.phase_or_received())?;

    let mut flight = None;
    let mut fault = None;
    if variant.act == "fault" {
        let mapping = Mapping::shared(&handle, READ)?;
        // The file may be empty when the fault ends: that is SIGBUS in a load, and EFAULT in a write(2).
        fault = Some(fixture.aside("fault", move || touch(&mapping))?);
    } else {
        let engine = variant.engine_or_pread();
        flight = Some(fixture.start(engine, Io::read(&handle, &buffer, 0..READ, 0))?);
    }
    fixture.meet(parked, 1)?;

    let truncate = if fixture.race() {
        Some(fixture.change("setattr", &file, "ftruncate down and up", move || {
            nix::unistd::ftruncate(other.as_fd(), 0)?;
            nix::unistd::ftruncate(other.as_fd(), LEN as i64)
        })?)
    } else {
        None
    };

    fixture.release(parked)?;
    if let Some(flight) = flight {
        let done = fixture.finish(flight)?;
        let legal: &[Legal] =
            if fixture.race() { &[file.generation(1), file.hole()] } else { &[file.generation(1)] };
        match done {
            Ok(count) if count == READ || fixture.race() => {
                fixture.judge("racing read", &buffer.bytes(0, count), 0, legal);
            }
            other => drop(fixture.count("racing read", other, READ)),
        }
    }
    if let Some(fault) = fault {
        fault.join()??;
    }
    let wanted = match truncate {
        Some(truncate) => {
            truncate.join()??;
            file.hole()
        }
        None => file.generation(1),
    };
    let size = handle.metadata()?.len();
    if size != LEN as u64 {
        fixture.fault(Class::Short, format!("fstat says {size} bytes, must be {LEN}"));
        return Ok(());
    }
    match fixture.read(&handle, 0, LEN)? {
        Ok(bytes) if bytes.len() == LEN => fixture.judge("read after", &bytes, 0, &[wanted]),
        other => drop(fixture.count("read after", other.map(|bytes| bytes.len()), LEN)),
    }
    let bytes = Mapping::shared(&handle, LEN)?.load(0, LEN);
    fixture.judge("mapping after", &bytes, 0, &[wanted]);
    Ok(())
}

/// Makes the kernel fault a page of the mapping in; a page that is gone by then is no error.
fn touch(mapping: &Mapping) -> anyhow::Result<()> {
    let (_out, into) = nix::unistd::pipe()?;
    // write(2) answers EFAULT where a load would raise SIGBUS.
    match crate::kit::sys::write_from(&into, mapping.address(0), 1) {
        Ok(_) | Err(nix::errno::Errno::EFAULT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
