//! FA2: which calls take page pins (FOLL_PIN), by the kernel's own count.
//!
//! A call that pins adds a page's worth to `nr_foll_pin_acquired` for every page; one that takes plain references (FOLL_GET),
//! or none, adds nothing. The zero page is not counted since 6.5 (c8070b787519).

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;

use anyhow::Context;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};

use super::{Row, V6_5, V6_9, by_itself, fact, scsi, sockets};
use crate::cases::case::{Case, Reach};
use crate::cases::expect::EVER;
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Stamped, forget_pages};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Engines, Io, Way};
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::pins::{self, Taken};
use crate::kit::pipe::Pipe;
use crate::kit::seen::Seen;
use crate::kit::verdict::not_run;
use crate::target::Target;

pub const CASE: Case = Case {
    id: "FA2",
    name: "pins-taken",
    claim: "a call that moves data pins the program's pages where this kernel is known to, and nowhere else",
    groups: &["facts"],
    reach: Reach::Any,
    variants,
    run: by_itself,
    expected: &[],
};

const PINNED: &[Row] = &[("*", EVER, "pinned")];
const NOT_PINNED: &[Row] = &[("*", EVER, "not pinned")];
/// Since "block: Use page pinning".
const PINNED_SINCE_6_5: &[Row] = &[("*", EVER, "not pinned"), ("*", V6_5, "pinned")];
/// The same, and "fuse: Fix missing FOLL_PIN for direct-io", 738adade96b2.
const DIRECT: &[Row] = &[
    ("ext4|vfat|inflight", EVER, "not pinned"),
    ("ext4|vfat", V6_5, "pinned"),
    ("inflight", V6_9, "pinned"),
];
/// 6.1.192 does not count the zero page either, as a back-port or for another reason.
const ZERO: &[Row] = &[("*", EVER, "pinned|not pinned"), ("*", V6_5, "not pinned")];

fn variants() -> Vec<Variant> {
    let anon = || Buffer::new(Memory::Anon, LEN);
    let zero = || Buffer::new(Memory::Zero, LEN);
    vec![
        fact("direct-read", move |fixture| direct(fixture, Way::Read, &anon()?).map(first), DIRECT),
        fact(
            "direct-write",
            move |fixture| direct(fixture, Way::Write, &anon()?).map(first),
            DIRECT,
        ),
        fact("fixed-read", fixed_read, &[("ext4", EVER, "not pinned")]),
        fact("direct-splice", direct_splice, &[("ext4", EVER, "not pinned")]),
        fact("uncached-read", uncached_read, &[("inflight", EVER, "not pinned")]),
        fact("zero-page-write", zero_page_write, &[("ext4|inflight", EVER, "not pinned")]),
        fact("registration", |_| registration(), PINNED),
        fact("process-vm", move |_| remote_read(&anon()?), PINNED),
        fact("process-vm-zero", move |_| remote_read(&zero()?), ZERO),
        fact("vmsplice", |_| vmsplice(), NOT_PINNED),
        fact("xdp-umem", |_| sockets::xdp(), PINNED),
        fact("zerocopy-send", |_| sockets::zerocopy(), NOT_PINNED),
        fact("alg-hash", |_| sockets::alg(), PINNED_SINCE_6_5),
        fact("scsi-read", |_| scsi::command(), PINNED_SINCE_6_5),
    ]
}

/// Pages that one call is asked to move.
pub(super) const PAGES: usize = 1024;
const LEN: usize = PAGES * PAGE;
/// What part of them one call moves, where it cannot take all.
pub(super) const PART: usize = 16 * PAGE;

