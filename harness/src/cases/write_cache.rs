//! IV1: a direct write in flight while a buffered reader fills the page cache with what the write replaces.
//!
//! The write is parked before it is applied, so the reader gets the old data, rightly. When the write has
//! completed, the page cache must not keep it: the kernel has to invalidate at completion, not only before.

use std::os::unix::fs::FileExt;

use inflight_gate::Phase;

use crate::case::{Case, Reach};
use crate::engine::{Engine, Io};
use crate::expect::{EVER, Expected, Fixed};
use crate::kernel::Version;
use crate::mapping::Mapping;
use crate::memory::{Buffer, Memory};
use crate::scene::{Open, Scene};
use crate::variant::Variant;
use crate::verdict::{Class, not_run};

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
            variant: "async/aio|async/uring",
            classes: &[Class::Stale],
            since: EVER,
            until: Some(Version(7, 1, 0)),
            fixed_in: &[],
            reference: "fuse: invalidate page cache after async direct write, 4c4c472d25f5",
        },
        Expected {
            on: "inflight",
            variant: "async/*/direct_io",
            classes: &[Class::Stale],
            since: EVER,
            until: Some(Version(7, 1, 0)),
            fixed_in: &[],
            reference: "fuse: invalidate page cache after async direct write, 4c4c472d25f5; seen on 6.12.117",
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
        Variant::new("async").engine(Engine::Aio).mount("direct_io"),
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
    let mut early = None;
    if scene.race() {
        let reader = reader.try_clone()?;
        let mut aside = scene.aside("buffered read", move || {
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

    scene.release(parked)?;
    let done = scene.finish(flight)?;
    scene.count("the write", done, PART);
    let (mut mapping, mut waited) = (None, None);
    if let Some((aside, waits)) = early {
        let (bytes, mapped, _reader) = aside.join()??;
        let legal = [file.generation(1), file.generation(2)];
        scene.judge("reader during the write", &bytes, AT as u64, &legal);
        (mapping, waited) = (Some(mapped), waits);
    }
    let bytes = match &mapping {
        Some(mapping) if sees_mapping => mapping.load(AT, PART),
        _ if sees_mapping => Mapping::private(&reader, LEN)?.load(AT, PART),
        _ => scene.read(&reader, AT as u64, PART)?.map_err(anyhow::Error::from)?,
    };
    scene.judge("reader after the write", &bytes, AT as u64, &[file.generation(2)]);
    if let Some(place) = waited
        && scene.faults.is_empty()
    {
        return Err(not_run(format!(
            "the target makes readers wait for a direct write, there is no such race: {place}"
        )));
    }
    Ok(())
}
