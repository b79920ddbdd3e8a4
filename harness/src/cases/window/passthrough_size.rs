//! PT1: a truncate overtakes the end of an asynchronous write that the kernel has passed through to a file below.
//!
//! The write of the file below is done and not answered, so it is older than the truncate that comes now through the file above,
//! and that cuts it off. When the write's end is told at last, fuse_passthrough_end_write() has the size of the file above
//! follow the write (fuse_write_update_attr), whatever it is by now. On 6.18 the kernel's own idea of it is then the position of the
//! write in a file of no bytes (statx(2) with AT_STATX_DONT_SYNC shows it); it asks again before it says so to anybody else.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Change, Fixture, Open, Order, Stamped};
use crate::kit::engine::{Engine, Io, Way};
use crate::kit::memory::{Buffer, Memory};
use crate::kit::sys;
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "PT1",
    name: "passthrough-size",
    claim: "a file that is passed through has the size of the file below when a write that a truncate overtook has ended",
    groups: &["truncate", "passthrough"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let engines = [Engine::Aio, Engine::Uring];
    engines.map(|engine| Variant::new("cut").engine(engine).phase(Phase::Applied)).into()
}

const LEN: usize = 16384;
const AT: usize = 8192;
const PART: usize = 4096;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let below = fixture.file(LEN as u64)?;
    let ino = std::fs::metadata(&below.path)?.ino();
    fixture.passed(&below, |fixture, file| race(fixture, variant, (&below, ino), file))
}

fn race(
    fixture: &mut Fixture<'_>,
    variant: &Variant,
    (below, ino): (&Stamped, u64),
    file: &Stamped,
) -> anyhow::Result<()> {
    let direct = fixture.open(file, Open::Direct)?;
    let other = fixture.open(file, Open::Buffered)?;
    let buffer = Buffer::new(Memory::Anon, PART)?;
    buffer.write(0, &file.content(2, AT as u64, PART));
    let phase = variant.phase_or_received();
    let parked = fixture.park("write", below, (AT as u64, PART as u64), phase)?;
    let io = Io::write(&direct, &buffer, 0..PART, AT as u64);
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    fixture.meet(parked, 1)?;
    let mut cut = None;
    if fixture.race() {
        let call = move || nix::unistd::ftruncate(other.as_fd(), 0);
        let mut aside = fixture.aside("ftruncate of the file above", call)?;
        if !aside.settle()? {
            fixture.serialised(&aside);
        }
        cut = Some(aside);
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the write", done, PART);
    if let Some(cut) = cut {
        cut.join()??;
    }
    judge(fixture, (below, ino), (file, &direct))
}

fn judge(
    fixture: &mut Fixture<'_>,
    (below, ino): (&Stamped, u64),
    (file, above): (&Stamped, &File),
) -> anyhow::Result<()> {
    let legal = if fixture.race() {
        let range = AT as u64..(AT + PART) as u64;
        match fixture.order(ino, Way::Write, range, Change::Cut)? {
            Order::ChangeFirst => vec![AT + PART],
            Order::IoFirst => vec![0],
            Order::Either => vec![0, AT + PART],
        }
    } else {
        vec![LEN]
    };
    // Before anybody asks: what the kernel keeps of it.
    let kept = sys::kept_size(&file.path)?;
    let asked = above.metadata()?.len();
    let truth = sys::refresh(&below.path)?;
    if !legal.contains(&(truth as usize)) {
        fixture.fault(Class::Short, format!("the file below has {truth}, must be {legal:?}"));
    }
    if asked != truth {
        let text = format!("fstat says {asked} of the file above, the one below has {truth}");
        fixture.fault(Class::Short, text);
    }
    if kept != truth {
        // Which statx(2) allows, and whatever else asks for it: the end of the write makes the kernel ask again.
        fixture.note(format!("until it is asked for, the size of the file above is {kept}"));
    }
    Ok(())
}
