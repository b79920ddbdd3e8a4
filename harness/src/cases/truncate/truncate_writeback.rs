//! TR5: truncate while a page is being written back.
//!
//! A truncate must not overtake the write-back of the pages that it removes: the server would apply the write
//! after the truncate and bring the old bytes (and the old size) back.

use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::Context;
use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::verdict::{Class, not_run};

pub const CASE: Case = Case {
    id: "TR5",
    name: "truncate-writeback",
    claim: "a truncate is not sent before the write-back of what it removes is answered",
    groups: &["quick", "truncate", "writeback"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let phases = [Phase::Received, Phase::Applied];
    phases.map(|phase| Variant::new("truncate").phase(phase).mount("writeback")).into()
}

const LEN: usize = 16384;
const PART: usize = 4096;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    if fixture.has("direct_io") || fixture.has("nowriteback") {
        return Err(not_run("with these options a write is not over before its request is"));
    }
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Buffered)?;
    let ino = handle.metadata()?.ino();
    let parked = fixture.park("write", &file, (0, PART as u64), variant.phase_or_received())?;
    handle.write_all_at(&file.content(2, 0, PART), 0).context("dirty a page")?;
    let other = fixture.open(&file, Open::Buffered)?;
    let sync = fixture.aside("fsync", move || other.sync_all())?;
    fixture.meet(parked, 1)?;
    let truncate = if fixture.race() {
        let other = fixture.open(&file, Open::Buffered)?;
        let mut truncate = fixture.aside("ftruncate down and up", move || {
            nix::unistd::ftruncate(other.as_fd(), 0)?;
            nix::unistd::ftruncate(other.as_fd(), LEN as i64)
        })?;
        truncate.settle()?;
        Some(truncate)
    } else {
        None
    };
    fixture.release(parked)?;
    sync.join()?.context("fsync")?;
    let legal = match truncate {
        Some(truncate) => {
            truncate.join()??;
            in_order(fixture, ino)?;
            file.hole()
        }
        None => file.generation(2),
    };
    handle.sync_all().context("fsync")?;
    fixture.forget(&file)?;
    let bytes = fixture.read(&handle, 0, PART)?.map_err(anyhow::Error::from)?;
    if fixture.count("read after", Ok(bytes.len()), PART) {
        fixture.judge("read after", &bytes, 0, &[legal]);
    }
    Ok(())
}

/// The first truncate arrived at the server when the write-back was answered.
fn in_order(fixture: &mut Fixture<'_>, ino: u64) -> anyhow::Result<()> {
    let writes = fixture.requests("write", ino)?;
    let held = writes.iter().find(|record| !record.holds.is_empty());
    let truncates = fixture.requests("setattr", ino)?;
    let cut = truncates.iter().find(|record| record.size == Some(0));
    let (held, cut) = held.zip(cut).context("the write-back or the truncate is not in the log")?;
    if held.times.done.is_none_or(|done| cut.times.arrived < done) {
        let text = "SETATTR(size 0) was sent before the write-back of the page was answered";
        fixture.fault(Class::Resurrected, text);
    }
    Ok(())
}
