//! IV3: a store behind the end of a mapped file, then an extension over it.
//!
//! A program may store to the rest of the last page; POSIX says that it is never part of the file. When the
//! file grows past it, by write, truncate or fallocate, that part must read as zeroes.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use anyhow::Context;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{Expected, Fixed, Must, Seen};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::event::Actor;
use crate::kit::kernel::Version;
use crate::kit::mapping::Mapping;
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "IV3",
    name: "tail-junk",
    claim: "what was stored behind the end of a mapped file is zero when the file grows over it",
    groups: &["quick", "invalidate", "mmap"],
    reach: Reach::Any,
    variants: || ["write", "truncate", "fallocate"].map(Variant::new).into(),
    run,
    expected: &[
        Expected {
            on: "inflight|server",
            variant: "truncate|fallocate",
            seen: &[Seen::Words(Class::Foreign, JUNK_SEEN)],
            until: Some(Version(7, 3, 0)),
            must: Must::Series(&[(5, 10), (6, 1), (6, 18), (7, 2)]),
            fixed_in: &[Fixed::From(Version(6, 12, 117))],
            reference: "fuse: zero the EOF tail, 34b5c4a6e4fb",
            ..Expected::ALWAYS
        },
        Expected {
            on: "inflight|server",
            variant: "write",
            seen: &[Seen::Words(Class::Foreign, JUNK_SEEN)],
            must: Must::Series(&[(5, 10), (6, 1), (6, 12), (6, 18), (7, 2), (7, 3)]),
            reference: "fuse: zero the EOF tail, 34b5c4a6e4fb; 6.12.117 and 7.3.4 have it for truncate and fallocate only",
            ..Expected::ALWAYS
        },
        Expected {
            on: "tmpfs|overlay",
            variant: "*",
            seen: &[Seen::Words(Class::Foreign, JUNK_SEEN)],
            must: Must::Series(&[(5, 10), (6, 1), (6, 12), (6, 18), (7, 2)]),
            reference: "tmpfs does not zero behind the end; seen on 5.10 to 7.2",
            ..Expected::ALWAYS
        },
        Expected {
            on: "ext4",
            variant: "*",
            seen: &[Seen::Words(Class::Foreign, JUNK_SEEN)],
            // Of what lies between 6.12.117, which fails, and 6.16.12, which does not, nothing was run.
            until: Some(Version(6, 16, 0)),
            must: Must::Series(&[(5, 10), (6, 1), (6, 12)]),
            reference: "ext4: partial zero eof block on unaligned inode size extension, c7fc0366c656; 6.12.117 zeroes to the end of the block, which here is smaller than a page",
            ..Expected::ALWAYS
        },
    ],
};

const LEN: usize = 100;
/// The same, as a judge tells of it.
const JUNK_SEEN: &str = "behind the old end: * unknown (4242424242424242); legal: zero*";
const JUNK: [u8; 1000] = [0x42; 1000];

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Buffered)?;
    let mapping = Mapping::shared(&handle, 4096)?;
    let bytes = mapping.load(0, LEN);
    fixture.judge("before", &bytes, 0, &[file.generation(1)]);
    if fixture.race() {
        fixture.event(Actor::Racer, "store behind the end");
        mapping.store(2000, &JUNK);
    }
    fixture.event(Actor::Test, variant.act);
    match variant.act {
        "write" => handle.write_all_at(&file.content(1, 8192, 512), 8192).context("write")?,
        "truncate" => nix::unistd::ftruncate(handle.as_fd(), 12288).context("ftruncate")?,
        _ => match fallocate(handle.as_fd(), FallocateFlags::empty(), 0, 12288) {
            Err(nix::errno::Errno::EOPNOTSUPP) => {
                return Err(crate::kit::verdict::not_run("the target has no fallocate"));
            }
            other => other.context("fallocate")?,
        },
    }
    let bytes = fixture.read(&handle, 0, 8192)?.map_err(anyhow::Error::from)?;
    if fixture.count("read", Ok(bytes.len()), 8192) {
        fixture.judge("the file", &bytes[..LEN], 0, &[file.generation(1)]);
        fixture.judge("behind the old end", &bytes[LEN..], LEN as u64, &[file.hole()]);
    }
    Ok(())
}
