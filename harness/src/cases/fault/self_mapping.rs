//! FT2: direct I/O between a file and a mapping of itself, with the mapping's fault parked.
//!
//! It may move all, some or nothing (EFAULT), but it must return when the fault does, and what it says that it
//! moved must be there (xfstests generic/647 and generic/729, made deterministic).

use std::os::fd::AsRawFd;

use inflight_gate::Phase;
use nix::errno::Errno;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io, Way};
use crate::kit::mapping::Mapping;
use crate::kit::memory::PAGE;
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "FT2",
    name: "self-mapping",
    claim: "direct I/O between a file and a mapping of itself ends, and moves what it says",
    groups: &["fault", "mmap"],
    reach: Reach::Gated,
    variants: || {
        let with =
            |act: &'static str| [Engine::Pread, Engine::Uring].map(|e| Variant::new(act).engine(e));
        ["read", "write"].into_iter().flat_map(with).collect()
    },
    run,
    expected: &[],
};

/// I/O goes to or from the first page, memory is the mapping's third.
const AT: usize = 2 * PAGE;
const LEN: usize = 4 * PAGE;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let direct = fixture.open(&file, Open::Direct)?;
    let handle = fixture.open(&file, Open::Buffered)?;
    let mapping = Mapping::shared(&handle, LEN)?;
    let way = if variant.act == "read" { Way::Read } else { Way::Write };
    // Without the race the page is there already.
    let parked = if fixture.race() {
        Some(fixture.park("read", &file, (AT as u64, PAGE as u64), Phase::Received)?)
    } else {
        mapping.load(AT, 1);
        None
    };
    let memory = mapping.address(AT);
    let io = Io { fd: direct.as_raw_fd(), way, memory, len: PAGE, offset: 0 };
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    if let Some(parked) = parked {
        fixture.meet(parked, 1)?;
        fixture.release(parked)?;
    }
    let moved = match fixture.finish(flight)? {
        Ok(count) if count <= PAGE => count,
        Err(Errno::EFAULT) => 0,
        other => {
            fixture.fault(Class::Errno, format!("returned {other:?}, must be a count or EFAULT"));
            return Ok(());
        }
    };
    fixture.note(format!("{moved} bytes were moved"));
    let first = mapping.load(0, PAGE);
    let third = mapping.load(AT, PAGE);
    // A read brings the first page's bytes to the third, a write the third's to the first.
    let (source, target, from, to) = match way {
        Way::Read => (first, third, 0, AT),
        Way::Write => (third, first, AT, 0),
    };
    fixture.judge("the source", &source, from as u64, &[file.generation(1)]);
    fixture.judge("what was moved", &target[..moved], from as u64, &[file.generation(1)]);
    fixture.judge("what was not", &target[moved..], (to + moved) as u64, &[file.generation(1)]);
    Ok(())
}
