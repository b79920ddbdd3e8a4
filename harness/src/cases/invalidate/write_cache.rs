//! IV1: a direct write in flight while a buffered reader fills the page cache with what the write replaces.
//!
//! The write is parked before it is applied, so the reader gets the old data, rightly. When the write has
//! completed, the page cache must not keep it: the kernel has to invalidate at completion, not only before.
//!
//! `auto_inval` decides whether a kernel that forgot to invalidate mends it at the next read (FUSE_AUTO_INVAL_DATA and a timeout of
//! 0 for attributes: it asks, and sees another time). Passed through, the pages are those of the file below, and so are its bugs.

use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{Expected, Fixed, Must, Seen};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::engine::{Engine, Io};
use crate::kit::kernel::Version;
use crate::kit::mapping::Mapping;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::verdict::{Class, serialised};

pub const CASE: Case = Case {
    id: "IV1",
    name: "write-cache",
    claim: "when a direct write has completed, a buffered reader sees it, also when the page cache was filled while it was in flight",
    groups: &["quick", "invalidate"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[
        Expected {
            on: "inflight|server",
            variant: "async/*|async-passed/*",
            seen: &[OLD],
            until: Some(Version(7, 1, 0)),
            reference: "fuse: invalidate page cache after async direct write, 4c4c472d25f5",
            ..Expected::ALWAYS
        },
        Expected {
            on: "inflight",
            variant: "sync/*",
            option: "direct_io",
            seen: &[OLD],
            until: Some(Version(6, 19, 0)),
            must: Must::Series(&[(5, 10), (6, 1), (6, 16), (6, 17)]),
            fixed_in: &[Fixed::From(Version(6, 12, 117)), Fixed::From(Version(6, 18, 15))],
            reference: "fuse: invalidate page cache after direct write, b359af8275a9 (6.19, and stable: seen ok on 6.12.117 and 6.18.15)",
            ..Expected::ALWAYS
        },
    ],
};

/// What the page cache had before the write.
const OLD: Seen = Seen::Words(Class::Stale, "reader after the write: * generation 1; legal: *");

fn variants() -> Vec<Variant> {
    vec![
        Variant::new("async").engine(Engine::Aio),
        Variant::new("async").engine(Engine::Uring),
        Variant::new("async").engine(Engine::Aio).mount("direct_io"),
        Variant::new("async").engine(Engine::Uring).mount("direct_io"),
        Variant::new("async").engine(Engine::Aio).phase(Phase::Copying),
        Variant::new("async").engine(Engine::Uring).phase(Phase::Copying),
        Variant::new("async").engine(Engine::Uring).mount("transport=uring"),
        Variant::new("async").engine(Engine::Aio).mount(ASKS),
        Variant::new("asked").engine(Engine::Aio).mount(AUTO_INVAL),
        Variant::new("asked").engine(Engine::Uring).mount(AUTO_INVAL),
        Variant::new("async").how("passed").engine(Engine::Uring),
        Variant::new("sync").how("passed").engine(Engine::Pread),
        Variant::new("sync").engine(Engine::Pread),
        Variant::new("sync").engine(Engine::Preadv),
        Variant::new("sync").engine(Engine::Pread).mount("direct_io"),
    ]
}

/// The kernel asks for attributes before each read, and only looks at what comes.
const ASKS: &str = "attr_timeout=0,nowriteback";
/// FUSE_AUTO_INVAL_DATA: it drops the pages when the time or the size is another one (fuse_change_attributes()), but not
/// where they are its own, with writeback.
const AUTO_INVAL: &str = "auto_inval,attr_timeout=0,nowriteback";

const LEN: usize = 16384;
/// The part that is written: one page, inside the file.
const AT: usize = 4096;
const PART: usize = 4096;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    match variant.how {
        "passed" => fixture.passed(&file, |fixture, above| race(fixture, variant, &file, above)),
        _ => race(fixture, variant, &file, &file),
    }
}

/// What is parked are requests for `below`; the race is played with `file`, which is the same or passed through to it.
fn race(
    fixture: &mut Fixture<'_>,
    variant: &Variant,
    below: &Stamped,
    file: &Stamped,
) -> anyhow::Result<()> {
    let direct = fixture.open(file, Open::Direct)?;
    if variant.act == "asked" {
        // The write must bring another time than the one that the kernel knows, however coarse the clock is.
        direct.set_modified(SystemTime::now() - Duration::from_secs(10))?;
    }
    let reader = fixture.open(file, Open::Buffered)?;
    // Where read(2) bypasses the cache, only a mapping sees it.
    let mapping = Mapping::private(&reader, LEN)?;
    let buffer = Buffer::new(Memory::Anon, PART)?;
    buffer.write(0, &file.content(2, AT as u64, PART));

    let parked =
        fixture.park("write", below, (AT as u64, PART as u64), variant.phase_or_received())?;
    let io = Io::write(&direct, &buffer, 0..PART, AT as u64);
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    fixture.meet(parked, 1)?;

    let sees_mapping = fixture.has("direct_io");
    let mut early = None;
    if fixture.race() {
        let reader = reader.try_clone()?;
        let mut aside = fixture.aside("buffered read", move || {
            let mut bytes = vec![0; PART];
            if sees_mapping {
                bytes = mapping.load(AT, PART);
            } else {
                reader.read_exact_at(&mut bytes, AT as u64)?;
            }
            // Only the write may take the page out of the cache, not somebody who needs memory.
            mapping.lock()?;
            // Closed later: that would have to wait for a synchronous write.
            anyhow::Ok((bytes, mapping, reader))
        })?;
        let waits = if aside.returns()? { None } else { Some(aside.place()) };
        early = Some((aside, waits));
    } else {
        drop(mapping);
    }

    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the write", done, PART);
    let (mut mapping, mut waited) = (None, None);
    if let Some((aside, waits)) = early {
        let (bytes, mapped, _reader) = aside.join()??;
        let legal = [file.generation(1), file.generation(2)];
        fixture.judge("reader during the write", &bytes, AT as u64, &legal);
        (mapping, waited) = (Some(mapped), waits);
    }
    let bytes = match &mapping {
        Some(mapping) if sees_mapping => mapping.load(AT, PART),
        _ if sees_mapping => Mapping::private(&reader, LEN)?.load(AT, PART),
        _ => fixture.read(&reader, AT as u64, PART)?.map_err(anyhow::Error::from)?,
    };
    fixture.judge("reader after the write", &bytes, AT as u64, &[file.generation(2)]);
    if let Some(place) = waited
        && fixture.faults.is_empty()
    {
        return Err(serialised(format!(
            "a reader waited until the direct write was over: {place}"
        )));
    }
    Ok(())
}
