//! RN1: FUSE_NOTIFY_RETRIEVE has the kernel send its page cache of a file that is being truncated, written or dropped.
//!
//! The kernel takes references to the pages, without their locks, when the notification comes, and copies them when the server
//! reads the NOTIFY_REPLY (fuse_retrieve() in fs/fuse/dev.c). In between (`queued`) they may leave the file. Whatever happens,
//! what comes are the file's bytes of before or after, or zeroes; and when the change is over nothing of before is left.

use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Stamped, forget_pages};
use crate::kit::mapping::Mapping;
use crate::kit::memory::PAGE;
use crate::kit::stamp::Legal;
use crate::kit::verdict::{Class, Stop};

pub const CASE: Case = Case {
    id: "RN1",
    name: "retrieve-notify",
    claim: "what a server retrieves from the page cache are the file's own bytes, of before or after what is done to it meanwhile",
    groups: &["quick", "notify"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for phase in [Phase::Received, Phase::Applied] {
        all.push(Variant::new("truncate").phase(phase));
        all.push(Variant::new("write").phase(phase));
    }
    all.push(Variant::new("write").phase(Phase::Copying));
    // The reply itself is held, with the pages.
    all.push(Variant::new("store").phase(Phase::Queued).fresh());
    all.push(Variant::new("drop").phase(Phase::Queued).fresh());
    all
}

const LEN: usize = 8 * PAGE;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    fixture.needs_notices()?;
    let file = fixture.file(LEN as u64)?;
    // While nothing is received nobody can be asked for it.
    let node = fixture.node(std::fs::metadata(&file.path)?.ino())?;
    match variant.act {
        "truncate" => truncate(fixture, variant, &file, node),
        "write" => write(fixture, variant, &file, node),
        _ => queued(fixture, variant, &file, node),
    }
}

/// Retrieves the file and judges what came, which begins where the file does. Says how much it was.
fn retrieve(fixture: &mut Fixture<'_>, node: u64, legal: &[Legal]) -> anyhow::Result<usize> {
    let number = fixture.retrieve(node, 0, LEN)?;
    let bytes = fixture.retrieved(number)?;
    fixture.judge("what the server retrieved", &bytes, 0, legal);
    Ok(bytes.len())
}

/// The same of what was read just now. Nothing is judged where nothing is cached any more.
fn retrieve_cached(fixture: &mut Fixture<'_>, node: u64, legal: &[Legal]) -> anyhow::Result<()> {
    match retrieve(fixture, node, legal)? {
        LEN => Ok(()),
        0 if fixture.race() => {
            fixture.note("the page cache had lost what was read just before");
            Ok(())
        }
        count => Err(Stop::Broken(format!("{count} of {LEN} cached bytes were retrieved")).into()),
    }
}

fn truncate(
    fixture: &mut Fixture<'_>,
    variant: &Variant,
    file: &Stamped,
    node: u64,
) -> anyhow::Result<()> {
    let handle = fixture.open(file, Open::Buffered)?;
    let other = fixture.open(file, Open::Buffered)?;
    fixture.read(&handle, 0, LEN)?.map_err(anyhow::Error::from)?;
    retrieve_cached(fixture, node, &[file.generation(1)])?;
    if !fixture.race() {
        return Ok(());
    }
    let phase = variant.phase_or_received();
    let parked = fixture.park_with("setattr", file, phase, |rule| rule.count(1))?;
    let cut = fixture.aside("ftruncate", move || nix::unistd::ftruncate(other.as_fd(), 0))?;
    fixture.meet(parked, 1)?;
    retrieve(fixture, node, &[file.generation(1), file.hole()])?;
    fixture.release(parked)?;
    cut.join()??;
    nix::unistd::ftruncate(handle.as_fd(), LEN as i64)?;
    let bytes = fixture.read(&handle, 0, LEN)?.map_err(anyhow::Error::from)?;
    fixture.count("the read", Ok(bytes.len()), LEN);
    retrieve_cached(fixture, node, &[file.hole()])
}

fn write(
    fixture: &mut Fixture<'_>,
    variant: &Variant,
    file: &Stamped,
    node: u64,
) -> anyhow::Result<()> {
    let reader = fixture.open(file, Open::Buffered)?;
    let direct = fixture.open(file, Open::Direct)?;
    let phase = variant.phase_or_received();
    let parked = fixture.park("write", file, (0, LEN as u64), phase)?;
    let content = file.content(2, 0, LEN);
    let write = fixture.aside("a direct write", move || direct.write_all_at(&content, 0))?;
    fixture.meet(parked, 1)?;
    if fixture.race() {
        // The kernel dropped the pages before it sent the write: a reader fills them again, with what the server has.
        fixture.read(&reader, 0, LEN)?.map_err(anyhow::Error::from)?;
        retrieve_cached(fixture, node, &[file.generation(1), file.generation(2)])?;
    }
    fixture.release(parked)?;
    write.join()??;
    // What is cached still, if anything is.
    let new = [file.generation(2)];
    retrieve(fixture, node, &new)?;
    let bytes = fixture.read(&reader, 0, LEN)?.map_err(anyhow::Error::from)?;
    fixture.judge("the page cache", &bytes, 0, &new);
    retrieve_cached(fixture, node, &new)
}

/// What happens to the pages needs no request, while the reply that has them is read by nobody.
fn queued(
    fixture: &mut Fixture<'_>,
    variant: &Variant,
    file: &Stamped,
    node: u64,
) -> anyhow::Result<()> {
    let handle = fixture.open(file, Open::Buffered)?;
    let mapping = Mapping::shared(&handle, LEN)?;
    // Present, and writable: from here on a store asks nobody.
    let first = file.content(1, 0, LEN);
    mapping.store(0, &first);
    handle.sync_all()?;
    mapping.store(0, &first);
    let stores = variant.act == "store";
    let held = stores.then_some(mapping);
    if !stores {
        handle.sync_all()?;
        fixture.read(&handle, 0, LEN)?.map_err(anyhow::Error::from)?;
    }
    let parked = fixture.park_with("notify_reply", file, Phase::Queued, |rule| rule)?;
    let number = fixture.retrieve(node, 0, LEN)?;
    fixture.meet(parked, 1)?;
    let mut legal = vec![file.generation(1)];
    if fixture.race() {
        match &held {
            Some(mapping) => {
                mapping.store(0, &file.content(2, 0, LEN));
                legal.push(file.generation(2));
            }
            None => forget_pages(&handle)?,
        }
    }
    fixture.release(parked)?;
    let bytes = fixture.retrieved(number)?;
    if bytes.len() != LEN {
        let text = format!("{} of {LEN} bytes came that were cached", bytes.len());
        fixture.fault(Class::Short, text);
    }
    fixture.judge("what the server retrieved", &bytes, 0, &legal);
    drop(held);
    Ok(())
}
