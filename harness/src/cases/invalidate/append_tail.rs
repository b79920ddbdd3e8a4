//! IV2: an O_APPEND direct write behind a cached tail page.
//!
//! The last page of the file is in the page cache, zeroes behind the end. A direct append goes to the server;
//! the range that the kernel invalidates must be the one that was written, not the position before it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context;

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{EVER, Expected};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::event::Actor;
use crate::kit::kernel::Version;
use crate::kit::mapping::Mapping;
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "IV2",
    name: "append-tail",
    claim: "a reader of the page cache sees an appended direct write, also when the tail page was cached",
    groups: &["quick", "invalidate"],
    reach: Reach::Any,
    variants,
    run,
    expected: &[Expected {
        on: "inflight",
        variant: "*direct_io",
        classes: &[Class::Lost, Class::Stale],
        since: EVER,
        until: Some(Version(6, 12, 0)),
        fixed_in: &[],
        reference: "fuse: range of an O_APPEND direct write, 26d7e1f5c407",
    }],
};

fn variants() -> Vec<Variant> {
    vec![Variant::new("append"), Variant::new("append").mount("direct_io")]
}

/// The file ends in the middle of a block and of a page.
const LEN: usize = 1000;
const MORE: usize = 512;

fn run(fixture: &mut Fixture<'_>, _: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let reader = fixture.open(&file, Open::Buffered)?;
    // Before the page is cached: opening a FOPEN_DIRECT_IO file empties the cache.
    // Unaligned O_DIRECT is refused by most block filesystems; FOPEN_DIRECT_IO needs no flag.
    let mut options = std::fs::OpenOptions::new();
    let mut writer = options.append(true).custom_flags(libc::O_CLOEXEC).open(&file.path)?;
    let mapping = Mapping::private(&reader, 4096)?;
    if fixture.race() {
        fixture.event(Actor::Racer, "the tail page is cached");
        let bytes = mapping.load(0, LEN);
        fixture.judge("mapping before", &bytes, 0, &[file.generation(1)]);
    }
    fixture.event(Actor::Test, "append");
    let count = writer.write(&file.content(1, LEN as u64, MORE)).context("append")?;
    fixture.count("append", Ok(count), MORE);
    let bytes = mapping.load(0, LEN + MORE);
    fixture.judge("mapping after", &bytes, 0, &[file.generation(1)]);
    Ok(())
}
