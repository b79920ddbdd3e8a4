//! TR4: a hole is punched, or a range zeroed, under a read, a fault or a direct read that is in flight.
//!
//! Once the punch has returned and the gate is open, the range is zero for everybody: nothing that the read
//! carries may stay in the page cache.

use std::os::fd::AsFd;

use inflight_gate::Phase;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::mapping::Mapping;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::stamp::Legal;
use crate::kit::verdict::not_run;

pub const CASE: Case = Case {
    id: "TR4",
    name: "punch-read",
    claim: "a range that was punched or zeroed while a read of it was in flight is zero afterwards",
    groups: &["quick", "truncate"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for act in ["punch", "zero"] {
        for how in ["read", "fault", "direct"] {
            for phase in [Phase::Received, Phase::Applied] {
                all.push(Variant::new(act).how(how).phase(phase));
            }
        }
    }
    let direct = Variant::new("punch").how("direct").phase(Phase::Applied);
    all.extend([Engine::Uring, Engine::Aio].map(|engine| direct.clone().engine(engine)));
    all
}

const LEN: usize = 16384;
const HOLE: usize = 4096;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let (action, how) = (variant.act, variant.how);
    let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let flags = flags
        | match action {
            "punch" => FallocateFlags::FALLOC_FL_PUNCH_HOLE,
            _ => FallocateFlags::FALLOC_FL_ZERO_RANGE,
        };
    // A kernel that refuses it by itself sends no request that could be waited for.
    let trial = fixture.file(HOLE as u64)?;
    let trial = fixture.open(&trial, Open::Buffered)?;
    if fallocate(trial.as_fd(), flags, 0, HOLE as i64) == Err(Errno::EOPNOTSUPP) {
        return Err(not_run(format!("no {action} here")));
    }
    let file = fixture.file(LEN as u64)?;
    let open = if how == "direct" { Open::Direct } else { Open::Buffered };
    let handle = fixture.open(&file, open)?;
    // Before anything is parked: an open may drop the file's pages, and wait for those that are being read.
    let other = fixture.open(&file, Open::Buffered)?;
    let buffer = Buffer::new(Memory::Anon, HOLE)?;
    let parked = fixture.park("read", &file, (0, HOLE as u64), variant.phase_or_received())?;
    let (mut flight, mut fault) = (None, None);
    if how == "fault" {
        let mapping = Mapping::shared(&handle, HOLE)?;
        fault = Some(fixture.aside("fault", move || mapping.load(0, HOLE))?);
    } else {
        let io = Io::read(&handle, &buffer, 0..HOLE, 0);
        flight = Some(fixture.start(variant.engine_or_pread(), io)?);
    }
    fixture.meet(parked, 1)?;
    let punch = if fixture.race() {
        let call = move || fallocate(other.as_fd(), flags, 0, HOLE as i64);
        Some(fixture.change("fallocate", &file, action, call)?)
    } else {
        None
    };
    fixture.release(parked)?;
    let legal: &[Legal] =
        if fixture.race() { &[file.generation(1), file.hole()] } else { &[file.generation(1)] };
    if let Some(flight) = flight {
        let done = fixture.finish(flight)?;
        if fixture.count("racing read", done, HOLE) {
            fixture.judge("racing read", &buffer.bytes(0, HOLE), 0, legal);
        }
    }
    if let Some(fault) = fault {
        let bytes = fault.join()?;
        fixture.judge("racing fault", &bytes, 0, legal);
    }
    let hole = match punch.map(|punch| punch.join()).transpose()? {
        Some(punched) => punched.map(|()| file.hole())?,
        None => file.generation(1),
    };
    let reader = fixture.open(&file, Open::Buffered)?;
    let bytes = fixture.read(&reader, 0, LEN)?.map_err(anyhow::Error::from)?;
    if fixture.count("read after", Ok(bytes.len()), LEN) {
        fixture.judge("the hole", &bytes[..HOLE], 0, &[hole]);
        fixture.judge("the rest", &bytes[HOLE..], HOLE as u64, &[file.generation(1)]);
    }
    let mapped = Mapping::shared(&reader, HOLE)?.load(0, HOLE);
    fixture.judge("mapping of the hole", &mapped, 0, &[hole]);
    Ok(())
}
