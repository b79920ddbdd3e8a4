//! IV1: a direct write in flight while a buffered reader fills the page cache with what the write replaces.
//!
//! The write is parked before it is applied, so the reader gets the old data, rightly. When the write has
//! completed, the page cache must not keep it: the kernel has to invalidate at completion, not only before.

use inflight::gate::Phase;

use crate::case::{Case, Reach};
use crate::engine::{Engine, Io};
use crate::event::Actor;
use crate::expect::{EVER, Expected, Fixed};
use crate::kernel::Version;
use crate::mapping::Mapping;
use crate::memory::{Buffer, Memory};
use crate::scene::{Open, Scene};
use crate::variant::Variant;
use crate::verdict::Class;

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
            on: "inflight",
            variant: "async/aio|async/uring",
            classes: &[Class::Stale],
            since: EVER,
            until: Some(Version(7, 1, 0)),
            fixed_in: &[],
            reference: "fuse: invalidate page cache after async direct write, 4c4c472d25f5",
        },
        Expected {
            on: "inflight",
            variant: "async/uring/direct_io",
            classes: &[Class::Stale],
            since: EVER,
            until: Some(Version(7, 1, 0)),
            fixed_in: &[Fixed::From(Version(6, 12, 117))],
            reference: "fuse: invalidate page cache after async direct write, 4c4c472d25f5",
        },
        Expected {
            on: "inflight",
            variant: "sync/*/direct_io",
            classes: &[Class::Stale],
            since: EVER,
            until: Some(Version(6, 18, 0)),
            fixed_in: &[Fixed::From(Version(6, 12, 117))],
            reference: "fuse: invalidate page cache after direct write, b359af8275a9",
        },
    ],
};

fn variants() -> Vec<Variant> {
    vec![
        Variant::new("async").engine(Engine::Aio),
        Variant::new("async").engine(Engine::Uring),
        Variant::new("async").engine(Engine::Uring).mount("direct_io"),
        Variant::new("sync").engine(Engine::Pread),
        Variant::new("sync").engine(Engine::Preadv),
        Variant::new("sync").engine(Engine::Pread).mount("direct_io"),
    ]
}

const LEN: usize = 16384;
/// The part that is written: one page, inside the file.
const AT: usize = 4096;
const PART: usize = 4096;

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = scene.file(LEN as u64)?;
    let direct = scene.open(&file, Open::Direct)?;
    let reader = scene.open(&file, Open::Buffered)?;
    // Where read(2) bypasses the cache, only a mapping sees it.
    let mapping = Mapping::private(&reader, LEN)?;
    let buffer = Buffer::new(Memory::Anon, PART)?;
    buffer.write(0, &file.content(2, AT as u64, PART));

    let parked = scene.park("write", &file, (AT as u64, PART as u64), Phase::Received)?;
    let io = Io::write(&direct, &buffer, 0..PART, AT as u64);
    let flight = scene.start(variant.engine_or_pread(), io)?;
    scene.meet(parked, 1)?;

    let sees_mapping = variant.has("direct_io");
    let look = move |mapping: &Mapping| mapping.load(AT, PART);
    let mut mapping = Some(mapping);
    if scene.race() {
        scene.event(Actor::Racer, "buffered read");
        let bytes = if sees_mapping {
            let mapped = mapping.take().expect("not taken yet");
            let fault = scene.aside("fault", move || (look(&mapped), mapped))?;
            let (bytes, mapped) = fault.join()?;
            mapping = Some(mapped);
            bytes
        } else {
            scene.read(&reader, AT as u64, PART)?.map_err(anyhow::Error::from)?
        };
        scene.judge("reader during the write", &bytes, AT as u64, &[file.generation(1)]);
    }

    scene.release(parked)?;
    let done = scene.finish(flight)?;
    scene.count("the write", done, PART);
    let bytes = match &mapping {
        Some(mapping) if sees_mapping => look(mapping),
        _ => scene.read(&reader, AT as u64, PART)?.map_err(anyhow::Error::from)?,
    };
    scene.judge("reader after the write", &bytes, AT as u64, &[file.generation(2)]);
    Ok(())
}
