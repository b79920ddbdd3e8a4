//! LP1: the file below a loop device is punched or cut while a read of the device is parked.
//!
//! The upper filesystem may get an error, zeroes or the old bytes; it must never get another file's.

use std::os::fd::AsFd;

use inflight_gate::Phase;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::memory::{Buffer, Memory};
use crate::kit::sys;
use crate::kit::verdict::not_run;

pub const CASE: Case = Case {
    id: "LP1",
    name: "loop-shrink",
    claim: "a loop device whose file is punched or cut under a parked read gives an error, zeroes or the old bytes",
    groups: &["truncate", "loop"],
    reach: Reach::Gated,
    variants: || {
        let phases = [Phase::Received, Phase::Applied];
        let with = |act: &'static str| phases.map(|phase| Variant::new(act).phase(phase).fresh());
        ["punch", "cut"].into_iter().flat_map(with).collect()
    },
    run,
    expected: &[],
};

const LEN: usize = 4096;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    if !fixture.mounted().target().is_looped() {
        return Err(not_run("the target is not on a loop device"));
    }
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let place = sys::place(&handle, 0)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    let below =
        std::fs::File::options().write(true).open(fixture.mounted().base()?.join("loop"))?;
    let parked = fixture.park("read", &file, (0, LEN as u64), variant.phase_or_received())?;
    let flight = fixture.start(Engine::Pread, Io::read(&handle, &buffer, 0..LEN, 0))?;
    fixture.meet(parked, 1)?;
    let mut legal = vec![file.generation(1)];
    if fixture.race() {
        let is_punch = variant.act == "punch";
        let change = fixture.aside(variant.act, move || {
            if !is_punch {
                return nix::unistd::ftruncate(below.as_fd(), place as i64);
            }
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(below.as_fd(), hole, place as i64, LEN as i64)
        })?;
        change.join()??;
        legal.push(file.hole());
    }
    fixture.release(parked)?;
    match fixture.finish(flight)? {
        Err(errno) if fixture.race() => fixture.note(format!("the read failed: {errno}")),
        Ok(count) if fixture.race() && count < LEN => {
            fixture.note(format!("the read returned {count}"))
        }
        done => {
            if fixture.count("the read", done, LEN) {
                fixture.judge("buffer", &buffer.bytes(0, LEN), 0, &legal);
            }
        }
    }
    Ok(())
}
