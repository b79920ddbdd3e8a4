//! LP1: the file below a loop device is punched or cut while a read of the device is parked.
//!
//! The upper filesystem may get an error, zeroes or the old bytes; it must never get another file's.

use std::os::fd::AsFd;

use inflight_gate::Phase;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::case::{Case, Reach};
use crate::engine::{Engine, Io};
use crate::memory::{Buffer, Memory};
use crate::scene::{Open, Scene};
use crate::stamp::Legal;
use crate::sys;
use crate::variant::Variant;
use crate::verdict::not_run;

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

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    if !scene.stage().target().is_looped() {
        return Err(not_run("the target is not on a loop device"));
    }
    let file = scene.file(LEN as u64)?;
    let handle = scene.open(&file, Open::Direct)?;
    let place = sys::place(&handle, 0)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    let below = std::fs::File::options().write(true).open(scene.stage().base()?.join("loop"))?;
    let parked = scene.park("read", &file, (0, LEN as u64), variant.phase_or_received())?;
    let flight = scene.start(Engine::Pread, Io::read(&handle, &buffer, 0..LEN, 0))?;
    scene.meet(parked, 1)?;
    let mut legal = vec![file.generation(1)];
    if scene.race() {
        let is_punch = variant.act == "punch";
        let change = scene.aside(variant.act, move || {
            if !is_punch {
                return nix::unistd::ftruncate(below.as_fd(), place as i64);
            }
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(below.as_fd(), hole, place as i64, LEN as i64)
        })?;
        change.join()??;
        legal.push(Legal::Zero);
    }
    scene.release(parked)?;
    match scene.finish(flight)? {
        Err(errno) if scene.race() => scene.note(format!("the read failed: {errno}")),
        Ok(count) if scene.race() && count < LEN => scene.note(format!("the read returned {count}")),
        done => {
            if scene.count("the read", done, LEN) {
                scene.judge("buffer", &buffer.bytes(0, LEN), 0, &legal);
            }
        }
    }
    Ok(())
}
