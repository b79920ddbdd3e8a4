//! TR2: truncate to nothing while a direct write inside the file is in flight.
//!
//! The write was sent when it did not extend the file, so the kernel will not touch the size when it completes.
//! The truncate is answered first; then the server applies the write, which now extends the file. If the
//! kernel's size stays 0 while the server's is not, stat and read lie until the attributes time out.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{Expected, Must, Seen};
use crate::cases::variant::Variant;
use crate::fixture::{Change, Fixture, Open, Order};
use crate::kit::engine::{Engine, Io, Way};
use crate::kit::memory::{Buffer, Memory};
use crate::kit::stamp::Legal;
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "TR2",
    name: "truncate-write",
    claim: "size and data agree with one order of a truncate and a direct write that was in flight",
    groups: &["quick", "truncate"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[
        Expected {
            on: "inflight|server",
            variant: "async/aio/received|async/uring/received",
            seen: &[SIZE],
            must: Must::Series(&[(5, 10), (6, 1), (6, 12), (6, 18), (7, 2)]),
            reference: "harness/findings/truncate-async-write.md",
            ..Expected::ALWAYS
        },
        // With writeback the size is the kernel's own, and no timeout makes it ask.
        Expected {
            on: "inflight|server",
            variant: "async/uring/copying|async/uring/transport=uring|async/uring/received/attr_timeout=0",
            seen: &[SIZE],
            must: Must::Series(&[(6, 18)]),
            reference: "harness/findings/truncate-async-write.md",
            ..Expected::ALWAYS
        },
    ],
};

/// The size that the truncate left, and no later one.
const SIZE: Seen = Seen::Words(
    Class::Short,
    "fstat says 0, read returns 0, must be [12288]|fstat says 0, read returns 12288, must be [12288]",
);

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for phase in [Phase::Received, Phase::Applied] {
        for engine in [Engine::Aio, Engine::Uring] {
            all.push(Variant::new("async").engine(engine).phase(phase));
        }
        all.push(Variant::new("sync").engine(Engine::Pread).phase(phase));
    }
    all.push(Variant::new("async").engine(Engine::Uring).phase(Phase::Copying));
    for options in ["attr_timeout=0", "attr_timeout=0,nowriteback"] {
        let asks = Variant::new("async").engine(Engine::Uring).phase(Phase::Received);
        all.push(asks.mount(options));
    }
    all.push(Variant::new("async").engine(Engine::Uring).mount("transport=uring"));
    all
}

const LEN: usize = 16384;
const AT: usize = 8192;
const PART: usize = 4096;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let direct = fixture.open(&file, Open::Direct)?;
    let reader = fixture.open(&file, Open::Buffered)?;
    let ino = reader.metadata()?.ino();
    let buffer = Buffer::new(Memory::Anon, PART)?;
    buffer.write(0, &file.content(2, AT as u64, PART));
    let is_async = variant.act == "async";
    let phase = variant.phase_or_received();
    let parked = fixture.park("write", &file, (AT as u64, PART as u64), phase)?;
    let io = Io::write(&direct, &buffer, 0..PART, AT as u64);
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    fixture.meet(parked, 1)?;

    let mut truncate = None;
    if fixture.race() {
        let other = fixture.open(&file, Open::Buffered)?;
        let call = move || nix::unistd::ftruncate(other.as_fd(), 0);
        let fuse = fixture.mounted().target().is_fuse();
        // A synchronous write holds the inode: there the truncate is not sent before it is over.
        let mut aside = if fuse && is_async {
            fixture.change("setattr", &file, "ftruncate", call)?
        } else {
            fixture.aside("ftruncate", call)?
        };
        let may_wait = fuse && is_async;
        if !aside.settle()? && !may_wait {
            fixture.serialised(&aside);
        }
        truncate = Some(aside);
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the write", done, PART);
    if let Some(truncate) = truncate {
        truncate.join()??;
    }
    check(fixture, &file, &reader, ino)
}

fn check(
    fixture: &mut Fixture<'_>,
    file: &crate::fixture::Stamped,
    reader: &std::fs::File,
    ino: u64,
) -> anyhow::Result<()> {
    let size = reader.metadata()?.len() as usize;
    let bytes = fixture.read(reader, 0, LEN)?.map_err(anyhow::Error::from)?;
    let wanted: &[usize] = if fixture.race() { &order(fixture, ino)? } else { &[LEN] };
    if !wanted.contains(&size) || bytes.len() != size {
        let text = format!("fstat says {size}, read returns {}, must be {wanted:?}", bytes.len());
        fixture.fault(Class::Short, text);
        return Ok(());
    }
    let kept: &[Legal] = if fixture.race() { &[file.hole()] } else { &[file.generation(1)] };
    let parts = [(0, AT, kept), (AT, AT + PART, &[file.generation(2)]), (AT + PART, LEN, kept)];
    for (from, to, legal) in parts {
        let to = to.min(size);
        if from < to {
            fixture.judge("the file", &bytes[from..to], from as u64, legal);
        }
    }
    Ok(())
}

/// The sizes that the file may have: on FUSE the server's own order decides.
fn order(fixture: &mut Fixture<'_>, ino: u64) -> anyhow::Result<Vec<usize>> {
    let range = AT as u64..(AT + PART) as u64;
    Ok(match fixture.order(ino, Way::Write, range, Change::Cut)? {
        Order::Either => vec![0, AT + PART],
        Order::ChangeFirst => vec![AT + PART],
        Order::IoFirst => vec![0],
    })
}
