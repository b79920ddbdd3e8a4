//! FK3: write-protection without a fork, and a store, while a direct read into the page is parked.
//!
//! mprotect to read-only and back makes the next store fault; so do userfaultfd's write protection, and the bits
//! of soft-dirty tracking. Before 5.19 the fault looked at reference counts
//! and copied a page that an I/O still held, so the data went to the old one. Since then an exclusive page
//! stays where it is.

use inflight_gate::Phase;
use nix::sys::mman::ProtFlags;

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{Expected, Seen};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::kernel::Version;
use crate::kit::memory::{Buffer, Memory, Protector};
use crate::kit::verdict::{Class, not_run};

pub const CASE: Case = Case {
    id: "FK3",
    name: "protect-touch",
    claim: "data of a direct read arrives although its page was write-protected and stored to meanwhile",
    groups: &["quick", "fork"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[Expected {
        on: "*",
        // Not in a huge page, as seen on 5.10.262: there the store took the page as it was, whoever else held it.
        variant: "*/pread|*/aio|*/uring",
        seen: &[Seen::Words(
            Class::Lost,
            "buffer: * are poison (never written); legal: *|the store to byte * is gone",
        )],
        until: Some(Version(5, 19, 0)),
        reference: "mm: PageAnonExclusive, 6c287605fd56; seen LOST on 5.10, ok on 6.1",
        ..Expected::ALWAYS
    }],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Pread, Engine::Aio, Engine::Uring] {
        all.push(Variant::new("mprotect").engine(engine));
    }
    all.push(Variant::new("mprotect").engine(Engine::Uring).memory(Memory::Thp));
    for act in ["soft-dirty", "uffd-wp"] {
        all.push(Variant::new(act).engine(Engine::Uring));
    }
    all
}

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    if variant.act == "soft-dirty" && !has_soft_dirty()? {
        return Err(not_run("this kernel does not track soft-dirty pages"));
    }
    let half = fixture.grain().max(2048);
    let file = fixture.file(8192)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(variant.memory_or_anon(), 8192)?;
    let protector = match variant.act {
        "uffd-wp" => Some(Protector::new(&buffer)?),
        _ => None,
    };
    let parked = fixture.park("read", &file, (0, half as u64), Phase::Received)?;
    let io = Io::read(&handle, &buffer, 0..half, 0);
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    fixture.meet(parked, 1)?;
    // Where a whole page is read, the store goes into it; its byte is then anybody's.
    let at = if half == 4096 { 4000 } else { half + 100 };
    if fixture.race() {
        fixture.event(Actor::Racer, variant.act);
        if let Some(protector) = &protector {
            protector.protect(&buffer, true)?;
            protector.protect(&buffer, false)?;
        } else if variant.act == "mprotect" {
            buffer.protect(ProtFlags::PROT_READ)?;
            buffer.protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        } else {
            std::fs::write("/proc/self/clear_refs", "4")?;
        }
        fixture.event(Actor::Racer, "store");
        buffer.store(at, 1);
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the read", done, half);
    let upto = half.min(at);
    fixture.judge("buffer", &buffer.bytes(0, upto), 0, &[file.generation(1)]);
    if fixture.race() && at >= half && buffer.load(at) != 1 {
        fixture.fault(Class::Lost, format!("the store to byte {at} is gone"));
    }
    Ok(())
}

/// Whether clearing soft-dirty bits shows in pagemap: bit 55 of a page that was just stored to.
fn has_soft_dirty() -> anyhow::Result<bool> {
    let buffer = Buffer::new(Memory::Anon, 4096)?;
    crate::kit::pagemap::Pagemap::of("self")?.soft_dirty(buffer.ptr() as usize)
}
