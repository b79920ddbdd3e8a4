//! SM1: direct and cached I/O of memory whose pages nobody gets (memfd_secret(2)).
//!
//! The kernel takes the pages out of its own map, and refuses to hand them to I/O (check_vma_flags() in mm/gup.c): a direct
//! read or write fails before a request is made, and so does a registration. A cached read copies to the address, also when it was parked.

use std::os::unix::fs::MetadataExt;

use inflight_gate::Phase;
use nix::errno::Errno;
use nix::sys::mman::ProtFlags;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::engine::{Engine, Io, Way};
use crate::kit::event::Actor;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::stamp::POISON;
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "SM1",
    name: "secret-memory",
    claim: "direct I/O of memfd_secret(2) is refused and sends nothing; a cached read of it brings the file's bytes",
    groups: &["memory"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Pread, Engine::Uring, Engine::Fixed] {
        all.push(Variant::new("read").engine(engine));
    }
    all.push(Variant::new("write").engine(Engine::Aio));
    all.push(Variant::new("cached").engine(Engine::Uring).phase(Phase::Applied));
    all
}

const LEN: usize = 65536;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let secret = Buffer::new(Memory::Secret, LEN)?;
    let file = fixture.file(LEN as u64)?;
    if variant.act == "cached" {
        return cached(fixture, variant, &file, &secret);
    }
    let handle = fixture.open(&file, Open::Direct)?;
    let plain = Buffer::new(Memory::Anon, LEN)?;
    // The control is the same with memory that is no secret.
    let buffer = if fixture.race() { &secret } else { &plain };
    let (engine, is_write) = (variant.engine_or_pread(), variant.act == "write");
    if engine == Engine::Fixed {
        let registered = fixture.engines().register(buffer.ptr(), LEN)?;
        if fixture.race() {
            if registered != Err(Errno::EFAULT) {
                let text = format!("registering secret memory: {registered:?}, must be EFAULT");
                fixture.fault(Class::Errno, text);
            }
            return Ok(());
        }
        registered?;
    }
    let way = if is_write { Way::Write } else { Way::Read };
    if is_write {
        buffer.write(0, &file.content(2, 0, LEN));
    }
    let io = match way {
        Way::Read => Io::read(&handle, buffer, 0..LEN, 0),
        Way::Write => Io::write(&handle, buffer, 0..LEN, 0),
    };
    let ino = handle.metadata()?.ino();
    let before = fixture.requests(way.name(), ino)?.len();
    let done = fixture.transfer(engine, io)?;
    if engine == Engine::Fixed {
        fixture.engines().unregister()?;
    }
    let sent = fixture.requests(way.name(), ino)?.len() - before;
    let generation = if is_write && !fixture.race() { 2 } else { 1 };
    if !fixture.race() {
        fixture.count("the I/O", done, LEN);
    } else if done != Err(Errno::EFAULT) || sent != 0 {
        let text = format!("returned {done:?} after {sent} requests, must be EFAULT after none");
        fixture.fault(Class::Errno, text);
    }
    let bytes = fixture.read(&handle, 0, LEN)?.map_err(anyhow::Error::from)?;
    fixture.judge("the file", &bytes, 0, &[file.generation(generation)]);
    if fixture.race() && !is_write && buffer.bytes(0, LEN).iter().any(|&byte| byte != POISON) {
        fixture.fault(Class::Leak, "data arrived in secret memory with a direct read");
    }
    Ok(())
}

fn cached(
    fixture: &mut Fixture<'_>,
    variant: &Variant,
    file: &Stamped,
    secret: &Buffer,
) -> anyhow::Result<()> {
    let handle = fixture.open(file, Open::Buffered)?;
    let parked = fixture.park("read", file, (0, 4096), variant.phase_or_received())?;
    let io = Io::read(&handle, secret, 0..LEN, 0);
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    fixture.meet(parked, 1)?;
    if fixture.race() {
        // Its pages are locked: they cannot go, but how they are mapped may change.
        fixture.event(Actor::Racer, "mprotect to read-only and back");
        secret.protect(ProtFlags::PROT_READ)?;
        secret.protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the read", done, LEN);
    fixture.judge("the memory", &secret.bytes(0, LEN), 0, &[file.generation(1)]);
    Ok(())
}