/// Counts the pins of a call that moves [`PAGES`]: `pinned` or `not pinned`.
///
/// # Errors
/// The call's own, a kernel without the counters, or NOTRUN: the count is the whole machine's, and others pin as much.
pub(super) fn counted(call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Seen> {
    let (word, pins) = match pins::taken_by(PAGES, call)? {
        Taken::AtMost(pins) => ("not pinned", pins),
        Taken::Pages(pins) => ("pinned", pins),
        Taken::Unknown(others) => {
            return Err(not_run(format!(
                "the kernel counts everybody's pins, and others pin {others} pages and more in the time of a call; \
                 ask again when it is quiet"
            )));
        }
    };
    Ok(Seen::new(word, format!("{pins} pins counted for {PAGES} pages")))
}

/// A file of [`LEN`] bytes on a target whose server pins nothing itself.
fn file(fixture: &mut Fixture<'_>) -> anyhow::Result<Stamped> {
    const WITHOUT: &str = "read=buffered,write=buffered";
    let is_ours =
        fixture.mounted().is_gated() && !matches!(fixture.mounted().target(), Target::Server(_));
    if is_ours && !WITHOUT.split(',').all(|option| fixture.has(option)) {
        return Err(not_run(format!(
            "the server's own pins would be counted too: ask with -o {WITHOUT}"
        )));
    }
    fixture.file(LEN as u64)
}

fn transfer(engines: &mut Engines, engine: Engine, io: Io) -> anyhow::Result<()> {
    let flight = engines.start(engine, io)?;
    let done = engines.finish(flight, bound())?;
    anyhow::ensure!(done == Ok(io.len), "{:?} of {} bytes returned {done:?}", io.way, io.len);
    Ok(())
}

/// O_DIRECT to or from user memory (an iterator that is user-backed); also gives the file.
fn direct(fixture: &mut Fixture<'_>, way: Way, buffer: &Buffer) -> anyhow::Result<(Seen, Stamped)> {
    let file = file(fixture)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let mut engines = Engines::default();
    let io = match way {
        Way::Read => Io::read(&handle, buffer, 0..LEN, 0),
        Way::Write => Io::write(&handle, buffer, 0..LEN, 0),
    };
    Ok((counted(|| transfer(&mut engines, Engine::Pread, io))?, file))
}

fn first((seen, _): (Seen, Stamped)) -> Seen {
    seen
}

/// From memory that nobody stored to: are those pages (all the zero page) pinned? The file must get zeroes.
fn zero_page_write(fixture: &mut Fixture<'_>) -> anyhow::Result<Seen> {
    let (seen, file) = direct(fixture, Way::Write, &Buffer::new(Memory::Zero, LEN)?)?;
    let bytes = std::fs::read(&file.path).context("read")?;
    fixture.judge("the file", &bytes, 0, &[file.hole()]);
    Ok(seen)
}

/// Into a registered buffer, which is pinned already: the read itself (a BVEC) adds none.
fn fixed_read(fixture: &mut Fixture<'_>) -> anyhow::Result<Seen> {
    let file = file(fixture)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let (buffer, mut engines) = (Buffer::new(Memory::Anon, LEN)?, Engines::default());
    engines.pin(buffer.ptr(), buffer.len())?;
    let io = Io::read(&handle, &buffer, 0..LEN, 0);
    counted(|| transfer(&mut engines, Engine::Fixed, io))
}

/// A splice from an O_DIRECT file: the kernel's own pages (a BVEC), nothing to pin.
fn direct_splice(fixture: &mut Fixture<'_>) -> anyhow::Result<Seen> {
    let file = file(fixture)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let mut pipe = Pipe::new()?;
    counted(|| {
        for at in (0..LEN).step_by(PART) {
            let count = pipe.fill(&handle, Some(at as i64), PART).context("splice")?;
            anyhow::ensure!(count > 0, "splice returned nothing");
            pipe.drain()?;
        }
        Ok(())
    })
}

/// A read that the page cache cannot answer, so that the server copies into the kernel's pages.
fn uncached_read(fixture: &mut Fixture<'_>) -> anyhow::Result<Seen> {
    let file = file(fixture)?;
    let (handle, mut bytes) = (File::open(&file.path)?, vec![0; LEN]);
    counted(|| {
        forget_pages(&handle)?;
        handle.read_exact_at(&mut bytes, 0).context("read")
    })
}

/// Registering a buffer with io_uring: FOLL_PIN|FOLL_LONGTERM for as long as it is registered.
fn registration() -> anyhow::Result<Seen> {
    let (buffer, mut engines) = (Buffer::new(Memory::Anon, LEN)?, Engines::default());
    counted(|| {
        engines.pin(buffer.ptr(), buffer.len())?;
        engines.unregister()
    })
}

/// process_vm_readv(2) from our own memory: the remote side is pinned while it is copied.
fn remote_read(buffer: &Buffer) -> anyhow::Result<Seen> {
    let mut copy = vec![0; LEN];
    let remote = [RemoteIoVec { base: buffer.ptr() as usize, len: LEN }];
    counted(|| {
        let local = &mut [IoSliceMut::new(&mut copy)];
        let count = process_vm_readv(nix::unistd::Pid::this(), local, &remote);
        let count = count.map_err(|errno| not_run(format!("process_vm_readv: {errno}")))?;
        anyhow::ensure!(count == LEN, "process_vm_readv returned {count}");
        Ok(())
    })
}

/// vmsplice(2): plain references, for as long as the pipe holds the pages.
fn vmsplice() -> anyhow::Result<Seen> {
    let buffer = Buffer::new(Memory::Anon, PART)?;
    let mut pipe = Pipe::new()?;
    counted(|| {
        for _ in 0..LEN / PART {
            pipe.gift(buffer.ptr(), PART).context("vmsplice")?;
            pipe.drain()?;
        }
        Ok(())
    })
}
