//! NS1: FUSE_NOTIFY_STORE puts data into the page cache while the same pages are written back, or cut off.
//!
//! A server that stores while the kernel writes the page back may find either data in the WRITE, page by page; but the
//! pages stay pages of the file, and what is written to them later arrives. What is stored while a truncate is in flight
//! is cut off with the rest, and does not come back when the file grows again.

use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::Context;
use inflight_gate::{Notice, Notified, Phase};

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Stamped, forget_pages};
use crate::kit::memory::PAGE;
use crate::kit::stamp::Legal;
use crate::kit::verdict::{Class, Stop, not_run};
use crate::target::Target;

pub const CASE: Case = Case {
    id: "NS1",
    name: "store-notify",
    claim: "data that a server stores in the page cache neither outlives a truncate in flight nor keeps what is written later from the file",
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
        all.push(Variant::new("write-back").phase(phase));
    }
    all.push(Variant::new("write-back").phase(Phase::Queued).fresh());
    all.push(Variant::new("write-back").phase(Phase::Copying));
    all
}

const LEN: usize = 4 * PAGE;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    fixture.needs_notices()?;
    let file = fixture.file(LEN as u64)?;
    match variant.act {
        "truncate" => truncate(fixture, variant, &file),
        _ => write_back(fixture, variant, &file),
    }
}

/// Stores generation 3 of a page.
fn store(fixture: &mut Fixture<'_>, file: &Stamped, ino: u64, at: u64) -> anyhow::Result<()> {
    let notice = Notice::Store { ino, offset: at, data: file.content(3, at, PAGE) };
    match fixture.notify(notice)? {
        Notified { is_over: true, errno: None } => {}
        Notified { is_over: false, .. } => {
            let text = "the notification waited until the request was over".to_owned();
            fixture.held_back.get_or_insert(text);
        }
        other => return Err(Stop::Broken(format!("FUSE_NOTIFY_STORE: {other:?}")).into()),
    }
    Ok(())
}

fn truncate(fixture: &mut Fixture<'_>, variant: &Variant, file: &Stamped) -> anyhow::Result<()> {
    let handle = fixture.open(file, Open::Buffered)?;
    let other = fixture.open(file, Open::Buffered)?;
    let ino = fixture.node(handle.metadata()?.ino())?;
    // The pages are there.
    fixture.read(&handle, 0, LEN)?.map_err(anyhow::Error::from)?;
    let phase = variant.phase_or_received();
    let parked = fixture.park_with("setattr", file, phase, |rule| rule.count(1))?;
    let cut = fixture.aside("ftruncate", move || nix::unistd::ftruncate(other.as_fd(), 0))?;
    fixture.meet(parked, 1)?;
    if fixture.race() {
        store(fixture, file, ino, PAGE as u64)?;
    }
    fixture.release(parked)?;
    cut.join()??;
    let size = handle.metadata()?.len();
    if size != 0 {
        fixture.fault(Class::Short, format!("fstat says {size} after the truncate, must be 0"));
    }
    nix::unistd::ftruncate(handle.as_fd(), LEN as i64)?;
    let hole: &[Legal] = &[file.hole()];
    let bytes = fixture.read(&handle, 0, LEN)?.map_err(anyhow::Error::from)?;
    fixture.count("the read", Ok(bytes.len()), LEN);
    fixture.judge("the page cache", &bytes, 0, hole);
    let direct = fixture.open(file, Open::Direct)?;
    let bytes = fixture.read(&direct, 0, LEN)?.map_err(anyhow::Error::from)?;
    fixture.judge("the file", &bytes, 0, hole);
    Ok(())
}

fn write_back(fixture: &mut Fixture<'_>, variant: &Variant, file: &Stamped) -> anyhow::Result<()> {
    let is_own = *fixture.mounted().target() == Target::Inflight;
    if !is_own || fixture.has("nowriteback") {
        return Err(not_run("the kernel does not gather writes here: nothing is written back"));
    }
    let handle = fixture.open(file, Open::Buffered)?;
    let other = handle.try_clone()?;
    let ino = fixture.node(handle.metadata()?.ino())?;
    let phase = variant.phase_or_received();
    let write = || handle.write_all_at(&file.content(2, 0, LEN), 0).context("write");
    // The kernel writes back when it likes, so the rule is there before; but at `queued` it would hold what write(2) asks for.
    let is_last = phase == Phase::Queued;
    if is_last {
        write()?;
    }
    let parked = fixture.park("write", file, (0, LEN as u64), phase)?;
    if !is_last {
        write()?;
    }
    let sync = fixture.aside("fsync", move || other.sync_all())?;
    fixture.meet(parked, 1)?;
    let at = (LEN - PAGE) as u64;
    if fixture.race() {
        store(fixture, file, ino, at)?;
    }
    fixture.release(parked)?;
    sync.join()?.context("fsync")?;
    let either: &[Legal] = match fixture.race() {
        true => &[file.generation(2), file.generation(3)],
        false => &[file.generation(2)],
    };
    let cached = fixture.read(&handle, 0, LEN)?.map_err(anyhow::Error::from)?;
    fixture.judge("the page cache", &cached, 0, either);
    let direct = fixture.open(file, Open::Direct)?;
    let bytes = fixture.read(&direct, 0, LEN)?.map_err(anyhow::Error::from)?;
    fixture.judge("the file", &bytes, 0, either);
    if cached != bytes {
        fixture.note("the server stored what it did not have: page cache and file differ");
    }
    // Nothing keeps a later write from the file.
    handle.write_all_at(&file.content(4, 0, LEN), 0).context("write")?;
    handle.sync_all().context("fsync")?;
    let bytes = fixture.read(&direct, 0, LEN)?.map_err(anyhow::Error::from)?;
    fixture.judge("the file, written again", &bytes, 0, &[file.generation(4)]);
    forget_pages(&handle)?;
    let bytes = fixture.read(&handle, 0, LEN)?.map_err(anyhow::Error::from)?;
    fixture.judge("the page cache, filled again", &bytes, 0, &[file.generation(4)]);
    Ok(())
}
