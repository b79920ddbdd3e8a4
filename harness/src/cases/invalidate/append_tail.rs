//! IV2: an O_APPEND direct write behind a cached tail page.
//!
//! The last page of the file is in the page cache, zeroes behind the end. A direct append goes to the server;
//! the range that the kernel invalidates must be the one that was written, not the position before it.

use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context;

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{Expected, Must, Seen};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::kernel::Version;
use crate::kit::mapping::Mapping;
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::verdict::{Class, not_run};

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
        variant: "*",
        option: "direct_io",
        seen: &[Seen::Words(Class::Lost, "mapping after: * are zero; legal: *")],
        until: Some(Version(6, 12, 0)),
        must: Must::Series(&[(5, 10), (6, 1)]),
        reference: "a FOPEN_DIRECT_IO file keeps the page behind which it is appended; seen on 5.10.262 and 6.1.192, ok on 6.12.117",
        ..Expected::ALWAYS
    }],
};

fn variants() -> Vec<Variant> {
    vec![Variant::new("append"), Variant::new("append").mount("direct_io")]
}

/// The file ends in the middle of a page, where the next block of a direct write begins.
const LEN: usize = 1024;
const MORE: usize = 512;

fn run(fixture: &mut Fixture<'_>, _: &Variant) -> anyhow::Result<()> {
    if fixture.grain() > MORE {
        return Err(not_run("the target writes so little through its page cache"));
    }
    let file = fixture.file(LEN as u64)?;
    let reader = fixture.open(&file, Open::Buffered)?;
    // Before the page is cached: opening a FOPEN_DIRECT_IO file empties the cache. Such a file needs no flag.
    let flag = if fixture.has("direct_io") { 0 } else { libc::O_DIRECT };
    let mut options = std::fs::OpenOptions::new();
    let writer = options.append(true).custom_flags(libc::O_CLOEXEC | flag).open(&file.path);
    let writer = match writer {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            return Err(not_run("the target refuses O_DIRECT"));
        }
        other => other.context("open for appending")?,
    };
    let mapping = Mapping::private(&reader, 4096)?;
    if fixture.race() {
        fixture.event(Actor::Racer, "the tail page is cached");
        let bytes = mapping.load(0, LEN);
        fixture.judge("mapping before", &bytes, 0, &[file.generation(1)]);
    }
    fixture.event(Actor::Test, "append");
    let buffer = Buffer::new(Memory::Anon, PAGE)?;
    buffer.write(0, &file.content(1, LEN as u64, MORE));
    let done = fixture.transfer(Engine::Pread, Io::write(&writer, &buffer, 0..MORE, LEN as u64))?;
    if fixture.count("append", done, MORE) {
        let bytes = mapping.load(0, LEN + MORE);
        fixture.judge("mapping after", &bytes, 0, &[file.generation(1)]);
    }
    Ok(())
}
